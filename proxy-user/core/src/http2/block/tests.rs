//! Blocks that codecs refuse, in frames.

use proptest::prelude::*;

use super::*;

fn head(flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(HEADERS, flags, payload)
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

/// A field that is said, without a table.
fn said(name: &str, value: &[u8]) -> Vec<u8> {
    let string = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap()], bytes].concat();
    [vec![0], string(name.as_bytes()), string(value)].concat()
}

#[test]
fn what_cannot_be_decompressed_is_told_from_what_no_message_may_say() {
    let compression: [&[u8]; 12] = [
        // index 0, and one beyond every table
        &[0x80],
        &[0xff, 0x80, 0x01],
        &[0x7f, 0xff, 0x01, 1, b'x'],
        // integers without an end
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0x3f, 0xff, 0xff, 0xff, 0xff, 0x01],
        // a table that is too large, and a new size behind a field
        &[0x3f, 0xe2, 0x1f],
        &[0x82, 0x20],
        // strings that end too early, have EOS inside, or a rest of zeros or of a byte
        &[0x41, 0x05, b'x'],
        &[0x41, 0x84, 0xff, 0xff, 0xff, 0xff],
        &[0x41, 0x81, 0x00],
        &[0x41, 0x82, 0x1f, 0xff],
        // nothing behind an index
        &[0x41],
    ];
    for block in compression {
        assert_eq!(breach(&head(END_HEADERS, block)), Some(Breach::Compression), "{block:x?}");
    }
    let malformed = [
        said("X-Upper", b"x"),
        said("x space", b"x"),
        said("", b"x"),
        said(":other", b"x"),
        said(":status", b"200"),
        said(":method", b"G T"),
        said(":path", b"/\xff"),
        said("x", b"a\0b"),
        said("x", b"a\r\nb"),
        said("x", b"\x7f"),
        // ":status: 200", and "host: a\nb", whose name is in the table
        vec![0x08, 0x03, b'2', b'0', b'0'],
        vec![0x0f, 0x17, 0x03, b'a', b'\n', b'b'],
    ];
    for block in &malformed {
        assert_eq!(breach(&head(END_HEADERS, block)), Some(Breach::Protocol), "{block:x?}");
    }
    // The first error counts.
    let both = [malformed[0].as_slice(), &[0x80]].concat();
    assert_eq!(breach(&head(END_HEADERS, &both)), Some(Breach::Protocol));
    let both = [&[0x80], malformed[0].as_slice()].concat();
    assert_eq!(breach(&head(END_HEADERS, &both)), Some(Breach::Compression));
}

#[test]
fn what_is_right_shows_nothing() {
    let right = [
        &[0x20, 0x3f, 0xe1, 0x1f, 0x82, 0x86, 0x84, 0xbe][..],
        &said("x-y", b"a b\t\xe4"),
        &[
            // RFC 7541, C.4.1: the authority, in Huffman's code
            0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ],
    ]
    .concat();
    assert_eq!(breach(&head(END_HEADERS, &right)), None);
    assert_eq!(breach(&[head(END_HEADERS, &right), head(END_HEADERS, &right)].concat()), None);
    // One that goes on is found in the end, however it is cut.
    let wrong = [right.as_slice(), &[0x80]].concat();
    for cut in 0..=wrong.len() {
        let (first, second) = wrong.split_at(cut);
        let whole = [head(0, first), frame(CONTINUATION, END_HEADERS, second)].concat();
        assert_eq!(breach(&whole), Some(Breach::Compression), "{cut}");
        assert_eq!(breach(&head(0, first)), (cut == wrong.len()).then_some(Breach::Compression), "{cut}");
    }
}

#[test]
fn padding_and_priority_are_no_fields() {
    let payload = [&[2, 0, 0, 0, 0, 9][..], &[0x82], &[0x80, 0x80]].concat();
    let flags = END_HEADERS | HAS_PRIORITY | super::super::frame::PADDED;
    assert_eq!(breach(&head(flags, &payload)), None);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), flags: u8) {
        let _ = breach(&bytes);
        let _ = breach(&head(flags, &bytes));
    }
}
