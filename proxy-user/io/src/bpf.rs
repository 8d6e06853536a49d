//! The few bpf(2) calls that aya does not expose, as safe functions on descriptors and bytes.
//!
//! Layouts are those of `union bpf_attr` in include/uapi/linux/bpf.h; unused tails are zero, as the kernel demands.

mod map;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

pub use self::map::RawMap;

/// Commands of bpf(2).
#[repr(i64)]
#[derive(Clone, Copy)]
enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ProgLoad = 5,
    ObjPin = 6,
    ObjGet = 7,
    MapGetFdById = 14,
    ProgQuery = 16,
    MapTake = 21,
    MapUpdateBatch = 26,
    LinkCreate = 28,
    LinkUpdate = 29,
    IterCreate = 33,
}

/// Attach types that Weir uses (enum bpf_attach_type).
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachType {
    /// cgroup/sock_create
    SockCreate = 2,
    /// cgroup/sock_ops
    SockOps = 3,
    /// cgroup/connect4
    Connect4 = 10,
    /// cgroup/connect6
    Connect6 = 11,
    /// Iterators.
    Iter = 28,
    /// cgroup/getpeername4
    GetPeerName4 = 29,
    /// cgroup/getpeername6
    GetPeerName6 = 30,
    /// sk_lookup, of a network namespace
    SkLookup = 36,
}

#[repr(C)]
#[derive(Default)]
struct Obj {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Link {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_count: u32,
    pad: u32,
    prog_attach_flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kern_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct MapGet {
    id: u32,
    next_id: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct IterCreate {
    link_fd: u32,
    flags: u32,
}

fn call<T>(command: Command, attr: &mut T) -> io::Result<i32> {
    let attr: *mut T = attr;
    // SAFETY: `attr` is one of the layouts above and lives through the call; every pointer in it was made from a
    // reference that the caller holds through the call, with the length that the kernel derives from the map or field.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as i64, attr, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::try_from(result).expect("bpf(2) returns a descriptor or a small number"))
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// BPF_MAP_TYPE_HASH
const MAP_TYPE_HASH: u32 = 1;
/// BPF_F_NO_PREALLOC
const NO_PREALLOC: u32 = 1;
/// BPF_PROG_TYPE_SK_LOOKUP
const PROG_TYPE_SK_LOOKUP: u32 = 30;
/// Room for what the verifier says; the end of it is what matters.
const LOG_BYTES: usize = 1 << 20;
/// Of that, what goes into an error.
const LOG_SHOWN_BYTES: usize = 2 << 10;

/// Makes a hash map that allocates its elements as they come.
///
/// # Errors
/// What bpf(2) says.
pub fn hash_create(key_size: usize, value_size: usize, max_entries: u32) -> io::Result<OwnedFd> {
    let size = |size: usize| u32::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let mut attr = MapCreate {
        map_type: MAP_TYPE_HASH,
        key_size: size(key_size)?,
        value_size: size(value_size)?,
        max_entries,
        flags: NO_PREALLOC,
    };
    call(Command::MapCreate, &mut attr).map(owned)
}

/// Loads a program for [`AttachType::SkLookup`]. Descriptors of maps in it are only used here.
///
/// # Errors
/// What bpf(2) says, with the end of what the verifier says.
pub fn load_sk_lookup(name: &str, instructions: &[[u8; 8]]) -> io::Result<OwnedFd> {
    let license = c"Dual MIT/GPL";
    let mut attr = ProgLoad {
        prog_type: PROG_TYPE_SK_LOOKUP,
        insn_count: u32::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        expected_attach_type: AttachType::SkLookup as u32,
        ..ProgLoad::default()
    };
    // The last byte is the text's end.
    attr.name.iter_mut().take(15).zip(name.bytes()).for_each(|(to, from)| *to = from);
    let refused = match call(Command::ProgLoad, &mut attr) {
        Ok(fd) => return Ok(owned(fd)),
        Err(error) => error,
    };
    let mut log = vec![0u8; LOG_BYTES];
    (attr.log, attr.log_level, attr.log_bytes) = (log.as_mut_ptr() as u64, 1, 1 << 20);
    call(Command::ProgLoad, &mut attr).map(owned).map_err(|_| {
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        let said = String::from_utf8_lossy(&log[end.saturating_sub(LOG_SHOWN_BYTES)..end]).into_owned();
        io::Error::new(refused.kind(), format!("{refused}: {}", said.trim()))
    })
}

/// Attaches a program to a network namespace by a link, behind those that are attached there.
///
/// # Errors
/// What bpf(2) says.
pub fn link_create_netns(prog: BorrowedFd<'_>, netns: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let attach_type = AttachType::SkLookup as u32;
    let mut attr = Link { prog_fd: raw(prog), target_fd: raw(netns), attach_type, ..Link::default() };
    call(Command::LinkCreate, &mut attr).map(owned)
}

/// Attaches a program to a cgroup by a link. Flags stay 0: cgroup links are always multi.
///
/// # Errors
/// What bpf(2) says.
pub fn link_create(prog: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, kind: AttachType) -> io::Result<OwnedFd> {
    let mut attr =
        Link { prog_fd: raw(prog), target_fd: raw(cgroup), attach_type: kind as u32, ..Link::default() };
    call(Command::LinkCreate, &mut attr).map(owned)
}

/// Makes a link of an iterator over one map (union bpf_iter_link_info).
///
/// # Errors
/// What bpf(2) says.
pub fn link_create_map_iter(prog: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let info = [raw(map), 0, 0, 0];
    let mut attr = Link {
        prog_fd: raw(prog),
        attach_type: AttachType::Iter as u32,
        iter_info: info.as_ptr() as u64,
        iter_info_len: 4,
        ..Link::default()
    };
    call(Command::LinkCreate, &mut attr).map(owned)
}

/// Puts another program into a link, in one step for every connection.
///
/// # Errors
/// What bpf(2) says.
pub fn link_update(link: BorrowedFd<'_>, prog: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate { link_fd: raw(link), new_prog_fd: raw(prog), ..LinkUpdate::default() };
    call(Command::LinkUpdate, &mut attr).map(drop)
}

/// Opens one pass of an iterator: a descriptor to read from.
///
/// # Errors
/// What bpf(2) says.
pub fn iter_create(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = IterCreate { link_fd: raw(link), ..IterCreate::default() };
    call(Command::IterCreate, &mut attr).map(owned)
}

/// Pins an object under a path of a bpffs.
///
/// # Errors
/// What bpf(2) says.
pub fn obj_pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Obj { path: path.as_ptr() as u64, fd: raw(object), ..Obj::default() };
    call(Command::ObjPin, &mut attr).map(drop)
}

/// Opens a pinned object.
///
/// # Errors
/// What bpf(2) says: `NotFound` if nothing is pinned there.
pub fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Obj { path: path.as_ptr() as u64, ..Obj::default() };
    call(Command::ObjGet, &mut attr).map(owned)
}

/// Opens a map by its id, whoever has loaded it.
///
/// # Errors
/// What bpf(2) says: `NotFound` if there is none.
pub fn map_get(id: u32) -> io::Result<OwnedFd> {
    let mut attr = MapGet { id, ..MapGet::default() };
    call(Command::MapGetFdById, &mut attr).map(owned)
}

/// What the kernel says of a descriptor of bpf(2), in `/proc/self/fdinfo`: the value of a field, such as `prog_id` of a link.
/// `None` for one that this kind of object does not have, so that kinds can be told apart.
#[must_use]
pub fn field(object: BorrowedFd<'_>, name: &str) -> Option<u32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", object.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}

/// Lists the ids of the programs that are in effect on a cgroup's hook, at most 64.
///
/// # Errors
/// What bpf(2) says.
pub fn query(cgroup: BorrowedFd<'_>, kind: AttachType) -> io::Result<Vec<u32>> {
    let mut ids = vec![0u32; 64];
    let mut attr = Query {
        target_fd: raw(cgroup),
        attach_type: kind as u32,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_count: 64,
        ..Query::default()
    };
    match call(Command::ProgQuery, &mut attr) {
        Ok(_) => {}
        // More than fit: the first 64 were written.
        Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {}
        Err(error) => return Err(error),
    }
    ids.truncate((attr.prog_count as usize).min(64));
    Ok(ids)
}
