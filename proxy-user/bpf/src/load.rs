//! Loading and verifying the kernel object.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::programs::{CgroupSock, CgroupSockAddr, Iter, Program, ProgramError, RawTracePoint, SockOps};
use aya::{Btf, Ebpf, EbpfLoader};
use proxy_ebpf_common::counter::COUNTER_COUNT;
use proxy_ebpf_common::key::{OriginalDstKey, TotalsKey};
use proxy_ebpf_common::map;
use proxy_ebpf_common::value::{Facts, HistogramValue, OriginalDst, TotalsValue};
use proxy_io::bpf::{self, AttachType};
use zerocopy::FromBytes;

use crate::btf::{BtfError, TcpOffsets};
use crate::events::{Events, KernelLog, Newcomers, Records};
use crate::maps::Maps;
use crate::object;
use crate::steer::Template;

/// Maps that outlive a process: what they hold of open connections and totals stays true across a restart.
///
/// All others describe the policy of the programs that they were loaded with, and live and die with them.
pub const PINNED: [&str; 7] =
    [map::ORIGINAL_DST, map::FACTS, map::LOADS, map::TOTALS, map::HISTOGRAMS, map::COUNTERS, map::RECORDS];

/// Why the kernel object could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file named by the environment cannot be read.
    #[error("cannot read the BPF object that WEIR_EBPF_OBJECT names: {0}")]
    Object(#[source] io::Error),
    /// The namespace of this process's id cannot be told.
    #[error("cannot read {PID_NAMESPACE}: {0}")]
    PidNamespace(#[source] io::Error),
    /// The kernel's structs could not be looked up.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// aya refused the object, or the kernel a map.
    #[error("cannot load the BPF object: {0}")]
    Ebpf(#[from] Box<aya::EbpfError>),
    /// The verifier refused a program.
    #[error("the kernel refuses program {name}: {source}")]
    Program {
        /// Program.
        name: &'static str,
        /// What aya and the verifier say.
        source: Box<ProgramError>,
    },
    /// The object lacks a program that it should have.
    #[error("the BPF object has no program {0}; was it built from this source?")]
    NoProgram(&'static str),
    /// A map is missing or has an unexpected shape, or cannot be pinned.
    #[error("map {name}: {source}")]
    Map {
        /// Map.
        name: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The kernel's log of the programs cannot be opened.
    #[error("cannot open the log of the kernel programs: {0}")]
    Log(String),
}

/// A program with the hook that it belongs to.
pub struct Hook {
    /// Name of program and pin.
    pub name: &'static str,
    /// Where it attaches.
    pub kind: AttachType,
}

/// Programs on the cgroup root, in the order of attachment: connections are followed before any is redirected.
pub const HOOKS: [Hook; 6] = [
    Hook { name: "weir_sock_ops", kind: AttachType::SockOps },
    Hook { name: "weir_getpeername4", kind: AttachType::GetPeerName4 },
    Hook { name: "weir_getpeername6", kind: AttachType::GetPeerName6 },
    Hook { name: "weir_connect4", kind: AttachType::Connect4 },
    Hook { name: "weir_connect6", kind: AttachType::Connect6 },
    Hook { name: "weir_sock_create", kind: AttachType::SockCreate },
];

const ITERATOR: &str = "weir_iter";

/// Ids of this process are those of this namespace.
const PID_NAMESPACE: &str = "/proc/self/ns/pid";

/// Runs whenever a thread ends, and looks whether it is the first one of this process.
const EXIT: &str = "weir_exit";
const EXIT_TRACEPOINT: &str = "sched_process_exit";

/// What a caller may choose.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Folder of a bpffs in which [`PINNED`] maps are found or pinned.
    pub pins: PathBuf,
    /// Most verbose level that the kernel programs log: 0 nothing, 4 debug (levels of the `log` crate).
    pub log_level: u8,
    /// Other sizes than the compiled ones, by map.
    pub map_sizes: Vec<(String, u32)>,
}

/// The loaded kernel object: programs verified, maps ready, nothing attached yet.
pub struct Kernel {
    /// All maps.
    pub maps: Arc<Maps>,
    programs: Vec<OwnedFd>,
    iterator: OwnedFd,
    steering: Template,
    /// Keeps what aya holds open.
    ebpf: Ebpf,
}

impl Kernel {
    /// Loads and verifies everything.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(options: &LoadOptions) -> Result<Self, LoadError> {
        let bytes = object::bytes().map_err(LoadError::Object)?;
        let offsets = TcpOffsets::from_kernel()?;
        let btf = Btf::from_sys_fs().map_err(|error| Box::new(aya::EbpfError::from(error)))?;
        let owner = std::process::id();
        let pid_namespace = std::fs::metadata(PID_NAMESPACE).map_err(LoadError::PidNamespace)?;
        let (device, inode) = (pid_namespace.dev(), pid_namespace.ino());
        let pins: Vec<(&str, PathBuf)> = PINNED.iter().map(|name| (*name, options.pins.join(name))).collect();
        let mut loader = EbpfLoader::new();
        loader
            .btf(Some(&btf))
            .override_global("AYA_LOG_LEVEL", &options.log_level, true)
            .override_global("OWNER_PID", &owner, true)
            .override_global("OWNER_PIDNS_DEV", &device, true)
            .override_global("OWNER_PIDNS_INO", &inode, true)
            .override_global("SK_ERR_OFFSET", &offsets.sk_err, true)
            .override_global("STATE_OFFSET", &offsets.state, true)
            .override_global("SRTT_US_OFFSET", &offsets.srtt_us, true)
            .override_global("RTT_MIN_OFFSET", &offsets.rtt_min, true)
            .override_global("BYTES_ACKED_OFFSET", &offsets.bytes_acked, true)
            .override_global("BYTES_RECEIVED_OFFSET", &offsets.bytes_received, true)
            .override_global("TOTAL_RETRANS_OFFSET", &offsets.total_retrans, true);
        for (name, path) in &pins {
            loader.map_pin_path(name, path.as_path());
        }
        for (name, size) in &options.map_sizes {
            loader.map_max_entries(name, *size);
        }
        let mut ebpf = loader.load(&bytes).map_err(Box::new)?;
        let programs = HOOKS.iter().map(|hook| verify(&mut ebpf, hook)).collect::<Result<_, _>>()?;
        let iterator = verify_iterator(&mut ebpf, &btf)?;
        watch_exit(&mut ebpf)?;
        let steering = Template::new(&bytes, |name| map_fd(&ebpf, name))
            .map_err(|source| map_error(map::INBOUND, source))?;
        let cpus = aya::util::nr_cpus().map_err(|(path, source)| map_error(path, source))?;
        let mut current = String::new();
        let maps = Maps::new(
            |name| {
                name.clone_into(&mut current);
                map_fd(&ebpf, name)
            },
            cpus,
        )
        .map_err(|source| map_error(&current, source))?;
        Ok(Self { maps: Arc::new(maps), programs, iterator, steering, ebpf })
    }

    /// What takes connections to applications, for each namespace where that is wanted.
    #[must_use]
    pub fn steering(&self) -> &Template {
        &self.steering
    }

    /// Programs, in the order of [`HOOKS`].
    pub fn programs(&self) -> impl Iterator<Item = (&'static Hook, &OwnedFd)> {
        HOOKS.iter().zip(&self.programs)
    }

    /// Opens the ring buffer of closed connections; once.
    ///
    /// # Errors
    /// [`LoadError::Map`] if it was taken already.
    pub fn take_records(&mut self) -> Result<Records, LoadError> {
        self.take_events(map::RECORDS)
    }

    /// Takes the ring buffer of namespaces that want to be served; once.
    ///
    /// # Errors
    /// As [`Kernel::take_records`].
    pub fn take_newcomers(&mut self) -> Result<Newcomers, LoadError> {
        self.take_events(map::NEWCOMERS)
    }

    fn take_events<T: FromBytes>(&mut self, name: &str) -> Result<Events<T>, LoadError> {
        let missing = || map_error(name, io::ErrorKind::NotFound.into());
        let map = self.ebpf.take_map(name).ok_or_else(missing)?;
        Events::new(map).map_err(|error| map_error(name, io::Error::other(error)))
    }

    /// Opens the log of the kernel programs; once.
    ///
    /// # Errors
    /// [`LoadError::Log`].
    pub fn take_log(&mut self) -> Result<KernelLog, LoadError> {
        KernelLog::new(&mut self.ebpf).map_err(|error| LoadError::Log(error.to_string()))
    }

    /// Opens one pass over the live statistics of all tracked sockets; see [`crate::events::read_live`].
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn open_live(&self) -> io::Result<OwnedFd> {
        let link = bpf::link_create_map_iter(self.iterator.as_fd(), self.maps.facts.as_fd())?;
        bpf::iter_create(link.as_fd())
    }
}

fn verify(ebpf: &mut Ebpf, hook: &Hook) -> Result<OwnedFd, LoadError> {
    let name = hook.name;
    let refused = |source: ProgramError| LoadError::Program { name, source: Box::new(source) };
    let program = ebpf.program_mut(name).ok_or(LoadError::NoProgram(name))?;
    let fd = match program {
        Program::CgroupSockAddr(_) => {
            let program: &mut CgroupSockAddr = program.try_into().map_err(refused)?;
            program.load().map_err(refused)?;
            program.fd()
        }
        Program::CgroupSock(_) => {
            let program: &mut CgroupSock = program.try_into().map_err(refused)?;
            program.load().map_err(refused)?;
            program.fd()
        }
        _ => {
            let program: &mut SockOps = program.try_into().map_err(refused)?;
            program.load().map_err(refused)?;
            program.fd()
        }
    };
    let fd = fd.map_err(refused)?.as_fd().try_clone_to_owned();
    fd.map_err(|source| map_error(name, source))
}

fn verify_iterator(ebpf: &mut Ebpf, btf: &Btf) -> Result<OwnedFd, LoadError> {
    let refused = |source: ProgramError| LoadError::Program { name: ITERATOR, source: Box::new(source) };
    let program = ebpf.program_mut(ITERATOR).ok_or(LoadError::NoProgram(ITERATOR))?;
    let program: &mut Iter = program.try_into().map_err(refused)?;
    program.load("bpf_sk_storage_map", btf).map_err(refused)?;
    let fd = program.fd().map_err(refused)?.as_fd().try_clone_to_owned();
    fd.map_err(|source| map_error(ITERATOR, source))
}

/// Has the kernel look for the end of this process. That lasts as long as the process, so nothing is pinned.
fn watch_exit(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    let refused = |source: ProgramError| LoadError::Program { name: EXIT, source: Box::new(source) };
    let program = ebpf.program_mut(EXIT).ok_or(LoadError::NoProgram(EXIT))?;
    let program: &mut RawTracePoint = program.try_into().map_err(refused)?;
    program.load().map_err(refused)?;
    program.attach(EXIT_TRACEPOINT).map_err(refused)?;
    Ok(())
}

fn map_fd(ebpf: &Ebpf, name: &str) -> io::Result<OwnedFd> {
    use aya::maps::Map;
    let map = ebpf.map(name).ok_or(io::ErrorKind::NotFound)?;
    let data = match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::LpmTrie(data)
        | Map::SockHash(data)
        | Map::SkStorage(data) => data,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "a map of an unexpected type")),
    };
    data.fd().as_fd().try_clone_to_owned()
}

fn map_error(name: impl Into<String>, source: io::Error) -> LoadError {
    LoadError::Map { name: name.into(), source }
}

/// Removes pinned maps of another shape than wanted, so that loading makes new ones.
///
/// # Errors
/// The error of removing a pin.
pub fn discard_other_sizes(pins: &Path, sizes: &[(String, u32)]) -> io::Result<()> {
    other_sizes(pins, sizes)?.into_iter().try_for_each(|name| std::fs::remove_file(pins.join(name)))
}

/// Names the pinned maps of another shape than wanted.
///
/// # Errors
/// If the kernel does not say what shape a map has.
pub fn other_sizes(pins: &Path, sizes: &[(String, u32)]) -> io::Result<Vec<&'static str>> {
    use std::os::fd::AsRawFd as _;
    let mut others = Vec::new();
    for name in PINNED {
        let path = pins.join(name);
        let Ok(map) = bpf::obj_get(&path) else { continue };
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
        let entries =
            info.lines().find_map(|line| line.strip_prefix("max_entries:")?.trim().parse::<u32>().ok());
        let wanted = sizes
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, size)| *size)
            .or_else(|| default_size(name));
        if wanted.is_some() && entries != wanted {
            others.push(name);
        }
    }
    Ok(others)
}

/// Bytes of a key and of a value of a pinned map.
pub(crate) fn shape(name: &str) -> Option<(usize, usize)> {
    match name {
        map::ORIGINAL_DST => Some((size_of::<OriginalDstKey>(), size_of::<OriginalDst>())),
        map::FACTS => Some((size_of::<u32>(), size_of::<Facts>())),
        map::LOADS => Some((size_of::<u32>(), size_of::<i64>())),
        map::TOTALS => Some((size_of::<TotalsKey>(), size_of::<TotalsValue>())),
        map::HISTOGRAMS => Some((size_of::<TotalsKey>(), size_of::<HistogramValue>())),
        map::COUNTERS => Some((size_of::<u32>(), size_of::<u64>())),
        // A ring buffer has neither.
        map::RECORDS => Some((0, 0)),
        _ => None,
    }
}

fn default_size(name: &str) -> Option<u32> {
    match name {
        map::ORIGINAL_DST => Some(map::ORIGINAL_DST_MAX),
        map::COUNTERS => Some(COUNTER_COUNT),
        map::LOADS => Some(map::LOAD_MAX),
        map::TOTALS => Some(map::TOTALS_MAX),
        map::HISTOGRAMS => Some(map::HISTOGRAM_MAX),
        map::RECORDS => Some(map::RECORDS_BYTES),
        _ => None,
    }
}
