use proptest::prelude::*;
use rand::SeedableRng as _;

use super::*;
use crate::load::Load;

const SAFE: Kind = Kind { is_idempotent: true, is_replayable: true };
const POST: Kind = Kind { is_idempotent: false, is_replayable: true };
const UNAVAILABLE: Failure = Failure::Grpc { status: Status::Unavailable, pushback: None };
const EVERYTHING: [Failure; 10] = [
    Failure::Connect,
    Failure::ResetBeforeSend { is_reused: false },
    Failure::ResetBeforeSend { is_reused: true },
    Failure::ResetAfterSend { is_reused: false },
    Failure::ResetAfterSend { is_reused: true },
    Failure::PerTryTimeout,
    Failure::Status(503),
    UNAVAILABLE,
    Failure::Refused { is_leaving: false },
    Failure::Refused { is_leaving: true },
];

fn generous() -> RetryPolicy {
    RetryPolicy {
        attempts: 3,
        on: RetryOn {
            connect_failure: true,
            reset: true,
            timeout: true,
            statuses: vec![(500, 504), (429, 429)],
            grpc: [Status::Unavailable, Status::Aborted].into_iter().collect(),
        },
        ..RetryPolicy::default()
    }
}

fn rng() -> SmallRng {
    SmallRng::seed_from_u64(7)
}

fn decide(failure: Failure, kind: Kind, policy: &RetryPolicy) -> Result<Retry, GiveUp> {
    Retries::default().handle_failure(failure, kind, policy, None, &mut rng())
}

#[test]
fn only_what_no_server_had_is_repeated_if_it_is_not_idempotent() {
    for failure in EVERYTHING {
        let is_unseen =
            matches!(failure, Failure::Connect | Failure::ResetBeforeSend { .. } | Failure::Refused { .. });
        let is_safe = is_unseen || failure == UNAVAILABLE;
        assert_eq!(decide(failure, POST, &generous()).is_ok(), is_safe, "{failure:?}");
        let retry = decide(failure, SAFE, &generous()).unwrap();
        assert_eq!(retry.is_charged, !is_unseen, "{failure:?}");
    }
}

#[test]
fn what_is_not_in_hand_any_more_is_never_repeated() {
    let gone = Kind { is_idempotent: true, is_replayable: false };
    for failure in EVERYTHING {
        assert_eq!(decide(failure, gone, &generous()), Err(GiveUp::Unsafe), "{failure:?}");
    }
}

#[test]
fn methods_are_idempotent_by_their_definition() {
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
        assert!(is_idempotent(method));
    }
    for method in ["POST", "PATCH", "CONNECT", "get", "PROPFIND", ""] {
        assert!(!is_idempotent(method));
    }
}

#[test]
fn the_policy_names_its_failures() {
    let none = RetryPolicy { on: RetryOn::default(), ..generous() };
    for failure in EVERYTHING {
        let is_stale = matches!(
            failure,
            Failure::ResetBeforeSend { is_reused: true } | Failure::ResetAfterSend { is_reused: true }
        );
        let is_free = is_stale || matches!(failure, Failure::Refused { .. });
        let expected = if is_free { None } else { Some(GiveUp::Unwanted) };
        assert_eq!(decide(failure, SAFE, &none).err(), expected, "{failure:?}");
    }
    let on = generous().on;
    assert!(on.has_status(500) && on.has_status(504) && on.has_status(429));
    assert!(!on.has_status(499) && !on.has_status(505) && !on.has_status(200));
    let usual = RetryPolicy::default();
    assert!(decide(Failure::Connect, POST, &usual).is_ok());
    assert!(decide(Failure::ResetBeforeSend { is_reused: false }, POST, &usual).is_ok());
    assert_eq!(decide(Failure::Status(503), SAFE, &usual), Err(GiveUp::Unwanted));
    assert_eq!(decide(Failure::PerTryTimeout, SAFE, &usual), Err(GiveUp::Unwanted));
}

#[test]
fn a_stale_connection_is_replaced_once_at_no_cost() {
    let failure = Failure::ResetBeforeSend { is_reused: true };
    let never = RetryPolicy { attempts: 0, on: RetryOn::default(), ..RetryPolicy::default() };
    let (mut retries, mut rng) = (Retries::default(), rng());
    let mut handle = |policy: &RetryPolicy| retries.handle_failure(failure, POST, policy, None, &mut rng);
    let free = Retry { pause: Duration::ZERO, is_charged: false, is_fresh: true };
    assert_eq!(handle(&never), Ok(free), "also where no retry is wanted: nothing was tried");
    assert_eq!(handle(&never), Err(GiveUp::Unwanted));
    let usual = RetryPolicy::default();
    assert!(handle(&usual).is_ok_and(|retry| !retry.is_fresh), "now it counts");
    assert!(handle(&usual).is_ok());
    assert_eq!(handle(&usual), Err(GiveUp::Exhausted));
    assert_eq!(retries.count(), 3);
}

#[test]
fn a_connection_that_may_have_been_stale_is_replaced_for_idempotent_requests_and_charged() {
    let failure = Failure::ResetAfterSend { is_reused: true };
    let usual = RetryPolicy::default();
    let fresh = Retry { pause: Duration::ZERO, is_charged: true, is_fresh: true };
    assert_eq!(decide(failure, SAFE, &usual), Ok(fresh));
    assert_eq!(decide(failure, POST, &usual), Err(GiveUp::Unsafe));
    let never = RetryPolicy { attempts: 0, ..usual };
    assert_eq!(decide(failure, SAFE, &never), Err(GiveUp::Unwanted));
}

#[test]
fn refusals_are_passed_over_a_few_times_at_no_cost_and_then_are_as_good_as_no_connection() {
    let never = RetryPolicy { attempts: 0, on: RetryOn::default(), ..RetryPolicy::default() };
    let (mut retries, mut rng) = (Retries::default(), rng());
    let mut handle =
        |failure, policy: &RetryPolicy| retries.handle_failure(failure, POST, policy, None, &mut rng);
    let refused = Failure::Refused { is_leaving: false };
    let free = Retry { pause: Duration::ZERO, is_charged: false, is_fresh: false };
    for _ in 0..FREE_REFUSALS {
        assert_eq!(handle(refused, &never), Ok(free), "whatever the policy says: nobody began with it");
    }
    assert_eq!(handle(refused, &never), Err(GiveUp::Unwanted));
    for _ in FREE_REFUSALS..FREE_DEPARTURES {
        assert_eq!(handle(Failure::Refused { is_leaving: true }, &never), Ok(free));
    }
    assert_eq!(handle(Failure::Refused { is_leaving: true }, &never), Err(GiveUp::Unwanted));
    let usual = RetryPolicy::default();
    for _ in 0..usual.attempts {
        assert!(handle(refused, &usual).is_ok_and(|retry| !retry.is_charged), "POST, and still safe");
    }
    assert_eq!(handle(refused, &usual), Err(GiveUp::Exhausted));
    assert_eq!(retries.count(), usual.attempts + u32::from(FREE_DEPARTURES));
}

#[test]
fn a_grpc_status_that_the_policy_names_permits_the_same_call() {
    let grpc = |status, pushback| Failure::Grpc { status, pushback };
    let retry = decide(grpc(Status::Unavailable, None), POST, &generous()).unwrap();
    assert!(retry.is_charged && !retry.is_fresh);
    for status in [Status::Ok, Status::Internal, Status::DeadlineExceeded] {
        assert_eq!(decide(grpc(status, None), POST, &generous()), Err(GiveUp::Unwanted), "{status:?}");
    }
    // A connection that breaks is no status: the call may have run.
    let broken = Failure::ResetAfterSend { is_reused: false };
    assert_eq!(decide(broken, POST, &generous()), Err(GiveUp::Unsafe));
}

#[test]
fn an_endpoint_says_when_it_wants_to_be_asked_again() {
    let after = |millis| Some(Pushback::After(Duration::from_millis(millis)));
    let asks = |pushback| Failure::Grpc { status: Status::Unavailable, pushback };
    let pause = |pushback| decide(asks(pushback), POST, &generous()).map(|retry| retry.pause);
    assert_eq!(pause(after(0)), Ok(Duration::ZERO));
    assert_eq!(pause(after(2000)), Ok(Duration::from_secs(2)), "longer than any drawn one");
    assert_eq!(pause(after(30_000)), Ok(MAX_PUSHBACK));
    assert_eq!(pause(after(30_001)), Err(GiveUp::Pushback));
    assert_eq!(pause(Some(Pushback::Never)), Err(GiveUp::Pushback));
    let unwanted = Failure::Grpc { status: Status::Internal, pushback: after(0) };
    assert_eq!(
        decide(unwanted, POST, &generous()),
        Err(GiveUp::Unwanted),
        "it asks for what the policy refuses"
    );
    let left = Some(Duration::from_secs(1));
    let late = Retries::default().handle_failure(asks(after(1000)), POST, &generous(), left, &mut rng());
    assert_eq!(late, Err(GiveUp::Deadline));
}

/// Drawn pauses begin anew behind one that the endpoint asked for (A6).
#[test]
fn a_pushback_lets_the_back_off_begin_anew() {
    let policy = RetryPolicy {
        attempts: 8,
        base_back_off: Duration::from_millis(10),
        max_back_off: Duration::from_secs(10),
        ..generous()
    };
    let asked = Failure::Grpc {
        status: Status::Unavailable,
        pushback: Some(Pushback::After(Duration::from_millis(1))),
    };
    let mut longest = [Duration::ZERO; 6];
    for seed in 0..500 {
        let (mut retries, mut rng) = (Retries::default(), SmallRng::seed_from_u64(seed));
        let script = [UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, asked, UNAVAILABLE, UNAVAILABLE];
        for (longest, failure) in longest.iter_mut().zip(script) {
            let retry = retries.handle_failure(failure, POST, &policy, None, &mut rng).unwrap();
            *longest = retry.pause.max(*longest);
        }
    }
    for (longest, bound_ms) in longest.into_iter().zip([10, 20, 40, 1, 10, 20]) {
        let bound = Duration::from_millis(bound_ms);
        assert!(longest <= bound && longest >= bound * 9 / 10, "{longest:?} of {bound:?}");
    }
}

#[test]
fn pauses_double_up_to_their_bound_and_are_spread_evenly() {
    let policy = RetryPolicy {
        attempts: 40,
        base_back_off: Duration::from_millis(10),
        max_back_off: Duration::from_millis(80),
        ..generous()
    };
    let mut rng = rng();
    for (count, most_ms) in [(0, 10), (1, 20), (2, 40), (3, 80), (4, 80), (31, 80), (32, 80), (40, 80)] {
        let pauses: Vec<_> = (0..2000).map(|_| policy.pause(count, &mut rng)).collect();
        let most = Duration::from_millis(most_ms);
        assert!(pauses.iter().all(|pause| *pause <= most));
        let below_half = pauses.iter().filter(|pause| **pause < most / 2).count();
        assert!((900..1100).contains(&below_half), "{below_half} of 2000 below half of {most:?}");
    }
    let none = RetryPolicy { base_back_off: Duration::ZERO, ..policy.clone() };
    assert_eq!(none.pause(5, &mut rng), Duration::ZERO);
    let huge = RetryPolicy { base_back_off: Duration::MAX, max_back_off: Duration::MAX, ..policy };
    assert!(huge.pause(9, &mut rng) <= Duration::from_nanos(u64::MAX), "no overflow");
}

#[test]
fn a_retry_that_would_begin_after_the_deadline_is_not_made() {
    let policy = RetryPolicy {
        base_back_off: Duration::from_millis(100),
        max_back_off: Duration::from_secs(1),
        ..generous()
    };
    let mut rng = rng();
    let mut handle = |failure, left: Duration| {
        Retries::default().handle_failure(failure, SAFE, &policy, Some(left), &mut rng)
    };
    for _ in 0..500 {
        let left = Duration::from_millis(50);
        match handle(Failure::Status(503), left) {
            Ok(retry) => assert!(retry.pause < left),
            Err(reason) => assert_eq!(reason, GiveUp::Deadline),
        }
    }
    for failure in EVERYTHING {
        assert_eq!(handle(failure, Duration::ZERO), Err(GiveUp::Deadline), "{failure:?}");
        assert!(handle(failure, Duration::from_secs(1)).is_ok());
    }
}

/// A request against servers that fail as a script says, on simulated time: never more tries than allowed, never one after
/// the deadline, and never a second one of what a server may have worked on, unless that is harmless.
fn run(script: &[Failure], kind: Kind, policy: &RetryPolicy, deadline: Option<Duration>, seed: u64) -> u32 {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut retries, mut now, mut tries) = (Retries::default(), Duration::ZERO, 0u32);
    for failure in script {
        tries += 1;
        now += Duration::from_millis(5);
        let left = deadline.map(|deadline| deadline.saturating_sub(now));
        let Ok(retry) = retries.handle_failure(*failure, kind, policy, left, &mut rng) else {
            return tries;
        };
        let is_by_status = matches!(failure, Failure::Grpc { .. });
        assert!(failure.is_unseen() || is_by_status || kind.is_idempotent);
        now += retry.pause;
        assert!(deadline.is_none_or(|deadline| now < deadline), "a retry after the deadline");
    }
    tries
}

/// Calls against a service that is out for a while, on simulated time: what the throttle is for. One call begins each
/// millisecond; an endpoint answers at once.
fn load_of_an_outage(throttle: Option<RetryThrottle>) -> (u32, u32) {
    let policy = RetryPolicy { attempts: 3, throttle, ..generous() };
    let (load, mut rng) = (Load::default(), rng());
    let (mut calls, mut tries_while_out) = (0u32, 0u32);
    for now_ms in 0..10_000u32 {
        let is_out = (2000..8000).contains(&now_ms);
        calls += u32::from(is_out);
        let mut retries = Retries::default();
        loop {
            tries_while_out += u32::from(is_out);
            if !is_out {
                policy.throttle.iter().for_each(|throttle| load.throttle_success(*throttle));
                break;
            }
            let retry = retries.handle_failure(UNAVAILABLE, POST, &policy, None, &mut rng);
            let is_allowed = policy.throttle.is_none_or(|throttle| load.throttle_failure(throttle));
            if retry.is_err() || !is_allowed {
                break;
            }
        }
    }
    (calls, tries_while_out)
}

#[test]
fn an_outage_costs_a_throttled_service_no_more_than_without_retries() {
    let (calls, tries) = load_of_an_outage(None);
    assert_eq!(tries, calls * 4);
    let throttle = RetryThrottle { max_tokens: 100, token_ratio: 1000 };
    let (calls, tries) = load_of_an_outage(Some(throttle));
    assert!((calls..calls + 50).contains(&tries), "{tries} tries of {calls} calls");
}

proptest! {
    #[test]
    fn no_script_of_failures_breaks_the_rules(
        script in prop::collection::vec(prop::sample::select(&EVERYTHING), 0..20),
        is_idempotent in any::<bool>(),
        attempts in 0u32..6,
        deadline_ms in prop::option::of(0u64..400),
        seed in any::<u64>(),
    ) {
        let policy = RetryPolicy { attempts, ..generous() };
        let kind = Kind { is_idempotent, is_replayable: true };
        let tries = run(&script, kind, &policy, deadline_ms.map(Duration::from_millis), seed);
        let most = attempts + 2 + u32::from(FREE_DEPARTURES);
        prop_assert!(tries <= most, "the first, the retries, a fresh connection, and some refusals");
    }
}
