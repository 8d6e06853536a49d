//! The tries of one request: what was tried, and whether another one may follow.

use std::time::{Duration, Instant};

use proxy_core::deadline::Deadlines;
use proxy_core::id::EndpointId;
use proxy_core::load::{self, Load, NoRetry};
use proxy_core::outcome::RequestReason;
use proxy_core::retry::{Failure, Kind, Retries, RetryPolicy};
use proxy_core::service::Service;
use proxy_io::clock;

use super::Client;
use super::plan::Plan;
use super::story::Story;
use crate::stats::http::Event;

/// The tries so far.
pub(super) struct Tries<'a> {
    service: &'a Service,
    policy: &'a RetryPolicy,
    kind: Kind,
    deadlines: Deadlines,
    pub(super) story: &'a Story,
    /// When the one under way began.
    pub(super) began: Instant,
    retries: Retries,
    /// Retries of the service are counted, this one among them from when it was paid for.
    paid: Option<load::Retry<&'a Load>>,
    /// Endpoints that the next try avoids.
    pub(super) tried: Vec<EndpointId>,
    /// The next try must not use a connection that rests.
    pub(super) is_fresh: bool,
}

impl<'a> Tries<'a> {
    /// Begins with the first try, at once: by the rule that the request goes by, and within the time that it has left.
    pub(super) fn new(began: Instant, plan: &'a Plan, story: &'a Story) -> Self {
        let policy = plan.rule.as_ref().map_or(&plan.retry, |rule| &rule.retry);
        let timeouts = plan.rule.as_ref().map(|rule| rule.timeout).unwrap_or_default();
        // Whether it can be sent again shows at each failure.
        let kind = Kind { is_idempotent: plan.question.is_idempotent, is_replayable: true };
        let deadlines = Deadlines::new(began, timeouts).shrink(plan.time_left);
        let (service, retries, tried) = (&*plan.service, Retries::default(), Vec::new());
        Self { service, policy, kind, deadlines, story, began, retries, paid: None, tried, is_fresh: false }
    }

    /// Tries so far, the one under way included.
    pub(super) fn count(&self) -> u32 {
        self.retries.count() + 1
    }

    /// Tells whether an answer that would be called this is looked at before it is passed on.
    pub(super) fn holds(&self, failure: Failure) -> bool {
        self.policy.on.names(failure)
    }

    /// Until when the try may take, and what it is called if that passes.
    pub(super) fn deadline(&self) -> Option<(Instant, RequestReason)> {
        self.deadlines.of_try(self.began)
    }

    /// Until when the answer must have ended.
    pub(super) fn end(&self) -> Option<Instant> {
        self.deadlines.of_request()
    }

    /// Decides whether another try follows this failure, and pays for it; gives the pause before it.
    pub(super) fn handle_failure(
        &mut self,
        client: &Client<'_>,
        failure: Failure,
        endpoint: Option<EndpointId>,
    ) -> Option<Duration> {
        let left = self.deadlines.left(Instant::now());
        let mut rng = client.local.rng.borrow_mut();
        let mut retries = self.retries;
        // Every failure counts that the policy names, whether or not another try follows (A6).
        let is_named = self.policy.on.names(failure) || failure.forbids_retry();
        let throttle = self.policy.throttle.filter(|_| is_named && !failure.is_unseen());
        let is_throttled = throttle.is_some_and(|throttle| !self.service.load.throttle_failure(throttle));
        let retry = retries.handle_failure(failure, self.kind, self.policy, left, &mut rng).ok()?;
        if is_throttled && retry.is_charged {
            self.note(Event::RetryRefused);
            return None;
        }
        if retry.is_charged && self.paid.is_none() {
            let (budget, limits) = (self.policy.budget(), self.service.limits.requests());
            match Load::try_retry(&*self.service.load, budget, limits) {
                Ok(paid) => self.paid = Some(paid),
                Err(NoRetry::Budget | NoRetry::Limit) => {
                    self.note(Event::RetryRefused);
                    return None;
                }
            }
        }
        self.retries = retries;
        self.is_fresh = retry.is_fresh;
        if !retry.is_fresh {
            self.tried.extend(endpoint);
        }
        self.note(if retry.is_fresh { Event::FreshRetry } else { Event::Retry });
        Some(retry.pause)
    }

    /// Takes note of an answer that says nothing against its endpoint.
    pub(super) fn handle_success(&self) {
        if let Some(throttle) = self.policy.throttle {
            self.service.load.throttle_success(throttle);
        }
    }

    /// Counts what an end is made of.
    pub(super) fn handle_end(&self, reason: RequestReason) {
        match reason {
            RequestReason::ConnectTimeout => self.note(Event::ConnectTimeout),
            RequestReason::PerTryTimeout => self.note(Event::PerTryTimeout),
            RequestReason::RequestTimeout => self.note(Event::RequestTimeout),
            _ => {}
        }
        let is_given_up = matches!(
            reason,
            RequestReason::PerTryTimeout | RequestReason::RequestTimeout | RequestReason::DownstreamReset
        );
        if let Some(adaptive) = self.service.adaptive.as_ref().filter(|_| is_given_up) {
            let waited_ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            adaptive.handle_given_up(waited_ns, clock::monotonic_ns(), self.service.load.request_count());
        }
    }

    /// Counts an event, of the service and of the rule.
    pub(super) fn note(&self, event: Event) {
        self.story.note(event);
    }
}
