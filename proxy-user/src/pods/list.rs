//! What a kubelet says of its pods: the few fields of a PodList that matter here.

use proxy_core::pod::Labels;
use serde::Deserialize;

/// A pod as the kubelet knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedPod {
    /// Uids that its cgroup may bear. A static pod's is a hash of its file; its mirror in the API has another one, and an
    /// annotation with that hash (`pkg/kubelet/types` of Kubernetes).
    pub uids: Vec<String>,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: Labels,
}

/// Reads the answer to `/pods`.
///
/// # Errors
/// If it is no PodList.
pub(super) fn parse(text: &[u8]) -> serde_json::Result<Vec<ListedPod>> {
    let list: PodList = serde_json::from_slice(text)?;
    if list.kind != "PodList" {
        return Err(serde::de::Error::custom(format_args!("its kind is {:?}", list.kind)));
    }
    let items = list.items.unwrap_or_default();
    Ok(items.into_iter().map(|item| item.metadata.into_pod()).collect())
}

#[derive(Deserialize)]
struct PodList {
    kind: String,
    /// Go writes null for an empty list.
    items: Option<Vec<Item>>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    uid: String,
    namespace: String,
    labels: Option<Labels>,
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "kubernetes.io/config.hash")]
    hash: Option<String>,
}

impl Metadata {
    fn into_pod(self) -> ListedPod {
        let Self { uid, namespace, labels, annotations } = self;
        let hash = annotations.and_then(|annotations| annotations.hash).filter(|hash| *hash != uid);
        ListedPod {
            uids: [uid].into_iter().chain(hash).collect(),
            namespace,
            labels: labels.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a kubelet of Kubernetes 1.31 writes it: an ordinary pod, a static one, and a mirror.
    const LIST: &[u8] = include_bytes!("list/pods.json");

    fn labels(of: &[(&str, &str)]) -> Labels {
        of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn pods_are_read_with_every_uid_that_their_cgroup_may_bear() {
        let web = ListedPod {
            uids: vec!["5a1f0c54-8f0e-4a63-9d0b-2f1f3a9f7c11".to_owned()],
            namespace: "shop".to_owned(),
            labels: labels(&[("app", "web"), ("pod-template-hash", "7d9f8c6b5"), ("tier", "front")]),
        };
        let hash = "c4a1b0f4bd0d6e3f5d9b7e1a2c3d4e5f";
        let control_plane = |name, uids: &[&str]| ListedPod {
            uids: uids.iter().map(|uid| (*uid).to_owned()).collect(),
            namespace: "kube-system".to_owned(),
            labels: labels(&[("component", name), ("tier", "control-plane")]),
        };
        let mirrored = ["0b8d2b5e-5c4a-4b0b-9a56-0c2f1a7d3e21", "9f8e7d6c5b4a39281706f5e4d3c2b1a0"];
        assert_eq!(
            parse(LIST).unwrap(),
            [web, control_plane("etcd", &[hash]), control_plane("kube-apiserver", &mirrored)]
        );
    }

    #[test]
    fn an_empty_node_is_no_error_and_nonsense_is() {
        for text in
            [r#"{"kind":"PodList","apiVersion":"v1","items":null}"#, r#"{"kind":"PodList","items":[]}"#]
        {
            assert_eq!(parse(text.as_bytes()).unwrap(), []);
        }
        let bare = r#"{"kind":"PodList","items":[{"metadata":{"name":"a","namespace":"b","uid":"c"}}]}"#;
        assert_eq!(parse(bare.as_bytes()).unwrap()[0].labels, Labels::new());
        for text in [
            "",
            "Unauthorized",
            "{}",
            r#"{"kind":"Status","items":[]}"#,
            r#"{"kind":"PodList","items":[{"metadata":{"name":"a"}}]}"#,
            r#"{"kind":"PodList","items":[{"metadata":{"name":"a","namespace":"b","uid":"c","labels":{"a":1}}}]}"#,
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        let cut = &LIST[..LIST.len() / 2];
        assert!(parse(cut).is_err());
    }
}
