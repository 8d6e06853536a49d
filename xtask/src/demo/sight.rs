//! Steps that show what an operator sees.

use anyhow::{Result, anyhow, ensure};

use super::Demo;
use super::client::Held;
use super::lanes::curl;
use super::stage::Who;

/// Metrics that are shown, of some hundred.
const SHOWN: [&str; 8] = [
    "weir_connections_opened_total{",
    "weir_connect_retries_total{",
    "weir_retransmits_total{",
    "weir_endpoints{",
    "weir_endpoint_ejections_total{",
    "weir_kernel_verdicts_total{verdict=\"direct\"",
    "weir_kernel_verdicts_total{verdict=\"fail_open\"",
    "weir_config_version{",
];

pub(super) fn connections(demo: &mut Demo) -> Result<()> {
    demo.show.step("Open connections, as the kernel knows them");
    let mut addresses = vec!["10.96.0.10:80", "[fd96::10]:80", "10.96.0.11:80", "10.96.0.11:80"];
    if demo.backends.redis.is_some() {
        addresses.push("10.96.0.12:6379");
    }
    let held = Held::start(&demo.stage, &addresses)?;
    demo.show.command("weir connections");
    let table = demo.node.ask(&demo.stage, &["connections"]);
    if let Ok(table) = &table {
        demo.show.quote(table);
    }
    let result = table.and_then(|table| {
        for (service, lane) in [("demo/web", "proxy"), ("demo/api", "direct")] {
            let is_there = table.lines().any(|line| line.contains(service) && line.contains(lane));
            ensure!(is_there, "there is no line for {service} in the {lane} lane");
        }
        Ok(())
    });
    demo.show.promise("both lanes are there, with the address asked for and the real one", result);
    held.end()
}

pub(super) fn metrics(demo: &mut Demo) -> Result<()> {
    demo.show.step("Metrics for Prometheus");
    demo.show.command("node curl http://127.0.0.1:15020/metrics    # a few lines of it");
    let text = curl(&demo.stage, Who::Node, "http://127.0.0.1:15020/metrics");
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            demo.show.promise("they can be scraped", Err(error));
            return Ok(());
        }
    };
    let shown: Vec<&str> =
        text.lines().filter(|line| SHOWN.iter().any(|start| line.starts_with(start))).collect();
    demo.show.quote(&shown.join("\n"));
    // direct totals live in the kernel and outlive the process; a worker counts from its start
    for (service, lane, what) in
        [("demo/web", "proxy", "since the restart"), ("demo/api", "direct", "also those before the restart")]
    {
        let opened = opened(&text, service, lane);
        demo.show.promise(&format!("{service}: connections of the {lane} lane are counted, {what}"), {
            // a storm alone makes hundreds of connections
            match opened {
                Some(count) if count >= 100.0 => Ok(()),
                found => Err(anyhow!("the count is {found:?}")),
            }
        });
    }
    demo.show.promise("the exposition is whole", {
        if text.trim_end().ends_with("# EOF") { Ok(()) } else { Err(anyhow!("it does not end with # EOF")) }
    });
    Ok(())
}

/// Value of `weir_connections_opened_total` for a service and a lane.
fn opened(text: &str, service: &str, lane: &str) -> Option<f64> {
    let line = text.lines().find(|line| {
        line.starts_with("weir_connections_opened_total{")
            && line.contains(&format!("service=\"{service}\""))
            && line.contains(&format!("lane=\"{lane}\""))
    })?;
    line.rsplit_once(' ')?.1.parse().ok()
}

pub(super) fn status(demo: &mut Demo) -> Result<()> {
    demo.show.step("Where Weir stands");
    demo.show.command("weir status");
    let text = demo.node.ask(&demo.stage, &["status"]);
    if let Ok(text) = &text {
        demo.show.quote(text);
    }
    demo.show.promise(
        "it is ready",
        text.and_then(|text| {
            ensure!(text.contains("ready"), "it does not say so");
            Ok(())
        }),
    );
    Ok(())
}

pub(super) fn doctor(demo: &mut Demo) -> Result<()> {
    demo.show.step("What the doctor says about this machine");
    demo.show.command("weir doctor -c /run/weir-demo/weir.yaml");
    let text = demo.node.ask(&demo.stage, &["doctor", "-c", "/run/weir-demo/weir.yaml"]);
    if let Ok(text) = &text {
        demo.show.quote(text);
    }
    demo.show.promise("it finds no problem", text.map(|_| ()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_found_by_its_labels() {
        let text = "# TYPE weir_connections_opened counter\n\
                    weir_connections_opened_total{service=\"demo/api\",lane=\"proxy\"} 1\n\
                    weir_connections_opened_total{service=\"demo/api\",lane=\"direct\"} 812\n# EOF\n";
        assert_eq!(opened(text, "demo/api", "direct"), Some(812.0));
        assert_eq!(opened(text, "demo/web", "direct"), None);
    }
}
