//! Clients that keep to the rules, and such that do not, frame by frame.

use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::fixture;
use crate::http2::frame::MAX_HEAD_BYTES;
use crate::http2::{Fault, FrameMeter, PREFACE_BYTES};

const END: u8 = END_HEADERS | END_STREAM;
/// `GET http / ` without a host, as in tables.
const FIELDS: &[u8] = &[0x82, 0x86, 0x84];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn head(flags: u8, stream: u32) -> Vec<u8> {
    frame(HEADERS, flags, stream, FIELDS)
}

fn data(flags: u8, stream: u32) -> Vec<u8> {
    frame(DATA, flags, stream, b"some bytes")
}

struct Client {
    meter: FrameMeter,
    now: Instant,
}

impl Client {
    fn new() -> Self {
        let now = fixture::now();
        let mut client = Self { meter: FrameMeter::of_client(now), now };
        client.send(&[vec![0; PREFACE_BYTES], frame(SETTINGS, 0, 0, &[])].concat()).unwrap();
        client
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.meter.follow(bytes, self.now)
    }
}

fn breach(frames: &[Vec<u8>]) -> Option<Breach> {
    match Client::new().send(&frames.concat()) {
        Ok(()) => None,
        Err(Fault::Breach(breach)) => Some(breach),
        Err(Fault::Flood(flood)) => panic!("{flood:?}"),
    }
}

#[test]
fn whoever_keeps_to_the_rules_passes() {
    let right: [&[Vec<u8>]; 12] = [
        &[head(END, 1), head(END, 3), head(END_HEADERS, 5), data(0, 5), data(END_STREAM, 5)],
        // trailers
        &[head(END_HEADERS, 1), data(0, 1), head(END, 1)],
        // begun in order, ended in any
        &[
            head(END_HEADERS, 1),
            head(END_HEADERS, 3),
            head(END_HEADERS, 5),
            data(END_STREAM, 3),
            data(0, 5),
            data(END_STREAM, 1),
        ],
        &[head(0, 1), frame(CONTINUATION, 0, 1, &[]), frame(CONTINUATION, END_HEADERS, 1, &[]), head(END, 3)],
        // numbers of streams may be passed over, as nghttp does
        &[frame(PRIORITY, 0, 3, &[0; 5]), head(END, 13), head(END, 15)],
        // what may come late for a stream that is over
        &[head(END, 1), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), frame(RST_STREAM, 0, 1, &[0; 4])],
        &[head(END, 1), frame(PRIORITY, 0, 1, &[0; 5])],
        &[frame(SETTINGS, ACK, 0, &[]), frame(PING, 0, 0, &[0; 8]), frame(GOAWAY, 0, 0, &[0; 8])],
        &[frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff, 0, 5, 0, 0, 0x40, 0, 0xa, 0xa, 1, 2, 3, 4])],
        // padding up to the end, and the bit that means nothing
        &[frame(HEADERS, END | PADDED | HAS_PRIORITY, 1, &[2, 0, 0, 0, 0, 1, 0, 0])],
        &[head(END_HEADERS, 1 | 1 << 31), frame(DATA, PADDED | END_STREAM, 1, &[1, 0])],
        // what nobody knows
        &[frame(0x42, 0xff, 0, &[1]), frame(0x42, 0xff, 9, &[1])],
    ];
    for frames in right {
        assert_eq!(breach(frames), None, "{frames:x?}");
    }
}

#[test]
fn every_breach_has_its_name() {
    use Breach::{FlowControl, FrameSize, Protocol, StreamClosed};
    let open = || head(END_HEADERS, 1);
    let wrong: Vec<(Breach, Vec<Vec<u8>>)> = vec![
        (FrameSize, vec![frame(0x42, 0, 0, &[0; 16_385])]),
        (Protocol, vec![head(END, 2)]),
        (Protocol, vec![head(END, 0)]),
        (Protocol, vec![head(END, 13), head(END, 11)]),
        (StreamClosed, vec![head(END, 1), head(END, 1)]),
        (StreamClosed, vec![open(), data(END_STREAM, 1), head(END, 1)]),
        (StreamClosed, vec![head(END, 1), data(0, 1)]),
        (StreamClosed, vec![open(), frame(RST_STREAM, 0, 1, &[0; 4]), data(0, 1)]),
        (Protocol, vec![data(0, 1)]),
        (Protocol, vec![data(0, 0)]),
        (Protocol, vec![open(), data(0, 2)]),
        (FrameSize, vec![open(), frame(DATA, PADDED, 1, &[])]),
        (Protocol, vec![open(), frame(DATA, PADDED, 1, &[2, 0])]),
        (FrameSize, vec![frame(HEADERS, END | PADDED, 1, &[])]),
        (FrameSize, vec![frame(HEADERS, END | HAS_PRIORITY, 1, &[0; 4])]),
        (Protocol, vec![frame(HEADERS, END | PADDED | HAS_PRIORITY, 1, &[2, 0, 0, 0, 0, 1, 0])]),
        (Protocol, vec![frame(PRIORITY, 0, 0, &[0; 5])]),
        (FrameSize, vec![frame(PRIORITY, 0, 1, &[0; 4])]),
        (Protocol, vec![frame(RST_STREAM, 0, 0, &[0; 4])]),
        (Protocol, vec![frame(RST_STREAM, 0, 1, &[0; 4])]),
        (FrameSize, vec![open(), frame(RST_STREAM, 0, 1, &[0; 3])]),
        (Protocol, vec![frame(SETTINGS, 0, 1, &[])]),
        (FrameSize, vec![frame(SETTINGS, 0, 0, &[0; 5])]),
        (FrameSize, vec![frame(SETTINGS, ACK, 0, &[0; 6])]),
        (Protocol, vec![frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2])]),
        (FlowControl, vec![frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1, 0, 4, 0x80, 0, 0, 0])]),
        (Protocol, vec![frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff])]),
        (Protocol, vec![frame(SETTINGS, 0, 0, &[0, 5, 1, 0, 0, 0])]),
        (Protocol, vec![frame(SETTINGS, 0, 0, &[0, 8, 0, 0, 0, 2])]),
        (Protocol, vec![frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])]),
        (Protocol, vec![frame(PING, 0, 1, &[0; 8])]),
        (FrameSize, vec![frame(PING, 0, 0, &[0; 7])]),
        (Protocol, vec![frame(GOAWAY, 0, 1, &[0; 8])]),
        (FrameSize, vec![frame(GOAWAY, 0, 0, &[0; 7])]),
        (FrameSize, vec![frame(WINDOW_UPDATE, 0, 0, &[0; 3])]),
        (Protocol, vec![frame(WINDOW_UPDATE, 0, 0, &[0x80, 0, 0, 0])]),
        (Protocol, vec![open(), frame(WINDOW_UPDATE, 0, 1, &[0; 4])]),
        (Protocol, vec![frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])]),
        (Protocol, vec![frame(CONTINUATION, END_HEADERS, 1, &[])]),
        (Protocol, vec![head(0, 1), frame(CONTINUATION, END_HEADERS, 3, &[])]),
        (Protocol, vec![head(0, 1), frame(PING, 0, 0, &[0; 8])]),
        (Protocol, vec![head(0, 1), frame(0x42, 0, 0, &[])]),
        (
            Protocol,
            vec![head(0, 1), frame(CONTINUATION, END_HEADERS, 1, &[]), frame(CONTINUATION, 0, 1, &[])],
        ),
    ];
    for (wanted, frames) in wrong {
        assert_eq!(breach(&frames), Some(wanted), "{frames:x?}");
        // However it comes in pieces.
        let mut client = Client::new();
        let all = frames.concat();
        let found = all.iter().find_map(|byte| client.send(&[*byte]).err());
        assert_eq!(found, Some(Fault::Breach(wanted)), "{frames:x?} byte by byte");
    }
}

#[test]
fn settings_come_first() {
    let now = fixture::now();
    for first in [frame(SETTINGS, ACK, 0, &[]), head(END, 1), frame(PING, 0, 0, &[0; 8])] {
        let mut meter = FrameMeter::of_client(now);
        let bytes = [vec![0; PREFACE_BYTES], first].concat();
        assert_eq!(meter.follow(&bytes, now), Err(Fault::Breach(Breach::Protocol)));
    }
}

#[test]
fn streams_that_a_client_never_ends_are_forgotten_and_not_held_against_it() {
    let mut client = Client::new();
    let streams = (0..).map(|count| 2 * count + 1).take(OPEN_STREAMS + 2);
    streams.for_each(|stream| client.send(&head(END_HEADERS, stream)).unwrap());
    let rules = client.meter.rules().unwrap();
    assert_eq!((rules.open.len(), rules.forgotten), (OPEN_STREAMS, 3));
    client.send(&data(0, 3)).unwrap();
    assert_eq!(client.meter.breach(), Breach::StreamClosed, "if the codec minds");
    client.send(&data(END_STREAM, 5)).unwrap();
    assert_eq!(client.send(&data(END_STREAM, 5)), Err(Fault::Breach(Breach::StreamClosed)));
}

/// What the codec behind finds, by what it was given last.
#[test]
fn what_the_codec_minds_has_its_name_too() {
    let mut client = Client::new();
    assert_eq!(client.meter.breach(), Breach::Compression);
    client.send(&frame(HEADERS, END, 1, &[0, 1, b'X', 1, b'x'])).unwrap();
    assert_eq!(client.meter.breach(), Breach::Protocol, "a name in capitals");
    client.send(&frame(HEADERS, END, 3, &[0xbe])).unwrap();
    assert_eq!(client.meter.breach(), Breach::Compression, "an index that a table might have");
    // The codec has read what was before; a head in pieces stays until it is whole.
    let head = frame(HEADERS, END, 5, &[0x82, 0x86, 0x84, 0, 1, b'X', 1, b'x']);
    for byte in &head {
        client.send(&[*byte]).unwrap();
    }
    assert_eq!(client.meter.breach(), Breach::Protocol);
    client.send(&frame(SETTINGS, ACK, 0, &[])).unwrap();
    assert_eq!(client.meter.breach(), Breach::Compression);
    client.send(&frame(SETTINGS, ACK, 0, &[])).unwrap();
    assert_eq!(client.meter.breach(), Breach::Protocol, "a second answer to settings");
}

#[test]
fn heads_are_kept_only_as_far_as_they_are_needed() {
    let mut client = Client::new();
    client.send(&frame(HEADERS, 0, 1, &[0; 16_000])).unwrap();
    client.send(&frame(CONTINUATION, 0, 1, &[0; 16_000])).unwrap();
    assert_eq!(client.meter.rules().unwrap().heads.len(), KEPT_BYTES);
    client.send(&frame(CONTINUATION, END_HEADERS, 1, &[])).unwrap();
    client.send(&frame(PING, 0, 0, &[0; 8])).unwrap();
    assert!(client.meter.rules().unwrap().heads.capacity() <= RESTING_BYTES);
}

proptest! {
    /// Whatever pieces they come in, the same is found; and no bytes panic.
    #[test]
    fn any_split_gives_the_same(
        frames in prop::collection::vec((0u8..11, any::<u8>(), 0u32..12, 0usize..20), 0..60),
        noise in prop::collection::vec(any::<u8>(), 0..MAX_HEAD_BYTES),
        cuts in prop::collection::vec(1usize..30, 1..40),
    ) {
        let frames = frames.iter().flat_map(|(kind, flags, stream, bytes)| {
            frame(*kind, *flags, *stream, &vec![0; *bytes])
        });
        let bytes: Vec<u8> = frames.chain(noise).collect();
        let (mut at_once, mut in_pieces) = (Client::new(), Client::new());
        let expected = at_once.send(&bytes);
        let (mut rest, mut result) = (bytes.as_slice(), Ok(()));
        for cut in cuts.iter().cycle() {
            let (piece, later) = rest.split_at(rest.len().min(*cut));
            result = in_pieces.send(piece);
            rest = later;
            if result.is_err() || rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(result, expected);
        let (one, other) = (at_once.meter.rules().unwrap(), in_pieces.meter.rules().unwrap());
        prop_assert_eq!(&one.open, &other.open);
        prop_assert_eq!((one.next, one.next_frame), (other.next, other.next_frame));
    }
}
