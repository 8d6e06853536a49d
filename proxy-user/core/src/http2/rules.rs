//! What a client may send when and where, as far as heads of frames show it.

use super::block;
use super::fault::Breach;
use super::frame::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HAS_PRIORITY, HEADERS, PADDED, PING,
    PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};

/// Streams that a client has begun and not ended which are remembered: twice what it may have at a time, since it may never end
/// those that were ended for it.
const OPEN_STREAMS: usize = 512;
/// Gaps in the numbers of streams that are remembered: nobody leaves more than one, at the begin.
const GAPS: usize = 4;
/// Bytes of heads that are kept until the codec has read them. A longer one that cannot be decoded is called so unseen.
const KEPT_BYTES: usize = 16 << 10;
/// Room for heads that a connection at rest may hold: for a few of them.
const RESTING_BYTES: usize = 1 << 10;
/// The longest frame that a client may send as long as nobody offered it more (RFC 9113, 6.5.2), which nobody does here.
const FRAME_BYTES: u32 = 16 << 10;
/// Of a priority in HEADERS (RFC 9113, 6.2).
const PRIORITY_BYTES: u32 = 5;
/// Of one setting (RFC 9113, 6.5.1).
const SETTING_BYTES: usize = 6;

/// Follows a client's side of all streams.
///
/// ```text
///   idle (`next` and above) ──HEADERS──> open (in `open`) ──END_STREAM, RST_STREAM──> closed (all others below `next`)
/// ```
///
/// Streams that the other side has ended stay open here: what the client still sends on them was on its way.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// The lowest stream that was never begun.
    next: u32,
    /// Ascending.
    open: Vec<u32>,
    /// Of streams up to this one it is not known any more whether they are open.
    forgotten: u32,
    /// First and last of streams that were passed over, the latest first.
    gaps: [(u32, u32); GAPS],
    next_frame: Next,
    has_ack: bool,
    has_goaway: bool,
    /// What else than fields the codec may find wrong in what it was given last.
    suspicion: Option<Breach>,
    /// Frames with fields, whole, that the codec was given last.
    heads: Vec<u8>,
    setting: [u8; SETTING_BYTES],
    setting_bytes: u8,
}

/// What the next frame must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// RFC 9113, 3.4.
    Settings,
    Any,
    /// Of a stream whose head is not complete (RFC 9113, 6.10).
    Continuation(u32),
}

/// What of a payload the rules want to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Nothing,
    Settings,
    Head,
}

impl Rules {
    pub(super) fn new() -> Self {
        Self {
            next: 1,
            open: Vec::new(),
            forgotten: 0,
            gaps: [(0, 0); GAPS],
            next_frame: Next::Settings,
            has_ack: false,
            has_goaway: false,
            suspicion: None,
            heads: Vec::new(),
            setting: [0; SETTING_BYTES],
            setting_bytes: 0,
        }
    }

    /// Begins with the next bytes: what came before them has passed the codec, but for a head that `is_partial`.
    pub(super) fn begin(&mut self, is_partial: bool) {
        self.suspicion = None;
        let is_partial = is_partial || matches!(self.next_frame, Next::Continuation(_));
        if !is_partial && !self.heads.is_empty() {
            self.heads.clear();
            if self.heads.capacity() > RESTING_BYTES {
                self.heads = Vec::new();
            }
        }
    }

    /// Takes a frame, by its head; says what of its payload is wanted, too.
    #[inline(always)]
    pub(super) fn take(&mut self, frame: &Frame, head: &[u8]) -> Result<Wanted, Breach> {
        ensure(frame.length_bytes <= FRAME_BYTES, Breach::FrameSize)?;
        if self.next_frame != Next::Any {
            self.expect(frame)?;
        }
        match frame.kind {
            DATA => self.take_data(frame)?,
            HEADERS => {
                self.take_head(frame)?;
                self.keep(head);
                return Ok(Wanted::Head);
            }
            WINDOW_UPDATE => {
                ensure(frame.length_bytes == 4, Breach::FrameSize)?;
                let is_idle = frame.stream != 0 && self.is_idle(frame.stream);
                ensure(frame.increment > 0 && !is_idle, Breach::Protocol)?;
            }
            _ => return self.take_other(frame, head),
        }
        Ok(Wanted::Nothing)
    }

    #[inline(never)]
    fn take_other(&mut self, frame: &Frame, head: &[u8]) -> Result<Wanted, Breach> {
        let Frame { kind, flags, stream, length_bytes, .. } = *frame;
        match kind {
            CONTINUATION => {
                ensure(self.next_frame != Next::Any, Breach::Protocol)?;
                if flags & END_HEADERS != 0 {
                    self.next_frame = Next::Any;
                }
                self.keep(head);
                return Ok(Wanted::Head);
            }
            RST_STREAM => {
                ensure(!self.is_idle(stream), Breach::Protocol)?;
                ensure(length_bytes == 4, Breach::FrameSize)?;
                self.close(stream);
            }
            PRIORITY => {
                ensure(stream != 0, Breach::Protocol)?;
                ensure(length_bytes == PRIORITY_BYTES, Breach::FrameSize)?;
            }
            PING => {
                ensure(stream == 0, Breach::Protocol)?;
                ensure(length_bytes == 8, Breach::FrameSize)?;
            }
            SETTINGS => return self.take_settings(frame),
            GOAWAY => {
                ensure(stream == 0, Breach::Protocol)?;
                ensure(length_bytes >= 8, Breach::FrameSize)?;
                // The last stream must not grow (RFC 9113, 6.8).
                let is_another = std::mem::replace(&mut self.has_goaway, true);
                self.suspect(is_another, Breach::Protocol);
            }
            PUSH_PROMISE => return Err(Breach::Protocol),
            _ => {}
        }
        Ok(Wanted::Nothing)
    }

    /// Takes the next bytes of a payload that is wanted.
    pub(super) fn take_payload(&mut self, wanted: Wanted, payload: &[u8]) -> Result<(), Breach> {
        match wanted {
            Wanted::Head => self.keep(payload),
            Wanted::Settings => self.take_values(payload)?,
            Wanted::Nothing => {}
        }
        Ok(())
    }

    fn take_values(&mut self, payload: &[u8]) -> Result<(), Breach> {
        for byte in payload {
            self.setting[usize::from(self.setting_bytes)] = *byte;
            self.setting_bytes += 1;
            if usize::from(self.setting_bytes) == SETTING_BYTES {
                self.setting_bytes = 0;
                check_setting(self.setting)?;
            }
        }
        Ok(())
    }

    /// What a codec that calls it PROTOCOL_ERROR could not read, of what it was given last.
    pub(super) fn breach(&self) -> Breach {
        let seen = block::breach(&self.heads);
        // What shows nowhere else is an index of a table that only the codec has.
        seen.or(self.suspicion).unwrap_or(Breach::Compression)
    }

    #[inline(always)]
    fn take_data(&mut self, frame: &Frame) -> Result<(), Breach> {
        let Frame { flags, stream, .. } = *frame;
        match self.find(stream) {
            Some(index) if flags & END_STREAM != 0 => drop(self.open.remove(index)),
            Some(_) => {}
            None => self.ensure_forgotten(stream)?,
        }
        check_padding(frame, 0)
    }

    fn take_head(&mut self, frame: &Frame) -> Result<(), Breach> {
        let Frame { flags, stream, .. } = *frame;
        let has_ended = flags & END_STREAM != 0;
        if stream >= self.next && !stream.is_multiple_of(2) {
            self.open(stream, has_ended);
        } else if let Some(index) = self.find(stream) {
            if has_ended {
                self.open.remove(index);
            }
            // Trailers of a stream that the codec knows no more.
            self.suspect(true, Breach::StreamClosed);
        } else {
            let is_in_gap = self.gaps.iter().any(|(first, last)| (*first..=*last).contains(&stream));
            ensure(!is_in_gap, Breach::Protocol)?;
            self.ensure_forgotten(stream)?;
        }
        if flags & END_HEADERS == 0 {
            self.next_frame = Next::Continuation(stream);
        }
        check_padding(frame, if flags & HAS_PRIORITY == 0 { 0 } else { PRIORITY_BYTES })
    }

    /// Begins a stream; those that it passes over can never be begun.
    fn open(&mut self, stream: u32, has_ended: bool) {
        if stream > self.next {
            self.gaps.rotate_right(1);
            self.gaps[0] = (self.next, stream - 1);
        }
        self.next = stream + 2;
        if has_ended {
            return;
        }
        if self.open.len() >= OPEN_STREAMS {
            self.forgotten = self.open.remove(0);
        }
        self.open.push(stream);
    }

    fn take_settings(&mut self, frame: &Frame) -> Result<Wanted, Breach> {
        let is_ack = frame.flags & ACK != 0;
        ensure(frame.stream == 0, Breach::Protocol)?;
        let is_whole = if is_ack { frame.length_bytes == 0 } else { frame.length_bytes.is_multiple_of(6) };
        ensure(is_whole, Breach::FrameSize)?;
        if is_ack {
            // Settings are sent once, as a rule.
            let is_another = std::mem::replace(&mut self.has_ack, true);
            self.suspect(is_another, Breach::Protocol);
        }
        Ok(Wanted::Settings)
    }

    #[cold]
    fn expect(&mut self, frame: &Frame) -> Result<(), Breach> {
        match self.next_frame {
            Next::Settings => {
                self.next_frame = Next::Any;
                ensure(frame.kind == SETTINGS && frame.flags & ACK == 0, Breach::Protocol)
            }
            Next::Continuation(stream) => {
                ensure(frame.kind == CONTINUATION && frame.stream == stream, Breach::Protocol)
            }
            Next::Any => Ok(()),
        }
    }

    /// A stream that is not open must be one of which that is not known any more.
    #[cold]
    fn ensure_forgotten(&mut self, stream: u32) -> Result<(), Breach> {
        ensure(!self.is_idle(stream), Breach::Protocol)?;
        ensure(stream <= self.forgotten, Breach::StreamClosed)?;
        self.suspect(true, Breach::StreamClosed);
        Ok(())
    }

    fn suspect(&mut self, is_suspect: bool, of: Breach) {
        if is_suspect {
            self.suspicion = Some(of);
        }
    }

    /// Keeps a part of a head until the codec has read it.
    #[inline(always)]
    fn keep(&mut self, bytes: &[u8]) {
        if self.heads.capacity() == 0 {
            self.heads.reserve(RESTING_BYTES);
        }
        let room_bytes = KEPT_BYTES - self.heads.len();
        self.heads.extend_from_slice(&bytes[..bytes.len().min(room_bytes)]);
    }

    fn close(&mut self, stream: u32) {
        if let Some(index) = self.find(stream) {
            self.open.remove(index);
        }
    }

    /// No stream, one of those that only a server begins, which none does here, or one that was not begun.
    fn is_idle(&self, stream: u32) -> bool {
        stream.is_multiple_of(2) || stream >= self.next
    }

    /// Index of an open stream; mostly the last.
    fn find(&self, stream: u32) -> Option<usize> {
        match self.open.last() {
            Some(last) if *last == stream => Some(self.open.len() - 1),
            _ => self.open.binary_search(&stream).ok(),
        }
    }
}

fn ensure(holds: bool, breach: Breach) -> Result<(), Breach> {
    if holds { Ok(()) } else { Err(breach) }
}

/// The padding must fit in behind what must be there (RFC 9113, 6.1 and 6.2).
fn check_padding(frame: &Frame, needed_bytes: u32) -> Result<(), Breach> {
    let is_too_short = frame.flags & PADDED != 0 && frame.length_bytes == 0;
    ensure(!is_too_short && frame.left_bytes >= needed_bytes, Breach::FrameSize)?;
    ensure(frame.padding_bytes <= frame.left_bytes - needed_bytes, Breach::Protocol)
}

/// Values that some settings must not have (RFC 9113, 6.5.2; RFC 8441, 3).
fn check_setting([a, b, value @ ..]: [u8; SETTING_BYTES]) -> Result<(), Breach> {
    const MAX_WINDOW_BYTES: u32 = u32::MAX >> 1;
    let value = u32::from_be_bytes(value);
    match u16::from_be_bytes([a, b]) {
        // ENABLE_PUSH and ENABLE_CONNECT_PROTOCOL
        0x2 | 0x8 => ensure(value <= 1, Breach::Protocol),
        // INITIAL_WINDOW_SIZE
        0x4 => ensure(value <= MAX_WINDOW_BYTES, Breach::FlowControl),
        // MAX_FRAME_SIZE
        0x5 => ensure((16_384..=16_777_215).contains(&value), Breach::Protocol),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
