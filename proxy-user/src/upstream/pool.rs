//! Connections to endpoints that rest between two requests: core's pool, with connections in it.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use proxy_core::id::EndpointId;
use proxy_core::pool::{Life, Pool, PoolLimits};
use proxy_core::proxy_protocol::Header;
use rand::rngs::SmallRng;

use crate::tls::{Client, Stream};

/// What a connection can be used again for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Where it goes.
    pub endpoint: EndpointId,
    /// Network namespace that it was made in; 0 is Weir's own.
    pub netns_cookie: u64,
    /// Where the way to speak TLS that it was made with lives, which [`Kept::tls`] keeps from being somebody else's; 0 is none.
    pub tls_address: usize,
    /// What the endpoint was told of a client: the connection is that one's for ever.
    pub header: Option<Header>,
}

impl Key {
    /// A connection to an endpoint.
    #[must_use]
    pub fn new(endpoint: EndpointId, netns_cookie: u64, tls: Option<&Arc<Client>>) -> Self {
        let tls_address = tls.map_or(0, |tls| Arc::as_ptr(tls).addr());
        Self { endpoint, netns_cookie, tls_address, header: None }
    }

    /// The same with a header of the PROXY protocol in front of everything.
    #[must_use]
    pub fn announced_by(self, header: Option<Header>) -> Self {
        Self { header, ..self }
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
    /// How much longer it may be used.
    pub life: Life,
}

/// The resting connections of a worker.
pub struct UpstreamPool {
    limits: PoolLimits,
    pool: RefCell<Pool<Key, Kept>>,
}

impl UpstreamPool {
    /// Begins with none.
    #[must_use]
    pub fn new(limits: PoolLimits) -> Self {
        Self { limits, pool: RefCell::new(Pool::new(limits)) }
    }

    /// Begins the life of a new connection.
    #[must_use]
    pub fn begin(&self, rng: &mut SmallRng) -> Life {
        self.limits.begin(Instant::now(), rng)
    }

    /// Takes a connection; those that their endpoints have closed meanwhile, or said something on, are dropped.
    #[must_use]
    pub fn checkout(&self, key: Key, now: Instant) -> Option<Kept> {
        let found = self.pool.borrow_mut().checkout(&key, now, |kept| is_silent(&mut kept.stream));
        found.map(|(kept, life)| Kept { life, ..kept })
    }

    /// Keeps a connection for later, or closes it if there are enough.
    pub fn put(&self, key: Key, kept: Kept, now: Instant) {
        let life = kept.life;
        let surplus = self.pool.borrow_mut().put(key, kept, life, now);
        drop(surplus);
    }

    /// Closes what rested for too long or was closed by its endpoint.
    pub fn sweep(&self) {
        let gone = self.pool.borrow_mut().sweep(Instant::now(), |kept| is_silent(&mut kept.stream));
        drop(gone);
    }

    /// Closes the connections to an endpoint.
    pub fn drop_endpoint(&self, endpoint: EndpointId) {
        let gone = self.pool.borrow_mut().remove_keys(|key| key.endpoint == endpoint);
        drop(gone);
    }
}

/// Tells whether nothing came on a resting connection: neither an end nor bytes that nobody asked for.
fn is_silent(stream: &mut Stream) -> bool {
    matches!(stream.poll_recv(&mut Context::from_waker(Waker::noop())), Poll::Pending)
}
