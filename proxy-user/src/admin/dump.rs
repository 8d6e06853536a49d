//! The configuration in force, as it would be written into a file.

use std::path::Path;
use std::sync::Arc;

use proxy_core::service::Service;
use proxy_core::snapshot::{ExplicitListener, Serves, Snapshot};
use serde::Serialize;
use serde_json::Value;

use crate::config::{Config, EndpointConfig, ListenerConfig, ServiceConfig};

/// Parts of the file that a snapshot holds; the others need a restart to change and stand in the file.
const PARTS: [&str; 3] = ["intercept", "listeners", "services"];

/// `/config_dump`.
#[derive(Debug, Serialize)]
pub(super) struct DumpPage {
    version: u64,
    file: String,
    config: Value,
}

pub(super) fn dump(snapshot: &Snapshot, file: &Path) -> DumpPage {
    // The printer of whole configurations prints this one, too, so that what is shown can be read back.
    let mut config = crate::config::parse("", "services: []").expect("a config without services is valid");
    fill(&mut config, snapshot);
    let mut printed = config.to_json();
    if let Value::Object(parts) = &mut printed {
        parts.retain(|name, _| PARTS.contains(&name.as_str()));
    }
    DumpPage { version: snapshot.version.0, file: file.display().to_string(), config: printed }
}

fn fill(config: &mut Config, snapshot: &Snapshot) {
    let name = |id| snapshot.service(id).map(|service| service.name.to_string());
    let listener = |listener: &Arc<ExplicitListener>| ListenerConfig {
        address: listener.address,
        service: match &listener.serves {
            Serves::Service(id) => name(*id).unwrap_or_default(),
            Serves::Routes(_) => String::new(),
        },
    };
    config.listeners = snapshot.listeners.iter().map(listener).collect();
    config.intercept = snapshot.intercept.clone();
    config.services = snapshot.services().map(|service| self::service(service)).collect();
    config.services.sort_by(|a, b| a.name.cmp(&b.name));
}

fn service(service: &Service) -> ServiceConfig {
    let endpoint = |endpoint: &proxy_core::service::Endpoint| EndpointConfig {
        address: endpoint.address.0,
        weight: endpoint.weight,
        zone: endpoint.zone.as_deref().map(str::to_owned),
    };
    ServiceConfig {
        name: service.name.to_string(),
        addresses: service.addresses.clone(),
        protocol: service.protocol,
        lane: service.lane,
        endpoints: service.endpoints.iter().map(endpoint).collect(),
        policy: service.policy,
        health: service.health.clone(),
        outlier: service.outlier,
        limits: service.limits,
        on_endpoint_loss: service.on_endpoint_loss,
        fail: service.fail,
    }
}
