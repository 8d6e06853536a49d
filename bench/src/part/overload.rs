//! What a request asks where memory, descriptors or its service may have no room.

use std::hint::black_box;

use anyhow::{Result, ensure};
use proxy_core::load::adaptive::{Adaptive, AdaptivePolicy};
use proxy_core::load::{Load, RequestLimits};
use proxy_core::overload::{OverloadPolicy, Rung};
use proxy_core::priority::Priority;
use proxy_user::stats::overload::Overload;

use super::Run;

/// Between two answers, and what each took.
const GAP_NS: u64 = 10_000;
const TOOK_NS: u64 = 2_000_000;

/// Asks whether a request is taken, and whether its connection goes on.
pub(super) fn admit() -> Result<Run> {
    let overload = Overload::default();
    overload.set(Some(Rung::RefuseLow), &OverloadPolicy::DEFAULT, false);
    ensure!(overload.refuses(Priority::Low) && !overload.refuses(Priority::Default), "low ones go first");
    let mut index = 0;
    Ok(Box::new(move |times| {
        for _ in 0..times {
            index = (index + 1) % Priority::ALL.len();
            black_box(overload.refuses(black_box(Priority::ALL[index])));
            black_box(overload.is_at(black_box(Rung::StopKeepAlive)));
        }
    }))
}

/// A request's begin below an adaptive limit, its answer and its end, with the window's end now and then.
pub(super) fn adaptive() -> Result<Run> {
    let (load, adaptive) = (Load::default(), Adaptive::new(AdaptivePolicy::DEFAULT));
    ensure!(adaptive.limit() > 0, "nobody would be served");
    let mut now_ns = TOOK_NS;
    Ok(Box::new(move |times| {
        for _ in 0..times {
            now_ns += GAP_NS;
            let limits = RequestLimits { max_requests: Some(adaptive.limit()), ..RequestLimits::default() };
            let under_way = Load::try_request(black_box(&load), limits);
            adaptive.handle_answer(black_box(TOOK_NS), now_ns, load.request_count());
            drop(black_box(under_way));
        }
    }))
}
