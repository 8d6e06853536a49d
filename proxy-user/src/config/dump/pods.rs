//! Pods as scopes, and the kubelet.

use proxy_core::pod::PodSelector;

use super::super::de::Pairs;
use super::super::text::{Host, LabelName, LabelValue, NamespaceName, TlsFile};
use super::{Address, At, Time, file};
use crate::config::{KubeletAccess, KubeletConfig};

pub(super) fn selector(selector: &PodSelector) -> file::PodScope {
    let pair =
        |(name, value): (&String, &String)| (LabelName(name.clone()), At::nowhere(LabelValue(value.clone())));
    file::PodScope {
        namespaces: selector.namespaces.iter().map(|name| At::nowhere(NamespaceName(name.clone()))).collect(),
        labels: selector.needs_labels().then(|| Pairs(selector.labels.iter().map(pair).collect())),
    }
}

pub(super) fn kubelet(kubelet: &KubeletConfig) -> file::Kubelet {
    let (ca, sni, token) = match &kubelet.access {
        KubeletAccess::ReadOnly => (None, None, None),
        KubeletAccess::Authenticated { ca, sni, token } => (Some(ca), sni.as_ref(), Some(token)),
    };
    let file = |path: &std::path::PathBuf| At::nowhere(TlsFile(path.clone()));
    file::Kubelet {
        address: Some(Address(kubelet.address)),
        read_only: Some(kubelet.access == KubeletAccess::ReadOnly),
        ca: ca.map(file),
        sni: sni.map(|name| At::nowhere(Host(name.clone()))),
        token: token.map(file),
        interval: Some(At::nowhere(Time(kubelet.interval))),
    }
}
