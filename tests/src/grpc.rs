//! gRPC by its own library: a server on the far side, and clients that go through steps of a test.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::client::Place;
use crate::process::Running;
use crate::python::{PYTHON, has_module};
use crate::world::World;

const SERVER: &str = include_str!("python/grpc_server.py");
const CLIENT: &str = include_str!("python/grpc_client.py");
const WEB_CLIENT: &str = include_str!("python/grpc_web_client.py");
/// Longer than any step needs on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(10);

/// Starts a server; or reports that the test is skipped, because the library is not installed.
///
/// # Panics
/// If it does not come up.
#[must_use]
pub fn serve(world: &World, address: SocketAddr) -> Option<Running> {
    if !has_module("grpc") {
        return None;
    }
    let mut command = world.far().command(Path::new(PYTHON));
    let server = Running::start(command.args(["-c", SERVER, &address.to_string()])).expect("python starts");
    assert_eq!(server.line(LIMIT).as_deref(), Some("ready"), "a server is ready");
    Some(server)
}

/// Starts a client that goes through steps of `python/grpc_client.py`, separated by commas.
///
/// # Panics
/// If it does not start.
#[must_use]
pub fn client(place: Place<'_>, address: SocketAddr, steps: &str, more: &[&str]) -> Running {
    start(CLIENT, place, address, steps, more)
}

/// Starts a client that goes through steps of `python/grpc_web_client.py`.
///
/// # Panics
/// If it does not start.
#[must_use]
pub fn web_client(place: Place<'_>, address: SocketAddr, steps: &str, more: &[&str]) -> Running {
    start(WEB_CLIENT, place, address, steps, more)
}

fn start(script: &str, place: Place<'_>, address: SocketAddr, steps: &str, more: &[&str]) -> Running {
    let mut command = place.command(Path::new(PYTHON));
    command.args(["-c", script, &address.to_string(), steps]).args(more);
    Running::start(&mut command).expect("python starts")
}

/// Goes through steps to their end.
///
/// # Panics
/// If one fails.
pub fn run(place: Place<'_>, address: SocketAddr, steps: &str) {
    goes_through(client(place, address, steps, &[]), address, steps);
}

/// Waits until a client has gone through steps to their end.
///
/// # Panics
/// If one fails.
pub fn goes_through(mut client: Running, address: SocketAddr, steps: &str) {
    let lines: Vec<String> = std::iter::from_fn(|| client.line(LIMIT)).collect();
    let wanted: Vec<String> = steps.split(',').map(|step| format!("ok {step}")).collect();
    assert_eq!(lines, wanted, "{address}");
    assert!(client.wait(END_LIMIT).success(), "{address}");
}
