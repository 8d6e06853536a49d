//! A Weir under test: with the client's cgroup as its scope, or as an edge proxy with listeners of its own.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::certificate::Certificate;
use super::{Name, Ports, Proxy, Tools};
use crate::case::Front;
use crate::http::HOST;
use crate::place::{PROXY_CORE, Place};

/// What clients ask for to get into the proxy lane.
pub const PROXY_LANE: Ports = Ports::on([10, 96, 0, 1], 7000);
/// What clients ask for to get into the direct lane.
pub const DIRECT_LANE: Ports = Ports::on([10, 96, 0, 2], 7000);
/// Where it listens itself in the cases of HTTP.
pub const EDGE: Ports = Ports::on([127, 0, 0, 1], 9500);
/// Read-only admin interface: the default.
const ADMIN: ([u8; 4], u16) = ([127, 0, 0, 1], 15000);
/// Time for which workers look for more that are to answer soon: longer than an answer takes that comes from the other processor.
const BUSY_POLL: &str = "100us";
/// One Weir serves a machine; the tests that start one take turns by this file, and so do we.
const TURNS: &str = "/tmp/weir-node-tests.lock";
/// Time for somebody else's Weir, outside of the tests, to end.
const TURN_LIMIT: Duration = Duration::from_secs(60);

/// A Weir that runs.
#[derive(Debug)]
pub struct Weir {
    /// Its process.
    pub proxy: Proxy,
    config: PathBuf,
}

/// Waits until no test has a Weir; none gets one while what this returns lives.
///
/// Taken for every measurement, not only those of a Weir: tests are strangers that would disturb the others more.
///
/// # Errors
/// If the file cannot be opened or locked.
pub fn turn() -> Result<File> {
    let turn = File::options().create(true).append(true).open(TURNS)?;
    turn.lock().context("cannot wait for the tests' Weir")?;
    Ok(turn)
}

impl Weir {
    /// Starts the one that `name` means for clients of `ports`, and waits until it is ready. Only in our [`turn`].
    ///
    /// # Errors
    /// If it does not get ready.
    pub fn start(
        (name, ports): (Name, Ports),
        place: &Place,
        tools: &Tools,
        scratch: &Path,
        config: &Value,
    ) -> Result<Self> {
        let file = scratch.join("weir.yaml");
        let mut config = config.clone();
        if name == Name::WeirBusy {
            config["busy_poll"] = json!(BUSY_POLL);
        }
        fs::write(&file, yaml(&config))?;
        let io = match name {
            Name::WeirRing => "ring",
            Name::WeirEpoll => "epoll",
            _ => "auto",
        };
        let until = Instant::now() + TURN_LIMIT;
        loop {
            let mut command = place.command(PROXY_CORE, &tools.weir);
            command.args(["run", "--log-level", "warn", "--io", io, "-c"]).arg(&file);
            match Proxy::start(command, scratch.join("weir.log"), ports, is_ready) {
                Ok(proxy) => return Ok(Self { proxy, config: file }),
                Err(error) if error.to_string().contains("already runs") && Instant::now() < until => {
                    thread::sleep(Duration::from_millis(500));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Replaces the config and asks for it to be read; returns when that was.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn reload(&self, config: &Value) -> Result<SystemTime> {
        let new = self.config.with_extension("new");
        fs::write(&new, yaml(config))?;
        let began = SystemTime::now();
        fs::rename(new, &self.config)?;
        self.proxy.signal("-HUP")?;
        Ok(began)
    }
}

/// The config of the traffic cases: both services, in both lanes.
#[must_use]
pub fn traffic_config(place: &Place) -> Value {
    let mut services = Vec::new();
    for (lane, policy, ports) in [("proxy", "round_robin", PROXY_LANE), ("direct", "random", DIRECT_LANE)] {
        for (name, address, endpoint) in
            [("echo", ports.echo, Ports::BACKEND.echo), ("source", ports.source, Ports::BACKEND.source)]
        {
            services.push(service(&format!("{lane}/{name}"), lane, policy, address, &[endpoint]));
        }
    }
    config(place, &services)
}

/// Says why not, unless Weir takes this config. Needs no turn.
///
/// # Errors
/// What `weir check` complains about.
pub fn check(tools: &Tools, scratch: &Path, config: &Value) -> Result<()> {
    let file = scratch.join("check.yaml");
    fs::write(&file, yaml(config))?;
    let output = Command::new(&tools.weir).arg("check").arg(&file).output().context("cannot start it")?;
    let said = [output.stdout, output.stderr].concat();
    let said: Vec<String> =
        String::from_utf8_lossy(&said).lines().map(|line| line.trim().to_owned()).collect();
    ensure!(output.status.success(), "{}", said.join(" | ").replace(&file.display().to_string(), "config"));
    Ok(())
}

/// The config of the HTTP cases: one listener, with a route by host and path to the backend.
#[must_use]
pub fn edge_config(front: Front, scratch: &Path) -> Value {
    let mut listener =
        json!({"address": front.of(EDGE).to_string(), "protocol": "http", "routes": ["bench"]});
    if front == Front::Https {
        let certificate = Certificate::within(scratch);
        listener["tls"] = json!({
            "certificates": [{"cert": certificate.cert, "key": certificate.key}],
            "min_version": "1.3",
            "resumption": false,
        });
    }
    let (protocol, endpoint) =
        if front == Front::Grpc { ("http2", Ports::BACKEND.grpc) } else { ("http", Ports::BACKEND.http) };
    let rule = json!({"match": {"path": {"prefix": "/"}}, "backends": [{"service": "bench/http"}]});
    json!({
        "listeners": [listener],
        "routes": [{"name": "bench", "hosts": [HOST], "rules": [rule]}],
        "services": [{
            "name": "bench/http",
            "protocol": protocol,
            "endpoints": [{"address": endpoint.to_string()}],
        }],
        "workers": 1,
        // nothing that is measured is left when a Weir is ended
        "drain_timeout": "100ms",
    })
}

/// A config that intercepts the client.
#[must_use]
pub fn config(place: &Place, services: &[Value]) -> Value {
    json!({
        "intercept": {"scopes": [{"cgroup": place.scope()}]},
        "services": services,
        "workers": 1,
        // nothing that is measured is left when a Weir is ended
        "drain_timeout": "100ms",
    })
}

/// One service.
#[must_use]
pub fn service(name: &str, lane: &str, policy: &str, address: SocketAddr, endpoints: &[SocketAddr]) -> Value {
    let endpoints: Vec<Value> = endpoints.iter().map(|e| json!({"address": e.to_string()})).collect();
    json!({
        "name": name,
        "addresses": [address.to_string()],
        "lane": lane,
        "balance": {"policy": policy},
        "endpoints": endpoints,
    })
}

/// Writes a config as operators do: one line for each key and for each item of a list, unless nothing in it has parts.
fn yaml(config: &Value) -> String {
    let mut text = String::new();
    write_block(&mut text, config, 0);
    text
}

/// Writes the lines of a value; the place of the first one is where the text ends.
fn write_block(text: &mut String, value: &Value, indent: usize) {
    let parts: Vec<(String, &Value)> = match value {
        Value::Object(entries) => entries.iter().map(|(key, value)| (format!("{key}:"), value)).collect(),
        Value::Array(items) => items.iter().map(|item| ("-".to_owned(), item)).collect(),
        plain => return text.push_str(&plain.to_string()),
    };
    for (index, (lead, value)) in parts.into_iter().enumerate() {
        if index > 0 {
            text.push_str(&" ".repeat(indent));
        }
        text.push_str(&lead);
        if is_one_line(value) {
            text.push_str(&format!(" {value}\n"));
        } else if lead == "-" {
            text.push(' ');
            write_block(text, value, indent + 2);
        } else {
            text.push_str(&format!("\n{}", " ".repeat(indent + 2)));
            write_block(text, value, indent + 2);
        }
    }
}

fn is_one_line(value: &Value) -> bool {
    let has_parts = |value: &Value| value.is_object() || value.is_array();
    match value {
        Value::Object(entries) => !entries.values().any(has_parts),
        Value::Array(items) => !items.iter().any(has_parts),
        _ => true,
    }
}

fn is_ready() -> bool {
    ask("/healthz/ready").is_ok_and(|answer| answer.contains(" 200 "))
}

/// The first line of the admin interface's answer.
fn ask(path: &str) -> Result<String> {
    let address = SocketAddr::from(ADMIN);
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_is_written_as_operators_do() {
        let endpoints = [PROXY_LANE.echo, PROXY_LANE.source];
        let config = json!({
            "services": [service("a", "direct", "random", DIRECT_LANE.echo, &endpoints)],
            "workers": 1,
        });
        let text = "\
services:
  - addresses: [\"10.96.0.2:7000\"]
    balance: {\"policy\":\"random\"}
    endpoints:
      - {\"address\":\"10.96.0.1:7000\"}
      - {\"address\":\"10.96.0.1:7001\"}
    lane: \"direct\"
    name: \"a\"
workers: 1
";
        assert_eq!(yaml(&config), text);
    }

    #[test]
    fn an_edge_proxy_is_configured_as_operators_do() {
        let text = "\
drain_timeout: \"100ms\"
listeners:
  - address: \"127.0.0.1:9503\"
    protocol: \"http\"
    routes: [\"bench\"]
    tls:
      certificates:
        - {\"cert\":\"/s/web.pem\",\"key\":\"/s/web.key\"}
      min_version: \"1.3\"
      resumption: false
routes:
  - hosts: [\"bench.test\"]
    name: \"bench\"
    rules:
      - backends:
          - {\"service\":\"bench/http\"}
        match:
          path: {\"prefix\":\"/\"}
services:
  - endpoints:
      - {\"address\":\"127.0.0.1:9002\"}
    name: \"bench/http\"
    protocol: \"http\"
workers: 1
";
        assert_eq!(yaml(&edge_config(Front::Https, Path::new("/s"))), text);
        let plain = yaml(&edge_config(Front::Grpc, Path::new("/s")));
        assert!(!plain.contains("tls") && plain.contains("127.0.0.1:9004"), "{plain}");
    }
}
