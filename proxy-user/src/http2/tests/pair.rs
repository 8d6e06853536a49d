//! Requests and answers, and every way in which they end.

use proxy_core::http2::Code;

use super::super::MOST_STREAMS;
use super::super::error::End;
use super::*;

const WINDOW: usize = STREAM_WINDOW_BYTES as usize;

fn trailers() -> FieldList {
    FieldList::from_iter([("grpc-status", "0")])
}

#[test]
fn an_exchange_is_whole_whatever_pieces_its_bytes_come_in() {
    for bytes in [1, 2, 9, 10, 100, usize::MAX] {
        let mut pair = Pair::new();
        let mut asking = pair.ask("/cart", false);
        asking.give(data(b"what is ", false)).unwrap();
        asking.give(data(b"in it?", false)).unwrap();
        asking.give(Piece::Trailers(trailers())).unwrap();
        let mut carry = || (0..2000).for_each(|_| pair.carry(bytes, bytes));
        carry();
        let (path, mut answering) = pair.asked().unwrap();
        assert_eq!(path, "/cart");
        assert_eq!(take_all(&mut answering), Ok((b"what is in it?".to_vec(), true)));
        answering.respond(&FieldList::of_answer(103), false).unwrap();
        answering.respond(&ok(), false).unwrap();
        answering.give(data(b"nothing", false)).unwrap();
        answering.give(Piece::Trailers(trailers())).unwrap();
        (0..2000).for_each(|_| pair.carry(bytes, bytes));
        let mut head = || once(|cx| asking.poll_response(cx)).unwrap().unwrap().status();
        assert_eq!([head(), head()], [103, 200]);
        assert!(!asking.has_ended());
        assert!(
            matches!(once(|cx| asking.poll_take(cx)), Some(Ok(Piece::Data(data, false))) if data == "nothing")
        );
        assert!(
            matches!(once(|cx| asking.poll_take(cx)), Some(Ok(Piece::Trailers(all))) if all == trailers())
        );
        drop((asking, answering));
        pair.settle();
        pair.assert_nothing_is_left();
    }
}

#[test]
fn a_reader_that_takes_nothing_holds_its_sender_back_at_the_window() {
    let mut pair = Pair::greeted();
    let mut asking = pair.ask("/", false);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    asking.give(data(&vec![7; 3 * WINDOW], true)).unwrap();
    assert!(asking.poll_sent(&Context::from_waker(&waker)).is_pending());
    pair.settle();
    let (_, mut answering) = pair.asked().unwrap();
    assert_eq!(answering.held_bytes(), WINDOW);
    assert_eq!(asking.held_bytes(), 2 * WINDOW);
    let (mut all, mut has_ended) = (0, false);
    while !has_ended {
        let (some, ended) = take_all(&mut answering).unwrap();
        assert!(ended || !some.is_empty(), "it stands at {all}");
        (all, has_ended) = (all + some.len(), ended);
        pair.settle();
    }
    assert_eq!(all, 3 * WINDOW);
    assert!(woken.0.load(Ordering::Relaxed) > 0);
    assert_eq!(once(|cx| asking.poll_sent(cx)), Some(Ok(())));
}

/// Streams that nobody reads hold up no other one for as long as the connection's window has room, and what is given back is told.
#[test]
fn those_who_read_nothing_hold_up_nobody_else() {
    let mut pair = Pair::greeted();
    let stuck = WINDOW_BYTES as usize / WINDOW - 1;
    let mut asking: Vec<Stream> = (0..=stuck).map(|_| pair.ask("/", false)).collect();
    for one in &mut asking {
        one.give(data(&vec![1; 8 * WINDOW], true)).unwrap();
    }
    pair.settle();
    let mut answering: Vec<Stream> = std::iter::from_fn(|| pair.asked()).map(|(_, stream)| stream).collect();
    let mut reader = answering.pop().unwrap();
    let mut all = 0;
    loop {
        let (some, has_ended) = take_all(&mut reader).unwrap();
        all += some.len();
        if has_ended {
            break;
        }
        assert!(!some.is_empty(), "it stands at {all}");
        pair.settle();
    }
    assert_eq!(all, 8 * WINDOW);
    drop((asking, answering, reader));
    pair.settle();
    pair.assert_nothing_is_left();
}

#[test]
fn whoever_drops_a_stream_tells_the_other_side_why() {
    // What the client does before the server has its stream, what the server does, and what the client hears.
    type Act = fn(&mut Stream);
    let nothing: Act = |_| {};
    let cases: [(bool, Act, Option<Error>); 5] = [
        (true, nothing, Some(Error::Reset(Code::CANCEL))),
        (true, |stream| stream.respond(&ok(), false).unwrap(), Some(Error::Reset(Code::CANCEL))),
        (true, |stream| stream.respond(&ok(), true).unwrap(), None),
        // The whole answer, while the request still comes.
        (false, |stream| stream.respond(&ok(), true).unwrap(), Some(Error::Reset(Code::NO_ERROR))),
        (true, |stream| stream.reset(Code::INTERNAL_ERROR), Some(Error::Reset(Code::INTERNAL_ERROR))),
    ];
    for (index, (has_ended, act, error)) in cases.into_iter().enumerate() {
        let mut pair = Pair::greeted();
        let mut asking = pair.ask("/", has_ended);
        pair.settle();
        let (_, mut answering) = pair.asked().unwrap();
        act(&mut answering);
        drop(answering);
        pair.settle();
        assert_eq!(once(|cx| asking.poll_reset(cx)), error, "{index}");
        drop(asking);
        pair.settle();
        pair.assert_nothing_is_left();
    }
}

#[test]
fn what_was_given_before_a_drop_still_goes_out() {
    let mut pair = Pair::greeted();
    let mut asking = pair.ask("/", true);
    pair.settle();
    let (_, mut answering) = pair.asked().unwrap();
    answering.respond(&ok(), false).unwrap();
    answering.give(data(&vec![3; 2 * WINDOW], false)).unwrap();
    answering.give(Piece::Trailers(trailers())).unwrap();
    drop(answering);
    pair.settle();
    assert_eq!(pair.server.borrow().left_bytes(), 2 * WINDOW - 65_535 - 1, "the rest waits");
    assert!(once(|cx| asking.poll_response(cx)).is_some());
    let mut all = 0;
    loop {
        let (some, has_ended) = take_all(&mut asking).unwrap();
        all += some.len();
        if has_ended {
            break;
        }
        pair.settle();
    }
    assert_eq!(all, 2 * WINDOW);
    drop(asking);
    pair.settle();
    pair.assert_nothing_is_left();
}

#[test]
fn an_end_of_the_connection_reaches_everybody_who_waits() {
    for end in [End::Eof, End::Died(std::io::ErrorKind::ConnectionReset), End::GivenUp(Code::CANCEL)] {
        let mut pair = Pair::greeted();
        let (woken, mut streams) = (Arc::new(Woken::default()), Vec::new());
        let waker = Waker::from(Arc::clone(&woken));
        let cx = Context::from_waker(&waker);
        for count in 1..=3 {
            let mut asking = pair.ask("/", false);
            asking.give(data(&vec![0; 2 * WINDOW], false)).unwrap();
            match count {
                1 => assert!(asking.poll_response(&cx).is_pending()),
                2 => assert!(asking.poll_sent(&cx).is_pending()),
                _ => assert!(asking.poll_reset(&cx).is_pending()),
            }
            streams.push(asking);
        }
        pair.settle();
        pair.client.borrow_mut().finish(end);
        assert_eq!(woken.0.load(Ordering::Relaxed), 3, "{end}");
        assert_eq!(once(|cx| streams[0].poll_response(cx)).unwrap().unwrap_err(), end.of_stream());
        assert_eq!(once(|cx| streams[1].poll_sent(cx)), Some(Err(end.of_stream())));
        assert!(pair.try_ask("/", true).is_err());
    }
}

#[test]
fn who_goes_away_takes_what_it_has_begun_and_refuses_the_rest() {
    let mut pair = Pair::greeted();
    let mut begun = pair.ask("/begun", true);
    pair.settle();
    let (_, mut answering) = pair.asked().unwrap();
    pair.server.borrow_mut().leave();
    // On its way when the server was leaving: still taken.
    let mut late = pair.ask("/late", true);
    pair.settle();
    let (path, mut late_answering) = pair.asked().unwrap();
    assert_eq!(path, "/late");
    assert_eq!(pair.try_ask("/refused", true).err(), Some(Error::GoAway(Code::NO_ERROR)));
    assert_eq!(pair.server.borrow().leaving, super::super::conn::Leaving::Behind(3));
    for (asking, answering) in [(&mut begun, &mut answering), (&mut late, &mut late_answering)] {
        answering.respond(&ok(), true).unwrap();
        pair.settle();
        assert_eq!(once(|cx| asking.poll_response(cx)).unwrap().unwrap().status(), 200);
    }
}

#[test]
fn requests_wait_for_the_peer_to_allow_more_and_begin_in_order() {
    let mut pair = Pair::greeted();
    let most = MOST_STREAMS as usize;
    let mut asking: Vec<Stream> = (0..most + 4).map(|number| pair.ask(&format!("/{number}"), true)).collect();
    pair.settle();
    assert_eq!(pair.client.borrow().streams.open(), most);
    // One that waits is dropped, and never begun.
    drop(asking.remove(most + 1));
    let mut answering: Vec<Stream> = std::iter::from_fn(|| pair.asked()).map(|(_, stream)| stream).collect();
    assert_eq!(answering.len(), most);
    let mut begun = Vec::new();
    for _ in 0..3 {
        answering.remove(0).respond(&ok(), true).unwrap();
        pair.settle();
        begun.extend(pair.asked().map(|(path, stream)| {
            answering.push(stream);
            path
        }));
    }
    assert_eq!(begun, ["/250", "/252", "/253"]);
}

/// A stream is given up within a frame of its body, and another one comes to its place in memory.
#[test]
fn the_rest_of_a_frame_goes_to_no_other_stream() {
    let mut pair = Pair::greeted();
    let asking = pair.ask("/one", true);
    pair.settle();
    let (_, mut answering) = pair.asked().unwrap();
    answering.respond(&ok(), false).unwrap();
    answering.give(data(&[1; 1000], false)).unwrap();
    pair.collect();
    let until = pair.to_client.len() - 500;
    pair.carry(0, until);
    drop(asking);
    let mut other = pair.ask("/two", true);
    pair.carry(0, usize::MAX);
    pair.settle();
    let (path, mut answering_other) = pair.asked().unwrap();
    assert_eq!(path, "/two");
    answering_other.respond(&ok(), false).unwrap();
    answering_other.give(data(&[2; 10], true)).unwrap();
    pair.settle();
    assert!(once(|cx| other.poll_response(cx)).is_some());
    assert_eq!(take_all(&mut other), Ok((vec![2; 10], true)));
    drop((answering, other, answering_other));
    pair.settle();
    pair.assert_nothing_is_left();
}

#[test]
fn heads_larger_than_a_frame_pass_both_ways() {
    let mut pair = Pair::greeted();
    let long = vec![b'~'; 40_000];
    let mut request = FieldList::of_request("HEAD", Some("a"), "/");
    request.append("x-long", &long);
    let key = pair.client.borrow_mut().begin(&request, &[], true).unwrap();
    let mut asking = Stream::new(Rc::clone(&pair.client), key);
    pair.settle();
    let (key, asked) = pair.server.borrow_mut().asked.pop_front().unwrap();
    assert!(asked == request, "{asked:?}");
    let mut answer = ok();
    answer.append("x-long", &long);
    // The length of a body that a HEAD does not get.
    answer.append("content-length", b"5");
    Stream::new(Rc::clone(&pair.server), key).respond(&answer, true).unwrap();
    pair.settle();
    assert!(once(|cx| asking.poll_response(cx)).unwrap().unwrap() == answer);
    assert!(asking.has_ended());
}

#[test]
fn streams_take_turns_in_a_narrow_window() {
    const NARROW: usize = 10_000;
    let mut pair = Pair::narrow(10_000);
    let mut asking: Vec<Stream> = (0..4).map(|_| pair.ask("/", false)).collect();
    for stream in &mut asking {
        stream.give(data(&[0; 6 * NARROW], true)).unwrap();
    }
    pair.settle();
    let mut answering: Vec<Stream> = std::iter::from_fn(|| pair.asked()).map(|(_, stream)| stream).collect();
    let mut all = [0; 4];
    while all.iter().sum::<usize>() < 4 * 6 * NARROW {
        let before = all;
        for (taken, stream) in all.iter_mut().zip(&mut answering) {
            *taken += take_all(stream).unwrap().0.len();
            // What was last is used when the end is taken.
            if *taken == 6 * NARROW {
                assert!(matches!(once(|cx| stream.poll_take(cx)), Some(Ok(Piece::End))));
            }
        }
        assert_ne!(all, before);
        let (least, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
        assert!(most - least <= 2 * NARROW, "{all:?}");
        pair.settle();
    }
}

#[test]
fn the_last_stream_that_is_dropped_lets_its_connection_end() {
    let mut pair = Pair::greeted();
    let asking = pair.ask("/", true);
    pair.settle();
    let (_, mut answering) = pair.asked().unwrap();
    answering.respond(&ok(), true).unwrap();
    drop(answering);
    pair.server.borrow_mut().leave();
    pair.settle();
    assert_eq!(pair.drivers[0].0.load(Ordering::Relaxed), 0, "somebody has it");
    drop(asking);
    assert!(pair.drivers[0].0.load(Ordering::Relaxed) > 0);
}
