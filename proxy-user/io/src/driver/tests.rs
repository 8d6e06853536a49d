//! Behaviour that both drivers owe their callers, over loopback.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use tokio::task::{LocalSet, spawn_local, yield_now};

use super::probe::RingFeatures;
use super::*;
use crate::sock::{Connecting, Family};
use crate::splice::PipePool;

mod settle;

/// Far above what any test takes: a test that hangs fails instead.
const HANG: Duration = Duration::from_secs(60);

#[test]
fn relay_passes_64_mib_both_ways_unchanged() {
    const TOTAL: usize = 64 << 20;
    on_each_driver(async |driver| {
        let (near, inlet) = pair(&driver);
        let (outlet, far) = pair_reversed(&driver);
        let echo = thread::spawn(move || echo(far));
        let client = thread::spawn(move || {
            let mut writer = near.try_clone().unwrap();
            let writing = thread::spawn(move || write_pattern(&mut writer, TOTAL));
            let received = read_pattern(&near);
            writing.join().unwrap();
            received
        });
        relay(inlet, outlet).await.unwrap();
        assert_eq!(client.join().unwrap(), TOTAL);
        echo.join().unwrap();
    });
}

#[test]
fn tiny_writes_arrive_in_order() {
    const TOTAL: usize = 20_000;
    on_each_driver(async |driver| {
        let (mut peer, mut socket) = pair(&driver);
        peer.set_nodelay(true).unwrap();
        let writer = thread::spawn(move || {
            for offset in 0..TOTAL {
                peer.write_all(&[pattern(offset)]).unwrap();
            }
        });
        let mut received = 0;
        loop {
            let chunk = recv(&mut socket).await.unwrap();
            if chunk.is_empty() {
                break;
            }
            check_pattern(&chunk, received);
            received += chunk.len();
        }
        assert_eq!(received, TOTAL);
        writer.join().unwrap();
    });
}

#[test]
fn a_huge_chunk_is_sent_whole_to_a_slow_reader() {
    const TOTAL: usize = 32 << 20;
    on_each_driver(async |driver| {
        let (peer, mut socket) = pair(&driver);
        let sent = Rc::new(Cell::new(false));
        let (start, started) = std::sync::mpsc::channel();
        let reader = thread::spawn(move || {
            started.recv().unwrap();
            read_pattern(&peer)
        });
        let mut sending = pin!(async {
            send(&mut socket, patterned(0, TOTAL)).await.unwrap();
            sent.set(true);
            drop(socket);
        });
        // The reader has not begun: more is in the chunk than the kernel can hold.
        settle(&driver, sending.as_mut()).await;
        assert!(!sent.get());
        assert!(driver.counters().held_bytes > 0);
        start.send(()).unwrap();
        sending.await;
        assert_eq!(reader.join().unwrap(), TOTAL);
        assert_eq!(driver.counters().held_bytes, 0);
    });
}

#[test]
fn each_direction_closes_on_its_own() {
    on_each_driver(async |driver| {
        let (mut peer, mut socket) = pair(&driver);
        peer.write_all(b"request").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        assert_eq!(recv_exactly(&mut socket, 7).await, b"request");
        assert!(recv(&mut socket).await.unwrap().is_empty());
        assert!(recv(&mut socket).await.unwrap().is_empty(), "the end stays the end");
        send(&mut socket, b"answer".to_vec()).await.unwrap();
        let mut answer = [0; 6];
        peer.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"answer");

        let (mut peer, mut socket) = pair(&driver);
        socket.shutdown_write().unwrap();
        assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
        peer.write_all(b"late").unwrap();
        assert_eq!(recv_exactly(&mut socket, 4).await, b"late");
    });
}

#[test]
fn a_reset_is_seen_as_connection_reset() {
    on_each_driver(async |driver| {
        let (peer, mut socket) = pair(&driver);
        let mut receiving = pin!(recv(&mut socket));
        settle(&driver, receiving.as_mut()).await;
        crate::sock::set_linger_reset(&peer).unwrap();
        drop(peer);
        assert_eq!(receiving.await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn sending_to_a_reset_connection_fails_without_a_signal() {
    on_each_driver(async |driver| {
        let (peer, mut socket) = pair(&driver);
        crate::sock::set_linger_reset(&peer).unwrap();
        drop(peer);
        let error = loop {
            if let Err(error) = send(&mut socket, vec![1; 1000]).await {
                break error;
            }
        };
        assert!(
            matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe),
            "{error}"
        );
    });
}

#[test]
fn abort_sends_a_reset() {
    on_each_driver(async |driver| {
        let (mut peer, mut socket) = pair(&driver);
        settle(&driver, pin!(recv(&mut socket))).await;
        socket.abort();
        let seen = on_thread(move || peer.read(&mut [0; 1])).await;
        assert_eq!(seen.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn parts_in_a_row_leave_together() {
    on_each_driver(async |driver| {
        // More than one call takes at the end.
        for (parts, segments) in [(2, 1..=1), (9, 1..=1), (48, 1..=3)] {
            let (peer, mut socket) = pair(&driver);
            let before = segments_in(&peer);
            let mut row = Chunk::default();
            for part in 0..parts {
                row.push(Chunk::from(patterned(part * 100, 100)));
            }
            poll_fn(|cx| socket.poll_send(cx, &mut row)).await.unwrap();
            assert!(row.is_empty());
            drop(socket);
            let (received, peer) = on_thread(move || (read_pattern(&peer), peer)).await;
            // The FIN is a segment of its own.
            let count = segments_in(&peer) - before - 1;
            assert!(segments.contains(&count), "{parts} parts in {count} segments, not {segments:?}");
            assert_eq!(received, parts * 100);
        }
    });
}

#[test]
fn bulk_comes_in_several_parts_at_once() {
    const TOTAL: usize = 16 << 20;
    on_each_driver(async |driver| {
        let (mut peer, mut socket) = pair(&driver);
        let writer = thread::spawn(move || write_pattern(&mut peer, TOTAL));
        let (mut received, mut most) = (0, 0);
        while received < TOTAL {
            let bundle = poll_fn(|cx| socket.poll_recv_bundle(cx)).await.unwrap();
            assert!(!bundle.is_empty());
            most = most.max(bundle.parts().count());
            for part in bundle.parts() {
                check_pattern(part, received);
                received += part.len();
            }
        }
        assert!(most > 1, "never more than one part");
        assert_eq!((received, driver.counters().buffers_leased), (TOTAL, 0));
        writer.join().unwrap();
    });
}

#[test]
fn an_end_that_is_expected_leaves_in_one_packet_with_the_last_bytes() {
    on_each_driver(async |driver| {
        for is_dropped in [true, false] {
            let (mut peer, mut socket) = pair(&driver);
            // As a connection whose next request is awaited.
            settle(&driver, pin!(recv(&mut socket))).await;
            let before = segments_in(&peer);
            socket.expect_end();
            send(&mut socket, patterned(0, 1000)).await.unwrap();
            let kept = if is_dropped {
                drop(socket);
                None
            } else {
                socket.shutdown_write().unwrap();
                Some(socket)
            };
            let (received, peer) = on_thread(move || {
                let mut received = Vec::new();
                peer.read_to_end(&mut received).unwrap();
                (received, peer)
            })
            .await;
            check_pattern(&received, 0);
            assert_eq!((received.len(), segments_in(&peer) - before), (1000, 1), "dropped: {is_dropped}");
            drop(kept);
        }
    });
}

#[test]
fn bytes_before_an_end_that_does_not_come_arrive_all_the_same() {
    on_each_driver(async |driver| {
        let (mut peer, mut socket) = pair(&driver);
        socket.expect_end();
        send(&mut socket, b"all".to_vec()).await.unwrap();
        let mut received = [0; 3];
        let received = on_thread(move || peer.read_exact(&mut received).map(|()| received)).await.unwrap();
        assert_eq!(&received, b"all");
    });
}

#[test]
fn dropping_a_socket_that_receives_closes_it_at_once() {
    on_each_driver(async |driver| {
        let (mut peer, mut socket) = pair(&driver);
        settle(&driver, pin!(recv(&mut socket))).await;
        drop(socket);
        assert_eq!(on_thread(move || peer.read(&mut [0; 1])).await.unwrap(), 0);
        all_closed(&driver).await;
    });
}

#[test]
fn dropping_a_socket_with_a_blocked_send_closes_it_at_once() {
    on_each_driver(async |driver| {
        let (mut peer, mut socket) = pair(&driver);
        settle(&driver, pin!(send(&mut socket, vec![0; 32 << 20]))).await;
        drop(socket);
        let read = on_thread(move || io::copy(&mut peer, &mut io::sink())).await.unwrap();
        assert!(read < 32 << 20, "{read}");
        all_closed(&driver).await;
        assert_eq!(driver.counters().held_bytes, 0);
    });
}

#[test]
fn a_slow_reader_holds_its_sender_back_in_bounded_memory() {
    /// The kernel's own buffers on four sockets: tcp_rmem and tcp_wmem allow 6 + 4 MiB each way.
    const KERNEL_MOST: usize = 40 << 20;
    on_each_driver(async |driver| {
        let (near, inlet) = pair(&driver);
        let (outlet, far) = pair_reversed(&driver);
        let relaying = spawn_local(relay(inlet, outlet));
        near.set_nonblocking(true).unwrap();
        let block = patterned(0, 1 << 20);
        let mut written = 0;
        let mut held = 0;
        let mut quiet = Quiet::default();
        while !quiet.is_reached(driver.counters()) {
            match (&near).write(&block[written % block.len()..]) {
                Ok(len) => written += len,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            assert!(written < 2 * KERNEL_MOST, "nothing holds the sender back");
            yield_now().await;
            held = held.max(driver.counters().held_bytes);
        }
        let most = match driver.kind() {
            DriverKind::Ring if !probe::ring().unwrap().recv_cap => {
                // All buffers, until the cancellation works.
                let options = DriverOptions::new(DriverKind::Ring);
                u64::from(options.buffers) * u64::from(options.buffer_bytes)
            }
            // A blocked chunk and what came while it was blocked.
            _ => 128 << 10,
        };
        assert!(held <= most, "{held}");
        assert!(driver.counters().buffers_leased <= 16, "{:?}", driver.counters());
        near.shutdown(Shutdown::Write).unwrap();
        let reader = thread::spawn(move || {
            let mut received = Vec::new();
            (&far).read_to_end(&mut received).unwrap();
            received
        });
        drop_end_when(&relaying, near).await;
        let received = reader.join().unwrap();
        assert_eq!(received.len(), written);
        assert!(received.chunks(block.len()).all(|piece| *piece == block[..piece.len()]));
    });
}

#[test]
fn five_hundred_connections_at_once() {
    const COUNT: u32 = 500;
    on_each_driver(async |driver| {
        let mut tasks = Vec::new();
        for id in 0..COUNT {
            let (peer, mut server) = pair(&driver);
            let mut client = driver.socket(peer.into()).unwrap();
            tasks.push(spawn_local(async move {
                for round in 0..20_u32 {
                    let message = (id * 1000 + round).to_be_bytes();
                    send(&mut client, message.to_vec()).await.unwrap();
                    assert_eq!(recv_exactly(&mut client, 4).await, message);
                }
            }));
            tasks.push(spawn_local(async move {
                loop {
                    let mut chunk = recv(&mut server).await.unwrap();
                    if chunk.is_empty() {
                        break;
                    }
                    poll_fn(|cx| server.poll_send(cx, &mut chunk)).await.unwrap();
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        all_closed(&driver).await;
        assert_eq!(driver.counters().buffers_leased, 0);
    });
}

#[test]
fn idle_connections_hold_no_buffers() {
    on_each_driver(async |driver| {
        let mut held = Vec::new();
        for _ in 0..100 {
            let (mut peer, mut socket) = pair(&driver);
            peer.write_all(b"x").unwrap();
            assert_eq!(recv_exactly(&mut socket, 1).await, b"x");
            settle(&driver, pin!(recv(&mut socket))).await;
            held.push((peer, socket));
        }
        let counters = driver.counters();
        assert_eq!((counters.sockets, counters.buffers_leased, counters.held_bytes), (100, 0, 0));
    });
}

#[test]
fn more_sockets_than_buffers_all_make_progress() {
    const TOTAL: usize = 64 << 10;
    let small = |kind| DriverOptions { buffers: 4, buffer_bytes: 1024, ..DriverOptions::new(kind) };
    on_each_driver_with(small, async |driver| {
        let mut tasks = Vec::new();
        for _ in 0..64 {
            let (peer, mut socket) = pair(&driver);
            let mut peer = driver.socket(peer.into()).unwrap();
            tasks.push(spawn_local(async move {
                send(&mut peer, patterned(0, TOTAL)).await.unwrap();
            }));
            tasks.push(spawn_local(async move {
                let mut received = 0;
                while received < TOTAL {
                    let chunk = recv(&mut socket).await.unwrap();
                    // Held on to while others want one.
                    yield_now().await;
                    check_pattern(&chunk, received);
                    received += chunk.len();
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        let counters = driver.counters();
        assert!(counters.starvations > 0, "the test did not starve anybody: {counters:?}");
        assert_eq!(counters.buffers_leased, 0);
    });
}

#[test]
fn a_worker_that_should_looks_for_more_before_it_sleeps() {
    const ROUNDS: u64 = 50;
    // Looks are far longer than an answer takes.
    for busy_poll in [Duration::ZERO, Duration::from_millis(500)] {
        let options = |kind| DriverOptions { busy_poll, ..DriverOptions::new(kind) };
        on_each_driver_with(options, async |driver| {
            let (mut peer, mut socket) = pair(&driver);
            let slow = thread::spawn(move || {
                let mut byte = [0];
                for _ in 0..ROUNDS {
                    peer.read_exact(&mut byte).unwrap();
                    thread::sleep(Duration::from_millis(2));
                    peer.write_all(&byte).unwrap();
                }
            });
            let before = sleeps();
            for _ in 0..ROUNDS {
                send(&mut socket, vec![7]).await.unwrap();
                assert_eq!(&recv(&mut socket).await.unwrap()[..], [7]);
            }
            let slept = sleeps() - before;
            let is_awake = slept < ROUNDS / 2;
            assert_eq!(is_awake, !busy_poll.is_zero(), "slept {slept} times in {ROUNDS} rounds");
            slow.join().unwrap();
        });
    }
}

/// How often this thread has given up its processor so far.
fn sleeps() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    count.trim().parse().unwrap()
}

#[test]
fn splice_takes_over_a_receiving_socket_without_losing_bytes() {
    const TOTAL: usize = 16 << 20;
    on_each_driver(async |driver| {
        let (mut near, mut inlet) = pair(&driver);
        let (mut outlet, far) = pair_reversed(&driver);
        let writer = thread::spawn(move || write_pattern(&mut near, TOTAL));
        let reader = thread::spawn(move || read_pattern(&far));
        for _ in 0..20 {
            let mut chunk = recv(&mut inlet).await.unwrap();
            poll_fn(|cx| outlet.poll_send(cx, &mut chunk)).await.unwrap();
        }
        poll_fn(|cx| inlet.pause_recv(cx)).await.unwrap();
        while inlet.has_buffered() {
            let mut chunk = recv(&mut inlet).await.unwrap();
            poll_fn(|cx| outlet.poll_send(cx, &mut chunk)).await.unwrap();
        }
        let pipes = PipePool::new(1);
        let mut pipe = pipes.take().unwrap().unwrap();
        let mut spliced = 0;
        loop {
            let moved = poll_fn(|cx| inlet.poll_splice_in(cx, &mut pipe, 1 << 20)).await.unwrap();
            if moved == 0 {
                break;
            }
            spliced += moved;
            poll_fn(|cx| outlet.poll_splice_out(cx, &mut pipe)).await.unwrap();
        }
        assert!(spliced > 0);
        drop(pipe);
        assert_eq!(pipes.count(), 1, "the pipe is empty and was kept");
        outlet.shutdown_write().unwrap();
        assert_eq!(reader.join().unwrap(), TOTAL);
        writer.join().unwrap();
    });
}

#[test]
fn receiving_goes_on_after_splice() {
    on_each_driver(async |driver| {
        let (mut peer, mut socket) = pair(&driver);
        let mut pipe = PipePool::new(1).take().unwrap().unwrap();
        settle(&driver, pin!(recv(&mut socket))).await;
        poll_fn(|cx| socket.pause_recv(cx)).await.unwrap();
        assert!(!socket.has_buffered());
        peer.write_all(b"through the pipe").unwrap();
        assert_eq!(poll_fn(|cx| socket.poll_splice_in(cx, &mut pipe, 100)).await.unwrap(), 16);
        let mut none = pin!(poll_fn(|cx| socket.poll_splice_in(cx, &mut pipe, 100)));
        assert_eq!(none.as_mut().await.unwrap_err().kind(), io::ErrorKind::WouldBlock, "pipe not empty");
        poll_fn(|cx| socket.poll_splice_out(cx, &mut pipe)).await.unwrap();
        let mut echoed = [0; 16];
        peer.read_exact(&mut echoed).unwrap();
        assert_eq!(&echoed, b"through the pipe");
        peer.write_all(b"again").unwrap();
        assert_eq!(recv_exactly(&mut socket, 5).await, b"again");
        send(&mut socket, patterned(0, 8 << 20)).now_or_reader(&peer, 8 << 20).await;
    });
}

#[test]
fn readiness_is_fresh_each_time() {
    on_each_driver(async |driver| {
        let (mut peer, mut socket) = pair(&driver);
        assert!(!settle(&driver, pin!(poll_fn(|cx| socket.poll_readable(cx)))).await);
        peer.write_all(b"x").unwrap();
        poll_fn(|cx| socket.poll_readable(cx)).await.unwrap();
        assert_eq!(sys::recv(socket.fd(), &mut [0; 8], libc::MSG_DONTWAIT).unwrap(), 1);
        // A completion that was under way may report once more; it must not go on doing so.
        settle(&driver, pin!(poll_fn(|cx| socket.poll_readable(cx)))).await;
        assert!(!settle(&driver, pin!(poll_fn(|cx| socket.poll_readable(cx)))).await);
        peer.shutdown(Shutdown::Write).unwrap();
        poll_fn(|cx| socket.poll_readable(cx)).await.unwrap();
    });
}

#[test]
fn a_socket_may_be_given_while_it_connects() {
    on_each_driver(async |driver| {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let fd = crate::sock::stream(Family::V6).unwrap();
        let _: Connecting = crate::sock::connect(&fd, listener.local_addr().unwrap()).unwrap();
        let mut socket = driver.socket(fd).unwrap();
        poll_fn(|cx| socket.poll_writable(cx)).await.unwrap();
        assert!(crate::sock::take_error(&socket.fd()).unwrap().is_none());
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(b"server first").unwrap();
        assert_eq!(recv_exactly(&mut socket, 12).await, b"server first");
    });
}

#[test]
fn late_completions_never_reach_the_next_socket() {
    on_each_driver(async |driver| {
        for round in 0..300_u32 {
            let (mut old_peer, mut old) = pair(&driver);
            settle_once(&mut old).await;
            old_peer.write_all(b"for the old one").unwrap();
            drop(old);
            let (mut peer, mut socket) = pair(&driver);
            let message = round.to_be_bytes();
            peer.write_all(&message).unwrap();
            assert_eq!(recv_exactly(&mut socket, 4).await, message);
        }
        all_closed(&driver).await;
        assert_eq!(driver.counters().buffers_leased, 0);
    });
}

#[test]
fn a_dropped_driver_leaves_its_chunks_readable() {
    on_each_driver(async |driver| {
        let (mut peer, mut socket) = pair(&driver);
        peer.write_all(b"kept").unwrap();
        let chunk = recv(&mut socket).await.unwrap();
        drop((driver, socket));
        assert_eq!(&chunk[..], b"kept");
    });
}

#[test]
fn an_idle_driver_makes_no_system_calls() {
    on_each_driver(async |driver| {
        let (mut peer, mut socket) = pair(&driver);
        peer.write_all(b"x").unwrap();
        assert_eq!(recv_exactly(&mut socket, 1).await, b"x");
        settle(&driver, pin!(recv(&mut socket))).await;
        let before = driver.counters();
        for _ in 0..1000 {
            yield_now().await;
        }
        assert_eq!(driver.counters(), before);
    });
}

#[test]
fn a_message_and_its_answer_cost_the_ring_one_operation() {
    on_each_driver(async |driver| {
        let (mut peer, mut socket) = pair(&driver);
        peer.set_nodelay(true).unwrap();
        let client = thread::spawn(move || {
            for _ in 0..100 {
                peer.write_all(b"ping").unwrap();
                peer.read_exact(&mut [0; 4]).unwrap();
            }
        });
        loop {
            let mut chunk = recv(&mut socket).await.unwrap();
            if chunk.is_empty() {
                break;
            }
            poll_fn(|cx| socket.poll_send(cx, &mut chunk)).await.unwrap();
        }
        client.join().unwrap();
        let counters = driver.counters();
        match driver.kind() {
            // One receive for all, one send each.
            DriverKind::Ring => assert!(counters.submissions <= 101, "{counters:?}"),
            // One receive and one send each, and the end.
            DriverKind::Epoll => assert!(counters.submissions >= 200, "{counters:?}"),
        }
    });
}

#[test]
fn a_driver_that_dies_fails_everybody() {
    if !has_ring() {
        return;
    }
    by_hand(async |driver| {
        let (_peer, mut socket) = pair(&driver);
        assert!(poll_once(pin!(recv(&mut socket))).await.is_pending());
        let mut running = pin!(driver.run());
        let died = poll_fn(|cx| {
            let fail = |name| (name == sys::Call::Uring).then_some(libc::EBADF);
            Poll::Ready(sys::fault::with(fail, || running.as_mut().poll(cx)))
        });
        let Poll::Ready(died) = died.await else { panic!("goes on") };
        assert_eq!(died.unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert_eq!(recv(&mut socket).await.unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert!(driver.socket(sys::pipe().unwrap().0).is_err());
    });
}

#[test]
fn dropping_a_driver_takes_its_operations_back() {
    if !has_ring() {
        return;
    }
    by_hand(async |driver| {
        let (mut peer, mut socket) = pair(&driver);
        let mut blocked = pair(&driver);
        assert!(poll_once(pin!(recv(&mut socket))).await.is_pending());
        assert!(poll_once(pin!(send(&mut blocked.1, vec![0; 32 << 20]))).await.is_pending());
        for _ in 0..3 {
            assert!(poll_once(pin!(driver.run())).await.is_pending());
        }
        assert!(driver.counters().held_bytes > 0);
        drop((socket, blocked.1, driver));
        // Closed by the driver's end, not by a turn: nobody runs it any more.
        assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
        assert!(io::copy(&mut blocked.0, &mut io::sink()).unwrap() < 32 << 20);
    });
}

#[test]
fn a_chunk_is_empty_only_when_everything_was_accepted() {
    on_each_driver(async |driver| {
        let (peer, mut socket) = pair(&driver);
        let mut chunk = Chunk::from(vec![7; 32 << 20]);
        settle(&driver, pin!(poll_fn(|cx| socket.poll_send(cx, &mut chunk)))).await;
        assert!(!chunk.is_empty());
        let (mut other_peer, mut other) = pair(&driver);
        if driver.kind() == DriverKind::Ring {
            assert_eq!(socket.shutdown_write().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
            let foreign = poll_fn(|cx| other.poll_send(cx, &mut chunk)).await.unwrap_err();
            assert_eq!(foreign.kind(), io::ErrorKind::InvalidInput);
        }
        let reader = thread::spawn(move || io::copy(&mut &peer, &mut io::sink()).unwrap());
        poll_fn(|cx| socket.poll_send(cx, &mut chunk)).await.unwrap();
        assert!(chunk.is_empty());
        socket.shutdown_write().unwrap();
        assert_eq!(reader.join().unwrap(), 32 << 20);
        drop(other);
        assert_eq!(on_thread(move || other_peer.read(&mut [0; 1])).await.unwrap(), 0);
    });
}

// Supporting code.

/// Runs `test` on a ring driver whose task the test polls itself.
fn by_hand(test: impl AsyncFnOnce(Driver)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        test(Driver::new(DriverKind::Ring, DriverOptions::new(DriverKind::Ring)).unwrap()).await;
    });
}

async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// Runs `test` on every driver that this machine has, each in a runtime of its own.
fn on_each_driver(test: impl AsyncFn(Driver)) {
    on_each_driver_with(DriverOptions::new, test);
}

fn on_each_driver_with(options: impl Fn(DriverKind) -> DriverOptions, test: impl AsyncFn(Driver)) {
    on_driver(options(DriverKind::Epoll), DriverKind::Epoll, &test);
    // The newest kernels, and those before 6.17.
    for recv_cap in [true, false] {
        if has_ring() {
            probe::older::limit(RingFeatures { recv_cap });
            on_driver(options(DriverKind::Ring), DriverKind::Ring, &test);
        }
    }
}

fn on_driver(options: DriverOptions, kind: DriverKind, test: &impl AsyncFn(Driver)) {
    let what = || match kind {
        DriverKind::Ring => format!("Ring with {:?}", probe::ring()),
        DriverKind::Epoll => "Epoll".to_owned(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let driver = Driver::new(kind, options).unwrap();
        let running = driver.clone();
        let running = spawn_local(async move { running.run().await.unwrap() });
        tokio::time::timeout(HANG, test(driver)).await.unwrap_or_else(|_| panic!("{}: hangs", what()));
        assert!(!running.is_finished(), "{}: the driver gave up", what());
        running.abort();
    });
}

fn has_ring() -> bool {
    match probe::ring() {
        Ok(_) => true,
        Err(reason) => {
            eprintln!("SKIPPED: the ring driver cannot run here: {reason}");
            false
        }
    }
}

/// A far end for a thread and a near end on the driver; the near end was accepted.
fn pair(driver: &Driver) -> (TcpStream, Socket) {
    let (far, near) = connected();
    (far, driver.socket(near.into()).unwrap())
}

/// The same with the near end having connected.
fn pair_reversed(driver: &Driver) -> (Socket, TcpStream) {
    let (near, far) = connected();
    (driver.socket(near.into()).unwrap(), far)
}

fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// Segments that have come in on a connection (`tcpi_segs_in`, since Linux 4.2).
fn segments_in(stream: &TcpStream) -> u32 {
    const AT: usize = 140;
    let mut info = [0; AT + 4];
    sys::option(stream.as_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, &mut info).unwrap();
    u32::from_ne_bytes(info[AT..].try_into().unwrap())
}

async fn recv(socket: &mut Socket) -> io::Result<Chunk> {
    poll_fn(|cx| socket.poll_recv(cx)).await
}

async fn recv_exactly(socket: &mut Socket, count: usize) -> Vec<u8> {
    let mut received = Vec::new();
    while received.len() < count {
        let chunk = recv(socket).await.unwrap();
        assert!(!chunk.is_empty(), "ended after {} of {count} bytes", received.len());
        received.extend_from_slice(&chunk);
    }
    assert_eq!(received.len(), count);
    received
}

async fn send(socket: &mut Socket, bytes: Vec<u8>) -> io::Result<()> {
    let mut chunk = Chunk::from(bytes);
    poll_fn(|cx| socket.poll_send(cx, &mut chunk)).await?;
    assert!(chunk.is_empty());
    Ok(())
}

trait NowOrReader: Future<Output = io::Result<()>> + Sized {
    /// Drives a large send while a thread reads it from the far end.
    async fn now_or_reader(self, far: &TcpStream, total: usize) {
        let far = far.try_clone().unwrap();
        let reader = thread::spawn(move || {
            let mut received = vec![0; total];
            (&far).read_exact(&mut received).unwrap();
            check_pattern(&received, 0);
        });
        self.await.unwrap();
        on_thread(move || reader.join().unwrap()).await;
    }
}

impl<F: Future<Output = io::Result<()>>> NowOrReader for F {}

/// Runs blocking code beside the worker, which goes on driving its sockets.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Copies both directions until both have ended.
async fn relay(mut left: Socket, mut right: Socket) -> io::Result<()> {
    // One way in bundles, the other chunk by chunk.
    let mut to_right = Direction { is_bundling: true, ..Direction::default() };
    let mut to_left = Direction::default();
    poll_fn(|cx| {
        let first = to_right.poll_copy(cx, &mut left, &mut right)?;
        let second = to_left.poll_copy(cx, &mut right, &mut left)?;
        if first.is_ready() && second.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

#[derive(Default)]
struct Direction {
    chunk: Chunk,
    is_bundling: bool,
    has_ended: bool,
}

impl Direction {
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Socket,
        to: &mut Socket,
    ) -> Poll<io::Result<()>> {
        while !self.has_ended {
            // A chunk on its way is not empty: nothing overtakes it, not even the end.
            if !self.chunk.is_empty() {
                std::task::ready!(to.poll_send(cx, &mut self.chunk))?;
            }
            let next = if self.is_bundling { from.poll_recv_bundle(cx) } else { from.poll_recv(cx) };
            self.chunk = std::task::ready!(next)?;
            if self.chunk.is_empty() {
                to.shutdown_write()?;
                self.has_ended = true;
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Polls `future` until it is done (`true`) or neither it nor the driver has anything to do (`false`).
async fn settle<F: Future>(driver: &Driver, mut future: std::pin::Pin<&mut F>) -> bool {
    let mut quiet = Quiet::default();
    while !quiet.is_reached(driver.counters()) {
        let is_done = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await;
        if is_done {
            return true;
        }
        yield_now().await;
    }
    false
}

/// Starts a receive and does not wait for it.
async fn settle_once(socket: &mut Socket) {
    poll_fn(|cx| {
        assert!(socket.poll_recv(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    yield_now().await;
}

/// Waits until the driver has closed every socket.
async fn all_closed(driver: &Driver) {
    while driver.counters().sockets > 0 {
        yield_now().await;
    }
}

/// Finds out that nothing happens any more: the counters stay the same for many turns of the runtime, more than
/// tokio needs to look at its descriptors several times.
#[derive(Default)]
struct Quiet {
    last: DriverCounters,
    turns: u32,
}

impl Quiet {
    fn is_reached(&mut self, now: DriverCounters) -> bool {
        // A driver that polls in vain still counts as quiet.
        let now = DriverCounters { enters: 0, ..now };
        self.turns = if now == self.last { self.turns + 1 } else { 0 };
        self.last = now;
        self.turns > 1000
    }
}

/// Keeps the far end open until the relay has ended.
async fn drop_end_when(relaying: &tokio::task::JoinHandle<io::Result<()>>, end: TcpStream) {
    while !relaying.is_finished() {
        yield_now().await;
    }
    drop(end);
}

fn echo(stream: TcpStream) {
    io::copy(&mut &stream, &mut &stream).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
}

fn write_pattern(stream: &mut TcpStream, total: usize) {
    let mut written = 0;
    while written < total {
        // Pieces of many sizes, from one byte to 160 KiB.
        let len = (1 + written % 163_841).min(total - written);
        stream.write_all(&patterned(written, len)).unwrap();
        written += len;
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Reads to the end, checks every byte and returns how many there were.
fn read_pattern(mut stream: &TcpStream) -> usize {
    let mut buffer = vec![0; 1 << 18];
    let mut received = 0;
    loop {
        let len = stream.read(&mut buffer).unwrap();
        if len == 0 {
            return received;
        }
        check_pattern(&buffer[..len], received);
        received += len;
    }
}

/// Bytes after which the pattern repeats: a prime, so that a lost or doubled buffer shows.
const PERIOD: usize = 1_000_003;

/// The pattern twice in a row, so that every piece of up to `PERIOD` bytes is a slice of it.
fn pattern_table() -> &'static [u8] {
    static TABLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    TABLE.get_or_init(|| {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        let once: Vec<u8> = (0..PERIOD).map(|_| next()).collect();
        [once.clone(), once].concat()
    })
}

fn patterned(from: usize, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let start = (from + bytes.len()) % PERIOD;
        let piece = (len - bytes.len()).min(PERIOD);
        bytes.extend_from_slice(&pattern_table()[start..start + piece]);
    }
    bytes
}

fn check_pattern(bytes: &[u8], from: usize) {
    for (n, piece) in bytes.chunks(PERIOD).enumerate() {
        let start = (from + n * PERIOD) % PERIOD;
        assert!(*piece == pattern_table()[start..start + piece.len()], "differs after byte {from}");
    }
}

/// The byte that belongs at `offset`.
fn pattern(offset: usize) -> u8 {
    pattern_table()[offset % PERIOD]
}
