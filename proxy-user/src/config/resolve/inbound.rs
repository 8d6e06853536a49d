//! Connections that come to applications: defaults filled in.

use super::super::{InboundConfig, file};
use super::{limits, networks, proxy_protocol, scopes};

pub(super) fn inbound(inbound: &file::Inbound) -> InboundConfig {
    let own = inbound.limits.clone().unwrap_or_default();
    let headers = inbound.proxy_protocol.clone().unwrap_or_default();
    InboundConfig {
        name: inbound.name.value.0.clone(),
        ports: inbound.ports.value.iter().map(|at| at.value).collect(),
        scopes: scopes(&inbound.scopes),
        limits: limits(&file::Limits {
            connect_timeout: own.connect_timeout,
            idle_timeout: own.idle_timeout,
            half_close_timeout: own.half_close_timeout,
            user_timeout: own.user_timeout,
            max_connections: own.max_connections,
            ..file::Limits::default()
        }),
        expects_proxy_header: headers.from_clients.is_some(),
        trusted_proxies: networks(headers.trusted_proxies.as_ref()),
        proxy_protocol: headers.to_applications.map(proxy_protocol),
    }
}
