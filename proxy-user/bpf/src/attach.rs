//! Attaching programs to the cgroup root by pinned links, once, and taking them away again.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use proxy_ebpf_common::ABI_VERSION;
use proxy_io::bpf;

use crate::load::{self, HOOKS, Hook, Kernel, PINNED};

/// Where Weir pins, below a bpffs.
pub const PIN_DIR: &str = "/sys/fs/bpf/weir";

/// Begin of the name of a folder of maps; the version of their ABI follows.
const MAPS: &str = "maps-";

/// Folders of pins.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Makes the folders; a bpffs is mounted.
    ///
    /// # Errors
    /// The error of making a folder.
    pub fn prepare() -> io::Result<Self> {
        let pins = Self { root: PIN_DIR.into() };
        std::fs::create_dir_all(pins.links())?;
        std::fs::create_dir_all(pins.maps())?;
        Ok(pins)
    }

    /// Finds what an earlier process left, without making anything.
    #[must_use]
    pub fn existing() -> Option<Self> {
        Path::new(PIN_DIR).is_dir().then(|| Self { root: PIN_DIR.into() })
    }

    /// Folder of the links.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Folder of the maps; those of another ABI are in another folder and so never met.
    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.root.join(format!("{MAPS}{ABI_VERSION}"))
    }

    /// Removes the maps of other ABIs. For when our programs are attached: those that used the maps are gone then.
    ///
    /// What is pinned there and is none of our maps is somebody else's, and stays, with its folder.
    ///
    /// # Errors
    /// The error of reading a folder or of removing a pin; `DirectoryNotEmpty` if something stays.
    pub fn remove_other_abis(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.root)? {
            let folder = entry?.path();
            let is_maps =
                folder.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(MAPS.as_bytes()));
            if !is_maps || folder == self.maps() {
                continue;
            }
            for name in PINNED {
                let path = folder.join(name);
                if bpf::obj_get(&path).is_ok_and(|object| bpf::field(object.as_fd(), "map_type").is_some()) {
                    std::fs::remove_file(path)?;
                }
            }
            std::fs::remove_dir(folder)?;
        }
        Ok(())
    }

    /// Names the hooks whose links are pinned.
    #[must_use]
    pub fn attached(&self) -> Vec<&'static str> {
        HOOKS.iter().map(|hook| hook.name).filter(|name| self.links().join(name).exists()).collect()
    }

    /// Ids of the programs that the pinned links run.
    #[must_use]
    pub fn programs(&self) -> Vec<u32> {
        let program = |hook: &Hook| Link::open(&self.links().join(hook.name)).ok()??.program;
        HOOKS.iter().filter_map(program).collect()
    }

    /// Refuses what somebody else has pinned under our names: it is not ours to change or remove.
    ///
    /// # Errors
    /// `AlreadyExists`, with everything that is foreign.
    pub fn refuse_foreign(&self) -> io::Result<()> {
        let links = HOOKS.iter().filter_map(|hook| {
            let path = self.links().join(hook.name);
            let is_foreign = match Link::open(&path) {
                Ok(None) => false,
                Ok(Some(link)) => !link.is_cgroups,
                Err(_) => true,
            };
            is_foreign.then_some((path, "a link of a cgroup"))
        });
        let maps = PINNED.iter().filter_map(|name| {
            let path = self.maps().join(name);
            let bytes = |map: &OwnedFd, field| Some(bpf::field(map.as_fd(), field)? as usize);
            let shape = |map: &OwnedFd| Some((bytes(map, "key_size")?, bytes(map, "value_size")?));
            let is_ours = |object: &OwnedFd| shape(object).is_some() && shape(object) == load::shape(name);
            let is_foreign = path.exists() && !bpf::obj_get(&path).is_ok_and(|object| is_ours(&object));
            is_foreign.then_some((path, "a map of ours"))
        });
        let foreign: Vec<String> =
            links.chain(maps).map(|(path, what)| format!("{} is not {what}", path.display())).collect();
        if foreign.is_empty() {
            return Ok(());
        }
        let text = format!("{}: somebody else pinned it there; move it away", foreign.join(", "));
        Err(io::Error::new(io::ErrorKind::AlreadyExists, text))
    }

    /// Removes everything: the links detach when their last reference goes.
    ///
    /// # Errors
    /// The error of removing a pin.
    pub fn remove(self) -> io::Result<()> {
        // connect first: while a connection can still be redirected, it must be followed too.
        for hook in HOOKS.iter().rev() {
            remove_if_there(&self.links().join(hook.name))?;
        }
        std::fs::remove_dir_all(&self.root)
    }
}

/// A pinned object that should be a link of ours.
struct Link {
    /// It is a link of a cgroup.
    is_cgroups: bool,
    /// Id of the program that it runs.
    program: Option<u32>,
}

impl Link {
    /// Looks at what is pinned under a name; `None` if nothing is.
    fn open(path: &Path) -> io::Result<Option<Self>> {
        match bpf::obj_get(path) {
            Ok(object) => Ok(Some(Self {
                is_cgroups: bpf::field(object.as_fd(), "cgroup_id").is_some()
                    && bpf::field(object.as_fd(), "attach_type").is_some(),
                program: bpf::field(object.as_fd(), "prog_id"),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Lets every pinned link run the program of another process that has its name, in one step for each.
///
/// Whoever calls this keeps its own programs, so that [`attach`] can put them back.
///
/// # Errors
/// `InvalidInput`, with nothing changed, if a hook has no program; what bpf(2) says, with some changed.
pub fn hand_over(programs: &[(String, OwnedFd)], pins: &Pins) -> io::Result<()> {
    let program = |hook: &Hook| {
        programs.iter().find(|(name, _)| name == hook.name).map(|(_, program)| program).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("it has no program {}", hook.name))
        })
    };
    let pairs = HOOKS.iter().map(|hook| Ok((hook, program(hook)?))).collect::<io::Result<Vec<_>>>()?;
    for (hook, program) in pairs {
        let link = bpf::obj_get(&pins.links().join(hook.name))?;
        bpf::link_update(link.as_fd(), program.as_fd())?;
    }
    Ok(())
}

/// What attaching found and did.
#[derive(Debug, PartialEq, Eq)]
pub enum Attached {
    /// Nothing was there.
    Fresh,
    /// Links of an earlier process were there; this many now run our programs.
    TookOver(usize),
}

/// Puts the programs onto the cgroup root.
///
/// Links that an earlier process left are not added to but updated: each hook switches from the old program to the new
/// in one step, so that no connection meets both or none.
///
/// # Errors
/// What bpf(2) says.
pub fn attach(kernel: &Kernel, cgroup_root: &Path, pins: &Pins) -> io::Result<Attached> {
    let root = File::open(cgroup_root)?;
    let mut updated = 0;
    for (hook, program) in kernel.programs() {
        let path = pins.links().join(hook.name);
        if let Ok(link) = bpf::obj_get(&path) {
            match bpf::link_update(link.as_fd(), program.as_fd()) {
                Ok(()) => {
                    updated += 1;
                    continue;
                }
                // The cgroup that it was attached to is gone, and with it the link's meaning.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => remove_if_there(&path)?,
                Err(error) => return Err(error),
            }
        }
        let link: OwnedFd = bpf::link_create(program.as_fd(), root.as_fd(), hook.kind)?;
        bpf::obj_pin(link.as_fd(), &path)?;
    }
    Ok(if updated == 0 { Attached::Fresh } else { Attached::TookOver(updated) })
}
