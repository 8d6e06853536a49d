//! Fields of one message as HTTP/2 has them: a list, pseudo-headers in front (RFC 9113, 8.2 and 8.3).

mod rules;

use std::fmt;

pub use self::rules::{Malformed, is_hop_by_hop, is_path};
use super::FIELD_BYTES;
use super::hpack::{DecodeError, Decoder, Encoder, Field};

/// Room that a list which is used again keeps meanwhile.
const RESTING_BYTES: usize = 2 << 10;
const RESTING_FIELDS: usize = 32;

/// A head, or trailers, in the order in which they came.
///
/// Names are in lower case, and those of pseudo-headers begin with a colon and stand in front. All text is in one piece of memory,
/// which only grows: what an edit takes out stays there as long as the list, which is as long as its request.
#[derive(Clone, Default)]
pub struct FieldList {
    text: Vec<u8>,
    spans: Vec<Span>,
}

/// Where a field stands in the text: name and value, one behind the other.
#[derive(Clone, Copy)]
struct Span {
    begin: u32,
    value_begin: u32,
    end: u32,
    is_sensitive: bool,
}

/// What is said in place of a field; of a pseudo-header only where there is one.
pub type Edit<'a> = (&'a str, &'a [u8]);

impl FieldList {
    /// The head of a request that is no CONNECT.
    #[must_use]
    pub fn of_request(method: &str, authority: Option<&str>, path_and_query: &str) -> Self {
        let fields = [(":method", method), (":scheme", "http"), (":path", path_and_query)];
        fields.into_iter().chain(authority.map(|authority| (":authority", authority))).collect()
    }

    /// The head of a CONNECT (RFC 9113, 8.5).
    #[must_use]
    pub fn of_connect(authority: &str) -> Self {
        Self::from_iter([(":method", "CONNECT"), (":authority", authority)])
    }

    /// An answer's head.
    #[must_use]
    pub fn of_answer(status: u16) -> Self {
        let mut list = Self::default();
        list.set_status(status);
        list
    }

    /// Takes the fields of a block behind those that are there. Of a list that is longer than allowed, fields are kept until it is:
    /// whoever compares sees that. Spaces around values are no part of them, as in HTTP/1.1: no message may have them (RFC 9113,
    /// 8.2.1), but messages of gRPC may end with one.
    ///
    /// # Errors
    /// If it is no block, or the tables of both sides differ.
    pub fn decode(
        &mut self,
        decoder: &mut Decoder,
        block: &[u8],
        most_list_bytes: u32,
    ) -> Result<(), DecodeError> {
        let most = usize::try_from(most_list_bytes).unwrap_or(usize::MAX);
        let mut list_bytes = self.list_bytes();
        decoder.decode(block, |field| {
            if list_bytes <= most {
                let field = trimmed(field);
                list_bytes += field_bytes(&field);
                self.push(field);
            }
        })
    }

    /// Writes the list as one block, edited.
    pub fn encode(&self, encoder: &mut Encoder, edits: &[Edit<'_>], out: &mut Vec<u8>) {
        encoder.begin(out);
        for field in self.iter() {
            match edits.iter().find(|(name, _)| name.as_bytes() == field.name) {
                None => encoder.field(field, out),
                Some((_, value)) if field.name.starts_with(b":") => {
                    encoder.field(Field { value, ..field }, out);
                }
                // It comes at the end.
                Some(_) => {}
            }
        }
        for (name, value) in edits.iter().filter(|(name, _)| !name.starts_with(':')) {
            encoder.field(Field { name: name.as_bytes(), value, is_sensitive: false }, out);
        }
    }

    /// The same list in memory that is as large as it needs to be, with room for so much more.
    #[must_use]
    pub fn copy(&self, more_bytes: usize, more_fields: usize) -> Self {
        let mut text = Vec::with_capacity(self.text.len() + more_bytes);
        text.extend_from_slice(&self.text);
        let mut spans = Vec::with_capacity(self.spans.len() + more_fields);
        spans.extend_from_slice(&self.spans);
        Self { text, spans }
    }

    /// Makes room for another.
    pub fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(RESTING_BYTES);
        self.spans.clear();
        self.spans.shrink_to(RESTING_FIELDS);
    }

    /// What HTTP/2 counts for it (RFC 9113, 10.5.1).
    #[must_use]
    pub fn list_bytes(&self) -> usize {
        self.iter().map(|field| field_bytes(&field)).sum()
    }

    /// All fields, in order.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.spans.iter().map(|span| span.field(&self.text))
    }

    /// All fields that are no pseudo-headers: name and value.
    pub fn plain(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let plain = self.iter().filter(|field| !field.name.starts_with(b":"));
        plain.map(|field| (text(field.name), field.value))
    }

    /// Value of the first field of this name, which is in lower case.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|field| field.name == name.as_bytes()).map(|field| field.value)
    }

    /// Values of all fields of this name, which is in lower case.
    pub fn find_all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.iter().filter(move |field| field.name == name.as_bytes()).map(|field| field.value)
    }

    /// The method; empty if there is none.
    #[must_use]
    pub fn method(&self) -> &str {
        self.find(":method").map_or("", text)
    }

    /// The authority; none if there is none, which is not what an empty one says.
    #[must_use]
    pub fn authority(&self) -> Option<&str> {
        self.find(":authority").map(text)
    }

    /// Path and query; empty if there are none.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        self.find(":path").map_or("", text)
    }

    /// The status; 0 if there is none.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.find(":status").and_then(|status| text(status).parse().ok()).unwrap_or(0)
    }

    /// Says another status.
    pub fn set_status(&mut self, status: u16) {
        let digits = [status / 100, status / 10, status].map(|n| b'0' + u8::try_from(n % 10).unwrap_or(0));
        self.set(":status", &digits);
    }

    /// Adds a field behind all others. Capitals in its name become small letters.
    pub fn append(&mut self, name: &str, value: &[u8]) {
        let begin = self.text.len();
        self.push(Field { name: name.as_bytes(), value, is_sensitive: false });
        self.text[begin..begin + name.len()].make_ascii_lowercase();
    }

    /// Puts a field in the place of all of its name. A pseudo-header goes to the front if it is new.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        let at = self.spans.iter().position(|span| span.field(&self.text).name == name.as_bytes());
        self.remove(name);
        let end = if name.starts_with(':') { 0 } else { self.spans.len() };
        self.append(name, value);
        if let Some(new) = self.spans.pop() {
            self.spans.insert(at.unwrap_or(end), new);
        }
    }

    /// Edits the list as [`FieldList::encode`] does.
    pub fn apply(&mut self, edit: Edit<'_>) {
        let (name, value) = edit;
        if !name.starts_with(':') || self.find(name).is_some() {
            self.set(name, value);
        }
    }

    /// Takes out all fields of a name, which is in lower case.
    pub fn remove(&mut self, name: &str) {
        self.retain(|field| field.name != name.as_bytes());
    }

    /// Takes out all fields that are not to be kept.
    pub fn retain(&mut self, keep: impl Fn(&Field<'_>) -> bool) {
        let text = &self.text;
        self.spans.retain(|span| keep(&span.field(text)));
    }

    fn push(&mut self, field: Field<'_>) {
        // It fits: a head is shorter than a message may be by far.
        let end = |text: &Vec<u8>| u32::try_from(text.len()).unwrap_or(u32::MAX);
        let begin = end(&self.text);
        self.text.extend_from_slice(field.name);
        let value_begin = end(&self.text);
        self.text.extend_from_slice(field.value);
        let end = end(&self.text);
        self.spans.push(Span { begin, value_begin, end, is_sensitive: field.is_sensitive });
    }
}

impl Span {
    fn field<'t>(&self, text: &'t [u8]) -> Field<'t> {
        let [begin, value_begin, end] =
            [self.begin, self.value_begin, self.end].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
        Field {
            name: text.get(begin..value_begin).unwrap_or_default(),
            value: text.get(value_begin..end).unwrap_or_default(),
            is_sensitive: self.is_sensitive,
        }
    }
}

impl<'n, V: AsRef<[u8]>> FromIterator<(&'n str, V)> for FieldList {
    fn from_iter<I: IntoIterator<Item = (&'n str, V)>>(fields: I) -> Self {
        let mut list = Self::default();
        fields.into_iter().for_each(|(name, value)| list.append(name, value.as_ref()));
        list
    }
}

/// Two lists are the same if they say the same, wherever it stands in memory.
impl PartialEq for FieldList {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

/// Names only: values may be secrets.
impl fmt::Debug for FieldList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|field| text(field.name))).finish()
    }
}

fn trimmed(field: Field<'_>) -> Field<'_> {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    if field.name.starts_with(b":") {
        return field;
    }
    let begin = field.value.iter().position(|byte| !is_space(byte)).unwrap_or(field.value.len());
    let end = field.value.iter().rposition(|byte| !is_space(byte)).map_or(begin, |last| last + 1);
    Field { value: &field.value[begin..end], ..field }
}

fn field_bytes(field: &Field<'_>) -> usize {
    field.name.len() + field.value.len() + FIELD_BYTES
}

/// Text that was checked where it came in.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests;
