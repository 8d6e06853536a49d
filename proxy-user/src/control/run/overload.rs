//! Ten times a second: what to give up, if memory or descriptors run out.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Control;
use crate::worker::Command;

/// Time for workers to say what their heaviest stream holds; one that hangs must not hold up the control task.
const WEIGH_LIMIT: Duration = Duration::from_millis(200);

impl Control {
    pub(super) async fn handle_overload(&mut self) {
        if self.watchman.look(Instant::now(), &self.parts.shared.overload) {
            self.reset_heaviest().await;
        }
    }

    /// Resets the stream of the node that holds most bytes.
    async fn reset_heaviest(&self) {
        let mut answers = Vec::new();
        for worker in self.parts.workers.iter() {
            let (answer, said) = oneshot::channel();
            // A full mailbox belongs to a worker that hangs.
            let _ = worker.mailbox.try_send(Command::Weigh(answer));
            answers.push(said);
        }
        let deadline = tokio::time::Instant::now() + WEIGH_LIMIT;
        let mut heaviest = None;
        for (worker, said) in self.parts.workers.iter().zip(answers) {
            if let Ok(Ok(bytes)) = tokio::time::timeout_at(deadline, said).await
                && bytes > heaviest.map_or(0, |(_, most)| most)
            {
                heaviest = Some((worker, bytes));
            }
        }
        if let Some((worker, _)) = heaviest {
            let _ = worker.mailbox.try_send(Command::ResetHeaviest);
        }
    }
}
