//! Follows the frames of one direction of a connection, and says when the peer floods or breaks the rules.

use std::time::{Duration, Instant};

use super::fault::{Breach, Fault};
use super::flood::Flood;
use super::frame::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, HEADERS, MAX_HEAD_BYTES, PING, PRIORITY,
    PRIORITY_UPDATE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use super::rules::{Rules, Wanted};

/// What a client says first (RFC 9113, 3.4).
pub const PREFACE_BYTES: usize = 24;

/// DATA with less than this is tiny: not even the smallest message of gRPC fits into it.
pub const TINY_BYTES: u32 = 5;

/// CONTINUATIONs of one head: with frames of 16 KiB, the least that a peer may be held to (RFC 9113, 4.2), as much as the
/// largest head that can be configured has.
pub const MAX_CONTINUATIONS: u8 = 64;

/// What a piece that is sent counts for beside its bytes: a peer may react to each, however small.
const PIECE_BYTES: u32 = 192;

/// Parts that a token is counted in: of a rate for each second, one millisecond earns as many.
const TOKEN: u32 = 1000;

/// Follows the bytes of one direction as they are received.
///
/// ```text
///   frame ──> allowed, there and then? ──> of a kind that costs more than it brings? ──> a token of that kind, or flood
///                  └─ no: breach             └─ useful? ──> earns tokens, as time does, and as does what is sent to the peer
/// ```
///
/// What it lets pass is the codec's behind it, which must see the same bytes and knows the rest: fields, windows, how many streams.
#[derive(Clone, Debug)]
pub struct FrameMeter {
    /// In thousandths.
    tokens: [u32; Flood::METERED],
    refilled_at: Instant,
    /// What was earned since tokens were last needed.
    received_bytes: u32,
    sent_bytes: u32,
    heads: u32,
    /// The head of a frame, as far as it has come in pieces.
    head: [u8; MAX_HEAD_BYTES],
    head_bytes: u8,
    /// CONTINUATIONs of the head that is open.
    continuations: u8,
    /// Payload that is to come.
    skip_bytes: u32,
    /// What the rules want to see of it.
    wanted: Wanted,
    /// Of clients only.
    rules: Option<Rules>,
}

impl FrameMeter {
    /// Begins with what a client sends, its preface included.
    #[must_use]
    pub fn of_client(now: Instant) -> Self {
        let preface = u32::try_from(PREFACE_BYTES).unwrap_or(0);
        Self { skip_bytes: preface, rules: Some(Rules::new()), ..Self::of_server(now) }
    }

    /// Begins with what a server sends, which is held to no rules here: its codec is.
    #[must_use]
    pub fn of_server(now: Instant) -> Self {
        Self {
            tokens: Flood::ALLOWANCES.map(|allowance| allowance.burst * TOKEN),
            refilled_at: now,
            received_bytes: 0,
            sent_bytes: 0,
            heads: 0,
            head: [0; MAX_HEAD_BYTES],
            head_bytes: 0,
            continuations: 0,
            skip_bytes: 0,
            wanted: Wanted::Nothing,
            rules: None,
        }
    }

    /// Follows the next bytes, once the codec has read those before them. Costs some nanoseconds for each frame, and as much for
    /// the call.
    ///
    /// # Errors
    /// What is wrong with them: the connection is to be ended with [`Fault::code`]. Nothing behind it can be followed.
    pub fn follow(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Fault> {
        self.refill(now);
        let is_partial = self.wanted == Wanted::Head && self.skip_bytes > 0;
        if let Some(rules) = &mut self.rules {
            rules.begin(is_partial);
        }
        loop {
            let skipped = bytes.len().min(usize::try_from(self.skip_bytes).unwrap_or(usize::MAX));
            self.skip_bytes -= u32::try_from(skipped).unwrap_or(self.skip_bytes);
            let (payload, rest) = bytes.split_at(skipped);
            bytes = rest;
            if self.wanted != Wanted::Nothing
                && let Some(rules) = &mut self.rules
            {
                rules.take_payload(self.wanted, payload)?;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            match Frame::read(bytes) {
                Some((frame, head_bytes)) if self.head_bytes == 0 => {
                    let (head, rest) = bytes.split_at(head_bytes);
                    bytes = rest;
                    self.take(frame, head)?;
                }
                _ => self.assemble(&mut bytes)?,
            }
        }
    }

    /// The rule that the peer broke, if the codec says that what [`follow`](Self::follow) let pass last breaks the protocol in a way
    /// that has no code of its own: codecs call so what they cannot decompress, too.
    #[must_use]
    pub fn breach(&self) -> Breach {
        self.rules.as_ref().map_or(Breach::Protocol, Rules::breach)
    }

    #[cfg(test)]
    pub(super) fn rules(&self) -> Option<&Rules> {
        self.rules.as_ref()
    }

    /// Takes note of a piece of a head or a body that was sent to the peer; not of what HTTP/2 itself makes of it or says by
    /// itself, such as acknowledgements.
    pub fn handle_sent(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(PIECE_BYTES);
        self.sent_bytes = self.sent_bytes.saturating_add(bytes);
    }

    /// Completes a head that comes in pieces.
    #[cold]
    fn assemble(&mut self, bytes: &mut &[u8]) -> Result<(), Fault> {
        while let Some((first, rest)) = bytes.split_first() {
            self.head[usize::from(self.head_bytes)] = *first;
            self.head_bytes += 1;
            *bytes = rest;
            let head = self.head;
            let head = &head[..usize::from(self.head_bytes)];
            if let Some((frame, _)) = Frame::read(head) {
                self.head_bytes = 0;
                return self.take(frame, head);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn take(&mut self, frame: Frame, head: &[u8]) -> Result<(), Fault> {
        self.skip_bytes = frame.left_bytes;
        if let Some(rules) = &mut self.rules {
            self.wanted = rules.take(&frame, head)?;
        }
        Ok(self.weigh(frame)?)
    }

    #[inline(always)]
    fn weigh(&mut self, frame: Frame) -> Result<(), Flood> {
        let Frame { kind, flags, .. } = frame;
        let useful_bytes = frame.left_bytes.saturating_sub(frame.padding_bytes);
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

    /// Gives the tokens for the whole milliseconds that passed.
    fn refill(&mut self, now: Instant) {
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
