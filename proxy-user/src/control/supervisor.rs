//! What a supervisor such as systemd is told: sd_notify(3), a few datagrams.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;

use proxy_io::clock::monotonic_ns;

/// Names the supervisor's socket.
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// Whoever watches over this process, if anybody does. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Supervisor(Option<Arc<UnixDatagram>>);

impl Supervisor {
    /// Finds the one that the environment names; a path, or an abstract name behind `@`.
    #[must_use]
    pub fn from_environment() -> Self {
        let Some(name) = std::env::var_os(SOCKET_VARIABLE).filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        let opened = Self::open(&name);
        if let Err(error) = &opened {
            tracing::warn!(socket = %name.display(), %error, "cannot tell the supervisor anything");
        }
        opened.unwrap_or_default()
    }

    fn open(name: &OsStr) -> std::io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // A supervisor that does not read must not hold anything up.
        socket.set_nonblocking(true)?;
        Ok(Self(Some(Arc::new(socket))))
    }

    /// This process is the one that serves, and everything is in force.
    pub fn ready(&self) {
        self.tell(&format!("READY=1\nMAINPID={}", std::process::id()));
    }

    /// The configuration is being read; [`Supervisor::ready`] follows, whatever comes of it.
    pub fn reloading(&self) {
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_ns() / 1000));
    }

    /// This process ends, and nobody has taken over.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Another process is the one that serves: watch over that one.
    pub fn handed_over(&self, process: u32) {
        self.tell(&format!("MAINPID={process}"));
    }

    /// The control task lives.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, words: &str) {
        if let Some(Err(error)) = self.0.as_ref().map(|socket| socket.send(words.as_bytes())) {
            tracing::debug!(words, %error, "the supervisor does not listen");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_names_are_understood() {
        let name = format!("weir-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let by_path = UnixDatagram::bind(&path).unwrap();
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&abstract_name).unwrap();
        for (socket, named) in
            [(by_path, path.clone().into_os_string()), (by_name, format!("@{name}").into())]
        {
            Supervisor::open(&named).unwrap().handed_over(7);
            let mut words = [0; 64];
            let count = socket.recv(&mut words).unwrap();
            assert_eq!(&words[..count], b"MAINPID=7");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(Supervisor::open(path.as_os_str()).is_err());
        Supervisor::default().ready();
    }
}
