//! A machine that runs one script and ends.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::kernel::Unpacked;
use crate::machine;
use crate::process;

/// Modules that a machine needs: for this machine's files, cables between namespaces, what `ss` asks by, and kTLS.
const MODULES: [&str; 7] = ["virtio_pci", "9pnet_virtio", "9p", "overlay", "veth", "tcp_diag", "tls"];
/// Exit codes of timeout(1) for a command that it has stopped, with SIGTERM or SIGKILL.
pub(super) const STOPPED: [i32; 2] = [124, 137];
/// Memory in MiB: what is written goes there, too.
const MEMORY_MIB: &str = "4096";

/// First program of the machine: makes this machine's files its own, so that what is written stays in memory.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
for module in $(busybox cat /order); do busybox insmod /modules/$module; done
busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,ro,cache=loose host /host
busybox mount -t tmpfs memory /memory
busybox mkdir /memory/upper /memory/work
busybox mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work root /new
for folder in proc sys dev; do busybox mount --move /$folder /new/$folder; done
busybox mount -t tmpfs run /new/run
busybox cp /script /new/run/script
exec busybox switch_root /new /bin/sh /run/script
"#;

/// What comes before the script: a machine as a service manager leaves it. The folders for temporary files stay those of the
/// image, because the repository may lie below.
const BEFORE: &str = "\
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/netns && touch /run/skips
ip link set lo up
ulimit -n 20000
";

/// What comes behind it: the machine is switched off, and no file is read any more.
const AFTER: &str = "\necho o > /proc/sysrq-trigger\nwhile :; do :; done\n";

/// A machine that has not been started.
pub(super) struct Machine {
    image: PathBuf,
    files: PathBuf,
    clock: Clock,
    limit: Duration,
}

/// What a machine takes for time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clock {
    /// Time itself: the machine's processors run side by side, as fast as they can.
    Real,
    /// One nanosecond for each instruction: what else runs here makes the machine no slower than its tests expect. It has one
    /// processor, since several would take turns and take far longer.
    Instructions,
}

impl Machine {
    /// Prepares it.
    pub(super) fn new(
        kernel: &Unpacked,
        scratch: &Path,
        script: &str,
        clock: Clock,
        limit: Duration,
    ) -> Result<Self> {
        let folder = scratch.join(&kernel.release);
        for name in ["bin", "proc", "sys", "dev", "host", "memory", "new", "modules"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let busybox = machine::find("busybox").context("there is no busybox")?;
        fs::copy(busybox, folder.join("bin/busybox"))?;
        fs::write(folder.join("init"), INIT)?;
        fs::set_permissions(folder.join("init"), fs::Permissions::from_mode(0o755))?;
        fs::write(folder.join("script"), [BEFORE, script, AFTER].concat())?;
        fs::write(folder.join("order"), copy_modules(kernel, &folder.join("modules"))?.join("\n"))?;
        let files = scratch.join(format!("{}.cpio", kernel.release));
        let pack = "find . | cpio --quiet -o -H newc > \"$0\"";
        process::run(Command::new("sh").current_dir(&folder).args(["-c", pack]).arg(&files))?;
        Ok(Self { image: kernel.image.clone(), files, clock, limit })
    }

    /// The command that runs it, with its console on standard output; it ends with [`STOPPED`] if the limit is reached.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("timeout");
        command.arg("--kill-after=10").arg(self.limit.as_secs().to_string()).arg("qemu-system-x86_64");
        command.args(match self.clock {
            Clock::Real => ["-accel", "tcg,thread=multi", "-smp", "2"].as_slice(),
            Clock::Instructions => &["-accel", "tcg,thread=single", "-icount", "shift=0"],
        });
        command.args(["-cpu", "max"]);
        command.args(["-m", MEMORY_MIB, "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
        command.arg("-kernel").arg(&self.image).arg("-initrd").arg(&self.files);
        command.args(["-append", "console=ttyS0 quiet loglevel=3 panic=-1"]);
        command.args(["-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"]);
        command.args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]);
        command
    }
}

/// Copies modules and what they depend on; gives their names in the order in which they can be loaded.
fn copy_modules(kernel: &Unpacked, to: &Path) -> Result<Vec<String>> {
    let mut order: Vec<String> = Vec::new();
    for module in MODULES {
        let mut modprobe = Command::new(machine::find("modprobe").context("there is no modprobe")?);
        modprobe.arg("-d").arg(&kernel.root).args(["-S", &kernel.release, "--show-depends", module]);
        // One that a kernel does not have is missed by the tests that need it.
        let said = process::output(&mut modprobe).unwrap_or_default();
        for path in said.lines().filter_map(|line| line.strip_prefix("insmod ")) {
            let path = Path::new(path.trim());
            let name = path.file_name().context("a module is a file")?.to_string_lossy();
            let plain = name.trim_end_matches(".xz").to_owned();
            if order.contains(&plain) {
                continue;
            }
            fs::copy(path, to.join(&*name)).with_context(|| format!("cannot copy {}", path.display()))?;
            if name != plain {
                process::run(Command::new("xz").arg("-d").arg(to.join(&*name)))?;
            }
            order.push(plain);
        }
    }
    Ok(order)
}
