//! Which request goes where. Names and meaning follow HTTPRoute of the Kubernetes Gateway API (v1).
//!
//! [`Route`] is what the config says; [`Router`] is what several of them together decide, compiled.

pub mod fault;
mod pattern;
mod rewrite;
mod router;
mod table;

use std::sync::Arc;
use std::time::Duration;

use self::fault::Faults;
use self::table::Text;
use crate::id::ServiceId;
use crate::priority::Priority;
use crate::rate::RateLimits;
use crate::retry::RetryPolicy;

pub use pattern::{MAX_REGEX_BYTES, RegexError, regex};
pub use rewrite::Asked;
pub use router::{Found, Router};

/// A named list of rules for some hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Name in the config.
    pub name: Arc<str>,
    /// Hosts that it is for; every host if empty.
    pub hosts: Vec<HostPattern>,
    /// What happens with their requests.
    pub rules: Vec<Arc<Rule>>,
}

/// Hosts, in lower case and without a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This one.
    Exact(Box<str>),
    /// Every name that ends with this, which begins with a dot: one label or more in front, as in HTTPRoute.
    Suffix(Box<str>),
}

/// What happens with requests that match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it stands: its index within its route, for operators.
    pub index: usize,
    /// Name of its route.
    pub route: Arc<str>,
    /// Any of these; every request if empty.
    pub matches: Vec<Match>,
    /// Changes of the request's headers.
    pub request_headers: HeaderChanges,
    /// Changes of the answer's headers.
    pub response_headers: HeaderChanges,
    /// How long it may take.
    pub timeout: Timeouts,
    /// Whether and when a request is tried again.
    pub retry: RetryPolicy,
    /// Bounds on how fast its requests may come.
    pub rates: Arc<RateLimits>,
    /// What is refused first when not everything can be served.
    pub priority: Priority,
    /// Faults on purpose.
    pub faults: Option<Faults>,
    /// Services that get copies.
    pub mirrors: Vec<Mirror>,
    /// What happens.
    pub action: Action,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// On the path, without the query.
    pub path: Option<PathPattern>,
    /// On headers: name in lower case, and value. The first header of that name counts.
    pub headers: Vec<(Box<str>, TextPattern)>,
    /// On parameters of the query, undecoded. The first one of that name counts.
    pub query: Vec<(Box<str>, TextPattern)>,
    /// Methods; every one if empty.
    pub methods: Vec<Box<str>>,
}

/// Condition on a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    /// The whole path.
    Exact(Box<str>),
    /// Whole elements of the path: `/api` fits `/api` and `/api/x`, not `/apis`. Without a slash at its end, except for `/`.
    Prefix(Box<str>),
    /// A regular expression that fits the whole path.
    Regex(Box<str>),
}

/// Condition on a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextPattern {
    /// The whole text.
    Exact(Box<str>),
    /// A regular expression that fits the whole text.
    Regex(Box<str>),
}

/// What is done to headers: removed, then set (in place of what was there), then added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Names, in lower case.
    pub remove: Vec<Box<str>>,
    /// Names and values.
    pub set: Vec<(Box<str>, Box<str>)>,
    /// Names and values.
    pub add: Vec<(Box<str>, Box<str>)>,
}

impl HeaderChanges {
    /// Tells whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// How long a request may take; no bound where absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From its head to the end of the answer, all tries and back-off included.
    pub request: Option<Duration>,
    /// One try, from picking an endpoint to the head of its answer.
    pub per_try: Option<Duration>,
}

impl Rule {
    /// Picks a service by weight with 32 evenly random bits; none if the rule forwards nothing or all weights are zero.
    #[must_use]
    pub fn pick_backend(&self, draw: u32) -> Option<&Backend> {
        let Action::Forward { backends, .. } = &self.action else { return None };
        if let [only] = backends.as_slice() {
            return (only.weight > 0).then_some(only);
        }
        let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
        // A draw of 32 bits, scaled: no bias that weights of at most 2^20 in sum could show.
        let mut left = u64::try_from((u128::from(draw) * u128::from(total)) >> 32).ok()?;
        backends.iter().find(|backend| {
            let weight = u64::from(backend.weight);
            let is_here = left < weight;
            left = left.saturating_sub(weight);
            is_here
        })
    }
}

/// A copy of a share of the requests; its answer is thrown away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Whom it goes to.
    pub service: ServiceId,
    /// Share of the requests, in parts of 10,000.
    pub share: u16,
}

impl Mirror {
    /// Parts that a share is given in.
    pub const WHOLE: u16 = 10_000;

    /// Tells whether a request is among the share, with 32 evenly random bits.
    #[must_use]
    pub fn is_drawn(&self, draw: u32) -> bool {
        is_drawn(self.share, draw)
    }
}

/// Tells whether something is among a share in parts of 10,000, with 32 evenly random bits.
fn is_drawn(share: u16, draw: u32) -> bool {
    (u64::from(draw) * u64::from(Mirror::WHOLE)) >> 32 < u64::from(share)
}

/// What happens with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes to one of these services, drawn by weight; 503 if the weights are all zero or none is there.
    Forward {
        /// Services and weights.
        backends: Vec<Backend>,
        /// What becomes of host and path.
        rewrite: Rewrite,
    },
    /// The client is told to ask elsewhere.
    Redirect(Redirect),
    /// Weir answers itself.
    Respond {
        /// 200 to 599.
        status: u16,
        /// Type of the body.
        content_type: Box<str>,
        /// The body.
        body: Box<str>,
    },
}

/// One of several services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Whom it goes to.
    pub service: ServiceId,
    /// Share relative to its siblings; 0 is none.
    pub weight: u32,
}

/// What becomes of host and path on the way to an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// New host.
    pub host: Option<Box<str>>,
    /// New path.
    pub path: Option<PathRewrite>,
}

/// New path; the query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// This one in place of the whole.
    Full(Box<str>),
    /// This one in place of the prefix that matched; only in rules whose matches are all by prefix.
    Prefix(Box<str>),
}

/// Where a client is told to ask; what is absent stays as it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Box<str>>,
    /// Host.
    pub host: Option<Box<str>>,
    /// Port; the scheme's own if the scheme is changed and this is absent.
    pub port: Option<u16>,
    /// Path.
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// What routing looks at in a request.
pub trait Request {
    /// Host that is asked for: in lower case, without a port.
    fn host(&self) -> &str;
    /// Method.
    fn method(&self) -> &str;
    /// Path, beginning with `/`, or `*`; without the query.
    fn path(&self) -> &str;
    /// What stands behind the `?`, undecoded; empty if there is none.
    fn query(&self) -> &str;
    /// Value of the first header of this name (given in lower case).
    fn header(&self, name: &str) -> Option<&[u8]>;
}

#[cfg(test)]
mod tests;
