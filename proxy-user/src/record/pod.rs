//! Names of pods, from what a kubelet leaves on the node's disk for everybody to read.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::Path;

/// Where kubelets keep the logs of pods, in folders named NAMESPACE_NAME_UID.
pub const POD_LOGS: &str = "/var/log/pods";

/// What a pod is called; shown as `shop/web-7d9f`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its name there.
    pub name: String,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Names of all pods of this node by their uids; none where there is no such folder.
#[must_use]
pub fn names(logs: &Path) -> HashMap<String, PodName> {
    let entries = fs::read_dir(logs).into_iter().flatten().flatten();
    entries.filter_map(|entry| parse(entry.file_name().to_str()?)).collect()
}

/// No part may contain an underscore (RFC 1123 labels, RFC 9562).
fn parse(folder: &str) -> Option<(String, PodName)> {
    let mut parts = folder.split('_').map(str::to_owned);
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some((uid, PodName { namespace, name }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_folders_of_logs() {
        let logs = std::env::temp_dir().join(format!("weir-pod-logs-{}", std::process::id()));
        let uid = "0f3c1b2a-1111-2222-3333-444455556666";
        for name in ["kube-system_dns-1_aaaa", &format!("shop_web-7d9f_{uid}"), "odd", "a_b_c_d"] {
            fs::create_dir_all(logs.join(name)).unwrap();
        }
        let found = names(&logs);
        assert_eq!(found[uid].to_string(), "shop/web-7d9f");
        assert_eq!(found.len(), 2);
        fs::remove_dir_all(&logs).unwrap();
        assert!(names(&logs).is_empty());
    }
}
