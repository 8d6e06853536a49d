use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::*;

/// A connected pair over loopback, and the listener's address.
fn pair(listen_on: &str, connect_to: &str) -> (OwnedFd, OwnedFd) {
    let listener = listen(listen_on.parse().unwrap(), 16, false, false).unwrap();
    let mut target: SocketAddr = connect_to.parse().unwrap();
    target.set_port(local_addr(&listener).unwrap().port());
    let client = stream(Family::of(target)).unwrap();
    connect(&client, target).unwrap();
    loop {
        // Loopback completes the handshake within connect(2), so this ends at the first turn.
        if let Some((accepted, peer)) = accept(&listener, true).unwrap() {
            assert_eq!(peer.port(), local_addr(&client).unwrap().port());
            return (client, accepted);
        }
    }
}

fn blocking(fd: OwnedFd) -> TcpStream {
    let stream = TcpStream::from(fd);
    stream.set_nonblocking(false).unwrap();
    stream
}

fn is_root() -> bool {
    // SAFETY: geteuid(2) takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

#[test]
fn accept_says_none_when_nobody_waits() {
    let listener = listen("127.0.0.1:0".parse().unwrap(), 16, true, false).unwrap();
    assert!(accept(&listener, true).unwrap().is_none());
}

#[test]
fn accept_skips_dead_connections_and_reports_missing_descriptors() {
    let listener = listen("127.0.0.1:0".parse().unwrap(), 16, true, false).unwrap();
    let mut answers = vec![libc::EMFILE, libc::EPROTO, libc::ECONNABORTED];
    let outcome = sys::fault::with(
        move |name| if name == sys::Call::Accept { answers.pop() } else { None },
        || accept(&listener, true),
    );
    assert!(is_out_of_descriptors(&outcome.unwrap_err()));
}

#[test]
fn v6_only_listener_leaves_the_v4_port_alone() {
    let v6 = listen("[::]:0".parse().unwrap(), 16, true, false).unwrap();
    let port = local_addr(&v6).unwrap().port();
    assert!(listen(format!("0.0.0.0:{port}").parse().unwrap(), 16, true, false).is_ok());
}

#[test]
fn refused_connect_shows_in_its_progress_or_at_once() {
    let closed = local_addr(&listen("127.0.0.1:0".parse().unwrap(), 1, true, false).unwrap()).unwrap();
    let client = stream(Family::V4).unwrap();
    let error = match connect(&client, closed) {
        Err(error) => error,
        Ok(_) => loop {
            match connect_progress(&client) {
                Ok(how) => assert_eq!(how, Connecting::InProgress),
                Err(error) => break error,
            }
        },
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn the_end_of_a_handshake_may_wait_for_the_first_bytes() {
    let listener = listen("127.0.0.1:0".parse().unwrap(), 16, true, false).unwrap();
    let target = local_addr(&listener).unwrap();
    // The kernel waits for 40 ms or more. A busy machine may take longer from line to line, but not every time.
    let waits = (0..20).any(|_| {
        let client = stream(Family::V4).unwrap();
        delay_handshake_ack(&client).unwrap();
        let _ = connect(&client, target).unwrap();
        assert_eq!(connect_progress(&client).unwrap(), Connecting::Done);
        let is_waiting = accept(&listener, true).unwrap().is_none();
        sys::send(client.as_fd(), b"x", 0).unwrap();
        let (server, _) = accept(&listener, true).unwrap().expect("the bytes bring the acknowledgement");
        assert_eq!(recv_now(&server, &mut [0; 8]).unwrap(), Some(1));
        is_waiting
    });
    assert!(waits);
}

#[test]
fn receiving_now_waits_for_nothing() {
    let (client, server) = pair("127.0.0.1:0", "127.0.0.1:0");
    // as a worker on io_uring has it
    sys::set_nonblocking(server.as_fd(), false).unwrap();
    let mut bytes = [0; 4];
    assert_eq!(recv_now(&server, &mut bytes).unwrap(), None);
    sys::send(client.as_fd(), b"hello", 0).unwrap();
    assert_eq!(recv_now(&server, &mut bytes).unwrap(), Some(4));
    assert_eq!(recv_now(&server, &mut bytes).unwrap(), Some(1));
    sys::shutdown_write(client.as_fd()).unwrap();
    assert_eq!(recv_now(&server, &mut bytes).unwrap(), Some(0));
    assert_eq!(recv_now(&server, &mut bytes).unwrap(), Some(0), "the end stays");
}

#[test]
fn options_are_accepted_by_the_kernel() {
    let (client, _server) = pair("127.0.0.1:0", "127.0.0.1:0");
    set_nodelay(&client, true).unwrap();
    set_user_timeout(&client, Duration::from_micros(1_500)).unwrap();
    let mut value = [0; 4];
    sys::option(client.as_fd(), libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &mut value).unwrap();
    assert_eq!(i32::from_ne_bytes(value), 2, "rounded up");
    set_keepalive(&client, Duration::from_secs(60), Duration::from_millis(1), 3).unwrap();
    assert!(set_keepalive(&client, Duration::from_secs(40_000), Duration::from_secs(1), 3).is_err());
    set_congestion(&client, "cubic").unwrap();
    assert!(set_congestion(&client, "no_such_thing").is_err());
    if is_root() {
        set_mark(&client, 0x5745).unwrap();
    }
}

#[test]
fn a_listener_may_leave_silent_connections_to_the_kernel_for_a_while() {
    let listener = listen("127.0.0.1:0".parse().unwrap(), 16, true, false).unwrap();
    let address = local_addr(&listener).unwrap();
    let is_accepted_at_once = |bytes: &[u8]| {
        let client = std::net::TcpStream::connect(address).unwrap();
        (&client).write_all(bytes).unwrap();
        // On a busy machine "at once" may take a moment.
        let began = std::time::Instant::now();
        let is_accepted = std::iter::repeat_with(|| accept(&listener, true).unwrap().is_some())
            .take_while(|_| began.elapsed() < Duration::from_millis(300))
            .any(|is_accepted| is_accepted);
        (is_accepted, client)
    };
    set_defer_accept(&listener, Duration::from_millis(1)).unwrap();
    let (at_once, _silent) = is_accepted_at_once(b"");
    assert!(!at_once);
    let (at_once, _client) = is_accepted_at_once(b"x");
    assert!(at_once, "it has something to say");
    let began = std::time::Instant::now();
    while accept(&listener, true).unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(60), "the silent one is accepted, too, only later");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn one_source_port_serves_two_destinations_when_chosen_late() {
    let first = listen("127.0.0.1:0".parse().unwrap(), 1, true, false).unwrap();
    let client = stream(Family::V4).unwrap();
    bind_no_port(&client).unwrap();
    bind(&client, "127.0.0.2:0".parse().unwrap()).unwrap();
    assert_eq!(local_addr(&client).unwrap().port(), 0, "no port before connect");
    connect(&client, local_addr(&first).unwrap()).unwrap();
    assert_eq!(local_addr(&client).unwrap().ip(), "127.0.0.2".parse::<std::net::IpAddr>().unwrap());
    assert_ne!(local_addr(&client).unwrap().port(), 0);
}

#[test]
fn cookies_are_stable_and_distinct() {
    let (client, server) = pair("127.0.0.1:0", "127.0.0.1:0");
    assert_eq!(cookie(&client).unwrap(), cookie(&client).unwrap());
    assert_ne!(cookie(&client).unwrap(), cookie(&server).unwrap());
    assert_ne!(netns_cookie().unwrap(), 0);
    assert_eq!(netns_cookie().unwrap(), netns_cookie().unwrap());
}

#[test]
fn tcp_info_counts_bytes_of_both_directions() {
    let (client, server) = pair("127.0.0.1:0", "127.0.0.1:0");
    let (mut client, mut server) = (blocking(client), blocking(server));
    client.write_all(&[7; 1000]).unwrap();
    server.read_exact(&mut [0; 1000]).unwrap();
    server.write_all(&[8; 10]).unwrap();
    client.read_exact(&mut [0; 10]).unwrap();
    let info = tcp_info(&client).unwrap();
    assert_eq!(info.state, TcpState::Established);
    assert_eq!(info.bytes_sent, 1000);
    assert_eq!(info.bytes_received, 10);
    assert!(info.rtt_us > 0 && info.min_rtt_us <= info.rtt_us.max(1) * 2, "{info:?}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(tcp_info(&listener).unwrap().state, TcpState::Listen);
}

#[test]
fn linger_reset_makes_the_peer_see_a_reset() {
    let (client, server) = pair("127.0.0.1:0", "127.0.0.1:0");
    set_linger_reset(&client).unwrap();
    drop(client);
    let error = blocking(server).read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn sockets_are_destroyed_by_cookie_and_only_by_the_right_one() {
    if !is_root() {
        eprintln!("SKIPPED: destroying sockets needs root (CAP_NET_ADMIN); run the tests as root");
        return;
    }
    for (listen_on, connect_to) in
        [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0"), ("[::]:0", "[::ffff:127.0.0.1]:0")]
    {
        let (client, server) = pair(listen_on, connect_to);
        let (local, remote) = (local_addr(&client).unwrap(), peer_addr(&client).unwrap());
        let cookie = cookie(&client).unwrap();
        assert!(!destroy(local, remote, cookie ^ 1).unwrap(), "{connect_to}: another cookie");
        assert!(take_error(&client).unwrap().is_none());
        assert!(destroy(local, remote, cookie).unwrap(), "{connect_to}");
        assert_eq!(take_error(&client).unwrap().unwrap().raw_os_error(), Some(libc::ECONNABORTED));
        let seen = blocking(server).read(&mut [0; 1]).unwrap_err();
        assert_eq!(seen.kind(), io::ErrorKind::ConnectionReset);
        assert!(!destroy(local, remote, cookie).unwrap(), "{connect_to}: gone already");
    }
}

#[test]
fn addresses_of_different_families_are_refused() {
    let refused = destroy("127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap(), 1).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn queued_memory_is_what_nobody_has_read_or_taken() {
    let (client, server) = pair("127.0.0.1:0", "127.0.0.1:0");
    assert_eq!(queued_memory(&server).unwrap(), 0);
    let mut held = 0;
    while let Ok(sent) = send_now(&client, &[7; 64 << 10], false) {
        held += sent as u64;
    }
    let (sender, receiver) = (queued_memory(&client).unwrap(), queued_memory(&server).unwrap());
    assert!(receiver > 0 && sender + receiver >= held, "{sender} + {receiver} for {held}");
}
