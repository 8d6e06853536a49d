//! The one place through which system calls go.
//!
//! Every function here is safe: it owns or borrows what the kernel reads and writes, turns -1 into
//! [`io::Error`] and repeats calls that a signal interrupted. Tests can make any call fail ([`fault`]).

mod bytes;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, c_short, c_void, socklen_t};

pub(crate) use self::bytes::{iovec, msghdr, recv, recv_parts, send, send_parts};

/// Names a system call, so that a test can say which one fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Socket,
    Bind,
    Listen,
    Accept,
    Connect,
    Name,
    Option,
    Shutdown,
    Recv,
    Send,
    Splice,
    Pipe,
    Fcntl,
    Poll,
    Limit,
    Eventfd,
    Map,
    Uring,
}

/// What a system call returns; -1 means that `errno` says why.
pub(crate) trait Outcome: Copy {
    fn is_failure(self) -> bool;
}

impl Outcome for c_int {
    fn is_failure(self) -> bool {
        self == -1
    }
}

impl Outcome for isize {
    fn is_failure(self) -> bool {
        self == -1
    }
}

/// Makes one system call, again if a signal interrupted it.
pub(crate) fn call<T: Outcome>(name: Call, mut attempt: impl FnMut() -> T) -> io::Result<T> {
    if let Some(errno) = fault::injected(name) {
        return Err(io::Error::from_raw_os_error(errno));
    }
    loop {
        let outcome = attempt();
        if !outcome.is_failure() {
            return Ok(outcome);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Opens a non-blocking, close-on-exec socket.
pub(crate) fn socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    let kind = kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socket(2) takes integers only.
    let raw = call(Call::Socket, || unsafe { libc::socket(family, kind, protocol) })?;
    Ok(owned(raw))
}

pub(crate) fn bind(fd: BorrowedFd<'_>, addr: SocketAddr) -> io::Result<()> {
    let addr = RawAddr::from(addr);
    // SAFETY: the pointer and the length describe `addr`, which outlives the call.
    call(Call::Bind, || unsafe { libc::bind(fd.as_raw_fd(), addr.as_ptr(), addr.len) })?;
    Ok(())
}

pub(crate) fn listen(fd: BorrowedFd<'_>, backlog: c_int) -> io::Result<()> {
    // SAFETY: listen(2) takes integers only.
    call(Call::Listen, || unsafe { libc::listen(fd.as_raw_fd(), backlog) })?;
    Ok(())
}

pub(crate) fn accept(fd: BorrowedFd<'_>, is_nonblocking: bool) -> io::Result<(OwnedFd, SocketAddr)> {
    let mut addr = RawAddr::empty();
    let flags = libc::SOCK_CLOEXEC | if is_nonblocking { libc::SOCK_NONBLOCK } else { 0 };
    let raw = call(Call::Accept, || {
        addr.len = RawAddr::CAPACITY;
        // SAFETY: `addr` is a whole sockaddr_storage and `len` says so.
        unsafe { libc::accept4(fd.as_raw_fd(), addr.as_mut_ptr(), &raw mut addr.len, flags) }
    })?;
    let accepted = owned(raw);
    Ok((accepted, addr.decode()?))
}

pub(crate) fn connect(fd: BorrowedFd<'_>, addr: SocketAddr) -> io::Result<()> {
    let addr = RawAddr::from(addr);
    // SAFETY: the pointer and the length describe `addr`, which outlives the call.
    call(Call::Connect, || unsafe { libc::connect(fd.as_raw_fd(), addr.as_ptr(), addr.len) })?;
    Ok(())
}

pub(crate) fn local_addr(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let mut addr = RawAddr::empty();
    // SAFETY: `addr` is a whole sockaddr_storage and `len` says so.
    call(Call::Name, || unsafe { libc::getsockname(fd.as_raw_fd(), addr.as_mut_ptr(), &raw mut addr.len) })?;
    addr.decode()
}

pub(crate) fn peer_addr(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let mut addr = RawAddr::empty();
    // SAFETY: `addr` is a whole sockaddr_storage and `len` says so.
    call(Call::Name, || unsafe { libc::getpeername(fd.as_raw_fd(), addr.as_mut_ptr(), &raw mut addr.len) })?;
    addr.decode()
}

/// Sets a socket option whose value is given in the machine's byte order.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: &[u8]) -> io::Result<()> {
    let len = socklen(value.len());
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    call(Call::Option, || unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), len)
    })?;
    Ok(())
}

pub(crate) fn set_option_int(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    set_option(fd, level, name, &value.to_ne_bytes())
}

/// Reads a socket option into `value` and returns how many bytes the kernel wrote.
pub(crate) fn option(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: &mut [u8]) -> io::Result<usize> {
    let mut len = socklen(value.len());
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    call(Call::Option, || unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut len)
    })?;
    Ok((len as usize).min(value.len()))
}

/// Bytes of a page; 4096 if the kernel should not say.
pub(crate) fn page_bytes() -> u64 {
    // SAFETY: sysconf(3) takes an integer.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Keeps the kernel from making huge pages of this process's memory (prctl(2), since Linux 3.15).
pub(crate) fn disable_huge_pages() -> io::Result<()> {
    // SAFETY: prctl(2) takes integers for this.
    if unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Gives memory back to the kernel that the C library's allocator keeps of what was freed.
#[cfg(target_env = "gnu")]
pub(crate) fn malloc_trim() {
    // SAFETY: malloc_trim(3) takes an integer, may be called from any thread, and moves nothing that is in use.
    unsafe { libc::malloc_trim(0) };
}

/// Gives memory back to the kernel that mimalloc keeps for this thread of what was freed: all of it, or what it would give back next.
pub(crate) fn mi_collect(all: bool) {
    // SAFETY: it takes a flag, may be called from any thread, and moves nothing that is in use.
    unsafe { libmimalloc_sys::mi_collect(all) };
}

pub(crate) fn shutdown_write(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: shutdown(2) takes integers only.
    call(Call::Shutdown, || unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) })?;
    Ok(())
}

pub(crate) fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    // SAFETY: null offsets are allowed; the rest are integers.
    let moved = call(Call::Splice, || unsafe {
        libc::splice(
            from.as_raw_fd(),
            std::ptr::null_mut(),
            to.as_raw_fd(),
            std::ptr::null_mut(),
            most,
            flags,
        )
    })?;
    Ok(moved.unsigned_abs())
}

/// Opens a non-blocking, close-on-exec pipe: (read end, write end).
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends: [c_int; 2] = [-1; 2];
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: `ends` has room for the two descriptors.
    call(Call::Pipe, || unsafe { libc::pipe2(ends.as_mut_ptr(), flags) })?;
    Ok((owned(ends[0]), owned(ends[1])))
}

/// Size of a pipe.
pub(crate) fn pipe_bytes(fd: BorrowedFd<'_>) -> io::Result<usize> {
    // SAFETY: F_GETPIPE_SZ takes no argument.
    let bytes = call(Call::Fcntl, || unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETPIPE_SZ) })?;
    Ok(bytes.unsigned_abs() as usize)
}

/// Asks for a pipe of at least `bytes` and returns the size that the kernel gave.
pub(crate) fn set_pipe_bytes(fd: BorrowedFd<'_>, bytes: c_int) -> io::Result<usize> {
    // SAFETY: F_SETPIPE_SZ takes an integer.
    let given = call(Call::Fcntl, || unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) })?;
    Ok(given.unsigned_abs() as usize)
}

/// Bytes in the send queue of a TCP socket, unacknowledged ones included.
pub(crate) fn out_queue_bytes(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int to `bytes`.
    call(Call::Option, || unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) })?;
    Ok(bytes.unsigned_abs() as usize)
}

/// Says whether the interface of this name is up in the network namespace of `socket`.
pub(crate) fn is_interface_up(socket: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    /// struct ifreq of linux/if.h: the name with its final zero, then a union that begins with the flags.
    const NAME_BYTES: usize = libc::IFNAMSIZ;
    let mut request = [0_u8; size_of::<libc::ifreq>()];
    let len = name.len().min(NAME_BYTES - 1);
    request[..len].copy_from_slice(&name[..len]);
    // SAFETY: SIOCGIFFLAGS reads and writes one ifreq, which `request` has the size of.
    call(Call::Option, || unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, request.as_mut_ptr())
    })?;
    let flags = u16::from_ne_bytes([request[NAME_BYTES], request[NAME_BYTES + 1]]);
    Ok(i32::from(flags) & libc::IFF_UP != 0)
}

pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>, wanted: bool) -> io::Result<()> {
    let mut flag = c_int::from(wanted);
    // SAFETY: FIONBIO reads one int. One call, where F_GETFL and F_SETFL would be two.
    call(Call::Fcntl, || unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &raw mut flag) })?;
    Ok(())
}

/// Says which of `events`, an error or a hang-up are pending on `fd`, without waiting.
pub(crate) fn pending(fd: BorrowedFd<'_>, events: c_short) -> io::Result<c_short> {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    // SAFETY: one entry is passed and counted.
    call(Call::Poll, || unsafe { libc::poll(&raw mut entry, 1, 0) })?;
    Ok(entry.revents)
}

/// Says whether one of `events` (or an error or hang-up) is pending on `fd`, without waiting.
pub(crate) fn is_ready(fd: BorrowedFd<'_>, events: c_short) -> io::Result<bool> {
    Ok(pending(fd, events)? != 0)
}

/// Opens a non-blocking, close-on-exec eventfd.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: eventfd(2) takes integers only.
    let raw = call(Call::Eventfd, || unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
    Ok(owned(raw))
}

/// The process's limit on open descriptors: (soft, hard).
pub(crate) fn nofile_limit() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a whole rlimit.
    call(Call::Limit, || unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

pub(crate) fn set_nofile_limit(soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` is a whole rlimit.
    call(Call::Limit, || unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(())
}

/// Zeroed, page-aligned memory that the kernel may hold addresses of; unmapped on drop.
pub(crate) struct Mapping {
    start: std::ptr::NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    pub(crate) fn new(bytes: usize) -> io::Result<Mapping> {
        if let Some(errno) = fault::injected(Call::Map) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = std::ptr::NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, bytes })
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `start` and `bytes` are what mmap gave, and nobody borrows from a mapping that is dropped.
        unsafe { libc::munmap(self.start.as_ptr().cast::<c_void>(), self.bytes) };
    }
}

fn owned(raw: c_int) -> OwnedFd {
    // SAFETY: the kernel has just handed out this descriptor to us and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

fn socklen(len: usize) -> socklen_t {
    socklen_t::try_from(len).expect("socket options and addresses are a few hundred bytes")
}

/// A socket address in the kernel's form.
pub(crate) struct RawAddr {
    storage: libc::sockaddr_storage,
    pub(crate) len: socklen_t,
}

impl RawAddr {
    #[expect(clippy::cast_possible_truncation, reason = "a sockaddr_storage is 128 bytes")]
    const CAPACITY: socklen_t = size_of::<libc::sockaddr_storage>() as socklen_t;

    fn empty() -> RawAddr {
        // SAFETY: all zeroes is a valid sockaddr_storage (family AF_UNSPEC).
        let storage = unsafe { std::mem::zeroed() };
        RawAddr { storage, len: RawAddr::CAPACITY }
    }

    fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        (&raw mut self.storage).cast()
    }

    fn decode(&self) -> io::Result<SocketAddr> {
        match c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says sockaddr_in, which fits in and is aligned like the storage.
                let v4 = unsafe { *(&raw const self.storage).cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Ok(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: the family says sockaddr_in6, which fits in and is aligned like the storage.
                let v6 = unsafe { *(&raw const self.storage).cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Ok(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            family => Err(io::Error::other(format!("socket address of unknown family {family}"))),
        }
    }
}

impl From<SocketAddr> for RawAddr {
    fn from(addr: SocketAddr) -> RawAddr {
        let mut raw = RawAddr::empty();
        match addr {
            SocketAddr::V4(addr) => {
                // SAFETY: all zeroes is a valid sockaddr_in.
                let mut v4: libc::sockaddr_in = unsafe { std::mem::zeroed() };
                v4.sin_family = libc::AF_INET.unsigned_abs().try_into().expect("families are small");
                v4.sin_port = addr.port().to_be();
                v4.sin_addr.s_addr = u32::from(*addr.ip()).to_be();
                raw.len = socklen(size_of_val(&v4));
                // SAFETY: the storage is larger than sockaddr_in and at least as aligned.
                unsafe { (&raw mut raw.storage).cast::<libc::sockaddr_in>().write(v4) };
            }
            SocketAddr::V6(addr) => {
                // SAFETY: all zeroes is a valid sockaddr_in6.
                let mut v6: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
                v6.sin6_family = libc::AF_INET6.unsigned_abs().try_into().expect("families are small");
                v6.sin6_port = addr.port().to_be();
                v6.sin6_addr.s6_addr = addr.ip().octets();
                v6.sin6_flowinfo = addr.flowinfo();
                v6.sin6_scope_id = addr.scope_id();
                raw.len = socklen(size_of_val(&v6));
                // SAFETY: the storage is larger than sockaddr_in6 and at least as aligned.
                unsafe { (&raw mut raw.storage).cast::<libc::sockaddr_in6>().write(v6) };
            }
        }
        raw
    }
}

/// Lets a test decide that a system call fails; compiled to nothing outside tests.
pub(crate) mod fault {
    use super::Call;

    #[cfg(not(test))]
    pub(super) fn injected(_name: Call) -> Option<i32> {
        None
    }

    #[cfg(test)]
    type Plan = Box<dyn FnMut(Call) -> Option<i32>>;

    #[cfg(test)]
    thread_local! {
        static PLAN: std::cell::RefCell<Option<Plan>> = const { std::cell::RefCell::new(None) };
    }

    #[cfg(test)]
    pub(super) fn injected(name: Call) -> Option<i32> {
        PLAN.with_borrow_mut(|plan| plan.as_mut().and_then(|plan| plan(name)))
    }

    /// Runs `body` on this thread while `plan` answers each call with an errno to fail with, or `None`.
    #[cfg(test)]
    pub(crate) fn with<R>(plan: impl FnMut(Call) -> Option<i32> + 'static, body: impl FnOnce() -> R) -> R {
        struct Clear;
        impl Drop for Clear {
            fn drop(&mut self) {
                PLAN.set(None);
            }
        }
        PLAN.set(Some(Box::new(plan)));
        let _clear = Clear;
        body()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupted_calls_are_repeated() {
        let mut attempts = 0;
        let outcome = call(Call::Poll, || {
            attempts += 1;
            if attempts < 3 {
                // SAFETY: errno is this thread's own.
                unsafe { *libc::__errno_location() = libc::EINTR };
                return -1;
            }
            7
        });
        assert_eq!(outcome.unwrap(), 7);
        assert_eq!(attempts, 3);
    }

    #[test]
    fn injected_faults_end_with_their_scope() {
        let failed = fault::with(
            |name| (name == Call::Socket).then_some(libc::EMFILE),
            || socket(libc::AF_INET, libc::SOCK_STREAM, 0),
        );
        assert_eq!(failed.unwrap_err().raw_os_error(), Some(libc::EMFILE));
        assert!(socket(libc::AF_INET, libc::SOCK_STREAM, 0).is_ok());
    }

    #[test]
    fn addresses_survive_the_kernel_form() {
        for text in ["127.0.0.1:80", "0.0.0.0:0", "[::1]:65535", "[::ffff:10.0.0.1]:443", "[fe80::1%3]:9"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddr::from(addr).decode().unwrap(), addr);
        }
    }
}
