//! A Weir under test: the real binary, started, asked, told and ended as an operator would.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use proxy_io::bpf::{self, AttachType};
use serde_json::Value;

use crate::cgroup;
use crate::metrics::Metrics;
use crate::net::{Net, Side};
use crate::process;
use crate::skip;
use crate::wait;

/// Where Weir pins its links.
const PINS: &str = "/sys/fs/bpf/weir";
/// Files of a Weir that runs.
const RUN: &str = "/run/weir";
/// Changes come in here.
const ADMIN_SOCKET: &str = "/run/weir/admin.sock";
/// Time to load and verify the kernel programs, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Time to end after SIGTERM with nothing left to drain.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Time for an answer of the admin interface.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// Hooks that Weir sits on.
pub const HOOKS: [AttachType; 6] = [
    AttachType::Connect4,
    AttachType::Connect6,
    AttachType::GetPeerName4,
    AttachType::GetPeerName6,
    AttachType::SockCreate,
    AttachType::SockOps,
];

/// Word for the driver that this run of the tests is for, as `--io` takes it.
#[must_use]
pub fn driver() -> String {
    std::env::var("WEIR_TEST_IO").unwrap_or_else(|_| "auto".to_owned())
}

/// The binary: `WEIR_BIN`, or what cargo built beside the test program.
///
/// # Panics
/// If it is not there: `cargo build -p proxy-user` makes it.
#[must_use]
pub fn binary() -> PathBuf {
    let path = std::env::var_os("WEIR_BIN").map(PathBuf::from).or_else(|| {
        let own = std::env::current_exe().ok()?;
        Some(own.parent()?.parent()?.join("weir"))
    });
    let path = path.unwrap_or_default();
    assert!(path.is_file(), "{} is not there: cargo build -p proxy-user", path.display());
    path
}

/// Programs that are attached to Weir's hooks at the cgroup root now, whosever they are.
///
/// # Panics
/// If the kernel does not say.
#[must_use]
pub fn attached_programs() -> usize {
    let root = cgroup::mount().expect("cgroup v2 is mounted");
    let root = File::open(root).expect("root may open it");
    HOOKS.iter().map(|hook| bpf::query(root.as_fd(), *hook).expect("root may ask").len()).sum()
}

/// Where a Weir of an ABI pins its maps.
#[must_use]
pub fn maps_folder(abi: u32) -> PathBuf {
    Path::new(PINS).join(format!("maps-{abi}"))
}

/// Whether links of a Weir are pinned.
#[must_use]
pub fn has_pins() -> bool {
    let links = fs::read_dir(Path::new(PINS).join("links"));
    links.is_ok_and(|mut links| links.next().is_some())
}

/// A Weir that runs, or ran. What it leaves is checked and removed when this is dropped.
pub struct Weir<'a> {
    net: &'a Net,
    child: Child,
    folder: PathBuf,
    programs_before: usize,
    has_ended: bool,
}

impl<'a> Weir<'a> {
    /// Starts one and waits until it is ready; or reports that the test is skipped, because the driver that this run is
    /// for does not work on this machine.
    ///
    /// # Panics
    /// If it does not get ready: with everything that it said.
    #[must_use]
    pub fn start(net: &'a Net, config: &Value) -> Option<Self> {
        Self::start_with(net, config, &[], &[])
    }

    /// The same with a command that starts it, such as `prlimit`, and with more arguments for `weir run`.
    ///
    /// # Panics
    /// As [`Weir::start`].
    #[must_use]
    pub fn start_with(net: &'a Net, config: &Value, starter: &[&str], more: &[&str]) -> Option<Self> {
        if driver() == "ring"
            && let Err(reason) = proxy_io::driver::probe::ring()
        {
            skip::skip(&format!("{reason}"));
            return None;
        }
        let mut weir = Self::spawn(net, config, starter, more);
        weir.wait_ready();
        Some(weir)
    }

    /// Starts one and waits for nothing.
    fn spawn(net: &'a Net, config: &Value, starter: &[&str], more: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("weir-test-{}-{count}", std::process::id()));
        fs::create_dir_all(&folder).expect("the folder for temporary files is there");
        // links that an earlier process left are taken over, so they are not somebody else's
        let programs_before = if has_pins() { 0 } else { attached_programs() };
        let child = Self::launch(net, &folder, config, starter, more);
        Self { net, child, folder, programs_before, has_ended: false }
    }

    /// Starts the process again, after it ended or was killed; the folder and its files stay.
    ///
    /// # Panics
    /// If it cannot be started or does not get ready.
    pub fn restart(&mut self, config: &Value) {
        assert!(self.has_ended, "it still runs");
        self.child = Self::launch(self.net, &self.folder, config, &[], &[]);
        self.has_ended = false;
        self.wait_ready();
    }

    /// Starts another process, which takes over from this one, and waits until it has. Returns the older one, which may
    /// still carry connections.
    ///
    /// # Panics
    /// If it cannot be started or does not take over.
    #[must_use]
    pub fn take_over(&mut self, config: &Value) -> Older {
        let newer = Self::launch(self.net, &self.folder, config, &[], &["--takeover"]);
        let older = Older(std::mem::replace(&mut self.child, newer));
        wait::until_true("the newer weir to have taken over", START_LIMIT, || {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                self.has_ended = true;
                panic!("the newer weir ended with {status}:\n{}", self.log());
            }
            self.serving_pid() == Some(self.pid().into())
        });
        older
    }

    /// Process id of the Weir that answers.
    #[must_use]
    pub fn serving_pid(&self) -> Option<u64> {
        let (_, text) = self.ask("/status").ok()?;
        serde_json::from_str::<Value>(&text).ok()?["pid"].as_u64()
    }

    /// A command that starts another `weir run` beside this one, with a config of its own.
    ///
    /// # Panics
    /// If the config cannot be written.
    #[must_use]
    pub fn beside(&self, config: &str, more: &[&str]) -> Command {
        let file = self.folder.join("other.yaml");
        fs::write(&file, config).expect("the folder can be written to");
        let mut command = self.net.command(Side::Near, |nsenter| Command::new(nsenter), &binary());
        command.args(["run", "--io", &driver(), "-c"]).arg(&file).args(more);
        command
    }

    fn launch(net: &Net, folder: &Path, config: &Value, starter: &[&str], more: &[&str]) -> Child {
        let file = folder.join("weir.yaml");
        fs::write(&file, config.to_string()).expect("the folder can be written to");
        let log = File::options().create(true).append(true).open(folder.join("stderr"));
        let log = log.expect("the folder can be written to");
        let start = |nsenter: &Path| match starter {
            [] => Command::new(nsenter),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(nsenter);
                command
            }
        };
        let mut command = net.command(Side::Near, start, &binary());
        command.args(["run", "-c"]).arg(&file).args(more);
        if !more.contains(&"--io") {
            command.args(["--io", &driver()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().expect("nsenter can be started")
    }

    fn wait_ready(&mut self) {
        wait::until_true("weir to be ready", START_LIMIT, || {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                self.has_ended = true;
                panic!("weir ended with {status}:\n{}", self.log());
            }
            matches!(self.ask("/healthz/ready"), Ok((200, _)))
        });
    }

    /// Everything that it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("stderr")).unwrap_or_default()
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A folder of its own, which holds its config.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Asks the read-only admin interface.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn ask(&self, path: &str) -> Result<(u16, String)> {
        let address: SocketAddr = ([127, 0, 0, 1], 15000).into();
        self.net.run(Side::Near, || {
            let mut stream = TcpStream::connect_timeout(&address, ASK_LIMIT)?;
            stream.set_read_timeout(Some(ASK_LIMIT))?;
            write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
            answer(stream)
        })?
    }

    /// A scrape.
    ///
    /// # Panics
    /// If there is no answer.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let (status, text) = self.ask("/metrics").expect("/metrics answers");
        assert_eq!(status, 200, "{text}");
        Metrics::parse(&text)
    }

    /// Connections as the kernel knows them.
    ///
    /// # Panics
    /// If there is no answer or it is not JSON.
    #[must_use]
    pub fn connections(&self) -> Value {
        let (status, text) = self.ask("/connections").expect("/connections answers");
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Sends a change to the admin socket.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn post(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = UnixStream::connect(ADMIN_SOCKET)?;
        stream.set_read_timeout(Some(ASK_LIMIT))?;
        write!(stream, "POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")?;
        answer(stream)
    }

    /// Replaces the config by a rename, as editors and configuration tools do.
    ///
    /// # Panics
    /// If the file cannot be replaced.
    pub fn write_config(&self, text: &str) {
        let (new, file) = (self.folder.join("weir.yaml.new"), self.folder.join("weir.yaml"));
        fs::write(&new, text).and_then(|()| fs::rename(new, file)).expect("the folder can be written to");
    }

    /// Replaces the config and waits until it is in force.
    ///
    /// # Panics
    /// If Weir refuses it.
    pub fn reload(&self, config: &Value) {
        self.write_config(&config.to_string());
        let (status, text) = self.post("/reload").expect("the admin socket answers");
        assert!(status < 300, "reload: {status} {text}\n{}", self.log());
    }

    /// Memory in bytes that this process alone is charged with (Pss).
    ///
    /// # Panics
    /// If it has ended.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.pid());
        let text = fs::read_to_string(path).expect("weir runs");
        let pss = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = pss.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.expect("the kernel counts Pss") << 10
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, name: &str) {
        assert!(!self.has_ended, "it has ended");
        process::signal(self.pid(), name).expect("it runs");
    }

    /// Ends it as a crash would.
    ///
    /// # Panics
    /// If it has ended before.
    pub fn kill(&mut self) {
        self.signal("-KILL");
        self.wait(STOP_LIMIT);
    }

    /// Ends it in order and returns how it went.
    ///
    /// # Panics
    /// If it does not end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("-TERM");
        self.wait(STOP_LIMIT)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let status = wait::until("the end of weir", limit, || {
            self.child.try_wait().expect("a child can be waited for")
        });
        self.has_ended = true;
        status
    }

    fn end(&mut self) -> Result<()> {
        if !self.has_ended {
            let status = self.terminate();
            ensure!(status.success(), "after SIGTERM weir ended with {status}");
        }
        if has_pins() {
            let detached = process::output(Command::new(binary()).arg("detach"));
            detached.context("links were left behind and cannot be removed")?;
        }
        let is_left = |name: &&str| Path::new(RUN).join(name).exists();
        let left: Vec<&str> =
            ["weir.pid", "admin.sock", "takeover.sock", "names.json"].into_iter().filter(is_left).collect();
        ensure!(left.is_empty(), "{left:?} stayed in {RUN}");
        // the kernel takes its time to free a link whose last reference has gone
        wait::until_true("the programs to go", STOP_LIMIT, || attached_programs() <= self.programs_before);
        Ok(())
    }
}

/// A process that another one has taken over from; killed if a test forgets it.
pub struct Older(Child);

impl Older {
    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        wait::until("the end of the older weir", limit, || {
            self.0.try_wait().expect("a child can be waited for")
        })
    }

    /// Whether it still runs.
    ///
    /// # Panics
    /// If the kernel does not say.
    #[must_use]
    pub fn runs(&mut self) -> bool {
        self.0.try_wait().expect("a child can be waited for").is_none()
    }
}

impl Drop for Older {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

impl Drop for Weir<'_> {
    fn drop(&mut self) {
        let ended = if std::thread::panicking() {
            eprintln!("--- weir said:\n{}---", tail(&self.log()));
            let _ = self.child.kill();
            let _ = self.child.wait();
            if has_pins() {
                let _ = Command::new(binary()).arg("detach").output();
            }
            Ok(())
        } else {
            self.end()
        };
        let log = self.log();
        let _ = fs::remove_dir_all(&self.folder);
        if let Err(error) = ended {
            panic!("{error:#}\n{}", tail(&log));
        }
    }
}

/// The end of a long text.
fn tail(text: &str) -> &str {
    const BYTES: usize = 16 << 10;
    let from = text.len().saturating_sub(BYTES);
    text.get(text.ceil_char_boundary(from)..).unwrap_or_default()
}

/// Reads an answer of HTTP/1.0: its status and body.
fn answer(mut stream: impl std::io::Read) -> Result<(u16, String)> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}
