//! What becomes of a request: decided from its head, in one go.

use std::borrow::Cow;
use std::sync::Arc;

use proxy_core::id::ServiceId;
use proxy_core::identity::{RequestId, is_kept_request_id};
use proxy_core::outcome::RequestReason;
use proxy_core::retry::{self, RetryPolicy};
use proxy_core::route::{self, Rule};
use proxy_core::service::Service;
use proxy_core::snapshot::Serves;
use rand::Rng as _;

use super::answer::Answer;
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
    Answer(Answer, bool),
}

/// Decides what becomes of the request whose head this is.
///
/// # Errors
/// What is wrong with it.
pub(super) fn plan(client: &Client<'_>, head: &[u8]) -> Result<Decided, Fault> {
    let mut slots = slots();
    let head = RequestHead::parse(head, &mut slots)?;
    let question = Question::of(&head);
    // Where a body is not taken, the next request cannot be found.
    let is_last = !question.is_keep_alive || head.framing != Framing::Length(0);
    let answer = |mut answer: Answer| {
        answer.is_head = question.is_head;
        Ok(Decided::Answer(answer, is_last))
    };
    if let (Framing::Length(count), Some(most)) = (head.framing, client.limits.request_bytes)
        && count > most
    {
        return Err(Fault::BodyTooLarge);
    }
    let asked = Asked { head: &head, host: bare_host(head.host) };
    let (rule, service) = match find(client, &asked) {
        Some(found) => found,
        None => return answer(Answer::of_reason(RequestReason::NoRoute)),
    };
    let stats = &client.local.shared.stats;
    let mut routes = client.local.routes.borrow_mut();
    let Some(route) = service.and_then(|service| routes.route(service, None, stats)) else {
        return answer(Answer::of_reason(RequestReason::NoEndpoint));
    };
    let (service, stats) = (Arc::clone(&route.service), Arc::clone(&route.stats));
    drop(routes);
    drop(asked);
    let framing = head.framing;
    let out = write(client, head, rule.as_deref());
    let attempts = service.limits.connect_attempts.saturating_sub(1);
    let retry = RetryPolicy { attempts, ..RetryPolicy::default() };
    Ok(Decided::Forward(Box::new(Plan { head: out, framing, question, service, stats, rule, retry })))
}

/// Finds the rule for a request, if routes decide, and the service that it names.
fn find(client: &Client<'_>, asked: &Asked<'_, '_, '_>) -> Option<(Option<Arc<Rule>>, Option<ServiceId>)> {
    let routes = client.local.routes.borrow();
    let router = match (&client.accepted.entry, &client.service) {
        (Entry::Listener(listener), _) if matches!(listener.serves, Serves::Routes(_)) => {
            let Serves::Routes(names) = &listener.serves else { return None };
            routes.router(names)?
        }
        (_, Some(service)) if service.routes.is_empty() => return Some((None, Some(service.id))),
        (_, Some(service)) => routes.router(&service.routes)?,
        (_, None) => return None,
    };
    let rule = router.find(asked)?.rule;
    let draw = client.local.rng.borrow_mut().random();
    let service = rule.pick_backend(draw).map(|backend| backend.service);
    Some((Some(rule), service))
}

/// Writes the head that the endpoint gets.
fn write(client: &Client<'_>, head: RequestHead<'_, '_>, rule: Option<&Rule>) -> Vec<u8> {
    let is_named = head.fields.find("x-request-id").is_some_and(is_kept_request_id);
    let id = (!is_named).then(|| RequestId::new(client.local.rng.borrow_mut().random()));
    let forwarded = forwarded_for(client, &head);
    let mut set: Vec<(&str, &[u8])> = Vec::new();
    if let Some(id) = &id {
        set.push(("x-request-id", id.as_bytes()));
    }
    if let Some(forwarded) = &forwarded {
        set.push(("x-forwarded-for", forwarded));
        set.push(("x-forwarded-proto", b"http"));
    }
    let edits = RequestEdits {
        changes: rule.map(|rule| &rule.request_headers).filter(|changes| !changes.is_empty()),
        set: &set,
        ..RequestEdits::default()
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
    host: Cow<'b, str>,
}

impl route::Request for Asked<'_, '_, '_> {
    fn host(&self) -> &str {
        &self.host
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
