//! Somebody else on the machine that Weir runs on.

use std::path::Path;
use std::time::Duration;

use crate::client::{Place, interpreter};
use crate::process::Running;

const SOURCE: &str = include_str!("python/foreign.py");
const LIMIT: Duration = Duration::from_secs(20);

/// A process that did something, and undoes it when this is dropped (but for pins).
pub struct Foreign(Running);

impl Foreign {
    /// Attaches a program of this name to connect4 of cgroups; it lets everything pass.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn program(place: Place<'_>, name: &str, cgroups: &[&Path]) -> Self {
        let cgroups: Vec<&str> = cgroups.iter().filter_map(|cgroup| cgroup.to_str()).collect();
        Self::start(place, &[&["attach", name][..], &cgroups].concat())
    }

    /// Pins a map at a path of a bpffs; it stays until the file is removed.
    ///
    /// # Panics
    /// If it cannot.
    pub fn pin(place: Place<'_>, path: &str) {
        drop(Self::start(place, &["pin", path]));
    }

    /// Takes a port.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn listen(place: Place<'_>, host: &str, port: &str) -> Self {
        Self::start(place, &["listen", host, port])
    }

    fn start(place: Place<'_>, arguments: &[&str]) -> Self {
        let mut command = place.command(interpreter());
        command.args(["-c", SOURCE]).args(arguments);
        let running = Running::start(&mut command).expect("python can be started");
        assert_eq!(running.line(LIMIT).as_deref(), Some("done"), "its error is above");
        Self(running)
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }
}
