//! Pods by the hundred: `python/swarm.py` makes them faster than one program for each could.

use std::fmt::Display;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::net::Side;
use crate::process::Running;
use crate::python::PYTHON;
use crate::world::World;

const SOURCE: &str = include_str!("python/swarm.py");
/// A thousand of them take about a minute.
const LIMIT: Duration = Duration::from_secs(600);

/// Pods in the scope of the world's application, each with a namespace and a cgroup of its own.
pub struct Swarm(Running);

impl Swarm {
    /// Starts so many pods, so many at once, each of which lives so many seconds at most and asks these addresses. With 0 seconds
    /// they live until they are told otherwise.
    ///
    /// # Panics
    /// If they cannot be made.
    #[must_use]
    pub fn run(world: &World, (count, together, lives): (u64, u64, f64), addresses: &[impl Display]) -> Self {
        let far = world.net.path(Side::Far);
        let far = far.file_name().expect("a named namespace").to_owned();
        let mut command = world.net.command(Side::Near, |nsenter| Command::new(nsenter), Path::new(PYTHON));
        command.args(["-c", SOURCE]).args([count.to_string(), together.to_string(), lives.to_string()]);
        command.arg(far).arg(world.app.path()).args(addresses.iter().map(ToString::to_string));
        Self(Running::start(&mut command).expect("python can be started"))
    }

    /// Waits for the next thing that they say.
    ///
    /// # Panics
    /// If they fail.
    #[must_use]
    pub fn next(&self) -> Value {
        let line = self.0.line(LIMIT).expect("they say something before they end (their error is above)");
        serde_json::from_str(&line).expect("they speak JSON")
    }

    /// Lets those end that live until they are told otherwise.
    pub fn end(&mut self) {
        self.0.say("end");
    }
}
