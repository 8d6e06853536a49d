//! Rivals as TCP proxies.

use std::path::Path;

use super::Ports;

/// Pipes of HAProxy: more than streams of any case have at once.
const PIPES: u32 = 100;

/// `option splice-auto` was not seen to splice even one stream (2.6: 0 splice calls in strace), so it is forced.
/// With splicing, connections and pipes have to fit into the same limit on open files; a quarter of the connections, the
/// default, would not.
pub(super) fn haproxy(ports: Ports, most: u32, is_splicing: bool) -> String {
    let splice = if is_splicing { "  option splice-request\n  option splice-response\n" } else { "" };
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn {most}\n  maxpipes {PIPES}\ndefaults\n  mode tcp\n  retries 0\n{splice}\
         \x20 timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
    );
    for (name, listen, target) in pairs(ports) {
        text += &format!("listen {name}\n  bind {listen}\n  server backend {target}\n");
    }
    text
}

pub(super) fn nginx(ports: Ports, most: u32, scratch: &Path) -> String {
    // Built in, or a module of its own, depending on who packaged it.
    let module = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
    let load = if module.exists() { format!("load_module {};\n", module.display()) } else { String::new() };
    let mut text = format!(
        "{load}daemon off;\nworker_processes 1;\npid {};\nerror_log stderr;\n\
         events {{ worker_connections {}; }}\nstream {{\n  access_log off;\n  proxy_timeout 1h;\n\
         \x20 proxy_next_upstream off;\n",
        scratch.join("nginx.pid").display(),
        // it counts those to the backend too
        2 * most,
    );
    for (_, listen, target) in pairs(ports) {
        text += &format!("  server {{ listen {listen} backlog=4096; proxy_pass {target}; }}\n");
    }
    text + "}\n"
}

pub(super) fn envoy(ports: Ports) -> String {
    let (mut listeners, mut clusters) = (String::new(), String::new());
    for (name, listen, target) in pairs(ports) {
        listeners += &format!(
            "  - name: {name}\n    address: {{socket_address: {{address: {}, port_value: {}}}}}\n\
             \x20   filter_chains:\n    - filters:\n      - name: envoy.filters.network.tcp_proxy\n\
             \x20       typed_config:\n\
             \x20         \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n\
             \x20         stat_prefix: {name}\n          cluster: {name}\n          idle_timeout: 3600s\n",
            listen.ip(),
            listen.port()
        );
        // The default of 1,024 connections would refuse most of the idle case.
        clusters += &format!(
            "  - name: {name}\n    type: STATIC\n    connect_timeout: 5s\n\
             \x20   circuit_breakers: {{thresholds: [{{max_connections: 100000, max_pending_requests: 100000}}]}}\n\
             \x20   load_assignment:\n      cluster_name: {name}\n      endpoints:\n      - lb_endpoints:\n\
             \x20       - endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}\n",
            target.ip(),
            target.port()
        );
    }
    format!("static_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}")
}

pub(super) fn pingora(ports: Ports) -> Vec<String> {
    pairs(ports).map(|(_, listen, target)| format!("{listen}={target}")).into()
}

pub(super) fn relay(ports: Ports, is_uring: bool) -> Vec<String> {
    let pair = |(_, listen, target)| ["--forward".into(), format!("{listen}={target}")];
    let driver = is_uring.then(|| "--uring".to_owned());
    pairs(ports).into_iter().flat_map(pair).chain(driver).collect()
}

fn pairs(ports: Ports) -> [(&'static str, std::net::SocketAddr, std::net::SocketAddr); 2] {
    [("echo", ports.echo, Ports::BACKEND.echo), ("source", ports.source, Ports::BACKEND.source)]
}
