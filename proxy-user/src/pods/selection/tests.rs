use std::fs;

use proxy_core::id::{Registry, Version};

use super::*;
use crate::config;

const INTERVAL: Duration = Duration::from_secs(10);
const WEB: &str = "5a1f0c54-8f0e-4a63-9d0b-2f1f3a9f7c11";
const DB: &str = "5a1f0c54-8f0e-4a63-9d0b-2f1f3a9f7c12";

/// A node's folders: cgroups, and logs of pods.
struct Node(PathBuf);

impl Node {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("weir-selection-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("cgroup/system.slice")).unwrap();
        Self(dir)
    }

    fn selection(&self) -> Selection {
        Selection::at(self.0.join("cgroup"), self.0.join("logs"))
    }

    fn add(&self, uid: &str) -> String {
        let path = format!("/kubepods.slice/kubepods-pod{}.slice", uid.replace('-', "_"));
        fs::create_dir_all(self.0.join("cgroup").join(&path[1..]).join("app.scope")).unwrap();
        path
    }

    fn remove(&self, path: &str) {
        fs::remove_dir_all(self.0.join("cgroup").join(&path[1..])).unwrap();
    }

    fn log(&self, namespace: &str, uid: &str) {
        fs::create_dir_all(self.0.join(format!("logs/{namespace}_name_{uid}"))).unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn snapshot(intercept: &str) -> Snapshot {
    let path = std::env::temp_dir().join(format!(
        "weir-selection-{}-{:?}.yaml",
        std::process::id(),
        std::thread::current().id()
    ));
    fs::write(&path, format!("services: []\nintercept: {intercept}\n")).unwrap();
    let config = config::load(&path).unwrap();
    fs::remove_file(path).unwrap();
    config.snapshot(&mut Registry::default(), Version(1), None)
}

fn pod(uid: &str, namespace: &str, app: &str) -> ListedPod {
    let labels = [("app".to_owned(), app.to_owned())].into();
    ListedPod { uids: vec![uid.to_owned()], namespace: namespace.to_owned(), labels }
}

fn paths(selection: &Selection, snapshot: &Snapshot) -> Vec<String> {
    selection.in_scope(snapshot).into_iter().collect()
}

#[test]
fn namespaces_alone_need_no_kubelet() {
    let (node, now) = (Node::new("names"), Instant::now());
    let (web, db) = (node.add(WEB), node.add(DB));
    node.log("shop", WEB);
    let (mut selection, asked) = (node.selection(), snapshot("{scopes: [{pods: {namespaces: [shop]}}]}"));
    selection.look(now, &asked);
    assert_eq!(paths(&selection, &asked), [web.as_str()]);
    assert_eq!(selection.next_due(), None, "no question");
    assert_eq!((selection.status().unknown, selection.status().others), (1, 0));
    // Folders come after cgroups.
    node.log("bank", DB);
    selection.look(now, &asked);
    assert_eq!((selection.status().unknown, selection.status().others), (0, 1));
    node.remove(&web);
    selection.look(now, &asked);
    assert!(paths(&selection, &asked).is_empty());
    // Every pod is meant, whatever it is called.
    let nameless = node.add("5a1f0c54-8f0e-4a63-9d0b-2f1f3a9f7c13");
    let all = snapshot("{scopes: [{pods: {}}]}");
    selection.look(now, &all);
    assert_eq!(paths(&selection, &all), [db, nameless]);
    assert_eq!((selection.status().unknown, selection.status().others), (0, 0));
    selection.look(now, &snapshot("{scopes: [{cgroup: /a}]}"));
    node.add(WEB);
    assert!(!selection.has_news(), "nobody chooses");
    assert_eq!(selection.status(), PodsStatus::default());
}

#[test]
fn labels_come_from_the_kubelet_and_stay_when_it_is_away_or_forgets() {
    let (node, mut now) = (Node::new("labels"), Instant::now());
    let (web, db) = (node.add(WEB), node.add(DB));
    let asked = snapshot("{scopes: [{pods: {namespaces: [shop], labels: {app: web}}}]}");
    let mut selection = node.selection();
    selection.look(now, &asked);
    assert!(paths(&selection, &asked).is_empty() && selection.poll_due(now));
    selection.handle_answer(now, INTERVAL, Ok(vec![pod(WEB, "shop", "web"), pod(DB, "shop", "db")]));
    assert_eq!(paths(&selection, &asked), [web.as_str()]);
    assert_eq!(selection.next_due(), Some(now + INTERVAL));
    for answer in [Err(KubeletError::Timeout), Ok(Vec::new()), Ok(vec![pod(DB, "shop", "db")])] {
        now += INTERVAL;
        assert!(selection.poll_due(now));
        selection.handle_answer(now, INTERVAL, answer);
        selection.look(now, &asked);
        assert_eq!(paths(&selection, &asked), [web.as_str()]);
    }
    assert_eq!((selection.status().answers, selection.status().failures), (3, 1));
    // Who is not asked has not failed.
    now += INTERVAL;
    assert!(selection.poll_due(now));
    selection.handle_answer(now, INTERVAL, Err(KubeletError::Timeout));
    assert!(selection.status().error.is_some());
    let all = snapshot("{scopes: [{pods: {}}]}");
    selection.look(now, &all);
    assert_eq!((selection.status().error, selection.status().failures), (None, 2));
    selection.look(now, &asked);
    // Labels may change at any time.
    assert!(selection.poll_due(now), "asked anew at once");
    selection.handle_answer(now, INTERVAL, Ok(vec![pod(WEB, "shop", "old"), pod(DB, "shop", "web")]));
    assert_eq!(paths(&selection, &asked), [db]);
}

#[test]
fn a_new_pod_is_asked_for_at_once_even_if_another_one_has_gone() {
    let (node, now) = (Node::new("new"), Instant::now());
    let web = node.add(WEB);
    let asked = snapshot("{scopes: [{pods: {labels: {app: web}}}]}");
    let mut selection = node.selection();
    selection.look(now, &asked);
    assert!(selection.poll_due(now));
    selection.handle_answer(now, INTERVAL, Ok(vec![pod(WEB, "shop", "web")]));
    let later = now + Duration::from_secs(3);
    assert!(!selection.has_news());
    node.remove(&web);
    let db = node.add(DB);
    assert!(selection.has_news());
    selection.look(later, &asked);
    assert!(!selection.has_news());
    assert!(paths(&selection, &asked).is_empty() && selection.poll_due(later));
    // A kubelet may hear of a pod a little later than its cgroup is there.
    selection.handle_answer(later, INTERVAL, Ok(Vec::new()));
    assert_eq!(selection.next_due(), Some(later + Duration::from_secs(1)));
    selection.handle_answer(later, INTERVAL, Ok(vec![pod(DB, "shop", "web")]));
    assert_eq!(paths(&selection, &asked), [db]);
}

#[test]
fn static_pods_are_found_by_the_hash_that_their_cgroup_bears() {
    const HASH: &str = "c4a1b0f4bd0d6e3f5d9b7e1a2c3d4e5f";
    let (node, now) = (Node::new("static"), Instant::now());
    let path = node.add(HASH);
    let asked = snapshot("{scopes: [{pods: {labels: {app: etcd}}}]}");
    let mut selection = node.selection();
    selection.look(now, &asked);
    let mirror = ListedPod { uids: vec![WEB.to_owned(), HASH.to_owned()], ..pod(WEB, "kube-system", "etcd") };
    selection.handle_answer(now, INTERVAL, Ok(vec![mirror]));
    assert_eq!(paths(&selection, &asked), [path]);
}

#[test]
fn a_namespace_is_known_by_all_that_mean_its_pod_if_a_scope_does() {
    let (node, now) = (Node::new("known"), Instant::now());
    let (web, db) = (node.add(WEB), node.add(DB));
    node.log("shop", WEB);
    node.log("bank", DB);
    let asked = snapshot(
        "{scopes: [{pods: {namespaces: [shop]}}, {cgroup: /app.slice}], \
         inbound: [{name: in, ports: [80], scopes: [{pods: {namespaces: [shop], labels: {app: web}}}]}]}",
    );
    let mut selection = node.selection();
    selection.look(now, &asked);
    assert!(selection.poll_due(now), "for inbound");
    selection.handle_answer(now, INTERVAL, Ok(vec![pod(WEB, "shop", "web"), pod(DB, "bank", "web")]));
    let known = selection.known_as(&web, &asked).unwrap();
    assert_eq!((known.len(), &known[0]), (3, &Scope::Cgroup(web.clone())));
    assert!(asked.inbound[0].is_for(&known));
    assert_eq!(selection.known_as(&db, &asked), None);
    assert!(selection.known_as("/app.slice/x", &asked).is_some());
    assert!(selection.known_as("/", &asked).is_some(), "what holds a scope may be a pod's");
    assert_eq!(choices(&selection.status().chosen, &format!("{web}/app.scope")).len(), 2);
}
