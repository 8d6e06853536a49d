//! The image's root file system, made as the Dockerfile says, and a container of it with what the DaemonSet mounts: without
//! a container engine, by the same system calls.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::node::binary;
use crate::process;
use crate::scratch::Scratch;

const DOCKERFILE: &str = include_str!("../../proxy-user/deploy/Dockerfile");
const DAEMON_SET: &str = include_str!("../../proxy-user/deploy/kubernetes/weir.yaml");
/// How the step begins that collects the files.
const STEP: &str = "RUN set -eu; \\\n";
/// Devices that every container has (runtime-spec of the OCI, config-linux).
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// The one that is made on nodes where it is not there.
const POD_LOGS: &str = "/var/log/pods";
/// Where the ConfigMap goes.
const CONFIG: &str = "/etc/weir";

/// What the image consists of.
pub struct Image(Scratch);

/// One of the DaemonSet's mounts.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    /// Path on the node; none for the ConfigMap.
    pub host: Option<String>,
    /// Path in the container.
    pub path: String,
    /// Whether the container may not write to it.
    pub is_read_only: bool,
}

impl Drop for Image {
    fn drop(&mut self) {
        // A machine without a kubelet does not have it; not if somebody has put anything into it.
        let _ = fs::remove_dir(POD_LOGS);
    }
}

impl Image {
    /// Collects its files from the binary under test with the Dockerfile's own commands.
    ///
    /// # Errors
    /// What those say.
    pub fn build() -> Result<Self> {
        let scratch = Scratch::new("image");
        let step = DOCKERFILE.split_once(STEP).context("no step collects files")?.1;
        let lines: Vec<&str> = step.lines().collect();
        let end = lines.iter().position(|line| !line.ends_with('\\')).context("the step ends")?;
        let script = lines[..=end].join("\n").replace("target/release/weir", "\"$WEIR\"");
        let script =
            script.replace("\"/image$library\"", "\"$IMAGE$library\"").replace("/image", "\"$IMAGE\"");
        let mut sh = Command::new("sh");
        sh.args(["-euc", &script]).env("WEIR", binary()).env("IMAGE", scratch.path());
        process::output(&mut sh)?;
        Ok(Self(scratch))
    }

    /// Its root.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.0.path()
    }

    /// Its files, as paths from its root.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let (mut todo, mut files) = (vec![self.root().to_owned()], Vec::new());
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
                let path = entry.path();
                if is_dir {
                    todo.push(path);
                } else {
                    files.extend(path.strip_prefix(self.root()).map(|path| Path::new("/").join(path)));
                }
            }
        }
        files.sort();
        files
    }

    /// A command in front of the one that starts Weir, for [`Weir::start_with`](crate::node::Weir::start_with): mount and cgroup
    /// namespaces of its own, the image as its root, and the mounts of the DaemonSet, with the folder of the config as the
    /// ConfigMap.
    #[must_use]
    pub fn starter(&self) -> Vec<String> {
        // $0 is the root; what follows is nsenter --net=FILE -- WEIR run -c FILE, and more.
        let mut script = "set -e; root=$0\n\
             mount --bind \"$root\" \"$root\"\n\
             mkdir -p \"$root/proc\" \"$root/sys\" \"$root/dev\"\n\
             mount -t proc proc \"$root/proc\"\n\
             mount -t sysfs sysfs \"$root/sys\"\n\
             mount -t tmpfs -o mode=755 tmpfs \"$root/dev\"\n"
            .to_owned();
        for device in DEVICES {
            script +=
                &format!("touch \"$root/dev/{device}\"; mount --bind /dev/{device} \"$root/dev/{device}\"\n");
        }
        for Mount { host, path, is_read_only } in mounts() {
            let from = host.map_or("$(dirname \"$7\")".to_owned(), |host| format!("\"{host}\""));
            script += &format!("mkdir -p {from} \"$root{path}\"; mount --rbind {from} \"$root{path}\"\n");
            if is_read_only {
                script += &format!("mount -o remount,bind,ro \"$root{path}\"\n");
            }
        }
        script += &format!(
            "mount -o remount,bind,ro \"$root\"\n\
             nsenter=$1; net=$2; shift 7\n\
             exec \"$nsenter\" \"$net\" --root=\"$root\" --wd=\"$root\" -- /usr/bin/weir run -c {CONFIG}/weir.yaml \"$@\"\n"
        );
        let root = self.root().display().to_string();
        ["unshare", "--mount", "--cgroup", "sh", "-c", &script, &root].map(str::to_owned).to_vec()
    }
}

/// The DaemonSet's mounts, from the lines of its manifest.
#[must_use]
pub fn mounts() -> Vec<Mount> {
    let lines = || DAEMON_SET.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let field = |line: &str, key: &str| {
        let rest = line.split_once(&format!("{key}: "))?.1;
        Some(rest.split([',', '}']).next()?.trim().to_owned())
    };
    let host = |name: &str| {
        let mut volume = lines().skip_while(|line| *line != format!("- name: {name}")).skip(1);
        volume.next().filter(|line| line.starts_with("hostPath")).and_then(|line| field(line, "path"))
    };
    let of_line = |line: &str| {
        let (name, path) = (field(line, "name")?, field(line, "mountPath")?);
        Some(Mount { host: host(&name), path, is_read_only: line.contains("readOnly: true") })
    };
    lines().filter(|line| line.starts_with("- {name:")).filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_those_of_the_manifest() {
        let mount = |host: Option<&str>, path: &str, is_read_only| Mount {
            host: host.map(str::to_owned),
            path: path.to_owned(),
            is_read_only,
        };
        let same = |path: &'static str, is_read_only| mount(Some(path), path, is_read_only);
        assert_eq!(
            mounts(),
            [
                mount(None, CONFIG, true),
                same("/run/weir", false),
                same("/sys/fs/bpf", false),
                same("/sys/fs/cgroup", true),
                same("/var/log/pods", true),
            ]
        );
    }
}
