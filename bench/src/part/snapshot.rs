//! Finding a service among 10,000, and changing one of them.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use proxy_core::id::ServiceId;
use proxy_core::intercept::Planner;
use proxy_core::service::Service;
use proxy_core::snapshot::Snapshot;

use super::{Run, fixture};

/// Services in force.
const SERVICES: u32 = 10_000;
/// The one that changes.
const CHANGED: ServiceId = ServiceId(4711);
/// Distance between two services that are asked for one after the other: no neighbours, all of them in the end.
const STRIDE: u32 = 7919;

/// What a worker does for a connection that it accepted.
pub(super) fn service_at() -> Result<Run> {
    let snapshot = fixture::snapshot(SERVICES)?;
    let mut index = 0;
    Ok(Box::new(move |times| {
        for _ in 0..times {
            index = (index + STRIDE) % SERVICES;
            black_box(snapshot.service_at(black_box(fixture::address(index + 1))));
        }
    }))
}

/// What a change of an endpoint's health begins with.
pub(super) fn one_changed() -> Result<Run> {
    let before = fixture::snapshot(SERVICES)?;
    Ok(Box::new(move |times| {
        for _ in 0..times {
            let _ = black_box(change(&before));
        }
    }))
}

/// What the kernel must be told of it; carrying it out is no part of this.
pub(super) fn plan_one_changed() -> Result<Run> {
    let before = fixture::snapshot(SERVICES)?;
    let mut planner = Planner::new();
    planner.commit(planner.plan(&before));
    let after = change(&before)?;
    Ok(Box::new(move |times| {
        for _ in 0..times {
            black_box(planner.plan(black_box(&after)));
        }
    }))
}

fn change(before: &Snapshot) -> Result<Snapshot> {
    let mut service = Service::clone(before.service(CHANGED).context("the snapshot has it")?);
    service.endpoints.iter_mut().for_each(|endpoint| endpoint.weight += 1);
    Ok(before.with_services([Arc::new(service)]))
}
