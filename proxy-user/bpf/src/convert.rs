//! Decisions of `proxy-core` as bytes of the kernel ABI.

use std::net::IpAddr;

use proxy_core::addr::{Cidr, Family};
use proxy_core::intercept::{KernelPolicy, ServiceHead, Slot, SlotEndpoint};
use proxy_core::lane::Lane;
use proxy_core::service::Fail;
use proxy_ebpf_common::key::Addr;
use proxy_ebpf_common::value::{self, ServiceValue, SlotValue, fail, lane, policy};

pub(crate) fn family(family: Family) -> u32 {
    match family {
        Family::V4 => value::FAMILY_V4,
        Family::V6 => value::FAMILY_V6,
    }
}

pub(crate) fn lane(lane: Lane) -> u32 {
    match lane {
        Lane::Direct => lane::DIRECT,
        Lane::Proxy => lane::PROXY,
    }
}

pub(crate) fn service(head: &ServiceHead) -> ServiceValue {
    ServiceValue {
        generation: head.generation,
        policy: match head.policy {
            KernelPolicy::Random => policy::RANDOM,
            KernelPolicy::LeastRequest => policy::LEAST_REQUEST,
            KernelPolicy::Maglev => policy::MAGLEV,
        },
        fail: match head.fail {
            Fail::Open => fail::OPEN,
            Fail::Closed => fail::CLOSED,
        },
        lane: [lane(head.v4.lane), lane(head.v6.lane)],
        slot_count: [head.v4.slot_count, head.v6.slot_count],
    }
}

pub(crate) fn slot(slot: &Slot) -> SlotValue {
    SlotValue {
        primary: slot_endpoint(&slot.primary),
        alias: slot_endpoint(&slot.alias),
        threshold: slot.threshold,
    }
}

fn slot_endpoint(endpoint: &SlotEndpoint) -> value::SlotEndpoint {
    value::SlotEndpoint {
        address: Addr::from(endpoint.address),
        id: endpoint.id.0,
        weight: endpoint.weight.max(1),
    }
}

/// Key of the table of excluded networks: an IPv4 network is its v4-mapped counterpart.
pub(crate) fn excluded_net(cidr: &Cidr) -> [u32; 5] {
    let mapped_bits = if cidr.address().is_ipv4() { 96 } else { 0 };
    let [a, b, c, d] = ip_words(cidr.address());
    [mapped_bits + u32::from(cidr.prefix_bits()), a, b, c, d]
}

/// Words of an address in network order, IPv4 as v4-mapped.
pub(crate) fn ip_words(ip: IpAddr) -> [u32; 4] {
    Addr::from(std::net::SocketAddr::new(ip, 0)).ip_be
}
