//! The relay of the proxy lane between real sockets on loopback, with each driver. Needs no privilege.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, channel};
use std::task::{Context, Waker};
use std::time::Duration;

use proxy_core::outcome::Reason;
use proxy_io::splice::PipePool;
use proxy_io::{Driver, DriverKind, DriverOptions};
use proxy_tests::node;
use proxy_tests::skip;
use proxy_tests::stream::{self, Check};
use proxy_tests::upstream::{End, Server};
use proxy_user::forward::l4::{Early, Ending, Relay, Turned, Watch};
use proxy_user::tls::Count;
use proxy_user::tls::Stream;

const SEEN: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

/// Drivers that this run is for.
fn drivers() -> Vec<DriverKind> {
    let mut kinds = match node::driver().as_str() {
        "ring" => vec![DriverKind::Ring],
        "epoll" => vec![DriverKind::Epoll],
        _ => vec![DriverKind::Epoll, DriverKind::Ring],
    };
    if let (Err(reason), true) = (proxy_io::driver::probe::ring(), kinds.contains(&DriverKind::Ring)) {
        skip::skip(&reason.to_string());
        kinds.retain(|kind| *kind != DriverKind::Ring);
    }
    kinds
}

/// What a worker knows of a connection, as far as the relay asks.
#[derive(Default)]
struct Owner {
    half_closes: Cell<u32>,
    moves: Cell<u32>,
    kill: Cell<bool>,
    /// Moves between two stops; 0 is never.
    stop_every: u32,
    is_stopping: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Count for Owner {}

impl Watch for Owner {
    fn handle_progress(&self) {
        self.moves.set(self.moves.get() + 1);
        if self.stop_every > 0 && self.moves.get().is_multiple_of(self.stop_every) {
            self.is_stopping.set(true);
        }
    }

    fn handle_half_close(&self) {
        self.half_closes.set(self.half_closes.get() + 1);
    }

    fn poll_kill(&self, cx: &mut Context<'_>) -> Option<Reason> {
        self.waker.set(Some(cx.waker().clone()));
        self.kill.get().then_some(Reason::IdleTimeout)
    }

    fn take_idle(&self) -> bool {
        false
    }

    fn wants_stop(&self) -> bool {
        self.is_stopping.get()
    }

    fn refuse_stop(&self) {
        self.is_stopping.set(false);
    }
}

/// How one relayed connection went.
struct Told {
    ending: Ending,
    half_closes: u32,
}

/// A worker's thread that relays one connection after the other to a server.
struct Proxy {
    address: SocketAddr,
    told: Receiver<Told>,
}

impl Proxy {
    fn start(kind: DriverKind, to: SocketAddr, kill_after: Option<Duration>, stop_every: u32) -> Self {
        let local: SocketAddr =
            if to.is_ipv4() { (Ipv4Addr::LOCALHOST, 0).into() } else { (Ipv6Addr::LOCALHOST, 0).into() };
        let listener = TcpListener::bind(local).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, told) = channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, async {
                let driver = Driver::new(kind, DriverOptions::new(kind)).unwrap();
                let running = driver.clone();
                tokio::task::spawn_local(async move { running.run().await });
                let pipes = PipePool::new(4);
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((downstream, _)) = listener.accept().await {
                    let owner = Owner { stop_every, ..Owner::default() };
                    let told =
                        relay(&driver, &pipes, downstream.into_std().unwrap(), to, kill_after, owner).await;
                    if sender.send(told).is_err() {
                        return;
                    }
                }
            });
        });
        Self { address, told }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(SEEN)).unwrap();
        stream.set_write_timeout(Some(SEEN)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    fn told(&self) -> Told {
        self.told.recv_timeout(SEEN).expect("the relay ends")
    }
}

async fn relay(
    driver: &Driver,
    pipes: &PipePool,
    downstream: TcpStream,
    to: SocketAddr,
    kill_after: Option<Duration>,
    owner: Owner,
) -> Told {
    let upstream = TcpStream::connect(to).unwrap();
    upstream.set_nonblocking(true).unwrap();
    upstream.set_nodelay(true).unwrap();
    downstream.set_nodelay(true).unwrap();
    let socket = |stream: TcpStream| Stream::Plain(driver.socket(OwnedFd::from(stream)).unwrap());
    let (mut downstream, mut upstream) = (socket(downstream), socket(upstream));
    let killed = async {
        match kill_after {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
        owner.kill.set(true);
        if let Some(waker) = owner.waker.take() {
            waker.wake();
        }
        std::future::pending::<()>().await;
    };
    let relayed = async {
        let mut flows = None;
        loop {
            let mut relay = match flows.take() {
                None => Relay::new(&mut downstream, &mut upstream, Early::default(), pipes, &owner),
                Some(flows) => Relay::go_on(&mut downstream, &mut upstream, flows, pipes, &owner).unwrap(),
            };
            if let Turned::Ended(ending) = (&mut relay).await {
                return ending;
            }
            // As another process would: with copies of the descriptors, and nothing else.
            let (sockets, rest) = relay.stopped().unwrap();
            flows = Some(rest);
            [downstream, upstream] = sockets.map(|fd| Stream::Plain(driver.socket(fd).unwrap()));
            owner.is_stopping.set(false);
        }
    };
    let ending = tokio::select! {
        ending = relayed => ending,
        () = killed => unreachable!("it never ends"),
    };
    assert!(owner.moves.get() > 0 || ending.sent_bytes + ending.received_bytes == 0);
    Told { ending, half_closes: owner.half_closes.get() }
}

fn servers() -> [Server; 2] {
    [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        .map(|ip: std::net::IpAddr| Server::start_local((ip, 0).into(), "server").unwrap())
}

/// Every driver with a server of each family, and a relay that moves to other sockets all the time.
fn each(test: impl Fn(&Proxy, &Server)) {
    for (kind, stop_every) in drivers().into_iter().flat_map(|kind| [0, 1, 7].map(|every| (kind, every))) {
        for server in servers() {
            test(&Proxy::start(kind, server.address(), None, stop_every), &server);
        }
    }
}

/// Writes the pattern in pieces of changing sizes.
fn write_pieces(stream: &mut TcpStream, bytes: u64, sizes: &[usize]) {
    let mut sent = 0;
    for size in sizes.iter().cycle() {
        let left = usize::try_from(bytes - sent).unwrap_or(usize::MAX);
        if left == 0 {
            return;
        }
        let piece = &stream::from(sent)[..(*size).min(left)];
        stream.write_all(piece).unwrap();
        sent += piece.len() as u64;
    }
}

/// Reads the pattern to the end.
fn read_all(stream: &mut TcpStream) -> (Check, std::io::Result<()>) {
    let mut check = Check::default();
    let mut buffer = vec![0; 100_000];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (check, Ok(())),
            Ok(count) => check.feed(&buffer[..count]),
            // a socket with a timeout is not read again by the kernel itself (signal(7))
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return (check, Err(error)),
        }
    }
}

#[test]
fn bytes_pass_unchanged_however_they_are_split() {
    each(|proxy, server| {
        // one byte at a time; sizes around those of the drivers' buffers; bulk, which is spliced; and all of it in turn
        let splits: [(u64, &[usize]); 4] = [
            (2000, &[1]),
            (3 * MIB, &[1, 4095, 4096, 4097, 16_383, 16_385, 65_535, 65_537, 3]),
            (64 * MIB, &[1 << 20]),
            (32 * MIB, &[1 << 20, 1 << 20, 1 << 20, 1, 7, 100]),
        ];
        for (bytes, sizes) in splits {
            let mut client = proxy.connect();
            client.write_all(b"sink\n").unwrap();
            write_pieces(&mut client, bytes, sizes);
            client.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, format!("{bytes} ok\n"));
            let seen = server.seen(SEEN);
            assert!(seen.is_intact && seen.bytes == bytes && seen.end == End::Fin, "{seen:?}");
            let told = proxy.told();
            assert_eq!(told.ending.reason, Reason::Fin);
            assert_eq!(told.ending.sent_bytes, bytes + 5);
            assert_eq!(told.ending.received_bytes, answer.len() as u64);
        }
    });
}

#[test]
fn a_quiet_phase_after_bulk_loses_nothing() {
    each(|proxy, server| {
        let mut client = proxy.connect();
        client.write_all(b"echo\n").unwrap();
        let mut reader = client.try_clone().unwrap();
        let reading = std::thread::spawn(move || read_all(&mut reader));
        let mut sent = 0;
        for _ in 0..3 {
            for size in [8 << 20, 1, 1000] {
                let mut left = size;
                while left > 0 {
                    let piece = stream::from(sent);
                    let piece = &piece[..piece.len().min(left)];
                    client.write_all(piece).unwrap();
                    sent += piece.len() as u64;
                    left -= piece.len();
                }
            }
        }
        client.shutdown(Shutdown::Write).unwrap();
        let (check, end) = reading.join().unwrap();
        end.unwrap();
        assert!(!check.is_broken && check.bytes == sent, "{} of {sent} bytes", check.bytes);
        assert_eq!(server.seen(SEEN).end, End::Fin);
        assert_eq!(proxy.told().ending.reason, Reason::Fin);
    });
}

#[test]
fn either_side_may_end_first() {
    each(|proxy, server| {
        for bytes in [0, 10, 4 * MIB] {
            let mut client = proxy.connect();
            writeln!(client, "sink-then-source {bytes}").unwrap();
            write_pieces(&mut client, bytes, &[50_000]);
            client.shutdown(Shutdown::Write).unwrap();
            let (check, end) = read_all(&mut client);
            end.unwrap();
            assert!(!check.is_broken && check.bytes == bytes);
            assert!(server.seen(SEEN).is_intact);
            let told = proxy.told();
            assert_eq!((told.ending.reason, told.half_closes), (Reason::Fin, 1));

            let mut client = proxy.connect();
            writeln!(client, "source {bytes}").unwrap();
            let (check, end) = read_all(&mut client);
            end.unwrap();
            assert!(!check.is_broken && check.bytes == bytes);
            write_pieces(&mut client, bytes, &[50_000]);
            drop(client);
            let seen = server.seen(SEEN);
            assert!(seen.is_intact && seen.bytes == bytes && seen.end == End::Fin, "{seen:?}");
            assert_eq!(proxy.told().ending.reason, Reason::Fin);
        }
    });
}

#[test]
fn a_reset_is_told_from_an_end_and_from_which_side_it_came() {
    each(|proxy, server| {
        let mut client = proxy.connect();
        client.write_all(b"reset 100000\n").unwrap();
        // what came before the reset arrives; the relay's owner passes the reset on, here nobody does
        let (check, _) = read_all(&mut client);
        assert!(!check.is_broken && check.bytes == 100_000, "{} bytes", check.bytes);
        assert_eq!(server.seen(SEEN).end, End::Reset);
        let told = proxy.told();
        assert_eq!(told.ending.reason, Reason::UpstreamReset);
        assert_eq!(told.ending.received_bytes, 100_000);

        let mut client = proxy.connect();
        client.write_all(b"sink\n").unwrap();
        proxy_io::sock::set_linger_reset(&client).unwrap();
        drop(client);
        assert_eq!(proxy.told().ending.reason, Reason::DownstreamReset);
        let _ = server.seen(SEEN);
    });
}

#[test]
fn an_owner_can_end_a_connection_that_waits() {
    for kind in drivers() {
        for server in servers() {
            let proxy = Proxy::start(kind, server.address(), Some(Duration::from_millis(50)), 0);
            let mut client = proxy.connect();
            client.write_all(b"sink\n").unwrap();
            assert_eq!(proxy.told().ending.reason, Reason::IdleTimeout);
        }
    }
}

#[test]
fn a_reader_that_does_not_read_holds_its_sender_back() {
    each(|proxy, server| {
        let mut client = proxy.connect();
        client.write_all(b"later\n").unwrap();
        client.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut sent = 0;
        // the kernel's own buffers hold a few MiB per socket (net.ipv4.tcp_wmem and tcp_rmem)
        while let Ok(count) = client.write(stream::from(sent)) {
            sent += count as u64;
            assert!(sent < 256 * MIB, "{sent} bytes were taken for a reader that does not read");
        }
        server.resume();
        client.set_write_timeout(Some(SEEN)).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, format!("{sent} ok\n"));
        assert!(server.seen(SEEN).is_intact);
        assert_eq!(proxy.told().ending.sent_bytes, sent + 6);
    });
}
