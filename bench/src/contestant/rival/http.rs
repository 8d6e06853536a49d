//! Rivals as HTTP proxies: a route by host and path, upstream connections that are kept, TLS 1.3 without resumption.
//!
//! Limits that close a connection after some time or some requests are out of the way, since Weir has none.

use std::net::SocketAddr;
use std::path::Path;

use super::Ports;
use crate::case::Front;
use crate::contestant::certificate::Certificate;
use crate::http::{HOST, PATH};

/// Idle upstream connections that are kept: more than any case has requests at once.
const POOL_SIZE: u32 = 1024;

/// What requests of each front go to: where from, where to.
fn pairs(ports: Ports) -> [(&'static str, Front, SocketAddr, SocketAddr); 3] {
    let backend = Ports::BACKEND;
    [
        ("http", Front::Http, ports.http, backend.http),
        ("https", Front::Https, ports.https, backend.http),
        ("grpc", Front::Grpc, ports.grpc, backend.grpc),
    ]
}

/// Where the paths begin that are routed.
fn prefix(front: Front) -> &'static str {
    if front == Front::Grpc { "/bench.Bench/" } else { PATH }
}

pub(super) fn haproxy(ports: Ports, most: u32, scratch: &Path) -> String {
    let both = Certificate::within(scratch).both;
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn {most}\n  tune.ssl.cachesize 0\n\
         defaults\n  mode http\n  retries 0\n  http-reuse always\n  timeout connect 5s\n  timeout client 1h\n\
         \x20 timeout server 1h\n  timeout http-keep-alive 1h\n  timeout http-request 1h\n"
    );
    for (name, front, listen, target) in pairs(ports) {
        let (bind, server) = match front {
            Front::Http => (String::new(), ""),
            Front::Https => {
                (format!(" ssl crt {} ssl-min-ver TLSv1.3 no-tls-tickets alpn http/1.1", both.display()), "")
            }
            Front::Grpc => (" proto h2".to_owned(), " proto h2"),
        };
        text += &format!(
            "frontend {name}\n  bind {listen}{bind}\n\
             \x20 use_backend {name} if {{ hdr(host) -i {HOST} }} {{ path_beg {} }}\n\
             backend {name}\n  server backend {target}{server} pool-max-conn {POOL_SIZE} pool-purge-delay 1h\n",
            prefix(front)
        );
    }
    text
}

/// Answers are buffered, but never in a file: else a download would be measured by its disk.
pub(super) fn nginx(ports: Ports, most: u32, scratch: &Path) -> String {
    let certificate = Certificate::within(scratch);
    let folder = scratch.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("  {name}_temp_path {folder}/nginx-{name};\n"));
    let mut text = format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {folder}/nginx-http.pid;\nerror_log stderr;\n\
         events {{ worker_connections {}; }}\nhttp {{\n  access_log off;\n{}\
         \x20 keepalive_timeout 1h;\n  keepalive_requests 1000000000;\n  client_header_timeout 1h;\n\
         \x20 proxy_http_version 1.1;\n  proxy_set_header Connection \"\";\n  proxy_set_header Host $host;\n\
         \x20 proxy_next_upstream off;\n  grpc_next_upstream off;\n  proxy_max_temp_file_size 0;\n\
         \x20 proxy_read_timeout 1h;\n  grpc_read_timeout 1h;\n",
        // it counts those to the backend too
        2 * most,
        temporary.concat()
    );
    for (name, front, listen, target) in pairs(ports) {
        let (flags, pass) = match front {
            Front::Http => ("", "proxy_pass http:"),
            Front::Https => (" ssl", "proxy_pass http:"),
            Front::Grpc => (" http2", "grpc_pass grpc:"),
        };
        let tls = match front {
            Front::Https => format!(
                "    ssl_protocols TLSv1.3;\n    ssl_session_cache off;\n    ssl_session_tickets off;\n\
                 \x20   ssl_certificate {};\n    ssl_certificate_key {};\n",
                certificate.cert.display(),
                certificate.key.display()
            ),
            _ => String::new(),
        };
        text += &format!(
            "  upstream {name} {{\n    server {target};\n    keepalive {POOL_SIZE};\n\
             \x20   keepalive_requests 1000000000;\n    keepalive_timeout 1h;\n  }}\n\
             \x20 server {{\n    listen {listen}{flags} backlog=4096;\n    server_name {HOST};\n{tls}\
             \x20   location {} {{ {pass}//{name}; }}\n  }}\n\
             \x20 server {{\n    listen {listen}{flags};\n    server_name other.test;\n{tls}    return 404;\n  }}\n",
            prefix(front)
        );
    }
    text + "}\n"
}

pub(super) fn envoy(ports: Ports, scratch: &Path) -> String {
    let (mut listeners, mut clusters) = (String::new(), String::new());
    for (name, front, listen, target) in pairs(ports) {
        listeners += &envoy_listener(name, front, listen, scratch);
        clusters += &envoy_cluster(name, front, target);
    }
    format!("static_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}")
}

/// Headers that only Envoy adds are off, and so is the id of each request, which others do not make.
fn envoy_listener(name: &str, front: Front, listen: SocketAddr, scratch: &Path) -> String {
    let codec = if front == Front::Grpc { "HTTP2" } else { "HTTP1" };
    let tls = if front == Front::Https { envoy_tls(scratch) } else { String::new() };
    format!(
        "  - name: {name}\n    address: {{socket_address: {{address: {}, port_value: {}}}}}\n\
         \x20   filter_chains:\n    - filters:\n      - name: envoy.filters.network.http_connection_manager\n\
         \x20       typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.\
         http_connection_manager.v3.HttpConnectionManager\n\
         \x20         stat_prefix: {name}\n          codec_type: {codec}\n          generate_request_id: false\n\
         \x20         stream_idle_timeout: 0s\n          common_http_protocol_options: {{idle_timeout: 3600s}}\n\
         \x20         http_filters:\n          - name: envoy.filters.http.router\n            typed_config:\n\
         \x20             \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router\n\
         \x20             suppress_envoy_headers: true\n\
         \x20         route_config:\n            virtual_hosts:\n            - name: {name}\n\
         \x20             domains: [\"{HOST}\"]\n              routes:\n\
         \x20             - {{match: {{prefix: {}}}, route: {{cluster: {name}, timeout: 0s}}}}\n{tls}",
        listen.ip(),
        listen.port(),
        prefix(front)
    )
}

fn envoy_tls(scratch: &Path) -> String {
    let certificate = Certificate::within(scratch);
    format!(
        "      transport_socket:\n        name: envoy.transport_sockets.tls\n        typed_config:\n\
         \x20         \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n\
         \x20         disable_stateless_session_resumption: true\n\
         \x20         disable_stateful_session_resumption: true\n\
         \x20         common_tls_context:\n\
         \x20           tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}\n\
         \x20           tls_certificates:\n\
         \x20           - {{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}\n",
        certificate.cert.display(),
        certificate.key.display()
    )
}

/// The defaults of 1,024 connections and requests would refuse most of a busy moment.
fn envoy_cluster(name: &str, front: Front, target: SocketAddr) -> String {
    let protocol = match front {
        Front::Grpc => "http2_protocol_options: {}",
        Front::Http | Front::Https => "http_protocol_options: {}",
    };
    format!(
        "  - name: {name}\n    type: STATIC\n    connect_timeout: 5s\n\
         \x20   circuit_breakers: {{thresholds: [{{max_connections: 100000, max_pending_requests: 100000, \
         max_requests: 100000}}]}}\n\
         \x20   typed_extension_protocol_options:\n\
         \x20     envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n\
         \x20       \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n\
         \x20       common_http_protocol_options: {{idle_timeout: 3600s}}\n\
         \x20       explicit_http_config: {{{protocol}}}\n\
         \x20   load_assignment:\n      cluster_name: {name}\n      endpoints:\n      - lb_endpoints:\n\
         \x20       - endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}\n",
        target.ip(),
        target.port()
    )
}

pub(super) fn pingora(ports: Ports, scratch: &Path) -> Vec<String> {
    let certificate = Certificate::within(scratch);
    let mut args = ["--cert".to_owned(), certificate.cert.display().to_string()].to_vec();
    args.extend(["--key".to_owned(), certificate.key.display().to_string()]);
    args.extend(pairs(ports).map(|(_, front, listen, target)| {
        let kind = match front {
            Front::Http => "http",
            Front::Https => "https",
            Front::Grpc => "h2",
        };
        format!("{kind}:{listen}={target}")
    }));
    args
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;
    use crate::contestant::rival::find;

    /// As far as the programs are installed, they say themselves whether a config is right.
    #[test]
    fn rivals_take_their_configs() {
        let folder = std::env::temp_dir().join(format!("weir-bench-rivals-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        Certificate::make(&folder).unwrap();
        let ports = Ports::on([127, 0, 0, 1], 9800);
        let file = folder.join("config.yaml");
        let configs = [
            ("haproxy", haproxy(ports, 100, &folder), ["-c", "-f"].as_slice()),
            ("nginx", nginx(ports, 100, &folder), ["-t", "-e", "stderr", "-c"].as_slice()),
        ];
        for (program, config, args) in configs {
            let Ok(program) = find(program) else { continue };
            fs::write(&file, config).unwrap();
            let output = Command::new(&program).args(args).arg(&file).output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "{program:?}: {}", String::from_utf8_lossy(&said));
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn every_front_has_its_port_and_its_backend() {
        let ports = Ports::on([127, 0, 0, 1], 9800);
        let folder = Path::new("/scratch");
        let texts = [haproxy(ports, 9, folder), nginx(ports, 9, folder), pingora(ports, folder).join(" ")];
        for text in texts {
            for (_, _, listen, target) in pairs(ports) {
                assert!(text.contains(&listen.to_string()) && text.contains(&target.to_string()), "{text}");
            }
            assert!(text.contains("/scratch/web"), "{text}");
        }
        let text = envoy(ports, folder);
        assert_eq!(text.matches("port_value").count(), 6, "{text}");
        assert_eq!(text.matches("DownstreamTlsContext").count(), 1, "{text}");
        assert_eq!(text.matches("http2_protocol_options").count(), 1, "{text}");
    }
}
