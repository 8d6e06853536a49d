//! Records of connections: of closed ones as they close, of open ones when asked.

use std::fs::File;
use std::io::{self, Read as _};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::Ebpf;
use aya::maps::{Map, MapData, MapError, RingBuf};
use aya_log::EbpfLogger;
use proxy_ebpf_common::newcomer::Newcomer;
use proxy_ebpf_common::record::Record;
use zerocopy::FromBytes;

/// A ring buffer that the kernel programs write to; readable when there is something.
pub struct Events<T> {
    ring: RingBuf<MapData>,
    kind: PhantomData<T>,
}

/// Connections that were closed.
pub type Records = Events<Record>;
/// Network namespaces that want to be served.
pub type Newcomers = Events<Newcomer>;

impl<T: FromBytes> Events<T> {
    pub(crate) fn new(map: Map) -> Result<Self, MapError> {
        Ok(Self { ring: RingBuf::try_from(map)?, kind: PhantomData })
    }

    /// Begins again where the last reader stopped, if that was another process.
    ///
    /// A ring buffer has one reader at a time, which remembers how far it is.
    ///
    /// # Errors
    /// If the buffer cannot be mapped.
    pub fn reopen(&mut self) -> io::Result<()> {
        let map = MapData::from_fd(self.ring.as_fd().try_clone_to_owned()?).map_err(io::Error::other)?;
        self.ring = RingBuf::try_from(Map::RingBuf(map)).map_err(io::Error::other)?;
        Ok(())
    }

    /// Takes the next event, if there is one. Never blocks.
    pub fn poll_event(&mut self) -> Option<T> {
        loop {
            let item = self.ring.next()?;
            if let Ok((event, _)) = T::read_from_prefix(&item) {
                return Some(event);
            }
        }
    }
}

impl<T> AsFd for Events<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// Log lines of the kernel programs; readable when there are some. They come out under the target of this crate.
pub struct KernelLog {
    logger: EbpfLogger<&'static dyn log::Log>,
    queue: OwnedFd,
}

/// Map that aya-log writes to.
const LOG_MAP: &str = "AYA_LOGS";

impl KernelLog {
    pub(crate) fn new(ebpf: &mut Ebpf) -> Result<Self, Box<dyn std::error::Error>> {
        // The logger takes the map away, and gives only the number of its descriptor.
        let Some(Map::RingBuf(map)) = ebpf.map(LOG_MAP) else { return Err("the object has no log".into()) };
        let queue = map.fd().as_fd().try_clone_to_owned()?;
        Ok(Self { logger: EbpfLogger::init(ebpf)?, queue })
    }

    /// Hands what has come to the log of this process. Never blocks.
    pub fn flush(&mut self) {
        self.logger.flush();
    }
}

impl AsFd for KernelLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

/// Reads one pass of the iterator to its end: a record of every tracked socket.
///
/// # Errors
/// The error of reading.
pub fn read_live(iterator: OwnedFd) -> io::Result<Vec<Record>> {
    let mut bytes = Vec::new();
    File::from(iterator).read_to_end(&mut bytes)?;
    Ok(bytes
        .chunks_exact(size_of::<Record>())
        .filter_map(|chunk| Record::read_from_bytes(chunk).ok())
        .collect())
}
