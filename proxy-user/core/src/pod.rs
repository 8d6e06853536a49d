//! Pods by their cgroups: what the path of a cgroup says in the forms that kubelets and container runtimes give it. And
//! pods by what they are called, for those who choose among them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Names and values that somebody gave to a pod.
pub type Labels = BTreeMap<String, String>;

/// Which pods are meant: those that are all of this. Everything empty means every pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodSelector {
    /// In one of these Kubernetes namespaces; in any if empty.
    pub namespaces: BTreeSet<String>,
    /// With all of these labels.
    pub labels: Labels,
}

impl PodSelector {
    /// Tells whether a pod is meant; one of which something is not known is not, where that is asked for.
    #[must_use]
    pub fn selects(&self, namespace: Option<&str>, labels: Option<&Labels>) -> bool {
        let is_among = |namespace| self.namespaces.contains(namespace);
        let is_there = self.namespaces.is_empty() || namespace.is_some_and(is_among);
        is_there && (self.labels.is_empty() || labels.is_some_and(|labels| self.selects_labels(labels)))
    }

    /// Tells whether nobody can say without the labels of pods.
    #[must_use]
    pub fn needs_labels(&self) -> bool {
        !self.labels.is_empty()
    }

    /// Tells whether every pod that `other` means is meant by this one, too.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        let is_everywhere = self.namespaces.is_empty();
        let is_within = !other.namespaces.is_empty() && other.namespaces.is_subset(&self.namespaces);
        (is_everywhere || is_within) && self.selects_labels(&other.labels)
    }

    fn selects_labels(&self, labels: &Labels) -> bool {
        self.labels.iter().all(|(name, value)| labels.get(name) == Some(value))
    }
}

/// As `in shop with app=web`.
impl fmt::Display for PodSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespaces: Vec<&str> = self.namespaces.iter().map(String::as_str).collect();
        match namespaces.is_empty() {
            true => f.write_str("in any namespace")?,
            false => write!(f, "in {}", namespaces.join(" or "))?,
        }
        for (index, (name, value)) in self.labels.iter().enumerate() {
            let joint = if index == 0 { " with " } else { ", " };
            write!(f, "{joint}{name}={value}")?;
        }
        Ok(())
    }
}

/// What a cgroup's path says of its pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodCgroup<'a> {
    /// The pod's uid with dashes, as the API and the kubelet's files write it. Static pods have one without any.
    pub uid: String,
    /// The part of the path that names the pod's own cgroup: all its containers are below.
    pub path: &'a str,
}

impl<'a> PodCgroup<'a> {
    /// Reads a path below the cgroup mount; `None` if no part of it is a pod's.
    ///
    /// Known forms, with the kubelet's cgroup driver (`pkg/kubelet/cm` of Kubernetes) and whatever the runtime
    /// (containerd, CRI-O, Docker) makes below:
    /// - systemd: `…/kubepods-burstable-podUID.slice/…`, where the dashes of the uid are underscores; prefixes before
    ///   `kubepods` occur (`kubelet-kubepods-podUID.slice` of nested nodes);
    /// - cgroupfs: `…/kubepods/burstable/podUID/…`.
    #[must_use]
    pub fn parse(path: &'a str) -> Option<Self> {
        let mut end = 0;
        let mut is_below_kubepods = false;
        for part in path.split_inclusive('/') {
            end += part.len();
            let part = part.trim_end_matches('/');
            let uid = match part.strip_suffix(".slice") {
                Some(unit) => unit.rsplit_once("-pod").filter(|(before, _)| before.contains("kubepods")),
                None => part.strip_prefix("pod").filter(|_| is_below_kubepods).map(|uid| ("", uid)),
            };
            if let Some(uid) = uid.map(|(_, uid)| uid.replace('_', "-")).filter(|uid| is_uid(uid)) {
                return Some(Self { uid, path: path[..end].trim_end_matches('/') });
            }
            is_below_kubepods |= part.contains("kubepods");
        }
        None
    }
}

/// A UUID (RFC 9562), or the hash that a static pod has instead.
fn is_uid(text: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    text.split('-').all(is_hex) && (lengths == [8, 4, 4, 4, 12] || lengths == [32])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "0f3c1b2a-1111-2222-3333-444455556666";

    #[test]
    fn every_form_of_a_pods_cgroup_is_known() {
        let slice = UID.replace('-', "_");
        let pod = format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice");
        let guaranteed = format!("/kubepods.slice/kubepods-pod{slice}.slice");
        let nested = format!("/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{slice}.slice");
        let plain = format!("/kubepods/besteffort/pod{UID}");
        let id = "9".repeat(64);
        for (path, pod) in [
            (format!("{pod}/cri-containerd-{id}.scope"), &pod),
            (format!("{pod}/crio-{id}.scope/container"), &pod),
            (pod.clone(), &pod),
            (format!("{pod}/"), &pod),
            (format!("{guaranteed}/docker-{id}.scope"), &guaranteed),
            (format!("{nested}/cri-containerd-{id}.scope"), &nested),
            (format!("{plain}/{id}"), &plain),
        ] {
            let parsed = PodCgroup::parse(&path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!((parsed.uid.as_str(), parsed.path), (UID, pod.as_str()), "{path}");
        }
        let hash = "0123456789abcdef0123456789abcdef";
        let of_static = format!("/kubepods/pod{hash}/x");
        assert_eq!(PodCgroup::parse(&of_static).unwrap().uid, hash);
    }

    #[test]
    fn other_cgroups_are_no_pods() {
        for path in [
            "/",
            "",
            "/system.slice/docker.service",
            "/kubepods.slice/kubepods-burstable.slice",
            "/kubepods/burstable/podman",
            "/user.slice/app-pod12.slice",
            "/pod0f3c1b2a-1111-2222-3333-444455556666",
            "/kubepods/pod0f3c1b2a_1111",
        ] {
            assert_eq!(PodCgroup::parse(path), None, "{path}");
        }
    }

    fn selector(namespaces: &[&str], labels: &[(&str, &str)]) -> PodSelector {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        PodSelector {
            namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
            labels: labels.collect(),
        }
    }

    #[test]
    fn a_pod_must_be_all_that_is_asked_for() {
        let labels = selector(&[], &[("app", "web"), ("tier", "front")]).labels;
        for (asked, without_labels, with_labels) in [
            (selector(&[], &[]), true, true),
            (selector(&["shop", "bank"], &[]), true, true),
            (selector(&["bank"], &[]), false, false),
            (selector(&["shop"], &[("app", "web")]), false, true),
            (selector(&[], &[("app", "web"), ("tier", "back")]), false, false),
            (selector(&[], &[("zone", "")]), false, false),
        ] {
            let found = (asked.selects(Some("shop"), None), asked.selects(Some("shop"), Some(&labels)));
            assert_eq!(found, (without_labels, with_labels), "{asked}");
        }
        assert!(selector(&[], &[]).selects(None, None) && !selector(&["shop"], &[]).selects(None, None));
        assert_eq!(
            selector(&["shop", "bank"], &[("app", "web"), ("a", "")]).to_string(),
            "in bank or shop with a=, app=web"
        );
    }

    fn any_selector() -> impl Strategy<Value = PodSelector> {
        let namespaces = prop::collection::btree_set("[ab]", 0..3);
        let labels = prop::collection::btree_map("[xy]", "[12]", 0..3);
        (namespaces, labels).prop_map(|(namespaces, labels)| PodSelector { namespaces, labels })
    }

    proptest! {
        #[test]
        fn who_holds_another_selects_all_that_it_selects(
            wide in any_selector(), narrow in any_selector(), namespace in "[abc]",
            labels in prop::collection::btree_map("[xyz]", "[12]", 0..4),
        ) {
            let selects = |selector: &PodSelector| selector.selects(Some(&namespace), Some(&labels));
            if wide.holds(&narrow) && selects(&narrow) {
                prop_assert!(selects(&wide), "{wide}; {narrow}");
            }
            prop_assert!(narrow.holds(&narrow) && PodSelector::default().holds(&narrow));
        }

        #[test]
        fn no_path_panics_and_what_is_found_is_its_beginning(path in "(/?(kubepods|pod|-|_|[0-9a-f]{4,12}|[.]slice|é|/){0,6}){0,5}") {
            if let Some(pod) = PodCgroup::parse(&path) {
                prop_assert!(path.starts_with(pod.path));
            }
        }
    }
}
