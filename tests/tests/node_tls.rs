//! TLS through Weir: it ends at a listener, it begins towards an endpoint, it is passed on by its name.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proxy_tests::faults::Faults;
use proxy_tests::http::{Backend, Message, Peer, ok};
use proxy_tests::net::Family;
use proxy_tests::nginx::{Nginx, Site};
use proxy_tests::node::Weir;
use proxy_tests::pki::Pki;
use proxy_tests::process::Running;
use proxy_tests::world::World;
use proxy_tests::{config, wait};
use serde_json::{Value, json};

/// Time for a changed file to be taken up: it is looked at every second, and must look the same twice.
const RELOAD: Duration = Duration::from_secs(10);

/// A world with the programs that these tests need, and who signs certificates in it.
fn begin() -> Option<(World, Pki)> {
    let world = World::new()?;
    let has_all = ["curl", "openssl"].into_iter().all(|name| world.program(name).is_some());
    has_all.then(|| (world, Pki::new()))
}

/// Ports of Weir for clients that are not intercepted.
fn edge(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 77, 0, 1], port))
}

fn host(number: u8) -> SocketAddr {
    Family::V4.host(number, 8080)
}

fn echo(request: &Message) -> Option<String> {
    Some(ok(&format!("{}\n", request.start_line())))
}

fn service(name: &str, endpoint: SocketAddr, more: Value) -> Value {
    let mut service =
        json!({"name": name, "protocol": "http", "endpoints": [{"address": endpoint.to_string()}]});
    config::merge(&mut service, more);
    service
}

fn listener(port: u16, more: Value) -> Value {
    let mut listener = json!({"address": edge(port).to_string(), "protocol": "http"});
    config::merge(&mut listener, more);
    listener
}

/// Asks by curl, which verifies that the server is the one of that name.
fn curl(world: &World, pki: &Pki, name: &str, port: u16, more: &[&str]) -> anyhow::Result<String> {
    let resolve = format!("{name}:{port}:{}", edge(port).ip());
    let url = format!("https://{name}:{port}/asked");
    let ca = pki.path("ca.pem");
    let asked =
        [&["-sS", "--max-time", "5", "--cacert", &ca, "--resolve", &resolve, &url][..], more].concat();
    let said = world.outside().output(&world.program("curl").unwrap(), &asked)?;
    Ok(said.trim().to_owned())
}

/// One listener ends TLS, one asks for certificates, too, and one leads to a service that speaks TLS.
fn both_ends(world: &World, pki: &Pki) -> Value {
    let asking = json!({
        "certificates": [pki.files("web")],
        "client_auth": {"ca": pki.path("ca.pem"), "san": ["spiffe://shop/proxy"]},
    });
    let mut speaking = json!({"ca": pki.path("ca.pem"), "sni": "web.shop"});
    config::merge(&mut speaking, pki.files("proxy"));
    let health = json!({"interval": "1s", "timeout": "1s", "http": {"path": "/health"}});
    let services = [
        service("web", host(10), Value::Null),
        service("secure", host(11), json!({"tls": speaking, "health": health})),
    ];
    let mut config = config::config(world, services);
    let listeners = json!([
        listener(8443, json!({"service": "web", "tls": {"certificates": [pki.files("web")]}})),
        listener(8444, json!({"service": "web", "tls": asking})),
        listener(8000, json!({"service": "secure"})),
    ]);
    config::merge(&mut config, json!({"listeners": listeners}));
    config
}

/// A server that answers every request with a page about its TLS session.
fn s_server(world: &World, pki: &Pki, name: &str, number: u8, more: &[&str]) -> Running {
    let mut openssl = world.far().command(Path::new("openssl"));
    openssl.args(["s_server", "-www", "-accept", &host(number).to_string()]);
    openssl.args(["-cert", &pki.path(&format!("{name}.pem")), "-key", &pki.path(&format!("{name}.key"))]);
    Running::start(openssl.args(more)).unwrap()
}

#[test]
fn tls_ends_at_a_listener_and_begins_towards_an_endpoint() {
    let Some((world, pki)) = begin() else { return };
    pki.certificate("web", &["DNS:web.shop"]);
    pki.certificate("proxy", &["URI:spiffe://shop/proxy"]);
    pki.certificate("stranger", &["URI:spiffe://shop/other"]);
    let _backend = Backend::answering(&world.net, host(10), echo);
    let ca = pki.path("ca.pem");
    let _server =
        s_server(&world, &pki, "web", 11, &["-Verify", "1", "-verify_return_error", "-CAfile", &ca]);
    let Some(weir) = Weir::start(&world.net, &both_ends(&world, &pki)) else { return };
    assert_eq!(curl(&world, &pki, "web.shop", 8443, &[]).unwrap(), "GET /asked HTTP/1.1");
    for version in ["--tlsv1.3", "--tls-max=1.2"] {
        curl(&world, &pki, "web.shop", 8443, &version.split('=').collect::<Vec<_>>()).unwrap();
    }
    let refused = curl(&world, &pki, "other.shop", 8443, &[]).unwrap_err();
    assert!(format!("{refused:#}").contains("subject"), "{refused:#}");

    let with = |name: &str| {
        let (cert, key) = (pki.path(&format!("{name}.pem")), pki.path(&format!("{name}.key")));
        curl(&world, &pki, "web.shop", 8444, &["--cert", &cert, "--key", &key])
    };
    assert_eq!(with("proxy").unwrap(), "GET /asked HTTP/1.1");
    for refused in [with("stranger"), curl(&world, &pki, "web.shop", 8444, &[])] {
        assert!(format!("{:#}", refused.unwrap_err()).contains("alert"));
    }

    // The endpoint has no way to say that it listens but good checks, which it answers only to the right certificate.
    let good = [("service", "secure"), ("result", "good")];
    wait::until_true("a check", RELOAD, || weir.metrics().sum("weir_health_checks_total", &good) > 0.0);
    for _ in 0..2 {
        // It ends its answers with the connection.
        let mut client = Peer::connect(&world.net, edge(8000));
        client.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        let page = client.answer().text();
        // OpenSSL's releases differ in their blanks.
        let words = page.replace(' ', "");
        assert!(words.contains("Subject:CN=proxy") && words.contains("</pre></BODY></HTML>"), "{page}");
    }
    let closed = [("reason", "tls_certificate")];
    wait::until_true("the reason of refusals", RELOAD, || {
        weir.metrics().sum("weir_connections_closed_total", &closed) >= 2.0
    });
}

#[test]
fn a_new_certificate_is_taken_up_and_a_bad_one_is_not() {
    let Some((world, pki)) = begin() else { return };
    pki.certificate("web", &["DNS:web.shop"]);
    pki.certificate("proxy", &["URI:spiffe://shop/proxy"]);
    let _backend = Backend::answering(&world.net, host(10), echo);
    let Some(weir) = Weir::start(&world.net, &both_ends(&world, &pki)) else { return };
    let file = pki.path("web.pem");
    let ends = weir.metrics().sum("weir_tls_certificate_expiry_seconds", &[("file", &file)]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let days = (ends - now) / 86_400.0;
    assert!((29.0..31.0).contains(&days), "{days} days");
    let mut open = s_client(&world, &pki);
    assert_eq!(asks(&mut open, "/before"), "GET /before HTTP/1.1");

    pki.certificate("web", &["DNS:web.shop", "DNS:new.shop"]);
    wait::until_true("the new certificate", RELOAD, || curl(&world, &pki, "new.shop", 8443, &[]).is_ok());
    assert_eq!(asks(&mut open, "/after"), "GET /after HTTP/1.1", "open connections stay");

    fs::write(pki.path("web.key"), "this is no key").unwrap();
    let key = pki.path("web.key");
    let bad = || weir.metrics().sum("weir_tls_file_bad", &[("file", &key)]);
    wait::until_true("the bad file", RELOAD, || bad() == 1.0);
    assert!(weir.log().contains("web.key: there is no private key in it"), "{}", weir.log());
    curl(&world, &pki, "new.shop", 8443, &[]).unwrap();
    pki.certificate("web", &["DNS:good.shop"]);
    wait::until_true("a good one again", RELOAD, || curl(&world, &pki, "good.shop", 8443, &[]).is_ok());
    assert_eq!(bad(), 0.0);
}

#[test]
fn tls_is_passed_on_by_the_name_that_is_asked_for() {
    let Some((world, pki)) = begin() else { return };
    let servers = [("a", 10), ("b", 11)].map(|(name, number)| {
        pki.certificate(name, &[&format!("DNS:{name}.shop")]);
        s_server(&world, &pki, name, number, &[])
    });
    let plain = |name: &str, number| service(name, host(number), json!({"protocol": "tcp"}));
    let route = |name: &str| {
        let rule = json!({"backends": [{"service": name}]});
        json!({"name": name, "hosts": [format!("{name}.shop")], "rules": [rule]})
    };
    // Nobody but its routes says who serves it.
    let shop = json!({"name": "shop", "protocol": "tls", "routes": ["a", "b"]});
    let mut config = config::config(&world, [plain("a", 10), plain("b", 11), shop]);
    let more = json!({
        "routes": [route("a"), route("b")],
        "listeners": [
            listener(8443, json!({"protocol": "tls", "routes": ["a", "b"]})),
            listener(8444, json!({"protocol": "tls", "service": "shop"})),
        ],
    });
    config::merge(&mut config, more);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    for (name, port) in [("a.shop", 8443), ("b.shop", 8443), ("a.shop", 8444), ("b.shop", 8444)] {
        // The servers have no way to say that they listen but this.
        let asked = || curl(&world, &pki, name, port, &[]).is_ok_and(|page| page.contains("s_server"));
        wait::until_true(name, RELOAD, asked);
    }
    let refused = curl(&world, &pki, "c.shop", 8443, &[]).unwrap_err();
    assert!(format!("{refused:#}").contains("unrecognized name"), "{refused:#}");
    drop((weir, servers));
}

#[test]
fn every_end_of_a_handshake_has_its_reason_and_its_alert() {
    /// user_canceled and close_notify, as warnings.
    const CANCELED: [u8; 14] = [21, 3, 3, 0, 2, 1, 90, 21, 3, 3, 0, 2, 1, 0];
    let Some((world, pki)) = begin() else { return };
    pki.certificate("web", &["DNS:web.shop"]);
    pki.certificate("stranger", &["URI:spiffe://shop/other"]);
    let files = json!([pki.files("web")]);
    let auth = json!({"ca": pki.path("ca.pem"), "san": ["spiffe://shop/proxy"]});
    let ending = json!({"certificates": files, "min_version": "1.3", "client_auth": auth});
    let quick = json!({"head_timeout": "1s"});
    let passing = service("passing", host(10), json!({"protocol": "tcp"}));
    let mut config = config::config(&world, [service("web", host(10), Value::Null), passing]);
    let rule = json!({"backends": [{"service": "passing"}]});
    let log = weir_log("tls-ends");
    let more = json!({
        "access_log": {"path": log, "format": "json"},
        "routes": [{"name": "passing", "hosts": ["passing.shop"], "rules": [rule]}],
        "listeners": [
            listener(8443, json!({"service": "web", "tls": ending, "http": quick})),
            listener(8444, json!({"protocol": "tls", "routes": ["passing"]})),
        ],
    });
    config::merge(&mut config, more);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let closed = |reason| weir.metrics().sum("weir_connections_closed_total", &[("reason", reason)]);
    let own = |name: &str| [pki.path(&format!("{name}.pem")), pki.path(&format!("{name}.key"))];
    let [cert, key] = own("stranger");
    for (more, alert, reason) in [
        (&["--cert", &cert, "--key", &key][..], "access denied", "tls_certificate"),
        (&[], "certificate required", "tls_certificate"),
        (&["--tls-max", "1.2"], "protocol version", "tls_handshake"),
    ] {
        let before = closed(reason);
        let refused = curl(&world, &pki, "web.shop", 8443, more).unwrap_err();
        assert!(format!("{refused:#}").contains(alert), "{refused:#}");
        wait::until_true(reason, RELOAD, || closed(reason) > before);
    }
    for (says, answer, reason) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], &[21, 3, 3, 0, 2, 2, 50][..], "tls_handshake"),
        (b"\x16\x03\x01\x02\x00\x01\x00", &CANCELED, "tls_timeout"),
        (b"", b"", "tls_timeout"),
    ] {
        let before = closed(reason);
        let mut client = Peer::connect(&world.net, edge(8443));
        client.say(says);
        assert_eq!(client.rest().unwrap(), answer, "{reason}");
        wait::until_true(reason, RELOAD, || closed(reason) > before);
    }
    let refused = curl(&world, &pki, "c.shop", 8444, &[]).unwrap_err();
    assert!(format!("{refused:#}").contains("unrecognized name"), "{refused:#}");
    drop(weir);
    let lines = fs::read_to_string(&log).unwrap();
    let reasons: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |reason: &str| reasons.iter().filter(|line| line["reason"] == reason).count();
    let words = ["tls_certificate", "tls_handshake", "tls_timeout", "no_endpoint"];
    assert_eq!(words.map(count), [2, 2, 2, 1], "{lines}");
    fs::remove_file(log).unwrap();
}

#[test]
fn the_systems_authorities_are_taken_up_when_they_change() {
    let Some(world) = World::new() else { return };
    if world.program("curl").is_none() || world.program("openssl").is_none() {
        return;
    }
    let (pki, other) = (Pki::new(), Pki::new());
    pki.certificate("web", &["DNS:web.shop"]);
    let _server = s_server(&world, &pki, "web", 11, &[]);
    let bundle = pki.path("bundle.pem");
    fs::copy(other.path("ca.pem"), &bundle).unwrap();
    let secure = service("secure", host(11), json!({"tls": {"sni": "web.shop"}}));
    let mut config = config::config(&world, [secure]);
    config::merge(&mut config, json!({"listeners": [listener(8000, json!({"service": "secure"}))]}));
    let starter = ["env", "-u", "SSL_CERT_DIR", &format!("SSL_CERT_FILE={bundle}")];
    let Some(weir) = Weir::start_with(&world.net, &config, &starter, &[]) else { return };
    let ask = || {
        let mut client = Peer::connect(&world.net, edge(8000));
        client.say("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        client.answer()
    };
    let mut refused = ask();
    // Until the server listens.
    wait::until_true("a refusal", RELOAD, || {
        refused = ask();
        refused.header("x-weir-reason") == Some("tls_upstream")
    });
    assert_eq!(refused.status(), 503);
    pki.renew("bundle.pem", &[fs::read(pki.path("ca.pem")).unwrap(), fs::read(&bundle).unwrap()].concat());
    wait::until_true("the new authority", RELOAD, || ask().status() == 200);

    fs::remove_file(&bundle).unwrap();
    let bad = || weir.metrics().sum("weir_tls_file_bad", &[("file", &bundle)]);
    wait::until_true("the missing file", RELOAD, || bad() == 1.0);
    assert_eq!(ask().status(), 200, "what was read before stays in force");
}

/// Ends its answers with its connections: first in order, then as if cut off.
const CUTTING: &str = "
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[3], sys.argv[4])
context.maximum_version = getattr(ssl.TLSVersion, sys.argv[5])
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print('ready', flush=True)
while True:
    try:
        stream = context.wrap_socket(listener.accept()[0], server_side=True)
        path = stream.recv(4096).split()[1]
        stream.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\nall or half')
        if path == b'/all':
            stream.unwrap()
        stream.close()
    except OSError:
        pass
";

#[test]
fn a_body_that_ends_without_close_notify_is_passed_on_as_cut_off() {
    let Some((world, pki)) = begin() else { return };
    pki.certificate("web", &["DNS:web.shop"]);
    let speaking = json!({"tls": {"ca": pki.path("ca.pem"), "sni": "web.shop"}});
    let services = [service("new", host(11), speaking.clone()), service("old", host(12), speaking)];
    let servers = [(11, "TLSv1_3"), (12, "TLSv1_2")].map(|(number, version)| {
        let (ip, port) = (host(number).ip().to_string(), host(number).port().to_string());
        let mut python = world.far().command(Path::new("python3"));
        python.args(["-c", CUTTING, &ip, &port, &pki.path("web.pem"), &pki.path("web.key"), version]);
        let running = Running::start(&mut python).unwrap();
        assert_eq!(running.line(RELOAD).as_deref(), Some("ready"));
        running
    });
    let mut config = config::config(&world, services);
    let more = json!({"listeners": [
        listener(8001, json!({"service": "new"})),
        listener(8002, json!({"service": "old"})),
    ]});
    config::merge(&mut config, more);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let cut = || weir.metrics().sum("weir_http_requests_ended_total", &[("reason", "response_cut")]);
    for (port, seen) in [(8001, 1.0), (8002, 2.0)] {
        let ask = |path: &str| {
            let url = format!("http://{}/{path}", edge(port));
            let arguments = ["-sS", "--fail", "--max-time", "5", &url];
            world.outside().output(&world.program("curl").unwrap(), &arguments)
        };
        assert_eq!(ask("all").unwrap(), "all or half");
        let half = format!("{:#}", ask("half").unwrap_err());
        // A reset, or a chunked body without its end.
        assert!(half.contains("reset") || half.contains("transfer closed"), "{half}");
        wait::until_true("its reason", RELOAD, || cut() == seen);
    }
    drop(servers);
}

/// Asks so many times by one curl, each with 16 KiB one way; gives the number of connections that this took.
fn connections(world: &World, pki: &Pki, url: &str, more: &[&str]) -> u32 {
    let ciphers =
        ["--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"];
    let resolve = format!("web.shop:8443:{}", edge(8443).ip());
    let (ca, times) = (pki.path("ca.pem"), format!("{url}?[1-{ASKED}]"));
    let said = ["-sS", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code} %{num_connects}\\n"];
    let rest = ["--cacert", &ca, "--resolve", &resolve, &times];
    let arguments = [&said[..], &ciphers, &rest, more].concat();
    let said = world.outside().output(&world.program("curl").unwrap(), &arguments).unwrap();
    let opened = said.lines().map(|line| line.strip_prefix("200 ").unwrap().parse::<u32>().unwrap());
    assert_eq!(opened.clone().count(), ASKED, "{said}");
    opened.sum()
}

/// Requests on end; and how many of them carry all that a key may, but for the last 16 GiB.
const ASKED: usize = 24;
const WEARING: u32 = 8;

#[test]
fn before_a_key_is_worn_out_others_take_its_place_and_no_request_is_lost() {
    let (Some((world, pki)), Some(faults)) = (begin(), Faults::new("tls")) else { return };
    pki.certificate("web", &["DNS:web.shop"]);
    // 16 GiB are for what is under way.
    faults.order("key-records", &((1 << 20) + WEARING).to_string());
    let secure = format!(
        "ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.2; ssl_ciphers AESGCM;\n\
         location = /up {{ return 200 up; }}",
        pki.path("web.pem"),
        pki.path("web.key")
    );
    let far = |number: u8, listen: &str, server: &str| {
        Nginx::start(&world, host(number), Site { listen, http: "keepalive_requests 10000;", server })
    };
    let (Some(plain), Some(_http1), Some(_http2)) =
        (far(10, "", ""), far(11, "ssl", &secure), far(12, "ssl http2", &secure))
    else {
        return;
    };
    let body = plain.file("big", vec![b'x'; 16 << 10]);
    let tls = json!({"tls": {"ca": pki.path("ca.pem"), "sni": "web.shop"}});
    let services = [
        service("plain", host(10), Value::Null),
        service("http1", host(11), tls.clone()),
        service("http2", host(12), {
            let mut http2 = tls;
            config::merge(&mut http2, json!({"protocol": "http2"}));
            http2
        }),
    ];
    let mut config = config::config(&world, services);
    let listeners = json!([
        listener(8443, json!({"service": "plain", "tls": {"certificates": [pki.files("web")]}})),
        listener(8001, json!({"service": "http1"})),
        listener(8002, json!({"service": "http2"})),
    ]);
    config::merge(&mut config, json!({"listeners": listeners}));
    let Some(weir) = faults.start(&world, &config) else { return };
    // One for each eight, and one more where a request takes a little more than a record.
    let expected = 3..=4;
    for version in ["--http1.1", "--http2"] {
        let opened = connections(&world, &pki, "https://web.shop:8443/big", &[version]);
        assert!(expected.contains(&opened), "{version}: {opened} connections for {ASKED} requests");
    }
    for (name, port) in [("http1", 8001), ("http2", 8002)] {
        let url = format!("http://{}/up", edge(port));
        let opened = connections(&world, &pki, &url, &["--data-binary", &format!("@{body}")]);
        assert_eq!(opened, 1, "the client's own stays");
        let opened = weir.metrics().sum("weir_endpoint_connections_opened_total", &[("service", name)]);
        assert!((3.0..=4.0).contains(&opened), "{name}: {opened} connections for {ASKED} requests");
    }
}

fn weir_log(name: &str) -> String {
    let file = std::env::temp_dir().join(format!("weir-test-{name}-{}.log", std::process::id()));
    file.display().to_string()
}

#[test]
fn takeovers_leave_tls_to_the_process_that_has_its_keys_until_the_drain_is_over() {
    let Some((world, pki)) = begin() else { return };
    pki.certificate("web", &["DNS:web.shop"]);
    let _server = world.server(host(10), "server");
    let ends = json!({"protocol": "tcp", "service": "web", "tls": {"certificates": [pki.files("web")]}});
    let mut config = config::config(&world, [service("web", host(10), json!({"protocol": "tcp"}))]);
    config::merge(&mut config, json!({"listeners": [listener(8443, ends)], "drain_timeout": "60s"}));
    let Some(mut weir) = Weir::start(&world.net, &config) else { return };
    let says = |client: &mut Running, token: &str| {
        client.say(&format!("name {token}"));
        assert_eq!(client.line(RELOAD).as_deref(), Some(format!("server {token}").as_str()));
    };
    let mut open = s_client(&world, &pki);
    says(&mut open, "before");
    let mut older = weir.take_over(&config);
    says(&mut open, "after");
    let mut next = s_client(&world, &pki);
    says(&mut next, "next");
    assert!(older.runs(), "it has one: {}", weir.log());
    drop(open);
    assert!(older.wait(RELOAD).success(), "{}", weir.log());

    config["drain_timeout"] = json!("1s");
    weir.reload(&config);
    let mut older = weir.take_over(&config);
    assert!(older.wait(RELOAD).success(), "{}", weir.log());
    assert_eq!(next.line(RELOAD), None, "it is cut");
}

/// An open connection inside TLS that takes lines.
fn s_client(world: &World, pki: &Pki) -> Running {
    let mut openssl = world.outside().command(&world.program("openssl").unwrap());
    openssl.args(["s_client", "-quiet", "-verify_quiet", "-servername", "web.shop", "-CAfile"]);
    openssl.args([&pki.path("ca.pem"), "-connect", &edge(8443).to_string()]);
    Running::start(&mut openssl).unwrap()
}

/// Asks on an open connection and gives the body.
fn asks(client: &mut Running, path: &str) -> String {
    client.say(&format!("GET {path} HTTP/1.1\r\nHost: web.shop\r\n\r"));
    let lines = std::iter::from_fn(|| client.line(RELOAD));
    lines.map(|line| line.trim().to_owned()).find(|line| line.contains(path)).unwrap()
}
