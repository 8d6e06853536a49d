//! The older process's side.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proxy_bpf::abi::ABI_VERSION;
use proxy_io::unix;
use tokio::net::UnixListener;
use tokio::runtime::Handle as Runtime;
use tokio::sync::{mpsc, oneshot};

use super::carry::{Carrier, say_counters};
use super::protocol::{
    Answer, CARRIAGE, Carried, Hello, Offer, PROTOCOL, Ready, Serving, Verdict, borrow, recv, send,
};
use super::sockets::{NamedSockets, SocketName};
use crate::stats::carried::{Counts, Ledger};

/// Time for the newer process to say a word that it need not think about.
pub(super) const WORD_TIME: Duration = Duration::from_secs(5);
/// Time for it to get ready: verifying the programs takes a fraction of a second, reading 100,000 services one, and a
/// machine may be busy.
const READY_TIME: Duration = Duration::from_secs(60);
/// Pause when no connection can be accepted (descriptors ran out).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a hand-over asks of whoever owns what is in force.
pub enum Ask {
    /// What listens now, or why nothing can be handed over. Nothing that is named after the configuration may change
    /// from the answer until [`Ask::Resume`] or the end.
    Sockets(oneshot::Sender<Result<Vec<(SocketName, OwnedFd)>, String>>),
    /// Nobody takes over after all, and why.
    Resume(io::Error),
    /// A newer process is ready.
    HandOver(Successor),
}

/// Waits for newer processes, one after the other. Dropping it stops that.
pub struct Giver {
    task: tokio::task::JoinHandle<()>,
}

/// What every hand-over has in common.
struct Place {
    asks: mpsc::Sender<Ask>,
    /// What is handed over beside what the owner tells.
    fixed: NamedSockets,
    pins: PathBuf,
}

impl Giver {
    /// Serves the socket; `fixed` is handed over beside what [`Ask::Sockets`] gives, and `pins` is the folder of the
    /// pinned maps.
    #[must_use]
    pub fn start(
        listener: UnixListener,
        asks: mpsc::Sender<Ask>,
        fixed: NamedSockets,
        pins: PathBuf,
    ) -> Self {
        let place = Arc::new(Place { asks, fixed, pins });
        let task = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => serve(stream, &place).await,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a process that wants to take over");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        });
        Self { task }
    }
}

impl Drop for Giver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: tokio::net::UnixStream, place: &Arc<Place>) {
    let here = Arc::clone(place);
    let runtime = Runtime::current();
    let talked = tokio::task::spawn_blocking(move || {
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        talk(stream, &here, &runtime)
    });
    let result = talked.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    match result {
        Ok(Some((successor, resolved))) => {
            if place.asks.send(Ask::HandOver(successor)).await.is_ok() {
                // Whoever decides drops its end.
                let _ = resolved.await;
            }
        }
        Ok(None) => {}
        Err(error) => {
            let _ = place.asks.send(Ask::Resume(error)).await;
        }
    }
}

type Prepared = Option<(Successor, oneshot::Receiver<()>)>;

/// Talks with a newer process until it is ready; `None` if it was refused.
fn talk(stream: UnixStream, place: &Place, runtime: &Runtime) -> io::Result<Prepared> {
    stream.set_write_timeout(Some(WORD_TIME))?;
    stream.set_read_timeout(Some(WORD_TIME))?;
    let peer = unix::peer(&stream)?;
    if peer.user != 0 {
        // The socket's mode says so already.
        return Ok(None);
    }
    let (hello, _) = recv::<Hello>(&stream)?;
    let offered = match objection(&hello) {
        Some(reason) => Err((reason, false)),
        None => runtime.block_on(ask_sockets(place)).map_err(|reason| (reason, true)),
    };
    let mut sockets = match offered {
        Ok(sockets) => sockets,
        Err((reason, is_passing)) => {
            tracing::warn!(process = hello.process, version = hello.version, reason, "takeover refused");
            return send(&stream, &Answer::Refused { reason, is_passing }, &[]).map(|()| None);
        }
    };
    tracing::info!(process = hello.process, version = hello.version, "a newer process prepares to take over");
    for (name, fd) in &place.fixed {
        sockets.push((name.clone(), fd.try_clone()?));
    }
    let (names, fds): (Vec<SocketName>, Vec<OwnedFd>) = sockets.into_iter().unzip();
    let offered = names.iter().cloned().collect();
    let offer = Offer {
        abi: ABI_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process: std::process::id(),
        pins: place.pins.clone(),
        sockets: names,
        carriage: CARRIAGE,
    };
    send(&stream, &Answer::Offer(offer), &borrow(&fds))?;
    drop(fds);
    stream.set_read_timeout(Some(READY_TIME))?;
    let (ready, programs) = recv::<Ready>(&stream).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::other("the newer process got stuck"),
        io::ErrorKind::UnexpectedEof => io::Error::other("the newer process gave up or died"),
        _ => error,
    })?;
    if ready.programs.len() != programs.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "programs without descriptors"));
    }
    let (resolve, resolved) = oneshot::channel();
    let programs = ready.programs.into_iter().zip(programs).collect();
    let successor = Successor {
        stream,
        process: hello.process,
        programs,
        offered,
        admin_socket: ready.admin_socket,
        ledger: (hello.carriage == CARRIAGE).then(Ledger::default),
        _resolve: resolve,
    };
    Ok(Some((successor, resolved)))
}

/// Why a process can never take over from this one.
fn objection(hello: &Hello) -> Option<String> {
    if hello.protocol != PROTOCOL {
        return Some(format!(
            "weir {} hands over by protocol {PROTOCOL}, not {}; end it first",
            env!("CARGO_PKG_VERSION"),
            hello.protocol
        ));
    }
    (hello.abi != ABI_VERSION).then(|| {
        format!(
            "weir {} has maps of ABI {ABI_VERSION}, which one of ABI {} cannot use; end it first",
            env!("CARGO_PKG_VERSION"),
            hello.abi
        )
    })
}

async fn ask_sockets(place: &Place) -> Result<Vec<(SocketName, OwnedFd)>, String> {
    let (answer, answered) = oneshot::channel();
    let _ = place.asks.send(Ask::Sockets(answer)).await;
    answered.await.unwrap_or_else(|_| Err("it is ending".to_owned()))
}

/// A newer process that is ready.
pub struct Successor {
    stream: UnixStream,
    process: u32,
    programs: Vec<(String, OwnedFd)>,
    /// Sockets of which it has copies.
    offered: HashSet<SocketName>,
    admin_socket: PathBuf,
    /// What it knows of this process's counters; none if it does not understand them, nor connections.
    ledger: Option<Ledger>,
    /// Its end tells the [`Giver`] that this is over.
    _resolve: oneshot::Sender<()>,
}

/// What became of a hand-over.
#[derive(Debug)]
pub enum Outcome {
    /// The other process has everything.
    HandedOver,
    /// It is gone, or what it wants cannot be had: everything is as before, once the caller's programs are back.
    Failed(io::Error),
}

impl Successor {
    /// Its process id, as it says.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.process
    }

    /// Where its admin socket is.
    #[must_use]
    pub fn admin_socket(&self) -> &Path {
        &self.admin_socket
    }

    /// Whether it hears of sockets that it has no copies of.
    #[must_use]
    pub fn gets_late_sockets(&self) -> bool {
        self.ledger.is_some()
    }

    /// What goes on after the hand-over: connections move to the other, if it understands them.
    ///
    /// # Errors
    /// If this process may have no more descriptors.
    pub fn carrier(&mut self) -> io::Result<Option<Carrier>> {
        let Some(ledger) = self.ledger.take() else { return Ok(None) };
        Ok(Some(Carrier::new(self.stream.try_clone()?, ledger)))
    }

    /// Hands over: `switch` gives each hook to the programs of the other, then that is told, together with the `sockets` that it does
    /// not have yet and all counters if it understands them, and it says that it serves. From `counts` on nobody may be shown this
    /// process's own counters any more.
    ///
    /// Blocks for some milliseconds; if the other hangs just then, for seconds: it has everything then, as a process that
    /// hangs later has.
    pub fn hand_over<'a>(
        &mut self,
        sockets: impl Iterator<Item = (SocketName, &'a Arc<OwnedFd>)>,
        switch: impl FnOnce(&[(String, OwnedFd)]) -> io::Result<()>,
        counts: impl FnOnce() -> Vec<Counts>,
    ) -> Outcome {
        if let Err(error) = switch(&self.programs) {
            let _ = send(&self.stream, &Verdict::Refused(error.to_string()), &[]);
            return Outcome::Failed(error);
        }
        let mut told = send(&self.stream, &Verdict::Yours, &[]);
        if let Some(ledger) = &mut self.ledger {
            let late = sockets.filter(|(name, _)| !self.offered.contains(name));
            let (names, fds): (Vec<_>, Vec<_>) = late.map(|(name, socket)| (name, socket.as_fd())).unzip();
            if !names.is_empty() {
                told = told.and_then(|()| send(&self.stream, &Carried::Sockets(names), &fds));
            }
            told = told
                .and_then(|()| say_counters(&self.stream, ledger.difference(counts())))
                .and_then(|()| send(&self.stream, &Carried::Counted, &[]));
        }
        let served = told
            .and_then(|()| self.stream.set_read_timeout(Some(WORD_TIME)))
            .and_then(|()| recv::<Serving>(&self.stream));
        match served {
            Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Outcome::Failed(error)
            }
            Err(_) => {
                tracing::warn!(
                    process = self.process,
                    "the newer process has everything and is slow to say so"
                );
                Outcome::HandedOver
            }
            Ok(_) => Outcome::HandedOver,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::carried::Owner;

    #[test]
    fn another_abi_or_protocol_is_refused_by_name() {
        let hello =
            |protocol, abi| Hello { protocol, abi, version: "9.9.9".into(), process: 1, carriage: CARRIAGE };
        assert_eq!(objection(&hello(PROTOCOL, ABI_VERSION)), None);
        assert!(objection(&hello(PROTOCOL, 999)).unwrap().contains("ABI 999"));
        assert!(objection(&hello(999, ABI_VERSION)).unwrap().contains("not 999"));
    }

    /// A successor whose other end is in the test's hands.
    fn successor() -> (Successor, UnixStream) {
        let (stream, other) = UnixStream::pair().unwrap();
        let programs = vec![("a".to_owned(), std::fs::File::open("/dev/null").unwrap().into())];
        let (resolve, _) = oneshot::channel();
        let admin_socket = PathBuf::from("/x");
        let ledger = Some(Ledger::default());
        let offered = HashSet::from([SocketName::Lock]);
        (Successor { stream, process: 1, programs, offered, admin_socket, ledger, _resolve: resolve }, other)
    }

    #[test]
    fn programs_that_cannot_be_switched_to_are_refused() {
        let (mut successor, other) = successor();
        let outcome =
            successor.hand_over(std::iter::empty(), |_| Err(io::Error::other("no such link")), Vec::new);
        assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
        let (verdict, _) = recv::<Verdict>(&other).unwrap();
        assert_eq!(verdict, Verdict::Refused("no such link".to_owned()));
    }

    #[test]
    fn a_process_that_dies_before_it_serves_has_taken_nothing_over() {
        for hears_it in [false, true] {
            let (mut successor, other) = successor();
            let dying = std::thread::spawn(move || {
                if hears_it {
                    assert_eq!(recv::<Verdict>(&other).unwrap().0, Verdict::Yours);
                }
            });
            let outcome = successor.hand_over(
                std::iter::empty(),
                |programs| {
                    assert_eq!(programs[0].0, "a");
                    Ok(())
                },
                Vec::new,
            );
            assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
            dying.join().unwrap();
        }
    }

    #[test]
    fn a_process_that_serves_has_everything() {
        let (mut successor, other) = successor();
        send(&other, &Serving {}, &[]).unwrap();
        let counts = || vec![Counts::new(Owner::Process, &[("reloads", 3)])];
        let file = Arc::new(std::fs::File::open("/dev/null").unwrap().into());
        let late = SocketName::Pod { netns_cookie: 7, family: 0 };
        let sockets = [SocketName::Lock, late.clone()].map(|name| (name, &file));
        let outcome = successor.hand_over(sockets.into_iter(), |_| Ok(()), counts);
        assert!(matches!(outcome, Outcome::HandedOver));
        assert_eq!(recv::<Verdict>(&other).unwrap().0, Verdict::Yours);
        let (said, fds) = recv::<Carried>(&other).unwrap();
        assert_eq!((said, fds.len()), (Carried::Sockets(vec![late]), 1), "only what it does not have");
        assert_eq!(recv::<Carried>(&other).unwrap().0, Carried::Counters(counts()));
        assert_eq!(recv::<Carried>(&other).unwrap().0, Carried::Counted);
    }

    #[test]
    fn a_process_that_understands_no_counters_hears_none_and_gets_no_connections() {
        let (mut successor, other) = successor();
        successor.ledger = None;
        send(&other, &Serving {}, &[]).unwrap();
        let counts = || -> Vec<Counts> { panic!("nobody wants them") };
        let outcome = successor.hand_over(std::iter::empty(), |_| Ok(()), counts);
        assert!(matches!(outcome, Outcome::HandedOver));
        assert!(successor.carrier().unwrap().is_none());
        drop(successor);
        assert_eq!(recv::<Verdict>(&other).unwrap().0, Verdict::Yours);
        assert_eq!(recv::<Carried>(&other).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
