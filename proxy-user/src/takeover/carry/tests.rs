//! Both sides against each other, and what becomes of connections when one of them dies or hangs in between.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use super::super::arrive::{Arrivals, Arrive};
use super::*;
use crate::connection::moving::Identity;
use crate::stats::carried::Owner;

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

fn identity(service: u32) -> Identity {
    Identity {
        is_inbound: false,
        client: "127.0.0.1:1".parse().unwrap(),
        original_dst: "10.96.0.1:80".parse().unwrap(),
        cgroup_id: 7,
        netns_cookie: 0,
        service,
        service_name: "shop/web".into(),
        endpoint: 3,
        endpoint_address: "10.1.0.1:80".parse().unwrap(),
        began_ns: 5,
        idle_timeout: Some(Duration::from_secs(3600)),
        half_close_timeout: None,
        idle_ticks: 2,
    }
}

/// A connection with bytes on their way, and its client's end.
fn parcel(service: u32, bytes: usize) -> (Parcel, TcpStream) {
    let ((client, down), (_, up)) = (pair(), pair());
    let rest = Rest::Bytes((0..bytes).map(|n| (n % 251).to_le_bytes()[0]).collect());
    let flows = [Flow { rest, bytes: 9 }, Flow { rest: Rest::Ended, bytes: 1 << 40 }];
    let parcel = Parcel {
        identity: identity(service),
        sockets: [down.into(), up.into()],
        flows,
        stopping_since_ns: 11,
    };
    (parcel, client)
}

fn leaver(parcel: Parcel) -> (Leaver, oneshot::Receiver<bool>) {
    let (is_taken, answer) = oneshot::channel();
    (Leaver { parcel, is_taken }, answer)
}

/// Takes every connection but those of service 13.
#[derive(Default)]
struct Harbor {
    parcels: Vec<Parcel>,
    counts: Vec<Counts>,
}

impl Arrive for Harbor {
    type Place = ();

    fn handle_counts(&mut self, counts: &Counts) {
        self.counts.push(counts.clone());
    }

    fn find_place(&mut self, identity: &Identity) -> Option<()> {
        (identity.service != 13).then_some(())
    }

    fn handle_arrival(&mut self, parcel: Parcel, (): ()) {
        self.parcels.push(parcel);
    }
}

/// A carrier that runs on a thread, with its way in.
struct Older {
    leavers: mpsc::Sender<Leaver>,
    is_over: oneshot::Sender<()>,
    thread: JoinHandle<io::Result<Given>>,
}

impl Older {
    fn start(stream: UnixStream) -> Self {
        let (leavers, leaving) = mpsc::channel(MOST_STOPPED);
        let (is_over, over) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let counts = || vec![Counts::new(Owner::Process, &[("reloads", 4)])];
            let mut carrier = Carrier::new(stream, Ledger::default());
            carrier.run(runtime.handle(), leaving, counts, over).map(|()| carrier.given())
        });
        Self { leavers, is_over, thread }
    }

    fn end(self) -> io::Result<Given> {
        let Self { leavers, is_over, thread } = self;
        drop(leavers);
        let _ = is_over.send(());
        thread.join().unwrap()
    }
}

#[test]
fn connections_arrive_with_their_bytes_and_names_and_those_without_a_place_stay() {
    let (here, there) = UnixStream::pair().unwrap();
    let newer = std::thread::spawn(move || {
        let mut harbor = Harbor::default();
        Arrivals::new(there).run(&mut harbor).unwrap();
        harbor
    });
    let older = Older::start(here);
    let mut clients = Vec::new();
    // More than a batch, some of which are larger than one may be together.
    for number in 0..150 {
        let service = if number % 10 == 3 { 13 } else { 1 };
        let (parcel, client) = parcel(service, if number < 5 { 3 << 20 } else { 1000 + number });
        let (leaver, answer) = leaver(parcel);
        older.leavers.blocking_send(leaver).unwrap();
        clients.push((service, client, answer));
    }
    let mut takers = Vec::new();
    for (service, client, answer) in clients {
        assert_eq!(answer.blocking_recv().unwrap(), service == 1);
        takers.extend((service == 1).then_some(client));
    }
    assert_eq!(older.end().unwrap(), Given { taken: 135, left: 15 });
    let harbor = newer.join().unwrap();
    assert_eq!(harbor.counts, [Counts::new(Owner::Process, &[("reloads", 4)])]);
    assert_eq!(harbor.parcels.len(), 135);
    for (parcel, mut client) in harbor.parcels.into_iter().zip(takers) {
        assert_eq!((&parcel.identity, parcel.stopping_since_ns), (&identity(1), 11));
        assert_eq!(parcel.flows.each_ref().map(|flow| flow.bytes), [9, 1 << 40]);
        let [Flow { rest: Rest::Bytes(held), .. }, Flow { rest: Rest::Ended, .. }] = &parcel.flows else {
            panic!("{parcel:?}");
        };
        assert!(held.iter().enumerate().all(|(n, byte)| *byte == (n % 251).to_le_bytes()[0]));
        // It is this client's connection, and nobody else has it.
        let [down, _] = parcel.sockets;
        TcpStream::from(down).write_all(b"hi").unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hi");
    }
}

#[test]
fn a_pipe_goes_along_with_what_is_in_it() {
    let (here, there) = UnixStream::pair().unwrap();
    let newer = std::thread::spawn(move || {
        let mut harbor = Harbor::default();
        Arrivals::new(there).run(&mut harbor).unwrap();
        harbor.parcels.remove(0)
    });
    let older = Older::start(here);
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(b"in between").unwrap();
    let (mut parcel, _client) = parcel(1, 0);
    parcel.flows[0].rest = Rest::Pipe((OwnedFd::from(reader), OwnedFd::from(writer)), 10);
    let (leaver, answer) = leaver(parcel);
    older.leavers.blocking_send(leaver).unwrap();
    assert!(answer.blocking_recv().unwrap());
    older.end().unwrap();
    let [Flow { rest: Rest::Pipe((reader, writer), 10), .. }, _] = newer.join().unwrap().flows else {
        panic!("no pipe");
    };
    drop(writer);
    let mut text = String::new();
    std::fs::File::from(reader).read_to_string(&mut text).unwrap();
    assert_eq!(text, "in between");
}

#[test]
fn a_newer_process_that_dies_before_its_word_leaves_everything_here() {
    let (here, there) = UnixStream::pair().unwrap();
    let older = Older::start(here);
    let (parcel, _client) = parcel(1, 10);
    let (leaver, answer) = leaver(parcel);
    older.leavers.blocking_send(leaver).unwrap();
    assert!(matches!(recv::<Carried>(&there).unwrap().0, Carried::Connections(_)));
    drop(there);
    assert!(answer.blocking_recv().is_err(), "nobody has it but this process");
    older.end().unwrap_err();
}

#[test]
fn a_word_that_was_said_counts_even_if_its_speaker_died_just_then() {
    let (here, there) = UnixStream::pair().unwrap();
    let older = Older::start(here);
    let (first, _client) = parcel(1, 10);
    let (leaver, answer) = leaver(first);
    older.leavers.blocking_send(leaver).unwrap();
    assert!(matches!(recv::<Carried>(&there).unwrap().0, Carried::Connections(_)));
    send(&there, &Taken(vec![true]), &[]).unwrap();
    drop(there);
    assert!(answer.blocking_recv().unwrap());
    let _ = older.end();
}

#[test]
fn a_newer_process_that_hangs_gets_nothing_when_it_wakes_up() {
    let (here, there) = UnixStream::pair().unwrap();
    let older = Older::start(here);
    let (parcel, mut client) = parcel(1, 10);
    let (leaver, answer) = leaver(parcel);
    older.leavers.blocking_send(leaver).unwrap();
    // It does not read for longer than anybody waits.
    assert!(answer.blocking_recv().is_err());
    older.end().unwrap_err();
    let mut harbor = Harbor::default();
    Arrivals::new(there).run(&mut harbor).unwrap_err();
    assert!(harbor.parcels.is_empty(), "its word came too late");
    client.set_nonblocking(true).unwrap();
    assert!(client.read(&mut [0; 1]).is_ok_and(|count| count == 0), "all copies are closed");
}

#[test]
fn what_is_no_connection_is_refused_as_a_whole() {
    for (flows, fds) in
        [([MovingRest::Bytes(1 << 30), MovingRest::Ended], 2), ([MovingRest::Pipe(1), MovingRest::Ended], 2)]
    {
        let (here, there) = UnixStream::pair().unwrap();
        let (parcel, _client) = parcel(1, 0);
        let flows = flows.map(|rest| MovingFlow { rest, bytes: 0 });
        let moving = Moving { identity: identity(1), flows, stopping_since_ns: 0 };
        let sockets: Vec<BorrowedFd<'_>> = parcel.sockets.iter().map(|fd| fd.as_fd()).collect();
        assert_eq!(sockets.len(), fds);
        send(&here, &Carried::Connections(vec![moving]), &sockets).unwrap();
        let (done, is_done) = channel();
        let newer = std::thread::spawn(move || {
            let result = Arrivals::new(there).run(&mut Harbor::default());
            done.send(()).unwrap();
            result
        });
        is_done.recv().unwrap();
        assert_eq!(newer.join().unwrap().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
