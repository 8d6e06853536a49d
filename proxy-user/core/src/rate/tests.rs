use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;
const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

fn limit(requests: u32, burst: u32, per: Per) -> RateLimit {
    RateLimit { requests, interval: Duration::from_secs(1), burst, per }
}

fn let_through(limits: &RateLimits, client: IpAddr, now_ns: u64, tries: u32) -> usize {
    (0..tries).filter(|_| limits.try_begin(client, now_ns).is_ok()).count()
}

#[test]
fn a_burst_goes_through_and_then_the_rate() {
    let limits = RateLimits::new(&[limit(10, 5, Per::All)]);
    let now = 1000 * SECOND;
    assert_eq!(let_through(&limits, ONE, now, 20), 5);
    let early = limits.try_begin(OTHER, now).unwrap_err();
    assert_eq!(early.wait, Duration::from_millis(100), "all clients share it");
    assert!(limits.try_begin(ONE, now + SECOND / 10 - 1).is_err());
    assert!(limits.try_begin(ONE, now + SECOND / 10).is_ok());
    assert_eq!(let_through(&limits, ONE, now + 100 * SECOND, 20), 5, "what was not used is not saved up");
    assert!(limits.try_begin(ONE, now).is_err(), "a worker whose clock is behind gets nothing for it");
}

#[test]
fn clients_are_bounded_each_by_itself_and_do_not_use_up_what_is_for_all() {
    let limits = RateLimits::new(&[limit(100, 10, Per::All), limit(5, 2, Per::Client)]);
    assert_eq!(let_through(&limits, ONE, SECOND, 1000), 2);
    let others = (0..20).map(|n| IpAddr::from(Ipv4Addr::new(10, 1, 0, n)));
    let others: usize = others.map(|other| let_through(&limits, other, SECOND, 2)).sum();
    assert_eq!(others, 8, "998 refusals took nothing");
}

#[test]
fn a_network_of_ipv6_is_one_client_unless_it_is_on_this_node() {
    let of = |text: &str, is_remote| one_client(text.parse().unwrap(), is_remote);
    let (one, other) = ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff");
    assert_eq!(of(one, true), of(other, true));
    assert_ne!(of(one, true), of("2001:db8:1:3::1", true));
    assert_ne!(of(one, false), of(other, false));
    for is_remote in [true, false] {
        assert_eq!(of("10.0.0.1", is_remote), ONE);
        assert_eq!(of("::ffff:10.0.0.1", is_remote), ONE, "not one with all of IPv4");
    }
}

#[test]
fn how_long_to_wait_is_told_in_whole_units_and_never_as_nothing() {
    let early = |nanos| TooEarly { wait: Duration::from_nanos(nanos) };
    assert_eq!([1, SECOND, SECOND + 1].map(|nanos| early(nanos).retry_after_seconds()), [1, 1, 2]);
    assert_eq!([1, 1_000_000, 1_000_001].map(|nanos| early(nanos).pushback_ms()), [1, 1, 2]);
    assert_eq!(TooEarly { wait: Duration::MAX }.pushback_ms(), 2_147_483_647, "what the header can say");
}

#[test]
fn they_are_equal_by_what_is_configured() {
    let limits = || RateLimits::new(&[limit(10, 5, Per::All), limit(10, 5, Per::Client)]);
    let used = limits();
    assert_eq!(let_through(&used, ONE, SECOND, 5), 5);
    assert_eq!(used, limits());
    assert_ne!(used, RateLimits::new(&[limit(10, 6, Per::All), limit(10, 5, Per::Client)]));
    assert!(RateLimits::default().is_empty() && RateLimits::default().try_begin(ONE, 0).is_ok());
}

/// However many threads ask at once, the node lets through what one would.
#[test]
#[expect(clippy::disallowed_methods, reason = "what is tested is what several threads do at once")]
fn threads_share_one_bound_exactly() {
    for per in [Per::All, Per::Client] {
        let limits = std::sync::Arc::new(RateLimits::new(&[limit(1000, 500, per)]));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let limits = std::sync::Arc::clone(&limits);
                std::thread::spawn(move || {
                    (0..1000).map(|ms| let_through(&limits, ONE, SECOND + ms * 1_000_000, 3)).sum::<usize>()
                })
            })
            .collect();
        let total: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(total, 500 + 999, "{per:?}: the burst, and one each millisecond behind the first");
    }
}

proptest! {
    /// What a token bucket would do that is as large as the burst and filled evenly. Gaps are whole milliseconds, so that both
    /// count exactly.
    #[test]
    fn it_lets_through_what_a_token_bucket_would(
        gap_ms in 1u64..50, burst in 1u32..20, waits in prop::collection::vec(0u64..60, 1..300),
    ) {
        let interval = Duration::from_millis(gap_ms);
        let limits = RateLimits::new(&[RateLimit { requests: 1, interval, burst, per: Per::All }]);
        let (mut now_ms, mut tokens) = (1000u64, u64::from(burst) * gap_ms);
        for wait_ms in waits {
            now_ms += wait_ms;
            tokens = (tokens + wait_ms).min(u64::from(burst) * gap_ms);
            let result = limits.try_begin(ONE, now_ms * 1_000_000);
            if tokens >= gap_ms {
                tokens -= gap_ms;
                prop_assert_eq!(result, Ok(()));
            } else {
                let wait = Duration::from_millis(gap_ms - tokens);
                prop_assert_eq!(result, Err(TooEarly { wait }));
            }
        }
    }

    /// Whoever waits as long as he is told gets through, whatever the numbers are.
    #[test]
    fn the_time_to_wait_is_enough_and_nothing_overflows(
        requests in 1u32..=1_000_000, burst in any::<u32>(), now_ns in any::<u64>(), seconds in 1u64..1_000_000,
        tries in 1u32..50,
    ) {
        let interval = Duration::from_secs(seconds);
        let limits = RateLimits::new(&[RateLimit { requests, interval, burst, per: Per::Client }]);
        for _ in 0..tries {
            if let Err(early) = limits.try_begin(ONE, now_ns) {
                let wait_ns = u64::try_from(early.wait.as_nanos()).unwrap();
                prop_assert!(limits.try_begin(ONE, now_ns.saturating_add(wait_ns)).is_ok());
                break;
            }
        }
    }
}
