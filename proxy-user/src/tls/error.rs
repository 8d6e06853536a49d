//! What goes wrong in TLS, in words for an operator.

use std::io;
use std::time::Duration;

use proxy_core::outcome::Reason;
use rustls::AlertDescription;

/// Why a handshake did not come to an end.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The connection died.
    #[error("the connection failed in the TLS handshake: {0}")]
    Io(#[source] io::Error),
    /// The peer went away in between.
    #[error("the peer closed the connection in the TLS handshake")]
    Closed,
    /// The peer gave up and said why.
    #[error("the peer refused the TLS handshake: {0:?}")]
    Refused(AlertDescription),
    /// The peer's certificate is not good enough, or there is none.
    #[error("the peer's certificate is refused: {0}")]
    Certificate(#[source] rustls::Error),
    /// The peer does not speak TLS as it should.
    #[error("TLS handshake failed: {0}")]
    Protocol(#[source] rustls::Error),
    /// The peer was too slow.
    #[error("the TLS handshake did not end within {0:?}")]
    TimedOut(Duration),
    /// The handshake takes more memory than one is given.
    #[error("the peer's handshake is longer than {0} bytes")]
    TooLong(usize),
    /// The handshake is over, but its keys cannot be used.
    #[error("TLS keys cannot be used: {0}")]
    Keys(#[source] rustls::Error),
}

impl TlsError {
    /// Reason that a connection ends with.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Certificate(_) => Reason::TlsCertificate,
            Self::Refused(alert) if is_about_certificates(*alert) => Reason::TlsCertificate,
            Self::TimedOut(_) => Reason::TlsTimeout,
            Self::Keys(_) => Reason::Internal,
            Self::Io(_) | Self::Closed | Self::Refused(_) | Self::Protocol(_) | Self::TooLong(_) => {
                Reason::TlsHandshake
            }
        }
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::AlertReceived(alert) => Self::Refused(alert),
            rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                Self::Certificate(error)
            }
            _ => Self::Protocol(error),
        }
    }
}

fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}

/// What ends a stream that was established.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("the peer sent {what}")]
    Peer { alert: AlertDescription, what: &'static str },
    #[error("the peer ended the TLS session: {0:?}")]
    Alert(AlertDescription),
    #[error("the TLS session's keys are worn out")]
    Exhausted,
    #[error("a TLS record cannot be protected")]
    Crypto,
    #[error("{0}")]
    Keys(#[source] rustls::Error),
}

impl Fault {
    pub(super) fn peer(alert: AlertDescription, what: &'static str) -> Self {
        Self::Peer { alert, what }
    }

    pub(super) fn bad_record() -> Self {
        Self::peer(
            AlertDescription::BadRecordMac,
            "a record that was altered or is not meant for this session",
        )
    }

    /// What the peer is told; nothing if it gave up itself.
    pub(super) fn alert(&self) -> Option<AlertDescription> {
        match self {
            Self::Peer { alert, .. } => Some(*alert),
            Self::Alert(_) => None,
            Self::Exhausted | Self::Crypto => Some(AlertDescription::InternalError),
            Self::Keys(_) => Some(AlertDescription::IllegalParameter),
        }
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        let kind = match fault {
            // It says that the stream is incomplete, as RST does.
            Fault::Alert(_) => io::ErrorKind::ConnectionReset,
            // Nobody's fault: it has carried as much as it may.
            Fault::Exhausted => io::ErrorKind::QuotaExceeded,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, fault)
    }
}
