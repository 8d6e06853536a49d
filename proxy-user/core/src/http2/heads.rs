//! How long heads and trailers may be.

/// What each field counts for beside its name and value (RFC 9113, 10.5.1).
pub const FIELD_BYTES: usize = 32;
/// More than the dynamic table of a peer with usual settings has (RFC 7541, 4.2): a longer field is said with all its bytes.
const TABLE_BYTES: u32 = 8 << 10;

/// Bounds on a list of fields.
///
/// What is longer than allowed is refused by name, so it must be read, up to where it would be too much of a burden: an encoded
/// block that only a list beyond every measure can have ends the connection, as what stands behind it cannot be understood without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadBounds {
    /// What is allowed, and said in settings.
    pub list_bytes: u32,
    /// What of an encoded block is too much: it says more than twice what is allowed, at 5 bits for each byte at least (RFC 7541,
    /// appendix B). Who encodes what is allowed as it should, never needs that.
    pub block_bytes: u32,
}

impl HeadBounds {
    /// Bounds for lists of so many bytes.
    #[must_use]
    pub fn new(list_bytes: u32) -> Self {
        let block_bytes = list_bytes.saturating_mul(2).saturating_add(TABLE_BYTES) / 8 * 5;
        Self { list_bytes, block_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_fits_however_it_is_encoded() {
        for list_bytes in [1, 1 << 10, 64 << 10, 1 << 20] {
            assert!(HeadBounds::new(list_bytes).block_bytes > list_bytes);
        }
    }
}
