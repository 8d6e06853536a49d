//! What becomes of a request: decided from its head, in one go.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use proxy_core::grpc;
use proxy_core::http2::FieldList;
use proxy_core::id::ServiceId;
use proxy_core::identity::{RequestId, is_kept_request_id};
use proxy_core::load::{self, Load, RequestLimits};
use proxy_core::outcome::RequestReason;
use proxy_core::overload::Rung;
use proxy_core::priority::Priority;
use proxy_core::rate::{self, RateLimits};
use proxy_core::retry::RetryPolicy;
use proxy_core::route::{self, Action, Found, Rule};
use proxy_core::service::{Protocol, Service};
use proxy_io::clock;
use rand::Rng as _;

use super::answer::Answer;
use super::question::Question;
use super::story::Story;
use super::{Client, Entry};
use crate::forward::grpc_web;
use crate::forward::head::Head;
use crate::forward::http1::{Fault, Framing, RequestEdits, RequestHead, slots};
use crate::forward::http2::{self, Tunnel};
use crate::stats::conn::ServiceStats;

/// The header in which Envoy says how many milliseconds a request has left.
const EXPECTED_TIMEOUT: &str = "x-envoy-expected-rq-timeout-ms";
/// Room for what is added to a head: whose request it is, and its number.
const EDIT_BYTES: usize = 192;
const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
const REQUEST_ID: &str = "x-request-id";

/// A request that goes to a service.
pub(super) struct Plan {
    /// Its head, as the endpoint gets it.
    pub(super) head: Outgoing,
    pub(super) framing: Framing,
    pub(super) question: Question,
    pub(super) service: Arc<Service>,
    pub(super) stats: Arc<ServiceStats>,
    /// The rule that it goes by, if routes decide.
    pub(super) rule: Option<Arc<Rule>>,
    /// What is tried again where no rule says it.
    pub(super) retry: RetryPolicy,
    /// Version that the endpoint is spoken to in.
    pub(super) version: Version,
    /// Time that whoever is in front has left for it.
    pub(super) time_left: Option<Duration>,
}

impl Plan {
    /// Bounds on what is under way in its service, for such requests.
    pub(super) fn limits(&self) -> RequestLimits {
        self.service.limits.requests().of_priority(priority(self.rule.as_deref()))
    }

    /// Counts it as under way, unless as many are as may be.
    ///
    /// # Errors
    /// Which bound was reached.
    pub(super) fn begin(&self) -> Result<load::Request<&Load>, RequestReason> {
        let (mut limits, mut reason) = (self.limits(), RequestReason::Limit);
        if let Some(adaptive) = &self.service.adaptive {
            let most = priority(self.rule.as_deref()).share(adaptive.limit());
            if limits.max_requests.is_none_or(|max| most < max) {
                (limits.max_requests, reason) = (Some(most), RequestReason::ConcurrencyLimit);
            }
        }
        Load::try_request(&*self.service.load, limits).ok_or(reason)
    }
}

/// A head for an endpoint.
pub(super) enum Outgoing {
    /// Written already: client and endpoint both speak HTTP/1.1.
    Bytes(Vec<u8>),
    /// One of them speaks HTTP/2.
    Fields(FieldList),
}

impl Default for Outgoing {
    fn default() -> Self {
        Self::Bytes(Vec::new())
    }
}

/// Version that one side speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// HTTP/1.1, and 1.0.
    Http1,
    /// HTTP/2.
    Http2,
}

/// What becomes of a request.
pub(super) enum Decided {
    /// An endpoint answers it.
    Forward(Box<Plan>),
    /// Weir answers it, and the connection ends if so said.
    Answer(Box<Answer>, bool),
}

/// Decides what becomes of the request of HTTP/1.1 whose head this is, and begins its story.
///
/// # Errors
/// What is wrong with it.
pub(super) fn plan(client: &Client<'_>, head: &[u8], story: &mut Story) -> Result<Decided, Fault> {
    let mut slots = slots();
    let head = RequestHead::parse(head, &mut slots)?;
    let (framing, mut question) = (head.framing, Question::of_http1(&head));
    let id = begin(client, &head, framing, story)?;
    let chosen = match choose(client, &head, story) {
        Ok(chosen) => chosen,
        Err(mut answer) => {
            (answer.is_head, answer.web) = (question.is_head, question.web);
            // Where a body is not taken, the next request cannot be found.
            let is_last = !question.is_keep_alive || framing != Framing::Length(0);
            return Ok(Decided::Answer(answer, is_last));
        }
    };
    let version = chosen.version(client);
    if version == Version::Http2 {
        question = question.opening(Tunnel::of_http1(&head));
    }
    let out = Edited::new(client, &head, id, chosen.found.as_ref()).with(|edits| match version {
        Version::Http1 => {
            let mut out = Vec::with_capacity(head.fields.head_bytes() + EDIT_BYTES);
            head.write(&mut out, edits);
            Ok(Outgoing::Bytes(out))
        }
        // A tunnel leads somewhere (RFC 8441, 4).
        Version::Http2 if question.tunnel.is_some() && head.host.is_empty() => Err(Fault::Host),
        Version::Http2 => http2::of_http1(&head, edits).map(Outgoing::Fields),
    })?;
    Ok(Decided::Forward(Box::new(chosen.plan(out, framing, question, version))))
}

/// Decides what becomes of a request of HTTP/2, whose body is framed like this for HTTP/1.1, and begins its story.
///
/// # Errors
/// What is wrong with it.
pub(super) fn plan_http2(
    client: &Client<'_>,
    mut list: FieldList,
    framing: Framing,
    story: &mut Story,
) -> Result<Decided, Fault> {
    // Before anything is taken out: of a list that is too long not all was kept.
    let is_in_size = http2::check_size(&list, client.bound().bytes);
    let tunnel = Tunnel::take(&mut list);
    let head = http2::Asked::of(&list)?;
    let id = begin(client, &head, framing, story)?;
    is_in_size?;
    let question = Question::of(&head).opening(tunnel?);
    // What goes through a tunnel is no body.
    let framing = if question.tunnel.is_some() { Framing::Length(0) } else { framing };
    let chosen = match choose(client, &head, story) {
        Ok(chosen) => chosen,
        Err(mut answer) => {
            answer.is_head = question.is_head;
            return Ok(Decided::Answer(answer, false));
        }
    };
    let version = chosen.version(client);
    let edited = Edited::new(client, &head, id, chosen.found.as_ref());
    let out = edited.with(|edits| http2::of_http2(list, edits))?;
    Ok(Decided::Forward(Box::new(chosen.plan(Outgoing::Fields(out), framing, question, version))))
}

/// Begins the story of a request; gives the number that it gets, unless it has one.
fn begin(
    client: &Client<'_>,
    head: &impl Head,
    framing: Framing,
    story: &mut Story,
) -> Result<Option<RequestId>, Fault> {
    let is_named = head.find(REQUEST_ID).is_some_and(is_kept_request_id);
    let id = (!is_named).then(|| RequestId::new(client.local.rng.borrow_mut().random()));
    story.read(client, head, id.as_ref().map(RequestId::as_bytes));
    match (framing, client.limits().request_bytes) {
        (Framing::Length(count), Some(most)) if count > most => Err(Fault::BodyTooLarge),
        _ => Ok(id),
    }
}

/// Where a request goes.
struct Chosen {
    service: Arc<Service>,
    stats: Arc<ServiceStats>,
    found: Option<Found>,
    time_left: Option<Duration>,
}

impl Chosen {
    /// Version that its endpoints are spoken to in: that of the config, else that of the client, who has chosen it for them.
    fn version(&self, client: &Client<'_>) -> Version {
        match self.service.protocol {
            Protocol::Http2 => Version::Http2,
            Protocol::Auto => client.version,
            Protocol::Http | Protocol::Tcp | Protocol::Tls => Version::Http1,
        }
    }

    fn plan(self, mut head: Outgoing, framing: Framing, mut question: Question, version: Version) -> Plan {
        let Self { service, stats, found, time_left } = self;
        // Who says HTTP/2 in the config may be one that speaks nothing but gRPC. Others get what their client says.
        if service.protocol == Protocol::Http2
            && let (Some(web), Outgoing::Fields(request)) = (question.web, &mut head)
        {
            question.is_grpc = true;
            grpc_web::ask_in_grpc(request, web);
        }
        let attempts = service.limits.connect_attempts.saturating_sub(1);
        let retry = RetryPolicy { attempts, ..RetryPolicy::default() };
        let rule = found.map(|found| found.rule);
        Plan { head, framing, question, service, stats, rule, retry, version, time_left }
    }
}

fn choose(client: &Client<'_>, head: &impl Head, story: &mut Story) -> Result<Chosen, Box<Answer>> {
    let here = |reason| Box::new(Answer::of_reason(reason));
    let host = bare_host(head.host());
    let asked = Asked { head, host: &host };
    let way = find(client, &asked).ok_or_else(|| here(RequestReason::NoRoute))?;
    if let Some(found) = &way.found {
        story.set_rule(client, &found.rule);
    }
    admit(client, &way)?;
    if let Some(found) = &way.found {
        pace(client, &found.rule.rates)?;
        if let Some(faults) = &found.rule.faults {
            let injected = faults.inject(&asked, || client.local.rng.borrow_mut().random());
            story.delay = injected.delay;
            if let Some(end) = injected.end {
                return Err(Box::new(Answer::of_fault(end)));
            }
        }
        if let Some(answer) = answer_of_rule(client, &asked, found) {
            return Err(Box::new(answer));
        }
    }
    let stats = &client.local.shared.stats;
    let (service, stats) = {
        let mut routes = client.local.routes.borrow_mut();
        let route = way.service.and_then(|service| routes.route(service, None, stats));
        let route = route.ok_or_else(|| here(RequestReason::NoEndpoint))?;
        (Arc::clone(&route.service), Arc::clone(&route.stats))
    };
    story.set_service(&service);
    pace(client, &service.rates)?;
    Ok(Chosen { service, stats, found: way.found, time_left: time_left(head) })
}

fn priority(rule: Option<&Rule>) -> Priority {
    rule.map_or(Priority::Default, |rule| rule.priority)
}

/// Refuses new work where memory or descriptors run out. What a rule answers by itself costs no more than a refusal.
fn admit(client: &Client<'_>, way: &Way) -> Result<(), Box<Answer>> {
    let overload = &client.local.shared.overload;
    let is_forwarded = |found: &Found| matches!(found.rule.action, Action::Forward { .. });
    let priority = priority(way.found.as_ref().map(|found| &*found.rule));
    if !overload.refuses(priority) || !way.found.as_ref().is_none_or(is_forwarded) {
        return Ok(());
    }
    overload.count(Rung::refusing(priority), 1);
    Err(Box::new(Answer::overloaded(&mut client.local.rng.borrow_mut())))
}

/// Counts a request that begins now, unless requests come too fast.
fn pace(client: &Client<'_>, rates: &RateLimits) -> Result<(), Box<Answer>> {
    if rates.is_empty() {
        return Ok(());
    }
    let whose = rate::one_client(client.accepted.client.0.ip(), client.accepted.is_remote());
    let begun = rates.try_begin(whose, clock::monotonic_ns());
    begun.map_err(|early| Box::new(Answer::too_early(early)))
}

/// What a head says of the time that is left: in the words of gRPC, or in those of Envoy, which HTTP has none of its own for.
fn time_left(head: &impl Head) -> Option<Duration> {
    let grpc = head.find("grpc-timeout").and_then(grpc::parse_timeout);
    grpc.or_else(|| {
        let millis = std::str::from_utf8(head.find(EXPECTED_TIMEOUT)?).ok()?.parse().ok()?;
        // Zero is none in Envoy's.
        (millis > 0).then(|| Duration::from_millis(millis))
    })
}

/// Which way a request goes.
struct Way {
    /// The rule that it goes by, if routes decide.
    found: Option<Found>,
    service: Option<ServiceId>,
}

fn find<H: Head>(client: &Client<'_>, asked: &Asked<'_, H>) -> Option<Way> {
    let names = client.accepted.entry.routes(client.service.map(AsRef::as_ref));
    if names.is_empty() {
        return Some(Way { found: None, service: Some(client.service.as_ref()?.id) });
    }
    let router = client.local.routes.borrow().router(names)?;
    let found = router.find(asked)?;
    let draw = client.local.rng.borrow_mut().random();
    let service = found.rule.pick_backend(draw).map(|backend| backend.service);
    Some(Way { found: Some(found), service })
}

/// What a rule answers without asking anybody.
fn answer_of_rule<H: Head>(client: &Client<'_>, asked: &Asked<'_, H>, found: &Found) -> Option<Answer> {
    match &found.rule.action {
        Action::Forward { .. } => None,
        Action::Redirect(redirect) => {
            let place = route::Asked {
                scheme: client.scheme(),
                host: asked.host,
                port: port(asked.head.host()),
                path: asked.head.path(),
                query: asked.head.query(),
                prefix_bytes: found.prefix_bytes,
            };
            let mut answer = Answer::of_config(RequestReason::Redirect, redirect.status);
            answer.location = Some(redirect.location(&place));
            Some(answer)
        }
        Action::Respond { status, content_type, body } => {
            let mut answer = Answer::of_config(RequestReason::DirectResponse, *status);
            answer.body = Some((content_type.clone(), body.clone()));
            Some(answer)
        }
    }
}

/// What is changed of a head on its way to the endpoint.
struct Edited<'a> {
    client: &'a Client<'a>,
    id: Option<RequestId>,
    forwarded: Option<Vec<u8>>,
    target: Option<String>,
    /// Milliseconds that the request has left behind this hop, if the client said what it has.
    expected_timeout: Option<String>,
    found: Option<&'a Found>,
}

impl<'a> Edited<'a> {
    fn new(
        client: &'a Client<'a>,
        head: &impl Head,
        id: Option<RequestId>,
        found: Option<&'a Found>,
    ) -> Self {
        let target = found.and_then(|found| match &found.rule.action {
            Action::Forward { rewrite, .. } => rewrite.target(head.path(), head.query(), found.prefix_bytes),
            Action::Redirect(_) | Action::Respond { .. } => None,
        });
        let given = head.find(EXPECTED_TIMEOUT).and_then(|_| time_left(head));
        let own = found.and_then(|found| found.rule.timeout.request);
        let left = given.map(|given| own.map_or(given, |own| own.min(given)));
        let expected_timeout = left.map(|left| left.as_millis().max(1).to_string());
        Self { client, id, forwarded: forwarded_for(client, head), target, expected_timeout, found }
    }

    fn with<T>(&self, write: impl FnOnce(&RequestEdits<'_>) -> T) -> T {
        let forwarded = self.forwarded.as_deref();
        let set = [
            self.id.as_ref().map(|id| (REQUEST_ID, id.as_bytes())),
            forwarded.map(|value| (FORWARDED_FOR, value)),
            forwarded.map(|_| (FORWARDED_PROTO, self.client.scheme().as_bytes())),
            self.expected_timeout.as_deref().map(|millis| (EXPECTED_TIMEOUT, millis.as_bytes())),
        ];
        let host = self.found.and_then(|found| match &found.rule.action {
            Action::Forward { rewrite, .. } => rewrite.host.as_deref(),
            Action::Redirect(_) | Action::Respond { .. } => None,
        });
        let changes = self.found.map(|found| &found.rule.request_headers);
        write(&RequestEdits {
            path_and_query: self.target.as_deref(),
            host,
            changes: changes.filter(|changes| !changes.is_empty()),
            set: &set,
        })
    }
}

/// Whom a client of the edge is, behind those that it names itself. Intercepted applications keep their address, so there is
/// nothing to say.
fn forwarded_for(client: &Client<'_>, head: &impl Head) -> Option<Vec<u8>> {
    if matches!(client.accepted.entry, Entry::Intercepted(_)) {
        return None;
    }
    let mut value = Vec::with_capacity(48);
    for before in head.find_all(FORWARDED_FOR) {
        value.extend_from_slice(before);
        value.extend_from_slice(b", ");
    }
    put_ip(client.accepted.client.0.ip(), &mut value);
    Some(value)
}

/// Writes an address. Those of IPv4 by hand: with what formats them a request takes 1 % longer.
fn put_ip(ip: IpAddr, out: &mut Vec<u8>) {
    use std::io::Write as _;
    let IpAddr::V4(ip) = ip else {
        // Writing to a Vec does not fail.
        let _ = write!(out, "{ip}");
        return;
    };
    for (index, octet) in ip.octets().into_iter().enumerate() {
        let digits = [octet / 100, octet / 10 % 10, octet % 10].map(|digit| b'0' + digit);
        let skipped = usize::from(octet < 10) + usize::from(octet < 100);
        if index > 0 {
            out.push(b'.');
        }
        out.extend_from_slice(&digits[skipped..]);
    }
}

/// A request as routing sees it.
struct Asked<'a, H> {
    head: &'a H,
    host: &'a str,
}

impl<H: Head> route::Request for Asked<'_, H> {
    fn host(&self) -> &str {
        self.host
    }

    fn method(&self) -> &str {
        self.head.method()
    }

    fn path(&self) -> &str {
        self.head.path()
    }

    fn query(&self) -> &str {
        self.head.query()
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.head.find(name)
    }
}

/// The port of a host, if it names one.
fn port(host: &str) -> Option<u16> {
    let (_, port) = host.rsplit_once(':')?;
    port.parse().ok()
}

/// A host without its port and the dot of the root, in lower case.
fn bare_host(host: &str) -> Cow<'_, str> {
    let end = match host.rfind(']') {
        Some(bracket) => bracket + 1,
        None => host.find(':').unwrap_or(host.len()),
    };
    let bare = host[..end].strip_suffix('.').unwrap_or(&host[..end]);
    if bare.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(bare.to_ascii_lowercase())
    } else {
        Cow::Borrowed(bare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_they_are_everywhere() {
        for text in ["0.0.0.0", "9.10.99.100", "127.0.0.1", "255.200.109.1", "2001:db8::1"] {
            let mut out = Vec::new();
            put_ip(text.parse().unwrap(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn hosts_are_compared_without_port_case_and_root() {
        for (host, bare) in [
            ("a.example", "a.example"),
            ("A.Example:80", "a.example"),
            ("a.example.:80", "a.example"),
            ("[2001:DB8::1]:80", "[2001:db8::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(bare_host(host), bare);
        }
    }
}
