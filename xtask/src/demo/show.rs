//! What the demo says on the terminal.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Result;

use super::stage;

/// Prints steps and keeps the score of promises.
#[derive(Default)]
pub(super) struct Show {
    has_colour: bool,
    steps: u32,
    kept: u32,
    broken: Vec<String>,
}

impl Show {
    pub(super) fn new() -> Self {
        Self { has_colour: std::io::stdout().is_terminal(), ..Self::default() }
    }

    /// Begins a step.
    pub(super) fn step(&mut self, title: &str) {
        self.steps += 1;
        println!("\n{}", self.paint("1", &format!("{}. {title}", self.steps)));
    }

    pub(super) fn say(&self, text: &str) {
        println!("   {text}");
    }

    /// A command that the reader may try.
    pub(super) fn command(&self, text: &str) {
        println!("   {}", self.paint("36", &format!("$ {text}")));
    }

    /// What a program said.
    pub(super) fn quote(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("   {} {line}", self.paint("2", "|"));
        }
    }

    /// Says whether a promise was kept, and why not.
    pub(super) fn promise(&mut self, what: &str, result: Result<()>) {
        match result {
            Ok(()) => {
                self.kept += 1;
                println!("   {} {what}", self.paint("32", "✓"));
            }
            Err(error) => {
                println!("   {} {what}: {error:#}", self.paint("31", "✗"));
                self.broken.push(what.to_owned());
            }
        }
    }

    /// Tells how to use what `--keep` left running.
    pub(super) fn how_to_play(&self) {
        let folder = stage::FOLDER;
        println!("\n{}", self.paint("1", "It is all still running. Try:"));
        for (command, what) in [
            ("app curl http://10.96.0.10/".to_owned(), "in turn from all three, through a worker"),
            ("app curl http://10.96.0.11/".to_owned(), "the same, connected by the kernel"),
            ("app redis-cli -h 10.96.0.12 incr visits".to_owned(), "a real redis"),
            ("app sh".to_owned(), "a shell in the intercepted cgroup"),
            ("outside curl -m 2 http://10.96.0.10/".to_owned(), "not intercepted: no answer"),
            (format!("node {folder}/weir connections --watch"), "the kernel's view"),
            (format!("node {folder}/weir status"), "where Weir stands"),
            ("node curl http://127.0.0.1:15000/clusters".to_owned(), "endpoints and their health"),
            ("node curl http://127.0.0.1:15020/metrics".to_owned(), "for Prometheus"),
        ] {
            println!("   {} # {what}", self.paint("36", &format!("{folder}/{command:<48}")));
        }
        println!("   Change {folder}/weir.yaml and look at {folder}/weir.log: it is read again by itself.");
        println!("   {} # ends it all", self.paint("36", "cargo xtask demo --clean"));
    }

    /// Prints the score; a broken promise is a failure.
    pub(super) fn sum(&self, seconds: u64) -> ExitCode {
        println!("\n{} promises kept, {} broken, in {seconds} s", self.kept, self.broken.len());
        for what in &self.broken {
            println!("{} {what}", self.paint("31", "✗"));
        }
        if self.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.has_colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
