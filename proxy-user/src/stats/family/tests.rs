use std::sync::Arc;
use std::time::Duration;

use proxy_bpf::abi::value::{bucket_index, reason};
use proxy_core::outcome::RequestReason;
use proxy_core::service::EndpointState;

use super::*;
use crate::stats::application::{Application, Applications, Key, Lane};
use crate::stats::http::{Event, HttpRegistry, RequestEnd};
use crate::stats::kernel::MapFill;
use crate::stats::overload::Share;

#[test]
fn kernel_lanes_come_from_the_kernel_and_the_proxy_lane_from_the_workers() {
    let text = render(reading());
    for line in [
        "# TYPE weir_connections_opened counter",
        r#"weir_connections_opened_total{service="shop/web",lane="direct"} 7"#,
        r#"weir_connections_opened_total{service="shop/db",lane="proxy"} 3"#,
        r#"weir_connections_opened_total{service="unknown",lane="none"} 9"#,
        r#"weir_connections_opened_total{service="unknown",lane="proxy"} 1"#,
        r#"weir_connections_closed_total{service="shop/web",lane="direct",reason="reset"} 2"#,
        r#"weir_connections_closed_total{service="shop/db",lane="proxy",reason="connect_refused"} 1"#,
        r#"weir_connections_active{service="shop/web",lane="direct"} 4"#,
        r#"weir_connections_active{service="shop/db",lane="proxy"} 2"#,
        r#"weir_bytes_sent_total{service="shop/web",lane="direct"} 1000"#,
        r#"weir_connect_failures_total{service="shop/db"} 4"#,
        r#"weir_retransmits_total{service="shop/db",lane="proxy"} 5"#,
    ] {
        assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
    }
    let doubled = r#"weir_connections_opened_total{service="shop/db",lane="proxy"}"#;
    assert_eq!(text.matches(doubled).count(), 1);
}

#[test]
fn requests_are_counted_by_service_and_by_rule() {
    let text = render(reading());
    for line in [
        r#"weir_http_requests_total{service="shop/web",status="2xx"} 2"#,
        r#"weir_http_requests_total{service="shop/web",status="5xx"} 2"#,
        r#"weir_http_requests_ended_total{service="shop/web",reason="connect_refused"} 2"#,
        r#"weir_http_requests_active{service="shop/web"} 1"#,
        r#"weir_http_request_duration_seconds_sum{service="shop/web"} 0.006"#,
        r#"weir_http_request_duration_seconds_bucket{le="0.001",service="shop/web"} 0"#,
        r#"weir_http_request_duration_seconds_bucket{le="0.0025",service="shop/web"} 4"#,
        r#"weir_http_request_duration_seconds_bucket{le="+Inf",service="shop/web"} 4"#,
        r#"weir_http_bytes_received_total{service="shop/web"} 280"#,
        r#"weir_http_retries_total{service="shop/web",result="made"} 2"#,
        r#"weir_http_retries_total{service="shop/web",result="refused"} 0"#,
        r#"weir_http_upstream_connections_total{service="shop/web",how="reused"} 2"#,
        r#"weir_http_rule_requests_total{route="shop",rule="0",status="5xx"} 2"#,
        r#"weir_http_rule_request_duration_seconds_count{route="shop",rule="0"} 4"#,
    ] {
        assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
    }
    assert!(!text.lines().any(|line| line.contains("weir_http") && line.contains("unknown")), "{text}");
}

#[test]
fn each_application_is_counted_by_itself_and_what_nobody_knows_as_one() {
    let text = render(reading());
    for line in [
        r#"weir_application_connections_opened_total{application="shop/web-1",lane="proxy"} 2"#,
        r#"weir_application_connections_active{application="shop/web-1",lane="proxy"} 1"#,
        r#"weir_application_bytes_sent_total{application="shop/web-1",lane="proxy"} 100"#,
        r#"weir_application_bytes_received_total{application="shop/web-1",lane="proxy"} 200"#,
        r#"weir_application_connections_refused_total{application="shop/web-1",reason="limit"} 1"#,
        r#"weir_application_connections_refused_total{application="other",reason="no_endpoint"} 1"#,
        r#"weir_application_http_requests_total{application="shop/web-1"} 1"#,
        r#"weir_applications{series="own"} 1"#,
        r#"weir_applications{series="other"} 0"#,
    ] {
        assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
    }
    assert!(!text.contains(r#"application="shop/web-1",lane="direct""#), "what is nothing has no series");
}

#[test]
fn endpoints_of_a_service_are_added_up_and_shown_one_by_one() {
    let text = render(reading());
    for line in [
        r#"weir_endpoints{service="shop/web",state="healthy"} 1"#,
        r#"weir_endpoints{service="shop/web",state="unhealthy"} 1"#,
        r#"weir_endpoint_healthy{service="shop/web",endpoint="10.0.0.1:80"} 1"#,
        r#"weir_endpoint_healthy{service="shop/web",endpoint="10.0.0.2:80"} 0"#,
        r#"weir_endpoint_ejections_total{service="shop/web"} 6"#,
        r#"weir_health_checks_total{service="shop/web",result="good"} 14"#,
        r#"weir_endpoint_connections_opened_total{service="shop/web",endpoint="10.0.0.1:80",lane="direct"} 5"#,
        "weir_series_dropped 0",
    ] {
        assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
    }
}

#[test]
fn pods_are_shown_only_where_the_config_chooses_among_them() {
    let text = render(reading());
    for line in [
        r#"weir_pods{state="chosen"} 3"#,
        r#"weir_pods{state="other"} 8"#,
        r#"weir_pods{state="unknown"} 1"#,
        r#"weir_kubelet_requests_total{result="good"} 9"#,
        r#"weir_kubelet_requests_total{result="bad"} 2"#,
        r#"weir_node_listener_reached{family="ipv4"} 1"#,
    ] {
        assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
    }
    let text = render(Reading { pods: PodsReading::default(), ..reading() });
    assert!(!text.contains("weir_pods{") && !text.contains("weir_kubelet_requests_total"), "{text}");
}

#[test]
fn too_many_endpoints_lose_their_own_series_and_that_is_said() {
    let mut reading = reading();
    let one = reading.health[0].clone();
    reading.health = vec![one; MOST_ENDPOINTS + 1];
    let text = render(reading);
    assert!(text.contains("weir_series_dropped 2001\n"), "{text}");
    assert!(!text.contains("weir_endpoint_healthy") && !text.contains("weir_endpoint_connections"), "{text}");
    assert!(text.contains(r#"weir_endpoints{service="shop/web",state="healthy"} 2001"#), "{text}");
}

#[test]
fn times_are_cumulative_buckets_in_seconds() {
    let text = render(reading());
    let lines: Vec<&str> =
        text.lines().filter(|line| line.starts_with("weir_connect_duration_seconds")).collect();
    assert_eq!(lines.len(), 20 + 2, "{lines:?}");
    assert_eq!(lines[0], r#"weir_connect_duration_seconds_sum{service="shop/web",lane="direct"} 0.0021"#);
    assert_eq!(lines[1], r#"weir_connect_duration_seconds_count{service="shop/web",lane="direct"} 3"#);
    assert!(lines[2].contains(r#"le="0.000016""#) && lines[2].ends_with(" 0"), "{}", lines[2]);
    let one_ms = lines.iter().find(|line| line.contains(r#"le="0.001024""#)).unwrap();
    assert!(one_ms.ends_with(" 2"), "{one_ms}");
    assert!(lines[21].contains(r#"le="+Inf""#) && lines[21].ends_with(" 3"), "{}", lines[21]);
}

#[test]
fn figures_of_the_node_are_there() {
    let text = render(reading());
    for line in [
        r#"weir_kernel_verdicts_total{verdict="refused_no_endpoint"} 11"#,
        r#"weir_kernel_losses_total{what="records_dropped"} 12"#,
        r#"weir_map_entries{map="SERVICES"} 2"#,
        r#"weir_map_max_entries{map="SERVICES"} 128"#,
        r#"weir_config_version{state="wanted"} 8"#,
        r#"weir_config_version{state="applied"} 7"#,
        "weir_config_reload_failures_total 1",
        "weir_config_last_reload_successful 0",
        "weir_access_log_dropped_total 13",
        r#"weir_http_adaptive_limit{service="shop/web"} 40"#,
        r#"weir_http_adaptive_requests{service="shop/web"} 38"#,
        r#"weir_http_adaptive_best_seconds{service="shop/web"} 0.25"#,
        "weir_overload_pressure_percent{resource=\"memory\"} 91",
        "weir_overload_used{resource=\"descriptors\"} 3",
        "weir_overload_max{resource=\"memory\"} 1000",
        "weir_overload_rung{rung=\"refuse\"} 1",
        "weir_overload_rung{rung=\"reset\"} 0",
        "weir_overload_actions_total{rung=\"refuse\"} 6",
        r#"weir_tls_certificate_expiry_seconds{file="/etc/weir/web.pem"} 1800000000"#,
        r#"weir_tls_file_bad{file="/etc/weir/web.key"} 1"#,
        r#"weir_driver_submissions_total{worker="1"} 21"#,
        "process_resident_memory_bytes 4096",
        "process_cpu_seconds_total 1.5",
        "weir_ready 1",
    ] {
        assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn services_that_are_gone_expire_once_nothing_is_open() {
    let mut reading = reading();
    let totals = TotalsValue { opened: 3, closed: closed(reason::FIN, 3), ..TotalsValue::default() };
    reading.kernel.totals = vec![(key(99, 0, lane::DIRECT), totals)];
    reading.proxied.clear();
    assert!(!render(reading).contains("weir_connections_opened"));
}

#[test]
fn no_two_samples_have_the_same_name_and_labels() {
    let mut reading = reading();
    let open = TotalsValue { opened: 1, ..TotalsValue::default() };
    reading.kernel.totals.extend([98, 99].map(|gone| (key(gone, 0, lane::DIRECT), open)));
    let text = render(reading);
    let mut samples: Vec<&str> =
        text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| Some(l.rsplit_once(' ')?.0)).collect();
    let count = samples.len();
    samples.sort_unstable();
    samples.dedup();
    assert_eq!(samples.len(), count);
    assert!(text.contains(r#"weir_connections_active{service="unknown",lane="direct"} 2"#), "{text}");
}

fn applications() -> ApplicationsReading {
    let applications = Applications::default();
    let pod = applications.name(Key::Netns(7), "shop/web-1", Vec::new());
    let attending = pod.attend(Lane::Proxy);
    attending.handle_end(Reason::Fin, 100, 200);
    drop(attending);
    attending_for_ever(&pod);
    pod.refuse(Lane::Inbound, Reason::Limit);
    pod.handle_request();
    applications.known(Key::Netns(8)).refuse(Lane::Proxy, Reason::NoEndpoint);
    applications.read()
}

/// One that is still open when the test ends.
fn attending_for_ever(pod: &Arc<Application>) {
    pod.attend(Lane::Proxy).handle_move();
}

fn reading() -> Reading {
    let mut names = Names::default();
    names.add_service(ServiceId(1), "shop/web".into());
    names.add_service(ServiceId(2), "shop/db".into());
    names.add_endpoint(EndpointId(10), "10.0.0.1:80".into());
    names.add_endpoint(EndpointId(11), "10.0.0.2:80".into());
    Reading {
        inbound: [ServiceId(3)].into(),
        names,
        kernel: kernel(),
        proxied: vec![(Some(ServiceId(2)), worker_stats()), (None, stray())],
        http: http(),
        health: vec![report(10, EndpointState::Healthy), report(11, EndpointState::Unhealthy)],
        carried_health: Vec::new(),
        applications: applications(),
        moved: (0, Duration::ZERO),
        drivers: vec![
            DriverCounters { submissions: 20, ..DriverCounters::default() },
            DriverCounters { submissions: 21, ..DriverCounters::default() },
        ],
        pods: PodsReading {
            counts: Some([3, 8, 1]),
            answers: 9,
            failures: 2,
            node_listeners: [Some(true), None],
        },
        config: ConfigReading {
            wanted: Version(8),
            applied: Version(7),
            reloads: 5,
            failures: 1,
            is_last_good: false,
        },
        is_ready: true,
        is_control_hung: false,
        restarts: vec![0, 2],
        panics: 2,
        descriptors: (3, 1000),
        adaptive: vec![(
            ServiceId(1),
            AdaptiveReading { limit: 40, best: Some(Duration::from_millis(250)) },
            38,
        )],
        overload: OverloadReading {
            in_force: [true, true, true, false, false],
            memory: Share { used: 912, bound: 1000 },
            descriptors: Share { used: 3, bound: 100 },
            actions: [5, 0, 6, 0, 0],
        },
        access_log_dropped: 13,
        tls: TlsReading {
            certificates: vec![("/etc/weir/web.pem".to_owned(), 1_800_000_000)],
            bad_files: ["/etc/weir/web.key".to_owned()].into(),
        },
        process: ProcessReading {
            resident_bytes: 4096,
            cpu_seconds: 1.5,
            open_fds: 10,
            max_fds: 20,
            start_seconds: 1.7e9,
        },
    }
}

/// Two services, one of them gone, and two rules of one route.
fn http() -> HttpReading {
    let registry = HttpRegistry::default();
    let end = RequestEnd {
        grpc: None,
        status: Some(200),
        reason: RequestReason::Ok,
        duration: Duration::from_micros(1500),
        sent_bytes: 7,
        received_bytes: 70,
    };
    let route: Arc<str> = "shop".into();
    for worker in 0..2 {
        let (service, rule) = (registry.service(ServiceId(1), worker), registry.rule(&route, 0, worker));
        for stats in [&service, &rule] {
            stats.begin().handle_end(&end);
            let failed = RequestEnd { status: Some(503), reason: RequestReason::ConnectRefused, ..end };
            stats.begin().handle_end(&failed);
        }
        service.count(Event::Retry);
        service.count(Event::ConnectionReused);
    }
    std::mem::forget(registry.service(ServiceId(1), 0).begin());
    let _ = registry.rule(&route, 1, 0);
    registry.service(ServiceId(99), 0).begin().handle_end(&end);
    registry.service(ServiceId(98), 0).begin().handle_end(&end);
    registry.read()
}

fn kernel() -> KernelReading {
    let web = |opened, sent_bytes| TotalsValue {
        opened,
        closed: if opened == 5 { closed(reason::RESET, 2) } else { closed(reason::FIN, 1) },
        sent_bytes,
        ..TotalsValue::default()
    };
    let proxy = TotalsValue { opened: 50, retransmits: 5, ..TotalsValue::default() };
    let untouched = TotalsValue { opened: 9, ..TotalsValue::default() };
    let mut times = HistogramValue { connect_us: 2100, ..HistogramValue::default() };
    for us in [100, 600, 1400] {
        times.connect[bucket_index(us)] += 1;
    }
    KernelReading {
        counters: vec![(Counter::RefusedNoEndpoint, 11), (Counter::RecordsDropped, 12)],
        totals: vec![
            (key(1, 10, lane::DIRECT), web(5, 400)),
            (key(1, 11, lane::DIRECT), web(2, 600)),
            (key(2, 0, lane::PROXY), proxy),
            (key(0, 0, lane::NONE), untouched),
        ],
        histograms: vec![(key(1, 0, lane::DIRECT), times)],
        maps: vec![MapFill { name: "SERVICES", entries: 2, most: 128 }],
    }
}

fn worker_stats() -> Arc<ServiceStats> {
    let stats = ServiceStats::default();
    stats.opened.store(3, Ordering::Relaxed);
    stats.connect_failures.store(4, Ordering::Relaxed);
    stats.handle_end(Reason::ConnectRefused);
    Arc::new(stats)
}

fn stray() -> Arc<ServiceStats> {
    let stats = ServiceStats::default();
    stats.opened.store(1, Ordering::Relaxed);
    stats.handle_end(Reason::NoOriginalDst);
    Arc::new(stats)
}

fn report(endpoint: u32, state: EndpointState) -> EndpointReport {
    EndpointReport {
        service: ServiceId(1),
        endpoint: EndpointId(endpoint),
        state,
        last_check: None,
        last_error: None,
        ejected_until: None,
        ejections_total: 3,
        checks_total: 10,
        failures_total: 3,
    }
}

fn key(service: u32, endpoint: u32, lane: u32) -> TotalsKey {
    TotalsKey { service, endpoint, lane }
}

fn closed(reason: u32, count: u64) -> [u64; proxy_bpf::abi::value::REASON_COUNT] {
    let mut closed = [0; proxy_bpf::abi::value::REASON_COUNT];
    closed[reason as usize] = count;
    closed
}
