//! HTTP/2 between programs that know nothing of Weir.

use std::fs;
use std::path::Path;
use std::time::Duration;

use proxy_tests::net::Family;
use proxy_tests::nginx::{Nginx, Site};
use proxy_tests::node::Weir;
use proxy_tests::pki::{Pki, ROOT};
use proxy_tests::process::{self, Running};
use proxy_tests::stream::noise;
use proxy_tests::wait;
use proxy_tests::web::{edge, host, speaking, ways};
use proxy_tests::world::World;
use serde_json::json;

/// A body that fits into no window.
const BIG_BYTES: usize = 5 << 20;
/// Longer than any step needs on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(10);
/// What tells how nginx was asked.
const ECHO: &str = "location = / { return 200 \"$server_protocol $request_method $host $http_cookie\"; }\n\
                    location = /none { return 204; } location = /moved { return 302 /; } absolute_redirect off;";
const HTTP2: Site<'static> = Site { listen: "http2", server: ECHO, ..Site::PLAIN };

#[test]
fn every_version_reaches_every_version() {
    let Some(world) = World::new() else { return };
    let Some(curl) = world.program("curl") else { return };
    for (protocol, listens, spoken) in [("http", "", "HTTP/1.1"), ("http2", "http2", "HTTP/2.0")] {
        let Some(nginx) = Nginx::start(&world, host(), Site { listen: listens, ..HTTP2 }) else { return };
        let big = noise(BIG_BYTES);
        let big_file = nginx.file("big.bin", &big);
        let out = nginx.path("out").display().to_string();
        let Some(_weir) = Weir::start(&world.net, &speaking(&world, protocol, json!({}))) else { return };
        for (place, address) in ways(&world) {
            for version in ["--http1.1", "--http2-prior-knowledge"] {
                let url = |path: &str| format!("http://{address}{path}");
                let run = |arguments: &[&str]| {
                    let all = [&["-sS", "--fail", "--max-time", "30", version], arguments].concat();
                    place.output(&curl, &all).unwrap()
                };
                let what = format!("{version} to {protocol} at {address}");
                let host = address.ip();
                assert_eq!(run(&["-b", "a=1; b=2", &url("/")]), format!("{spoken} GET {host} a=1; b=2"));
                let wanted = if version == "--http1.1" { "1.1" } else { "2" };
                // This curl uses a connection of HTTP/2 for one request only, and fails with the second whoever serves it.
                let root = url("/");
                let urls: &[&str] = if wanted == "2" { &[] } else { &["-o", "/dev/null", &root] };
                let said = run(&[&["-o", "/dev/null", "-w", "%{http_version} ", &root], urls].concat());
                assert_eq!(said.split_whitespace().next(), Some(wanted), "{what}");
                assert_eq!(said.split_whitespace().count(), 1 + urls.len() / 3, "{what}");
                run(&["-o", &out, &url("/big.bin")]);
                assert!(fs::read(&out).unwrap() == big, "{what}: every byte of a large file");
                let head = run(&["-I", &url("/big.bin")]).to_lowercase();
                assert!(head.contains(&format!("content-length: {BIG_BYTES}")), "{what}: {head}");
                run(&["-r", "1000-1999", "-o", &out, &url("/big.bin")]);
                assert!(fs::read(&out).unwrap() == big[1000..2000], "{what}: a range");
                run(&["-T", &big_file, &url("/new/put.bin")]);
                assert!(
                    fs::read(nginx.path("new/put.bin")).unwrap() == big,
                    "{what}: an upload of known length"
                );
                let piped = format!(
                    "cat {big_file} | {} -sS --fail --max-time 30 {version} -T - {}",
                    curl.display(),
                    url("/new/piped.bin")
                );
                place.output(Path::new("/bin/sh"), &["-c", &piped]).unwrap();
                assert!(
                    fs::read(nginx.path("new/piped.bin")).unwrap() == big,
                    "{what}: and of unknown length"
                );
                run(&["-X", "DELETE", &url("/new/put.bin")]);
                assert!(!nginx.path("new/put.bin").exists());
                let of =
                    |path: &str| run(&["-o", "/dev/null", "-w", "%{http_code} %{size_download}", &url(path)]);
                assert_eq!(of("/none"), "204 0", "{what}");
                let moved = run(&["-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", &url("/moved")]);
                assert_eq!(moved, format!("302 {root}"), "{what}");
                let missing = ["-s", "-o", "/dev/null", "-w", "%{http_code}", version, &url("/missing")];
                assert_eq!(place.output(&curl, &missing).unwrap(), "404", "{what}");
            }
        }
    }
}

#[test]
fn a_client_chooses_its_version_inside_tls_and_an_endpoint_does_too() {
    let Some(world) = World::new() else { return };
    let Some(curl) = world.program("curl") else { return };
    let pki = Pki::new();
    pki.certificate("web", &["DNS:web.shop"]);
    let (cert, key) = (pki.path("web.pem"), pki.path("web.key"));
    let http = format!("ssl_certificate {cert}; ssl_certificate_key {key};");
    let site = Site { listen: "ssl http2", http: &http, ..HTTP2 };
    let Some(_nginx) = Nginx::start(&world, host(), site) else { return };
    let ca = pki.path(&format!("{ROOT}.pem"));
    let mut config = speaking(&world, "http2", json!({"tls": {"ca": ca, "sni": "web.shop"}}));
    config["listeners"][0]["tls"] = json!({"certificates": [{"cert": cert, "key": key}]});
    let Some(_weir) = Weir::start(&world.net, &config) else { return };
    let resolve = format!("web.shop:{}:{}", edge().port(), edge().ip());
    let url = format!("https://web.shop:{}/", edge().port());
    for (option, wanted) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let arguments = ["-sS", "--fail", "--max-time", "30", option, "--cacert", &ca, "--resolve", &resolve];
        let more = ["-w", " %{http_version}", &url];
        let said = world.outside().output(&curl, &[&arguments[..], &more[..]].concat()).unwrap();
        assert_eq!(said, format!("HTTP/2.0 GET web.shop  {wanted}"));
    }
}

#[test]
fn h2load_loses_no_request() {
    let Some(world) = World::new() else { return };
    let Some(h2load) = world.program("h2load") else { return };
    let Some(_nginx) = Nginx::start(&world, host(), Site { http: "keepalive_requests 500;", ..HTTP2 }) else {
        return;
    };
    let Some(weir) = Weir::start(&world.net, &speaking(&world, "http2", json!({}))) else { return };
    let url = format!("http://{}/", edge());
    let said = world.outside().output(&h2load, &["-n", "20000", "-c", "10", "-m", "100", &url]).unwrap();
    let (_, metrics) = weir.ask("/metrics").unwrap();
    let ends: Vec<&str> =
        metrics.lines().filter(|line| line.starts_with("weir_http_requests_ended")).collect();
    assert!(said.contains("20000 succeeded, 0 failed, 0 errored"), "{said}\n{ends:#?}");
    let counted = weir.metrics().sum("weir_http_requests_total", &[("service", "web")]);
    assert!(counted >= 20_000.0, "{counted} of 20000");
}

#[test]
fn a_server_that_stops_loses_no_request() {
    let Some(world) = World::new() else { return };
    let Some(h2load) = world.program("h2load") else { return };
    let other = Family::V4.host(11, 8080);
    let start = |address| Nginx::start(&world, address, HTTP2);
    let (Some(mut stopping), Some(_other)) = (start(host()), start(other)) else { return };
    let endpoints = [host(), other].map(|address| json!({"address": address.to_string()}));
    let config = speaking(&world, "http2", json!({"endpoints": endpoints}));
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let url = format!("http://{}/", edge());
    let mut command = world.outside().command(&h2load);
    let mut load = Running::start(command.args(["-n", "20000", "-c", "4", "-m", "50", &url])).unwrap();
    let requests = || weir.metrics().sum("weir_http_requests_total", &[("service", "web")]);
    wait::until_true("requests", LIMIT, || requests() > 1000.0);
    // It says GOAWAY, and ends what it has begun.
    process::signal(stopping.running.pid(), "-QUIT").unwrap();
    assert!(stopping.running.wait(LIMIT).success());
    let said: Vec<String> = std::iter::from_fn(|| load.line(LIMIT)).collect();
    assert!(said.iter().any(|line| line.contains("20000 succeeded, 0 failed, 0 errored")), "{said:#?}");
    assert!(load.wait(END_LIMIT).success());
}
