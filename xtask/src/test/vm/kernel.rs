//! Kernels that Debian packages offer.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process;

/// Names of packages that stand for the newest build of a kernel: `linux-image-amd64`, `linux-image-6.12-amd64`.
const OFFERS: &str = r"^linux-image(-[0-9]+\.[0-9]+)?-amd64$";

/// A kernel that can be installed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kernel {
    /// `linux-image-6.1.0-56-amd64`, for example.
    package: String,
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {}", self.version())
    }
}

/// The parts of a kernel's package that count.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// The kernel itself.
    pub(super) image: PathBuf,
    /// Folder that holds `lib/modules`.
    pub(super) root: PathBuf,
    /// Name of the folder below, as `uname -r` says it.
    pub(super) release: String,
}

/// All kernels that are on offer, in the order of their names.
pub(super) fn offered() -> Result<Vec<Kernel>> {
    let found = process::output(Command::new("apt-cache").args(["search", "--names-only", OFFERS]))?;
    let mut kernels = Vec::new();
    for meta in found.lines().filter_map(|line| line.split(' ').next()) {
        let depends = process::output(Command::new("apt-cache").args(["depends", meta]))?;
        kernels.extend(package_in(&depends).map(|package| Kernel { package: package.to_owned() }));
    }
    kernels.sort();
    kernels.dedup();
    ensure!(!kernels.is_empty(), "apt-cache knows no kernel");
    Ok(kernels)
}

/// The kernel that a package stands for.
fn package_in(depends: &str) -> Option<&str> {
    let mut names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.find(|name| name.starts_with("linux-image-"))
}

impl Kernel {
    /// `6.1.0-56`, for example.
    pub(super) fn version(&self) -> &str {
        self.package.trim_start_matches("linux-image-").trim_end_matches("-amd64")
    }

    /// Gets and unpacks it, unless that was done before.
    pub(super) fn fetch(&self, cache: &Path) -> Result<Unpacked> {
        let root = cache.join(&self.package);
        if !root.join("boot").is_dir() {
            let folder = cache.join("download");
            fs::create_dir_all(&folder)?;
            process::run(Command::new("apt-get").current_dir(&folder).args([
                "-q",
                "download",
                &self.package,
            ]))?;
            let archive = only(&folder)?;
            process::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(cache.join("unpacked")))?;
            fs::remove_dir_all(&folder)?;
            fs::rename(cache.join("unpacked"), &root)?;
        }
        // Debian has /lib within /usr sooner or later.
        let root =
            [root.clone(), root.join("usr")].into_iter().find(|root| root.join("lib/modules").is_dir());
        let root = root.with_context(|| format!("{} has no modules", self.package))?;
        let modules = only(&root.join("lib/modules"))?;
        let release = modules.file_name().context("modules are in a folder")?.to_string_lossy().into_owned();
        process::run(Command::new("depmod").arg("-b").arg(&root).arg(&release))?;
        let image = cache.join(&self.package).join(format!("boot/vmlinuz-{release}"));
        ensure!(image.is_file(), "{} has no kernel", self.package);
        Ok(Unpacked { image, root, release })
    }
}

/// What a folder holds, if that is one thing.
fn only(folder: &Path) -> Result<PathBuf> {
    let within: Vec<_> = fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .flatten()
        .collect();
    ensure!(within.len() == 1, "{} holds {} things", folder.display(), within.len());
    Ok(within[0].path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_stands_for_a_kernel_says_which() {
        let depends = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n  Conflicts: x\n";
        let package = package_in(depends).unwrap().to_owned();
        assert_eq!(Kernel { package }.to_string(), "kernel 6.1.0-56");
        assert_eq!(package_in("x\n  Depends: linux-base\n"), None);
    }
}
