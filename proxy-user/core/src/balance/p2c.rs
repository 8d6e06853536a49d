//! Power of two choices: the better of two weighted draws (Mitzenmacher 2001).

use rand::rngs::SmallRng;

use super::alias::Draws;
use crate::service::{Endpoint, Service};

/// Draws for a second candidate that differs from the first; only a very heavy endpoint is drawn this often in a row.
const MOST_REDRAWS: u32 = 4;

/// What an endpoint that never answered counts as while a first request is on its way: one is enough to try it.
const UNKNOWN_NS: f64 = 1e9;

/// Draws two endpoints and keeps the better one; `None` if all are to be avoided.
pub(super) fn pick(
    draws: &Draws,
    service: &Service,
    rng: &mut SmallRng,
    is_avoided: impl Fn(usize) -> bool,
    is_better: impl FnOnce(&Endpoint, &Endpoint) -> bool,
) -> Option<usize> {
    let first = draws.draw(rng, &is_avoided)?;
    for _ in 0..MOST_REDRAWS {
        let second = draws.draw(rng, &is_avoided)?;
        if second != first {
            let is_second_better = is_better(&service.endpoints[second], &service.endpoints[first]);
            return Some(if is_second_better { second } else { first });
        }
    }
    Some(first)
}

/// Compares `(open + 1) / weight`, the load if the connection went there, without dividing.
pub(super) fn is_less_loaded(a: &Endpoint, b: &Endpoint) -> bool {
    let with_one_more = |e: &Endpoint| u64::from(e.load.open_count()) + 1;
    with_one_more(a) * u64::from(b.weight) < with_one_more(b) * u64::from(a.weight)
}

/// Compares what a request would have to expect: latency, times what is under way with it, per weight.
pub(super) fn is_quicker(a: &Endpoint, b: &Endpoint, now_ns: u64) -> bool {
    let cost = |e: &Endpoint| {
        let open = e.load.open_count();
        let known = e.load.latency_ns(now_ns);
        let latency_ns = known.unwrap_or(if open == 0 { 0.0 } else { UNKNOWN_NS });
        latency_ns * (f64::from(open) + 1.0) / f64::from(e.weight)
    };
    cost(a) < cost(b)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::fixture;
    use crate::service::Policy;

    #[test]
    fn load_stays_in_proportion_to_weight() {
        let weights = [1, 2, 4, 8, 1];
        let service = fixture::service(1, Policy::LeastRequest, &weights);
        let draws = Draws::new(weights.to_vec());
        let mut rng = SmallRng::seed_from_u64(3);
        for _ in 0..16_000 {
            let picked = pick(&draws, &service, &mut rng, |_| false, is_less_loaded).unwrap();
            assert!(service.endpoints[picked].load.try_acquire(u32::MAX));
        }
        for (endpoint, weight) in service.endpoints.iter().zip(weights) {
            let (open, wanted) = (endpoint.load.open_count(), 1000 * weight);
            assert!(open.abs_diff(wanted) <= wanted / 20, "{open} open instead of about {wanted}");
        }
    }

    #[test]
    fn a_crowded_endpoint_loses_against_every_other() {
        let service = fixture::service(1, Policy::LeastRequest, &[1, 1, 1]);
        let draws = Draws::new(vec![1, 1, 1]);
        for _ in 0..100 {
            assert!(service.endpoints[1].load.try_acquire(u32::MAX));
        }
        let mut rng = SmallRng::seed_from_u64(3);
        let crowded = (0..3000)
            .filter(|_| pick(&draws, &service, &mut rng, |_| false, is_less_loaded) == Some(1))
            .count();
        // Only five draws of the same endpoint in a row lead there: 3^-5 of the picks.
        assert!(crowded < 50, "{crowded} of 3000");
    }

    #[test]
    fn the_highest_counts_do_not_overflow() {
        let service = fixture::service(1, Policy::LeastRequest, &[u32::MAX, u32::MAX]);
        for endpoint in &service.endpoints {
            endpoint.load.release();
            assert_eq!(endpoint.load.open_count(), u32::MAX);
        }
        assert!(!is_less_loaded(&service.endpoints[0], &service.endpoints[1]));
    }
}
