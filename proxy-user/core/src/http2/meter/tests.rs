//! Programs at full speed, and peers that mean harm.

use super::*;
use crate::fixture;

/// A peer, and what passes between it and us on simulated time.
struct Peer {
    meter: FloodMeter,
    now: Instant,
}

impl Peer {
    fn new() -> Self {
        let now = fixture::now();
        Self { meter: FloodMeter::new(now), now }
    }

    fn send(&mut self, kind: u8, flags: u8, payload_bytes: u32) -> Result<(), Flood> {
        self.meter.refill(self.now);
        self.meter.take(kind, flags, payload_bytes)
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    /// Sends the same until it is too much; tells after how many.
    fn flood(&mut self, kind: u8, flags: u8, payload_bytes: u32) -> (usize, Option<Flood>) {
        for count in 0..10_000 {
            if let Err(flood) = self.send(kind, flags, payload_bytes) {
                return (count, Some(flood));
            }
        }
        (10_000, None)
    }
}

const MICROSECOND: Duration = Duration::from_micros(1);

/// `h2load`, or a browser: requests, answers of a megabyte, WINDOW_UPDATE for each 16 KiB of them, of the stream and of the
/// connection, and PRIORITY as older ones send it.
#[test]
fn a_load_generator_at_full_speed_never_floods() {
    let mut peer = Peer::new();
    peer.send(SETTINGS, 0, 18).unwrap();
    peer.send(SETTINGS, 1, 0).unwrap();
    for _ in 0..3000 {
        peer.send(PRIORITY, 0, 5).unwrap();
        peer.send(HEADERS, END_HEADERS | END_STREAM, 40).unwrap();
        peer.meter.handle_sent(60);
        for _ in 0..64 {
            peer.meter.handle_sent(16 << 10);
            peer.send(WINDOW_UPDATE, 0, 4).unwrap();
            peer.send(WINDOW_UPDATE, 0, 4).unwrap();
        }
        peer.wait(MICROSECOND);
    }
}

/// Small calls of gRPC as fast as they go: answers of 7 bytes, each with a PING to probe the path, an update of each window
/// and an empty DATA that ends the request.
#[test]
fn small_calls_at_full_speed_never_flood() {
    let mut peer = Peer::new();
    for _ in 0..100_000 {
        peer.send(HEADERS, END_HEADERS, 30).unwrap();
        peer.send(DATA, 0, 12).unwrap();
        peer.send(DATA, END_STREAM, 0).unwrap();
        peer.meter.handle_sent(30);
        peer.meter.handle_sent(12);
        peer.send(PING, 0, 8).unwrap();
        peer.send(WINDOW_UPDATE, 0, 4).unwrap();
        peer.send(WINDOW_UPDATE, 0, 4).unwrap();
        peer.meter.handle_sent(20);
        peer.wait(MICROSECOND);
    }
}

/// One stream of the smallest messages that there are, without a pause.
#[test]
fn a_stream_of_the_smallest_messages_never_floods() {
    let mut peer = Peer::new();
    peer.send(HEADERS, END_HEADERS, 30).unwrap();
    for _ in 0..300_000 {
        peer.send(DATA, 0, 5).unwrap();
    }
    for _ in 0..1000 {
        peer.send(DATA, 0, 16 << 10).unwrap();
        peer.send(DATA, 0, 1).unwrap();
    }
}

/// Each call is called off by its client when it has what it wanted, or by its deadline; some before any answer.
#[test]
fn calls_that_are_called_off_are_no_flood_if_others_are_answered() {
    let mut peer = Peer::new();
    for round in 0..100_000 {
        peer.send(HEADERS, END_HEADERS, 30).unwrap();
        if round % 3 > 0 {
            peer.meter.handle_sent(30);
            peer.meter.handle_sent(12);
        }
        peer.send(RST_STREAM, 0, 4).unwrap();
    }
    let mut impatient = Peer::new();
    for _ in 0..10_000 {
        impatient.send(HEADERS, END_HEADERS, 30).unwrap();
        impatient.send(RST_STREAM, 0, 4).unwrap();
        impatient.wait(Duration::from_millis(10));
    }
}

#[test]
fn what_only_costs_is_stopped_soon() {
    let floods = [
        (PING, 0, 8, Flood::Ping, 1000),
        (PING, 1, 8, Flood::Ping, 1000),
        (SETTINGS, 0, 0, Flood::Settings, 100),
        (SETTINGS, 1, 0, Flood::Settings, 100),
        (RST_STREAM, 0, 4, Flood::Reset, 1000),
        (PRIORITY, 0, 5, Flood::Priority, 1000),
        (PRIORITY_UPDATE, 0, 8, Flood::Priority, 1000),
        (WINDOW_UPDATE, 0, 4, Flood::WindowUpdate, 2000),
        (DATA, 0, 1, Flood::TinyData, 1000),
        (DATA, 0, 0, Flood::Empty, 100),
        (CONTINUATION, 0, 100, Flood::Continuation, 64),
        (0xb, 0, 3, Flood::Other, 100),
        (0x7, 0, 8, Flood::Other, 100),
        (0xff, 0, 0, Flood::Other, 100),
    ];
    for (kind, flags, payload_bytes, flood, most) in floods {
        assert_eq!(Peer::new().flood(kind, flags, payload_bytes), (most, Some(flood)), "{kind:#x} {flood:?}");
    }
}

/// HEADERS and RST_STREAM in turn, which never has more than one stream open; also if the requests have bodies.
#[test]
fn rapid_reset_is_a_flood_whatever_is_sent_beside_it() {
    let mut peer = Peer::new();
    let flood = (0..5000).find_map(|count| {
        peer.send(HEADERS, END_HEADERS, 30).unwrap();
        peer.send(DATA, 0, 16 << 10).unwrap();
        peer.send(RST_STREAM, 0, 4).err().map(|flood| (count, flood))
    });
    assert_eq!(flood, Some((1000, Flood::Reset)));
}

#[test]
fn heads_may_be_long_but_not_without_end() {
    let mut peer = Peer::new();
    for _ in 0..3 {
        peer.send(HEADERS, 0, 16 << 10).unwrap();
        (1..MAX_CONTINUATIONS).for_each(|_| peer.send(CONTINUATION, 0, 16 << 10).unwrap());
        peer.send(CONTINUATION, END_HEADERS, 1).unwrap();
    }
    peer.send(HEADERS, 0, 0).unwrap();
    let (count, flood) = peer.flood(CONTINUATION, 0, 0);
    assert!(count <= 64 && flood.is_some());
}

#[test]
fn time_gives_back_what_was_used_and_no_more() {
    let mut peer = Peer::new();
    assert_eq!(peer.flood(PING, 0, 8).0, 1000);
    peer.wait(Duration::from_millis(500));
    assert_eq!(peer.flood(PING, 0, 8).0, 50, "a hundred in a second");
    for _ in 0..9 {
        peer.wait(Duration::from_micros(999));
        peer.send(0x0, END_STREAM, 0).unwrap();
    }
    peer.wait(Duration::from_millis(2));
    assert_eq!(peer.flood(PING, 0, 8).0, 1, "no part of a millisecond is lost");
    peer.wait(Duration::from_secs(1 << 40));
    assert_eq!(peer.flood(PING, 0, 8).0, 1000);
}

#[test]
fn kinds_have_their_place_and_a_word_each() {
    for (index, flood) in Flood::ALL.into_iter().enumerate() {
        assert_eq!(flood as usize, index);
        assert!(Flood::ALL[..index].iter().all(|other| other.as_str() != flood.as_str()));
    }
    assert_eq!(Flood::Continuation as usize, Flood::METERED, "it has no allowance");
}
