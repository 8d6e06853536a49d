//! What each client has used up, for as many clients as fit.

use std::hash::{BuildHasher as _, RandomState};
use std::mem;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use rustc_hash::FxHashMap;

/// Clients that one bound remembers: 65,536 take 2 MiB, and are more than a node has pods or an edge has clients at once that come
/// near their bound.
pub const MAX_CLIENTS: usize = SHARDS * 2 * YOUNG;

/// Workers that ask at the same moment seldom meet in one of 64.
const SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = 6;
/// Clients of a generation of a shard.
const YOUNG: usize = 512;

/// When the next request of each client is due, in nanoseconds.
///
/// In two generations: a client that is asked for is young, and when there are too many of those all become old, and the old ones
/// are forgotten. A client that is forgotten begins anew; to have that done somebody must send from as many other
/// addresses, or networks of IPv6, each of which has a bound of its own.
///
/// A client is known by the hash of his address. It has a key, so that nobody can choose addresses that meet; by chance two of
/// 65,536 do with 1 in 10 billion.
#[derive(Debug)]
pub(super) struct Clients {
    hash: RandomState,
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Debug, Default)]
struct Shard {
    young: FxHashMap<u64, u64>,
    old: FxHashMap<u64, u64>,
}

impl Clients {
    /// Does something with what is known of a client, zero if nothing is.
    pub(super) fn with<T>(&self, client: IpAddr, act: impl FnOnce(&mut u64) -> T) -> T {
        let bits = match client {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let client = self.hash.hash_one(bits);
        let shard = &self.shards[usize::try_from(client >> (u64::BITS - SHARD_BITS)).unwrap_or(0)];
        // A number is never half written.
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        act(shard.due(client))
    }
}

impl Default for Clients {
    fn default() -> Self {
        Self { hash: RandomState::new(), shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Shard {
    fn due(&mut self, client: u64) -> &mut u64 {
        if self.young.len() >= YOUNG && !self.young.contains_key(&client) {
            mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        let Self { young, old } = self;
        young.entry(client).or_insert_with(|| old.remove(&client).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn client(n: u128) -> IpAddr {
        Ipv6Addr::from_bits((0x2001_0db8 << 96) + n).into()
    }

    #[test]
    fn whoever_asks_is_remembered_and_the_rest_is_bounded() {
        let clients = Clients::default();
        clients.with(client(0), |due| *due = 7);
        for n in 1..500_000 {
            clients.with(client(n), |due| *due += 1);
            assert_eq!(clients.with(client(0), |due| *due), 7, "it asks again and again");
            if n % 50_000 == 0 {
                let count = |shard: &Mutex<Shard>| {
                    let shard = shard.lock().unwrap();
                    shard.young.len() + shard.old.len()
                };
                let count: usize = clients.shards.iter().map(count).sum();
                assert!(count <= MAX_CLIENTS, "{count}");
            }
        }
        assert_eq!(clients.with(client(1), |due| *due), 0, "forgotten long ago");
        assert_eq!(clients.with(client(499_999), |due| *due), 1);
    }

    #[test]
    fn an_address_is_the_same_in_either_form() {
        let clients = Clients::default();
        clients.with("10.0.0.1".parse().unwrap(), |due| *due = 7);
        assert_eq!(clients.with("::ffff:10.0.0.1".parse().unwrap(), |due| *due), 7);
    }
}
