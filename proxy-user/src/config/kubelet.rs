//! Whom to ask for the labels of this node's pods.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use proxy_core::pod::PodSelector;
use proxy_core::snapshot::Scope;

use super::Config;

/// The kubelet of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeletConfig {
    /// Where it listens.
    pub address: SocketAddr,
    /// Which of its two interfaces that is.
    pub access: KubeletAccess,
    /// Time between two questions.
    pub interval: Duration,
}

/// Interfaces of a kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubeletAccess {
    /// HTTP, for everybody who reaches it.
    ReadOnly,
    /// HTTPS, for those who show a token that it knows.
    Authenticated {
        /// PEM file of the authorities that are believed.
        ca: PathBuf,
        /// Name in its certificate; if absent, who asks knows better.
        sni: Option<String>,
        /// File of the token.
        token: PathBuf,
    },
}

impl Config {
    /// What is asked of pods anywhere, as a scope.
    pub fn pod_selectors(&self) -> impl Iterator<Item = &PodSelector> {
        let of_inbound = self.inbound.iter().flat_map(|inbound| &inbound.scopes);
        self.intercept.scopes.iter().chain(of_inbound).filter_map(|scope| match scope {
            Scope::Pods(selector) => Some(selector),
            Scope::Cgroup(_) | Scope::Netns(_) => None,
        })
    }

    /// Tells whether the kubelet is to be asked.
    #[must_use]
    pub fn needs_kubelet(&self) -> bool {
        self.pod_selectors().any(PodSelector::needs_labels)
    }
}
