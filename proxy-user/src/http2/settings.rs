//! Settings: what each side says of itself (RFC 9113, 6.5).

use proxy_core::http2::Breach;
use proxy_core::http2::frame::{
    ACK, ENABLE_CONNECT_PROTOCOL, ENABLE_PUSH, HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE, MOST, PREFACE, SETTING_BYTES, SETTINGS,
};

use super::conn::{Conn, Role};
use super::{FIRST_STREAMS, MOST_STREAMS, STREAM_WINDOW_BYTES};

/// Of the peer's table of fields, as long as it is told nothing else.
pub(super) const TABLE_BYTES: u32 = 4096;

/// What a peer has said of itself.
pub(super) struct Peer {
    /// Bytes that may be sent on a new stream.
    pub(super) window_bytes: u32,
    /// Streams that may be begun at a time.
    pub(super) most_streams: u32,
    /// A stream may become something else (RFC 8441).
    pub(super) takes_protocols: bool,
    /// Its first settings have come.
    pub(super) is_greeted: bool,
    /// It has acknowledged ours.
    has_acked: bool,
}

impl Peer {
    /// Bytes of a window before anybody said anything (RFC 9113, 6.9.2).
    pub(super) const FIRST_WINDOW_BYTES: u32 = 65_535;
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            window_bytes: Self::FIRST_WINDOW_BYTES,
            most_streams: FIRST_STREAMS,
            takes_protocols: false,
            is_greeted: false,
            has_acked: false,
        }
    }
}

impl Conn {
    /// Says what this side allows; a client says its preface before.
    pub(super) fn write_settings(&mut self) {
        let head = (MAX_HEADER_LIST_SIZE, self.bounds.list_bytes);
        let window = (INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES);
        let settings = match self.role {
            Role::Server => {
                &[(MAX_CONCURRENT_STREAMS, MOST_STREAMS), window, head, (ENABLE_CONNECT_PROTOCOL, 1)][..]
            }
            Role::Client => &[(ENABLE_PUSH, 0), window, head],
        };
        let mut payload = Vec::with_capacity(settings.len() * SETTING_BYTES);
        for (name, value) in settings {
            payload.extend_from_slice(&name.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        if self.role == Role::Client {
            self.out().extend_from_slice(PREFACE);
        }
        self.write_frame(SETTINGS, 0, 0, &payload);
    }

    /// The peer has taken note of ours, which are said once.
    pub(super) fn handle_settings_ack(&mut self) -> Result<(), Breach> {
        if std::mem::replace(&mut self.peer.has_acked, true) { Err(Breach::Protocol) } else { Ok(()) }
    }

    /// Takes the peer's settings, and acknowledges them.
    pub(super) fn handle_settings(&mut self, payload: &[u8]) -> Result<(), Breach> {
        let (settings, rest) = payload.as_chunks::<SETTING_BYTES>();
        if !rest.is_empty() {
            return Err(Breach::FrameSize);
        }
        let mut window_bytes = self.peer.window_bytes;
        for [a, b, value @ ..] in settings {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                INITIAL_WINDOW_SIZE if value > MOST => return Err(Breach::FlowControl),
                // The last one counts: to move all windows for each would be much to ask for with few bytes.
                INITIAL_WINDOW_SIZE => window_bytes = value,
                name => self.handle_setting(name, value)?,
            }
        }
        self.move_windows(window_bytes)?;
        self.write_frame(SETTINGS, ACK, 0, &[]);
        if !std::mem::replace(&mut self.peer.is_greeted, true) {
            self.greeted.drain(..).for_each(std::task::Waker::wake);
        }
        // There may be more room for streams, and in them.
        self.begin_unsent();
        Ok(())
    }

    fn handle_setting(&mut self, name: u16, value: u32) -> Result<(), Breach> {
        let ensure = |holds| if holds { Ok(()) } else { Err(Breach::Protocol) };
        match name {
            HEADER_TABLE_SIZE => self.encoder.set_table_bytes(value),
            // Only a client may want it.
            ENABLE_PUSH => ensure(value == 0 || (value == 1 && self.role == Role::Server))?,
            MAX_CONCURRENT_STREAMS => self.peer.most_streams = value,
            MAX_FRAME_SIZE => ensure((16_384..=16_777_215).contains(&value))?,
            ENABLE_CONNECT_PROTOCOL => {
                ensure(value <= 1)?;
                self.peer.takes_protocols |= value == 1;
            }
            _ => {}
        }
        Ok(())
    }

    /// Changes the windows of all streams (RFC 9113, 6.9.2).
    fn move_windows(&mut self, window_bytes: u32) -> Result<(), Breach> {
        let change = i64::from(window_bytes) - i64::from(self.peer.window_bytes);
        if change == 0 {
            return Ok(());
        }
        self.peer.window_bytes = window_bytes;
        for key in self.streams.keys() {
            if let Some(inner) = self.streams.all.get_mut(key) {
                inner.send_window += change;
                if inner.send_window > i64::from(MOST) {
                    return Err(Breach::FlowControl);
                }
            }
            self.push(key);
        }
        Ok(())
    }
}
