//! Blocks that encoders write and decoders read.

use super::*;

/// RFC 7541, C.3: three requests on one connection, without Huffman's code.
const REQUESTS: [(&str, &[(&str, &str)]); 3] = [
    (
        "828684410f7777772e6578616d706c652e636f6d",
        &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")],
    ),
    (
        "828684be58086e6f2d6361636865",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "www.example.com"),
            ("cache-control", "no-cache"),
        ],
    ),
    (
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        &[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ],
    ),
];

#[test]
fn requests_of_the_rfc_are_decoded_and_come_back_through_an_encoder() {
    let (mut decoder, mut encoder, mut again) = (Decoder::new(4096), Encoder::new(), Decoder::new(4096));
    for (block, fields) in REQUESTS {
        assert_eq!(decode(&mut decoder, &hex(block)).unwrap(), owned(fields));
        let mut out = Vec::new();
        encoder.begin(&mut out);
        for (name, value) in fields {
            encoder.field(
                Field { name: name.as_bytes(), value: value.as_bytes(), is_sensitive: false },
                &mut out,
            );
        }
        assert_eq!(decode(&mut again, &out).unwrap(), owned(fields));
    }
}

#[test]
fn every_byte_has_a_code_that_is_read_again() {
    for byte in 0..=u8::MAX {
        let bytes = [byte, byte, b'a', byte];
        let (mut coded, mut decoded) = (Vec::new(), Vec::new());
        huffman::encode(&bytes, &mut coded);
        assert_eq!(coded.len(), huffman::coded_bytes(&bytes));
        huffman::decode(&coded, &mut decoded).unwrap();
        assert_eq!(decoded, bytes);
    }
}

type Fields = Vec<(Vec<u8>, Vec<u8>, bool)>;

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, DecodeError> {
    let mut fields = Vec::new();
    decoder.decode(block, |field| {
        fields.push((field.name.to_vec(), field.value.to_vec(), field.is_sensitive))
    })?;
    Ok(fields)
}

fn owned(fields: &[(&str, &str)]) -> Fields {
    fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec(), false)).collect()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .map(|digit| u8::try_from(digit).unwrap())
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
