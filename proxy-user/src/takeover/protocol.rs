//! What the two processes say to each other, and how: a length, as many bytes of JSON, then the descriptors.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use proxy_io::unix::{self, MESSAGE_FDS};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::sockets::SocketName;
use crate::connection::moving::Identity;
use crate::stats::carried::Counts;

/// Version of what is said here. The first message of each side is understood by every version.
pub(super) const PROTOCOL: u32 = 3;
/// Format of what the older process says after `Yours`: late sockets, counters, and connections with their bytes. A process that
/// knows another format, or none, is told nothing, and the connections end where they are.
pub(super) const CARRIAGE: u32 = 3;
/// Longest message: a few dozen bytes for each socket, two sockets for each of 4,096 namespaces.
const MESSAGE_BYTES: u32 = 16 << 20;
/// Most descriptors: the same, and as many listeners of the config.
const MOST_FDS: u32 = 1 << 16;

/// The newer process's first word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) protocol: u32,
    /// Layout of the maps that both would use.
    pub(super) abi: u32,
    pub(super) version: String,
    pub(super) process: u32,
    /// The [`CARRIAGE`] that it understands; 0 is none.
    #[serde(default)]
    pub(super) carriage: u32,
}

/// The older process's answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// No; with a reason for operators.
    Refused {
        reason: String,
        /// Asking again in a moment may help.
        is_passing: bool,
    },
    /// Descriptors follow in the order of `sockets`.
    Offer(Offer),
}

/// What is handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Offer {
    pub(super) abi: u32,
    pub(super) version: String,
    pub(super) process: u32,
    /// Folder of the pinned maps.
    pub(super) pins: PathBuf,
    pub(super) sockets: Vec<SocketName>,
    /// The [`CARRIAGE`] that it speaks; 0 is none.
    #[serde(default)]
    pub(super) carriage: u32,
}

/// The newer process could serve. Descriptors of its programs follow in the order of `programs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ready {
    pub(super) programs: Vec<String>,
    /// Where its admin socket is: that file stays.
    pub(super) admin_socket: PathBuf,
}

/// The older process's last word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// The programs are switched: from now on all is the newer one's.
    Yours,
    /// It stays as it is, with a reason for operators.
    Refused(String),
}

/// The newer process's last word: it accepts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Serving {}

/// What the older process says after `Yours`, if both speak the same [`CARRIAGE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Carried {
    /// Listeners that were opened after the offer, if any; their descriptors come along. Before any counters.
    Sockets(Vec<SocketName>),
    /// Counters to be added.
    Counters(Vec<Counts>),
    /// Those were all; only now the newer one may show its own.
    Counted,
    /// Connections; their descriptors come along, and after these their bytes. It waits for [`Taken`].
    Connections(Vec<Moving>),
}

/// A connection. Its descriptors are the client's socket, the endpoint's, and the two ends of each pipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moving {
    pub(super) identity: Identity,
    /// From the client to the endpoint, and back.
    pub(super) flows: [MovingFlow; 2],
    pub(super) stopping_since_ns: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MovingFlow {
    pub(super) rest: MovingRest,
    /// Bytes received so far.
    pub(super) bytes: u64,
}

/// Where the bytes between the two sockets are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum MovingRest {
    /// So many among those that follow the message.
    Bytes(usize),
    /// So many in a pipe.
    Pipe(usize),
    Ended,
}

/// The newer process's answer: which of the connections it has from now on, in their order. Short enough to be written in one
/// piece: it is there as a whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Taken(pub(super) Vec<bool>);

/// Sends a message.
///
/// # Errors
/// As write(2) and sendmsg(2), within the stream's write timeout.
pub(super) fn send<T: Serialize>(
    mut stream: &UnixStream,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let len = |count: usize| u32::try_from(count).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let mut bytes = len(body.len())?.to_be_bytes().to_vec();
    bytes.extend(len(fds.len())?.to_be_bytes());
    bytes.extend(body);
    stream.write_all(&bytes)?;
    fds.chunks(MESSAGE_FDS).try_for_each(|some| unix::send_fds(stream, some))
}

/// Receives a message.
///
/// # Errors
/// `UnexpectedEof` if the other end is gone, `InvalidData` if it says something else; as read(2) and recvmsg(2), within
/// the stream's read timeout.
pub(super) fn recv<T: DeserializeOwned>(mut stream: &UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    let mut word = || {
        let mut word = [0; 4];
        stream.read_exact(&mut word).map(|()| u32::from_be_bytes(word))
    };
    let (body_len, fd_count) = (word()?, word()?);
    if body_len > MESSAGE_BYTES || fd_count > MOST_FDS {
        return Err(invalid("a message that is too long"));
    }
    let mut body = vec![0; body_len as usize];
    stream.read_exact(&mut body)?;
    let mut fds = Vec::new();
    while fds.len() < fd_count as usize {
        let some = unix::recv_fds(stream)?;
        if some.is_empty() {
            return Err(invalid("fewer descriptors than announced"));
        }
        fds.extend(some);
    }
    if fds.len() != fd_count as usize {
        return Err(invalid("more descriptors than announced"));
    }
    Ok((serde_json::from_slice(&body)?, fds))
}

/// Borrows descriptors for [`send`].
pub(super) fn borrow(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(|fd| fd.as_fd()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_with_their_descriptors_however_many() {
        let (here, there) = UnixStream::pair().unwrap();
        let count = MESSAGE_FDS + 7;
        let sent: Vec<OwnedFd> =
            (0..count).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect();
        let sender = std::thread::spawn(move || {
            let sockets: Vec<_> =
                (0..count).map(|n| SocketName::Pod { netns_cookie: n as u64, family: 1 }).collect();
            let (version, pins) = ("1".into(), "/x".into());
            let offer = Offer { abi: 1, version, process: 2, pins, sockets, carriage: CARRIAGE };
            send(&here, &Answer::Offer(offer), &borrow(&sent)).unwrap();
            send(&here, &Serving {}, &[]).unwrap();
        });
        let (answer, fds) = recv::<Answer>(&there).unwrap();
        let Answer::Offer(offer) = answer else { panic!("{answer:?}") };
        assert_eq!((offer.sockets.len(), fds.len()), (count, count));
        assert_eq!(recv::<Serving>(&there).unwrap().0, Serving {});
        assert_eq!(recv::<Serving>(&there).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        sender.join().unwrap();
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for bytes in [&b"\xff\xff\xff\xff\0\0\0\0"[..], b"\0\0\0\x02\0\0\0\0no", b"\0\0\0\x02\0\0\0\x01{}x"] {
            let (mut here, there) = UnixStream::pair().unwrap();
            here.write_all(bytes).unwrap();
            drop(here);
            assert_eq!(recv::<Serving>(&there).unwrap_err().kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
    }

    #[test]
    fn a_later_version_may_say_more_in_its_first_word() {
        let said = br#"{"protocol":9,"abi":7,"version":"9.0","process":1,"wishes":["all"]}"#;
        let hello = serde_json::from_slice::<Hello>(said).unwrap();
        assert_eq!((hello.protocol, hello.carriage), (9, 0));
    }
}
