//! Weir as the demo runs it.

use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::backend::{WEB_PORT, spawn};
use super::show::Show;
use super::stage::{self, FOLDER, Stage, Who};
use crate::process;

/// Time to load and verify the kernel programs, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Time to end when told to.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Time between two checks of a healthy server; the configuration below says the same.
pub(super) const HEALTH_INTERVAL: Duration = Duration::from_millis(500);

/// The running Weir.
pub(super) struct Node {
    child: Child,
    io: &'static str,
}

impl Node {
    pub(super) fn start(stage: &Stage, io: &'static str, show: &mut Show) -> Result<Self> {
        show.step("Weir");
        let config = config(make_certificate());
        fs::write(stage::file("weir.yaml"), &config)?;
        show.say(&format!("{FOLDER}/weir.yaml says:"));
        show.quote(&config);
        show.command(&format!("weir run -c {FOLDER}/weir.yaml --io {io}"));
        let began = Instant::now();
        let mut node = Self { child: launch(stage, io)?, io };
        node.wait_ready(stage)?;
        show.promise(
            &format!(
                "process {} loaded its kernel programs and was ready after {} ms",
                node.child.id(),
                began.elapsed().as_millis()
            ),
            Ok(()),
        );
        Ok(node)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: no chance to say goodbye.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill().context("cannot kill weir")?;
        self.child.wait().context("cannot wait for weir")?;
        Ok(())
    }

    pub(super) fn restart(&mut self, stage: &Stage) -> Result<()> {
        self.child = launch(stage, self.io)?;
        self.wait_ready(stage)
    }

    /// SIGTERM; tells whether it ended well.
    pub(super) fn stop(&mut self) -> Result<()> {
        process::run(std::process::Command::new("kill").args(["-TERM", &self.child.id().to_string()]))?;
        let mut status = None;
        let has_ended = || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        };
        ensure!(stage::until(STOP_LIMIT, has_ended), "it still runs after {STOP_LIMIT:?}");
        match status {
            Some(status) if !status.success() => bail!("{status}"),
            _ => Ok(()),
        }
    }

    /// Runs a command of the `weir` program and gives what it says.
    pub(super) fn ask(&self, stage: &Stage, arguments: &[&str]) -> Result<String> {
        process::output(stage.command(Who::Node, stage::file("weir")).args(arguments))
    }

    /// Last words of its log.
    pub(super) fn log_tail(&self) -> String {
        let text = fs::read_to_string(stage::file("weir.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Lets the process run on without us.
    pub(super) fn forget(self) {
        // a Child that is dropped is not ended
        drop(self);
    }

    fn wait_ready(&mut self, stage: &Stage) -> Result<()> {
        let url = "http://127.0.0.1:15000/healthz/ready";
        let mut has_ended = false;
        let is_ready = || {
            has_ended = matches!(self.child.try_wait(), Ok(Some(_)));
            has_ended
                || process::output(stage.command(Who::Node, "curl").args(["-sf", "-m", "2", url])).is_ok()
        };
        let is_over = stage::until(START_LIMIT, is_ready);
        ensure!(is_over && !has_ended, "weir did not get ready; it says:\n{}", self.log_tail());
        Ok(())
    }
}

fn launch(stage: &Stage, io: &str) -> Result<Child> {
    let mut command = stage.command(Who::Node, stage::file("weir"));
    command.arg("run").arg("-c").arg(stage::file("weir.yaml")).args(["--io", io]);
    spawn(&mut command, &stage::file("weir.log"))
}

/// Makes a certificate for `shop.demo`; tells whether there is one.
fn make_certificate() -> bool {
    let mut openssl = std::process::Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]);
    openssl.args(["-subj", "/CN=shop.demo", "-addext", "subjectAltName=DNS:shop.demo"]);
    openssl.arg("-keyout").arg(stage::file("shop.key")).arg("-out").arg(stage::file("shop.pem"));
    process::output(&mut openssl).is_ok()
}

/// The configuration; with a certificate it has an edge, too.
fn config(has_certificate: bool) -> String {
    let edge = if has_certificate {
        "listeners:\n  - address: \"10.77.0.1:8443\"\n    protocol: http\n    \
         tls: {certificates: [{cert: shop.pem, key: shop.key}]}\n    routes: [shop]\n"
    } else {
        ""
    };
    let web = format!(
        "    endpoints:\n      - {{address: \"10.77.0.11:{WEB_PORT}\"}}\n      - {{address: \"10.77.0.12:{WEB_PORT}\"}}\n      \
         - {{address: \"10.77.0.13:{WEB_PORT}\"}}\n    \
         health: {{interval: {}ms, timeout: 250ms, healthy: 1, unhealthy: 1, http: {{path: /}}}}\n    \
         outlier: {{base_ejection: 500ms}}\n",
        HEALTH_INTERVAL.as_millis()
    );
    format!(
        "intercept:\n  scopes: [{{cgroup: /weir-demo/app}}]\n{edge}\
         routes:\n  - name: shop\n    rules:\n      \
         - match: {{path: {{prefix: /}}, headers: {{x-beta: \"1\"}}}}\n        \
         backends: [{{service: demo/beta}}]\n      \
         - match: {{path: {{exact: /teapot}}}}\n        respond: {{status: 418, body: \"short and stout\"}}\n      \
         - retry: {{attempts: 2, on: [connect_failure, reset]}}\n        \
         timeout: {{request: 5s}}\n        backends: [{{service: demo/shop}}]\n\
         services:\n  \
         - name: demo/shop\n    protocol: http\n    addresses: [\"10.96.0.13:80\"]\n    routes: [shop]\n    \
         endpoints: [{{address: \"10.77.0.11:{WEB_PORT}\"}}, {{address: \"10.77.0.12:{WEB_PORT}\"}}]\n  \
         - name: demo/beta\n    protocol: http\n    endpoints: [{{address: \"10.77.0.13:{WEB_PORT}\"}}]\n  \
         - name: demo/web\n    addresses: [\"10.96.0.10:80\", \"[fd96::10]:80\"]\n    \
         balance: {{policy: round_robin}}      # needs a worker: this service takes the proxy lane\n{web}  \
         - name: demo/api\n    addresses: [\"10.96.0.11:80\"]\n    \
         balance: {{policy: least_request}}    # the kernel can do that alone: the direct lane\n{web}  \
         - name: demo/redis\n    addresses: [\"10.96.0.12:6379\"]\n    \
         limits: {{max_connections: 100}}      # kept by workers: the proxy lane\n    \
         endpoints: [{{address: \"10.77.0.20:6379\"}}]\n\
         metrics: {{address: \"127.0.0.1:15020\"}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_lists_every_server_for_all_services_and_an_edge_if_it_can() {
        let text = config(true);
        for server in ["10.77.0.11:8080", "10.77.0.12:8080", "10.77.0.13:8080"] {
            assert_eq!(text.matches(server).count(), 3, "{text}");
        }
        assert!(!config(false).contains("listeners:"), "{}", config(false));
        assert!(text.contains("\n  - name: demo/api\n    addresses: "), "{text}");
        assert!(text.contains("interval: 500ms,"), "{text}");
    }
}
