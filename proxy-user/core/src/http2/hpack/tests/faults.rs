//! Blocks that cannot be decoded.

use super::*;

#[test]
fn every_error_has_its_name() {
    let wrong: [(&[u8], DecodeError); 22] = [
        // index 0, and beyond both tables, of a field and of a name
        (&[0x80], DecodeError::Index),
        (&[0xbe], DecodeError::Index),
        (&[0xff, 0x80, 0x01], DecodeError::Index),
        (&[0x7e, 1, b'x'], DecodeError::Index),
        (&[0x0f, 0x2f, 1, b'x'], DecodeError::Index),
        // integers without an end, and beyond what is read
        (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], DecodeError::Integer),
        (&[0xff, 0x80, 0x80, 0x80, 0x80, 0x00], DecodeError::Integer),
        (&[0x3f, 0xff, 0xff, 0xff, 0xff, 0x01], DecodeError::Integer),
        (&[0xff, 0xff], DecodeError::Truncated),
        // a table that is too large, a new size behind a field, and a third one
        (&[0x3f, 0xe2, 0x1f], DecodeError::TableTooLarge),
        (&[0x82, 0x20], DecodeError::SizeChange),
        (&[0x20, 0x20, 0x20], DecodeError::SizeChange),
        // nothing behind an index, and strings that end too early
        (&[0x41], DecodeError::Truncated),
        (&[0x40], DecodeError::Truncated),
        (&[0x40, 1, b'x'], DecodeError::Truncated),
        (&[0x41, 5, b'x'], DecodeError::Truncated),
        (&[0x41, 0x7f, 0xff, 0xff, 0xff, 0x7f], DecodeError::Truncated),
        // EOS inside, padding of zeros, of a byte, of a byte behind a code that ends with one, and half a code
        (&[0x41, 0x84, 0xff, 0xff, 0xff, 0xff], DecodeError::Huffman),
        (&[0x41, 0x81, 0x18], DecodeError::Huffman),
        (&[0x41, 0x81, 0xff], DecodeError::Huffman),
        (&[0x41, 0x82, 0x1f, 0xff], DecodeError::Huffman),
        (&[0x41, 0x82, 0xff, 0xc0], DecodeError::Huffman),
    ];
    for (block, error) in wrong {
        let mut decoder = Decoder::new(4096);
        assert_eq!(decode(&mut decoder, block), Err(error), "{block:x?}");
        check(&decoder.table, 4096);
    }
}

#[test]
fn padding_is_less_than_a_byte_of_ones() {
    // "0", whose code is five zeros; "X", whose code is a byte; nothing
    for (coded, text) in [(&[0x07][..], "0"), (&[0xfc], "X"), (&[], "")] {
        let mut out = Vec::new();
        assert_eq!(huffman::decode(coded, &mut out), Some(()));
        assert_eq!(out, text.as_bytes());
    }
}

#[test]
fn a_size_in_between_empties_the_table() {
    let mut decoder = Decoder::new(4096);
    decode(&mut decoder, &[0x40, 1, b'a', 1, b'b', 0xbe]).unwrap();
    assert_eq!(decode(&mut decoder, &[0x20, 0x3f, 0xe1, 0x1f]), Ok(vec![]));
    assert_eq!(decode(&mut decoder, &[0xbe]), Err(DecodeError::Index));
}

#[test]
fn a_new_entry_may_have_the_name_of_one_that_goes_for_it() {
    let mut decoder = Decoder::new(4096);
    // 40 bytes: room for one entry with 8 bytes of text
    decode(&mut decoder, &[0x3f, 0x09, 0x40, 4, b'n', b'a', b'm', b'e', 1, b'1']).unwrap();
    let fields = decode(&mut decoder, &[0x7e, 2, b'2', b'2', 0xbe]).unwrap();
    assert_eq!(fields, [owned(plain("name", "22")), owned(plain("name", "22"))]);
    assert_eq!(entries(&decoder.table).len(), 1);
    // One that is larger than the table leaves it empty, and is a field all the same.
    let fields = decode(&mut decoder, &[0x7e, 5, b'3', b'3', b'3', b'3', b'3']).unwrap();
    assert_eq!(fields, [owned(plain("name", "33333"))]);
    assert_eq!(entries(&decoder.table), []);
}
