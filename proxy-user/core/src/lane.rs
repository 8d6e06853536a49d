//! Which lane a service's connections take, and why. The only place where this is decided.

use crate::addr::Family;
use crate::service::{LaneChoice, Policy, Protocol, Service};

/// Who moves the bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Nobody: the kernel connects the application to the endpoint.
    Direct,
    /// A worker.
    Proxy,
}

impl Lane {
    /// Word for metrics, logs and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Proxy => "proxy",
        }
    }
}

/// What forced or allowed the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LaneReason {
    /// The config names the lane.
    Asked,
    /// Nothing needs a worker.
    NothingNeedsUserspace,
    /// The policy cannot be followed by the kernel.
    Policy(Policy),
    /// A limit or timeout is set that only a worker can keep.
    Limits,
    /// An endpoint's family does not fit the socket's, so somebody must translate.
    Family(Family),
    /// The protocol must be read.
    Protocol(Protocol),
    /// Endpoints are spoken to in TLS.
    Tls,
    /// Endpoints are told of the client by a header.
    ProxyProtocol,
}

impl std::fmt::Display for LaneReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Asked => f.write_str("the config names the lane"),
            Self::NothingNeedsUserspace => f.write_str("nothing in the config needs a worker"),
            Self::Policy(policy) => write!(f, "balance policy {} is kept by workers only", policy.as_str()),
            Self::Limits => f.write_str("limits are kept by workers only"),
            Self::Family(family) => write!(f, "not every endpoint can be reached from an {family} socket"),
            Self::Protocol(protocol) => write!(f, "protocol {} is spoken by workers only", protocol.as_str()),
            Self::Tls => f.write_str("TLS to endpoints is spoken by workers only"),
            Self::ProxyProtocol => f.write_str("PROXY headers are sent by workers only"),
        }
    }
}

/// Chooses the lane for connections to a service's addresses of one family.
///
/// `auto` is direct only if the protocol is tcp, endpoints speak no TLS, the kernel knows the policy, no limit is set, and every endpoint that
/// serves (weight above 0) has the family of the socket. Health does not matter: a lane that changed with it would be
/// a surprise.
#[must_use]
pub fn choose(service: &Service, family: Family) -> (Lane, LaneReason) {
    match service.lane {
        LaneChoice::Direct => (Lane::Direct, LaneReason::Asked),
        LaneChoice::Proxy => (Lane::Proxy, LaneReason::Asked),
        LaneChoice::Auto => match obstacle(service, family) {
            Some(reason) => (Lane::Proxy, reason),
            None => (Lane::Direct, LaneReason::NothingNeedsUserspace),
        },
    }
}

/// Finds the first thing in a service that the direct lane cannot honour for sockets of a family.
///
/// The config refuses `lane: direct` where this finds something, except for [`LaneReason::Family`] while at least one
/// endpoint fits.
#[must_use]
pub fn obstacle(service: &Service, family: Family) -> Option<LaneReason> {
    if service.protocol != Protocol::Tcp {
        return Some(LaneReason::Protocol(service.protocol));
    }
    if service.tls.is_some() {
        return Some(LaneReason::Tls);
    }
    if service.proxy_protocol.is_some() {
        return Some(LaneReason::ProxyProtocol);
    }
    if !is_kernel_policy(service.policy) {
        return Some(LaneReason::Policy(service.policy));
    }
    if service.limits.is_set {
        return Some(LaneReason::Limits);
    }
    let serving = service.endpoints.iter().filter(|e| e.weight > 0);
    let fits = serving.map(|e| Family::of(e.address.0)).all(|f| f == family);
    (!fits).then_some(LaneReason::Family(family))
}

/// Tells whether the kernel can follow a policy.
#[must_use]
pub fn is_kernel_policy(policy: Policy) -> bool {
    matches!(policy, Policy::Random | Policy::LeastRequest | Policy::Maglev)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn auto_is_direct_when_nothing_needs_userspace() {
        for policy in [Policy::Random, Policy::LeastRequest, Policy::Maglev] {
            let service = fixture::service(1, policy, &[1, 2]);
            assert_eq!(choose(&service, Family::V4), (Lane::Direct, LaneReason::NothingNeedsUserspace));
        }
    }

    #[test]
    fn auto_is_proxy_for_policies_that_only_workers_keep() {
        for policy in [Policy::RoundRobin, Policy::LeastLatency, Policy::RingHash] {
            let service = fixture::service(1, policy, &[1, 2]);
            assert_eq!(choose(&service, Family::V4), (Lane::Proxy, LaneReason::Policy(policy)));
        }
    }

    #[test]
    fn auto_is_proxy_when_limits_are_set() {
        let mut service = fixture::service(1, Policy::Random, &[1]);
        service.limits.is_set = true;
        assert_eq!(choose(&service, Family::V4), (Lane::Proxy, LaneReason::Limits));
    }

    #[test]
    fn auto_is_proxy_when_bytes_must_be_read_or_encrypted() {
        let mut service = fixture::service(1, Policy::Random, &[1]);
        service.protocol = Protocol::Http;
        assert_eq!(choose(&service, Family::V4), (Lane::Proxy, LaneReason::Protocol(Protocol::Http)));
        service.protocol = Protocol::Tcp;
        service.tls = Some(std::sync::Arc::new(crate::tls::ClientTls {
            ca: None,
            sni: None,
            certificate: None,
            min_version: crate::tls::TlsVersion::V1_2,
        }));
        assert_eq!(choose(&service, Family::V4), (Lane::Proxy, LaneReason::Tls));
        service.tls = None;
        service.proxy_protocol = Some(crate::proxy_protocol::Version::V2);
        assert_eq!(choose(&service, Family::V4), (Lane::Proxy, LaneReason::ProxyProtocol));
    }

    #[test]
    fn auto_is_proxy_for_sockets_that_cannot_reach_every_serving_endpoint() {
        let mut service = fixture::service(1, Policy::Random, &[1]);
        assert_eq!(choose(&service, Family::V6), (Lane::Proxy, LaneReason::Family(Family::V6)));
        service.endpoints.push(fixture::endpoint(9, fixture::v6(9, 80), 0));
        assert_eq!(choose(&service, Family::V4).0, Lane::Direct, "weight 0 does not serve");
        service.endpoints[1].weight = 1;
        for family in Family::ALL {
            assert_eq!(choose(&service, family), (Lane::Proxy, LaneReason::Family(family)));
        }
    }

    #[test]
    fn health_does_not_change_the_lane() {
        let mut service = fixture::service(1, Policy::Random, &[1, 1]);
        service.endpoints.push(fixture::endpoint(9, fixture::v6(9, 80), 1));
        service.endpoints[2].state = crate::service::EndpointState::Unhealthy;
        assert_eq!(choose(&service, Family::V4).0, Lane::Proxy);
    }

    #[test]
    fn a_named_lane_is_taken_whatever_the_rest() {
        let mut service = fixture::service(1, Policy::RoundRobin, &[1]);
        service.lane = LaneChoice::Direct;
        assert_eq!(choose(&service, Family::V6), (Lane::Direct, LaneReason::Asked));
        assert_eq!(obstacle(&service, Family::V6), Some(LaneReason::Policy(Policy::RoundRobin)));
        service.lane = LaneChoice::Proxy;
        service.policy = Policy::Random;
        assert_eq!(choose(&service, Family::V4), (Lane::Proxy, LaneReason::Asked));
    }
}
