//! How long a large configuration takes: to load, and to change.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};

use super::Bench;
use super::overhead::services;
use super::progress::Progress;
use crate::case::Case;
use crate::contestant::weir::{self, DIRECT_LANE, Weir};
use crate::contestant::{Name, Ports};
use crate::place::LOAD_CORE;
use crate::results::{CaseResult, Row, Spread};

/// Sizes of the configuration: the first shows what starting costs anyway.
const SERVICES: [u32; 2] = [10, 10_000];
/// Endpoints of each service.
const ENDPOINTS: u16 = 10;
/// Nobody listens here.
const DEAD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9);
/// Time for the client to begin with its tries.
const HEAD_START: Duration = Duration::from_millis(300);

impl Bench<'_> {
    /// Measures start and one change for every size.
    #[must_use]
    pub fn control_plane(&self, case: &Case, progress: &mut Progress) -> CaseResult {
        let mut rows = Vec::new();
        progress.begin_steps(SERVICES.len() * self.plan.repetitions);
        for count in SERVICES {
            let (mut starts, mut changes, mut errors) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..self.plan.repetitions {
                match self.start_and_change(count) {
                    Ok((start, change)) => {
                        starts.push(start.as_secs_f64() * 1e3);
                        changes.push(change.as_secs_f64() * 1e3);
                    }
                    Err(error) => errors.push(format!("{error:#}")),
                }
                progress.step();
            }
            for (word, values) in [("start to ready", starts), ("one endpoint changed", changes)] {
                let name = format!("{word}, {count} services");
                rows.push(Row { name, figure: Spread::of(values), errors: errors.clone(), ..Row::default() });
            }
        }
        case.result(rows)
    }

    fn start_and_change(&self, count: u32) -> Result<(Duration, Duration)> {
        let others: Vec<SocketAddr> = (0..ENDPOINTS)
            .map(|index| SocketAddr::new(Ipv4Addr::new(127, 1, 0, 1).into(), 8000 + index))
            .collect();
        let config = |endpoint| weir::config(self.place, &services(count, &others, endpoint));
        let (before, after) = (config(DEAD), config(Ports::BACKEND.echo));
        let _turn = weir::turn()?;
        let began = Instant::now();
        let weir =
            Weir::start((Name::WeirDirect, DIRECT_LANE), self.place, self.tools, self.scratch, &before)?;
        let start = began.elapsed();

        let mut client = self.place.intercepted(LOAD_CORE, &self.tools.load);
        client
            .args(["until", "--target", &DIRECT_LANE.echo.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let client = client.spawn().context("cannot start the client")?;
        thread::sleep(HEAD_START);
        let changed = weir.reload(&after)?;
        let output = client.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "{}: {}",
            String::from_utf8_lossy(&output.stderr),
            weir.proxy.last_words()
        );
        let accepted = SystemTime::UNIX_EPOCH + Duration::from_nanos(text.trim().parse()?);
        let change =
            accepted.duration_since(changed).context("the service was reachable before the change")?;
        Ok((start, change))
    }
}
