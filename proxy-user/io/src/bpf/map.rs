//! Elements of a map: read, written, removed, one by one and many at once.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use super::{Command, call, raw};

/// A map with the sizes of its keys and values: what keeps the calls below within bounds.
///
/// For a per-CPU map `value_size` is that of all CPUs together, each rounded up to 8 bytes.
#[derive(Debug)]
pub struct RawMap {
    fd: OwnedFd,
    key_size: usize,
    value_size: usize,
}

impl RawMap {
    /// Takes a map whose sizes the caller knows from its definition.
    ///
    /// Calls with other sizes than the map's would be out of bounds, so they are checked against what the kernel says.
    ///
    /// # Errors
    /// `InvalidInput` if the kernel knows other sizes; the error of reading fdinfo.
    pub fn new(
        fd: OwnedFd,
        key_size: usize,
        value_size: usize,
        cpu_count: Option<usize>,
    ) -> io::Result<Self> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<usize>().ok())
        };
        if field("key_size") != Some(key_size) || field("value_size") != Some(value_size) {
            let text = format!("map has other sizes than {key_size} and {value_size} bytes: {info:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let value_size = match cpu_count {
            Some(count) => value_size.next_multiple_of(8) * count,
            None => value_size,
        };
        Ok(Self { fd, key_size, value_size })
    }

    /// Bytes of a value as lookups give it.
    #[must_use]
    pub fn value_size(&self) -> usize {
        self.value_size
    }

    /// Reads the value of a key into `value`; false if there is none.
    ///
    /// # Errors
    /// What bpf(2) says.
    ///
    /// # Panics
    /// If a length is not that of the map.
    pub fn lookup(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        self.read(Command::MapLookup, key, value)
    }

    /// Reads and removes the value of a key (hash maps: Linux 5.14); false if there is none.
    ///
    /// # Errors
    /// What bpf(2) says.
    ///
    /// # Panics
    /// If a length is not that of the map.
    pub fn take(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        self.read(Command::MapTake, key, value)
    }

    fn read(&self, command: Command, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        assert!(key.len() == self.key_size && value.len() == self.value_size);
        let mut attr = MapElem {
            map_fd: raw(self.fd.as_fd()),
            key: key.as_ptr() as u64,
            value: value.as_mut_ptr() as u64,
            ..MapElem::default()
        };
        match call(command, &mut attr) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes the value of a key.
    ///
    /// # Errors
    /// What bpf(2) says: E2BIG if the map is full.
    ///
    /// # Panics
    /// If a length is not that of the map.
    pub fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        assert!(key.len() == self.key_size && value.len() == self.value_size);
        let mut attr = MapElem {
            map_fd: raw(self.fd.as_fd()),
            key: key.as_ptr() as u64,
            value: value.as_ptr() as u64,
            ..MapElem::default()
        };
        call(Command::MapUpdate, &mut attr).map(drop)
    }

    /// Writes the storage of a socket, or puts a socket into a socket map: the descriptor is key or value.
    ///
    /// # Errors
    /// What bpf(2) says.
    ///
    /// # Panics
    /// If a length is not that of the map.
    pub fn update_socket(&self, socket: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
        self.update(&socket.as_raw_fd().to_ne_bytes(), value)
    }

    /// Removes a key; false if it was not there.
    ///
    /// # Errors
    /// What bpf(2) says.
    ///
    /// # Panics
    /// If a length is not that of the map.
    pub fn delete(&self, key: &[u8]) -> io::Result<bool> {
        assert_eq!(key.len(), self.key_size);
        let mut attr =
            MapElem { map_fd: raw(self.fd.as_fd()), key: key.as_ptr() as u64, ..MapElem::default() };
        match call(Command::MapDelete, &mut attr) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes the key that follows `key` (the first one if `None`) into `next`; false at the end.
    ///
    /// # Errors
    /// What bpf(2) says.
    ///
    /// # Panics
    /// If a length is not that of the map.
    pub fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
        assert!(key.is_none_or(|key| key.len() == self.key_size) && next.len() == self.key_size);
        let mut attr = MapElem {
            map_fd: raw(self.fd.as_fd()),
            key: key.map_or(0, |key| key.as_ptr() as u64),
            value: next.as_mut_ptr() as u64,
            ..MapElem::default()
        };
        match call(Command::MapNextKey, &mut attr) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes many elements in one call (Linux 5.6).
    ///
    /// # Errors
    /// What bpf(2) says; some elements may have been written then.
    ///
    /// # Panics
    /// If the lengths are not those of equally many keys and values.
    pub fn update_batch(&self, keys: &[u8], values: &[u8]) -> io::Result<()> {
        let count = keys.len() / self.key_size;
        assert!(keys.len() == count * self.key_size && values.len() == count * self.value_size);
        if count == 0 {
            return Ok(());
        }
        let mut attr = Batch {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: u32::try_from(count).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
            map_fd: raw(self.fd.as_fd()),
            ..Batch::default()
        };
        call(Command::MapUpdateBatch, &mut attr).map(drop)
    }
}

impl AsFd for RawMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[repr(C)]
#[derive(Default)]
struct MapElem {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}
