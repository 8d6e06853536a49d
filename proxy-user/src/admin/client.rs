//! The other end of the unix socket: what `weir status`, `connections`, `reload` and `drain` do.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::connections::{Connection, ConnectionsPage, encode};
use super::status::{NodeListenerPage, StatusPage};
use crate::explain::doctor::Reached;
use crate::explain::text::{self, Output, align};
use crate::explain::why::Why;

/// Time for one answer: longer than the server's own limit, so that its word is heard.
const ANSWER_TIME: Duration = Duration::from_secs(40);
/// The same for `weir doctor`: what takes longer hangs.
const REACH_TIME: Duration = Duration::from_secs(3);
/// Pause between two looks with `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Clears the screen and goes to its top (ECMA-48: ED, CUP).
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Shows open connections, with `watch` again every second until interrupted.
///
/// # Errors
/// If Weir is not running, may not be asked or refuses to answer; with what to do about it.
pub fn connections(socket: &Path, service: Option<&str>, output: Output, watch: bool) -> anyhow::Result<()> {
    let path = match service {
        Some(service) => format!("/connections?service={}", encode(service)),
        None => "/connections".to_owned(),
    };
    loop {
        let body = ask(socket, Method::GET, &path)?;
        let page: ConnectionsPage =
            serde_json::from_slice(&body).context("the answer is from another version of Weir")?;
        let shown = match output {
            // One line for each look, so that a program can tell where it ends.
            Output::Json if watch => format!("{}\n", serde_json::to_string(&page)?),
            Output::Json => format!("{}\n", serde_json::to_string_pretty(&page)?),
            Output::Table => connections_table(&page),
        };
        let clear = watch && output == Output::Table && std::io::stdout().is_terminal();
        if !print(&format!("{}{shown}", if clear { CLEAR } else { "" }))? || !watch {
            return Ok(());
        }
        std::thread::sleep(WATCH_INTERVAL);
    }
}

/// Shows what becomes of a connection to an address, and why.
///
/// # Errors
/// As [`connections`].
pub fn why(socket: &Path, address: SocketAddr, process: Option<u32>, output: Output) -> anyhow::Result<()> {
    let process = process.map(|pid| format!("&process={pid}")).unwrap_or_default();
    let path = format!("/why?address={}{process}", encode(&address.to_string()));
    let body = ask(socket, Method::GET, &path)?;
    let shown = match output {
        Output::Json => String::from_utf8_lossy(&body).into_owned(),
        Output::Table => {
            let why: Why =
                serde_json::from_slice(&body).context("the answer is from another version of Weir")?;
            why.table()
        }
    };
    print(&shown).map(drop)
}

/// Shows where the running Weir stands.
///
/// # Errors
/// As [`connections`].
pub fn status(socket: &Path, output: Output) -> anyhow::Result<()> {
    let body = ask(socket, Method::GET, "/status")?;
    let shown = match output {
        Output::Json => String::from_utf8_lossy(&body).into_owned(),
        Output::Table => {
            let page = serde_json::from_slice(&body).context("the answer is from another version of Weir")?;
            status_table(&page)
        }
    };
    print(&shown).map(drop)
}

/// Asks the Weir that listens on a socket how it is; for `weir doctor`, which does not wait long for it.
#[must_use]
pub fn reach(socket: &Path) -> Reached {
    if std::os::unix::net::UnixStream::connect(socket).is_err() {
        return Reached::Nobody;
    }
    let answer = ask_within(REACH_TIME, socket, Method::GET, "/status").ok();
    match answer.and_then(|body| serde_json::from_slice::<StatusPage>(&body).ok()) {
        None => Reached::Silent,
        Some(page) => Reached::Running {
            control_hung: page.control_hung_seconds.and_then(|hung| Duration::try_from_secs_f64(hung).ok()),
            worker_restarts: page.worker_restarts,
            node_listener_missed_by: page.node_listeners.into_iter().find_map(|one| one.missed_by),
        },
    }
}

/// Makes the running Weir read its configuration again.
///
/// # Errors
/// As [`connections`], and everything that is wrong with the configuration.
pub fn reload(socket: &Path, output: Output) -> anyhow::Result<()> {
    let body = ask(socket, Method::POST, "/reload")?;
    let shown = match output {
        Output::Json => String::from_utf8_lossy(&body).into_owned(),
        Output::Table => {
            let answer: serde_json::Value = serde_json::from_slice(&body)?;
            format!("reloaded; version {} is in force\n", answer["version"])
        }
    };
    print(&shown).map(drop)
}

/// Makes the running Weir stop taking connections and end when the open ones have.
///
/// # Errors
/// As [`connections`].
pub fn drain(socket: &Path, output: Output) -> anyhow::Result<()> {
    ask(socket, Method::POST, "/drain")?;
    let shown = match output {
        Output::Json => "{\"phase\": \"draining\"}\n",
        Output::Table => "draining: no new connections are taken; Weir ends when the open ones have\n",
    };
    print(shown).map(drop)
}

/// Prints; false if nobody reads any more, as in `weir connections | head`.
fn print(text: &str) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn ask(socket: &Path, method: Method, path: &str) -> anyhow::Result<Bytes> {
    ask_within(ANSWER_TIME, socket, method, path)
}

fn ask_within(limit: Duration, socket: &Path, method: Method, path: &str) -> anyhow::Result<Bytes> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let answered = tokio::time::timeout(limit, exchange(socket, method, path)).await;
        answered.map_err(|_| anyhow!("Weir does not answer at {}", socket.display()))?
    })
}

async fn exchange(socket: &Path, method: Method, path: &str) -> anyhow::Result<Bytes> {
    let stream = UnixStream::connect(socket).await.map_err(|error| not_reached(socket, &error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let request =
        Request::builder().method(method).uri(path).header(HOST, "localhost").body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await.context("Weir hung up")?;
    let status = answer.status();
    let body = answer.into_body().collect().await.context("Weir hung up")?.to_bytes();
    if status == StatusCode::OK || status == StatusCode::ACCEPTED {
        return Ok(body);
    }
    bail!("{}", String::from_utf8_lossy(&body).trim_end())
}

fn not_reached(socket: &Path, error: &std::io::Error) -> anyhow::Error {
    let socket = socket.display();
    match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => anyhow!(
            "Weir is not running: nobody answers at {socket}; start it with `weir run -c FILE`, or name its socket \
             with --socket (admin.socket in its configuration)"
        ),
        std::io::ErrorKind::PermissionDenied => {
            anyhow!("only root may ask Weir at {socket}; try it with sudo")
        }
        _ => anyhow!("cannot reach Weir at {socket}: {error}"),
    }
}

fn connections_table(page: &ConnectionsPage) -> String {
    let head = [
        "LANE",
        "SERVICE",
        "SOURCE",
        "ASKED FOR",
        "GOES TO",
        "STATE",
        "AGE",
        "SENT",
        "RECEIVED",
        "RTT",
        "RETR",
        "APPLICATION",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(page.connections.iter().map(row));
    let mut shown = align(&rows);
    let left_out = page.total - page.connections.len().min(page.total);
    if left_out > 0 {
        shown.push_str(&format!(
            "... and {left_out} older connections; --service shows those of one service\n"
        ));
    }
    shown
}

fn row(one: &Connection) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let lane = if one.is_fail_open { format!("{}*", one.lane) } else { one.lane.clone() };
    // The way to the endpoint is what an operator wants to know about; the hop to the worker is local.
    let rtt = one.upstream_rtt_us.unwrap_or(one.rtt_us);
    let retransmits = u64::from(one.retransmits) + u64::from(one.upstream_retransmits.unwrap_or(0));
    vec![
        lane,
        or_dash(one.service.clone()),
        one.source.to_string(),
        one.original_dst.to_string(),
        or_dash(one.destination.map(|to| to.to_string())),
        one.state.clone(),
        text::age(Duration::try_from_secs_f64(one.age_seconds).unwrap_or_default()),
        text::bytes(one.sent_bytes),
        text::bytes(one.received_bytes),
        text::micros(rtt),
        retransmits.to_string(),
        or_dash(one.pod.clone().or_else(|| one.cgroup.clone())),
    ]
}

fn status_table(page: &StatusPage) -> String {
    let seconds = |seconds: f64| text::age(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let mut rows = vec![
        ("phase", page.phase.clone()),
        ("pid", page.pid.to_string()),
        ("version", page.version.clone()),
        ("up", seconds(page.uptime_seconds)),
        ("configuration", page.config.clone()),
        ("in force", format!("version {}", page.applied_version)),
        ("reloads", format!("{} good, {} failed", page.reloads, page.reload_failures)),
        ("services", page.services.to_string()),
        ("endpoints", format!("{}, {} usable", page.endpoints, page.usable_endpoints)),
        ("workers", format!("{} on {}", page.workers, page.driver)),
        (
            "proxied",
            format!("{} of at most {} connections", page.proxied_connections, page.proxied_connections_max),
        ),
    ];
    if page.wanted_version != page.applied_version {
        rows.push(("wanted", format!("version {}: it could not be put into force", page.wanted_version)));
    }
    if let Some(note) = &page.driver_note {
        rows.push(("driver", note.clone()));
    }
    if let Some(silence) = page.control_hung_seconds {
        let found = "no sign of life for {}: configuration, health and pods stay as they were";
        rows.push(("control", found.replace("{}", &seconds(silence))));
    }
    if page.panics > 0 {
        let found =
            format!("{} caught, {} workers began again: see the log", page.panics, page.worker_restarts);
        rows.push(("bugs", found));
    }
    if page.access_log_dropped > 0 {
        rows.push(("access log", format!("{} records lost", page.access_log_dropped)));
    }
    if !page.missing_scopes.is_empty() {
        rows.push(("missing scopes", page.missing_scopes.join(", ")));
    }
    if let Some(chosen) = page.chosen_pods {
        let unknown = match page.unknown_pods {
            0 => String::new(),
            unknown => format!(", {unknown} not known yet"),
        };
        rows.push(("pods", format!("{chosen} in scopes{unknown}")));
    }
    if let Some(error) = &page.kubelet_error {
        rows.push(("kubelet", format!("does not tell the labels of pods: {error}")));
    }
    for NodeListenerPage { address, is_reached, missed_by } in &page.node_listeners {
        let state = match (is_reached, missed_by) {
            (true, _) => "takes the first connections of new network namespaces".to_owned(),
            (false, Some(missed_by)) => format!("takes nothing, not reached by {missed_by}"),
            (false, None) => "takes nothing, no network namespace has reached it yet".to_owned(),
        };
        rows.push(("node listener", format!("{address} {state}")));
    }
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(key, value)| vec![key.to_owned(), value]).collect();
    let mut shown = align(&rows);
    if let Some(error) = &page.last_error {
        shown.push_str(&format!(
            "\nthe last reload failed, the running configuration stayed in force:\n{error}\n"
        ));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn connections_are_a_table_with_human_units() {
        let mut page = fixture::page();
        page.total = 5;
        let shown = connections_table(&page);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[0].starts_with("LANE"), "{shown}");
        let proxied = lines.iter().find(|line| line.starts_with("proxy ")).unwrap();
        for part in
            ["shop/db", "10.96.0.11:5432", "10.1.0.9:5432", "established", "2.0s", "1.00 MiB", "900µs"]
        {
            assert!(proxied.contains(part), "{part} in {proxied}");
        }
        assert!(lines.last().unwrap().contains("and 2 older"), "{shown}");
    }

    #[test]
    fn status_tells_what_is_wrong_and_nothing_else() {
        let good = StatusPage {
            phase: "ready".to_owned(),
            applied_version: 3,
            wanted_version: 3,
            ..StatusPage::default()
        };
        let shown = status_table(&good);
        assert!(
            shown.contains("version 3") && !shown.contains("failed,") && !shown.contains("wanted"),
            "{shown}"
        );
        let bad = StatusPage {
            wanted_version: 4,
            last_error: Some("weir.yaml:1: no".to_owned()),
            missing_scopes: vec!["/a".to_owned(), "/b".to_owned()],
            control_hung_seconds: Some(12.0),
            panics: 3,
            chosen_pods: Some(7),
            unknown_pods: 2,
            kubelet_error: Some("status 403".to_owned()),
            node_listeners: vec![NodeListenerPage {
                address: ([10, 0, 0, 1], 40001).into(),
                is_reached: false,
                missed_by: Some("shop/web: no answer in 2 s".to_owned()),
            }],
            ..good
        };
        let shown = status_table(&bad);
        assert!(
            shown.contains("weir.yaml:1: no") && shown.contains("/a, /b") && shown.contains("version 4:"),
            "{shown}"
        );
        assert!(
            shown.contains("7 in scopes, 2 not known yet") && shown.contains("pods: status 403"),
            "{shown}"
        );
        assert!(
            shown.contains("10.0.0.1:40001 takes nothing, not reached by shop/web: no answer"),
            "{shown}"
        );
        assert!(shown.contains("no sign of life for 12") && shown.contains("3 caught"), "{shown}");
    }

    #[test]
    fn without_a_running_weir_the_error_says_what_to_do() {
        let error = status(Path::new("/nonexistent/admin.sock"), Output::Table).unwrap_err().to_string();
        assert!(error.contains("not running") && error.contains("weir run"), "{error}");
    }
}
