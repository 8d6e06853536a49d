//! Says when a peer floods.

use std::time::{Duration, Instant};

use super::flood::Flood;
use super::frame::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, PRIORITY_UPDATE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE,
};

/// DATA with less than this is tiny: not even the smallest message of gRPC fits into it.
pub const TINY_BYTES: u32 = 5;

/// CONTINUATIONs of one head: with frames of 16 KiB, the least that a peer may be held to (RFC 9113, 4.2), as much as the
/// largest head that can be configured has.
pub const MAX_CONTINUATIONS: u8 = 64;

/// What a piece that is sent counts for beside its bytes: a peer may react to each, however small.
const PIECE_BYTES: u32 = 192;

/// Parts that a token is counted in: of a rate for each second, one millisecond earns as many.
const TOKEN: u32 = 1000;

/// Weighs the frames of one direction.
///
/// ```text
///   frame ──> of a kind that costs more than it brings? ──> a token of that kind, or flood
///                └─ useful? ──> earns tokens, as time does, and as does what is sent to the peer
/// ```
#[derive(Clone, Debug)]
pub struct FloodMeter {
    /// In thousandths.
    tokens: [u32; Flood::METERED],
    refilled_at: Instant,
    /// What was earned since tokens were last needed.
    received_bytes: u32,
    sent_bytes: u32,
    heads: u32,
    /// CONTINUATIONs of the head that is open.
    continuations: u8,
}

impl FloodMeter {
    /// Begins with a connection.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            tokens: Flood::ALLOWANCES.map(|allowance| allowance.burst * TOKEN),
            refilled_at: now,
            received_bytes: 0,
            sent_bytes: 0,
            heads: 0,
            continuations: 0,
        }
    }

    /// Takes note of a piece of a head or a body that was sent to the peer; not of what HTTP/2 itself makes of it or says by
    /// itself, such as acknowledgements.
    #[inline]
    pub fn handle_sent(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(PIECE_BYTES);
        self.sent_bytes = self.sent_bytes.saturating_add(bytes);
    }

    /// Weighs a frame; of its payload so many bytes are no padding.
    ///
    /// # Errors
    /// If there are too many of its kind: the connection is to be ended.
    #[inline]
    pub fn take(&mut self, kind: u8, flags: u8, useful_bytes: u32) -> Result<(), Flood> {
        let ends = flags & if kind == DATA { END_STREAM } else { END_HEADERS } != 0;
        match kind {
            DATA if useful_bytes >= TINY_BYTES => {
                self.received_bytes = self.received_bytes.saturating_add(useful_bytes);
                Ok(())
            }
            // Each stream has one at most.
            DATA if ends => Ok(()),
            DATA => self.pay(if useful_bytes == 0 { Flood::Empty } else { Flood::TinyData }),
            HEADERS => {
                self.continuations = 0;
                self.heads = self.heads.saturating_add(1);
                if useful_bytes == 0 && !ends { self.pay(Flood::Empty) } else { Ok(()) }
            }
            CONTINUATION => {
                self.continuations = self.continuations.saturating_add(1);
                if self.continuations > MAX_CONTINUATIONS {
                    return Err(Flood::Continuation);
                }
                if useful_bytes == 0 && !ends { self.pay(Flood::Empty) } else { Ok(()) }
            }
            PING => self.pay(Flood::Ping),
            SETTINGS => self.pay(Flood::Settings),
            RST_STREAM => self.pay(Flood::Reset),
            PRIORITY | PRIORITY_UPDATE => self.pay(Flood::Priority),
            WINDOW_UPDATE => self.pay(Flood::WindowUpdate),
            _ => self.pay(Flood::Other),
        }
    }

    fn pay(&mut self, flood: Flood) -> Result<(), Flood> {
        let kind = flood as usize;
        if self.tokens[kind] < TOKEN {
            self.settle();
        }
        match self.tokens[kind].checked_sub(TOKEN) {
            None => Err(flood),
            Some(left) => {
                self.tokens[kind] = left;
                Ok(())
            }
        }
    }

    /// Turns what was earned into tokens. Only when some are needed, so that frames which earn cost next to nothing; so what was
    /// earned while there were enough still counts then, once.
    #[cold]
    fn settle(&mut self) {
        let Self { received_bytes, sent_bytes, heads, .. } = *self;
        (self.received_bytes, self.sent_bytes, self.heads) = (0, 0, 0);
        for (tokens, of) in self.tokens.iter_mut().zip(Flood::ALLOWANCES) {
            let by_bytes = u64::from(received_bytes) * u64::from(of.per_received_kib)
                + u64::from(sent_bytes) * u64::from(of.per_sent_kib);
            let earned = by_bytes * u64::from(TOKEN) / 1024
                + u64::from(heads) * u64::from(of.per_head) * u64::from(TOKEN);
            *tokens = grown(*tokens, earned, of.burst);
        }
    }

    /// Gives the tokens for the whole milliseconds that passed; to be called before frames are weighed.
    pub fn refill(&mut self, now: Instant) {
        let passed_ms = now.saturating_duration_since(self.refilled_at).as_millis();
        if passed_ms == 0 {
            return;
        }
        // Rests of milliseconds are kept.
        self.refilled_at = match u64::try_from(passed_ms) {
            Ok(passed_ms) => self.refilled_at + Duration::from_millis(passed_ms),
            Err(_) => now,
        };
        let passed_ms = u32::try_from(passed_ms).unwrap_or(u32::MAX);
        for (tokens, of) in self.tokens.iter_mut().zip(Flood::ALLOWANCES) {
            *tokens = grown(*tokens, u64::from(passed_ms) * u64::from(of.per_second), of.burst);
        }
    }
}

/// As many tokens and more, up to what may be used at once.
fn grown(tokens: u32, more: u64, burst: u32) -> u32 {
    let most = burst * TOKEN;
    u32::try_from(more).map_or(most, |more| tokens.saturating_add(more).min(most))
}

#[cfg(test)]
mod tests;
