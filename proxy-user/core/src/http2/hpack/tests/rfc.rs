//! The examples of RFC 7541, appendix C.

use super::*;

const GET: (&str, &str) = (":method", "GET");
const AUTHORITY: (&str, &str) = (":authority", "www.example.com");
const NO_CACHE: (&str, &str) = ("cache-control", "no-cache");
const REQUESTS: [&[(&str, &str)]; 3] = [
    &[GET, (":scheme", "http"), (":path", "/"), AUTHORITY],
    &[GET, (":scheme", "http"), (":path", "/"), AUTHORITY, NO_CACHE],
    &[GET, (":scheme", "https"), (":path", "/index.html"), AUTHORITY, ("custom-key", "custom-value")],
];
/// C.3, without Huffman's code.
const REQUEST_BLOCKS: [&str; 3] = [
    "828684410f7777772e6578616d706c652e636f6d",
    "828684be58086e6f2d6361636865",
    "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
];
/// C.4, with it.
const CODED_REQUEST_BLOCKS: [&str; 3] = [
    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
    "828684be5886a8eb10649cbf",
    "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
];
const REQUEST_TABLE_BYTES: [usize; 3] = [57, 110, 164];

const PRIVATE: (&str, &str) = ("cache-control", "private");
const DATE: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
const LOCATION: (&str, &str) = ("location", "https://www.example.com");
const COOKIE: (&str, &str) = ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1");
const ANSWERS: [&[(&str, &str)]; 3] = [
    &[(":status", "302"), PRIVATE, DATE, LOCATION],
    &[(":status", "307"), PRIVATE, DATE, LOCATION],
    &[
        (":status", "200"),
        PRIVATE,
        ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
        LOCATION,
        ("content-encoding", "gzip"),
        COOKIE,
    ],
];
/// C.5, where the table has 256 bytes.
const ANSWER_BLOCKS: [&str; 3] = [
    "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f\
     7777772e6578616d706c652e636f6d",
    "4803333037c1c0bf",
    "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b425a\
     584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
];
/// C.6.
const CODED_ANSWER_BLOCKS: [&str; 3] = [
    "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
    "4883640effc1c0bf",
    "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f\
     3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
];
const ANSWER_TABLE_BYTES: [usize; 3] = [222, 222, 215];

#[test]
fn integers() {
    // C.1: value, bits of the prefix, bytes
    let examples: [(usize, u32, &[u8]); 3] =
        [(10, 5, &[0x0a]), (1337, 5, &[0x1f, 0x9a, 0x0a]), (42, 8, &[0x2a])];
    for (value, prefix_bits, mut bytes) in examples {
        let mut out = Vec::new();
        integer::encode(0, prefix_bits, value, &mut out);
        assert_eq!(out, bytes);
        assert_eq!(integer::decode(&mut bytes, prefix_bits), Ok(value));
        assert_eq!(bytes, &[0; 0]);
    }
}

#[test]
fn fields_of_each_form() {
    // C.2: block, field, size of the table
    let examples = [
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", ("custom-key", "custom-header"), false, 55),
        ("040c2f73616d706c652f70617468", (":path", "/sample/path"), false, 0),
        ("100870617373776f726406736563726574", ("password", "secret"), true, 0),
        ("82", GET, false, 0),
    ];
    for (block, (name, value), is_sensitive, table_bytes) in examples {
        let mut decoder = Decoder::new(4096);
        let field = Field { is_sensitive, ..plain(name, value) };
        assert_eq!(decode(&mut decoder, &hex(block)), Ok(vec![owned(field)]));
        assert_eq!(decoder.table.size_bytes, table_bytes);
    }
}

#[test]
fn requests() {
    for blocks in [REQUEST_BLOCKS, CODED_REQUEST_BLOCKS] {
        let mut decoder = Decoder::new(4096);
        for ((block, fields), table_bytes) in blocks.into_iter().zip(REQUESTS).zip(REQUEST_TABLE_BYTES) {
            assert_decodes(&mut decoder, &hex(block), fields, table_bytes);
        }
        let newest = entries(&decoder.table);
        assert_eq!(newest, [("custom-key", "custom-value"), NO_CACHE, AUTHORITY].map(bytes));
    }
}

#[test]
fn requests_are_encoded_to_the_byte() {
    let mut encoder = Encoder::new();
    for (block, fields) in CODED_REQUEST_BLOCKS.into_iter().zip(REQUESTS) {
        assert_eq!(encode(&mut encoder, fields.iter().map(|(name, value)| plain(name, value))), hex(block));
    }
}

#[test]
fn answers_push_entries_out_of_a_small_table() {
    for blocks in [ANSWER_BLOCKS, CODED_ANSWER_BLOCKS] {
        let mut decoder = Decoder::new(256);
        assert_eq!(decode(&mut decoder, &hex("3fe101")), Ok(vec![]));
        for ((block, fields), table_bytes) in blocks.into_iter().zip(ANSWERS).zip(ANSWER_TABLE_BYTES) {
            assert_decodes(&mut decoder, &hex(block), fields, table_bytes);
        }
        let newest = [COOKIE, ("content-encoding", "gzip"), ("date", "Mon, 21 Oct 2013 20:13:22 GMT")];
        assert_eq!(entries(&decoder.table), newest.map(bytes));
    }
}

fn assert_decodes(decoder: &mut Decoder, block: &[u8], fields: &[(&str, &str)], table_bytes: usize) {
    let fields = fields.iter().map(|(name, value)| owned(plain(name, value))).collect();
    assert_eq!(decode(decoder, block), Ok(fields));
    assert_eq!(decoder.table.size_bytes, table_bytes);
}

fn bytes((name, value): (&str, &str)) -> (Vec<u8>, Vec<u8>) {
    (name.into(), value.into())
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |digit: char| u8::try_from(digit.to_digit(16).unwrap()).unwrap();
    let digits: Vec<u8> = text.chars().map(digit).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
