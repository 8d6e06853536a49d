//! Frames that cost more than they bring, and how many of each a peer may send.

/// What a peer sent too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flood {
    /// PING: each must be answered (CVE-2019-9512).
    Ping,
    /// SETTINGS: each must be acknowledged (CVE-2019-9515).
    Settings,
    /// RST_STREAM: requests that are begun and called off at once, "rapid reset" (CVE-2023-44487).
    Reset,
    /// PRIORITY and PRIORITY_UPDATE, which mean nothing here (CVE-2019-9513).
    Priority,
    /// WINDOW_UPDATE without anything that was sent (CVE-2019-9517 has its opposite).
    WindowUpdate,
    /// DATA with hardly anything in it, "data dribble" (CVE-2019-9511).
    TinyData,
    /// DATA, HEADERS or CONTINUATION with nothing in it that end nothing (CVE-2019-9518).
    Empty,
    /// Frames of types that are unknown here, and GOAWAY.
    Other,
    /// CONTINUATION upon CONTINUATION (CVE-2024-27316 and others).
    Continuation,
}

/// How many frames of a kind a peer may send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// At once.
    pub(super) burst: u32,
    /// In each second.
    pub(super) per_second: u32,
    /// For each KiB of bodies that the peer sends.
    pub(super) per_received_kib: u32,
    /// For each KiB of heads and bodies that are sent to it.
    pub(super) per_sent_kib: u32,
    /// For each HEADERS of the peer.
    pub(super) per_head: u32,
}

impl Flood {
    /// Kinds that have an allowance, in the order of the table.
    pub(super) const METERED: usize = 8;

    /// How much is usual, with room: figures are those of [`FloodMeter`](super::FloodMeter)'s tests of what programs do at full
    /// speed, and of what nghttp2 (1,000 RST_STREAM at once) and Envoy (10 WINDOW_UPDATE for each DATA) allow.
    pub(super) const ALLOWANCES: [Allowance; Self::METERED] = {
        const NONE: Allowance =
            Allowance { burst: 0, per_second: 0, per_received_kib: 0, per_sent_kib: 0, per_head: 0 };
        [
            // gRPC probes the path's bandwidth with a PING for each piece that it receives, if no other is under way.
            Allowance { burst: 1000, per_second: 100, per_sent_kib: 16, ..NONE },
            // A few at the begin; gRPC grows its windows by them, doubling each time.
            Allowance { burst: 100, per_second: 10, ..NONE },
            // For each answer about one call may be called off before it has any. What the peer itself sends earns none: else it
            // could pay for the work of others with bytes.
            Allowance { burst: 1000, per_second: 100, per_sent_kib: 4, ..NONE },
            // Browsers that still do it send some for each request.
            Allowance { burst: 1000, per_second: 10, per_head: 2, ..NONE },
            // Two for each DATA, of the stream and of the connection, is as often as anybody does it.
            Allowance { burst: 2000, per_second: 1000, per_sent_kib: 16, per_head: 4, ..NONE },
            // A rest of a buffer now and then.
            Allowance { burst: 1000, per_second: 1000, per_received_kib: 16, per_head: 4, ..NONE },
            // Nobody needs any, some programs flush so.
            Allowance { burst: 100, per_second: 10, per_head: 1, ..NONE },
            // Some clients send a frame that means nothing with each request, so that this stays allowed (GREASE).
            Allowance { burst: 100, per_second: 10, per_head: 2, ..NONE },
        ]
    };

    /// Every kind, in the order that tables use.
    pub const ALL: [Self; 9] = [
        Self::Ping,
        Self::Settings,
        Self::Reset,
        Self::Priority,
        Self::WindowUpdate,
        Self::TinyData,
        Self::Empty,
        Self::Other,
        Self::Continuation,
    ];

    /// Word for metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Settings => "settings",
            Self::Reset => "reset",
            Self::Priority => "priority",
            Self::WindowUpdate => "window_update",
            Self::TinyData => "tiny_data",
            Self::Empty => "empty",
            Self::Other => "other",
            Self::Continuation => "continuation",
        }
    }
}
