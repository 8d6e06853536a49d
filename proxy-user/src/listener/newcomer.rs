//! The node listener: connections from network namespaces in which Weir does not listen yet.
//!
//! Its port is open to everybody who reaches the node. What is served is what the kernel programs wrote down at a connect(),
//! once: whoever else comes is reset.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use proxy_bpf::abi::key::Addr;
use proxy_bpf::abi::value::OriginalDst;
use proxy_core::addr::ClientAddr;
use proxy_core::outcome::Reason;
use proxy_core::service::Limits;

use super::{caught, refuse, spread, take_original_dst};
use crate::connection::Local;
use crate::stats::application::Lane;
use crate::stats::conn::BudgetGuard;

/// Longest time for a namespace to become known. Its first socket has told of it, which takes some milliseconds; where that was
/// lost, a look finds it within a second.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(3);

pub(super) fn handle_accepted(
    local: &Rc<Local>,
    fd: OwnedFd,
    client: ClientAddr,
    listener: Addr,
    waiting: BudgetGuard,
) {
    let Some(found) = take_original_dst(local, 0, client, listener) else {
        return refuse(&local.shared, &fd, client, Reason::NoOriginalDst);
    };
    if found.service == 0 {
        // A probe of our own: it has seen what it wanted when its entry is gone and its connection closed.
        return;
    }
    tokio::task::spawn_local(serve(Rc::clone(local), fd, client, found, waiting));
}

async fn serve(local: Rc<Local>, fd: OwnedFd, client: ClientAddr, found: OriginalDst, waiting: BudgetGuard) {
    // A worker that drains waits for those who wait, too.
    let guard = local.open.add(&Limits::DEFAULT, None);
    let known = local.shared.namespaces.wait(found.netns_cookie, LONGEST_WAIT).await;
    drop(guard);
    let Some(namespace) = known else {
        return refuse(&local.shared, &fd, client, Reason::NoNamespace);
    };
    drop(waiting);
    let Some(budget) = namespace.share.try_acquire() else {
        namespace.application.refuse(Lane::Proxy, Reason::Limit);
        return refuse(&local.shared, &fd, client, Reason::Limit);
    };
    let accepted = caught(&local, client, &found, Some(&namespace), budget);
    spread(&local, fd, accepted);
}
