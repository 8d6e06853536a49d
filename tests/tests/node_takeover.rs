//! The live upgrade: a newer process takes over, and nobody notices.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proxy_tests::client::{Client, number};
use proxy_tests::config::{self, Grid, Lane};
use proxy_tests::http::{Backend, ok};
use proxy_tests::net::{Family, Net, Side};
use proxy_tests::node::{self, Weir};
use proxy_tests::process;
use proxy_tests::takeover::{SOCKET, hear, say, say_hello};
use proxy_tests::wait;
use proxy_tests::world::World;
use proxy_user::takeover::ABI_VERSION;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
/// Far more than all buffers on the way hold.
const DOWNLOAD_BYTES: u64 = 64 << 20;
const BODY: &str = "served";

/// Where Weir listens for clients that it does not intercept.
fn edge() -> SocketAddr {
    "10.77.0.1:8000".parse().unwrap()
}

/// A service of the direct lane with an endpoint that is dead, which only health checks tell.
fn half_dead() -> SocketAddr {
    Family::V4.vip(3, config::PORT)
}

/// Both lanes, a pod, an HTTP listener at the edge, and a dead endpoint.
fn full_config(world: &World, grid: &Grid, pod: Side, backend: &Backend) -> Value {
    let web = json!({
        "name": "web", "protocol": "http", "endpoints": [{"address": backend.address().to_string()}],
    });
    let endpoints = [grid.server(Family::V4).0.address(), Family::V4.host(19, config::SERVER_PORT)];
    let health = json!({"health": {"interval": "1s", "timeout": "500ms"}});
    let half_dead = config::service("half-dead", half_dead(), &endpoints, Lane::Direct, health);
    let mut config = config::config(world, grid.services().into_iter().chain([web, half_dead]));
    let scopes = json!([{"cgroup": world.app.scope()}, {"netns": world.net.path(pod)}]);
    config["intercept"]["scopes"] = scopes;
    let listener = json!({"address": edge().to_string(), "protocol": "http", "service": "web"});
    config::merge(&mut config, json!({"listeners": [listener], "drain_timeout": "60s"}));
    config
}

/// What became of a client that keeps its connection.
#[derive(Debug, Default)]
struct Browsed {
    good: u64,
    connections: u64,
    errors: Vec<String>,
}

/// Asks without a pause on one connection for as long as it may, and then on a new one.
fn browse(net: &Net, is_over: &AtomicBool) -> Browsed {
    let mut browsed = Browsed::default();
    let mut held: Option<TcpStream> = None;
    while !is_over.load(Ordering::Relaxed) {
        browsed.connections += u64::from(held.is_none());
        match held.take().map_or_else(|| connect(net), Ok).and_then(request) {
            Ok(stream) => {
                browsed.good += 1;
                held = stream;
            }
            Err(error) => browsed.errors.push(format!("{error:?}")),
        }
    }
    browsed
}

/// Lets the browser end, also when the test fails before: a scope waits for its threads.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn connect(net: &Net) -> io::Result<TcpStream> {
    let stream = net.run(Side::Near, || TcpStream::connect_timeout(&edge(), SOON)).unwrap()?;
    stream.set_read_timeout(Some(SOON))?;
    Ok(stream)
}

/// Asks once; gives the connection back if it may be used again.
fn request(mut stream: TcpStream) -> io::Result<Option<TcpStream>> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(BODY.as_bytes()) {
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => answer.extend_from_slice(&piece[..count]),
        }
    }
    let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200") {
        return Err(io::Error::other(head));
    }
    Ok((!head.contains("connection: close")).then_some(stream))
}

/// Connections of the direct lane so far: the kernel counts them.
fn opened(weir: &Weir) -> f64 {
    weir.metrics().sum("weir_connections_opened_total", &[("lane", "direct")])
}

fn assert_faultless(load: &mut Client, what: &str) {
    load.go_on("stop");
    let said = load.next();
    assert_eq!(said["errors"], json!([]), "{what}: {said}");
    assert!(number(&said, "good") > 100, "{what}: {said}");
}

/// Ends the last Weir and checks that nothing is left of any.
fn assert_nothing_left(mut weir: Weir, programs_before: usize) {
    assert!(weir.terminate().success(), "{}", weir.log());
    assert!(!node::has_pins());
    assert!(!std::path::Path::new("/sys/fs/bpf/weir").exists());
    wait::until_true("the programs to go", SOON, || node::attached_programs() == programs_before);
    let left: Vec<_> =
        fs::read_dir("/run/weir").into_iter().flatten().flatten().map(|e| e.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn ten_takeovers_under_load_lose_nothing() {
    let Some(world) = World::new() else { return };
    let programs_before = node::attached_programs();
    let grid = Grid::new(&world);
    let pod = world.pod(1);
    let backend = Backend::answering(&world.net, Family::V4.host(11, 8080), |_| Some(ok(BODY)));
    let config = full_config(&world, &grid, pod.side, &backend);
    let Some(mut weir) = Weir::start(&world.net, &config) else { return };
    let served = |weir: &Weir| weir.metrics().sum("weir_map_entries", &[("map", "NETNS")]) > 0.5;
    wait::until_true("the pod to be served", SOON, || served(&weir));
    wait::until_true("the dead endpoint to be known", SOON, || {
        world.app().run("ask", &[&half_dead(), &"20"])["errors"] == json!([])
    });
    let proxied = Grid::address(Lane::Proxy, Family::V4);
    let mut loads = vec![
        ("direct", world.app().start("load", &[&Grid::address(Lane::Direct, Family::V4), &"1"])),
        ("proxy", world.app().start("load", &[&proxied, &"2"])),
        ("proxy, IPv6", world.app().start("load", &[&Grid::address(Lane::Proxy, Family::V6), &"1"])),
        ("half dead", world.app().start("load", &[&half_dead(), &"1"])),
        ("pod", pod.start("load", &[&proxied, &"1"])),
    ];
    for (_, load) in &loads {
        assert_eq!(load.next()["started"], true);
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = Over(&is_over);
        let browser = scope.spawn(|| browse(&world.net, &is_over));
        let mut opened_before = opened(&weir);
        for round in 1..=10 {
            let mut download = world.app().start("pull", &[&proxied, &DOWNLOAD_BYTES]);
            assert_eq!(download.next()["asked"], true);
            let mut older = weir.take_over(&config);
            assert_eq!(fs::read_to_string("/run/weir/weir.pid").unwrap().trim(), weir.pid().to_string());
            download.go_on("read");
            let said = download.next();
            assert_eq!((number(&said, "bytes"), &said["intact"]), (DOWNLOAD_BYTES, &json!(true)), "{said}");
            assert_eq!(said["ended"], "EOF", "round {round}: {said}");
            assert!(older.wait(SOON).success(), "{}", weir.log());
            let opened_now = opened(&weir);
            assert!(opened_now > opened_before, "round {round}: {opened_before} to {opened_now}");
            opened_before = opened_now;
            assert_eq!(node::attached_programs() - programs_before, node::HOOKS.len(), "attached twice");
        }
        drop(over);
        let browsed = browser.join().unwrap();
        assert!(browsed.errors.is_empty(), "{browsed:?}");
        assert!(browsed.good > 100 && (10..=30).contains(&browsed.connections), "{browsed:?}");
    });
    for (what, load) in &mut loads {
        assert_faultless(load, what);
    }
    assert!(served(&weir), "the pod is served");
    assert!(weir.log().matches("cannot").count() == 0, "{}", weir.log());
    assert_nothing_left(weir, programs_before);
}

/// Runs a command to its end: how it ended and what it complained of.
fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    said
}

#[test]
fn a_newer_process_that_fails_changes_nothing() {
    let Some(world) = World::new() else { return };
    let programs_before = node::attached_programs();
    let grid = Grid::new(&world);
    let config = config::config(&world, grid.services());
    let Some(mut weir) = Weir::start(&world.net, &config) else { return };
    let mut loads =
        Lane::ALL.map(|lane| world.app().start("load", &[&Grid::address(lane, Family::V4), &"2"]));
    for load in &loads {
        assert_eq!(load.next()["started"], true);
    }
    let pid = weir.pid().to_string();
    let same = config.to_string();
    assert!(refused(&mut weir.beside(&same, &[])).contains(&pid), "plain run is refused by name");
    assert!(refused(&mut weir.beside("servces: []\n", &["--takeover"])).contains("servces"));
    let taken = json!({"listeners": [{"address": "10.77.0.1:9", "service": "grid/proxy-four"}]});
    let _port = world.net.run(Side::Near, || std::net::TcpListener::bind("10.77.0.1:9")).unwrap().unwrap();
    let mut bad = config.clone();
    config::merge(&mut bad, taken);
    let said = refused(&mut weir.beside(&bad.to_string(), &["--takeover"]));
    assert!(said.contains("10.77.0.1:9"), "after it was offered everything: {said}");
    let said = refused(&mut weir.beside(&same, &["--takeover", "--map-size", "TOTALS=1024"]));
    assert!(said.contains("TOTALS") && said.contains(&pid), "{said}");
    let unhurried = with_a_silent_endpoint(&world, &grid).to_string();
    for delay_ms in [0, 20, 60, 120, 180, 240, 300, 500] {
        kill_in_the_middle(&weir, &unhurried, Duration::from_millis(delay_ms));
        if weir.serving_pid() != Some(weir.pid().into()) {
            panic!("killed after {delay_ms} ms it had taken over already:\n{}", weir.log());
        }
    }
    // what it was told meanwhile is done now
    weir.reload(&config);
    let mut older = weir.take_over(&config);
    assert!(older.wait(SOON).success());
    for load in &mut loads {
        assert_faultless(load, "beside processes that failed");
    }
    assert_nothing_left(weir, programs_before);
}

/// A config that keeps a newer process busy for two seconds, because one endpoint does not answer its first health check:
/// whatever the machine, it is not ready before.
fn with_a_silent_endpoint(world: &World, grid: &Grid) -> Value {
    let silent = Family::V4.silent(config::SERVER_PORT);
    let health = json!({"health": {"interval": "10s", "timeout": "5s"}});
    let service = config::service("silent", half_dead(), &[silent], Lane::Direct, health);
    config::config(world, grid.services().into_iter().chain([service]))
}

/// Starts a process that wants to take over and kills it once it has begun, after a while.
fn kill_in_the_middle(weir: &Weir, config: &str, delay: Duration) {
    let mut child: Child =
        weir.beside(config, &["--takeover"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let prepares = format!("prepares to take over process={}", child.id());
    wait::until_true("it to begin", SOON, || weir.log().contains(&prepares));
    std::thread::sleep(delay);
    child.kill().unwrap();
    child.wait().unwrap();
    let count = |text| weir.log().matches(text).count();
    wait::until_true("the older one to have noticed", SOON, || {
        count("prepares to take over") == count("a takeover failed")
    });
}

fn reason(answer: &Value) -> &str {
    answer["refused"]["reason"].as_str().unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn another_abi_is_refused_and_a_word_that_is_none_harms_nobody() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let config = config::config(&world, grid.services());
    let Some(mut weir) = Weir::start(&world.net, &config) else { return };
    let mode = process::output(Command::new("stat").args(["-c", "%a %U", SOCKET])).unwrap();
    assert_eq!(mode.trim(), "600 root");
    assert!(reason(&say_hello(3, 999).1).contains("ABI 999"));
    assert!(reason(&say_hello(999, ABI_VERSION).1).contains("not 999"));
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\0\0\x02\0\0\0\0no", b""] {
        let mut stream = UnixStream::connect(SOCKET).unwrap();
        stream.write_all(nonsense).unwrap();
    }
    let asked = world.app().run("ask", &[&Grid::address(Lane::Proxy, Family::V4)]);
    assert_eq!(asked["names"], json!(["four"]), "it goes on");
    let mut older = weir.take_over(&config);
    assert!(older.wait(SOON).success());
    // the next one is asked on the same socket, which has changed hands
    assert!(reason(&say_hello(3, 999).1).contains("ABI 999"));
}

/// What a process of the ABI before this one leaves and says: its maps are pinned in a folder of their own.
#[test]
fn an_older_process_with_an_older_abi_stays_in_force_and_is_followed_only_when_it_is_dead() {
    let Some(world) = World::new() else { return };
    let programs_before = node::attached_programs();
    let grid = Grid::new(&world);
    let config = config::config(&world, grid.services());
    let Some(mut weir) = Weir::start(&world.net, &config) else { return };
    let [own, older] = [ABI_VERSION, ABI_VERSION - 1].map(node::maps_folder);
    weir.kill();
    fs::rename(&own, &older).unwrap();
    let directly =
        || world.app().run("ask", &[&Grid::address(Lane::Direct, Family::V4)])["names"] == json!(["four"]);

    let lock = fs::File::open("/run/weir/weir.pid").unwrap();
    lock.lock().unwrap();
    fs::remove_file(SOCKET).unwrap();
    let socket = UnixListener::bind(SOCKET).unwrap();
    let no = format!("weir 0.0.9 has maps of ABI {}", ABI_VERSION - 1);
    let refusal = json!({"refused": {"reason": no, "is_passing": false}});
    let offer = json!({"offer": {
        "abi": ABI_VERSION - 1, "version": "0.0.9", "process": std::process::id(), "pins": older, "sockets": ["lock"],
    }});
    // both sides look: an older one that knows only its own version, and one that would share whatever it has
    for (answer, fds) in [(refusal, &[][..]), (offer, &[lock.as_fd()])] {
        let said = std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let (stream, _) = socket.accept().unwrap();
                let (hello, _) = hear(&stream);
                say(&stream, &answer, fds);
                assert_eq!(hello["abi"], ABI_VERSION);
                // it says nothing more, and hangs up
                assert_eq!((&stream).read(&mut [0]).unwrap(), 0);
            });
            let said = refused(&mut weir.beside(&config.to_string(), &["--takeover"]));
            asked.join().unwrap();
            said
        });
        assert!(said.contains(&format!("ABI {}", ABI_VERSION - 1)), "{said}");
        assert!(older.join("TOTALS").exists() && !own.exists(), "nothing was touched");
        assert_eq!(node::attached_programs() - programs_before, node::HOOKS.len());
        assert!(directly(), "the older one's programs go on");
    }

    // now it is dead: its programs are replaced in one step each, and its maps go
    drop((lock, socket));
    weir.restart(&config);
    assert!(own.join("TOTALS").exists() && !older.exists(), "{}", weir.log());
    assert_eq!(node::attached_programs() - programs_before, node::HOOKS.len(), "attached twice");
    assert!(directly() && opened(&weir) > 0.5);
    assert_nothing_left(weir, programs_before);
}

#[test]
fn programs_that_are_none_are_refused_and_the_old_ones_stay() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    let attached = node::attached_programs();
    let null = fs::File::open("/dev/null").unwrap();
    for names in [
        &[
            "weir_sock_ops",
            "weir_getpeername4",
            "weir_getpeername6",
            "weir_connect4",
            "weir_connect6",
            "weir_sock_create",
        ][..],
        &["weir_connect4"],
    ] {
        let (stream, answer, count) = say_hello(3, ABI_VERSION);
        let sockets = answer["offer"]["sockets"].as_array().unwrap_or_else(|| panic!("{answer}")).len();
        assert!(count == sockets && count >= 16 + 4, "listeners of both families, admin, lock: {answer}");
        let fds: Vec<BorrowedFd<'_>> = names.iter().map(|_| null.as_fd()).collect();
        say(&stream, &json!({"programs": names, "admin_socket": "/x"}), &fds);
        let (verdict, _) = hear(&stream);
        assert!(verdict["refused"].is_string(), "{verdict}");
        for lane in Lane::ALL {
            let asked = world.app().run("ask", &[&Grid::address(lane, Family::V4)]);
            assert_eq!(asked["names"], json!(["four"]), "{lane:?}");
        }
        assert_eq!(node::attached_programs(), attached);
    }
    assert_eq!(weir.serving_pid(), Some(weir.pid().into()));
}

#[test]
fn with_nobody_to_take_over_from_it_starts_as_usual_also_after_a_kill() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let config = config::config(&world, grid.services());
    let Some(mut weir) = Weir::start_with(&world.net, &config, &[], &["--takeover"]) else { return };
    weir.kill();
    let mut beside = weir.beside(&config.to_string(), &["--takeover"]);
    let mut again = beside.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    wait::until_true("it to be ready", SOON, || weir.serving_pid() == Some(again.id().into()));
    let asked = world.app().run("ask", &[&Grid::address(Lane::Proxy, Family::V4)]);
    assert_eq!(asked["names"], json!(["four"]));
    process::signal(again.id(), "-TERM").unwrap();
    assert!(again.wait().unwrap().success());
    assert!(!node::has_pins());
}

#[test]
fn an_end_that_comes_during_a_takeover_waits_for_it_and_one_that_stays_sees_the_end_of_its_successor() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let config = config::config(&world, grid.services());
    let Some(mut weir) = Weir::start_with(&world.net, &config, &[], &["--stay"]) else { return };
    let mut load = world.app().start("load", &[&Grid::address(Lane::Proxy, Family::V4), &"2"]);
    assert_eq!(load.next()["started"], true);
    let mut older = weir.take_over(&config);
    wait::until_true("it to have drained", SOON, || weir.log().contains("staying until told to end"));
    assert!(older.runs());
    process::signal(older.pid(), "-TERM").unwrap();
    assert!(older.wait(SOON).success(), "{}", weir.log());
    // the newer one has no --stay; the next one comes while this one is told to end
    let newer = weir.beside(&config.to_string(), &["--takeover", "--stay"]).stderr(Stdio::null()).spawn();
    let mut newer = newer.unwrap();
    let prepares = format!("prepares to take over process={}", newer.id());
    wait::until_true("it to begin", SOON, || weir.log().contains(&prepares));
    assert!(weir.terminate().success(), "{}", weir.log());
    assert_eq!(weir.serving_pid(), Some(newer.id().into()));
    assert!(node::has_pins(), "they are the newer one's");
    assert_faultless(&mut load, "ended during a takeover");
    let stderr = fs::File::create(weir.folder().join("last")).unwrap();
    let mut last = weir.beside(&config.to_string(), &["--takeover"]).stderr(stderr).spawn().unwrap();
    wait::until_true("the last to have taken over", SOON, || weir.serving_pid() == Some(last.id().into()));
    process::signal(last.id(), "-TERM").unwrap();
    assert!(last.wait().unwrap().success());
    let status = wait::until("it to see that there is no Weir", SOON, || newer.try_wait().unwrap());
    assert!(!status.success(), "its supervisor is to start a new one");
}
