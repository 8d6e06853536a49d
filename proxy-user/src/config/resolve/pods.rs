//! Pods as scopes, and the kubelet.

use std::net::SocketAddr;
use std::path::Path;

use proxy_core::pod::PodSelector;

use super::{default, file};
use crate::config::{KubeletAccess, KubeletConfig};

pub(super) fn selector(scope: &file::PodScope) -> PodSelector {
    let labels = scope.labels.iter().flat_map(|labels| &labels.0);
    PodSelector {
        namespaces: scope.namespaces.iter().map(|at| at.value.0.clone()).collect(),
        labels: labels.map(|(name, at)| (name.0.clone(), at.value.0.clone())).collect(),
    }
}

pub(super) fn kubelet(kubelet: &file::Kubelet, folder: &Path) -> KubeletConfig {
    let is_read_only = kubelet.read_only.unwrap_or(false);
    let port = if is_read_only { default::KUBELET_READ_ONLY_PORT } else { default::KUBELET_PORT };
    let usual = SocketAddr::new(default::KUBELET_IP, port);
    let path =
        |given: Option<&Path>, usual: &str| given.map_or_else(|| usual.into(), |path| folder.join(path));
    let access = match is_read_only {
        true => KubeletAccess::ReadOnly,
        false => KubeletAccess::Authenticated {
            ca: path(kubelet.ca.as_ref().map(|at| &*at.value.0), default::KUBELET_CA),
            sni: kubelet.sni.as_ref().map(|at| at.value.0.clone()),
            token: path(kubelet.token.as_ref().map(|at| &*at.value.0), default::KUBELET_TOKEN),
        },
    };
    KubeletConfig {
        address: kubelet.address.as_ref().map_or(usual, |address| address.0),
        access,
        interval: kubelet.interval.as_ref().map_or(default::KUBELET_INTERVAL, |at| at.value.0),
    }
}
