//! A debug build of Weir fails on purpose where a file says so, and takes other bounds (`proxy-user/src/bug.rs`).

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::node::{self, Weir};
use crate::scratch::Scratch;
use crate::world::World;
use crate::{process, skip, wait};

const SOON: Duration = Duration::from_secs(20);

/// Where faults are ordered, and bounds that a test could not reach.
pub struct Faults(Scratch);

impl Faults {
    /// Makes the place; or reports that the test is skipped, because a release has no faults.
    #[must_use]
    pub fn new(label: &str) -> Option<Self> {
        let version = process::output(Command::new(node::binary()).arg("--version")).expect("it can say");
        if !version.contains("debug build") {
            skip::skip("only a debug build of Weir fails on purpose");
            return None;
        }
        Some(Self(Scratch::new(label)))
    }

    /// Starts a Weir that takes orders.
    #[must_use]
    pub fn start<'a>(&self, world: &'a World, config: &Value) -> Option<Weir<'a>> {
        let place = format!("WEIR_BUGS={}", self.0.path().display());
        Weir::start_with(&world.net, config, &["env", &place], &[])
    }

    /// Orders a fault, or a bound, whole or not at all.
    pub fn order(&self, place: &str, what: &str) {
        let hidden = self.0.file("next", what);
        fs::rename(hidden, self.0.path().join(place)).expect("the folder is ours");
    }

    /// Orders a panic and waits until it has happened.
    pub fn panic(&self, place: &str) {
        self.order(place, "panic");
        wait::until_true("the fault", SOON, || !self.0.path().join(place).exists());
    }

    /// Ends a fault that lasts.
    pub fn end(&self, place: &str) {
        fs::remove_file(self.0.path().join(place)).expect("it was ordered");
    }
}
