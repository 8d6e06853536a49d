//! Choosing an endpoint for a new connection.
//!
//! [`Balancer`] does it for the workers. The kernel does it from the same tables ([`alias::table`],
//! [`maglev::table`]) by the same rules ([`alias::AliasSlot::choose`], [`maglev::slot`], [`source_hash`]).

pub mod alias;
pub mod maglev;
mod p2c;
mod ring_hash;
mod round_robin;

use std::net::IpAddr;

use rand::rngs::SmallRng;

use self::alias::Draws;
use self::ring_hash::Ring;
use self::round_robin::RoundRobin;
use crate::addr::{ClientAddr, EndpointAddr};
use crate::id::EndpointId;
use crate::service::{Endpoint, Policy, Service};

/// Why there is no endpoint for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    /// The service has none that may get connections.
    #[error("no endpoint of the service may get connections")]
    NoneUsable,
    /// All that may get connections were tried for this one.
    #[error("every usable endpoint of the service was tried")]
    AllTried,
}

/// One worker's way of choosing endpoints of one version of a service.
#[derive(Debug)]
pub struct Balancer {
    table: Table,
    is_usable: bool,
    rng: SmallRng,
}

#[derive(Debug)]
enum Table {
    RoundRobin(RoundRobin),
    Random(Draws),
    LeastRequest(Draws),
    LeastLatency(Draws),
    Maglev(Vec<u32>),
    RingHash(Ring),
}

impl Balancer {
    /// Builds what the policy needs over [`Service::usable`].
    ///
    /// O(n log n) for ring hash, else about O(n); Maglev's table has at least 100 slots per endpoint.
    #[must_use]
    pub fn new(service: &Service, mut rng: SmallRng) -> Self {
        let weights = usable_weights(service);
        let is_usable = weights.iter().any(|w| *w > 0);
        let table = match service.policy {
            Policy::RoundRobin => Table::RoundRobin(RoundRobin::new(&weights, &mut rng)),
            Policy::Random => Table::Random(Draws::new(weights)),
            Policy::LeastRequest => Table::LeastRequest(Draws::new(weights)),
            Policy::LeastLatency => Table::LeastLatency(Draws::new(weights)),
            Policy::Maglev => {
                let addresses = service.endpoints.iter().map(|e| e.address);
                Table::Maglev(maglev::table(&addresses.zip(weights).collect::<Vec<_>>()))
            }
            Policy::RingHash => Table::RingHash(Ring::new(service, &weights)),
        };
        Self { table, is_usable, rng }
    }

    /// Picks the endpoint for a new upstream connection, as an index into [`Service::endpoints`].
    ///
    /// `service` is the value that the balancer was built from. Endpoints in `tried` are avoided: a connect failed
    /// there a moment ago, or they are full. Hash policies take the client's address without its port, and go on to
    /// the next on the ring or in the table. With `tried` empty O(1), for round robin O(log n); allocates nothing.
    /// `now_ns` is the clock of [`Load::record_latency`](crate::service::Load::record_latency), and read by the one policy
    /// that needs it.
    ///
    /// # Errors
    /// `NoneUsable` if nothing may get connections, `AllTried` if everything that may was tried.
    pub fn pick(
        &mut self,
        service: &Service,
        client: ClientAddr,
        tried: &[EndpointId],
        now_ns: impl FnOnce() -> u64,
    ) -> Result<usize, NoEndpoint> {
        let is_tried = |index: usize| tried.contains(&service.endpoints[index].id);
        let picked = match &mut self.table {
            Table::RoundRobin(turns) => turns.pick(&service.cursor, is_tried),
            Table::Random(draws) => draws.draw(&mut self.rng, is_tried),
            Table::LeastRequest(draws) => {
                p2c::pick(draws, service, &mut self.rng, is_tried, p2c::is_less_loaded)
            }
            Table::LeastLatency(draws) => {
                let is_quicker = |a: &Endpoint, b: &Endpoint| p2c::is_quicker(a, b, now_ns());
                p2c::pick(draws, service, &mut self.rng, is_tried, is_quicker)
            }
            Table::Maglev(slots) => {
                let start = maglev::slot(source_hash(client.0.ip()), slots.len());
                let (wrapped, ahead) = slots.split_at(start);
                ahead.iter().chain(wrapped).map(|index| *index as usize).find(|index| !is_tried(*index))
            }
            Table::RingHash(ring) => ring.pick(source_hash(client.0.ip()), is_tried),
        };
        let missing = if self.is_usable { NoEndpoint::AllTried } else { NoEndpoint::NoneUsable };
        picked.ok_or(missing)
    }
}

/// Hashes a client's address for the consistent policies. The BPF program computes the same.
///
/// Works on the address as 16 bytes (v4-mapped for IPv4), as four little-endian words.
#[must_use]
pub fn source_hash(ip: IpAddr) -> u32 {
    let mut hash = 0x9747_b28c_u32;
    for word in mapped_bytes(ip).as_chunks::<4>().0 {
        hash ^= u32::from_le_bytes(*word);
        hash = hash.wrapping_mul(0x9E37_79B1);
        hash ^= hash >> 15;
    }
    hash = hash.wrapping_mul(0x85EB_CA77);
    hash ^ (hash >> 13)
}

/// Weights by index into [`Service::endpoints`]; 0 for what must not get connections.
fn usable_weights(service: &Service) -> Vec<u32> {
    let mut weights = vec![0; service.endpoints.len()];
    for index in service.usable() {
        weights[index] = service.endpoints[index].weight;
    }
    weights
}

/// Maps a hash or random number evenly onto `0..len`; 0 if `len` is 0.
fn scaled(value: u32, len: usize) -> usize {
    ((u64::from(value) * len as u64) >> 32) as usize
}

/// Writes an address and port as bytes that are the same for all spellings of the address.
fn address_bytes(address: EndpointAddr) -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[..16].copy_from_slice(&mapped_bytes(address.0.ip()));
    bytes[16..].copy_from_slice(&address.0.port().to_be_bytes());
    bytes
}

fn mapped_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;
    use crate::fixture;
    use crate::service::EndpointState;

    const POLICIES: [Policy; 6] = [
        Policy::RoundRobin,
        Policy::Random,
        Policy::LeastRequest,
        Policy::LeastLatency,
        Policy::Maglev,
        Policy::RingHash,
    ];

    proptest! {
        #[test]
        fn only_usable_and_untried_endpoints_are_picked(
            policy in prop::sample::select(&POLICIES),
            weights in prop::collection::vec(0..5u32, 0..10),
            states in prop::collection::vec(prop::sample::select(&STATES), 10),
            tried in prop::collection::vec(1001..1012u32, 0..10),
            panic_percent in prop::sample::select(&[0, 50, 100]),
            seed in any::<u64>(),
        ) {
            let mut service = fixture::with_states(&fixture::service(1, policy, &weights), &states);
            service.outlier.panic_percent = panic_percent;
            let tried: Vec<_> = tried.into_iter().map(EndpointId).collect();
            let usable = service.usable();
            let possible: Vec<_> =
                usable.iter().copied().filter(|i| !tried.contains(&service.endpoints[*i].id)).collect();
            let mut balancer = Balancer::new(&service, SmallRng::seed_from_u64(seed));
            for n in 0..30 {
                match balancer.pick(&service, client(n), &tried, || 0) {
                    Ok(picked) => prop_assert!(possible.contains(&picked)),
                    Err(NoEndpoint::AllTried) => prop_assert!(possible.is_empty() && !usable.is_empty()),
                    Err(NoEndpoint::NoneUsable) => prop_assert!(usable.is_empty()),
                }
            }
        }

        #[test]
        fn consistent_policies_look_at_the_address_only(
            policy in prop::sample::select(&[Policy::Maglev, Policy::RingHash]), n in any::<u32>(), ports in any::<[u16; 2]>(),
        ) {
            let service = fixture::service(1, policy, &[1, 2, 3, 4]);
            let mut one = Balancer::new(&service, SmallRng::seed_from_u64(1));
            let mut other = Balancer::new(&service, SmallRng::seed_from_u64(2));
            let ip = std::net::Ipv4Addr::from_bits(n);
            let plain = ClientAddr((ip, ports[0]).into());
            let mapped = ClientAddr((ip.to_ipv6_mapped(), ports[1]).into());
            prop_assert_eq!(one.pick(&service, plain, &[], || 0), other.pick(&service, mapped, &[], || 0));
        }
    }

    #[test]
    fn neighbouring_clients_are_spread_evenly_by_every_policy() {
        for policy in POLICIES {
            let weights = [10, 20, 30, 40];
            let service = fixture::service(1, policy, &weights);
            let mut balancer = Balancer::new(&service, SmallRng::seed_from_u64(5));
            let mut counts = [0u32; 4];
            for n in 0..20_000 {
                let picked = balancer.pick(&service, client(n), &[], || 0).unwrap();
                let is_counted = matches!(policy, Policy::LeastRequest | Policy::LeastLatency);
                assert!(!is_counted || service.endpoints[picked].load.try_acquire(u32::MAX));
                counts[picked] += 1;
            }
            for (count, weight) in counts.into_iter().zip(weights) {
                let wanted = 200 * weight;
                assert!(count.abs_diff(wanted) <= wanted / 5, "{policy:?}: {count} instead of {wanted}");
            }
        }
    }

    #[test]
    fn least_latency_goes_where_answers_come_sooner_and_comes_back() {
        const MS: u64 = 1_000_000;
        let service = fixture::service(1, Policy::LeastLatency, &[1, 1, 1]);
        let mut balancer = Balancer::new(&service, SmallRng::seed_from_u64(5));
        // Requests follow each other for so many seconds; the second endpoint is slow as long as `is_slow`.
        let mut run = |from_s: u64, seconds: u64, is_slow: bool| {
            let mut counts = [0u32; 3];
            for n in 0..seconds * 100 {
                let now_ns = from_s * 1000 * MS + n * 10 * MS;
                let picked = balancer.pick(&service, client(0), &[], || now_ns).unwrap();
                let latency_ns = if picked == 1 && is_slow { 200 * MS } else { 2 * MS };
                service.endpoints[picked].load.record_latency(latency_ns, now_ns);
                counts[picked] += 1;
            }
            counts
        };
        let [a, b, c] = run(0, 20, true);
        assert!(b < 40 && a > 700 && c > 700, "{a}, {b}, {c} of 2000");
        let [a, b, c] = run(100, 60, false);
        assert!(
            b > 500,
            "{a}, {b}, {c} of 6000: the last traces of slowness count while nothing else differs"
        );
    }

    #[test]
    fn least_latency_tries_an_unknown_endpoint_with_one_request() {
        let service = fixture::service(1, Policy::LeastLatency, &[1, 1]);
        let mut balancer = Balancer::new(&service, SmallRng::seed_from_u64(5));
        service.endpoints[0].load.record_latency(5_000_000, 0);
        let mut picks = (0..200).map(|_| {
            let picked = balancer.pick(&service, client(0), &[], || 0).unwrap();
            assert!(service.endpoints[picked].load.try_acquire(u32::MAX));
            picked
        });
        // Now and then both draws give the first endpoint, and there is nothing to compare.
        let first = picks.position(|picked| picked == 1).unwrap();
        assert!(first < 5, "{first}");
        assert!(picks.filter(|picked| *picked == 1).count() < 30, "no second one before an answer");
    }

    /// The BPF program is tested against the same values.
    #[test]
    fn source_hash_has_its_known_values() {
        let hash = |ip: &str| source_hash(ip.parse().unwrap());
        assert_eq!(hash("10.1.2.3"), 0x83ae_33f0);
        assert_eq!(hash("::ffff:10.1.2.3"), 0x83ae_33f0);
        assert_eq!(hash("fd00::10"), 0x7bc4_7433);
        assert_eq!(hash("::"), 0x67ee_5f28);
    }

    const STATES: [EndpointState; 3] =
        [EndpointState::Healthy, EndpointState::Unhealthy, EndpointState::Ejected];

    fn client(n: u32) -> ClientAddr {
        ClientAddr(fixture::v4(0x0014_0000 + n, 40_000))
    }
}
