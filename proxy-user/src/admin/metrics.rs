//! One scrape: everything that is counted, gathered from where it is counted.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proxy_core::health::EndpointReport;
use proxy_core::id::ServiceId;
use proxy_core::load::adaptive::AdaptiveReading;
use proxy_core::overload::Rung;
use proxy_core::service::Service;
use proxy_core::snapshot::Snapshot;

use super::source::Source;
use crate::bug;
use crate::connection::Shared;
use crate::control::{Phase, Status};
use crate::stats::carried::{
    ACCESS_LOG_DROPPED, Carried, KUBELET_ANSWERS, KUBELET_FAILURES, RELOAD_FAILURES, RELOADS,
};
use crate::stats::family::{ConfigReading, PodsReading, Reading, TlsReading, render};
use crate::stats::kernel::KernelReader;
use crate::stats::label::{MOST_ENDPOINTS, Names};
use crate::stats::overload::{OverloadReading, carried_name};
use crate::stats::process::ProcessReading;
use crate::tls::TlsStore;

/// Makes the text of `/metrics`; blocks.
pub(super) fn text(
    source: &impl Source,
    reader: &mut KernelReader,
    health: Vec<EndpointReport>,
) -> io::Result<String> {
    let (status, shared, snapshot) = (source.status(), source.shared(), source.snapshot());
    let carried = &shared.stats.carried;
    let services = shared.stats.all().into_iter().map(|(id, stats)| (Some(id), stats));
    Ok(render(Reading {
        names: names(&snapshot),
        inbound: snapshot.inbound.iter().map(|inbound| inbound.service.id).collect(),
        kernel: source.read_kernel(reader)?,
        proxied: services.chain([(None, Arc::clone(&shared.stats.stray))]).collect(),
        http: shared.stats.http.read(),
        applications: shared.stats.applications.read(),
        adaptive: adaptive(&snapshot),
        health,
        carried_health: carried.health(),
        drivers: (0..)
            .zip(source.driver_counters())
            .map(|(index, own)| carried.with_driver(index, own))
            .collect(),
        pods: pods(&status, carried),
        config: ConfigReading {
            wanted: status.wanted,
            applied: status.applied,
            reloads: status.reloads + carried.of_process(RELOADS),
            failures: status.failures + carried.of_process(RELOAD_FAILURES),
            is_last_good: status.last_error.is_none(),
        },
        is_ready: status.phase == Phase::Ready,
        is_control_hung: status.hung().is_some(),
        restarts: shared.peers.failures(),
        panics: bug::panics(),
        descriptors: (shared.budget.open(), shared.budget.most()),
        overload: overload(shared),
        access_log_dropped: shared.access.dropped() + carried.of_process(ACCESS_LOG_DROPPED),
        moved: (
            shared.stats.moved.count.load(Ordering::Relaxed),
            Duration::from_nanos(shared.stats.moved.longest_pause_ns.load(Ordering::Relaxed)),
        ),
        tls: tls(&shared.tls.current()),
        process: ProcessReading::read(status.started),
    }))
}

fn adaptive(snapshot: &Snapshot) -> Vec<(ServiceId, AdaptiveReading, u32)> {
    let reading = |service: &Service| {
        service.adaptive.as_ref().map(|limit| (service.id, limit.read(), service.load.request_count()))
    };
    snapshot.services().filter_map(|service| reading(service)).collect()
}

fn pods(status: &Status, carried: &Carried) -> PodsReading {
    let of_family = |is_v4| {
        let of = status.node_listeners.iter().find(|one| one.address.is_ipv4() == is_v4);
        of.map(|one| one.is_reached)
    };
    let node_listeners = [true, false].map(of_family);
    let status = &status.pods;
    let counts = [status.chosen.len(), status.others, status.unknown];
    let counts = counts.map(|count| u64::try_from(count).unwrap_or(u64::MAX));
    PodsReading {
        counts: status.is_choosing.then_some(counts),
        answers: status.answers + carried.of_process(KUBELET_ANSWERS),
        failures: status.failures + carried.of_process(KUBELET_FAILURES),
        node_listeners,
    }
}

/// With what processes before this one have done.
fn overload(shared: &Shared) -> OverloadReading {
    let mut reading = shared.overload.read();
    for (rung, actions) in Rung::ALL.into_iter().zip(&mut reading.actions) {
        *actions += shared.stats.carried.of_process(carried_name(rung));
    }
    reading
}

fn tls(store: &TlsStore) -> TlsReading {
    let text = |file: &Path| file.display().to_string();
    TlsReading {
        certificates: store.certificates().iter().map(|one| (text(&one.file), one.not_after)).collect(),
        bad_files: store.problems().map(|problem| text(&problem.file)).collect(),
    }
}

/// Names of what is in force; endpoints only if they are few enough for series of their own.
fn names(snapshot: &Snapshot) -> Names {
    let mut names = Names::default();
    let endpoint_count: usize = snapshot.services().map(|service| service.endpoints.len()).sum();
    let of_applications = snapshot.inbound.iter().map(|inbound| &inbound.service);
    for service in snapshot.services().chain(of_applications) {
        names.add_service(service.id, Arc::clone(&service.name));
        let few = service.endpoints.iter().filter(|_| endpoint_count <= MOST_ENDPOINTS);
        few.for_each(|endpoint| names.add_endpoint(endpoint.id, endpoint.address.to_string().into()));
    }
    names
}
