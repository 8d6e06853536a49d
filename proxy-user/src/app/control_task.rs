//! The control task, whose bugs end neither it nor the process.

use std::convert::Infallible;
use std::time::Duration;

use tokio::signal::unix::Signal;

use crate::bug;
use crate::control::{Control, End};

/// Pause after a bug in a step, so that one which fails each time leaves time for others.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

/// Runs it. A bug in one of its steps ends that step: what is in force stays so, workers and kernel programs
/// go on, and so does everything that this task is told and sees next.
pub(super) async fn run(control: &mut Control, reload: &mut Signal) -> std::io::Result<End> {
    loop {
        match bug::caught(control.run(reload)).await {
            Ok(end) => return end,
            Err(panic) => {
                tracing::error!(panic, "a step of the control task failed; it goes on with the next")
            }
        }
        tokio::time::sleep(PANIC_PAUSE).await;
    }
}

/// Looks for the namespaces that connections wait for, and then for nothing more.
pub(super) async fn know_newcomers(control: &mut Control) -> Infallible {
    if let Err(panic) = bug::caught(control.keep_knowing_newcomers()).await {
        tracing::error!(
            panic,
            "connections of new network namespaces are not served while this process drains"
        );
    }
    std::future::pending().await
}
