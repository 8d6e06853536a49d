//! An established TLS session: ciphertext in, plaintext out, and the other way round. No I/O.

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{AlertDescription, ConnectionTrafficSecrets, ContentType, HandshakeType, SupportedCipherSuite};

use super::error::Fault;
use super::seal::{HEAD_BYTES, Head, Opener, PLAIN_BYTES, Sealer};

/// Type and length of a handshake message.
const MESSAGE_HEAD_BYTES: usize = 4;
/// Longest handshake message that is taken: a ticket of 64 KiB, the most that its length can say, with what belongs to it.
const MESSAGE_BYTES: usize = 67 << 10;
/// A KeyUpdate without its head.
const KEY_UPDATE_BYTES: usize = 1;
/// Records without effect (empty ones, warnings) that are taken in a row; OpenSSL stops at the same number.
const MOST_IDLE_RECORDS: u32 = 32;
/// Share of a record that must be here before memory for all of it is taken: who sends little holds little.
const RESERVE_SHARE: usize = 8;
/// What a KeyUpdate asks for (RFC 8446, 4.6.3).
const UPDATE_NOT_REQUESTED: u8 = 0;
const UPDATE_REQUESTED: u8 = 1;
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// Both directions of a session.
pub(super) struct Session {
    suite: SupportedCipherSuite,
    is_client: bool,
    opener: Opener,
    sealer: Sealer,
    /// Where the next keys come from; in TLS 1.2 there are none.
    keys: Option<Keys>,
    /// The record that is being received.
    head: Head,
    head_bytes: usize,
    body: Vec<u8>,
    /// A handshake message that is being received.
    message: Vec<u8>,
    idle_records: u32,
    /// The peer has changed its keys and wants us to do the same before we send again.
    owes_key_update: bool,
    /// The peer has said that nothing more comes.
    is_ended: bool,
}

/// What rustls keeps of the handshake.
pub(super) enum Keys {
    Client(Box<KernelConnection<ClientConnectionData>>),
    Server(Box<KernelConnection<ServerConnectionData>>),
}

impl Keys {
    fn next_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Client(keys) => keys.update_rx_secret(),
            Self::Server(keys) => keys.update_rx_secret(),
        }
    }

    fn next_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Client(keys) => keys.update_tx_secret(),
            Self::Server(keys) => keys.update_tx_secret(),
        }
    }
}

impl Session {
    pub(super) fn new(
        suite: SupportedCipherSuite,
        is_client: bool,
        secrets: rustls::ExtractedSecrets,
        keys: Option<Keys>,
    ) -> Result<Self, Fault> {
        Ok(Self {
            suite,
            is_client,
            opener: Opener::new(suite, secrets.rx)?,
            sealer: Sealer::new(suite, secrets.tx)?,
            keys,
            head: Head::default(),
            head_bytes: 0,
            body: Vec::new(),
            message: Vec::new(),
            idle_records: 0,
            owes_key_update: false,
            is_ended: false,
        })
    }

    /// Whether the peer has said that nothing more comes.
    pub(super) fn is_ended(&self) -> bool {
        self.is_ended
    }

    #[cfg(test)]
    pub(super) fn sealer(&mut self) -> &mut Sealer {
        &mut self.sealer
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.body.capacity() + self.message.capacity()
    }

    /// Opens what has come; plaintext is appended to `out`. What belongs to an incomplete record is kept.
    ///
    /// After an error the session is over; what was appended before is good.
    pub(super) fn open(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        while !bytes.is_empty() && !self.is_ended {
            let taken = (HEAD_BYTES - self.head_bytes).min(bytes.len());
            self.head[self.head_bytes..self.head_bytes + taken].copy_from_slice(&bytes[..taken]);
            self.head_bytes += taken;
            bytes = &bytes[taken..];
            if self.head_bytes < HEAD_BYTES {
                return Ok(());
            }
            let length = self.opener.body_bytes(&self.head)?;
            if self.body.is_empty() && bytes.len() >= length {
                // All of it is here: it is copied once, to where its plaintext belongs.
                let start = out.len();
                out.reserve(bytes.len());
                out.extend_from_slice(&bytes[..length]);
                bytes = &bytes[length..];
                self.handle_record(out, start)?;
                continue;
            }
            let taken = (length - self.body.len()).min(bytes.len());
            if (self.body.len() + taken) * RESERVE_SHARE >= length {
                self.body.reserve_exact(length - self.body.len());
            }
            self.body.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.body.len() < length {
                return Ok(());
            }
            self.handle_body(out)?;
        }
        Ok(())
    }

    /// Opens the record that was collected.
    fn handle_body(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        let mut body = std::mem::take(&mut self.body);
        if out.is_empty() {
            self.handle_record(&mut body, 0)?;
            *out = body;
            return Ok(());
        }
        let start = out.len();
        out.append(&mut body);
        self.handle_record(out, start)
    }

    /// Opens the record in `out[start..]`; if it is not the application's, nothing of it stays there.
    fn handle_record(&mut self, out: &mut Vec<u8>, start: usize) -> Result<(), Fault> {
        self.head_bytes = 0;
        let opened = self.opener.open(&self.head, out, start);
        if let Ok(ContentType::ApplicationData) = opened
            && self.message.is_empty()
            && out.len() > start
        {
            self.idle_records = 0;
            return Ok(());
        }
        let content = out.split_off(start);
        let kind = opened?;
        self.handle_other(kind, &content)
    }

    #[cold]
    fn handle_other(&mut self, kind: ContentType, content: &[u8]) -> Result<(), Fault> {
        self.idle_records += 1;
        if self.idle_records > MOST_IDLE_RECORDS {
            return Err(Fault::peer(AlertDescription::UnexpectedMessage, "too many records without content"));
        }
        if !self.message.is_empty() && kind != ContentType::Handshake {
            let what = "something else in the middle of a handshake message";
            return Err(Fault::peer(AlertDescription::UnexpectedMessage, what));
        }
        if content.is_empty() && kind != ContentType::ApplicationData {
            // RFC 8446, 5.4; RFC 5246, 6.2.1.
            let what = "a record of the protocol's own with nothing in it";
            return Err(Fault::peer(AlertDescription::UnexpectedMessage, what));
        }
        match kind {
            ContentType::ApplicationData => Ok(()),
            ContentType::Alert => self.handle_alert(content),
            ContentType::Handshake => self.handle_handshake(content),
            _ => Err(Fault::peer(AlertDescription::UnexpectedMessage, "a record of an unknown kind")),
        }
    }

    fn handle_alert(&mut self, content: &[u8]) -> Result<(), Fault> {
        let [level, alert] = content else {
            return Err(Fault::peer(AlertDescription::DecodeError, "an alert that is none"));
        };
        match AlertDescription::from(*alert) {
            AlertDescription::CloseNotify => {
                self.is_ended = true;
                Ok(())
            }
            // Announces a close_notify.
            AlertDescription::UserCanceled => Ok(()),
            // In TLS 1.3 the level says nothing (RFC 8446, 6).
            _ if *level == WARNING && self.keys.is_none() => Ok(()),
            alert => Err(Fault::Alert(alert)),
        }
    }

    fn handle_handshake(&mut self, content: &[u8]) -> Result<(), Fault> {
        self.message.extend_from_slice(content);
        while let [kind, high, middle, low, rest @ ..] = &self.message[..] {
            let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
            let kind = HandshakeType::from(*kind);
            // At once: nobody may fill memory with what will be refused.
            if length > self.most_bytes(kind)? {
                let what = "a handshake message that is too long";
                return Err(Fault::peer(AlertDescription::DecodeError, what));
            }
            if rest.len() < length {
                return Ok(());
            }
            let end = MESSAGE_HEAD_BYTES + length;
            let mut message = std::mem::take(&mut self.message);
            self.handle_message(kind, &message[MESSAGE_HEAD_BYTES..end], message.len() == end)?;
            message.drain(..end);
            self.message = message;
        }
        if self.message.is_empty() {
            self.message = Vec::new();
        }
        Ok(())
    }

    /// Longest body of a handshake message that may come now.
    fn most_bytes(&self, kind: HandshakeType) -> Result<usize, Fault> {
        match (kind, &self.keys) {
            (HandshakeType::NewSessionTicket, Some(Keys::Client(_))) => Ok(MESSAGE_BYTES),
            (HandshakeType::KeyUpdate, Some(_)) => Ok(KEY_UPDATE_BYTES),
            (HandshakeType::HelloRequest, None) if self.is_client => Ok(0),
            // Also a ClientHello that would renegotiate.
            _ => Err(Fault::peer(AlertDescription::UnexpectedMessage, "a handshake message out of turn")),
        }
    }

    fn handle_message(&mut self, kind: HandshakeType, body: &[u8], is_last: bool) -> Result<(), Fault> {
        match (kind, &mut self.keys) {
            (HandshakeType::NewSessionTicket, Some(Keys::Client(keys))) => {
                let is_good = keys.handle_new_session_ticket(body).is_ok();
                let bad = || Fault::peer(AlertDescription::DecodeError, "a session ticket that is none");
                is_good.then_some(()).ok_or_else(bad)
            }
            (HandshakeType::KeyUpdate, Some(keys)) => {
                let alert = match body {
                    // The next record has another key, so nothing may reach into it (RFC 8446, 5.1).
                    _ if !is_last => AlertDescription::UnexpectedMessage,
                    [request @ (UPDATE_NOT_REQUESTED | UPDATE_REQUESTED)] => {
                        self.opener = Opener::new(self.suite, keys.next_rx().map_err(Fault::Keys)?)?;
                        self.owes_key_update |= *request == UPDATE_REQUESTED;
                        return Ok(());
                    }
                    [_] => AlertDescription::IllegalParameter,
                    _ => AlertDescription::DecodeError,
                };
                Err(Fault::peer(alert, "a bad key update"))
            }
            // A server that would like to renegotiate may be ignored (RFC 5246, 7.4.1.1), and most go on then.
            _ => Ok(()),
        }
    }

    /// Seals bytes as records, appended to `out`: as few as there can be, however many parts the bytes come in.
    pub(super) fn seal<'a>(
        &mut self,
        parts: impl Iterator<Item = &'a [u8]>,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let kind = ContentType::ApplicationData;
        // Where the plaintext of the record begins that is not full.
        let mut open: Option<usize> = None;
        for mut part in parts {
            while !part.is_empty() {
                let start = match open {
                    Some(start) => start,
                    None => self.begin(out)?,
                };
                let taken = (start + PLAIN_BYTES - out.len()).min(part.len());
                out.extend_from_slice(&part[..taken]);
                part = &part[taken..];
                open = Some(start);
                if out.len() - start == PLAIN_BYTES {
                    self.sealer.end(kind, out, start)?;
                    open = None;
                }
            }
        }
        open.map_or(Ok(()), |start| self.sealer.end(kind, out, start))
    }

    fn begin(&mut self, out: &mut Vec<u8>) -> Result<usize, Fault> {
        if self.owes_key_update || self.sealer.is_worn() {
            self.update_keys(out)?;
        }
        Ok(self.sealer.begin(out))
    }

    #[cold]
    fn update_keys(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        // TLS 1.2 has no way to go on.
        let keys = self.keys.as_mut().ok_or(Fault::Exhausted)?;
        let message = [u8::from(HandshakeType::KeyUpdate), 0, 0, 1, UPDATE_NOT_REQUESTED];
        self.sealer.seal(ContentType::Handshake, &message, out)?;
        self.sealer = Sealer::new(self.suite, keys.next_tx().map_err(Fault::Keys)?)?;
        self.owes_key_update = false;
        Ok(())
    }

    /// Whether little more can be sent, since the key wears out and cannot be changed.
    pub(super) fn is_wearing(&self) -> bool {
        self.keys.is_none() && self.sealer.is_wearing()
    }

    /// Appends the record that says that nothing more comes.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        let alert = [WARNING, u8::from(AlertDescription::CloseNotify)];
        self.sealer.seal(ContentType::Alert, &alert, out)
    }

    /// Appends the record that says that the session failed.
    pub(super) fn fail(&mut self, alert: AlertDescription, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.sealer.seal(ContentType::Alert, &[FATAL, u8::from(alert)], out)
    }
}
