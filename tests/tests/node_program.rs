//! Real programs on both ends, which know nothing of Weir.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use proxy_tests::config::{self, Lane, PORT};
use proxy_tests::net::Family;
use proxy_tests::node::Weir;
use proxy_tests::process;
use proxy_tests::scratch::Scratch;
use proxy_tests::skip;
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

/// Time for a server to start.
const START_LIMIT: Duration = Duration::from_secs(30);

fn vip(lane: Lane, port: u16) -> SocketAddr {
    Family::V4.vip(if lane == Lane::Direct { 1 } else { 2 }, port)
}

fn both_lanes(port: u16, endpoints: &[SocketAddr]) -> [Value; 2] {
    Lane::ALL.map(|lane| config::service(lane.as_str(), vip(lane, port), endpoints, lane, Value::Null))
}

#[test]
fn curl_gets_pages_from_every_nginx() {
    const BIG_BYTES: usize = 20 << 20;
    let Some(world) = World::new() else { return };
    let (Some(nginx), Some(curl)) = (world.program("nginx"), world.program("curl")) else { return };
    let scratch = Scratch::new("nginx");
    fs::write(scratch.path().join("big"), vec![b'x'; BIG_BYTES]).unwrap();
    let hosts = [Family::V4.host(10, 8080), Family::V4.host(11, 8080), Family::V4.host(12, 8080)];
    let mut servers = Vec::new();
    for (host, name) in hosts.iter().zip(["one", "two", "three"]) {
        let folder = scratch.path().display();
        let text = format!(
            "user root; daemon off; pid {folder}/{name}.pid; error_log {folder}/{name}.log; events {{}}\n\
             http {{ access_log off; client_body_temp_path {folder}/{name}-body; proxy_temp_path {folder}/{name}-proxy;\n\
             fastcgi_temp_path {folder}/{name}-f; uwsgi_temp_path {folder}/{name}-u; scgi_temp_path {folder}/{name}-s;\n\
             server {{ listen {host}; root {folder}; location = / {{ return 200 {name}; }} location = /healthz {{ return 200; }} }} }}\n"
        );
        let file = scratch.file(&format!("{name}.conf"), &text);
        servers.push(world.serve(&nginx, &["-c", &file], *host));
    }
    let mut services = both_lanes(PORT, &hosts);
    for service in &mut services {
        let health =
            json!({"interval": "200ms", "timeout": "150ms", "unhealthy": 1, "http": {"path": "/healthz"}});
        config::merge(service, json!({"health": health}));
    }
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    let get = |lane: Lane, path: &str, more: &[&str]| {
        let url = format!("http://{}{path}", vip(lane, PORT));
        world.app().output(&curl, &[&["-sS", "--fail", "--max-time", "20", &url], more].concat())
    };
    for lane in Lane::ALL {
        let mut answers: Vec<String> = (0..30).map(|_| get(lane, "/", &[]).unwrap()).collect();
        answers.sort_unstable();
        answers.dedup();
        assert_eq!(answers, ["one", "three", "two"], "{lane:?}");
        let sizes = get(lane, "/big", &["-o", "/dev/null", "-w", "%{size_download} %{remote_ip}"]).unwrap();
        assert_eq!(sizes, format!("{BIG_BYTES} {}", vip(lane, PORT).ip()), "{lane:?}");
    }
    // the worker processes of nginx end with their master when it is told to, not when it is killed
    let _ = process::signal(servers[0].pid(), "-TERM");
    for lane in Lane::ALL {
        wait::until_true("the dead nginx to be left alone", START_LIMIT, || {
            (0..12).all(|_| get(lane, "/", &[]).is_ok_and(|answer| answer != "one"))
        });
        let failed: Vec<_> = (0..30).filter_map(|_| get(lane, "/", &[]).err()).collect();
        assert!(failed.is_empty(), "{lane:?}: {failed:?}");
    }
    for server in &servers[1..] {
        let _ = process::signal(server.pid(), "-TERM");
    }
    for server in &mut servers {
        server.wait(START_LIMIT);
    }
}

#[test]
fn redis_benchmark_runs_without_an_error() {
    let Some(world) = World::new() else { return };
    let (Some(redis), Some(benchmark)) = (world.program("redis-server"), world.program("redis-benchmark"))
    else {
        return;
    };
    let host = Family::V4.host(10, 6379);
    let arguments = [
        "--port",
        "6379",
        "--bind",
        "10.77.0.10",
        "--save",
        "",
        "--appendonly",
        "no",
        "--loglevel",
        "warning",
    ];
    let _server = world.serve(&redis, &[&arguments[..], &["--protected-mode", "no"]].concat(), host);
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, both_lanes(6379, &[host]))) else {
        return;
    };
    for lane in Lane::ALL {
        let address = vip(lane, 6379).ip().to_string();
        for more in [&["-c", "50", "-n", "10000"][..], &["-c", "20", "-n", "10000", "-P", "16", "-d", "2000"]]
        {
            let arguments = [&["-h", &address, "-t", "set,get,incr,lrange_100", "--csv"][..], more].concat();
            let said = world.app().output(&benchmark, &arguments).unwrap();
            let results = said.lines().filter(|line| !line.starts_with("\"test\"")).count();
            assert!(results >= 4 && !said.to_lowercase().contains("error"), "{lane:?}: {said}");
        }
    }
}

#[test]
fn postgres_serves_its_own_benchmark() {
    let Some(world) = World::new() else { return };
    let (Some(runuser), Some(pgbench)) = (world.program("runuser"), world.program("pgbench")) else { return };
    let Some(programs) = postgres_programs() else { return skip::skip("postgres is not installed") };
    let scratch = Scratch::new("postgres");
    process::output(Command::new("chown").arg("postgres").arg(scratch.path())).unwrap();
    let data = scratch.path().join("data").display().to_string();
    let initdb = programs.join("initdb").display().to_string();
    let arguments =
        ["-u", "postgres", "--", &initdb, "-D", &data, "-A", "trust", "-U", "postgres", "--no-sync"];
    process::output(Command::new(&runuser).args(arguments).current_dir(scratch.path())).unwrap();
    let network = "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n";
    fs::write(scratch.path().join("data/pg_hba.conf"), network).unwrap();

    let (v4, v6) = (Family::V4.host(10, 5432), Family::V6.host(10, 5432));
    let postgres = programs.join("postgres").display().to_string();
    let listen = format!("listen_addresses={},{}", v4.ip(), v6.ip());
    let arguments = [
        "-u",
        "postgres",
        "--",
        &postgres,
        "-D",
        &data,
        "-c",
        &listen,
        "-k",
        &data,
        "-c",
        "fsync=off",
        "-c",
        "log_min_messages=fatal",
    ];
    let server = world.serve(&runuser, &arguments, v4);
    let mut services = both_lanes(5432, &[v4]).to_vec();
    services.push(config::service("six", Family::V6.vip(3, 5432), &[v6], Lane::Proxy, Value::Null));
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    let run = |address: SocketAddr, arguments: &[&str]| {
        let host = address.ip().to_string();
        let all = [&["-h", &host, "-p", "5432", "-U", "postgres"][..], arguments, &["postgres"]].concat();
        world.app().output(&pgbench, &all).unwrap()
    };
    run(vip(Lane::Proxy, 5432), &["-i", "-q"]);
    for address in [vip(Lane::Direct, 5432), vip(Lane::Proxy, 5432), Family::V6.vip(3, 5432)] {
        let said = run(address, &["-c", "8", "-j", "2", "-t", "50"]);
        assert!(said.contains("400/400"), "{address}: {said}");
        // a connection for each transaction
        let said = run(address, &["-c", "4", "-t", "20", "-C", "-S"]);
        assert!(said.contains("80/80"), "{address}: {said}");
    }
    // asked to end, so that its children end with it (a fast shutdown)
    let pid = fs::read_to_string(scratch.path().join("data/postmaster.pid")).unwrap();
    let _ = Command::new("kill").args(["-INT", pid.lines().next().unwrap_or_default()]).status();
    let mut server = server;
    server.wait(START_LIMIT);
}

/// Debian keeps postgres out of `PATH`, in a folder per version.
fn postgres_programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let folder = |version: fs::DirEntry| version.path().join("bin");
    let beside = || process::find("initdb").and_then(|path| path.parent().map(Path::to_owned));
    versions.map(folder).find(|folder| folder.join("initdb").is_file()).or_else(beside)
}
