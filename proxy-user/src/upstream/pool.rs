//! Connections to endpoints that rest between two requests.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use proxy_core::id::EndpointId;

use crate::tls::{Client, Stream};

/// Connections that rest for one key, on one worker; the oldest goes first.
const MOST_PER_KEY: usize = 128;
/// Connections that rest, on one worker: each costs a descriptor that no client pays for.
const MOST: usize = 1024;
/// Time that a connection may rest: below the shortest keep-alive time of common servers that do not say theirs.
const MOST_REST: Duration = Duration::from_secs(60);

/// What a connection can be used again for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Where it goes.
    pub endpoint: EndpointId,
    /// Network namespace that it was made in; 0 is Weir's own.
    pub netns_cookie: u64,
    /// Where the way to speak TLS that it was made with lives, which [`Kept::tls`] keeps from being somebody else's; 0 is none.
    pub tls_address: usize,
}

impl Key {
    /// A connection to an endpoint.
    #[must_use]
    pub fn new(endpoint: EndpointId, netns_cookie: u64, tls: Option<&Arc<Client>>) -> Self {
        Self { endpoint, netns_cookie, tls_address: tls.map_or(0, |tls| Arc::as_ptr(tls).addr()) }
    }
}

/// A connection that rests.
pub struct Kept {
    /// The connection.
    pub stream: Stream,
    /// Plain bytes that were sent on it so far.
    pub sent_bytes: u64,
    /// How TLS is spoken on it, if it is.
    pub tls: Option<Arc<Client>>,
    /// Since when it rests.
    pub since: Instant,
}

/// The resting connections of a worker.
#[derive(Default)]
pub struct UpstreamPool {
    kept: RefCell<HashMap<Key, Vec<Kept>>>,
}

impl UpstreamPool {
    /// Takes the connection that rested the shortest: the others may get old enough to go. Those that their endpoints have
    /// closed meanwhile, or said something on, are dropped.
    #[must_use]
    pub fn checkout(&self, key: Key) -> Option<Kept> {
        loop {
            let mut kept = self.kept.borrow_mut().get_mut(&key)?.pop()?;
            if is_silent(&mut kept.stream) {
                return Some(kept);
            }
        }
    }

    /// Keeps a connection for later; drops it if there are enough.
    pub fn put(&self, key: Key, kept: Kept) {
        let mut all = self.kept.borrow_mut();
        let total: usize = all.values().map(Vec::len).sum();
        let own = all.entry(key).or_default();
        if own.len() >= MOST_PER_KEY {
            own.remove(0);
        } else if total >= MOST {
            return;
        }
        own.push(kept);
    }

    /// Drops what rested for too long or was closed by its endpoint.
    pub fn sweep(&self, now: Instant) {
        self.kept.borrow_mut().retain(|_, own| {
            own.retain_mut(|kept| {
                now.saturating_duration_since(kept.since) < MOST_REST && is_silent(&mut kept.stream)
            });
            !own.is_empty()
        });
    }

    /// Drops the connections to an endpoint.
    pub fn drop_endpoint(&self, endpoint: EndpointId) {
        self.kept.borrow_mut().retain(|key, _| key.endpoint != endpoint);
    }
}

/// Tells whether nothing came on a resting connection: neither an end nor bytes that nobody asked for.
fn is_silent(stream: &mut Stream) -> bool {
    matches!(stream.poll_recv(&mut Context::from_waker(Waker::noop())), Poll::Pending)
}
