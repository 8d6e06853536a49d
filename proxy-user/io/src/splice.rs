//! Moving bytes between two sockets through a kernel pipe, without copying them to this process.
//!
//! Sockets should come here through [`Socket::poll_splice_in`](crate::Socket::poll_splice_in) and
//! [`Socket::poll_splice_out`](crate::Socket::poll_splice_out), which also wait.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use libc::c_int;

use crate::sys;

/// What a pipe asks for: fewer system calls per byte. The kernel gives unprivileged users no more than this
/// either (`/proc/sys/fs/pipe-max-size`).
const PIPE_BYTES: c_int = 1 << 20;
/// Below this a pipe moves no more per call than a copying relay; it is also the kernel's default size.
const LEAST_PIPE_BYTES: c_int = 64 << 10;

/// Pipes of one worker: at most so many exist at once, and empty ones are kept for the next stream.
///
/// Clones share the pool.
#[derive(Clone)]
pub struct PipePool {
    shared: Rc<RefCell<PoolState>>,
}

struct PoolState {
    idle: Vec<Ends>,
    /// Pipes that exist now, taken or idle.
    count: usize,
    most: usize,
}

struct Ends {
    reader: OwnedFd,
    writer: OwnedFd,
    capacity: usize,
}

impl PipePool {
    /// Makes a pool of at most `most` pipes; each costs two descriptors and, in use, up to 1 MiB of the
    /// kernel's memory. None is opened yet.
    #[must_use]
    pub fn new(most: usize) -> PipePool {
        PipePool { shared: Rc::new(RefCell::new(PoolState { idle: Vec::new(), count: 0, most })) }
    }

    /// Takes an empty pipe, or `None` if all are in use: the stream keeps being copied then.
    ///
    /// # Errors
    /// If the process has no descriptors left.
    pub fn take(&self) -> io::Result<Option<Pipe>> {
        let mut state = self.shared.borrow_mut();
        let ends = match state.idle.pop() {
            Some(ends) => ends,
            None if state.count >= state.most => return Ok(None),
            None => {
                let ends = Ends::open()?;
                state.count += 1;
                ends
            }
        };
        Ok(Some(Pipe { ends: Some(ends), held: 0, pool: Rc::clone(&self.shared) }))
    }

    /// Takes over a pipe that came from another process with `held` bytes in it, as (read end, write end); it counts here, even
    /// if that makes one more than there should be.
    ///
    /// # Errors
    /// If the descriptors are no pipe.
    pub fn adopt(&self, (reader, writer): (OwnedFd, OwnedFd), held: usize) -> io::Result<Pipe> {
        let capacity = sys::pipe_bytes(writer.as_fd())?;
        self.shared.borrow_mut().count += 1;
        let ends = Ends { reader, writer, capacity };
        Ok(Pipe { ends: Some(ends), held, pool: Rc::clone(&self.shared) })
    }

    /// Pipes that exist now, taken or idle.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.borrow().count
    }

    /// Closes the idle pipes, for when descriptors run out.
    pub fn close_idle(&self) {
        let mut state = self.shared.borrow_mut();
        let idle = std::mem::take(&mut state.idle);
        state.count -= idle.len();
    }
}

impl Ends {
    fn open() -> io::Result<Ends> {
        let (reader, writer) = sys::pipe()?;
        let mut wanted = PIPE_BYTES;
        // Past the user's soft limit on pipe pages the kernel refuses to grow pipes (EPERM): take what it allows.
        let capacity = loop {
            match sys::set_pipe_bytes(writer.as_fd(), wanted) {
                Ok(given) => break given,
                Err(error) if wanted <= LEAST_PIPE_BYTES => return Err(error),
                Err(_) => wanted /= 2,
            }
        };
        Ok(Ends { reader, writer, capacity })
    }
}

/// A kernel pipe that counts the bytes in it. Dropped, it goes back to its pool if it is empty and is closed
/// if it is not, so bytes never leak from one stream into another.
pub struct Pipe {
    /// `None` only while dropping.
    ends: Option<Ends>,
    held: usize,
    pool: Rc<RefCell<PoolState>>,
}

impl Pipe {
    /// Bytes that are in the pipe now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Bytes that fit at most; fewer when they come in small segments, because each takes a whole slot.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ends().capacity
    }

    /// The read end and the write end, for whoever takes the pipe over. The bytes are in it once: only one of the two processes may
    /// go on with it.
    #[must_use]
    pub fn fds(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.ends().reader.as_fd(), self.ends().writer.as_fd())
    }

    fn ends(&self) -> &Ends {
        self.ends.as_ref().expect("a pipe has its ends until it is dropped")
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut pool = self.pool.borrow_mut();
        match self.ends.take() {
            Some(ends) if self.held == 0 => pool.idle.push(ends),
            _ => pool.count -= 1,
        }
    }
}

/// Moves up to `most` bytes from a socket into the pipe; 0 is the end of the stream.
///
/// `socket` must be non-blocking: for a TCP socket, the kernel waits otherwise, whatever the flags say.
///
/// # Errors
/// `WouldBlock` if the socket has no bytes *or* the pipe has no room; which one is known only if the pipe is empty.
pub fn splice_in(socket: &impl AsFd, pipe: &mut Pipe, most: usize) -> io::Result<usize> {
    let moved = sys::splice(socket.as_fd(), pipe.ends().writer.as_fd(), most)?;
    pipe.held += moved;
    Ok(moved)
}

/// Moves up to `most` bytes from the pipe to a non-blocking socket. An empty pipe moves 0 bytes.
///
/// # Errors
/// `WouldBlock` if the socket takes none now.
pub fn splice_out(pipe: &mut Pipe, socket: &impl AsFd, most: usize) -> io::Result<usize> {
    let most = most.min(pipe.held);
    if most == 0 {
        return Ok(0);
    }
    let moved = sys::splice(pipe.ends().reader.as_fd(), socket.as_fd(), most)?;
    pipe.held -= moved;
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn bytes_pass_and_waiting_shows() {
        let pool = PipePool::new(1);
        let mut pipe = pool.take().unwrap().unwrap();
        let ((mut source, inlet), (outlet, mut sink)) = (pair(), pair());
        inlet.set_nonblocking(true).unwrap();
        outlet.set_nonblocking(true).unwrap();
        assert_eq!(splice_in(&inlet, &mut pipe, 1 << 20).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        source.write_all(b"hello").unwrap();
        assert_eq!(splice_in(&inlet, &mut pipe, 1 << 20).unwrap(), 5);
        assert_eq!(pipe.len(), 5);
        assert_eq!(splice_out(&mut pipe, &outlet, 3).unwrap(), 3);
        assert_eq!(splice_out(&mut pipe, &outlet, 9).unwrap(), 2);
        assert_eq!(splice_out(&mut pipe, &outlet, 9).unwrap(), 0);
        let mut seen = [0; 5];
        sink.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"hello");
        source.shutdown(Shutdown::Write).unwrap();
        assert_eq!(splice_in(&inlet, &mut pipe, 1 << 20).unwrap(), 0);
    }

    #[test]
    fn only_empty_pipes_are_used_again() {
        let pool = PipePool::new(1);
        let pipe = pool.take().unwrap().unwrap();
        assert!(pool.take().unwrap().is_none(), "bounded");
        drop(pipe);
        assert_eq!(pool.count(), 1, "kept");

        let mut pipe = pool.take().unwrap().unwrap();
        let (mut source, inlet) = pair();
        inlet.set_nonblocking(true).unwrap();
        source.write_all(b"left over").unwrap();
        splice_in(&inlet, &mut pipe, 1 << 20).unwrap();
        drop(pipe);
        assert_eq!(pool.count(), 0, "closed with its bytes");
        assert!(pool.take().unwrap().unwrap().is_empty());
        pool.close_idle();
        assert_eq!(pool.count(), 0);
    }

    #[test]
    fn a_smaller_pipe_is_taken_when_the_kernel_refuses_a_large_one() {
        let mut refusals = 2;
        let pipe = sys::fault::with(
            move |name| {
                let refuse = name == sys::Call::Fcntl && refusals > 0;
                refusals -= i32::from(refuse);
                refuse.then_some(libc::EPERM)
            },
            || PipePool::new(1).take(),
        );
        assert_eq!(pipe.unwrap().unwrap().capacity(), 1 << 18);
    }
}
