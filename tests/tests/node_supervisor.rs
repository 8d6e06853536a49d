//! What a supervisor such as systemd hears, and an upgrade that it need not start.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use proxy_tests::config::{self, Grid, Lane};
use proxy_tests::net::Family;
use proxy_tests::node::Weir;
use proxy_tests::scratch::Scratch;
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);

/// A process that is not the test's own child; gone when this is dropped.
struct Stranger(u32);

impl Drop for Stranger {
    fn drop(&mut self) {
        // It has ended in order, unless the test fails.
        let _ = proxy_tests::process::signal(self.0, "-KILL");
    }
}

/// The next words that begin so; others, such as signs of life, are passed over.
fn next(socket: &UnixDatagram, begins: &str) -> String {
    let mut words = [0; 256];
    wait::until(begins, SOON, || {
        let count = socket.recv(&mut words).ok()?;
        Some(String::from_utf8_lossy(&words[..count]).into_owned()).filter(|words| words.starts_with(begins))
    })
}

#[test]
fn a_supervisor_hears_of_every_step_and_of_its_new_main_process() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let config = config::config(&world, grid.services());
    let folder = Scratch::new("notify");
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let variable = format!("NOTIFY_SOCKET={}", path.display());
    let Some(mut weir) = Weir::start_with(&world.net, &config, &["env", &variable], &[]) else { return };
    let pid = weir.pid();
    assert_eq!(next(&socket, "READY"), format!("READY=1\nMAINPID={pid}"));
    next(&socket, "WATCHDOG=1");
    weir.signal("-HUP");
    let reloading = next(&socket, "RELOADING=1\nMONOTONIC_USEC=");
    assert!(reloading.rsplit_once('=').unwrap().1.parse::<u64>().unwrap() > 0, "{reloading}");
    next(&socket, "READY=1");

    let mut load = world.app().start("load", &[&Grid::address(Lane::Proxy, Family::V4), &"2"]);
    assert_eq!(load.next()["started"], true);
    weir.signal("-USR2");
    let newer: u32 = next(&socket, "READY=1").rsplit_once('=').unwrap().1.parse().unwrap();
    assert_ne!(newer, pid);
    let _stranger = Stranger(newer);
    assert_eq!(next(&socket, "MAINPID"), format!("MAINPID={newer}"), "the older one says so, too");
    wait::until_true("the newer one to answer", SOON, || weir.serving_pid() == Some(newer.into()));
    assert!(weir.wait(SOON).success(), "{}", weir.log());
    load.go_on("stop");
    assert_eq!(load.next()["errors"], json!([]), "an upgrade without a gap");
    assert_eq!(world.app().run("ask", &[&Grid::address(Lane::Proxy, Family::V4)])["names"], json!(["four"]));
    proxy_tests::process::signal(newer, "-TERM").unwrap();
    next(&socket, "STOPPING=1");
    wait::until_true("its end", SOON, || weir.serving_pid().is_none());
    wait::until_true("its files to go", SOON, || !std::path::Path::new("/run/weir/weir.pid").exists());
}
