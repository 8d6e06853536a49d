//! How much a peer may send ahead (RFC 9113, 5.2).

/// A window that the peer sends in: that of a stream, or that of all streams of a connection together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    /// Bytes that may still come.
    pub(super) open_bytes: u32,
    /// Bytes that were used and that the peer has not been told of.
    unannounced: u32,
}

impl Window {
    pub(super) fn new(bytes: u32) -> Self {
        Self { open_bytes: bytes, unannounced: 0 }
    }

    /// So many bytes come; says whether they may.
    pub(super) fn take(&mut self, bytes: u32) -> bool {
        let left = self.open_bytes.checked_sub(bytes);
        self.open_bytes = left.unwrap_or(self.open_bytes);
        left.is_some()
    }

    /// What may come, and what may once the peer is told.
    #[cfg(test)]
    pub(super) fn whole_bytes(self) -> u32 {
        self.open_bytes + self.unannounced
    }

    /// So many are used: others may come.
    pub(super) fn release(&mut self, bytes: u32) {
        self.unannounced += bytes;
    }

    /// What the peer is to be told of now: all that was used, once that is as much as may still come. So that is half of the window,
    /// or less if much of it waits to be used.
    pub(super) fn announce(&mut self) -> Option<u32> {
        if self.unannounced == 0 || self.unannounced < self.open_bytes {
            return None;
        }
        let bytes = std::mem::take(&mut self.unannounced);
        self.open_bytes += bytes;
        Some(bytes)
    }
}
