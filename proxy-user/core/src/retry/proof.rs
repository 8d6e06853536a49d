//! How it is known that no server had a request whose connection ended.

/// How the peer ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order, behind everything that it had sent.
    Fin,
    /// With a reset, which may overtake what was sent and received before it.
    Rst,
}

/// What is known of a connection that ended before the first byte of an answer.
///
/// Bytes are plain ones of the stream, counted from its begin: what the kernel says in TCP_INFO, which counts ciphertext on
/// a connection with TLS. There, positions of the request must be in ciphertext, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The end was seen before the first byte of the request was written.
    pub is_ended_before_send: bool,
    /// `tcpi_bytes_sent` before the first byte of the request was written. Repeats count in it, which only makes it larger.
    pub sent_before: u64,
    /// The same after the end.
    pub sent_after: u64,
    /// `tcpi_bytes_acked` after the end. The SYN counts in it as one byte, which only makes it larger.
    pub acked: u64,
    /// Where in the stream the request's head ends. Not its body: a server may begin to work when it has the head.
    pub head_end: u64,
    /// How the peer ended it.
    pub end: End,
}

impl Evidence {
    /// Tells whether it is proven that no server had the whole head of the request.
    ///
    /// One of these proves it: the end came before the first byte was written; nothing left this machine; or a FIN came in
    /// order, and the peer's kernel had not acknowledged the whole head. The FIN says that the server had closed, and carries
    /// the acknowledgement of all that had arrived by then (RFC 9293, 3.10.7.4). A reset proves nothing: a server that closes
    /// with bytes unread resets, and acknowledgements get lost on its way.
    #[must_use]
    pub fn is_unseen(&self) -> bool {
        let is_unsent = self.sent_after <= self.sent_before;
        let is_partial = self.end == End::Fin && self.acked < self.head_end;
        self.is_ended_before_send || is_unsent || is_partial
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A connection that had carried 1,000 bytes, and a head of 200 that was sent and fully acknowledged.
    const SEEN: Evidence = Evidence {
        is_ended_before_send: false,
        sent_before: 1000,
        sent_after: 1200,
        acked: 1201,
        head_end: 1200,
        end: End::Fin,
    };

    #[test]
    fn an_end_before_the_first_byte_proves_it_however_it_came() {
        for end in [End::Fin, End::Rst] {
            assert!(Evidence { is_ended_before_send: true, end, ..SEEN }.is_unseen());
        }
    }

    #[test]
    fn what_never_left_was_never_seen() {
        for end in [End::Fin, End::Rst] {
            assert!(Evidence { sent_after: 1000, end, ..SEEN }.is_unseen());
        }
    }

    #[test]
    fn a_fin_proves_it_only_if_the_head_was_not_acknowledged() {
        assert!(Evidence { acked: 1001, ..SEEN }.is_unseen());
        assert!(Evidence { acked: 1199, ..SEEN }.is_unseen());
        assert!(
            !Evidence { acked: 1200, ..SEEN }.is_unseen(),
            "one byte is missing if the SYN counts: in doubt no"
        );
        assert!(!SEEN.is_unseen());
    }

    #[test]
    fn a_reset_after_sending_proves_nothing() {
        for acked in [0, 1001, 1201] {
            assert!(!Evidence { acked, end: End::Rst, ..SEEN }.is_unseen());
        }
    }

    proptest! {
        /// More that was sent or acknowledged never makes a proof.
        #[test]
        fn doubt_grows_with_what_was_sent_and_acknowledged(
            sent in 1000u64..1300, acked in 0u64..1300, more in 0u64..100, is_fin in any::<bool>(),
        ) {
            let end = if is_fin { End::Fin } else { End::Rst };
            let less = Evidence { sent_after: sent, acked, end, ..SEEN };
            let later = Evidence { sent_after: sent + more, acked: acked + more, ..less };
            prop_assert!(less.is_unseen() || !later.is_unseen());
        }
    }
}
