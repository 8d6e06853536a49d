//! The static table (RFC 7541, appendix A).

use super::key::{FieldKey, is_same};

/// Entries; the dynamic table's begin behind them.
pub(super) const COUNT: usize = 61;

/// Name and value of an entry; `index` begins with 1.
pub(super) fn entry(index: usize) -> Option<(&'static [u8], &'static [u8])> {
    let (name, value) = ENTRIES.get(index.wrapping_sub(1))?;
    Some((name.as_bytes(), value.as_bytes()))
}

/// Index of the entry with this name and value, if the value is not empty.
#[inline]
pub(super) fn find(key: FieldKey, name: &[u8], value: &[u8]) -> Option<usize> {
    let index = usize::from(SLOTS[slot(key)]);
    entry(index).filter(|entry| is_same(entry.0, name) && is_same(entry.1, value)).map(|_| index)
}

/// By a field's key: index of the entry that may be it, 0 if there is none.
const SLOTS: [u8; 256] = slots();

const fn slots() -> [u8; 256] {
    let mut slots = [0; 256];
    let mut index: u8 = 0;
    while (index as usize) < COUNT {
        let (name, value) = ENTRIES[index as usize];
        index += 1;
        if !value.is_empty() {
            let slot = slot(FieldKey::of(name.as_bytes(), value.as_bytes()));
            assert!(slots[slot] == 0, "two entries in one slot: take other bits of the key");
            slots[slot] = index;
        }
    }
    slots
}

const fn slot(key: FieldKey) -> usize {
    key.0.to_le_bytes()[1] as usize
}

pub(super) const ENTRIES: [(&str, &str); COUNT] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];
