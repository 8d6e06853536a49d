//! What is written down about a connection that is over.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use proxy_ebpf_common::key::Addr;
use proxy_ebpf_common::record::{Record, Tcp};
use proxy_ebpf_common::value::{Facts, lane, reason};
use proxy_user::config::LogFormat;
use proxy_user::record::cgroup::Application;
use proxy_user::record::{access, kernel, line};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::Run;

/// From the bytes of the kernel to what the log and the health of endpoints are told.
pub(super) fn from_kernel() -> Result<Run> {
    let bytes = record()?.as_bytes().to_vec();
    let service: Arc<str> = "shop/web".into();
    Ok(Box::new(move |times| {
        for _ in 0..times {
            if let Ok(record) = Record::read_from_bytes(black_box(&bytes)) {
                black_box((kernel::attempt(&record), kernel::access(&record, Some(Arc::clone(&service)))));
            }
        }
    }))
}

/// One line of the access log, as text.
pub(super) fn access_line() -> Result<Run> {
    let record = access::Record::from(kernel::access(&record()?, Some("shop/web".into())));
    let application = Application { cgroup: "/app.slice/web".into(), pod: None };
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_709_210_096_789);
    let mut bytes = Vec::new();
    Ok(Box::new(move |times| {
        for _ in 0..times {
            bytes.clear();
            line::append(&mut bytes, LogFormat::Text, time, black_box(&record), Some(&application));
            black_box(&bytes);
        }
    }))
}

fn record() -> Result<Record> {
    let address = |text: &str| text.parse::<SocketAddr>().map(Addr::from).context("an address");
    let facts = Facts {
        cgroup_id: 7,
        opened_ns: 1_000_000,
        established_ns: 1_200_000,
        source: address("10.0.0.1:40000")?,
        asked: address("10.96.0.10:80")?,
        real: address("10.1.0.5:8080")?,
        service: 1,
        endpoint: 1,
        lane: lane::DIRECT,
        ..Facts::default()
    };
    let tcp = Tcp {
        sent_bytes: 310,
        received_bytes: 15_800,
        now_ns: 2_500_000,
        reason: reason::FIN,
        ..Tcp::default()
    };
    Ok(Record { facts, tcp })
}
