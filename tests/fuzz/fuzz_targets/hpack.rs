//! Any bytes are a block of fields, or are none; what was decoded comes back through an encoder, whatever its table may hold.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_core::http2::hpack::{DecodeError, Decoder, Encoder, Field};

/// Blocks of one connection, with what the peer's settings say before each.
type Blocks<'a> = Vec<(u16, &'a [u8])>;
type OwnedField = (Vec<u8>, Vec<u8>, bool);

fuzz_target!(|blocks: Blocks<'_>| {
    let mut decoder = Decoder::new(4096);
    let (mut encoder, mut again) = (Encoder::new(), Decoder::new(4096));
    for (table_bytes, block) in blocks {
        let Ok(fields) = decode(&mut decoder, block) else { return };
        encoder.set_table_bytes(table_bytes.into());
        let mut out = Vec::new();
        encoder.begin(&mut out);
        for (name, value, is_sensitive) in &fields {
            encoder.field(Field { name, value, is_sensitive: *is_sensitive }, &mut out);
        }
        let decoded = decode(&mut again, &out).expect("an encoder's block is right");
        assert_eq!(decoded.len(), fields.len());
        for (decoded, field) in decoded.iter().zip(&fields) {
            assert_eq!((&decoded.0, &decoded.1), (&field.0, &field.1));
            assert!(decoded.2 >= field.2, "sensitive stays sensitive");
        }
    }
});

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<OwnedField>, DecodeError> {
    let mut fields = Vec::new();
    let result = decoder.decode(block, |field| {
        fields.push((field.name.to_vec(), field.value.to_vec(), field.is_sensitive));
    });
    result.map(|()| fields)
}
