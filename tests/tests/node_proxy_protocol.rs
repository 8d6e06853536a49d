//! Headers of the PROXY protocol, between real programs that each have a reader and a writer of their own.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use proxy_tests::client::Place;
use proxy_tests::config;
use proxy_tests::http::Peer;
use proxy_tests::net::{Family, Side};
use proxy_tests::node::Weir;
use proxy_tests::process::{self, Running};
use proxy_tests::scratch::Scratch;
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
/// Module of nginx for streams, where Debian has it.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

fn near(number: u8, port: u16) -> SocketAddr {
    Family::V4.host(number, port)
}

/// nginx that expects a header, and answers with what it says.
struct Nginx(Running, Scratch);

impl Nginx {
    fn start(world: &World) -> Option<Self> {
        let nginx = world.program("nginx")?;
        let scratch = Scratch::new("announced");
        let folder = scratch.path().display();
        let listens: String = Self::addresses().map(|a| format!("listen {a} proxy_protocol; ")).concat();
        let text = format!(
            "user root; daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/log;\n\
             events {{ worker_connections 1024; }} http {{ access_log off; client_body_temp_path {folder}/b;\n\
             proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;\n\
             scgi_temp_path {folder}/s; server {{ {listens}\n\
             return 200 '$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr \
             $proxy_protocol_server_port $connection'; }} }}\n",
        );
        let file = scratch.file("nginx.conf", text);
        let running = world.serve(&nginx, &["-c", &file], Self::addresses()[0]);
        Some(Self(running, scratch))
    }

    fn addresses() -> [SocketAddr; 2] {
        [Family::V4, Family::V6].map(|family| family.host(10, 8080))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.1.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = process::signal(self.0.pid(), "-TERM");
        if !std::thread::panicking() {
            self.0.wait(SOON);
        }
    }
}

/// What nginx was told: the client, what it asked for, and nginx's number of the connection.
fn told(answer: &str) -> (SocketAddr, SocketAddr, String) {
    let words: Vec<&str> = answer.split(' ').collect();
    let end = |at: usize| SocketAddr::new(words[at].parse().expect(answer), words[at + 1].parse().unwrap());
    (end(0), end(2), words[4].to_owned())
}

fn ask(place: Place<'_>, curl: &Path, address: SocketAddr, arguments: &[&str]) -> String {
    let url = format!("http://{address}/");
    let more = ["-sS", "--max-time", "20", "--noproxy", "*", &url];
    place.output(curl, &[arguments, &more].concat()).unwrap_or_else(|error| panic!("{address}: {error:#}"))
}

fn service(name: &str, version: &str, more: Value) -> Value {
    let endpoint = |at: SocketAddr| json!({"address": at.to_string()});
    let mut service = json!({
        "name": name, "proxy_protocol": version, "balance": {"policy": "round_robin"},
        "endpoints": [endpoint(Nginx::addresses()[0])],
    });
    config::merge(&mut service, more);
    service
}

#[test]
fn endpoints_are_told_who_the_client_is() {
    let Some(world) = World::new() else { return };
    let Some(curl) = world.program("curl") else { return };
    let Some(nginx) = Nginx::start(&world) else { return };
    let mut services = Vec::new();
    let mut asked = Vec::new();
    for (number, version, protocol) in
        [(1, "v1", "tcp"), (2, "v2", "tcp"), (3, "v1", "http"), (4, "v2", "http"), (5, "v2", "auto")]
    {
        for family in [Family::V4, Family::V6] {
            let vip = family.vip(number, 80);
            let [v4, v6] = Nginx::addresses();
            let endpoint = if family == Family::V4 { v4 } else { v6 };
            let more = json!({
                "protocol": protocol, "addresses": [vip.to_string()],
                "endpoints": [{"address": endpoint.to_string()}],
            });
            services.push(service(&format!("{protocol}-{version}-{family:?}"), version, more));
            asked.push((family, vip));
        }
    }
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    for (family, vip) in asked {
        // what is said first goes with the header, or behind it: a client that waits is told apart
        let (client, server, _) = told(&ask(world.app(), &curl, vip, &[]));
        assert_eq!((client.ip(), server), (family.own(), vip), "{family:?}");
    }
    assert!(!nginx.log().contains("broken header"), "{}", nginx.log());
}

#[test]
fn connections_that_announced_a_client_are_that_clients_for_ever() {
    let Some(world) = World::new() else { return };
    let Some(_nginx) = Nginx::start(&world) else { return };
    let listener = near(1, 8000);
    let services = [service("web", "v2", json!({"protocol": "http"}))];
    let mut config = config::config(&world, services);
    config::merge(
        &mut config,
        json!({"workers": 1, "listeners": [{"address": "0.0.0.0:8000", "protocol": "http", "service": "web"}]}),
    );
    let Some(_weir) = Weir::start(&world.net, &config) else { return };
    let mut clients = [(); 3].map(|()| Peer::connect(&world.net, listener));
    let mut numbers = Vec::new();
    for round in 0..4 {
        for (index, peer) in clients.iter_mut().enumerate() {
            peer.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            let (client, asked, connection) = told(&peer.answer().text());
            assert_eq!(client, peer.socket().local_addr().unwrap());
            assert_eq!(asked, listener, "also where the listener has no address");
            if round == 0 {
                assert!(!numbers.contains(&connection), "somebody else's connection");
                numbers.push(connection);
            } else {
                assert_eq!(connection, numbers[index], "one's own is used again");
            }
        }
    }
}

#[test]
fn checks_of_endpoints_that_expect_a_header_are_good() {
    let Some(world) = World::new() else { return };
    let Some(nginx) = Nginx::start(&world) else { return };
    let check = |http: Value| {
        let mut health = json!({"interval": "100ms", "timeout": "90ms", "healthy": 1, "unhealthy": 1});
        config::merge(&mut health, http);
        health
    };
    let http = json!({"http": {"path": "/", "body": " "}});
    let services = [("v1", 1), ("v2", 2)].map(|(version, number)| {
        let vip = Family::V4.vip(number, 80);
        service(version, version, json!({"addresses": [vip.to_string()], "health": check(http.clone())}))
    });
    let Some(weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    let checks = |service, result| {
        weir.metrics().sum("weir_health_checks_total", &[("service", service), ("result", result)])
    };
    for version in ["v1", "v2"] {
        wait::until_true(version, SOON, || checks(version, "good") > 2.5);
        assert!(checks(version, "failed") < 0.5, "{version}: {}", weir.ask("/clusters").unwrap().1);
    }
    assert!(!nginx.log().contains("broken header"), "{}", nginx.log());
}

/// A proxy in front of Weir.
fn front(world: &World, program: &Path, arguments: &[&str], listens: SocketAddr) -> Running {
    let mut command = world.outside().command(program);
    let running = Running::start(command.args(arguments)).unwrap();
    wait::until_true("the proxy in front to listen", SOON, || {
        world.net.run(Side::Near, || TcpStream::connect(listens).is_ok()).unwrap()
    });
    running
}

#[test]
fn proxies_in_front_tell_who_the_client_is() {
    let Some(world) = World::new() else { return };
    let (Some(curl), Some(haproxy)) = (world.program("curl"), world.program("haproxy")) else { return };
    let Some(nginx) = Nginx::start(&world) else { return };
    let services = [service("tcp", "v2", json!({})), service("http", "v1", json!({"protocol": "http"}))];
    let mut config = config::config(&world, services);
    let listener = |port: u16, protocol: &str| {
        json!({"address": near(1, port).to_string(), "protocol": protocol, "service": protocol,
               "proxy_protocol": "required"})
    };
    config::merge(&mut config, json!({"listeners": [listener(8001, "tcp"), listener(8002, "http")]}));
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let scratch = Scratch::new("announcing");
    let mut text = String::from(
        "global\n maxconn 100\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n",
    );
    let mut ways = Vec::new();
    for (index, (option, port)) in
        [("send-proxy", 8001), ("send-proxy-v2", 8001), ("send-proxy", 8002), ("send-proxy-v2", 8002)]
            .into_iter()
            .enumerate()
    {
        let at = near(20, 9001 + u16::try_from(index).unwrap());
        text += &format!("listen l{index}\n bind {at}\n server weir {} {option}\n", near(1, port));
        ways.push(at);
    }
    let file = scratch.file("haproxy.cfg", text);
    let mut proxies = vec![front(&world, &haproxy, &["-db", "-f", &file], ways[0])];
    let mut nginx_front = None;
    if Path::new(STREAM_MODULE).is_file() {
        let at = near(20, 9100);
        let folder = scratch.path().display();
        let text = format!(
            "load_module {STREAM_MODULE}; user root; daemon off; worker_processes 1; pid {folder}/pid;\n\
             error_log {folder}/log; events {{ worker_connections 100; }}\n\
             stream {{ server {{ listen {at}; proxy_pass {}; proxy_protocol on; }} }}\n",
            near(1, 8001)
        );
        let file = scratch.file("nginx.conf", text);
        let program = world.program("nginx").unwrap();
        proxies.push(front(&world, &program, &["-c", &file], at));
        nginx_front = Some(proxies[1].pid());
        ways.push(at);
    }
    for (index, at) in ways.iter().enumerate() {
        let port = 45_000 + index;
        let from = ["--interface", "10.77.0.25", "--local-port", &port.to_string()];
        let (client, asked, _) = told(&ask(world.outside(), &curl, *at, &from));
        assert_eq!(client, format!("10.77.0.25:{port}").parse().unwrap(), "{at}");
        assert_eq!(asked, *at, "where the client connected to, through both");
    }
    for port in [8001, 8002] {
        let (client, asked, _) = told(&ask(world.outside(), &curl, near(1, port), &["--haproxy-protocol"]));
        assert_eq!((client.ip(), asked), (near(1, 0).ip(), near(1, port)));
    }
    if let Some(pid) = nginx_front {
        process::signal(pid, "-TERM").unwrap();
        proxies[1].wait(SOON);
    }
    let closed = |reason| weir.metrics().sum("weir_connections_closed_total", &[("reason", reason)]);
    assert!(closed("proxy_header") < 0.5 && closed("proxy_header_timeout") < 0.5);
    assert!(!nginx.log().contains("broken header"), "{}", nginx.log());
}

#[test]
fn what_begins_without_a_header_is_ended_with_a_reason() {
    let Some(world) = World::new() else { return };
    let server = world.server(near(10, 8080), "one");
    let endpoint = json!([{"address": server.address().to_string()}]);
    let mut config = config::config(&world, [json!({"name": "s", "endpoints": endpoint})]);
    let listener =
        json!({"address": near(1, 8001).to_string(), "service": "s", "proxy_protocol": "required"});
    config::merge(&mut config, json!({"listeners": [listener]}));
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let closed = |reason| weir.metrics().sum("weir_connections_closed_total", &[("reason", reason)]);
    for (says, finishes, reason) in [
        (&b"name x\n"[..], false, "proxy_header"),
        (b"PROXY TCP4 1.2.3.4\r\n", false, "proxy_header"),
        (b"PROXY TCP4 1.2.3.4 ", true, "proxy_header"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", false, "proxy_header"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01", false, "proxy_header_timeout"),
        (b"", true, "fin"),
    ] {
        let before = closed(reason);
        let mut client = Peer::connect(&world.net, near(1, 8001));
        client.say(says);
        if finishes {
            client.finish();
        }
        wait::until_true(reason, SOON, || closed(reason) > before);
        let end = client.rest();
        assert_eq!(end.is_ok_and(|rest| rest.is_empty()), reason == "fin", "a reset unless nothing was said");
    }
    let mut client = Peer::connect(&world.net, near(1, 8001));
    for byte in b"PROXY UNKNOWN some words\r\nname x\n" {
        client.say([*byte]);
    }
    assert_eq!(client.take(6).unwrap(), b"one x\n");
}

#[test]
fn headers_are_believed_of_those_who_are_trusted_and_others_are_reset() {
    let Some(world) = World::new() else { return };
    let server = world.server(Family::V4.host(10, 8080), "four");
    let endpoints = [json!({"address": server.address().to_string()})];
    let mut config = config::config(&world, [json!({"name": "s", "endpoints": endpoints})]);
    let listener = |port: u16, trusted: &str| {
        json!({"address": near(1, port).to_string(), "service": "s", "proxy_protocol": "required",
               "trusted_proxies": ["192.0.2.0/24", trusted]})
    };
    let listeners = [listener(8001, "10.77.0.0/16"), listener(8002, "10.78.0.0/16")];
    config::merge(&mut config, json!({"listeners": listeners}));
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let say = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nname x\n";
    let mut trusted = Peer::connect(&world.net, near(1, 8001));
    trusted.say(say);
    assert_eq!(trusted.take(6).unwrap(), b"four x");
    // gone before it has said anything
    let other = || TcpStream::connect(near(1, 8002))?.read(&mut [0]);
    let end = world.net.run(Side::Near, other).unwrap();
    assert!(end.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset));
    wait::until_true("it to be counted", SOON, || {
        weir.metrics().sum("weir_connections_closed_total", &[("reason", "proxy_untrusted")]) > 0.5
    });
    assert!(weir.metrics().sum("weir_connections_closed_total", &[("reason", "proxy_untrusted")]) < 1.5);
}
