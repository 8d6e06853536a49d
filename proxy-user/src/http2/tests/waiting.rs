//! Requests that wait until their endpoint allows more.

use proxy_core::http2::Code;
use proxy_core::http2::frame::{ACK, GOAWAY, HEAD_BYTES, MOST, SETTINGS};

use super::frames::frame;
use super::*;

impl Pair {
    /// Tells the client how many streams it may have, in place of its server.
    fn allow(&mut self, count: u32) {
        self.collect();
        let most = frame(SETTINGS, 0, 0, &[&[0, 3], count.to_be_bytes().as_slice()].concat());
        let mut client = self.client.borrow_mut();
        client.receive(&most, self.now);
        // The server would not know what that acknowledges.
        let acknowledged: Vec<u8> = client.out.drain(..HEAD_BYTES).collect();
        assert_eq!(acknowledged, frame(SETTINGS, ACK, 0, &[]));
    }

    fn paths(&mut self) -> Vec<String> {
        self.settle();
        std::iter::from_fn(|| self.asked()).map(|(path, _)| path).collect()
    }
}

#[test]
fn what_is_given_meanwhile_goes_out_once_there_is_room() {
    let mut pair = Pair::greeted();
    pair.allow(0);
    let (mut whole, mut dropped) = (pair.ask("/whole", false), pair.ask("/dropped", false));
    for stream in [&mut whole, &mut dropped] {
        stream.give(data(b"body", false)).unwrap();
        stream.give(Piece::Trailers(FieldList::default())).unwrap();
    }
    drop(dropped);
    assert_eq!(whole.held_bytes(), 4);
    pair.settle();
    assert!(pair.asked().is_none());
    pair.allow(2);
    pair.settle();
    let (path, mut asked) = pair.asked().unwrap();
    assert_eq!((&*path, take_all(&mut asked)), ("/whole", Ok((b"body".to_vec(), true))));
    assert!(pair.asked().is_none(), "whoever is dropped is never begun");
    drop((whole, asked));
    pair.settle();
    pair.assert_nothing_is_left();
}

#[test]
fn less_room_than_there_was_ends_nothing() {
    let mut pair = Pair::greeted();
    let begun = [pair.ask("/1", true), pair.ask("/2", true)];
    pair.settle();
    pair.allow(0);
    let waiting = [pair.ask("/3", true), pair.ask("/4", true)];
    pair.settle();
    let mut answering: Vec<Stream> = std::iter::from_fn(|| pair.asked()).map(|(_, stream)| stream).collect();
    assert_eq!(answering.len(), 2);
    for stream in &mut answering {
        stream.respond(&ok(), true).unwrap();
    }
    drop((answering, begun));
    assert_eq!(pair.paths(), <[&str; 0]>::default());
    pair.allow(1);
    assert_eq!(pair.paths(), ["/3"], "and its end makes room for the next");
    assert_eq!(pair.paths(), ["/4"]);
    drop(waiting);
}

/// Its place in memory may be another's at once.
#[test]
fn whoever_is_given_up_leaves_no_place_behind() {
    let mut pair = Pair::greeted();
    pair.allow(0);
    for _ in 0..100 {
        let mut stream = pair.ask("/given-up", true);
        stream.reset(Code::CANCEL);
    }
    assert_eq!(pair.client.borrow().unsent.len(), 0);
    let mut given_up = pair.ask("/given-up", true);
    let first = pair.ask("/first", true);
    given_up.reset(Code::CANCEL);
    assert_eq!(once(|cx| given_up.poll_response(cx)).unwrap().unwrap_err(), Error::GivenUp(Code::CANCEL));
    drop(given_up);
    let second = pair.ask("/second", true);
    pair.allow(9);
    assert_eq!(pair.paths(), ["/first", "/second"]);
    drop((first, second));
}

#[test]
fn whoever_waits_hears_that_the_endpoint_goes_away_however_many_there_are() {
    let mut pair = Pair::greeted();
    let mut begun = pair.ask("/begun", true);
    let mut refused = pair.ask("/refused", true);
    pair.settle();
    pair.allow(2);
    let (woken, mut waiting) = (Arc::new(Woken::default()), Vec::new());
    let waker = Waker::from(Arc::clone(&woken));
    for _ in 0..50_000 {
        let mut stream = pair.ask("/waits", true);
        assert!(stream.poll_response(&Context::from_waker(&waker)).is_pending());
        waiting.push(stream);
    }
    let goaway = frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
    pair.client.borrow_mut().receive(&goaway, pair.now);
    assert_eq!(woken.0.load(Ordering::Relaxed), waiting.len());
    for stream in waiting.iter_mut().chain([&mut refused]) {
        let error = once(|cx| stream.poll_response(cx)).unwrap().unwrap_err();
        assert!(error.is_refusal(), "{error}");
    }
    assert!(once(|cx| begun.poll_response(cx)).is_none(), "what is below the last one goes on");
    let (_, mut answering) = pair.asked().unwrap();
    answering.respond(&ok(), true).unwrap();
    pair.settle();
    assert!(once(|cx| begun.poll_response(cx)).unwrap().is_ok());
    drop((waiting, begun, refused, answering));
    while pair.asked().is_some() {}
    pair.settle();
    pair.assert_nothing_is_left();
}

#[test]
fn numbers_that_are_used_up_are_as_an_endpoint_that_goes_away() {
    let pair = Pair::greeted();
    pair.client.borrow_mut().streams.next = MOST;
    let mut last = pair.ask("/last", true);
    assert!(once(|cx| last.poll_response(cx)).is_none());
    let mut none = pair.ask("/none", true);
    assert!(once(|cx| none.poll_response(cx)).unwrap().unwrap_err().is_refusal());
    assert!(pair.try_ask("/none", true).is_err_and(Error::is_refusal));
    assert!(once(|cx| last.poll_reset(cx)).is_none());
}
