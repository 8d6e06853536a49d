//! Reading a configuration of 100 services.

use std::fmt::Write as _;
use std::hint::black_box;

use anyhow::Result;

use super::{Run, fixture};

/// Services in the file.
const SERVICES: u32 = 100;

/// From the text to the typed and checked configuration.
pub(super) fn hundred_services() -> Result<Run> {
    let text = file();
    fixture::parse(&text)?;
    Ok(Box::new(move |times| {
        for _ in 0..times {
            let _ = black_box(fixture::parse(black_box(&text)));
        }
    }))
}

/// Written as people do: three endpoints, health checks and limits for each service.
fn file() -> String {
    let mut text = "intercept:\n  scopes: [{cgroup: /app.slice}]\nservices:\n".to_owned();
    for index in 1..=SERVICES {
        let endpoints = (0..3).map(|n| format!("{{address: \"10.1.{index}.{n}:8080\", weight: {}}}", n + 1));
        let endpoints = endpoints.collect::<Vec<_>>().join(", ");
        // writing to a String cannot fail
        let _ = write!(
            text,
            "  - name: shop/service-{index}\n    addresses: [\"10.96.0.{index}:80\", \"[fd00::{index}]:80\"]\n    \
             endpoints: [{endpoints}]\n    balance: {{policy: least_request}}\n    \
             health: {{interval: 2s, timeout: 500ms, http: {{path: /healthz, status: [200]}}}}\n    \
             limits: {{connect_timeout: 1s, idle_timeout: 1h, max_connections: 10000}}\n    \
             on_endpoint_loss: drain\n"
        );
    }
    text
}
