//! One service of HTTP, `web`, whose endpoint is on the far side: caught at its address, and offered at the edge.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::client::Place;
use crate::config;
use crate::net::Family;
use crate::world::World;

/// Where it is offered to clients that know Weir.
#[must_use]
pub fn edge() -> SocketAddr {
    Family::V4.host(1, 8000)
}

/// What applications connect to.
#[must_use]
pub fn vip() -> SocketAddr {
    Family::V4.vip(1, 80)
}

/// Its endpoint.
#[must_use]
pub fn host() -> SocketAddr {
    Family::V4.host(10, 8080)
}

/// A configuration whose service's endpoint speaks a protocol; `more` is added to the service.
#[must_use]
pub fn speaking(world: &World, protocol: &str, more: Value) -> Value {
    let mut service = json!({
        "name": "web", "protocol": protocol, "addresses": [vip().to_string()],
        "endpoints": [{"address": host().to_string()}],
    });
    config::merge(&mut service, more);
    let mut config = config::config(world, [service]);
    let listener = json!({"address": edge().to_string(), "protocol": "http", "service": "web"});
    config::merge(&mut config, json!({"listeners": [listener]}));
    config
}

/// Both ways to it: where the client runs, and what it asks for.
#[must_use]
pub fn ways(world: &World) -> [(Place<'_>, SocketAddr); 2] {
    [(world.outside(), edge()), (world.app(), vip())]
}
