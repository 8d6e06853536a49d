//! Config and command line of each rival.

mod http;
mod tcp;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{Name, Ports, Tools};
use crate::results::Group;

/// What cargo built the baselines with.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// How to start one.
pub(super) struct Setup {
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) ports: Ports,
}

/// Writes the config of `name` for a group of cases into `scratch`, for `most` connections at once.
pub(super) fn setup(name: Name, group: Group, tools: &Tools, scratch: &Path, most: u32) -> Result<Setup> {
    let index = Name::ALL.iter().position(|other| *other == name).unwrap_or_default();
    let base = if group == Group::Tcp { 9100 } else { 9300 };
    let ports = Ports::on([127, 0, 0, 1], base + 10 * u16::try_from(index).unwrap_or_default());
    // Envoy tells the format by the name; the others do not care
    let file = scratch.join(format!("{}-{group:?}.yaml", name.as_str()));
    let program = program(name, tools)?;
    let shown = file.display().to_string();
    let (args, config) = match (name, group) {
        (Name::Haproxy | Name::HaproxySplice, _) => {
            let config = match group {
                Group::Tcp => tcp::haproxy(ports, most, name == Name::HaproxySplice),
                Group::Http => http::haproxy(ports, most, scratch),
            };
            (vec!["-db".into(), "-f".into(), shown], config)
        }
        (Name::Nginx, _) => {
            let config = match group {
                Group::Tcp => tcp::nginx(ports, most, scratch),
                Group::Http => http::nginx(ports, most, scratch),
            };
            (vec!["-c".into(), shown, "-e".into(), "stderr".into()], config)
        }
        (Name::Envoy, _) => {
            let words = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "-c"];
            let args = words.map(str::to_owned).into_iter().chain([shown]).collect();
            (args, if group == Group::Tcp { tcp::envoy(ports) } else { http::envoy(ports, scratch) })
        }
        (Name::Pingora, Group::Tcp) => (tcp::pingora(ports), String::new()),
        (Name::Pingora, Group::Http) => (http::pingora(ports, scratch), String::new()),
        (Name::TokioRelay | Name::UringRelay, _) => {
            (tcp::relay(ports, name == Name::UringRelay), String::new())
        }
        (Name::Direct | Name::WeirRing | Name::WeirEpoll | Name::WeirBusy | Name::WeirDirect, _) => {
            bail!("no rival")
        }
    };
    fs::write(&file, config)?;
    Ok(Setup { program, args, ports })
}

/// What is started.
fn program(name: Name, tools: &Tools) -> Result<PathBuf> {
    match name {
        Name::Haproxy | Name::HaproxySplice => find("haproxy"),
        Name::Nginx => find("nginx"),
        Name::Envoy => tools.envoy.clone().context("not installed: `cargo xtask bench --setup` fetches it"),
        Name::Pingora => tools.pingora.clone().context("not built: `cargo xtask bench --setup` builds it"),
        Name::TokioRelay | Name::UringRelay => Ok(tools.relay.clone()),
        Name::Direct | Name::WeirRing | Name::WeirEpoll | Name::WeirBusy | Name::WeirDirect => {
            bail!("no rival")
        }
    }
}

/// First line of what the program prints about itself; of a baseline, the library that it is about.
pub(super) fn version(name: Name, tools: &Tools) -> Option<String> {
    let (program, flag) = match name {
        Name::TokioRelay => return locked("tokio"),
        Name::UringRelay => return locked("tokio-uring"),
        Name::Haproxy => (find("haproxy").ok()?, "-v"),
        Name::Nginx => (find("nginx").ok()?, "-v"),
        Name::Envoy => (tools.envoy.clone()?, "--version"),
        Name::Pingora => (tools.pingora.clone()?, "--version"),
        Name::WeirRing => (tools.weir.clone(), "--version"),
        _ => return None,
    };
    let output = Command::new(program).arg(flag).output().ok().filter(|output| output.status.success())?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    // a path before the version says something about the machine only
    Some(line.rsplit_once("version: ").map_or(line, |(_, version)| version).trim().to_owned())
}

/// Name and version of a library.
fn locked(name: &str) -> Option<String> {
    let entry = LOCK.split(&format!("name = \"{name}\"\n")).nth(1)?;
    Some(format!("{name} {}", entry.split('"').nth(1)?))
}

fn find(program: &str) -> Result<PathBuf> {
    let folders = env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let found =
        env::split_paths(&folders).chain(sbin).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.context("not installed: `cargo xtask bench --setup` installs it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_the_baselines_are_those_that_cargo_locked() {
        assert!(locked("tokio").unwrap().starts_with("tokio 1."));
        assert!(locked("tokio-uring").unwrap().starts_with("tokio-uring 0."));
        assert_eq!(locked("no-such-library"), None);
    }
}
