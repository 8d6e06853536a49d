//! The fields (headers) of one message, as they stand in its head.

use std::mem::MaybeUninit;
use std::ops::Range;

use httparse::Header;

use super::Fault;
use super::body::Framing;

/// Most fields of a message, whatever the config says: they are parsed into an array on the stack.
pub const MOST_FIELDS: usize = 256;

/// Room for the fields of one message.
pub type Slots<'b> = [MaybeUninit<Header<'b>>; MOST_FIELDS];

/// Makes room; costs nothing.
#[must_use]
pub fn slots<'b>() -> Slots<'b> {
    [const { MaybeUninit::uninit() }; MOST_FIELDS]
}

/// Fields of a message, and which of them stay behind when it is passed on.
pub struct Fields<'h, 'b> {
    head: &'b [u8],
    items: &'h [Header<'b>],
    dropped: [u64; MOST_FIELDS / 64],
}

/// What `Connection` and its relatives say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) is_close: bool,
    pub(super) is_keep_alive: bool,
    pub(super) is_upgrade: bool,
}

/// What framing headers say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lengths {
    pub(super) content: Option<u64>,
    pub(super) is_chunked: bool,
}

impl Lengths {
    /// Content-Length: digits and nothing else, once (RFC 9112, 6.3; several are refused even if they agree).
    pub(super) fn handle_content_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        match (number, self.content) {
            (Some(number), None) if is_number => self.content = Some(number),
            _ => return Err(Fault::ContentLength),
        }
        Ok(())
    }

    /// Transfer-Encoding: `chunked`, once. What else there is (RFC 9112, 7) nobody uses but attackers.
    pub(super) fn handle_transfer_encoding(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Fault::TransferCoding);
        }
        self.is_chunked = true;
        Ok(())
    }

    /// What the two say together; `None` if neither is there.
    pub(super) fn framing(self, is_version_1_0: bool) -> Result<Option<Framing>, Fault> {
        match (self.content, self.is_chunked) {
            (Some(_), true) => Err(Fault::Framing),
            (None, true) if is_version_1_0 => Err(Fault::Framing),
            (None, true) => Ok(Some(Framing::Chunked)),
            (Some(count), false) => Ok(Some(Framing::Length(count))),
            (None, false) => Ok(None),
        }
    }
}

impl Options {
    /// Takes up one `Connection` header; says whether it names fields that are for this hop only.
    pub(super) fn handle_connection(&mut self, value: &[u8]) -> bool {
        let mut has_names = false;
        for token in tokens(value) {
            match token {
                _ if token.eq_ignore_ascii_case(b"close") => self.is_close = true,
                _ if token.eq_ignore_ascii_case(b"keep-alive") => self.is_keep_alive = true,
                _ if token.eq_ignore_ascii_case(b"upgrade") => self.is_upgrade = true,
                _ => has_names = true,
            }
        }
        has_names
    }
}

/// Elements of a comma-separated list.
pub(super) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Fields that are for one hop only (RFC 9110, 7.6.1), whatever `Connection` names.
pub(super) fn is_hop_by_hop(name: &str) -> bool {
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    match name.len() {
        2 => is("te"),
        7 => is("upgrade"),
        10 => is("connection") || is("keep-alive"),
        16 => is("proxy-connection"),
        _ => false,
    }
}

impl<'h, 'b> Fields<'h, 'b> {
    /// `head` is the whole head, its empty line included; `items` point into it.
    pub(super) fn new(head: &'b [u8], items: &'h [Header<'b>]) -> Self {
        Self { head, items, dropped: [0; MOST_FIELDS / 64] }
    }

    /// Value of the first field of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&'b [u8]> {
        self.items.iter().find(|item| item.name.eq_ignore_ascii_case(name)).map(|item| item.value)
    }

    /// Values of all fields of this name.
    pub fn find_all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'b [u8]> + 's {
        self.items.iter().filter(move |item| item.name.eq_ignore_ascii_case(name)).map(|item| item.value)
    }

    /// Bytes of the head that they stand in.
    #[must_use]
    pub fn head_bytes(&self) -> usize {
        self.head.len()
    }

    /// All fields, in order.
    pub(super) fn items(&self) -> &'h [Header<'b>] {
        self.items
    }

    /// Fields that are passed on: name and value.
    pub fn kept(&self) -> impl Iterator<Item = (&'b str, &'b [u8])> {
        let kept = self.items.iter().enumerate().filter(|(index, _)| !self.is_dropped(*index));
        kept.map(|(_, item)| (item.name, item.value))
    }

    pub(super) fn drop(&mut self, index: usize) {
        self.dropped[index / 64] |= 1 << (index % 64);
    }

    fn is_dropped(&self, index: usize) -> bool {
        self.dropped[index / 64] & (1 << (index % 64)) != 0
    }

    /// Leaves all fields of a name behind.
    pub(super) fn drop_named(&mut self, name: &str) {
        for (index, item) in self.items.iter().enumerate() {
            if item.name.eq_ignore_ascii_case(name) {
                self.drop(index);
            }
        }
    }

    /// Leaves behind what `Connection` names.
    ///
    /// # Errors
    /// If it names what the meaning or the end of a message hangs on.
    pub(super) fn drop_nominated(&mut self) -> Result<(), Fault> {
        const KEPT: [&[u8]; 4] = [b"host", b"content-length", b"transfer-encoding", b"authorization"];
        for item in self.items {
            if !item.name.eq_ignore_ascii_case("connection") {
                continue;
            }
            for token in tokens(item.value) {
                if KEPT.iter().any(|kept| token.eq_ignore_ascii_case(kept)) {
                    return Err(Fault::Field);
                }
                if let Ok(name) = std::str::from_utf8(token) {
                    self.drop_named(name);
                }
            }
        }
        Ok(())
    }

    /// Writes the fields that are passed on, as they came: runs of lines in one piece.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut index = 0;
        while index < self.items.len() {
            if self.is_dropped(index) {
                index += 1;
                continue;
            }
            let first = index;
            while index < self.items.len() && !self.is_dropped(index) {
                index += 1;
            }
            out.extend_from_slice(&self.head[self.lines(first, index)]);
        }
    }

    /// Bytes of the lines from one field to before another.
    fn lines(&self, first: usize, end: usize) -> Range<usize> {
        // The head ends with an empty line.
        let after = self.head.len() - 2;
        let start = |index: usize| {
            self.items.get(index).map_or(after, |item| item.name.as_ptr().addr() - self.head.as_ptr().addr())
        };
        start(first)..start(end)
    }
}

/// Writes one field.
pub fn put(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
