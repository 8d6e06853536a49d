//! Stopping a socket exactly, so that another process can go on with it.

use super::*;

/// One direction that stops every now and then and goes on with other sockets on the same connections, as another process
/// would.
async fn relay_that_moves(driver: &Driver, mut from: Socket, mut to: Socket, every: u32) -> u32 {
    let (mut chunk, mut moves) = (Chunk::default(), 0);
    loop {
        let mut received = 0;
        let has_ended = poll_fn(|cx| {
            while received < every {
                if !chunk.is_empty() {
                    std::task::ready!(to.poll_send(cx, &mut chunk)).unwrap();
                }
                chunk = std::task::ready!(from.poll_recv_bundle(cx)).unwrap();
                if chunk.is_empty() {
                    return Poll::Ready(true);
                }
                received += 1;
                if received == every && to.poll_send(cx, &mut chunk).is_pending() {
                    // The driver gets a turn, so that some of these sends are with the kernel when they are stopped.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            let settled = [from.poll_settle(cx).map(Result::unwrap), to.poll_settle(cx).map(Result::unwrap)];
            if settled.iter().all(Poll::is_ready) { Poll::Ready(false) } else { Poll::Pending }
        })
        .await;
        if has_ended {
            to.shutdown_write().unwrap();
            return moves;
        }
        to.take_back(&mut chunk).unwrap();
        assert!(!from.has_failed() && !to.has_failed());
        chunk = Chunk::join(chunk, from.take_buffered());
        chunk.detach();
        let [next_from, next_to] = [&from, &to].map(|s| s.fd().try_clone_to_owned().unwrap());
        drop((from, to));
        (from, to) = (driver.socket(next_from).unwrap(), driver.socket(next_to).unwrap());
        moves += 1;
    }
}

#[test]
fn a_stream_that_moves_between_sockets_all_the_time_loses_no_byte() {
    const TOTAL: usize = 32 << 20;
    for every in [1, 2, 5] {
        on_each_driver(async |driver| {
            let (mut near, inlet) = pair(&driver);
            let (outlet, far) = pair_reversed(&driver);
            let writer = thread::spawn(move || write_pattern(&mut near, TOTAL));
            let reader = thread::spawn(move || {
                // Slow now and then, so that sends are cut off half-way.
                let mut buffer = vec![0; 1 << 16];
                let mut received = 0;
                loop {
                    let len = (&far).read(&mut buffer).unwrap();
                    check_pattern(&buffer[..len], received);
                    received += len;
                    if len == 0 {
                        return received;
                    }
                    if received.is_multiple_of(7) {
                        thread::yield_now();
                    }
                }
            });
            let moves = relay_that_moves(&driver, inlet, outlet, every).await;
            assert!(moves > 2, "{moves}");
            on_thread(move || assert_eq!(reader.join().unwrap(), TOTAL)).await;
            writer.join().unwrap();
            assert_eq!(driver.counters().held_bytes, 0);
        });
    }
}

#[test]
fn a_send_that_is_stopped_half_way_leaves_exactly_the_rest_and_can_go_on() {
    const TOTAL: usize = 32 << 20;
    on_each_driver(async |driver| {
        let (peer, mut socket) = pair(&driver);
        let mut chunk = Chunk::from(patterned(0, TOTAL));
        {
            let mut sending = pin!(poll_fn(|cx| socket.poll_send(cx, &mut chunk)));
            assert!(!super::settle(&driver, sending.as_mut()).await, "nobody reads");
        }
        poll_fn(|cx| socket.poll_settle(cx)).await.unwrap();
        socket.take_back(&mut chunk).unwrap();
        let left = chunk.len();
        assert!(left > 0 && left < TOTAL, "{left}");
        check_pattern(&chunk, TOTAL - left);
        let reader = thread::spawn(move || read_pattern(&peer));
        poll_fn(|cx| socket.poll_send(cx, &mut chunk)).await.unwrap();
        drop(socket);
        assert_eq!(on_thread(move || reader.join().unwrap()).await, TOTAL);
    });
}

#[test]
fn a_socket_that_rests_settles_and_still_hears_what_comes() {
    on_each_driver(async |driver| {
        let (mut peer, mut socket) = pair(&driver);
        settle_once(&mut socket).await;
        poll_fn(|cx| socket.poll_settle(cx)).await.unwrap();
        assert!(socket.take_buffered().is_empty());
        peer.write_all(b"later").unwrap();
        assert_eq!(recv_exactly(&mut socket, 5).await, b"later");
    });
}

#[test]
fn a_reset_that_came_before_is_not_hidden_by_settling() {
    on_each_driver(async |driver| {
        let (peer, mut socket) = pair(&driver);
        settle_once(&mut socket).await;
        crate::sock::set_linger_reset(&peer).unwrap();
        drop(peer);
        for _ in 0..100 {
            yield_now().await;
        }
        poll_fn(|cx| socket.poll_settle(cx)).await.unwrap();
        assert_eq!(socket.has_failed(), driver.kind() == DriverKind::Ring);
        assert_eq!(recv(&mut socket).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_pipe_moves_with_the_bytes_in_it() {
    on_each_driver(async |driver| {
        let (mut near, mut inlet) = pair(&driver);
        let (mut outlet, far) = pair_reversed(&driver);
        let (older, newer) = (PipePool::new(1), PipePool::new(1));
        let mut pipe = older.take().unwrap().unwrap();
        near.write_all(b"in the pipe").unwrap();
        assert_eq!(poll_fn(|cx| inlet.poll_splice_in(cx, &mut pipe, 1 << 20)).await.unwrap(), 11);
        let (reader, writer) = pipe.fds();
        let ends = (reader.try_clone_to_owned().unwrap(), writer.try_clone_to_owned().unwrap());
        let mut moved = newer.adopt(ends, pipe.len()).unwrap();
        drop(pipe);
        assert_eq!((older.count(), newer.count(), moved.len()), (0, 1, 11));
        poll_fn(|cx| outlet.poll_splice_out(cx, &mut moved)).await.unwrap();
        let mut text = [0; 11];
        (&far).read_exact(&mut text).unwrap();
        assert_eq!(&text, b"in the pipe");
    });
}
