//! What Weir adds to connect(): the client's own processor time, with and without it.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use serde_json::Value;

use super::Bench;
use super::progress::Progress;
use crate::case::{Case, Work};
use crate::contestant::weir::{self, DIRECT_LANE, Weir};
use crate::contestant::{Name, Ports};
use crate::place::PROXY_CORE;
use crate::report::Sample;
use crate::results::{CaseResult, Row};

struct Contest {
    name: String,
    samples: Vec<Sample>,
    errors: Vec<String>,
}

impl Contest {
    fn new(name: String) -> Self {
        Self { name, samples: Vec::new(), errors: Vec::new() }
    }

    fn add(&mut self, sample: Result<Sample>) {
        match sample {
            Ok(sample) => self.samples.push(sample),
            Err(error) => self.errors.push(format!("{error:#}")),
        }
    }
}

impl Bench<'_> {
    /// Measures connect and close: without Weir, and hit and miss for every size of the configuration.
    #[must_use]
    pub fn overhead(&self, case: &Case, progress: &mut Progress) -> CaseResult {
        let mut without = Contest::new("no-weir".to_owned());
        let mut with: Vec<(u32, Contest, Contest)> = self
            .plan
            .services
            .iter()
            .map(|count| {
                let name = |word| format!("{word}, {count} services");
                (*count, Contest::new(name("hit")), Contest::new(name("miss")))
            })
            .collect();
        progress.begin_steps(self.plan.repetitions);
        for repetition in 0..self.plan.repetitions {
            // for the whole repetition: hit, miss and no Weir are to meet the same strangers
            let turn = weir::turn();
            without.add(self.connect(Ports::BACKEND));
            for turn in 0..with.len() {
                let index = (turn + repetition) % with.len();
                let (count, hit, miss) = &mut with[index];
                match self.weir_with(*count) {
                    Ok(_weir) => {
                        hit.add(self.connect(DIRECT_LANE));
                        miss.add(self.connect(Ports::BACKEND));
                    }
                    Err(error) => hit.errors.push(format!("{error:#}")),
                }
            }
            if let Err(error) = turn {
                without.errors.push(format!("{error:#}"));
            }
            progress.step();
        }
        let contests =
            std::iter::once(without).chain(with.into_iter().flat_map(|(_, hit, miss)| [hit, miss]));
        let rows = contests.map(|contest| {
            Row::new(
                &contest.name,
                false,
                &contest.samples,
                |sample| case.work.figure(sample),
                contest.errors,
            )
        });
        case.result(rows.collect())
    }

    fn weir_with(&self, count: u32) -> Result<Weir> {
        let services = services(count, &[Ports::BACKEND.echo], Ports::BACKEND.echo);
        let config = weir::config(self.place, &services);
        Weir::start((Name::WeirDirect, DIRECT_LANE), self.place, self.tools, self.scratch, &config)
    }

    /// The client is alone on its processor: the backend's work must not get into its caches.
    fn connect(&self, ports: Ports) -> Result<Sample> {
        self.load(PROXY_CORE, Work::Overhead, ports, &[], true)
    }
}

/// Services of the direct lane: the one that clients ask for, with one endpoint, and `count - 1` others.
pub(super) fn services(count: u32, endpoints: &[SocketAddr], endpoint: SocketAddr) -> Vec<Value> {
    let asked = weir::service("bench/asked", "direct", "random", DIRECT_LANE.echo, &[endpoint]);
    let others = (1..count).map(|index| {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 16, 0)) + index);
        let name = format!("bench/other-{index}");
        weir::service(&name, "direct", "random", SocketAddr::new(address.into(), 80), endpoints)
    });
    std::iter::once(asked).chain(others).collect()
}
