//! What endpoints say, right and wrong, in any pieces, while requests are under way.

use proxy_core::http2::frame::{
    ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PUSH_PROMISE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE,
};
use proxy_core::http2::{Breach, Code, Fault};

use super::super::error::End;
use super::frames::frame;
use super::*;

const ENDS: u8 = END_HEADERS | END_STREAM;
/// `:status: 200`
const OK: &[u8] = b"\x88";
/// `:status: 103`
const EARLY: &[u8] = b"\x08\x03103";
/// `content-length: 3`
const LENGTH: &[u8] = b"\x0f\x0d\x013";

/// How a connection ends, and two requests of it, of which the second has more to say.
type Outcome = (Option<End>, [Option<Error>; 2], Vec<u8>);

/// What becomes of two requests, of such a method, when an endpoint says this in such pieces.
fn outcome(method: &str, frames: &[Vec<u8>], piece_bytes: usize) -> Outcome {
    let conn = Rc::new(RefCell::new(Conn::of_endpoint(&HttpLimits::DEFAULT)));
    let mut streams = [true, false].map(|has_ended| {
        let request = FieldList::of_request(method, Some("a"), "/");
        let key = conn.borrow_mut().begin(&request, &[], has_ended).unwrap();
        Stream::new(Rc::clone(&conn), key)
    });
    conn.borrow_mut().take_out();
    let bytes = frames.concat();
    bytes.chunks(piece_bytes).for_each(|piece| conn.borrow_mut().receive(piece, Instant::now()));
    let errors = [0, 1].map(|index| once(|cx| streams[index].poll_reset(cx)));
    let out = conn.borrow_mut().take_out();
    (conn.borrow().end(), errors, out)
}

fn in_any_pieces(method: &str, frames: &[Vec<u8>]) -> Outcome {
    let settings = vec![frame(SETTINGS, 0, 0, &[])];
    let frames = [settings, frames.to_vec()].concat();
    let at_once = outcome(method, &frames, usize::MAX);
    for piece_bytes in [1, 2, 9, 1000] {
        assert_eq!(outcome(method, &frames, piece_bytes), at_once, "{piece_bytes}");
    }
    at_once
}

#[test]
fn each_violation_ends_the_connection_with_its_code() {
    let goaway = |last: u8| frame(GOAWAY, 0, 0, &[0, 0, 0, last, 0, 0, 0, 0]);
    let wrong = [
        ("push", Breach::Protocol, vec![frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02\x82")]),
        ("push is allowed", Breach::Protocol, vec![frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 1])]),
        ("protocols", Breach::Protocol, vec![frame(SETTINGS, 0, 0, &[0, 8, 0, 0, 0, 2])]),
        ("frame size", Breach::Protocol, vec![frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1])]),
        ("even stream", Breach::Protocol, vec![frame(HEADERS, ENDS, 2, OK)]),
        ("idle head", Breach::Protocol, vec![frame(HEADERS, ENDS, 5, OK)]),
        ("idle data", Breach::Protocol, vec![frame(DATA, 0, 5, b"x")]),
        ("idle window", Breach::Protocol, vec![frame(WINDOW_UPDATE, 0, 5, &[0, 0, 0, 1])]),
        ("idle reset", Breach::Protocol, vec![frame(RST_STREAM, 0, 5, &[0; 4])]),
        ("goaway that grows", Breach::Protocol, vec![goaway(1), goaway(3)]),
        ("short goaway", Breach::FrameSize, vec![frame(GOAWAY, 0, 0, &[0; 7])]),
        ("goaway on stream", Breach::Protocol, vec![frame(GOAWAY, 0, 1, &[0; 8])]),
        ("ping on stream", Breach::Protocol, vec![frame(PING, 0, 1, &[0; 8])]),
        ("two acks", Breach::Protocol, vec![frame(SETTINGS, ACK, 0, &[]); 2]),
        ("index", Breach::Compression, vec![frame(HEADERS, END_HEADERS, 1, b"\x80")]),
        ("head after end", Breach::StreamClosed, vec![frame(HEADERS, ENDS, 3, OK); 2]),
        ("data after end", Breach::StreamClosed, vec![frame(HEADERS, ENDS, 3, OK), frame(DATA, 0, 3, b"x")]),
        ("too large", Breach::FrameSize, vec![frame(PING, 0, 0, &[0; (16 << 10) + 1])]),
        ("data on zero", Breach::Protocol, vec![frame(DATA, 0, 0, b"x")]),
        ("between", Breach::Protocol, vec![frame(HEADERS, 0, 1, OK), frame(PING, 0, 0, &[0; 8])]),
    ];
    for (name, breach, frames) in wrong {
        let (end, errors, out) = in_any_pieces("GET", &frames);
        assert_eq!(end, Some(End::Fault(Fault::Breach(breach))), "{name}");
        let last_bytes = frame(GOAWAY, 0, 0, &u64::from(breach.code().0).to_be_bytes());
        assert!(out.ends_with(&last_bytes), "{name}");
        assert!(errors[1].is_some(), "{name}: whoever still asks hears of it");
    }
    for first in [frame(SETTINGS, ACK, 0, &[]), frame(PING, 0, 0, &[0; 8]), b"HTTP/1.1 400 Bad".to_vec()] {
        for piece_bytes in [1, usize::MAX] {
            let (end, ..) = outcome("GET", std::slice::from_ref(&first), piece_bytes);
            assert!(matches!(end, Some(End::Fault(Fault::Breach(_)))), "{first:?}: {end:?}");
        }
    }
}

#[test]
fn a_head_without_an_end_has_an_error_of_its_own() {
    let frames = [vec![frame(HEADERS, 0, 1, OK)], vec![frame(0x9, 0, 1, &[0; 16 << 10]); 20]].concat();
    let (end, errors, _) = in_any_pieces("GET", &frames);
    assert_eq!(end, Some(End::HeadTooLong));
    assert_eq!(errors, [Some(Error::Ended(Code::ENHANCE_YOUR_CALM)); 2]);
}

#[test]
fn an_answer_that_is_malformed_costs_its_stream_only() {
    let head = |fields: &[u8]| frame(HEADERS, END_HEADERS, 1, fields);
    let whole = |fields: &[u8]| frame(HEADERS, ENDS, 1, fields);
    let last = |data: &[u8]| frame(DATA, END_STREAM, 1, data);
    let protocol = Code::PROTOCOL_ERROR;
    let wrong = [
        ("no status", protocol, vec![head(b"\x00\x01x\x01y")]),
        ("two", protocol, vec![head(b"\x88\x88")]),
        ("status behind", protocol, vec![head(b"\x00\x01x\x01y\x88")]),
        ("of a request", protocol, vec![head(b"\x88\x82")]),
        ("status of two digits", protocol, vec![head(b"\x08\x0220")]),
        ("capitals", protocol, vec![head(b"\x88\x00\x01X\x01y")]),
        ("connection", protocol, vec![head(b"\x88\x00\x0aconnection\x01x")]),
        ("101", protocol, vec![head(b"\x08\x03101")]),
        ("103 at the end", protocol, vec![whole(EARLY)]),
        ("17 of 103", Code::ENHANCE_YOUR_CALM, vec![head(EARLY); 17]),
        ("data before the head", protocol, vec![last(b"x")]),
        ("an end before the head", protocol, vec![last(b"")]),
        ("only padding before the head", protocol, vec![frame(DATA, PADDED | END_STREAM, 1, &[0])]),
        ("an end after 103", protocol, vec![head(EARLY), last(b"")]),
        ("trailers without end", protocol, vec![head(OK), head(b"\x00\x01x\x01y")]),
        ("status in trailers", protocol, vec![head(OK), whole(OK)]),
        ("no body of 3", protocol, vec![whole(&[OK, LENGTH].concat())]),
        ("more than 3", protocol, vec![head(&[OK, LENGTH].concat()), last(b"four")]),
        ("a body behind 204", protocol, vec![head(b"\x89"), last(b"x")]),
        ("a body behind 204 that says so", protocol, vec![head(&[b"\x89", LENGTH].concat()), last(b"yes")]),
        ("a body behind 304", protocol, vec![head(b"\x8b"), last(b"x")]),
        ("less than 3", protocol, vec![head(&[OK, LENGTH].concat()), last(b"no")]),
        ("less than 3, by nothing", protocol, vec![head(&[OK, LENGTH].concat()), last(b"")]),
        (
            "less than 3, before trailers",
            protocol,
            vec![head(&[OK, LENGTH].concat()), whole(b"\x00\x01x\x01y")],
        ),
        (
            "ahead of the window",
            Code::FLOW_CONTROL_ERROR,
            [vec![head(OK)], vec![frame(DATA, 0, 1, &[0; 16 << 10]); 5]].concat(),
        ),
        (
            "a window that is too large",
            Code::FLOW_CONTROL_ERROR,
            vec![frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff])],
        ),
    ];
    for (name, code, frames) in wrong {
        let (end, errors, out) = in_any_pieces("GET", &frames);
        assert_eq!((end, errors), (None, [Some(Error::GivenUp(code)), None]), "{name}");
        assert!(out.ends_with(&frame(RST_STREAM, 0, 1, &code.0.to_be_bytes())), "{name}");
        // The same behind it: it was on its way.
        let (end, errors, _) = in_any_pieces("GET", &[frames.clone(), vec![last(b"late")]].concat());
        assert_eq!((end, errors), (None, [Some(Error::GivenUp(code)), None]), "{name}");
    }
    let (end, errors, _) = in_any_pieces("HEAD", &[head(&[OK, LENGTH].concat()), last(b"yes")]);
    assert_eq!((end, errors), (None, [Some(Error::GivenUp(protocol)), None]), "a body for HEAD");
}

#[test]
fn what_endpoints_may_say_is_no_error() {
    let head = |fields: &[u8]| frame(HEADERS, END_HEADERS, 1, fields);
    let whole = |fields: &[u8]| frame(HEADERS, ENDS, 1, fields);
    let right = [
        ("HEAD", vec![whole(&[OK, LENGTH].concat())]),
        ("HEAD", vec![head(OK), frame(DATA, END_STREAM, 1, &[])]),
        ("GET", vec![whole(&[b"\x8b", LENGTH].concat())]),
        ("GET", vec![head(b"\x89"), frame(DATA, PADDED | END_STREAM, 1, &[1, 0])]),
        ("GET", vec![head(b"\x8b"), whole(b"\x00\x01x\x01y")]),
        ("GET", [vec![head(EARLY); 15], vec![whole(OK)]].concat()),
        ("GET", vec![head(OK), frame(DATA, PADDED, 1, &[0]), frame(DATA, PADDED | END_STREAM, 1, &[1, 0])]),
        // Whatever is said of a stream that is over, or will never be begun by an endpoint.
        ("GET", vec![whole(OK), whole(OK), frame(DATA, END_STREAM, 1, b"x")]),
        ("GET", vec![whole(OK), frame(RST_STREAM, 0, 1, &[0; 4]), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])]),
        ("GET", vec![frame(0x2, 0, 5, &[0; 5]), frame(0x42, 0xff, 6, b"unknown"), frame(0x42, 0, 0, &[])]),
        ("GET", vec![frame(SETTINGS, 0, 0, b"\xab\xcd\0\0\0\x07\0\x05\0\xff\xff\xff")]),
    ];
    for (method, frames) in right {
        let (end, errors, _) = in_any_pieces(method, &frames);
        assert_eq!((end, errors), (None, [None, None]), "{frames:?}");
    }
}

/// Padding takes of windows what its owner gives back, who must know of it.
#[test]
fn padding_alone_fills_no_window() {
    let conn = Rc::new(RefCell::new(Conn::of_endpoint(&HttpLimits::DEFAULT)));
    let key = conn.borrow_mut().begin(&FieldList::of_request("GET", None, "/"), &[], true).unwrap();
    let mut stream = Stream::new(Rc::clone(&conn), key);
    let receive = |bytes: &[u8]| conn.borrow_mut().receive(bytes, Instant::now());
    receive(&[frame(SETTINGS, 0, 0, &[]), frame(HEADERS, END_HEADERS, 1, OK)].concat());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    for padding in (0..=255_u8).cycle().take(2000) {
        assert!(stream.poll_take(&Context::from_waker(&waker)).is_pending());
        woken.0.store(0, Ordering::Relaxed);
        let payload = [vec![padding], vec![0; padding.into()]].concat();
        receive(&frame(DATA, PADDED, 1, &payload));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1, "{padding}");
    }
    assert_eq!(once(|cx| stream.poll_reset(cx)), None);
    drop(stream);
    assert_eq!(conn.borrow().receive_window.whole_bytes(), ENDPOINT_WINDOW_BYTES);
}
