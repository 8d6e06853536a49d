use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use proxy_core::id::Version;

use super::fixture::FakeNode;
use super::*;
use crate::control::Phase;
use crate::explain::Output;

#[test]
fn every_path_answers_over_tcp() {
    let node = Node::start("paths");
    for (path, part) in [
        ("/", "/connections"),
        ("/healthz/live", "live"),
        ("/healthz/ready", "ready"),
        ("/status", r#""phase": "ready""#),
        ("/config_dump", r#""name": "shop/web""#),
        ("/clusters", r#""last_error": "connection refused""#),
        ("/connections?service=shop/db", r#""original_dst": "10.96.0.11:5432""#),
        ("/metrics", r#"weir_kernel_verdicts_total{verdict="direct"} 41"#),
    ] {
        let (head, body) = node.get(path);
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{path}: {head}");
        assert!(body.contains(part), "{path}: {body}");
    }
    let (head, _) = node.get("/metrics");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(node.get("/nothing").0.starts_with("HTTP/1.1 404"));
    assert!(node.get("/connections?servic=x").0.starts_with("HTTP/1.1 400"));
}

#[test]
fn readiness_follows_the_phase() {
    let node = Node::start("ready");
    for (phase, reason) in [(Phase::Starting, "starting"), (Phase::Draining, "draining")] {
        node.fake.set_phase(phase);
        let (head, body) = node.get("/healthz/ready");
        assert!(head.starts_with("HTTP/1.1 503") && body.contains(reason), "{head}{body}");
        assert!(node.get("/healthz/live").0.starts_with("HTTP/1.1 200"));
    }
}

#[test]
fn tcp_is_for_reading_by_those_who_name_an_address() {
    let node = Node::start("readonly");
    let admin = node.addresses[0];
    for request in ["POST /drain", "POST /reload", "GET /drain", "DELETE /status", "POST /status"] {
        let (head, body) = node.tcp(admin, &format!("{request} HTTP/1.1\r\nhost: 127.0.0.1\r\n"));
        assert!(head.starts_with("HTTP/1.1 403") && body.contains("unix socket"), "{request}: {head}");
    }
    assert_eq!(node.fake.drain_count(), 0);
    let (head, body) = node.tcp(admin, "GET /config_dump HTTP/1.1\r\nhost: evil.example\r\n");
    assert!(head.starts_with("HTTP/1.1 403") && body.contains("Host"), "{head}");
    let (head, body) = node.tcp(admin, "HEAD /status HTTP/1.1\r\nhost: localhost\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && body.is_empty(), "{head}{body}");
}

#[test]
fn the_metrics_address_has_metrics_only() {
    let node = Node::start("metrics");
    let metrics = node.addresses[1];
    let ask = |path| node.tcp(metrics, &format!("GET {path} HTTP/1.1\r\nhost: node7.example\r\n"));
    assert!(ask("/metrics").0.starts_with("HTTP/1.1 200"));
    for path in ["/", "/status", "/drain", "/metrics/x"] {
        assert!(ask(path).0.starts_with("HTTP/1.1 404"), "{path}");
    }
    let (head, _) = node.tcp(metrics, "POST /metrics HTTP/1.1\r\nhost: a\r\n");
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
}

#[test]
fn changes_are_made_over_the_socket_by_post() {
    let node = Node::start("changes");
    assert!(node.unix("GET /drain").starts_with("HTTP/1.1 405"));
    assert!(node.unix("PUT /reload").contains("allow: POST"));
    assert_eq!(node.fake.drain_count(), 0);
    client::drain(&node.socket, Output::Table).unwrap();
    assert_eq!(node.fake.drain_count(), 1);
    client::reload(&node.socket, Output::Json).unwrap();
    node.fake.set_reload_answer(Err("weir.yaml:3: services[0].lane: unknown word".to_owned()));
    let error = client::reload(&node.socket, Output::Table).unwrap_err().to_string();
    assert_eq!(error, "weir.yaml:3: services[0].lane: unknown word");
    node.fake.set_reload_answer(Ok(Version(9)));
    assert!(node.unix("POST /reload").ends_with("{\n  \"version\": 9\n}\n"));
}

#[test]
fn the_command_line_reads_what_the_server_writes() {
    let node = Node::start("client");
    for output in [Output::Table, Output::Json] {
        client::status(&node.socket, output).unwrap();
        client::connections(&node.socket, Some("shop/web"), output, false).unwrap();
    }
}

#[test]
fn the_socket_is_roots_alone_and_replaces_a_stale_one() {
    let node = Node::start("mode");
    let mode = std::fs::metadata(&node.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let left: Vec<_> =
        std::fs::read_dir(node.socket.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["admin.sock"], "nothing is left of the hidden folder");
    let opened = node.runtime.block_on(open(&node.wanted, &mut Sockets::default())).unwrap();
    let again = node.runtime.block_on(async { opened.serve(FakeNode::new()) });
    assert!(node.unix("GET /healthz/live").starts_with("HTTP/1.1 200"));
    node.runtime.block_on(again.stop(None));
    assert!(!node.socket.exists());
}

#[test]
fn the_config_dump_reads_back_as_the_same_services() {
    let node = Node::start("dump");
    let dump: serde_json::Value = serde_json::from_str(&node.get("/config_dump").1).unwrap();
    assert_eq!(dump["version"], 3);
    let again = crate::config::parse("dump", &dump["config"].to_string()).map_err(|e| e.to_string()).unwrap();
    assert_eq!(again.services.len(), 2);
    assert_eq!(again.to_json()["services"], dump["config"]["services"]);
    let serves = crate::config::ServesConfig::Service("shop/db".to_owned());
    assert_eq!(again.listeners[0].serves, serves);
}

#[test]
fn clusters_tell_lanes_with_reasons_and_loads() {
    let node = Node::start("clusters");
    let page: serde_json::Value = serde_json::from_str(&node.get("/clusters").1).unwrap();
    let (db, web) = (&page["services"][0], &page["services"][1]);
    assert_eq!((&db["name"], &web["name"]), (&"shop/db".into(), &"shop/web".into()));
    assert_eq!(db["lanes"].as_array().unwrap().len(), 2);
    assert_eq!(db["lanes"][0]["lane"], "proxy");
    assert!(db["lanes"][0]["reason"].as_str().unwrap().contains("round_robin"));
    assert_eq!(web["lanes"][0]["lane"], "direct");
    assert_eq!(web["endpoints"][0]["direct_connections"], 17);
    assert_eq!(web["endpoints"][1]["check_failures"], 4);
    assert_eq!(web["usable_endpoints"], 2);
}

#[test]
fn one_client_cannot_take_all_connections_of_another_address() {
    let node = Node::start("flood");
    let held: Vec<TcpStream> = (0..80).map(|_| TcpStream::connect(node.addresses[0]).unwrap()).collect();
    // They are accepted in order, so the last is beyond the bound and is closed at once.
    assert_eq!(held.last().unwrap().read(&mut [0; 1]).unwrap(), 0);
    assert!(node.unix("GET /healthz/live").starts_with("HTTP/1.1 200"));
}

struct Node {
    fake: FakeNode,
    wanted: Addresses,
    addresses: Vec<SocketAddr>,
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
    server: Option<Server>,
}

impl Node {
    fn start(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("weir-admin-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let wanted = Addresses { admin: any, socket: dir.join("admin.sock"), metrics: Some(any) };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let fake = FakeNode::new();
        let opened = runtime.block_on(open(&wanted, &mut Sockets::default())).unwrap();
        let server = runtime.block_on(async { opened.serve(fake.clone()) });
        let (addresses, socket) = (server.addresses().to_vec(), wanted.socket.clone());
        Self { fake, wanted, addresses, socket, runtime, server: Some(server) }
    }

    fn get(&self, path: &str) -> (String, String) {
        self.tcp(self.addresses[0], &format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:15000\r\n"))
    }

    fn tcp(&self, address: SocketAddr, head: &str) -> (String, String) {
        let answer = exchange(TcpStream::connect(address).unwrap(), head);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    fn unix(&self, request: &str) -> String {
        exchange(UnixStream::connect(&self.socket).unwrap(), &format!("{request} HTTP/1.1\r\nhost: weir\r\n"))
    }
}

fn exchange(mut stream: impl std::io::Read + std::io::Write, head: &str) -> String {
    write!(stream, "{head}connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.stop(None));
        }
        let _ = std::fs::remove_dir_all(self.socket.parent().unwrap());
    }
}
