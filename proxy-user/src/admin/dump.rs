//! The configuration in force, as it would be written into a file.

use std::path::Path;
use std::sync::Arc;

use proxy_core::service::Service;
use proxy_core::snapshot::{ExplicitListener, Serves, Snapshot};
use serde::Serialize;
use serde_json::Value;

use crate::config::{
    Config, EndpointConfig, InboundConfig, ListenerConfig, RouteConfig, ServesConfig, ServiceConfig,
};

/// Parts of the file that a snapshot holds; the others need a restart to change and stand in the file.
const PARTS: [&str; 4] = ["intercept", "listeners", "routes", "services"];

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
    let name = |id| snapshot.service(id).map(|service| service.name.to_string()).unwrap_or_default();
    let names = |names: &[Arc<str>]| names.iter().map(ToString::to_string).collect();
    let listener = |listener: &Arc<ExplicitListener>| ListenerConfig {
        address: listener.address,
        protocol: listener.protocol,
        serves: match &listener.serves {
            Serves::Service(id) => ServesConfig::Service(name(*id)),
            Serves::Routes(routes) => ServesConfig::Routes(names(routes)),
        },
        expects_proxy_header: listener.expects_proxy_header,
        trusted_proxies: listener.trusted_proxies.clone(),
        tls: listener.tls.as_deref().cloned(),
        http: listener.http,
    };
    config.listeners = snapshot.listeners.iter().map(listener).collect();
    config.intercept = snapshot.intercept.clone();
    config.inbound = snapshot.inbound.iter().map(|one| InboundConfig::of(one)).collect();
    config.routes = snapshot.routes.iter().map(|route| RouteConfig::of(route, &name)).collect();
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
        tls: service.tls.as_deref().cloned(),
        proxy_protocol: service.proxy_protocol,
        routes: service.routes.iter().map(ToString::to_string).collect(),
        http: service.http,
        lane: service.lane,
        endpoints: service.endpoints.iter().map(endpoint).collect(),
        policy: service.policy,
        health: service.health.clone(),
        outlier: service.outlier,
        limits: service.limits,
        rates: service.rates.limits().collect(),
        on_endpoint_loss: service.on_endpoint_loss,
        fail: service.fail,
    }
}
