//! What must hold of a TCP connection, whoever forwards it: run without Weir, through each lane and over each family.

use std::net::SocketAddr;
use std::time::Duration;

use crate::client::{Place, number};
use crate::upstream::{End, Server};

/// Time for a server to see the end of a stream.
const SEEN: Duration = Duration::from_secs(20);
/// Fits into nobody's socket buffers, but is quickly sent.
const SOME_BYTES: u64 = 8 << 20;
/// Fits into the socket buffers of every hop, so that a sender that is not read from can still finish.
const BUFFERED_BYTES: u64 = 60_000;

/// A path to test: where the application runs, what it connects to, and who must answer.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    /// Where the application runs.
    pub place: Place<'a>,
    /// What it connects to.
    pub address: SocketAddr,
    /// Who must answer.
    pub server: &'a Server,
}

impl Path<'_> {
    /// Bytes arrive as they were sent, in both directions, one after the other.
    ///
    /// # Panics
    /// If they do not.
    pub fn carries(&self, bytes: u64) {
        let said = self.place.run("upload", &[&self.address, &bytes]);
        assert_eq!(said["answer"], format!("{bytes} ok"), "upload: {said}");
        assert_eq!(said["end"], "", "upload: {said}");
        let seen = self.server.seen(SEEN);
        assert_eq!((seen.bytes, seen.is_intact, seen.end), (bytes, true, End::Fin));
        let said = self.place.run("download", &[&self.address, &bytes]);
        assert_eq!(number(&said, "bytes"), bytes, "download: {said}");
        assert!(said["intact"] == true && said["ended"] == "EOF", "download: {said}");
        assert_eq!(self.server.seen(SEEN).end, End::Fin);
    }

    /// Small requests and answers are not held back, mixed up or lost.
    ///
    /// # Panics
    /// If they are.
    pub fn trades(&self, bytes: u64, piece: u64, streams: u64) {
        let said = self.place.run("trade", &[&self.address, &bytes, &piece, &streams]);
        let whole = bytes.div_ceil(piece) * piece * streams;
        assert!(said["intact"] == true && number(&said, "bytes") == whole, "{said}");
        for _ in 0..streams {
            assert_eq!(self.server.seen(SEEN).end, End::Fin);
        }
    }

    /// Either side may end its direction first; the other direction goes on to its own end.
    ///
    /// # Panics
    /// If it does not.
    pub fn half_closes(&self) {
        let said = self.place.run("client_ends_first", &[&self.address, &SOME_BYTES]);
        assert_eq!(number(&said, "bytes"), SOME_BYTES, "the client ends first: {said}");
        assert!(said["intact"] == true && said["ended"] == "EOF", "the client ends first: {said}");
        let seen = self.server.seen(SEEN);
        assert_eq!((seen.bytes, seen.is_intact, seen.end), (SOME_BYTES, true, End::Fin));

        let said = self.place.run("server_ends_first", &[&self.address, &SOME_BYTES]);
        assert_eq!(number(&said, "bytes"), SOME_BYTES, "the server ends first: {said}");
        assert!(said["intact"] == true && said["ended"] == "EOF", "the server ends first: {said}");
        let seen = self.server.seen(SEEN);
        assert_eq!((seen.bytes, seen.is_intact, seen.end), (SOME_BYTES, true, End::Fin), "{seen:?}");
    }

    /// A reset by one side is a reset at the other, and what was sent before it is not lost.
    ///
    /// # Panics
    /// If it is not.
    pub fn resets(&self) {
        let mut client = self.place.start("server_resets", &[&self.address, &BUFFERED_BYTES]);
        assert_eq!(self.server.seen(SEEN).end, End::Reset);
        client.go_on("read now");
        let said = client.next();
        assert_eq!(number(&said, "bytes"), BUFFERED_BYTES, "the server resets: {said}");
        assert!(said["intact"] == true && said["ended"] == "ECONNRESET", "the server resets: {said}");

        let mut client = self.place.start("client_resets", &[&self.address, &BUFFERED_BYTES]);
        client.go_on("reset now");
        assert_eq!(client.next()["done"], true);
        let seen = self.server.seen(SEEN);
        assert_eq!(seen.end, End::Reset, "the client resets: {seen:?}");
        // SO_LINGER of zero seconds throws away what has not left yet, so only order is promised here.
        assert!(seen.is_intact && seen.bytes <= BUFFERED_BYTES, "{seen:?}");
    }

    /// Every kind of connect that applications know is answered by the right server.
    ///
    /// # Panics
    /// If one is not.
    pub fn takes_odd_connects(&self, name: &str, kinds: &[&str]) {
        for kind in kinds {
            let said = self.place.run("odd", &[kind, &self.address]);
            assert_eq!(said["name"], name, "{kind} to {}: {said}", self.address);
            assert_eq!(said["peer"], self.address.to_string(), "{kind}: {said}");
        }
    }

    /// Connect, write and close before anybody accepts: nothing is lost.
    ///
    /// # Panics
    /// If something is.
    pub fn takes_short_notes(&self, count: u64) {
        let said = self.place.run("write_and_close", &[&self.address, &count]);
        assert_eq!(number(&said, "done"), count, "{said}");
        let mut notes: Vec<u64> = (0..count)
            .map(|_| {
                let command = self.server.seen(SEEN).command;
                command.strip_prefix("note ").and_then(|n| n.parse().ok()).expect("only notes were sent")
            })
            .collect();
        notes.sort_unstable();
        assert!(notes.into_iter().eq(0..count), "a note is missing or doubled");
    }
}

/// Connects that are done in other ways than by connect(2) on a blocking socket.
pub const ODD_CONNECTS: [&str; 5] =
    ["non_blocking", "fastopen_connect", "fastopen_sendto", "bind_first", "again_after_failure"];
