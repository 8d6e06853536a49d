//! gRPC-Web (the specification's "PROTOCOL-WEB.md"): gRPC as browsers can speak it, whose scripts see no trailers.
//!
//! Messages are framed as in gRPC. Trailers are one more frame, behind the messages. In the text form all of it is base64, in
//! pieces that may each be padded.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{PREFIX_BYTES, kind};

/// Marks a frame that has trailers, not a message.
const TRAILERS_FLAG: u8 = 0x80;
/// Characters that stand for three bytes.
const QUANTUM_BYTES: usize = 4;

/// How bodies are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    Binary,
    /// In base64.
    Text,
}

impl Form {
    /// The form that a content type names; none if it is not gRPC-Web.
    #[must_use]
    pub fn of(content_type: &[u8]) -> Option<Self> {
        let kind = kind(content_type)?;
        [(Self::Binary, "-web"), (Self::Text, "-web-text")]
            .into_iter()
            .find_map(|(form, name)| kind.eq_ignore_ascii_case(name).then_some(form))
    }

    /// The content type, without a format of messages.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Binary => "application/grpc-web",
            Self::Text => "application/grpc-web-text",
        }
    }

    /// Writes a piece of an answer's body; of text, each piece is padded, so that none waits for the next.
    /// `None` if it is what it was.
    #[must_use]
    pub fn encode(self, data: &[u8]) -> Option<String> {
        (self == Self::Text).then(|| STANDARD.encode(data))
    }
}

/// How a client of gRPC-Web asks, and how it wants to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Web {
    /// The form of its request.
    pub asks: Form,
    /// The form of the answer: what `accept` names, or else that of the request.
    pub answers: Form,
}

/// What a client calls in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// gRPC.
    Plain,
    /// gRPC-Web.
    Web(Web),
}

impl Dialect {
    /// What a request's headers say; none if it is no call.
    #[must_use]
    pub fn of<'a>(find: impl Fn(&str) -> Option<&'a [u8]>) -> Option<Self> {
        let content_type = find("content-type")?;
        if kind(content_type)?.is_empty() {
            return Some(Self::Plain);
        }
        let asks = Form::of(content_type)?;
        let answers = find("accept").and_then(Form::of).unwrap_or(asks);
        Some(Self::Web(Web { asks, answers }))
    }

    /// How a client of gRPC-Web calls.
    #[must_use]
    pub fn web(self) -> Option<Web> {
        match self {
            Self::Plain => None,
            Self::Web(web) => Some(web),
        }
    }
}

/// A body that is no base64: a character that is none, padding that does not fit, or an end within four characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a body that is no base64")]
pub struct BadText;

/// Reads a request's body in the text form, whatever pieces it comes in.
#[derive(Clone, Debug, Default)]
pub struct TextDecoder {
    /// Characters that wait for the rest of their four.
    begun: Vec<u8>,
}

impl TextDecoder {
    /// Reads the next piece.
    ///
    /// # Errors
    /// If no body goes on like this.
    pub fn decode(&mut self, text: &[u8]) -> Result<Vec<u8>, BadText> {
        self.begun.extend_from_slice(text);
        let whole_bytes = self.begun.len() / QUANTUM_BYTES * QUANTUM_BYTES;
        let begun = self.begun.split_off(whole_bytes);
        let whole = std::mem::replace(&mut self.begun, begun);
        let mut data = Vec::with_capacity(whole.len() / QUANTUM_BYTES * 3);
        let mut rest = whole.as_slice();
        while !rest.is_empty() {
            // Up to and with the next four that are padded.
            let padded =
                rest.iter().position(|b| *b == b'=').map(|at| (at / QUANTUM_BYTES + 1) * QUANTUM_BYTES);
            let (part, behind) = rest.split_at(padded.unwrap_or(rest.len()));
            STANDARD.decode_vec(part, &mut data).map_err(|_| BadText)?;
            rest = behind;
        }
        Ok(data)
    }

    /// Takes note of the end.
    ///
    /// # Errors
    /// If it does not belong here.
    pub fn end(&self) -> Result<(), BadText> {
        if self.begun.is_empty() { Ok(()) } else { Err(BadText) }
    }
}

/// Writes trailers as the last frame of a body: names, which are in lower case, and values that have no line ends, as in a head.
/// As long as they are, and four bytes more for each; `None` past 4 GiB, which no bound on a head allows.
#[must_use]
pub fn trailers_frame<'a>(fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> Option<Vec<u8>> {
    let mut frame = vec![TRAILERS_FLAG, 0, 0, 0, 0];
    for (name, value) in fields {
        frame.extend_from_slice(name.as_bytes());
        frame.extend_from_slice(b": ");
        frame.extend_from_slice(value);
        frame.extend_from_slice(b"\r\n");
    }
    let length = u32::try_from(frame.len() - PREFIX_BYTES).ok()?;
    frame[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    Some(frame)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_dialect_is_told_by_content_type_and_accept() {
        let web = |asks, answers| Some(Dialect::Web(Web { asks, answers }));
        for (content_type, accept, dialect) in [
            ("application/grpc+proto", "", Some(Dialect::Plain)),
            ("application/grpc-web", "*/*", web(Form::Binary, Form::Binary)),
            ("Application/grpc-web+proto", "application/grpc-web-text", web(Form::Binary, Form::Text)),
            ("application/grpc-web-text", "", web(Form::Text, Form::Text)),
            (
                "application/grpc-web-TEXT+proto;x=y",
                "application/grpc-web+proto",
                web(Form::Text, Form::Binary),
            ),
            ("application/grpc-website", "", None),
            ("application/grpc-web-", "", None),
            ("application/json", "application/grpc-web", None),
        ] {
            let find = |name: &str| Some(if name == "accept" { accept } else { content_type }.as_bytes());
            assert_eq!(Dialect::of(find), dialect, "{content_type}");
        }
        assert_eq!(Dialect::of(|_| None), None);
    }

    #[test]
    fn trailers_are_a_frame_of_lines() {
        let fields = [("grpc-status", &b"0"[..]), ("x-bin", b"AAE")];
        let frame = trailers_frame(fields.into_iter()).unwrap();
        assert_eq!(frame, b"\x80\0\0\0\x1cgrpc-status: 0\r\nx-bin: AAE\r\n");
        assert_eq!(trailers_frame(std::iter::empty()).unwrap(), [0x80, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for text in ["AA=A", "====", "A===", "AB==", "AA\nA", "AA-_", "AAA\u{e9}"] {
            assert_eq!(TextDecoder::default().decode(text.as_bytes()), Err(BadText), "{text}");
        }
        let mut decoder = TextDecoder::default();
        assert_eq!((decoder.decode(b"AAAAAA"), decoder.end()), (Ok(vec![0; 3]), Err(BadText)));
        assert_eq!((decoder.decode(b"=="), decoder.end()), (Ok(vec![0]), Ok(())));
    }

    /// What a body in pieces is in all.
    fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, BadText> {
        let mut decoder = TextDecoder::default();
        let mut data = Vec::new();
        for piece in pieces {
            data.extend(decoder.decode(piece)?);
        }
        decoder.end().map(|()| data)
    }

    proptest! {
        #[test]
        fn what_is_written_in_pieces_reads_back(pieces: Vec<Vec<u8>>) {
            let text: String = pieces.iter().filter_map(|piece| Form::Text.encode(piece)).collect();
            prop_assert_eq!(decode([text.as_bytes()].into_iter()), Ok(pieces.concat()));
        }

        #[test]
        fn any_split_gives_the_same(
            text in "([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=|.){0,20}",
            cuts in prop::collection::vec(1usize..9, 1..60),
        ) {
            let mut rest = text.as_bytes();
            let mut cuts = cuts.iter().cycle();
            let pieces = std::iter::from_fn(|| {
                let (now, later) = rest.split_at(rest.len().min(*cuts.next()?));
                rest = later;
                (!now.is_empty()).then_some(now)
            });
            prop_assert_eq!(decode(pieces), decode([text.as_bytes()].into_iter()));
        }
    }
}
