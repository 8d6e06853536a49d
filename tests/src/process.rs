//! Child processes that never outlive their test, and never outwait it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::wait;

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// If it cannot be started or fails; its standard error is part of the message.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, error.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Sends a signal, `-TERM` for example.
///
/// # Errors
/// If there is no such process.
pub fn signal(pid: u32, name: &str) -> Result<()> {
    output(Command::new("kill").args([name, &pid.to_string()])).map(drop)
}

/// Looks for a program in `PATH` and in the folders for administrators.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

/// A child whose lines of standard output can be waited for. Killed when dropped.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    stdin: Option<ChildStdin>,
    name: String,
}

impl Running {
    /// Starts a command; its standard error is the test's own.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the pipe was asked for above")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines, stdin, name })
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next line; `None` when there will be none.
    ///
    /// # Panics
    /// If nothing comes in time.
    pub fn line(&self, limit: Duration) -> Option<String> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("{} said nothing for {limit:?}", self.name),
        }
    }

    /// Writes a line to standard input.
    ///
    /// # Panics
    /// If the child does not read any more.
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is a pipe");
        writeln!(stdin, "{line}").expect("the child reads what it is told");
    }

    /// Waits for the child to end by itself.
    ///
    /// # Panics
    /// If it does not in time.
    pub fn wait(&mut self, limit: Duration) -> std::process::ExitStatus {
        let what = format!("the end of {}", self.name);
        wait::until(&what, limit, || self.child.try_wait().expect("a child can be waited for"))
    }

    /// Kills the child at once.
    pub fn kill(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_child_is_spoken_with_line_by_line() {
        let mut cat = Running::start(&mut Command::new("cat")).unwrap();
        cat.say("one");
        assert_eq!(cat.line(SOON).as_deref(), Some("one"));
        cat.kill();
        assert_eq!(cat.line(SOON), None);
    }

    #[test]
    fn a_failure_carries_what_the_command_said() {
        let error = output(Command::new("sh").args(["-c", "echo because >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().ends_with("because"), "{error}");
    }
}
