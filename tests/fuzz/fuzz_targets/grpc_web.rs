//! Any bytes are base64 or are not, whatever pieces they come in; what is base64 of a body reads back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_core::grpc::web::{BadText, Form, TextDecoder};

fuzz_target!(|input: (&[u8], u8)| {
    let (bytes, cut) = input;
    let piece_bytes = usize::from(cut).max(1);
    let whole = decode(std::iter::once(bytes));
    assert_eq!(decode(bytes.chunks(piece_bytes)), whole, "any split gives the same");
    if let Ok(data) = whole {
        assert!(data.len() <= bytes.len() / 4 * 3, "text is never shorter");
    }
    let text: String = bytes.chunks(piece_bytes).filter_map(|piece| Form::Text.encode(piece)).collect();
    assert_eq!(decode(std::iter::once(text.as_bytes())).as_deref(), Ok(bytes));
});

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, BadText> {
    let mut decoder = TextDecoder::default();
    let mut data = Vec::new();
    for piece in pieces {
        data.extend(decoder.decode(piece)?);
    }
    decoder.end().map(|()| data)
}
