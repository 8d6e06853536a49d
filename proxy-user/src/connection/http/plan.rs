//! What becomes of a request: decided from its head, in one go.

use std::borrow::Cow;
use std::sync::Arc;

use proxy_core::id::ServiceId;
use proxy_core::identity::{RequestId, is_kept_request_id};
use proxy_core::outcome::RequestReason;
use proxy_core::retry::{self, RetryPolicy};
use proxy_core::route::{self, Action, Found, Rule};
use proxy_core::service::Service;
use rand::Rng as _;

use super::answer::Answer;
use super::story::Story;
use super::{Client, Entry};
use crate::forward::http1::{Fault, Framing, RequestEdits, RequestHead, slots};
use crate::stats::conn::ServiceStats;

/// A request that goes to a service.
pub(super) struct Plan {
    /// Its head, as the endpoint gets it.
    pub(super) head: Vec<u8>,
    pub(super) framing: Framing,
    pub(super) question: Question,
    pub(super) service: Arc<Service>,
    pub(super) stats: Arc<ServiceStats>,
    /// The rule that it goes by, if routes decide.
    pub(super) rule: Option<Arc<Rule>>,
    /// What is tried again where no rule says it.
    pub(super) retry: RetryPolicy,
}

/// What must be known of a request to pass its answer on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) is_head: bool,
    pub(super) is_connect: bool,
    pub(super) is_idempotent: bool,
    pub(super) is_version_1_0: bool,
    pub(super) is_keep_alive: bool,
    pub(super) is_upgrade: bool,
}

impl Question {
    fn of(head: &RequestHead<'_, '_>) -> Self {
        Self {
            is_head: head.method == "HEAD",
            is_connect: head.method == "CONNECT",
            is_idempotent: retry::is_idempotent(head.method),
            is_version_1_0: head.is_version_1_0,
            is_keep_alive: head.is_keep_alive,
            is_upgrade: head.upgrade.is_some(),
        }
    }

    /// The method as far as the length of an answer's body depends on it.
    pub(super) fn method(self) -> &'static str {
        match (self.is_head, self.is_connect) {
            (true, _) => "HEAD",
            (_, true) => "CONNECT",
            _ => "",
        }
    }
}

/// What becomes of a request.
pub(super) enum Decided {
    /// An endpoint answers it.
    Forward(Box<Plan>),
    /// Weir answers it, and the connection ends if so said.
    Answer(Box<Answer>, bool),
}

/// Decides what becomes of the request whose head this is, and begins its story.
///
/// # Errors
/// What is wrong with it.
pub(super) fn plan(client: &Client<'_>, head: &[u8], story: &mut Story) -> Result<Decided, Fault> {
    let mut slots = slots();
    let head = RequestHead::parse(head, &mut slots)?;
    let is_named = head.fields.find("x-request-id").is_some_and(is_kept_request_id);
    let id = (!is_named).then(|| RequestId::new(client.local.rng.borrow_mut().random()));
    story.read(client, &head, id.as_ref().map(RequestId::as_bytes));
    if let (Framing::Length(count), Some(most)) = (head.framing, client.limits().request_bytes)
        && count > most
    {
        return Err(Fault::BodyTooLarge);
    }
    let question = Question::of(&head);
    let decided = decide(client, head, question, id, story);
    // Where a body is not taken, the next request cannot be found.
    Ok(decided.unwrap_or_else(|(mut answer, framing)| {
        answer.is_head = question.is_head;
        Decided::Answer(Box::new(answer), !question.is_keep_alive || framing != Framing::Length(0))
    }))
}

fn decide(
    client: &Client<'_>,
    head: RequestHead<'_, '_>,
    question: Question,
    id: Option<RequestId>,
    story: &mut Story,
) -> Result<Decided, (Answer, Framing)> {
    let framing = head.framing;
    let here = |reason| (Answer::of_reason(reason), framing);
    let host = bare_host(head.host);
    let asked = Asked { head: &head, host: &host };
    let way = find(client, &asked).ok_or_else(|| here(RequestReason::NoRoute))?;
    if let Some(found) = &way.found {
        story.set_rule(client, &found.rule);
        if let Some(answer) = answer_of_rule(client, &asked, found) {
            return Err((answer, framing));
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
    let attempts = service.limits.connect_attempts.saturating_sub(1);
    let retry = RetryPolicy { attempts, ..RetryPolicy::default() };
    let found = way.found;
    let out = write(client, head, id, found.as_ref());
    let rule = found.map(|found| found.rule);
    Ok(Decided::Forward(Box::new(Plan { head: out, framing, question, service, stats, rule, retry })))
}

/// Which way a request goes.
struct Way {
    /// The rule that it goes by, if routes decide.
    found: Option<Found>,
    service: Option<ServiceId>,
}

fn find(client: &Client<'_>, asked: &Asked<'_, '_, '_>) -> Option<Way> {
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
fn answer_of_rule(client: &Client<'_>, asked: &Asked<'_, '_, '_>, found: &Found) -> Option<Answer> {
    match &found.rule.action {
        Action::Forward { .. } => None,
        Action::Redirect(redirect) => {
            let place = route::Asked {
                scheme: client.scheme(),
                host: asked.host,
                port: port(asked.head.host),
                path: asked.head.target.path,
                query: asked.head.target.query,
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

/// Writes the head that the endpoint gets.
fn write(
    client: &Client<'_>,
    head: RequestHead<'_, '_>,
    id: Option<RequestId>,
    found: Option<&Found>,
) -> Vec<u8> {
    let forwarded = forwarded_for(client, &head);
    let forwarded = forwarded.as_deref();
    let set = [
        id.as_ref().map(|id| ("x-request-id", id.as_bytes())),
        forwarded.map(|value| ("x-forwarded-for", value)),
        forwarded.map(|_| ("x-forwarded-proto", client.scheme().as_bytes())),
    ];
    let rewrite = found.and_then(|found| match &found.rule.action {
        Action::Forward { rewrite, .. } => Some((rewrite, found.prefix_bytes)),
        Action::Redirect(_) | Action::Respond { .. } => None,
    });
    let target = rewrite.and_then(|(rewrite, prefix_bytes)| {
        rewrite.target(head.target.path, head.target.query, prefix_bytes)
    });
    let changes = found.map(|found| &found.rule.request_headers);
    let edits = RequestEdits {
        path_and_query: target.as_deref(),
        host: rewrite.and_then(|(rewrite, _)| rewrite.host.as_deref()),
        changes: changes.filter(|changes| !changes.is_empty()),
        set: &set,
    };
    let mut out = Vec::with_capacity(head.fields.head_bytes() + 128);
    head.write(&mut out, &edits);
    out
}

/// Whom a client of the edge is, behind those that it names itself. Intercepted applications keep their address, so there is
/// nothing to say.
fn forwarded_for(client: &Client<'_>, head: &RequestHead<'_, '_>) -> Option<Vec<u8>> {
    use std::io::Write as _;
    if matches!(client.accepted.entry, Entry::Intercepted(_)) {
        return None;
    }
    let mut value = Vec::with_capacity(48);
    for before in head.fields.find_all("x-forwarded-for") {
        value.extend_from_slice(before);
        value.extend_from_slice(b", ");
    }
    // Writing to a Vec does not fail.
    let _ = write!(value, "{}", client.accepted.client.0.ip());
    Some(value)
}

/// A request as routing sees it.
struct Asked<'a, 'h, 'b> {
    head: &'a RequestHead<'h, 'b>,
    host: &'a str,
}

impl route::Request for Asked<'_, '_, '_> {
    fn host(&self) -> &str {
        self.host
    }

    fn method(&self) -> &str {
        self.head.method
    }

    fn path(&self) -> &str {
        self.head.target.path
    }

    fn query(&self) -> &str {
        self.head.target.query
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.head.fields.find(name)
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
