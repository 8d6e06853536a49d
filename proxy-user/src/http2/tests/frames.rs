//! Raw frames, right and wrong, in any pieces: each violation has the error that RFC 9113 names. `tests/tests/node_http2_attacks.rs` sends
//! the same over sockets.

use proxy_core::http2::frame::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Head, PADDED, PING, PREFACE, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use proxy_core::http2::{Breach, Code, Fault, Flood};

use super::super::error::End;
use super::*;

/// `:method: GET`, `:scheme: http`, `:path: /`, `:authority: x`.
const GET: &[u8] = b"\x82\x86\x84\x41\x01x";
/// The same with POST.
const POST: &[u8] = b"\x83\x86\x84\x41\x01x";
/// `x: y`
const FIELD: &[u8] = b"\x00\x01x\x01y";

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length_bytes = u32::try_from(payload.len()).unwrap();
    [&Head { kind, flags, stream, length_bytes }.to_bytes(), payload].concat()
}

pub(super) fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, GET)
}

pub(super) fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, POST)
}

/// A frame: type, stream and payload.
pub(super) type Said = (u8, u32, Vec<u8>);

/// What a server says to a client's frames that come in such pieces, and how it ends.
fn said(frames: &[Vec<u8>], piece_bytes: usize) -> (Vec<Said>, Option<End>) {
    let now = Instant::now();
    let mut conn = Conn::of_client(&HttpLimits::DEFAULT, now);
    let bytes = [PREFACE.as_slice(), &frame(SETTINGS, 0, 0, &[]), &frames.concat()].concat();
    bytes.chunks(piece_bytes).for_each(|piece| conn.receive(piece, now));
    let (mut out, mut all) = (conn.take_out(), Vec::new());
    while let Some((head, rest)) = out.split_first_chunk() {
        let head = Head::read(*head);
        let (payload, rest) = rest.split_at(head.length_bytes as usize);
        all.push((head.kind, head.stream, payload.to_vec()));
        out = rest.to_vec();
    }
    (all, conn.end())
}

/// The error that ends the connection, or a stream of it.
fn error(frames: &[Vec<u8>]) -> (u8, u32) {
    let (at_once, end) = said(frames, usize::MAX);
    for piece_bytes in (1..12).chain([100, 1000]) {
        assert_eq!(said(frames, piece_bytes), (at_once.clone(), end));
    }
    let last = at_once.iter().rev().find(|(kind, ..)| [GOAWAY, RST_STREAM].contains(kind));
    let (kind, stream, payload) = last.expect("an error");
    assert_eq!(*kind == GOAWAY, end.is_some(), "{end:?}");
    let code = payload.last_chunk().map(|code| u32::from_be_bytes(*code)).unwrap();
    (*kind, if *kind == GOAWAY { code } else { stream << 16 | code })
}

#[test]
fn each_violation_ends_what_it_must_with_its_code() {
    let settings =
        |name: u8, value: u32| frame(SETTINGS, 0, 0, &[&[0, name], value.to_be_bytes().as_slice()].concat());
    let head = |parts: &[&[u8]]| frame(HEADERS, END_HEADERS | END_STREAM, 1, &parts.concat());
    let most = (16 << 10) + 1;
    let wrong = [
        ("data on idle", Breach::Protocol, vec![frame(DATA, 0, 1, b"x")]),
        ("data on zero", Breach::Protocol, vec![frame(DATA, 0, 0, b"x")]),
        ("head on zero", Breach::Protocol, vec![frame(HEADERS, 4, 0, GET)]),
        ("even stream", Breach::Protocol, vec![get(2)]),
        ("back", Breach::Protocol, vec![get(5), get(3)]),
        ("head after end", Breach::StreamClosed, vec![get(1), get(1)]),
        ("data after end", Breach::StreamClosed, vec![get(1), frame(DATA, 0, 1, b"x")]),
        (
            "data after reset",
            Breach::StreamClosed,
            vec![post(1), frame(RST_STREAM, 0, 1, &[0; 4]), frame(DATA, 0, 1, b"x")],
        ),
        ("padding", Breach::Protocol, vec![post(1), frame(DATA, PADDED, 1, b"\x05x")]),
        ("no padding", Breach::FrameSize, vec![post(1), frame(DATA, PADDED, 1, b"")]),
        ("padded head", Breach::Protocol, vec![frame(HEADERS, PADDED | 5, 1, b"\x05\x82")]),
        ("priority in head", Breach::FrameSize, vec![frame(HEADERS, 0x25, 1, b"\0\0\0\x03")]),
        ("priority", Breach::FrameSize, vec![frame(PRIORITY, 0, 1, b"1234")]),
        ("priority on zero", Breach::Protocol, vec![frame(PRIORITY, 0, 0, b"12345")]),
        ("reset on idle", Breach::Protocol, vec![frame(RST_STREAM, 0, 1, &[0; 4])]),
        ("reset", Breach::FrameSize, vec![post(1), frame(RST_STREAM, 0, 1, &[0; 3])]),
        ("settings", Breach::FrameSize, vec![frame(SETTINGS, 0, 0, &[0; 5])]),
        ("settings on stream", Breach::Protocol, vec![frame(SETTINGS, 0, 1, &[])]),
        ("two acks", Breach::Protocol, vec![frame(SETTINGS, ACK, 0, &[]), frame(SETTINGS, ACK, 0, &[])]),
        ("window setting", Breach::FlowControl, vec![frame(SETTINGS, 0, 0, b"\0\x04\xff\xff\xff\xff")]),
        ("push", Breach::Protocol, vec![frame(PUSH_PROMISE, 4, 1, &[0; 4])]),
        ("ping", Breach::FrameSize, vec![frame(PING, 0, 0, &[0; 7])]),
        ("window of zero", Breach::Protocol, vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])]),
        ("window", Breach::FlowControl, vec![frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])]),
        ("continuation", Breach::Protocol, vec![frame(CONTINUATION, 4, 1, GET)]),
        ("too large", Breach::FrameSize, vec![post(1), frame(DATA, 0, 1, &vec![0; most])]),
        ("head too large", Breach::FrameSize, vec![frame(HEADERS, END_HEADERS, 1, &vec![0x82; most])]),
        ("unknown too large", Breach::FrameSize, vec![frame(0x42, 0, 0, &vec![0; most])]),
        ("data on even", Breach::Protocol, vec![get(3), frame(DATA, 0, 2, b"x")]),
        ("data on passed", Breach::StreamClosed, vec![get(3), frame(DATA, 0, 1, b"x")]),
        ("window on idle", Breach::Protocol, vec![frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])]),
        ("reset on zero", Breach::Protocol, vec![frame(RST_STREAM, 0, 0, &[0; 4])]),
        (
            "head after trailers",
            Breach::StreamClosed,
            vec![post(1), frame(HEADERS, END_HEADERS | END_STREAM, 1, FIELD), get(1)],
        ),
        ("head after reset", Breach::StreamClosed, vec![post(1), frame(RST_STREAM, 0, 1, &[0; 4]), get(1)]),
        ("no padding of a head", Breach::FrameSize, vec![frame(HEADERS, PADDED | 5, 1, b"")]),
        ("ack with payload", Breach::FrameSize, vec![frame(SETTINGS, ACK, 0, &[0; 6])]),
        ("push is no bool", Breach::Protocol, vec![settings(2, 2)]),
        ("protocols is no bool", Breach::Protocol, vec![settings(8, 2)]),
        ("frame too small", Breach::Protocol, vec![settings(5, 16_383)]),
        ("frame too large", Breach::Protocol, vec![settings(5, 1 << 24)]),
        ("ping on stream", Breach::Protocol, vec![frame(PING, 0, 1, &[0; 8])]),
        ("goaway on stream", Breach::Protocol, vec![frame(GOAWAY, 0, 1, &[0; 8])]),
        ("goaway", Breach::FrameSize, vec![frame(GOAWAY, 0, 0, &[0; 4])]),
        ("window length", Breach::FrameSize, vec![frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1])]),
        ("window of zero of stream", Breach::Protocol, vec![post(1), frame(WINDOW_UPDATE, 0, 1, &[0; 4])]),
        (
            "window by settings",
            Breach::FlowControl,
            vec![post(1), frame(WINDOW_UPDATE, 0, 1, &[0x40, 0, 0, 0]), settings(4, 0x7fff_ffff)],
        ),
        ("continuation behind the end", Breach::Protocol, vec![get(1), frame(CONTINUATION, 4, 1, GET)]),
        (
            "continuation of another",
            Breach::Protocol,
            vec![frame(HEADERS, 0, 1, GET), frame(CONTINUATION, 4, 3, FIELD)],
        ),
        ("between", Breach::Protocol, vec![frame(HEADERS, 0, 1, GET), frame(PING, 0, 0, &[0; 8])]),
        ("unknown between", Breach::Protocol, vec![frame(HEADERS, 0, 1, GET), frame(0x42, 0, 0, &[])]),
        ("index", Breach::Compression, vec![head(&[b"\x80"])]),
        ("no such index", Breach::Compression, vec![head(&[GET, b"\xbf"])]),
        ("integer without end", Breach::Compression, vec![head(&[&[0xff; 10]])]),
        ("string too long", Breach::Compression, vec![head(&[GET, b"\x40\x7f\x20x"])]),
        ("huffman", Breach::Compression, vec![head(&[GET, b"\x40\x01y\x84\xff\xff\xff\xff"])]),
        ("table too large", Breach::Compression, vec![head(&[b"\x3f\xff\x7f", GET])]),
        ("table size behind", Breach::Compression, vec![head(&[GET, b"\x20"])]),
        ("cut off", Breach::Compression, vec![head(&[GET, b"\x40"])]),
        (
            "index in continuation",
            Breach::Compression,
            vec![frame(HEADERS, 1, 1, GET), frame(CONTINUATION, 4, 1, b"\x80")],
        ),
        ("index in trailers", Breach::Compression, vec![post(1), head(&[b"\x80"])]),
        ("index behind another", Breach::Compression, vec![get(1), frame(HEADERS, 5, 3, b"\x80"), get(5)]),
    ];
    for (name, breach, frames) in wrong {
        assert_eq!(error(&frames), (GOAWAY, breach.code().0), "{name}");
        assert_eq!(said(&frames, 3).1, Some(End::Fault(Fault::Breach(breach))), "{name}");
    }
    let of_stream = [
        (
            "window",
            Code::FLOW_CONTROL_ERROR,
            vec![post(1), frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff])],
        ),
        (
            "ahead",
            Code::FLOW_CONTROL_ERROR,
            [vec![post(1)], vec![frame(DATA, 0, 1, &[0; 16 << 10]); 5]].concat(),
        ),
        ("trailers", Code::PROTOCOL_ERROR, vec![post(1), frame(HEADERS, END_HEADERS, 1, FIELD)]),
        ("no path", Code::PROTOCOL_ERROR, vec![frame(HEADERS, 5, 1, b"\x82\x86\x41\x01x")]),
        ("capitals", Code::PROTOCOL_ERROR, vec![frame(HEADERS, 5, 1, &[GET, b"\x00\x01X\x01y"].concat())]),
        (
            "connection",
            Code::PROTOCOL_ERROR,
            vec![frame(HEADERS, 5, 1, &[GET, b"\x00\x0aconnection\x01x"].concat())],
        ),
        ("length", Code::PROTOCOL_ERROR, vec![head(&[POST, b"\x0f\x0d\x013"])]),
        ("two lengths", Code::PROTOCOL_ERROR, vec![head(&[POST, b"\x0f\x0d\x010\x0f\x0d\x010"])]),
        (
            "more than said",
            Code::PROTOCOL_ERROR,
            vec![frame(HEADERS, 4, 1, &[POST, b"\x0f\x0d\x011"].concat()), frame(DATA, 1, 1, b"xy")],
        ),
        (
            "less than said",
            Code::PROTOCOL_ERROR,
            vec![frame(HEADERS, 4, 1, &[POST, b"\x0f\x0d\x013"].concat()), frame(DATA, 1, 1, b"xy")],
        ),
        ("status of a client", Code::PROTOCOL_ERROR, vec![head(&[GET, b"\x88"])]),
    ];
    for (name, code, frames) in of_stream {
        assert_eq!(error(&frames), (RST_STREAM, 1 << 16 | code.0), "{name}");
    }
    let too_many: Vec<Vec<u8>> = (0..=250).map(|number| post(number * 2 + 1)).collect();
    assert_eq!(error(&too_many), (RST_STREAM, 501 << 16 | Code::REFUSED_STREAM.0));
    let pings = vec![frame(PING, 0, 0, &[0; 8]); 2000];
    assert_eq!(error(&pings), (GOAWAY, Code::ENHANCE_YOUR_CALM.0));
    let long =
        [vec![frame(HEADERS, 0, 1, GET)], vec![frame(CONTINUATION, 0, 1, &[0; 16 << 10]); 20]].concat();
    assert_eq!(said(&long, 1000).1, Some(End::Fault(Fault::Flood(Flood::Continuation))));
}

#[test]
fn what_is_no_preface_is_told_so() {
    let wrong = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        [&PREFACE[..23], b"x"].concat(),
        [PREFACE.as_slice(), &get(1)].concat(),
    ];
    for bytes in wrong {
        for piece_bytes in (1..24).chain([usize::MAX]) {
            let now = Instant::now();
            let mut conn = Conn::of_client(&HttpLimits::DEFAULT, now);
            bytes.chunks(piece_bytes).for_each(|piece| conn.receive(piece, now));
            assert_eq!(conn.end(), Some(End::Fault(Fault::Breach(Breach::Protocol))));
            let goaway = frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 1]);
            assert!(conn.take_out().ends_with(&goaway));
        }
    }
}

#[test]
fn what_is_odd_but_allowed_is_no_error() {
    let frames = [
        get(1),
        frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
        frame(RST_STREAM, 0, 1, &[0; 4]),
        frame(PRIORITY, 0, 7, &[0; 5]),
        frame(0x42, 0xff, 77, b"abc"),
        frame(PING, ACK, 0, &[0; 8]),
        frame(HEADERS, END_STREAM, 9, &GET[..1]),
        frame(CONTINUATION, 0, 9, b""),
        frame(CONTINUATION, END_HEADERS, 9, &GET[1..]),
        post(11),
        // Nothing but padding, and a body with some.
        frame(DATA, PADDED, 11, &[3, 0, 0, 0]),
        frame(DATA, PADDED | END_STREAM, 11, &[2, b'x', 0, 0]),
    ];
    for piece_bytes in [1, 5, usize::MAX] {
        let (all, end) = said(&frames, piece_bytes);
        assert_eq!(end, None);
        assert!(all.iter().all(|(kind, ..)| [SETTINGS, WINDOW_UPDATE].contains(kind)), "{all:?}");
    }
    let now = Instant::now();
    let conn = Rc::new(RefCell::new(Conn::of_client(&HttpLimits::DEFAULT, now)));
    let bytes = [PREFACE.as_slice(), &frame(SETTINGS, 0, 0, &[]), &frames.concat()].concat();
    conn.borrow_mut().receive(&bytes, now);
    let asked: Vec<(usize, FieldList)> = conn.borrow_mut().asked.drain(..).collect();
    let mut streams: Vec<Stream> =
        asked.into_iter().map(|(key, _)| Stream::new(Rc::clone(&conn), key)).collect();
    assert_eq!(streams.len(), 3);
    assert_eq!(take_all(&mut streams[2]), Ok((b"x".to_vec(), true)));
    drop(streams);
    let conn = conn.borrow();
    assert_eq!(conn.receive_window.whole_bytes(), WINDOW_BYTES, "padding counts as used");
}

/// A client that allows less than it did may have been sent more already (RFC 9113, 6.9.2).
#[test]
fn a_window_below_zero_is_paid_back_first() {
    let now = Instant::now();
    let conn = Rc::new(RefCell::new(Conn::of_client(&HttpLimits::DEFAULT, now)));
    let receive = |bytes: &[u8]| conn.borrow_mut().receive(bytes, now);
    let setting = |window: u32| frame(SETTINGS, 0, 0, &[&[0, 4], window.to_be_bytes().as_slice()].concat());
    receive(&[PREFACE.as_slice(), &setting(1000), &get(1)].concat());
    let (key, _) = conn.borrow_mut().asked.pop_front().unwrap();
    let mut stream = Stream::new(Rc::clone(&conn), key);
    stream.respond(&ok(), false).unwrap();
    stream.give(data(&[0; 1500], true)).unwrap();
    assert_eq!(stream.held_bytes(), 500);
    receive(&setting(100));
    receive(&frame(WINDOW_UPDATE, 0, 1, &900_u32.to_be_bytes()));
    assert_eq!(stream.held_bytes(), 500, "paid back, and nothing more");
    receive(&frame(WINDOW_UPDATE, 0, 1, &300_u32.to_be_bytes()));
    assert_eq!(stream.held_bytes(), 200);
    receive(&setting(300));
    assert_eq!(stream.held_bytes(), 0);
}

/// An answer that waits for room, of a stream that nobody has any more, while its request still comes.
#[test]
fn what_comes_for_nobody_counts_as_used() {
    let now = Instant::now();
    let conn = Rc::new(RefCell::new(Conn::of_client(&HttpLimits::DEFAULT, now)));
    let receive = |bytes: &[u8]| conn.borrow_mut().receive(bytes, now);
    let none = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    receive(&[PREFACE.as_slice(), &none, &post(1)].concat());
    let (key, _) = conn.borrow_mut().asked.pop_front().unwrap();
    let mut stream = Stream::new(Rc::clone(&conn), key);
    stream.respond(&ok(), false).unwrap();
    stream.give(data(b"answer", true)).unwrap();
    drop(stream);
    assert_eq!(conn.borrow().left_bytes(), 6);
    receive(&frame(DATA, PADDED, 1, &[3, b'x', 0, 0, 0]));
    receive(&frame(DATA, 0, 1, b"more"));
    assert_eq!(conn.borrow().receive_window.whole_bytes(), WINDOW_BYTES);
    receive(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 6]));
    let conn = conn.borrow();
    assert_eq!((conn.left_bytes(), conn.streams.open(), conn.streams.all.len()), (0, 0, 0));
}

#[test]
fn a_client_that_is_refused_streams_begins_none() {
    let mut pair = Pair::new();
    // Before the server has said how many it takes.
    let none = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 0]);
    pair.client.borrow_mut().receive(&none, pair.now);
    let mut asking = pair.ask("/", true);
    pair.collect();
    assert_eq!(pair.client.borrow().streams.open(), 0);
    let some = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]);
    pair.client.borrow_mut().receive(&some, pair.now);
    assert_eq!(pair.client.borrow().streams.open(), 1);
    let early = frame(DATA, END_STREAM, 1, b"no head");
    pair.client.borrow_mut().receive(&early, pair.now);
    assert_eq!(once(|cx| asking.poll_reset(cx)), Some(Error::GivenUp(Code::PROTOCOL_ERROR)));
}
