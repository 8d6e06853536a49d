//! The newer process's side.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proxy_bpf::abi::ABI_VERSION;

use super::arrive::Arrivals;
use super::protocol::{Answer, CARRIAGE, Carried, Hello, PROTOCOL, Ready, Serving, Verdict, recv, send};
use super::sockets::Sockets;
use crate::stats::carried::Counts;

/// Time for the older process to answer; it may be talking with another one.
const ANSWER_TIME: Duration = Duration::from_secs(90);

/// How a takeover began.
pub enum Begun {
    /// With an offer.
    Taking(Taking, Sockets),
    /// With a no that may be gone in a moment: the other is starting or ending.
    Later(String),
}

/// A takeover under way. Dropping it leaves everything as it was, until [`Taking::ready`] has returned.
#[derive(Debug)]
pub struct Taking {
    stream: UnixStream,
    process: u32,
    version: String,
    pins: PathBuf,
    /// It says its counters, and hands connections over.
    carries: bool,
}

/// What comes with the word that everything is this process's.
#[derive(Debug, Default)]
pub struct HandedOver {
    /// Listeners that the other opened after its offer.
    pub late: Sockets,
    /// What it has counted so far.
    pub counts: Vec<Counts>,
}

/// Asks the process that serves a socket to hand over.
///
/// # Errors
/// If nobody answers there, or says no for good.
pub fn begin(socket: &Path) -> io::Result<Begun> {
    let stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) => return Ok(Begun::Later(format!("nobody answers on {}: {error}", socket.display()))),
    };
    stream.set_write_timeout(Some(ANSWER_TIME))?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let process = std::process::id();
    let hello = Hello { protocol: PROTOCOL, abi: ABI_VERSION, version, process, carriage: CARRIAGE };
    let answered = send(&stream, &hello, &[]).and_then(|()| recv::<Answer>(&stream));
    let offer = match answered {
        Ok((Answer::Offer(offer), fds)) if offer.sockets.len() == fds.len() => Ok((offer, fds)),
        Ok((Answer::Offer(_), _)) => Err(io::Error::new(io::ErrorKind::InvalidData, "sockets are missing")),
        Ok((Answer::Refused { reason, is_passing: true }, _)) => return Ok(Begun::Later(reason)),
        Ok((Answer::Refused { reason, is_passing: false }, _)) => Err(io::Error::other(reason)),
        // It ended just now.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Ok(Begun::Later("it hung up".to_owned()));
        }
        Err(error) => Err(error),
    };
    let (offer, fds) = offer?;
    if offer.abi != ABI_VERSION {
        let text = format!("it has maps of ABI {}, and this one needs ABI {ABI_VERSION}", offer.abi);
        return Err(io::Error::other(text));
    }
    let sockets = offer.sockets.into_iter().zip(fds).collect();
    let carries = offer.carriage == CARRIAGE;
    let taking = Taking { stream, process: offer.process, version: offer.version, pins: offer.pins, carries };
    Ok(Begun::Taking(taking, sockets))
}

impl Taking {
    /// Process id of the other, as it says.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.process
    }

    /// Version of the other.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Folder of the other's pinned maps.
    #[must_use]
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// Says that everything is prepared, and waits until the other has let go: the kernel runs these programs then.
    ///
    /// # Errors
    /// If the other keeps everything, or is gone.
    pub fn ready(&self, programs: &[(&str, BorrowedFd<'_>)], admin_socket: &Path) -> io::Result<HandedOver> {
        let ready = Ready {
            programs: programs.iter().map(|(name, _)| (*name).to_owned()).collect(),
            admin_socket: admin_socket.to_owned(),
        };
        let fds: Vec<BorrowedFd<'_>> = programs.iter().map(|(_, fd)| *fd).collect();
        send(&self.stream, &ready, &fds)?;
        match recv::<Verdict>(&self.stream)?.0 {
            Verdict::Yours if self.carries => self.carried(),
            Verdict::Yours => Ok(HandedOver::default()),
            Verdict::Refused(reason) => Err(io::Error::other(reason)),
        }
    }

    fn carried(&self) -> io::Result<HandedOver> {
        let mut all = HandedOver::default();
        loop {
            match recv::<Carried>(&self.stream)? {
                (Carried::Sockets(names), fds) if names.len() != fds.len() => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "sockets are missing"));
                }
                (Carried::Sockets(names), fds) => all.late.extend(names.into_iter().zip(fds)),
                (Carried::Counters(some), _) => all.counts.extend(some),
                (Carried::Counted, _) => return Ok(all),
                (Carried::Connections(_), _) => {
                    let text = "connections before anybody serves them";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
            }
        }
    }

    /// Says that this process accepts; the other drains and ends. What it hands over until then comes through what this gives.
    #[must_use]
    pub fn serving(self) -> Option<Arrivals> {
        // If it is gone, it has nothing left to do.
        let _ = send(&self.stream, &Serving {}, &[]);
        self.carries.then(|| Arrivals::new(self.stream))
    }
}
