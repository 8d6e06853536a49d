//! Blocks that encoders write and decoders read.

mod faults;
mod habits;
mod properties;
mod rfc;

use super::*;

/// Name, value and whether it is sensitive.
type OwnedField = (Vec<u8>, Vec<u8>, bool);

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<OwnedField>, DecodeError> {
    let mut fields = Vec::new();
    let result = decoder.decode(block, |field| {
        fields.push((field.name.to_vec(), field.value.to_vec(), field.is_sensitive));
    });
    result.map(|()| fields)
}

fn encode<'a>(encoder: &mut Encoder, fields: impl IntoIterator<Item = Field<'a>>) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.begin(&mut out);
    fields.into_iter().for_each(|field| encoder.field(field, &mut out));
    out
}

fn plain<'a>(name: &'a str, value: &'a str) -> Field<'a> {
    Field { name: name.as_bytes(), value: value.as_bytes(), is_sensitive: false }
}

fn owned(field: Field<'_>) -> OwnedField {
    (field.name.to_vec(), field.value.to_vec(), field.is_sensitive)
}

/// Names and values, the newest first.
fn entries<L>(table: &table::Table<L>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let entry = |index| table.entry(index).map(|entry| (entry.name.to_vec(), entry.value.to_vec()));
    (0..).map_while(entry).collect()
}

fn check<L>(table: &table::Table<L>, max_bytes: usize) {
    let entry_bytes = |(name, value): &(Vec<u8>, Vec<u8>)| table::entry_bytes(name, value);
    assert_eq!(table.size_bytes, entries(table).iter().map(entry_bytes).sum::<usize>());
    assert!(table.size_bytes <= table.max_bytes && table.max_bytes <= max_bytes);
    let text_bytes = table.text.capacity();
    assert!(text_bytes <= 4 * max_bytes, "{text_bytes} bytes for a table of {max_bytes}");
}
