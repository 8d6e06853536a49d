//! Kernels that Debian packages offer.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::machine;
use crate::process;

/// Names of packages that stand for the newest build of a kernel: `linux-image-amd64`, `linux-image-6.12-amd64`.
const OFFERS: &str = r"^linux-image(-[0-9]+\.[0-9]+)?-amd64$";

/// Version of a kernel that is older than the oldest on which Weir runs, and the release of Debian that has it.
pub(super) const TOO_OLD: &str = "5.10";
const OLD_RELEASE: &str = "bullseye";

/// A kernel that can be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kernel {
    /// `linux-image-6.1.0-56-amd64`, for example.
    package: String,
    source: Source,
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

/// All kernels that are on offer, the oldest first.
pub(super) fn offered() -> Result<Vec<Kernel>> {
    let kernels = known(&Source::default())?;
    ensure!(!kernels.is_empty(), "apt-cache knows no kernel");
    Ok(kernels)
}

/// The kernel of an older release of Debian, on which Weir does not run. Nothing that apt knows otherwise is touched.
pub(super) fn too_old(cache: &Path) -> Result<Kernel> {
    let format = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main"];
    let targets = process::output(Command::new("apt-get").args(format))?;
    let site = targets.lines().find(|site| site.trim_end_matches('/').ends_with("/debian"));
    let site = site.context("apt-get knows no mirror of Debian")?;
    let folder = cache.join(OLD_RELEASE);
    let source = Source::new(&folder, &format!("deb {site} {OLD_RELEASE} main\n"))?;
    process::run(source.command("apt-get").args(["-q", "update"]))?;
    known(&source)?.into_iter().next().with_context(|| format!("{OLD_RELEASE} has no kernel"))
}

/// All kernels from a source, the oldest first.
fn known(source: &Source) -> Result<Vec<Kernel>> {
    let found = process::output(source.command("apt-cache").args(["search", "--names-only", OFFERS]))?;
    let mut kernels = Vec::new();
    for meta in found.lines().filter_map(|line| line.split(' ').next()) {
        let depends = process::output(source.command("apt-cache").args(["depends", meta]))?;
        let package = package_in(&depends).map(ToOwned::to_owned);
        kernels.extend(package.map(|package| Kernel { package, source: source.clone() }));
    }
    kernels.sort_by_key(|kernel| machine::version_of(kernel.version()));
    kernels.dedup();
    Ok(kernels)
}

/// Where apt looks for packages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Source {
    /// Options that put others in place of the machine's own sources.
    options: Vec<String>,
}

impl Source {
    /// One line of sources.list(5), with everything that apt keeps about it in a folder.
    fn new(folder: &Path, line: &str) -> Result<Self> {
        fs::create_dir_all(folder.join("lists/partial"))?;
        fs::write(folder.join("sources.list"), line)?;
        let folder = folder.display();
        let options = [
            format!("Dir::Etc::SourceList={folder}/sources.list"),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={folder}/lists"),
            "Dir::Cache::PkgCache=".to_owned(),
            "Dir::Cache::SrcPkgCache=".to_owned(),
        ];
        Ok(Self { options: options.map(|option| format!("-o{option}")).to_vec() })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }
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
            // What an earlier run that was cut off has left would be in the way.
            for left in [&folder, &cache.join("unpacked")] {
                let _ = fs::remove_dir_all(left);
            }
            fs::create_dir_all(&folder)?;
            process::run(self.source.command("apt-get").current_dir(&folder).args([
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
        assert_eq!(Kernel { package, source: Source::default() }.to_string(), "kernel 6.1.0-56");
        assert_eq!(package_in("x\n  Depends: linux-base\n"), None);
    }
}
