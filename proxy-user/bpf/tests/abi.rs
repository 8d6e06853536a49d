//! Two processes that share pinned maps agree on every byte of them, or have different versions of the ABI.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fmt::Write as _;
use std::fs;
use std::mem::offset_of;
use std::path::Path;

use aya_obj::Object;
use proxy_bpf::abi::ABI_VERSION;
use proxy_bpf::abi::counter::Counter;
use proxy_bpf::abi::key::{Addr, OriginalDstKey, TotalsKey};
use proxy_bpf::abi::record::{Record, Tcp};
use proxy_bpf::abi::value::{
    BUCKET_COUNT, Facts, HistogramValue, OriginalDst, TotalsValue, bucket_bound_us, facts_flag, lane, reason,
};
use proxy_bpf::{load, object};

/// Writes a line for each field of a type, which cannot have more than are named here.
macro_rules! fields {
    ($to:ident, $($type:ident { $($field:ident),* })*) => { $(
        let value = $type::default();
        let $type { $($field),* } = &value;
        $(
            let (at, bytes) = (offset_of!($type, $field), size_of_val($field));
            writeln!($to, "{} {} at {at}, {bytes} bytes", stringify!($type), stringify!($field)).unwrap();
        )*
    )* };
}

/// Writes a line for each number that has a meaning.
macro_rules! numbers {
    ($to:ident, $($module:ident: $($name:ident)*;)*) => {
        $($(writeln!($to, "{} {} {}", stringify!($module), stringify!($name), $module::$name).unwrap();)*)*
    };
}

/// Everything that the pinned maps of this source are made of, in words.
fn shape() -> String {
    let mut text = String::new();
    let bytes = object::bytes().unwrap();
    let object = Object::parse(&bytes).unwrap();
    for name in load::PINNED {
        let map = &object.maps[name];
        let (kind, flags, entries) = (map.map_type(), map.map_flags(), map.max_entries());
        let (key, value) = (map.key_size(), map.value_size());
        writeln!(text, "{name} type {kind} flags {flags} key {key} value {value} entries {entries}").unwrap();
    }
    fields! { text,
        Addr { ip_be, port_be, pad }
        OriginalDstKey { netns_cookie, source, listener }
        OriginalDst { cgroup_id, netns_cookie, opened_ns, address, service }
        Facts {
            cgroup_id, netns_cookie, cookie, opened_ns, established_ns, source, asked, real, service, endpoint, lane,
            flags, pad
        }
        TotalsKey { service, endpoint, lane }
        TotalsValue { opened, closed, sent_bytes, received_bytes, retransmits }
        HistogramValue { connect, connect_us, rtt, rtt_us }
        Record { facts, tcp }
        Tcp { sent_bytes, received_bytes, now_ns, rtt_us, min_rtt_us, retransmits, state, reason, error, pad }
    }
    numbers! { text,
        lane: NONE DIRECT PROXY UPSTREAM INBOUND;
        facts_flag: LOADED OPENED FAIL_OPEN TO_APPLICATION;
        reason: OPEN FIN RESET ABORTED REFUSED TIMEOUT UNREACHABLE ABANDONED DESTROYED OTHER;
    }
    for counter in Counter::ALL {
        writeln!(text, "counter {} {}", counter.as_str(), *counter as u32).unwrap();
    }
    for (index, bound) in (0..BUCKET_COUNT).map(bucket_bound_us).enumerate() {
        writeln!(text, "bucket {index} to {} us", bound.map_or("any".to_owned(), |us| us.to_string()))
            .unwrap();
    }
    text
}

#[test]
fn the_shape_of_pinned_maps_is_what_their_version_says() {
    let file = format!("{}/object/abi-{ABI_VERSION}.txt", env!("CARGO_MANIFEST_DIR"));
    let (recorded, now) = (fs::read_to_string(&file).unwrap_or_default(), shape());
    let changed: Vec<_> = now.lines().filter(|line| !recorded.lines().any(|other| other == *line)).collect();
    let gone: Vec<_> = recorded.lines().filter(|line| !now.lines().any(|other| other == *line)).collect();
    if recorded != now {
        let proposal = Path::new(env!("CARGO_TARGET_TMPDIR")).join("abi.txt");
        fs::write(&proposal, now.as_bytes()).unwrap();
        panic!(
            "the shape of pinned maps is not that of ABI {ABI_VERSION}: new {changed:?}, gone {gone:?}\n\
             Raise ABI_VERSION, and record {} as the shape of the new one in {file}",
            proposal.display()
        );
    }
}
