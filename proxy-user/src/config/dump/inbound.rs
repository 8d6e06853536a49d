//! Connections that come to applications, as one would write them.

use super::super::{InboundConfig, file};
use super::{At, Name, limits, networks, proxy_protocol, scope};

pub(super) fn inbound(inbound: &InboundConfig) -> file::Inbound {
    let own = limits(&inbound.limits, &[]).unwrap_or_default();
    let headers = file::InboundProxyProtocol {
        from_clients: inbound.expects_proxy_header.then_some(file::ProxyHeader::Required),
        trusted_proxies: networks(&inbound.trusted_proxies),
        to_applications: inbound.proxy_protocol.map(proxy_protocol),
    };
    file::Inbound {
        name: At::nowhere(Name(inbound.name.clone())),
        ports: At::nowhere(inbound.ports.iter().copied().map(At::nowhere).collect()),
        scopes: inbound.scopes.iter().map(|one| At::nowhere(scope(one))).collect(),
        limits: Some(file::InboundLimits {
            connect_timeout: own.connect_timeout,
            idle_timeout: own.idle_timeout,
            half_close_timeout: own.half_close_timeout,
            user_timeout: own.user_timeout,
            max_connections: own.max_connections,
        }),
        proxy_protocol: Some(headers),
    }
}
