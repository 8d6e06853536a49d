//! Messages within a body, followed without being held.

/// Bytes in front of each message: whether it is compressed, and its length (PROTOCOL-HTTP2, "Length-Prefixed-Message").
pub const PREFIX_BYTES: usize = 5;

/// Follows the messages of one direction of a call, whatever pieces its body comes in.
///
/// ```text
///   prefix (5 bytes, may come in pieces) ──> message (`left` bytes) ──> prefix ...
/// ```
///
/// Nothing is copied but a prefix that comes in pieces.
#[derive(Clone, Copy, Debug)]
pub struct Messages {
    most_bytes: u32,
    prefix: [u8; PREFIX_BYTES],
    /// Bytes of the prefix that are there.
    prefix_bytes: usize,
    /// Bytes of the message that are to come.
    left_bytes: u32,
    count: u64,
}

/// What is wrong with a message. Nothing behind it can be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It is longer than allowed; its prefix says so, and nothing of it need have come.
    #[error("a message of {bytes} bytes")]
    TooLarge {
        /// Its length.
        bytes: u32,
    },
    /// It says of itself that it is something other than compressed (1) or not (0).
    #[error("a message that begins with {0:#04x}")]
    BadFlag(u8),
}

impl Messages {
    /// Begins with a body; none of its messages may be longer than that.
    #[must_use]
    pub fn new(most_bytes: Option<u32>) -> Self {
        let most_bytes = most_bytes.unwrap_or(u32::MAX);
        Self { most_bytes, prefix: [0; PREFIX_BYTES], prefix_bytes: 0, left_bytes: 0, count: 0 }
    }

    /// Follows the next bytes of the body. Takes time by the number of messages that end in them, not by their length.
    ///
    /// # Errors
    /// The first message that is wrong. The bytes may have whole messages before it.
    pub fn follow(&mut self, mut bytes: &[u8]) -> Result<(), MessageError> {
        while !bytes.is_empty() {
            if self.prefix_bytes < PREFIX_BYTES {
                let taken = bytes.len().min(PREFIX_BYTES - self.prefix_bytes);
                let (now, later) = bytes.split_at(taken);
                self.prefix[self.prefix_bytes..][..taken].copy_from_slice(now);
                self.prefix_bytes += taken;
                bytes = later;
                if self.prefix_bytes == PREFIX_BYTES {
                    self.begin()?;
                }
            } else {
                let taken = bytes.len().min(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
                self.left_bytes -= u32::try_from(taken).unwrap_or(self.left_bytes);
                bytes = &bytes[taken..];
            }
            if self.prefix_bytes == PREFIX_BYTES && self.left_bytes == 0 {
                self.prefix_bytes = 0;
                self.count += 1;
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), MessageError> {
        let [flag, length @ ..] = self.prefix;
        let bytes = u32::from_be_bytes(length);
        if flag > 1 {
            return Err(MessageError::BadFlag(flag));
        }
        if bytes > self.most_bytes {
            return Err(MessageError::TooLarge { bytes });
        }
        self.left_bytes = bytes;
        Ok(())
    }

    /// Messages that came to their end.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Tells whether no message is begun and not ended: a body may end here.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.prefix_bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(flag: u8, bytes: usize) -> Vec<u8> {
        let length = u32::try_from(bytes).unwrap().to_be_bytes();
        [&[flag][..], &length, &vec![0xff; bytes]].concat()
    }

    #[test]
    fn messages_are_counted_when_they_end() {
        let mut messages = Messages::new(None);
        let body = [message(0, 3), message(1, 0)].concat();
        assert!(messages.is_whole());
        messages.follow(&body[..7]).unwrap();
        assert_eq!((messages.count(), messages.is_whole()), (0, false));
        messages.follow(&body[7..]).unwrap();
        assert_eq!((messages.count(), messages.is_whole()), (2, true));
        messages.follow(&[0, 0]).unwrap();
        assert!(!messages.is_whole(), "half of a prefix is no end");
    }

    #[test]
    fn a_message_is_refused_by_its_prefix() {
        let mut messages = Messages::new(Some(10));
        messages.follow(&message(0, 10)).unwrap();
        let prefix = &message(0, 11)[..PREFIX_BYTES];
        assert_eq!(messages.follow(prefix), Err(MessageError::TooLarge { bytes: 11 }));
        assert_eq!(Messages::new(None).follow(&[2, 0, 0, 0, 0]), Err(MessageError::BadFlag(2)));
        assert_eq!(Messages::new(Some(0)).follow(&[0, 0, 0, 0, 0]), Ok(()));
        assert_eq!(Messages::new(None).follow(&[0, 0xff, 0xff, 0xff, 0xff, 1]), Ok(()), "4 GiB may follow");
    }

    proptest! {
        /// Whatever pieces it comes in, the same is found in it.
        #[test]
        fn any_split_gives_the_same(
            sizes in prop::collection::vec((0u8..=1, 0usize..60), 0..8),
            cuts in prop::collection::vec(1usize..9, 1..60),
            tail in prop::collection::vec(any::<u8>(), 0..12),
        ) {
            let whole: Vec<u8> = sizes.iter().flat_map(|(flag, bytes)| message(*flag, *bytes)).collect();
            let count = u64::try_from(sizes.len()).unwrap();
            let body = [whole.as_slice(), &tail].concat();
            let mut at_once = Messages::new(Some(40));
            let expected = at_once.follow(&body);
            if tail.is_empty() && sizes.iter().all(|(_, bytes)| *bytes <= 40) {
                prop_assert_eq!((expected, at_once.count(), at_once.is_whole()), (Ok(()), count, true));
            }
            let (mut in_pieces, mut rest, mut result) = (Messages::new(Some(40)), body.as_slice(), Ok(()));
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*cut));
                result = in_pieces.follow(now);
                rest = later;
                if result.is_err() || rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(result, expected);
            prop_assert_eq!((in_pieces.count(), in_pieces.is_whole()), (at_once.count(), at_once.is_whole()));
        }
    }
}
