//! Times of Weir's small parts: `cargo bench -p proxy-bench --bench parts`.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use criterion::Criterion;
use proxy_bench::part::PARTS;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for part in PARTS {
        let mut run = part.prepare().expect("a test prepares every part");
        criterion.bench_function(part.name, |bencher| {
            bencher.iter_custom(|times| {
                let began = Instant::now();
                run(times);
                began.elapsed()
            });
        });
    }
    criterion.final_summary();
}
