//! Configurations for tests. JSON is YAML, so they are JSON values.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use crate::battery::Path;
use crate::net::Family;
use crate::upstream::Server;
use crate::world::World;

/// Port of every address that applications ask for.
pub const PORT: u16 = 80;
/// Port of most servers.
pub const SERVER_PORT: u16 = 8080;

/// Lanes that a service can be put into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The kernel connects to the endpoint.
    Direct,
    /// A worker does.
    Proxy,
}

impl Lane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Direct, Self::Proxy];

    /// Word in the config.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Proxy => "proxy",
        }
    }
}

/// A config that intercepts the world's application.
#[must_use]
pub fn config(world: &World, services: impl IntoIterator<Item = Value>) -> Value {
    json!({
        "intercept": {"scopes": [{"cgroup": world.app.scope()}]},
        "services": services.into_iter().collect::<Vec<_>>(),
        // a test ends with connections open now and then, and nobody wants to wait for them
        "drain_timeout": "1s",
    })
}

/// A service; `more` holds further keys.
#[must_use]
pub fn service(name: &str, address: SocketAddr, endpoints: &[SocketAddr], lane: Lane, more: Value) -> Value {
    let endpoints: Vec<Value> = endpoints.iter().map(|e| json!({"address": e.to_string()})).collect();
    let policy = if lane == Lane::Direct { "random" } else { "round_robin" };
    let mut service = json!({
        "name": name,
        "addresses": [address.to_string()],
        "lane": lane.as_str(),
        "endpoints": endpoints,
        "balance": {"policy": policy},
    });
    merge(&mut service, more);
    service
}

/// Adds keys, or replaces them.
///
/// # Panics
/// If one of the two is no object.
pub fn merge(into: &mut Value, more: Value) {
    let more: Map<String, Value> = match more {
        Value::Object(more) => more,
        Value::Null => Map::new(),
        other => panic!("not an object: {other}"),
    };
    into.as_object_mut().expect("configs are objects").extend(more);
}

/// One service for each lane and family, each with a server of its own.
pub struct Grid {
    v4: Server,
    v6: Server,
}

impl Grid {
    /// Starts the servers.
    #[must_use]
    pub fn new(world: &World) -> Self {
        let start = |family: Family, name| world.server(family.host(10, SERVER_PORT), name);
        Self { v4: start(Family::V4, "four"), v6: start(Family::V6, "six") }
    }

    /// The services' config.
    #[must_use]
    pub fn services(&self) -> Vec<Value> {
        let each = |(lane, family): (Lane, Family)| {
            let name = format!("grid/{}-{}", lane.as_str(), self.server(family).1);
            let address = Self::address(lane, family);
            service(&name, address, &[self.server(family).0.address()], lane, Value::Null)
        };
        [Family::V4, Family::V6]
            .into_iter()
            .flat_map(|family| Lane::ALL.map(|lane| (lane, family)))
            .map(each)
            .collect()
    }

    /// What an application connects to for this lane and family.
    #[must_use]
    pub fn address(lane: Lane, family: Family) -> SocketAddr {
        family.vip(if lane == Lane::Direct { 1 } else { 2 }, PORT)
    }

    /// The server of a family and its name.
    #[must_use]
    pub fn server(&self, family: Family) -> (&Server, &'static str) {
        match family {
            Family::V4 | Family::Mapped => (&self.v4, "four"),
            Family::V6 => (&self.v6, "six"),
        }
    }

    /// The path of a lane and family.
    #[must_use]
    pub fn path<'a>(&'a self, world: &'a World, lane: Lane, family: Family) -> Path<'a> {
        Path { place: world.app(), address: Self::address(lane, family), server: self.server(family).0 }
    }

    /// All paths, with the lane and family of each.
    pub fn paths<'a>(&'a self, world: &'a World) -> impl Iterator<Item = (Lane, Family, Path<'a>)> {
        let all = Lane::ALL.into_iter().flat_map(|lane| Family::ALL.map(|family| (lane, family)));
        all.map(move |(lane, family)| (lane, family, self.path(world, lane, family)))
    }
}
