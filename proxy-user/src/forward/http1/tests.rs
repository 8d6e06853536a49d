//! Whole messages one after the other, as a connection reads them, however their bytes arrive.

use proptest::prelude::*;
use proxy_io::Chunk;

use super::*;

/// A request as it goes on: head, body as it stands on the wire, and whether all of it was there.
type Seen = (Vec<u8>, Vec<u8>, bool);

/// A connection: reads what comes, message by message.
#[derive(Default)]
struct Reader {
    chunk: Chunk,
    scan: Scan,
    body: Option<Body>,
    seen: Vec<Seen>,
}

impl Reader {
    /// Takes up what came, and goes as far as it can.
    fn take(&mut self, piece: &[u8]) -> Result<(), Fault> {
        // In parts, as the driver gives them.
        self.chunk = Chunk::join(std::mem::take(&mut self.chunk), Chunk::from(piece.to_vec()));
        while !self.chunk.is_empty() {
            if let Some(body) = &mut self.body {
                let part = body.split(&mut self.chunk)?;
                let last = self.seen.last_mut().expect("a body follows its head");
                part.parts().for_each(|bytes| last.1.extend_from_slice(bytes));
            } else {
                self.chunk.flatten();
                let Some(end) = self.scan.find(&self.chunk, 512, 8)? else { return Ok(()) };
                self.handle_head(end)?;
            }
            self.handle_end();
        }
        Ok(())
    }

    fn handle_head(&mut self, end: usize) -> Result<(), Fault> {
        let mut slots = slots();
        let head = RequestHead::parse(&self.chunk[..end], &mut slots)?;
        self.body = Some(Body::new(head.framing, 8, 512));
        let mut out = Vec::new();
        head.write(&mut out, &RequestEdits::default());
        self.seen.push((out, Vec::new(), false));
        self.chunk.advance(end);
        self.scan = Scan::default();
        Ok(())
    }

    fn handle_end(&mut self) {
        if self.body.as_ref().is_some_and(Body::is_done) {
            self.body = None;
            self.seen.last_mut().expect("a body follows its head").2 = true;
        }
    }
}

/// Reads all pieces: the messages, what is left, and what was wrong.
fn read(pieces: &[&[u8]]) -> (Vec<Seen>, Vec<u8>, Option<Fault>) {
    let mut reader = Reader::default();
    let fault = pieces.iter().find_map(|piece| reader.take(piece).err());
    let rest = if fault.is_some() { Vec::new() } else { reader.chunk.parts().flatten().copied().collect() };
    // How much of a malformed body went on before its fault showed depends on how it came.
    if let (Some(_), Some(last)) = (fault, reader.seen.last_mut())
        && !last.2
    {
        last.1.clear();
    }
    (reader.seen, rest, fault)
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let body = prop_oneof![
        Just(String::from("\r\n")),
        "[a-z\r\n]{0,30}".prop_map(|text| format!("Content-Length: {}\r\n\r\n{text}", text.len())),
        (prop::collection::vec("[a-z\r\n]{1,20}", 0..4), "(;a=b)?", "(X-Sum: [0-9]{0,3}\r\n)?").prop_map(
            |(chunks, extension, trailer)| {
                let chunks = chunks.iter().map(|text| format!("{:x}{extension}\r\n{text}\r\n", text.len()));
                let chunks = chunks.collect::<String>();
                format!("Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n{trailer}\r\n")
            }
        ),
    ];
    let first = "(\r\n)?(GET|POST|OPTIONS) (/[a-z]{0,5}|http://y/[a-z]{0,3}) HTTP/1[.]1\r\n";
    (first, "(A: [a-z ]{0,9}\r\n){0,2}", body)
        .prop_map(|(first, fields, body)| format!("{first}Host: x\r\n{fields}{body}").into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn any_split_of_any_requests_gives_the_same(
        requests in prop::collection::vec(request(), 1..5),
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let count = requests.len();
        let mut bytes = requests.concat();
        if let Some((at, byte)) = damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let whole = read(&[&bytes]);
        if damage.is_none() {
            prop_assert_eq!((whole.0.len(), whole.2), (count, None));
            prop_assert!(whole.1.is_empty() && whole.0.iter().all(|seen| seen.2));
        }
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).chain([0, bytes.len()]).collect();
        ends.sort_unstable();
        let pieces: Vec<_> = ends.windows(2).map(|two| &bytes[two[0]..two[1]]).collect();
        prop_assert_eq!(&read(&pieces), &whole);
        let single: Vec<_> = bytes.chunks(1).collect();
        prop_assert_eq!(&read(&single), &whole);
    }
}
