//! Picking a backend for the direct lane. `proxy_core::balance` makes the tables and has the same hash.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use proxy_ebpf_common::key::SlotKey;
use proxy_ebpf_common::value::{ServiceValue, SlotEndpoint, SlotValue, policy};

use crate::counters::load;
use crate::error::Skip;
use crate::flow;
use crate::maps::SLOTS;

/// Draws for a second candidate that differs from the first; each costs a look-up.
const MOST_REDRAWS: u32 = 3;

/// Draws an endpoint from a table; `None` if the table is empty.
///
/// `source_ip_be` is the application's own address if it is known; Maglev hashes it, or else the namespace.
#[inline(always)]
pub fn pick(
    service: u32,
    value: &ServiceValue,
    family: u32,
    slot_count: u32,
    source_ip_be: &[u32; 4],
    netns_cookie: u64,
) -> Result<Option<SlotEndpoint>, Skip> {
    if slot_count == 0 {
        return Ok(None);
    }
    let mut key = SlotKey { service, generation: value.generation, family, slot: 0 };
    if value.policy == policy::MAGLEV {
        key.slot = scale(source_hash(source_ip_be, netns_cookie), slot_count);
        return Ok(Some(slot(&key)?.primary));
    }
    let first = draw(&mut key, slot_count)?;
    if value.policy != policy::LEAST_REQUEST || slot_count == 1 {
        return Ok(Some(first));
    }
    // The same endpoint twice would be no choice; only a very heavy one is drawn this often in a row.
    let mut second = draw(&mut key, slot_count)?;
    let mut redraws = 0;
    while second.id == first.id && redraws < MOST_REDRAWS {
        second = draw(&mut key, slot_count)?;
        redraws += 1;
    }
    // (load + 1) / weight, compared without a division; weights are below 2^32 and loads below 2^31.
    let first_cost = (load(first.id) + 1).wrapping_mul(second.weight.into());
    let second_cost = (load(second.id) + 1).wrapping_mul(first.weight.into());
    Ok(Some(if second_cost < first_cost { second } else { first }))
}

/// Draws one endpoint by weight.
#[inline(always)]
fn draw(key: &mut SlotKey, slot_count: u32) -> Result<SlotEndpoint, Skip> {
    key.slot = scale(random(), slot_count);
    let slot = slot(key)?;
    Ok(if slot.threshold == u32::MAX || random() < slot.threshold { slot.primary } else { slot.alias })
}

#[inline(always)]
fn slot(key: &SlotKey) -> Result<&'static SlotValue, Skip> {
    // SAFETY: slots are written once under a fresh generation and removed long after it was retired.
    unsafe { SLOTS.get(key) }.ok_or(Skip::Inconsistent)
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: a plain helper call.
    unsafe { bpf_get_prandom_u32() }
}

/// Maps a number from `0..2^32` to `0..n` (Lemire 2019).
#[inline(always)]
fn scale(value: u32, n: u32) -> u32 {
    ((u64::from(value) * u64::from(n)) >> 32) as u32
}

/// Hash of a source address, equal to `proxy_core::balance::source_hash`; of the namespace if there is no address.
#[inline(always)]
fn source_hash(ip_be: &[u32; 4], netns_cookie: u64) -> u32 {
    let words = if ip_be[0] | ip_be[1] | ip_be[2] | ip_be[3] == 0 {
        [netns_cookie as u32, (netns_cookie >> 32) as u32, 0, 0]
    } else {
        *ip_be
    };
    let mut hash: u32 = 0x9747_b28c;
    let mut i = 0;
    while i < 4 {
        hash = (hash ^ words[i]).wrapping_mul(0x9E37_79B1);
        hash ^= hash >> 15;
        i += 1;
    }
    hash = hash.wrapping_mul(0x85EB_CA77);
    hash ^ (hash >> 13)
}

/// The application's own address as far as connect() can know it: what it bound, else what its route would give.
#[inline(always)]
pub fn source_ip(sk: *mut bpf_sock, routed_ip_be: &[u32; 4]) -> [u32; 4] {
    let bound = flow::bound_ip(sk);
    if bound[0] | bound[1] | bound[2] | bound[3] != 0 { bound } else { *routed_ip_be }
}
