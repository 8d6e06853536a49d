//! Asks a peer of HTTP/2 that says nothing whether it is still there.

use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use h2::{Ping, PingPong};
use proxy_core::http2::{Silence, Step};

use super::heard::Heard;

/// What is known of one connection's silence, and the way to break it.
pub struct Pinger {
    silence: Silence,
    heard: Rc<Heard>,
    ping_pong: Option<PingPong>,
    interval: Duration,
    timeout: Duration,
}

impl Pinger {
    /// Begins with a new connection, whose peer is asked after this silence and gets this time.
    #[must_use]
    pub fn new(heard: Rc<Heard>, interval: Duration, timeout: Duration) -> Self {
        let silence = Silence::new(Instant::now());
        Self { silence, heard, ping_pong: None, interval, timeout }
    }

    /// Asks by this, and not by what is given later.
    #[must_use]
    pub fn by(self, ping_pong: Option<PingPong>) -> Self {
        Self { ping_pong, ..self }
    }

    /// Looks, and asks if it is time. `ping_pong` is of the connection, and taken from it at the first question: from then on it
    /// costs a little with everything that the connection does.
    pub fn look(&mut self, is_busy: bool, ping_pong: impl FnOnce() -> Option<PingPong>) -> Step {
        let has_heard = self.heard.take();
        let step = self.silence.look(Instant::now(), has_heard, is_busy, self.interval, self.timeout);
        if step == Step::Ask {
            self.ask(ping_pong);
        }
        step
    }

    fn ask(&mut self, ping_pong: impl FnOnce() -> Option<PingPong>) {
        if self.ping_pong.is_none() {
            self.ping_pong = ping_pong();
        }
        let Some(ping_pong) = &mut self.ping_pong else { return };
        // Whatever came was an answer; this one is taken out of the way of the next question.
        let (Poll::Pending | Poll::Ready(_)) = ping_pong.poll_pong(&mut Context::from_waker(Waker::noop()));
        if let Err(error) = ping_pong.send_ping(Ping::opaque()) {
            // Then it is over, or the last question has not gone out yet.
            tracing::debug!(%error, "no ping");
        }
    }
}
