//! What a reload costs on its way from the file to what the kernel is told.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use proxy_core::health::Tracker;
use proxy_core::id::Version;
use proxy_core::intercept::Planner;
use proxy_core::loss::Losses;
use proxy_core::snapshot::{Intercept, Snapshot};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::{Names, NamesFile};
use crate::config::{Source, Way};

/// The steps of `Control::reload`, without sockets and maps.
#[test]
#[ignore = "prints times; run it with --release --ignored --nocapture"]
fn time_to_reload_ten_thousand_services_of_which_one_changed() {
    let dir = std::env::temp_dir().join(format!("weir-reload-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (file, names_file) = (dir.join("weir.yaml"), dir.join("names.json"));
    let text = services(10_000, 10);
    std::fs::write(&file, &text).unwrap();
    let mut steps = Steps { begun: Instant::now(), line: String::new() };
    let mut source = Source::open(&file).unwrap();
    steps.end("open");
    let (mut names, mut registry) = NamesFile::load(Path::new(&names_file));
    let mut shown = Names::default();
    let (mut tracker, mut losses, mut planner) =
        (Tracker::new(SmallRng::seed_from_u64(1)), Losses::new(), Planner::new());
    let mut in_force = Snapshot::new(Version(0), Intercept::default(), Vec::new(), []);
    for port in 9000..9010 {
        let next = source.config().snapshot(&mut registry, Version(in_force.version.0 + 1), Some(&in_force));
        steps.end("snapshot");
        names.save(&registry).unwrap();
        steps.end("save");
        if !shown.is_all_of(&registry) {
            shown = Names::from(&registry);
        }
        steps.end("names");
        tracker.handle_snapshot(Instant::now(), &next);
        steps.end("track");
        assert!(tracker.poll_changed(&next).is_empty());
        steps.end("poll");
        let plan = planner.plan(&next);
        steps.end("plan");
        let ops_count = plan.ops.len();
        planner.commit(plan);
        losses.handle_snapshot(Instant::now(), &in_force, &next);
        steps.end("losses");
        in_force = next;
        steps.end("drop");
        println!("{}, {ops_count} operations", std::mem::take(&mut steps.line));

        let changed = text.replacen("10.20.0.5:8080", &format!("10.20.0.5:{port}"), 1);
        std::fs::write(&file, changed).unwrap();
        steps.begun = Instant::now();
        assert_eq!(source.reload(), Ok(Way::Changed));
        steps.end("reload");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

struct Steps {
    begun: Instant,
    line: String,
}

impl Steps {
    fn end(&mut self, step: &str) {
        let now = Instant::now();
        let time = now - self.begun;
        write!(self.line, "{step} {:.2} ", time.as_secs_f64() * 1e3).unwrap();
        self.begun = now;
    }
}

fn services(services_count: usize, endpoints_count: usize) -> String {
    let mut text = "services:\n".to_owned();
    for index in 0..services_count {
        let (high, low) = (index / 250, index % 250);
        write!(
            text,
            "  - name: shop/s{index}\n    addresses: [\"10.250.{high}.{low}:80\"]\n    endpoints:\n"
        )
        .unwrap();
        for endpoint in 0..endpoints_count {
            writeln!(text, "      - {{address: \"10.{high}.{low}.{endpoint}:8080\", weight: 2}}").unwrap();
        }
    }
    text
}
