//! `cargo xtask demo`: shows what Weir promises, on this machine, with real programs, in less than a minute.
//!
//! Everything happens in two network namespaces without a way out and in cgroups of the demo's own. A second process,
//! the guard, waits on a pipe for the end of this one: whatever ends the demo, it takes everything away again.

mod backend;
mod client;
mod failure;
mod lanes;
mod node;
mod show;
mod sight;
mod stage;

use std::env;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::demo::backend::Backends;
use crate::demo::client::Role;
use crate::demo::node::Node;
use crate::demo::show::Show;
use crate::demo::stage::Stage;
use crate::machine;
use crate::process;
use crate::repo::Repo;

/// Programs that the demo cannot do without, and their Debian packages.
const NEEDED: [(&str, &str); 2] = [("curl", "curl"), ("ip", "iproute2")];
/// Programs that make it better.
const WANTED: [(&str, &str); 4] = [
    ("nginx", "nginx"),
    ("openssl", "openssl"),
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
];
/// Lock of the Weir that runs on this node; its process id stands inside.
const LOCK: &str = "/run/weir/weir.pid";
/// Where Weir pins what survives it.
const PINS: &str = "/sys/fs/bpf/weir";
/// What the demo tells its guard when it wants to leave everything running.
const KEEP: &[u8] = b"keep";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leaves everything running, to play with
    #[arg(long)]
    keep: bool,
    /// Ends what --keep left running
    #[arg(long, conflicts_with = "keep")]
    clean: bool,
    /// Driver of Weir's workers
    #[arg(long, value_enum, default_value_t = Io::Auto)]
    io: Io,
    /// What this process is, when the demo starts itself again
    #[arg(long, value_enum, hide = true)]
    role: Option<Role>,
    /// Addresses for the role
    #[arg(hide = true)]
    addresses: Vec<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Io {
    Auto,
    Ring,
    Epoll,
}

impl Io {
    fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ring => "ring",
            Self::Epoll => "epoll",
        }
    }
}

/// What the steps share.
struct Demo {
    show: Show,
    stage: Stage,
    backends: Backends,
    node: Node,
}

pub(crate) fn run(repo: &Repo, args: &Args) -> Result<ExitCode> {
    match args.role {
        Some(Role::Guard) => return guard(),
        Some(role) => return client::run(role, &args.addresses).map(|()| ExitCode::SUCCESS),
        None => {}
    }
    if let Some(reason) = machine::obstacle() {
        bail!("the demo cannot run here: {reason}");
    }
    let stage = Stage::find()?;
    if args.clean {
        stage.clean()?;
        println!("Nothing of the demo is left.");
        return Ok(ExitCode::SUCCESS);
    }
    refuse_second_weir(&stage)?;
    if stage.exists() {
        println!("Something of an earlier demo was left; it is taken away first.");
        stage.clean()?;
    }
    ensure!(
        !Path::new(PINS).exists(),
        "a Weir that did not end in order left its programs attached ({PINS}); `weir detach` removes them"
    );
    install()?;
    let weir = build(repo)?;
    play(stage, &weir, args)
}

/// Weir serves a whole node, so there is one at a time.
fn refuse_second_weir(stage: &Stage) -> Result<()> {
    let Ok(lock) = File::open(LOCK) else { return Ok(()) };
    if lock.try_lock().is_ok() {
        return Ok(());
    }
    let pid = fs::read_to_string(LOCK).unwrap_or_default();
    if stage.exists() {
        bail!("a demo is still running (Weir is process {}); `cargo xtask demo --clean` ends it", pid.trim());
    }
    bail!("Weir already runs on this machine as process {}, and one serves the whole node", pid.trim());
}

/// Installs what is missing; only what cannot be replaced must be there afterwards.
fn install() -> Result<()> {
    let missing = |list: &[(&'static str, &'static str)]| -> Vec<&'static str> {
        list.iter()
            .filter(|(program, _)| machine::find(program).is_none())
            .map(|(_, package)| *package)
            .collect()
    };
    let packages = [missing(&NEEDED), missing(&WANTED)].concat();
    if packages.is_empty() {
        return Ok(());
    }
    println!("Installing {} ...", packages.join(", "));
    let result = machine::install(&packages);
    let still = missing(&NEEDED);
    match result {
        Err(error) if !still.is_empty() => {
            Err(error.context(format!("the demo needs {}", still.join(" and "))))
        }
        Err(error) => {
            println!("Not everything could be installed ({error:#}); the demo goes on with what is here.");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Builds the release binary beside the folder that this program was built in.
fn build(repo: &Repo) -> Result<PathBuf> {
    println!("Building weir (release); the first time this takes some minutes ...");
    let own = env::current_exe().context("this program has no path")?;
    let target = own.parent().and_then(Path::parent).context("this program lies in no target folder")?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(repo.root()).args(["build", "--release", "-p", "proxy-user", "--bin", "weir"]);
    process::run(&mut command)?;
    let weir = target.join("release/weir");
    ensure!(weir.is_file(), "cargo built weir somewhere else than below {}", target.display());
    Ok(weir)
}

fn play(stage: Stage, weir: &Path, args: &Args) -> Result<ExitCode> {
    let began = Instant::now();
    let guard = Guard::start()?;
    let mut show = Show::new();
    let result = perform(stage, weir, args, &mut show);
    if let Err(error) = result {
        show.promise("the demo runs to its end", Err(error));
    }
    let seconds = began.elapsed().as_secs();
    if args.keep {
        guard.leave()?;
        show.how_to_play();
    } else {
        guard.end()?;
    }
    Ok(show.sum(seconds))
}

/// All steps. An error is one without which the rest makes no sense.
fn perform(stage: Stage, weir: &Path, args: &Args, show: &mut Show) -> Result<()> {
    stage::build(&stage, weir, show)?;
    let backends = Backends::start(&stage, show)?;
    let node = Node::start(&stage, args.io.as_str(), show)?;
    let mut demo = Demo { show: std::mem::take(show), stage, backends, node };
    let result = steps(&mut demo, args.keep);
    *show = std::mem::take(&mut demo.show);
    if result.is_err() {
        show.quote(&demo.node.log_tail());
    }
    if args.keep {
        // the processes go on; only our hold on them ends
        demo.backends.forget();
        demo.node.forget();
    }
    result
}

fn steps(demo: &mut Demo, keep: bool) -> Result<()> {
    lanes::outsider(demo)?;
    lanes::proxy(demo)?;
    lanes::direct(demo)?;
    lanes::families(demo)?;
    lanes::addresses(demo)?;
    lanes::pod(demo)?;
    lanes::redis(demo)?;
    lanes::requests(demo)?;
    failure::backend_dies(demo)?;
    failure::weir_dies(demo)?;
    sight::connections(demo)?;
    sight::metrics(demo)?;
    sight::status(demo)?;
    sight::doctor(demo)?;
    if !keep {
        failure::weir_ends(demo)?;
    }
    Ok(())
}

/// The process that cleans up when this one is gone.
struct Guard {
    child: Child,
}

impl Guard {
    fn start() -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        // a process group of its own: Ctrl-C ends the demo and not its guard
        command.args(["demo", "--role", "guard"]).stdin(Stdio::piped()).process_group(0);
        Ok(Self { child: command.spawn().context("cannot start the guard")? })
    }

    /// Leaves everything as it is.
    fn leave(mut self) -> Result<()> {
        if let Some(mut pipe) = self.child.stdin.take() {
            pipe.write_all(KEEP)?;
        }
        self.wait()
    }

    /// Takes everything away.
    fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        self.wait()
    }

    fn wait(mut self) -> Result<()> {
        let status = self.child.wait()?;
        ensure!(status.success(), "cleaning up failed; `cargo xtask demo --clean` tries again");
        Ok(())
    }
}

/// Waits for the end of the demo, and cleans up unless it was told to keep everything.
fn guard() -> Result<ExitCode> {
    let mut word = Vec::new();
    std::io::stdin().read_to_end(&mut word)?;
    if word != KEEP {
        Stage::find()?.clean()?;
    }
    Ok(ExitCode::SUCCESS)
}
