//! Applications: the programs of `python/`, in the network namespace and a cgroup of the test's choice.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::cgroup::Cgroup;
use crate::net::{Net, Side};
use crate::process::{self, Running};

/// The clients' source; they are run from memory, so a test program needs no files.
const SOURCE: &str =
    concat!(include_str!("python/client.py"), include_str!("python/odd.py"), include_str!("python/main.py"));
/// Longer than any client needs, even for a GiB through an unoptimised Weir on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// Where clients run.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Network namespaces.
    pub net: &'a Net,
    /// Which of them.
    pub side: Side,
    /// Cgroup; none is wherever the test itself is.
    pub cgroup: Option<&'a Cgroup>,
}

/// A client that runs.
pub struct Client(Running);

impl Place<'_> {
    /// A command of this place.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let within = |program: &Path| self.net.command(self.side, |nsenter| Command::new(nsenter), program);
        // The network first: within the cgroup, Weir takes whatever network a process is in for that of an application.
        self.cgroup.map_or_else(|| within(program), |cgroup| cgroup.command(within, program))
    }

    /// Starts a client: one of the functions in `python/main.py` with its arguments.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(&self, command: &str, arguments: &[&dyn Display]) -> Client {
        let mut python = self.command(interpreter());
        python.args(["-c", SOURCE, command]).args(arguments.iter().map(ToString::to_string));
        Client(Running::start(&mut python).expect("python can be started"))
    }

    /// Runs a client to its end and returns its last word.
    ///
    /// # Panics
    /// If it does not end in time or says nothing.
    #[must_use]
    pub fn run(&self, command: &str, arguments: &[&dyn Display]) -> Value {
        self.start(command, arguments).next()
    }

    /// Runs any other program to its end and returns what it printed.
    ///
    /// # Errors
    /// If it fails; its standard error is part of the message.
    pub fn output(&self, program: &Path, arguments: &[&str]) -> anyhow::Result<String> {
        process::output(self.command(program).args(arguments))
    }
}

impl Client {
    /// Waits for the next thing that it says.
    ///
    /// # Panics
    /// If it says nothing in time.
    #[must_use]
    pub fn next(&self) -> Value {
        let line = self.0.line(LIMIT).expect("a client says something before it ends (its error is above)");
        serde_json::from_str(&line).expect("clients speak JSON")
    }

    /// Tells it to go on.
    ///
    /// # Panics
    /// If it has ended.
    pub fn go_on(&mut self, word: &str) {
        self.0.say(word);
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }
}

/// The interpreter itself: a `python3` in `PATH` may be a slow shell script that finds it.
pub(crate) fn interpreter() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let found =
            process::output(Command::new("python3").args(["-c", "import sys; print(sys.executable)"]));
        PathBuf::from(found.expect("python3 runs").trim())
    })
}

/// A number that a client said.
///
/// # Panics
/// If it did not; everything that it said is shown.
#[must_use]
pub fn number(said: &Value, key: &str) -> u64 {
    said[key].as_u64().unwrap_or_else(|| panic!("no number {key:?} in {said}"))
}
