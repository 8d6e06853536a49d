//! A service in simulated time: so many requests at once, the others wait in a queue.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
const POLICY: AdaptivePolicy = AdaptivePolicy::DEFAULT;

struct Simulation {
    adaptive: Adaptive,
    rng: SmallRng,
    now_ns: u64,
    /// When each of the service's places is free again.
    places: BinaryHeap<Reverse<u64>>,
    place_count: usize,
    work_ns: u64,
    /// Ends of the requests under way, and when they began.
    under_way: BinaryHeap<Reverse<(u64, u64)>>,
    /// Whether some answers take ten times as long for reasons of their own.
    is_noisy: bool,
}

/// What became of the requests of a time.
#[derive(Debug, Default)]
struct Seen {
    served: u64,
    refused: u64,
    times: Vec<u64>,
    lowest_limit: u32,
}

impl Seen {
    fn percentile(&mut self, percent: usize) -> u64 {
        self.times.sort_unstable();
        self.times[(self.times.len() - 1) * percent / 100]
    }
}

impl Simulation {
    fn new(place_count: usize, work_ms: u64) -> Self {
        Self {
            adaptive: Adaptive::new(POLICY),
            rng: SmallRng::seed_from_u64(7),
            now_ns: SECOND,
            places: BinaryHeap::new(),
            place_count,
            work_ns: work_ms * MS,
            under_way: BinaryHeap::new(),
            is_noisy: false,
        }
    }

    /// Lets requests come at random, so many in a second.
    fn run(&mut self, seconds: u64, per_second: u64) -> Seen {
        let mut seen = Seen { lowest_limit: u32::MAX, ..Seen::default() };
        let end_ns = self.now_ns + seconds * SECOND;
        while self.now_ns < end_ns {
            let gap = -(1.0 - self.rng.random::<f64>()).ln() / per_second as f64;
            self.now_ns += nanos(Duration::from_secs_f64(gap));
            self.end_until(self.now_ns, &mut seen);
            seen.lowest_limit = seen.lowest_limit.min(self.adaptive.limit());
            if self.under_way.len() >= self.adaptive.limit() as usize {
                seen.refused += 1;
                continue;
            }
            let free_ns = if self.places.len() < self.place_count {
                self.now_ns
            } else {
                self.places.pop().unwrap().0.max(self.now_ns)
            };
            let mut work_ns = self.work_ns * self.rng.random_range(80..120) / 100;
            if self.is_noisy && self.rng.random_range(0..20) == 0 {
                work_ns *= 10;
            }
            self.places.push(Reverse(free_ns + work_ns));
            self.under_way.push(Reverse((free_ns + work_ns, self.now_ns)));
        }
        seen
    }

    fn end_until(&mut self, now_ns: u64, seen: &mut Seen) {
        while let Some(Reverse((end_ns, began_ns))) = self.under_way.peek().copied()
            && end_ns <= now_ns
        {
            let count = u32::try_from(self.under_way.len()).unwrap();
            self.under_way.pop();
            self.adaptive.handle_answer(end_ns - began_ns, end_ns, count);
            seen.served += 1;
            seen.times.push(end_ns - began_ns);
        }
    }

    fn set_places(&mut self, count: usize) {
        self.place_count = count;
        while self.places.len() > count {
            self.places.pop();
        }
    }
}

#[test]
fn a_service_that_gets_three_times_too_much_is_busy_and_answers_soon() {
    let mut service = Simulation::new(10, 10);
    service.run(5, 3000);
    let mut seen = service.run(30, 3000);
    assert!(seen.served > 900 * 30, "as much as it can, nearly: {}", seen.served);
    assert!(seen.percentile(50) < 25 * MS && seen.percentile(99) < 40 * MS, "{}", seen.percentile(99));
    assert!(seen.refused > 1900 * 30);
    let best = service.adaptive.read().best.unwrap();
    assert!((8..=12).contains(&best.as_millis()), "{best:?}");
}

#[test]
fn less_room_lowers_the_limit_and_more_room_raises_it() {
    let mut service = Simulation::new(40, 10);
    service.run(20, 3800);
    let wide = service.adaptive.limit();
    assert!(wide >= 38, "{wide}");
    service.set_places(5);
    let mut seen = service.run(20, 3800);
    let narrow = service.adaptive.limit();
    assert!(narrow < 16, "{narrow}");
    assert!(seen.percentile(50) < 40 * MS, "{}", seen.percentile(50));
    service.set_places(40);
    service.run(20, 3800);
    let again = service.adaptive.limit();
    assert!(again >= 38, "{again}");
}

#[test]
fn noise_collapses_nothing_and_refuses_nobody() {
    let mut service = Simulation::new(100, 10);
    service.is_noisy = true;
    service.run(5, 2000);
    // With the measurements: half of the limit is enough, too.
    let seen = service.run(180, 2000);
    assert!(seen.lowest_limit > 20, "{}", seen.lowest_limit);
    assert!(seen.refused * 100 < seen.served, "{} of {}", seen.refused, seen.served);
}

#[test]
fn a_service_whose_work_takes_longer_has_a_new_best_and_its_old_limit() {
    let mut service = Simulation::new(20, 10);
    service.run(20, 3000);
    service.work_ns = 80 * MS;
    service.run(20, 3000);
    let best = service.adaptive.read().best.unwrap();
    assert!((70..=120).contains(&best.as_millis()), "{best:?}");
    assert!((15..=45).contains(&service.adaptive.limit()), "{}", service.adaptive.limit());
    // And back.
    service.work_ns = 10 * MS;
    service.run(80, 3000);
    let best = service.adaptive.read().best.unwrap();
    assert!((8..=13).contains(&best.as_millis()), "{best:?}");
}

#[test]
fn a_begin_with_far_too_much_is_no_best() {
    let mut service = Simulation::new(2, 50);
    service.run(10, 1000);
    let best = service.adaptive.read().best.unwrap();
    assert!(best.as_millis() < 130, "{best:?}: with four at once it is a hundred");
    assert!(service.adaptive.limit() <= 8, "{}", service.adaptive.limit());
}

#[test]
fn the_limit_stays_within_its_bounds_and_grows_only_where_it_is_used() {
    let policy = AdaptivePolicy { least: 8, most: 20, ..POLICY };
    let adaptive = Adaptive::new(policy);
    assert_eq!(adaptive.limit(), 20);
    let mut now_ns = SECOND;
    for _ in 0..10_000 {
        now_ns += 10 * MS;
        adaptive.handle_answer(MS, now_ns, 20);
        assert!((8..=20).contains(&adaptive.limit()));
    }
    assert_eq!(adaptive.limit(), 20);
    // Not for so long that it is what the service always takes.
    for _ in 0..60 {
        now_ns += 10 * MS;
        adaptive.handle_answer(100 * MS, now_ns, 20);
    }
    assert!(adaptive.limit() <= 12, "{}", adaptive.limit());
    assert_eq!(Adaptive::new(AdaptivePolicy { least: 5, most: 1, ..POLICY }).limit(), 5);

    let unused = Adaptive::new(POLICY);
    for _ in 0..10_000 {
        now_ns += 10 * MS;
        unused.handle_answer(MS, now_ns, 3);
    }
    assert!(unused.limit() <= INITIAL, "{}", unused.limit());
}

#[test]
fn who_gives_up_says_that_it_takes_longer_and_nothing_before_its_best_is_known() {
    let adaptive = Adaptive::new(POLICY);
    let mut now_ns = SECOND;
    let mut step = |of: &dyn Fn(u64)| {
        for _ in 0..2000 {
            now_ns += 10 * MS;
            of(now_ns);
        }
    };
    step(&|now_ns| adaptive.handle_given_up(500 * MS, now_ns, 60));
    assert_eq!(adaptive.read().best, None);
    step(&|now_ns| adaptive.handle_answer(10 * MS, now_ns, 60));
    let before = adaptive.limit();
    step(&|now_ns| adaptive.handle_given_up(MS, now_ns, 60));
    assert_eq!(adaptive.limit(), before, "sooner than any answer could be");
    let mut lowest = u32::MAX;
    for _ in 0..100 {
        now_ns += 10 * MS;
        adaptive.handle_given_up(500 * MS, now_ns, 60);
        lowest = lowest.min(adaptive.limit());
    }
    assert!(lowest < before / 2, "{lowest} of {before}");
}

#[test]
fn buckets_are_in_order_and_their_times_are_nearly_right() {
    let mut before = 0;
    for micros in 1..200_000_u64 {
        let at = bucket(micros * 1000);
        assert!(at >= before);
        before = at;
        let error = (time_of(at) as f64 / (micros * 1000) as f64 - 1.0).abs();
        assert!(error < 0.04 || micros < 32, "{micros}: {error}");
    }
    assert_eq!((bucket(0), bucket(u64::MAX)), (0, BUCKETS - 1));
}
