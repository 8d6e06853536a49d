//! Any fields, any bytes.

use proptest::prelude::*;

use super::*;

/// Fields of a block, and what settings say before it.
type Block = (Vec<u32>, Vec<OwnedField>);

fn field() -> impl Strategy<Value = OwnedField> {
    let name = prop_oneof![
        6 => prop::sample::select(vec![
            "", ":path", ":method", ":status", "te", "cookie", "authorization", "content-length", "grpc-timeout", "x-a", "x-b",
        ]).prop_map(|name| name.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ];
    let value = prop_oneof![
        6 => prop::sample::select(vec!["", "/", "GET", "200", "trailers", "01234567-1-01234567", "01234567-2-01234567"])
            .prop_map(|value| value.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..100),
        1 => (any::<u8>(), 0usize..1500).prop_map(|(byte, count)| vec![byte; count]),
    ];
    (name, value, prop::bool::weighted(0.1))
}

fn blocks() -> impl Strategy<Value = Vec<Block>> {
    let sizes = prop_oneof![4 => Just(vec![]), 1 => prop::collection::vec(0u32..5000, 1..4)];
    prop::collection::vec((sizes, prop::collection::vec(field(), 0..12)), 0..12)
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(blocks in blocks()) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
        for (sizes, fields) in blocks {
            sizes.into_iter().for_each(|table_bytes| encoder.set_table_bytes(table_bytes));
            let block = encode(&mut encoder, fields.iter().map(borrowed));
            let decoded = decode(&mut decoder, &block).unwrap();
            prop_assert_eq!(decoded.len(), fields.len());
            for (decoded, field) in decoded.iter().zip(&fields) {
                prop_assert_eq!((&decoded.0, &decoded.1), (&field.0, &field.1));
                prop_assert!(decoded.2 >= field.2, "sensitive stays sensitive");
            }
            prop_assert_eq!(entries(&decoder.table), entries(&encoder.table));
            check(&encoder.table, 4096);
            check(&decoder.table, 4096);
        }
    }

    /// Both ways; it knows no sensitive fields.
    #[test]
    fn another_implementation_agrees(blocks in prop::collection::vec(prop::collection::vec(field(), 0..12), 0..12)) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
        let (mut their_encoder, mut their_decoder) = (loona_hpack::Encoder::new(), loona_hpack::Decoder::new());
        for fields in blocks {
            let fields: Vec<_> = fields.into_iter().map(|(name, value, _)| (name, value, false)).collect();
            let pairs = || fields.iter().map(|(name, value, _)| (name.clone(), value.clone())).collect::<Vec<_>>();
            let block = encode(&mut encoder, fields.iter().map(borrowed));
            prop_assert_eq!(their_decoder.decode(&block).unwrap(), pairs());
            let block = their_encoder.encode(fields.iter().map(|(name, value, _)| (name.as_slice(), value.as_slice())));
            prop_assert_eq!(decode(&mut decoder, &block).unwrap(), fields.clone());
        }
    }

    #[test]
    fn no_bytes_panic(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..10), table_bytes in 0u32..9000) {
        let mut decoder = Decoder::new(table_bytes);
        for block in blocks {
            let _ = decode(&mut decoder, &block);
            check(&decoder.table, usize::try_from(table_bytes.max(4096)).unwrap());
        }
    }

    /// A string has one code.
    #[test]
    fn huffman_is_exact(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (mut coded, mut decoded) = (Vec::new(), Vec::new());
        huffman::encode(&bytes, &mut coded);
        prop_assert_eq!(coded.len(), huffman::coded_bytes(&bytes));
        prop_assert_eq!(huffman::decode(&coded, &mut decoded), Some(()));
        prop_assert_eq!(&decoded, &bytes);
        decoded.clear();
        if huffman::decode(&bytes, &mut decoded).is_some() {
            coded.clear();
            huffman::encode(&decoded, &mut coded);
            prop_assert_eq!(coded, bytes);
        }
    }

    #[test]
    fn integers_come_back(value in 0usize..1 << 28, prefix_bits in 1u32..=7) {
        let mut out = Vec::new();
        integer::encode(0, prefix_bits, value, &mut out);
        prop_assert_eq!(integer::decode(&mut out.as_slice(), prefix_bits), Ok(value));
    }
}

/// Numbers of entries begin again.
#[test]
fn a_long_connection_stays_in_step() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
    let mut found = 0;
    for number in 0..70_000 {
        let (repeats, new) = ((number % 7).to_string(), number.to_string());
        // A name that is new is inserted.
        let fields = [plain("x-repeats", &repeats), plain(&new, "x")];
        let block = encode(&mut encoder, fields);
        found += usize::from(block[0] & 0x80 != 0);
        assert_eq!(decode(&mut decoder, &block).unwrap(), fields.map(owned));
    }
    assert_eq!(entries(&decoder.table), entries(&encoder.table));
    check(&encoder.table, 4096);
    assert!((50_000..70_000).contains(&found), "{found}");
}

fn borrowed((name, value, is_sensitive): &OwnedField) -> Field<'_> {
    Field { name, value, is_sensitive: *is_sensitive }
}
