//! Config and command line of each rival.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{Name, Ports, Tools};

/// What cargo built the baselines with.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// Pipes of HAProxy: more than streams of any case have at once.
const PIPES: u32 = 100;

/// How to start one.
pub(super) struct Setup {
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) ports: Ports,
}

/// Writes the config of `name` into `scratch`, for `most` connections at once.
pub(super) fn setup(name: Name, tools: &Tools, scratch: &Path, most: u32) -> Result<Setup> {
    let index = Name::ALL.iter().position(|other| *other == name).unwrap_or_default();
    let ports = Ports::on([127, 0, 0, 1], 9100 + 10 * u16::try_from(index).unwrap_or_default());
    // Envoy tells the format by the name; the others do not care
    let file = scratch.join(format!("{}.yaml", name.as_str()));
    let shown = file.display().to_string();
    let (program, args, config) = match name {
        Name::Haproxy => {
            (find("haproxy")?, vec!["-db".into(), "-f".into(), shown], haproxy(ports, most, false))
        }
        Name::HaproxySplice => {
            (find("haproxy")?, vec!["-db".into(), "-f".into(), shown], haproxy(ports, most, true))
        }
        Name::Nginx => (
            find("nginx")?,
            vec!["-c".into(), shown, "-e".into(), "stderr".into()],
            nginx(ports, most, scratch)?,
        ),
        Name::Envoy => {
            let program =
                tools.envoy.clone().context("not installed: `cargo xtask bench --setup` fetches it")?;
            let words = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "-c"];
            let mut args: Vec<String> = words.map(str::to_owned).into();
            args.push(shown);
            (program, args, envoy(ports))
        }
        Name::Pingora => {
            let program =
                tools.pingora.clone().context("not built: `cargo xtask bench --setup` builds it")?;
            let args = pairs(ports).map(|(_, listen, target)| format!("{listen}={target}"));
            (program, args.into(), String::new())
        }
        Name::TokioRelay | Name::UringRelay => {
            let pair = |(_, listen, target)| ["--forward".into(), format!("{listen}={target}")];
            let driver = (name == Name::UringRelay).then(|| "--uring".to_owned());
            let args = pairs(ports).into_iter().flat_map(pair).chain(driver);
            (tools.relay.clone(), args.collect(), String::new())
        }
        Name::Direct | Name::WeirRing | Name::WeirEpoll | Name::WeirDirect => bail!("no rival"),
    };
    fs::write(&file, config)?;
    Ok(Setup { program, args, ports })
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

/// `option splice-auto` was not seen to splice even one stream (2.6: 0 splice calls in strace), so it is forced.
/// With splicing, connections and pipes have to fit into the same limit on open files; a quarter of the connections, the
/// default, would not.
fn haproxy(ports: Ports, most: u32, is_splicing: bool) -> String {
    let splice = if is_splicing { "  option splice-request\n  option splice-response\n" } else { "" };
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn {most}\n  maxpipes {PIPES}\ndefaults\n  mode tcp\n  retries 0\n{splice}\
         \x20 timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
    );
    for (name, listen, target) in pairs(ports) {
        text += &format!("listen {name}\n  bind {listen}\n  server backend {target}\n");
    }
    text
}

fn nginx(ports: Ports, most: u32, scratch: &Path) -> Result<String> {
    // Built in, or a module of its own, depending on who packaged it.
    let module = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
    let load = if module.exists() { format!("load_module {};\n", module.display()) } else { String::new() };
    let mut text = format!(
        "{load}daemon off;\nworker_processes 1;\npid {};\nerror_log stderr;\n\
         events {{ worker_connections {}; }}\nstream {{\n  access_log off;\n  proxy_timeout 1h;\n\
         \x20 proxy_next_upstream off;\n",
        scratch.join("nginx.pid").to_str().context("an odd temporary folder")?,
        // it counts those to the backend too
        2 * most,
    );
    for (_, listen, target) in pairs(ports) {
        text += &format!("  server {{ listen {listen} backlog=4096; proxy_pass {target}; }}\n");
    }
    Ok(text + "}\n")
}

fn envoy(ports: Ports) -> String {
    let (mut listeners, mut clusters) = (String::new(), String::new());
    for (name, listen, target) in pairs(ports) {
        listeners += &format!(
            "  - name: {name}\n    address: {{socket_address: {{address: {}, port_value: {}}}}}\n\
             \x20   filter_chains:\n    - filters:\n      - name: envoy.filters.network.tcp_proxy\n\
             \x20       typed_config:\n\
             \x20         \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n\
             \x20         stat_prefix: {name}\n          cluster: {name}\n          idle_timeout: 3600s\n",
            listen.ip(),
            listen.port()
        );
        // The default of 1,024 connections would refuse most of the idle case.
        clusters += &format!(
            "  - name: {name}\n    type: STATIC\n    connect_timeout: 5s\n\
             \x20   circuit_breakers: {{thresholds: [{{max_connections: 100000, max_pending_requests: 100000}}]}}\n\
             \x20   load_assignment:\n      cluster_name: {name}\n      endpoints:\n      - lb_endpoints:\n\
             \x20       - endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}\n",
            target.ip(),
            target.port()
        );
    }
    format!("static_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}")
}

fn pairs(ports: Ports) -> [(&'static str, std::net::SocketAddr, std::net::SocketAddr); 2] {
    [("echo", ports.echo, Ports::BACKEND.echo), ("source", ports.source, Ports::BACKEND.source)]
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
