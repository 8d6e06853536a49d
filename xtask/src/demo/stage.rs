//! Where the demo plays: network namespaces on cables, cgroups, and a folder. And taking them away.
//!
//! ```text
//!   namespace weir-demo                        namespace weir-demo-far
//!   10.77.0.1, fd77::1  (applications, Weir) ── 10.77.0.11, .12, .13 (web), .20 (redis)
//!   namespace weir-demo-pod                      │
//!   10.78.0.2           (an application) ────────┘
//!   routes to 10.96.0.0/16 and fd96::/64: where nobody answers unless Weir does
//! ```
//!
//! None has a default route, and nothing connects them to the rest of the machine.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::show::Show;
use crate::machine;
use crate::process;

/// Files of the demo.
pub(super) const FOLDER: &str = "/run/weir-demo";
/// Name of the cgroup below the cgroup v2 mount.
const CGROUP: &str = "weir-demo";
const NEAR: &str = "weir-demo";
const FAR: &str = "weir-demo-far";
const POD: &str = "weir-demo-pod";
const NAMESPACES: [&str; 3] = [NEAR, FAR, POD];
/// Time for killed processes to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Who runs a program: its cgroup and network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// An application that Weir intercepts.
    App,
    /// One in a network namespace of its own.
    Pod,
    /// An application beside it that Weir does not know.
    Outside,
    /// Weir and those who ask it.
    Node,
    /// The servers.
    Far,
}

impl Who {
    /// A cgroup stands behind the one that it is in.
    const ALL: [Self; 5] = [Self::App, Self::Pod, Self::Outside, Self::Node, Self::Far];

    /// Name of the script that enters cgroup and namespace.
    fn as_str(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Pod => "pod",
            Self::Outside => "outside",
            Self::Node => "node",
            Self::Far => "far",
        }
    }

    /// Its cgroup below the demo's.
    fn cgroup(self) -> &'static str {
        // in the scope, as the cgroups of pods are in the kubelet's
        if self == Self::Pod { "app/pod" } else { self.as_str() }
    }

    fn netns(self) -> &'static str {
        match self {
            Self::Far => FAR,
            Self::Pod => POD,
            Self::App | Self::Outside | Self::Node => NEAR,
        }
    }
}

/// The place; may or may not have been built.
pub(super) struct Stage {
    cgroup: PathBuf,
}

impl Stage {
    pub(super) fn find() -> Result<Self> {
        let mount = machine::cgroup_mount().context("cgroup v2 is mounted nowhere")?;
        Ok(Self { cgroup: mount.join(CGROUP) })
    }

    /// Tells whether anything of a demo is there.
    pub(super) fn exists(&self) -> bool {
        self.cgroup.exists()
            || Path::new(FOLDER).exists()
            || NAMESPACES.iter().any(|name| Path::new("/run/netns").join(name).exists())
    }

    /// A command that enters cgroup and namespace before it becomes `program`; its process id stays the same.
    pub(super) fn command(&self, who: Who, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(file(who.as_str()));
        command.arg(program.as_ref()).stdin(Stdio::null());
        command
    }

    /// Ends every process of the demo and removes everything that it made.
    pub(super) fn clean(&self) -> Result<()> {
        self.kill()?;
        let weir = file("weir");
        if weir.exists() {
            process::output(Command::new(&weir).arg("detach"))?;
        }
        for name in NAMESPACES {
            if Path::new("/run/netns").join(name).exists() {
                process::run(Command::new("ip").args(["netns", "del", name]))?;
            }
        }
        if self.cgroup.exists() {
            for who in Who::ALL.into_iter().rev() {
                let _ = fs::remove_dir(self.cgroup.join(who.cgroup()));
            }
            fs::remove_dir(&self.cgroup).context("cannot remove the demo's cgroup")?;
        }
        if Path::new(FOLDER).exists() {
            fs::remove_dir_all(FOLDER).with_context(|| format!("cannot remove {FOLDER}"))?;
        }
        Ok(())
    }

    /// Everything that the demo starts is in its cgroups, and nothing else is.
    fn kill(&self) -> Result<()> {
        if !self.cgroup.exists() {
            return Ok(());
        }
        // Linux 5.14
        fs::write(self.cgroup.join("cgroup.kill"), "1").context("cannot kill the demo's processes")?;
        let events = self.cgroup.join("cgroup.events");
        let is_empty = || fs::read_to_string(&events).is_ok_and(|text| text.contains("populated 0"));
        ensure!(until(KILL_LIMIT, is_empty), "processes of the demo do not end");
        Ok(())
    }
}

/// A file of the demo.
pub(super) fn file(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// Looks again and again until something is so; false if it is not in time.
pub(super) fn until(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let began = std::time::Instant::now();
    while !is_so() {
        if began.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Builds the place.
pub(super) fn build(stage: &Stage, weir: &Path, show: &mut Show) -> Result<()> {
    show.step("A place without a way out");
    fs::create_dir(FOLDER).with_context(|| format!("cannot make {FOLDER}"))?;
    fs::create_dir(&stage.cgroup).context("cannot make a cgroup")?;
    for who in Who::ALL {
        let cgroup = stage.cgroup.join(who.cgroup());
        fs::create_dir(&cgroup).context("cannot make a cgroup")?;
        // `ip netns exec` would hide the cgroups; nsenter changes nothing but the network
        let script = format!(
            "#!/bin/sh\necho $$ > {}/cgroup.procs && exec nsenter --net=/run/netns/{} -- \"$@\"\n",
            cgroup.display(),
            who.netns()
        );
        fs::write(file(who.as_str()), script)?;
        fs::set_permissions(file(who.as_str()), fs::Permissions::from_mode(0o755))?;
    }
    symlink(weir, file("weir")).context("cannot link to weir")?;
    networks()?;
    let show_routes =
        |netns, family| process::output(Command::new("ip").args(["-n", netns, family, "route"]));
    let routes = [
        show_routes(NEAR, "-4")?,
        show_routes(NEAR, "-6")?,
        show_routes(FAR, "-4")?,
        show_routes(FAR, "-6")?,
        show_routes(POD, "-4")?,
        show_routes(POD, "-6")?,
    ];
    show.command("ip -n weir-demo route");
    show.quote(&routes[0]);
    let has_default = routes.iter().any(|text| text.lines().any(|line| line.starts_with("default")));
    show.promise("no default route: nothing in here can reach anything outside", {
        if has_default { Err(anyhow::anyhow!("there is one")) } else { Ok(()) }
    });
    show.say(&format!(
        "cgroups below {}: app (intercepted), app/pod, outside, node, far",
        stage.cgroup.display()
    ));
    Ok(())
}

fn networks() -> Result<()> {
    for name in NAMESPACES {
        process::run(Command::new("ip").args(["netns", "add", name]))?;
    }
    let near = format!(
        "link set lo up\nlink add demo0 type veth peer name demo0 netns {FAR}\nlink set demo0 up\n\
         addr add 10.77.0.1/24 dev demo0\naddr add fd77::1/64 dev demo0 nodad\n\
         route add 10.96.0.0/16 dev demo0 src 10.77.0.1\nroute add fd96::/64 dev demo0 src fd77::1\n"
    );
    batch(NEAR, &near)?;
    let mut far = "link set lo up\nlink set demo0 up\naddr add fd77::2/64 dev demo0 nodad\n".to_owned();
    for host in ["11", "12", "13", "20"] {
        far += &format!("addr add 10.77.0.{host}/24 dev demo0\n");
    }
    far += &format!(
        "link add demo1 type veth peer name demo1 netns {POD}\nlink set demo1 up\naddr add 10.78.0.1/24 dev demo1\n"
    );
    batch(FAR, &far)?;
    batch(
        POD,
        "link set lo up\nlink set demo1 up\naddr add 10.78.0.2/24 dev demo1\n\
         route add 10.77.0.0/24 via 10.78.0.1\nroute add 10.96.0.0/16 via 10.78.0.1\n",
    )
}

/// Runs `ip` commands in a namespace.
fn batch(netns: &str, commands: &str) -> Result<()> {
    let mut ip = Command::new("ip")
        .args(["-n", netns, "-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip")?;
    ip.stdin.take().context("the pipe was asked for above")?.write_all(commands.as_bytes())?;
    let output = ip.wait_with_output()?;
    ensure!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
