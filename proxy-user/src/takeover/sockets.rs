//! Sockets by what they are for.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What a descriptor that is handed over is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocketName {
    /// A listener of the proxy lane in Weir's own network namespace.
    Home {
        /// Family as the kernel programs number it.
        family: u32,
        /// Index among those of its family.
        index: u32,
    },
    /// A listener of the proxy lane in another network namespace.
    Pod {
        /// Cookie of the namespace.
        netns_cookie: u64,
        /// Family as the kernel programs number it.
        family: u32,
    },
    /// The node listener of a family, if other namespaces reach it.
    Node {
        /// Family as the kernel programs number it.
        family: u32,
    },
    /// A listener of the config.
    Listener(SocketAddr),
    /// The admin interface.
    Admin(SocketAddr),
    /// The further address for metrics.
    Metrics(SocketAddr),
    /// The admin interface's unix socket.
    AdminSocket(PathBuf),
    /// The socket that processes are handed over on.
    Takeover,
    /// The lock of the run folder: whoever has it is the one Weir of this node.
    Lock,
}

/// Sockets in use, for whoever takes over.
pub type NamedSockets = Vec<(SocketName, Arc<OwnedFd>)>;

/// Sockets that were taken over and have no use yet; empty in a process that took over from nobody.
#[derive(Debug, Default)]
pub struct Sockets(HashMap<SocketName, OwnedFd>);

impl Sockets {
    /// Takes one out.
    pub fn take(&mut self, name: &SocketName) -> Option<OwnedFd> {
        self.0.remove(name)
    }

    /// Takes out all that fit.
    #[must_use]
    pub fn split(&mut self, fits: impl Fn(&SocketName) -> bool) -> Self {
        Self(self.0.extract_if(|name, _| fits(name)).collect())
    }

    /// Closes what nobody took, and says how many those were.
    pub fn close(&mut self) -> usize {
        std::mem::take(&mut self.0).len()
    }
}

impl FromIterator<(SocketName, OwnedFd)> for Sockets {
    fn from_iter<T: IntoIterator<Item = (SocketName, OwnedFd)>>(all: T) -> Self {
        Self(all.into_iter().collect())
    }
}

impl Extend<(SocketName, OwnedFd)> for Sockets {
    fn extend<T: IntoIterator<Item = (SocketName, OwnedFd)>>(&mut self, more: T) {
        self.0.extend(more);
    }
}

impl IntoIterator for Sockets {
    type Item = (SocketName, OwnedFd);
    type IntoIter = std::collections::hash_map::IntoIter<SocketName, OwnedFd>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
