//! The handshake, over any driver: rustls decides, this moves its bytes.
//!
//! Records are shown to rustls one at a time, so that it never takes one that belongs to the established session: that is
//! ours to open ([`super::session`]).

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use proxy_core::detect::{Detected, detect};
use proxy_io::{Chunk, Socket};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{AlertDescription, CommonState, HandshakeKind, ProtocolVersion};

use super::cert;
use super::error::TlsError;
use super::refuse;
use super::seal::HEAD_BYTES;
use super::session::{Keys, Session};
use super::stream::{Stream, TlsStream};

/// Most that a peer's handshake may hold of this process's memory: a message of 64 KiB, the most that rustls takes, in
/// records that are not tiny.
const MOST_BYTES: usize = 128 << 10;
/// Most that a record may have after its head in any version (RFC 5246, 6.2.3).
const MOST_RECORD_BYTES: usize = (1 << 14) + 2048;
/// What was agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Version that is spoken.
    pub version: ProtocolVersion,
    /// Protocol inside, if both sides named one.
    pub alpn: Option<Box<[u8]>>,
    /// Name that the client asked for, in lower case.
    pub sni: Option<Box<str>>,
    /// Whether an earlier session was resumed.
    pub is_resumed: bool,
    /// Who the client is, if it has shown a certificate; it was verified.
    pub client: Option<Box<PeerIdentity>>,
}

impl Negotiated {
    /// Version, as people write it.
    #[must_use]
    pub fn version_text(&self) -> &'static str {
        match self.version {
            ProtocolVersion::TLSv1_2 => "1.2",
            ProtocolVersion::TLSv1_3 => "1.3",
            _ => "unknown",
        }
    }
}

/// What a verified certificate says of its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Subject, as `CN=web,O=shop`.
    pub subject: String,
    /// Alternative names: DNS names and URIs.
    pub names: Vec<String>,
}

/// One of rustls's two state machines.
pub(super) enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

struct Handshake {
    connection: Connection,
    socket: Socket,
    /// What came and was not used up.
    input: Vec<u8>,
    /// Part of it that rustls may see: whole records.
    shown_bytes: usize,
    output: Vec<u8>,
    /// Neither side has keys yet, so an alert may stand in the clear.
    is_clear: bool,
    sni: Option<Box<str>>,
}

enum Step {
    Progress,
    /// More of the peer's bytes are needed.
    NeedInput,
    /// The keys are there.
    Done,
}

/// Carries out a handshake; dropping the future closes the connection.
///
/// A peer that takes longer than `limit` is not waited for: it is told as far as that takes no keys, which rustls does not hand out
/// before the end. One that is refused is told why, and gets the time to read that.
pub(super) async fn run(
    connection: Connection,
    socket: Socket,
    early: Chunk,
    limit: Duration,
) -> Result<Stream, TlsError> {
    let input = early.parts().collect::<Vec<_>>().concat();
    drop(early);
    let (output, sni) = (Vec::new(), None);
    let mut handshake = Handshake { connection, socket, input, shown_bytes: 0, output, is_clear: true, sni };
    let error = match tokio::time::timeout(limit, handshake.drive()).await {
        Ok(Ok(())) => return handshake.establish(),
        Ok(Err(error)) => error,
        Err(_) => TlsError::TimedOut(limit),
    };
    match error {
        TlsError::Protocol(_) | TlsError::Certificate(_) => handshake.refuse().await,
        TlsError::TooLong(_) if handshake.is_clear => {
            refuse::tell(&mut handshake.socket, &refuse::fatal(AlertDescription::DecodeError)).await;
        }
        // Who has said nothing may not know TLS at all.
        TlsError::TimedOut(_) if handshake.is_clear && handshake.has_begun() => {
            refuse::give_up(&mut handshake.socket).await;
        }
        _ => {}
    }
    Err(error)
}

impl Handshake {
    async fn drive(&mut self) -> Result<(), TlsError> {
        loop {
            match self.step()? {
                Step::Progress => {}
                Step::NeedInput => {
                    if !self.show_record() {
                        self.flush().await?;
                        self.recv().await?;
                    }
                }
                Step::Done if self.shown_bytes == 0 => return self.flush().await,
                // Part of a message that follows the handshake: its end is needed before the keys can be had.
                Step::Done => {
                    if !self.show_record() {
                        self.flush().await?;
                        self.recv().await?;
                    }
                }
            }
        }
    }

    fn step(&mut self) -> Result<Step, TlsError> {
        let shown = &mut self.input[..self.shown_bytes];
        let (discard, step) = match &mut self.connection {
            Connection::Client(client) => take_step(client.process_tls_records(shown), &mut self.output),
            Connection::Server(server) => take_step(server.process_tls_records(shown), &mut self.output),
        };
        self.input.drain(..discard);
        self.shown_bytes -= discard;
        match step? {
            Step::Done if self.common().is_handshaking() => Ok(Step::NeedInput),
            step => Ok(step),
        }
    }

    fn common(&self) -> &CommonState {
        match &self.connection {
            Connection::Client(client) => client,
            Connection::Server(server) => server,
        }
    }

    /// Shows one more record to rustls, if it is complete.
    fn show_record(&mut self) -> bool {
        let Some(head) = self.input[self.shown_bytes..].first_chunk::<HEAD_BYTES>() else { return false };
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        let end = self.shown_bytes + HEAD_BYTES + length;
        // Of what cannot be TLS, rustls needs no more than the head to refuse it.
        let is_plausible = (20..=24).contains(&head[0]) && head[1] == 3 && length <= MOST_RECORD_BYTES;
        if end > self.input.len() && is_plausible {
            return false;
        }
        self.shown_bytes = end.min(self.input.len());
        let is_server = matches!(self.connection, Connection::Server(_));
        self.is_clear &= is_server;
        if self.sni.is_none()
            && is_server
            && let Detected::Tls(hello) = detect(&self.input[..self.shown_bytes])
        {
            self.sni = hello.sni;
        }
        true
    }

    async fn recv(&mut self) -> Result<(), TlsError> {
        if self.input.len() > MOST_BYTES {
            return Err(TlsError::TooLong(MOST_BYTES));
        }
        let chunk = poll_fn(|cx| self.socket.poll_recv(cx)).await.map_err(TlsError::Io)?;
        if chunk.is_empty() {
            return Err(TlsError::Closed);
        }
        self.input.extend_from_slice(&chunk);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), TlsError> {
        let mut chunk = Chunk::from(std::mem::take(&mut self.output));
        if chunk.is_empty() {
            return Ok(());
        }
        self.is_clear &= matches!(self.connection, Connection::Client(_));
        poll_fn(|cx| self.socket.poll_send(cx, &mut chunk)).await.map_err(TlsError::Io)
    }

    /// Whether the peer has seen that this is TLS, or shown it.
    fn has_begun(&self) -> bool {
        matches!(self.connection, Connection::Client(_)) || !self.input.is_empty()
    }

    /// Tells the peer why it is refused, as far as rustls has words for it.
    async fn refuse(mut self) {
        // The alert may stand behind other things to be sent. Not a step further: what it is refused for must not be looked at
        // again.
        while self.common().wants_write()
            && let Ok(Step::Progress) = self.step()
        {}
        if !self.output.is_empty() {
            refuse::tell(&mut self.socket, &self.output).await;
        }
    }

    fn establish(self) -> Result<Stream, TlsError> {
        let negotiated = self.negotiated()?;
        let suite = self.common().negotiated_cipher_suite().ok_or_else(|| keys_missing("a cipher suite"))?;
        let is_v1_3 = negotiated.version == ProtocolVersion::TLSv1_3;
        let is_client = matches!(self.connection, Connection::Client(_));
        let (secrets, keys) = match self.connection {
            Connection::Client(client) => {
                let (secrets, keys) = client.dangerous_into_kernel_connection().map_err(TlsError::Keys)?;
                (secrets, is_v1_3.then(|| Keys::Client(Box::new(keys))))
            }
            Connection::Server(server) => {
                let (secrets, keys) = server.dangerous_into_kernel_connection().map_err(TlsError::Keys)?;
                (secrets, is_v1_3.then(|| Keys::Server(Box::new(keys))))
            }
        };
        let session = Session::new(suite, is_client, secrets, keys);
        let session = session.map_err(|fault| keys_missing(&fault.to_string()))?;
        Ok(Stream::Tls(Box::new(TlsStream::new(self.socket, session, Chunk::from(self.input), negotiated))))
    }

    fn negotiated(&self) -> Result<Negotiated, TlsError> {
        let common = self.common();
        let client = match &self.connection {
            Connection::Server(_) => common.peer_certificates().and_then(<[_]>::first),
            Connection::Client(_) => None,
        };
        Ok(Negotiated {
            version: common.protocol_version().ok_or_else(|| keys_missing("a version"))?,
            alpn: common.alpn_protocol().map(Into::into),
            sni: self.sni.clone(),
            is_resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
            client: client.map(|certificate| Box::new(cert::identity(certificate))),
        })
    }
}

fn keys_missing(what: &str) -> TlsError {
    TlsError::Keys(rustls::Error::General(format!("the handshake ended without {what}")))
}

/// Does what rustls wants next; says how much of the input was used up, too.
fn take_step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    output: &mut Vec<u8>,
) -> (usize, Result<Step, TlsError>) {
    let UnbufferedStatus { discard, state } = status;
    let step = match state {
        Err(error) => Err(error.into()),
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
                let start = output.len();
                output.resize(start + size.required_size, 0);
                // It is as long as it said.
                let _ = data.encode(&mut output[start..]);
            }
            Ok(Step::Progress)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Progress)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::NeedInput),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Done),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Err(TlsError::Closed),
        // Early data is not offered, and no record of the session is shown.
        Ok(_) => Err(TlsError::Io(io::Error::other("bytes of the session in the middle of the handshake"))),
    };
    (discard, step)
}
