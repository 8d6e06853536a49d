//! Copies of requests, for services that are tried out: sent beside the original, and their answers thrown away.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proxy_core::addr::{ClientAddr, OriginalDst};
use proxy_core::outcome::Reason;
use proxy_core::overload::Rung;
use proxy_core::route::Rule;
use proxy_core::service::{Limits, Service};
use proxy_io::Chunk;
use proxy_io::netns::Netns;
use rand::Rng as _;

use super::Client;
use super::story::Story;
use crate::connection::endpoint::{Established, Wanted, establish};
use crate::connection::{Accepted, Local};
use crate::forward::wire::Wire;
use crate::stats::conn::ServiceStats;
use crate::stats::http::Event;

/// Copies under way on one worker: a service that is tried out and hangs must not take this one's memory and descriptors.
const MOST_COPIES: u32 = 256;
/// Time for a copy, connection and answer together.
const COPY_TIME: Duration = Duration::from_secs(10);
/// Bytes of an answer that are taken before its connection is closed: what a server cannot send it may wait for.
const ANSWER_BYTES: usize = 1 << 20;

/// Sends copies of a request, in HTTP/1.1, to the services that its rule names. Never waits: a copy that there is no room for, or whose
/// request is not whole yet and small, is not made, which is counted.
pub(super) fn send_copies(
    client: &Client<'_>,
    rule: &Rule,
    copy: impl Fn() -> Option<Vec<u8>>,
    story: &Story,
) {
    for mirror in &rule.mirrors {
        let draw = client.local.rng.borrow_mut().random();
        if !mirror.is_drawn(draw) {
            continue;
        }
        let stats = &client.local.shared.stats;
        let mut routes = client.local.routes.borrow_mut();
        let target = routes.route(mirror.service, None, stats);
        let target = target.map(|route| (Arc::clone(&route.service), Arc::clone(&route.stats)));
        drop(routes);
        // Nobody misses a copy.
        let is_short = client.local.shared.overload.is_at(Rung::StopKeepAlive);
        let room = if is_short { None } else { Room::take(&client.local.copies) };
        let event = match (target, copy(), room) {
            (Some((service, stats)), Some(request), Some(room)) => {
                let Accepted { client: whose, original_dst, ref netns, .. } = *client.accepted;
                let netns = netns.clone();
                let copy = Copy { request, client: whose, original_dst, netns, service, stats, _room: room };
                let local = Rc::clone(client.local);
                tokio::task::spawn_local(async move {
                    let _ = tokio::time::timeout(COPY_TIME, copy.send(&local)).await;
                });
                Event::Mirrored
            }
            _ => Event::MirrorDropped,
        };
        story.note(event);
    }
}

/// One copy's place among those under way.
struct Room(Rc<Cell<u32>>);

impl Room {
    fn take(count: &Rc<Cell<u32>>) -> Option<Self> {
        (count.get() < MOST_COPIES).then(|| {
            count.set(count.get() + 1);
            Self(Rc::clone(count))
        })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

struct Copy {
    request: Vec<u8>,
    /// Whose request it is.
    client: ClientAddr,
    original_dst: OriginalDst,
    netns: Option<Arc<Netns>>,
    service: Arc<Service>,
    stats: Arc<ServiceStats>,
    _room: Room,
}

impl Copy {
    async fn send(self, local: &Rc<Local>) -> Result<(), Reason> {
        let guard = local.open.add(&Limits::DEFAULT, None);
        let wants = Wanted {
            client: self.client,
            original_dst: self.original_dst,
            netns: self.netns.as_ref(),
            service: &self.service,
            has_early: true,
            application: None,
        };
        let Established { stream, .. } = establish(local, &wants, &self.stats, &guard.conn).await?;
        let mut up = Wire::new(stream, Chunk::default());
        let mut out = Chunk::from(self.request);
        let sent = poll_fn(|cx| up.stream.poll_send(cx, &mut out)).await;
        sent.map_err(|_| Reason::UpstreamReset)?;
        let mut taken = 0;
        while taken < ANSWER_BYTES {
            up.chunk = Chunk::default();
            match poll_fn(|cx| up.poll_more(cx, &())).await {
                Ok(true) => taken += up.chunk.len(),
                _ => break,
            }
        }
        Ok(())
    }
}
