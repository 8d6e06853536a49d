//! Unix sockets: listeners that nobody else can reach, who is at the other end, and descriptors in messages.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use libc::{c_int, c_uint, c_void};

use crate::sys::{self, Call};

/// Nobody but root.
const SOCKET_MODE: u32 = 0o600;
/// Most descriptors that one message carries (SCM_MAX_FD of include/net/scm.h).
pub const MESSAGE_FDS: usize = 253;
/// Room for their control message, in words so that it is aligned like its header.
const CONTROL_WORDS: usize = (size_of::<libc::cmsghdr>() + MESSAGE_FDS * size_of::<RawFd>()).div_ceil(8) + 1;

/// Opens a listener in a folder that nobody else can enter and moves it to its place when its mode is right: at no time
/// can anybody else connect, and a file that a crashed process left is replaced.
///
/// # Errors
/// If the folder or the socket cannot be made.
pub fn listen_private(path: &Path) -> io::Result<UnixListener> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent)?;
    // Short, because a socket's path may have 107 bytes only.
    let hidden = parent.join(".s");
    let _ = std::fs::remove_dir_all(&hidden);
    DirBuilder::new().mode(0o700).create(&hidden)?;
    let inner = hidden.join("s");
    let opened = UnixListener::bind(&inner).and_then(|listener| {
        std::fs::set_permissions(&inner, Permissions::from_mode(SOCKET_MODE))?;
        std::fs::rename(&inner, path)?;
        Ok(listener)
    });
    let _ = std::fs::remove_dir_all(&hidden);
    opened
}

/// Who is at the other end of a connection, as of its connect or listen (SO_PEERCRED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process; 0 if it is in a process namespace that cannot be seen from here.
    pub process: u32,
    /// User.
    pub user: u32,
}

/// Asks who is at the other end.
///
/// # Errors
/// As getsockopt(2).
pub fn peer(stream: &UnixStream) -> io::Result<Peer> {
    let mut value = [0; size_of::<libc::ucred>()];
    let len = sys::option(stream.as_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, &mut value)?;
    if len != value.len() {
        return Err(io::Error::other("the kernel does not say who is at the other end"));
    }
    let word = |offset: usize| u32::from_ne_bytes(std::array::from_fn(|index| value[offset + index]));
    Ok(Peer { process: word(offset_of!(libc::ucred, pid)), user: word(offset_of!(libc::ucred, uid)) })
}

/// Sends at most [`MESSAGE_FDS`] descriptors with one byte (SCM_RIGHTS, unix(7)); the other end gets copies.
///
/// # Errors
/// As sendmsg(2), within the stream's write timeout; `InvalidInput` for none or too many.
pub fn send_fds(stream: &UnixStream, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.is_empty() || fds.len() > MESSAGE_FDS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let data_bytes = c_uint::try_from(size_of_val(&*raw)).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut byte = [0_u8];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    let mut control = [0_u64; CONTROL_WORDS];
    let mut message = message(&mut part, &mut control);
    // SAFETY: CMSG_SPACE and CMSG_LEN are sums.
    let (space, len) = unsafe { (libc::CMSG_SPACE(data_bytes), libc::CMSG_LEN(data_bytes)) };
    message.msg_controllen = space as usize;
    // SAFETY: `message` names a control buffer of `space` bytes, aligned for its header; so the header is not null.
    let header = unsafe { &mut *libc::CMSG_FIRSTHDR(&raw const message) };
    (header.cmsg_level, header.cmsg_type, header.cmsg_len) =
        (libc::SOL_SOCKET, libc::SCM_RIGHTS, len as usize);
    // SAFETY: the data of the header begins within the control buffer, which has room for `raw` behind it: `fds` is
    // bounded above. CMSG_DATA need not be aligned for descriptors, so bytes are copied.
    unsafe {
        std::ptr::copy_nonoverlapping(
            raw.as_ptr().cast::<u8>(),
            libc::CMSG_DATA(&raw const *header),
            size_of_val(&*raw),
        );
    }
    // SAFETY: `message` points to `part`, `byte` and `control`, which outlive the call.
    let sent = sys::call(Call::Send, || unsafe {
        libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    })?;
    if sent == 1 { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives one byte of a stream with the descriptors that came along; they are close-on-exec.
///
/// # Errors
/// `UnexpectedEof` at the end of the stream; `InvalidData` if descriptors got lost, because this process may have no
/// more of them; as recvmsg(2), within the stream's read timeout.
pub fn recv_fds(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut byte = [0_u8];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    let mut control = [0_u64; CONTROL_WORDS];
    let mut message = message(&mut part, &mut control);
    // SAFETY: `message` points to `part`, `byte` and `control`, which outlive the call, with their sizes.
    let received = sys::call(Call::Recv, || unsafe {
        libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC)
    })?;
    let fds = owned_fds(&message);
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        let text = "descriptors got lost on their way; raise LimitNOFILE";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    if received == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(fds) }
}

fn message(part: &mut libc::iovec, control: &mut [u64; CONTROL_WORDS]) -> libc::msghdr {
    // SAFETY: all zeroes is a valid msghdr: no name, no parts, no control.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast::<c_void>();
    message.msg_controllen = size_of_val(control);
    message
}

/// Takes every descriptor that recvmsg(2) left in the control buffer of `message`; call it once.
fn owned_fds(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the kernel filled the control buffer up to `msg_controllen`, and it outlives `message`.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a whole header within the buffer.
        let (level, kind, len) =
            unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len as usize) };
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: CMSG_LEN is a sum.
            let data_bytes = len.saturating_sub(unsafe { libc::CMSG_LEN(0) } as usize);
            for index in 0..data_bytes / size_of::<c_int>() {
                // SAFETY: the header's length says that so many descriptors follow it; they need not be aligned.
                let raw = unsafe { libc::CMSG_DATA(header).cast::<c_int>().add(index).read_unaligned() };
                // SAFETY: the kernel has just made this descriptor for this process, and it is taken once.
                fds.push(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR; `header` is one of this message.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    fds
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn folder(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("weir-unix-{name}-{}", std::process::id()))
    }

    #[test]
    fn a_listening_socket_lives_on_where_it_was_sent_with_who_waits_in_it() {
        let (here, there) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(b"early").unwrap();
        send_fds(&here, &[listener.as_fd()]).unwrap();
        drop(listener);
        let [socket] = <[OwnedFd; 1]>::try_from(recv_fds(&there).unwrap()).unwrap();
        let (mut accepted, _) = TcpListener::from(socket).accept().unwrap();
        let mut said = [0; 5];
        accepted.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"early");
    }

    #[test]
    fn as_many_as_a_message_may_carry_come_in_order_and_no_more_are_sent() {
        let (here, there) = UnixStream::pair().unwrap();
        let path = folder("order");
        let files: Vec<File> = (0..MESSAGE_FDS)
            .map(|index| {
                let mut file = File::options()
                    .create(true)
                    .truncate(true)
                    .read(true)
                    .write(true)
                    .open(path.with_extension(index.to_string()))
                    .unwrap();
                write!(file, "{index}").unwrap();
                file
            })
            .collect();
        let mut fds: Vec<BorrowedFd<'_>> = files.iter().map(|file| file.as_fd()).collect();
        send_fds(&here, &fds).unwrap();
        let received = recv_fds(&there).unwrap();
        assert_eq!(received.len(), MESSAGE_FDS);
        for (index, fd) in received.into_iter().enumerate() {
            let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
            assert_eq!(link, path.with_extension(index.to_string()));
            std::fs::remove_file(link).unwrap();
        }
        fds.push(here.as_fd());
        assert_eq!(send_fds(&here, &fds).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(send_fds(&here, &[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn bytes_around_a_message_stay_in_their_order() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        here.write_all(b"before").unwrap();
        send_fds(&here, &[here.as_fd()]).unwrap();
        here.write_all(b"after").unwrap();
        drop(here);
        let mut text = [0; 6];
        there.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"before");
        assert_eq!(recv_fds(&there).unwrap().len(), 1);
        let mut text = String::new();
        there.read_to_string(&mut text).unwrap();
        assert_eq!(text, "after");
        assert_eq!(recv_fds(&there).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn the_other_end_is_known_by_process_and_user() {
        let (here, there) = UnixStream::pair().unwrap();
        let known = peer(&here).unwrap();
        assert_eq!((known.process, known), (std::process::id(), peer(&there).unwrap()));
    }

    #[test]
    fn a_private_listener_replaces_what_was_left_and_is_for_its_owner_only() {
        let path = folder("private").join("test.sock");
        drop(listen_private(&path).unwrap());
        let listener = listen_private(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        let client = UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
        drop(client);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
