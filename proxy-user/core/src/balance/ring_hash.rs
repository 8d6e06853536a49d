//! Consistent hashing on a ring of virtual nodes (Karger et al. 1997).

use xxhash_rust::xxh3::xxh3_64;

use crate::addr::EndpointAddr;
use crate::service::Service;

/// Virtual nodes per unit of weight: shares of equal weights stay within about a tenth (1 / sqrt(100)).
const NODES_PER_WEIGHT: u64 = 100;

/// Most nodes of one ring (512 KiB); heavier services get fewer nodes per weight, never less than one per endpoint.
const MOST_NODES: u64 = 65_536;

/// Virtual nodes in the order of their points, with an index into it so that a lookup takes constant time.
#[derive(Debug)]
pub(super) struct Ring {
    nodes: Vec<Node>,
    /// For each value of a hash's upper bits, the first node at or behind the lowest such hash.
    first_nodes: Vec<u32>,
    /// Bits of a hash below those.
    shift: u32,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    point: u32,
    endpoint: u32,
}

impl Ring {
    /// Places the endpoints whose weight in `weights` is not 0.
    ///
    /// The number of nodes per weight follows from *all* endpoints of the service: were it from the usable ones, all
    /// clients could move when one falls sick.
    pub(super) fn new(service: &Service, weights: &[u32]) -> Self {
        let all: u64 = service.endpoints.iter().map(|e| u64::from(e.weight)).sum();
        // Halved until it fits: then the nodes of a sparser ring are some of those of the denser one.
        let halvings = (0..64).find(|n| (all * NODES_PER_WEIGHT) >> n <= MOST_NODES).unwrap_or(64);
        let mut order: Vec<u32> = (0u32..).zip(weights).filter(|(_, w)| **w > 0).map(|(i, _)| i).collect();
        order.sort_unstable_by_key(|i| service.endpoints[*i as usize].address);
        let mut nodes = Vec::new();
        for endpoint in order {
            let address = service.endpoints[endpoint as usize].address;
            let count = ((u64::from(weights[endpoint as usize]) * NODES_PER_WEIGHT) >> halvings).max(1);
            nodes.extend((0..count).map(|n| Node { point: point(address, n), endpoint }));
        }
        // Stable, so that the addresses decide about equal points and the order in the config does not matter.
        nodes.sort_by_key(|node| node.point);
        let index_bits = nodes.len().next_power_of_two().trailing_zeros().clamp(1, 24);
        let shift = u32::BITS - index_bits;
        let first = |upper: u32| nodes.partition_point(|node| node.point >> shift < upper);
        let first_nodes = (0..1 << index_bits)
            .map(|upper| u32::try_from(first(upper)).expect("fewer nodes than 2^32"))
            .collect();
        Self { nodes, first_nodes, shift }
    }

    /// Gives the endpoint of the first node at or behind the hash that is not to be avoided; `None` if there is none.
    pub(super) fn pick(&self, source_hash: u32, is_avoided: impl Fn(usize) -> bool) -> Option<usize> {
        let from = self.first_nodes[(source_hash >> self.shift) as usize] as usize;
        let near = self.nodes[from..].iter().take_while(|node| node.point < source_hash).count();
        let (wrapped, ahead) = self.nodes.split_at(from + near);
        let endpoints = ahead.iter().chain(wrapped).map(|node| node.endpoint as usize);
        endpoints.into_iter().find(|endpoint| !is_avoided(*endpoint))
    }
}

fn point(address: EndpointAddr, number: u64) -> u32 {
    let mut bytes = [0; 26];
    bytes[..18].copy_from_slice(&super::address_bytes(address));
    bytes[18..].copy_from_slice(&number.to_le_bytes());
    let [a, b, c, d, ..] = xxh3_64(&bytes).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixture;
    use crate::service::Policy;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn only_the_keys_of_a_leaving_endpoint_move(
            weights in prop::collection::vec(1..2000u32, 2..12),
            leaver in any::<prop::sample::Index>(),
            keys in prop::collection::vec(any::<u32>(), 200),
        ) {
            let service = fixture::service(1, Policy::RingHash, &weights);
            let leaver = leaver.index(weights.len());
            let mut less = weights.clone();
            less[leaver] = 0;
            let (before, after) = (Ring::new(&service, &weights), Ring::new(&service, &less));
            for key in keys {
                let (was, is) = (before.pick(key, |_| false).unwrap(), after.pick(key, |_| false).unwrap());
                prop_assert!(is == was || was == leaver);
                prop_assert_ne!(is, leaver);
                // Who goes on because a connect failed goes where a client goes while the endpoint is away.
                prop_assert_eq!(before.pick(key, |e| e == leaver).unwrap(), is);
            }
        }

        #[test]
        fn the_index_finds_what_a_search_finds(weights in prop::collection::vec(1..9u32, 1..9), key in any::<u32>()) {
            let service = fixture::service(1, Policy::RingHash, &weights);
            let ring = Ring::new(&service, &weights);
            let found = ring.nodes.iter().find(|n| n.point >= key).unwrap_or(&ring.nodes[0]).endpoint;
            prop_assert_eq!(ring.pick(key, |_| false), Some(found as usize));
        }
    }

    #[test]
    fn shares_follow_the_weights() {
        let weights = [4, 8, 0, 12];
        let service = fixture::service(1, Policy::RingHash, &weights);
        let ring = Ring::new(&service, &weights);
        assert_eq!(ring.nodes.len(), 2400);
        let mut counts = [0u32; 4];
        for key in (0..u32::MAX).step_by(1 << 14) {
            counts[ring.pick(key, |_| false).unwrap()] += 24;
        }
        let keys = 1 << 18;
        for (count, weight) in counts.into_iter().zip(weights) {
            let wanted = keys * weight;
            assert!(count.abs_diff(wanted) <= wanted / 8, "{count} instead of about {wanted}");
        }
    }

    #[test]
    fn a_ring_is_bounded_whatever_the_weights() {
        let weights = [u32::MAX, u32::MAX, 1];
        let service = fixture::service(1, Policy::RingHash, &weights);
        let ring = Ring::new(&service, &weights);
        assert!(ring.nodes.len() as u64 <= MOST_NODES + 3);
        assert!(ring.nodes.iter().any(|n| n.endpoint == 2));
        let empty = Ring::new(&service, &[0, 0, 0]);
        assert_eq!(empty.pick(5, |_| false), None);
    }
}
