//! The servers: three for the web, each of which answers its own name, and one redis.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::show::Show;
use super::stage::{self, FOLDER, Stage, Who};
use crate::machine;
use crate::process;

/// Port of the web servers.
pub(super) const WEB_PORT: u16 = 8080;
/// Time for a server to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A web server of the demo.
pub(super) struct Web {
    /// What it answers.
    pub(super) name: String,
    ip: String,
    kind: Kind,
    child: Child,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nginx,
    Python,
}

/// All servers. Their processes end when the demo's cgroup is killed.
pub(super) struct Backends {
    pub(super) web: Vec<Web>,
    /// `None` where redis is not installed.
    pub(super) redis: Option<Child>,
}

impl Backends {
    pub(super) fn start(stage: &Stage, show: &mut Show) -> Result<Self> {
        show.step("Real servers");
        let kind = if machine::find("nginx").is_some() { Kind::Nginx } else { Kind::Python };
        ensure!(
            kind == Kind::Nginx || machine::find("python3").is_some(),
            "the demo needs nginx or python3 for its servers, and neither is here"
        );
        let mut web = Vec::new();
        for number in 1..=3 {
            let (name, ip) = (format!("backend-{number}"), format!("10.77.0.{}", 10 + number));
            let child = start_web(stage, kind, &name, &ip)?;
            let server = Web { name, ip, kind, child };
            show.promise(
                &format!(
                    "{kind:?} on {}:{WEB_PORT} is process {} and says {}",
                    server.ip,
                    server.child.id(),
                    server.name
                ),
                server.wait(stage),
            );
            web.push(server);
        }
        let redis = match (machine::find("redis-server"), machine::find("redis-cli")) {
            (Some(_), Some(_)) => Some(start_redis(stage, show)?),
            _ => None,
        };
        Ok(Self { web, redis })
    }

    /// Lets the processes run on without us.
    pub(super) fn forget(self) {
        // a Child that is dropped is not ended
        drop(self);
    }
}

impl Web {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a crash would.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill().context("cannot kill a server")?;
        self.child.wait().context("cannot wait for a server")?;
        Ok(())
    }

    pub(super) fn restart(&mut self, stage: &Stage) -> Result<()> {
        self.child = start_web(stage, self.kind, &self.name, &self.ip)?;
        self.wait(stage)
    }

    /// Waits until it answers its name to somebody who asks it directly.
    fn wait(&self, stage: &Stage) -> Result<()> {
        let url = format!("http://{}:{WEB_PORT}/", self.ip);
        let says = || process::output(stage.command(Who::Node, "curl").args(["-sS", "-m", "2", &url]));
        let answers = || says().is_ok_and(|answer| answer == self.name);
        ensure!(stage::until(START_LIMIT, answers), "it says {:?}", says());
        Ok(())
    }
}

fn start_web(stage: &Stage, kind: Kind, name: &str, ip: &str) -> Result<Child> {
    let folder = stage::file(name);
    fs::create_dir_all(&folder)?;
    let mut command = match kind {
        Kind::Nginx => {
            let config = folder.join("nginx.conf");
            fs::write(&config, nginx_config(&folder, name, ip))?;
            let program = machine::find("nginx").context("nginx was here before")?;
            let mut command = stage.command(Who::Far, program);
            command.arg("-p").arg(&folder).arg("-c").arg(&config);
            command
        }
        Kind::Python => {
            let mut command = stage.command(Who::Far, "python3");
            command.args(["-c", PYTHON, name, ip, &WEB_PORT.to_string()]);
            command
        }
    };
    spawn(&mut command, &folder.join("log"))
}

/// One process without children, so that its end is the end of all of it.
fn nginx_config(folder: &Path, name: &str, ip: &str) -> String {
    let folder = folder.display();
    format!(
        "daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/error.log;\n\
         events {{}}\n\
         http {{\n    access_log off;\n    client_body_temp_path {folder}/body;\n    proxy_temp_path {folder}/proxy;\n    \
         fastcgi_temp_path {folder}/fastcgi;\n    uwsgi_temp_path {folder}/uwsgi;\n    scgi_temp_path {folder}/scgi;\n    \
         server {{\n        listen {ip}:{WEB_PORT};\n        \
         location / {{ default_type text/plain; return 200 \"{name}\\n\"; }}\n    }}\n}}\n"
    )
}

const PYTHON: &str = r#"
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = (sys.argv[1] + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer((sys.argv[2], int(sys.argv[3])), Handler).serve_forever()
"#;

fn start_redis(stage: &Stage, show: &mut Show) -> Result<Child> {
    let folder = stage::file("redis");
    fs::create_dir_all(&folder)?;
    let mut command = stage.command(Who::Far, "redis-server");
    command.args(["--bind", "10.77.0.20", "--port", "6379", "--save", "", "--appendonly", "no"]);
    command.args(["--protected-mode", "no", "--dir"]).arg(&folder);
    let child = spawn(&mut command, &folder.join("log"))?;
    let ping = || process::output(stage.command(Who::Node, "redis-cli").args(["-h", "10.77.0.20", "ping"]));
    let answers = || ping().is_ok_and(|answer| answer == "PONG");
    let result = stage::until(START_LIMIT, answers);
    show.promise(&format!("redis on 10.77.0.20:6379 is process {}", child.id()), {
        if result { Ok(()) } else { ping().map(|_| ()) }
    });
    Ok(child)
}

/// Starts a program whose words go to a file.
pub(super) fn spawn(command: &mut Command, log: &Path) -> Result<Child> {
    let log = fs::File::options().create(true).append(true).open(log)?;
    use std::os::unix::process::CommandExt as _;
    // a process group of its own: Ctrl-C is for the demo, and what --keep leaves outlives the terminal
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    command.spawn().with_context(|| format!("cannot start a program of the demo in {FOLDER}"))
}
