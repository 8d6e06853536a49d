//! Pods as scopes, and the kubelet: what is right, and what is said about what is not.

use super::messages::bad;
use super::*;

#[test]
fn pods_are_chosen_by_namespace_and_label() {
    let config = good(
        "services: []\n\
         intercept:\n\
         \x20 scopes:\n\
         \x20 - pods: {namespaces: [shop, bank], labels: {app: web, app.kubernetes.io/part-of: \"\"}}\n\
         \x20 inbound:\n\
         \x20 - {name: a, ports: [80], scopes: [{pods: {namespaces: [shop], labels: {app: web, app.kubernetes.io/part-of: ''}}}]}\n",
    );
    let scope = config.intercept.scopes.iter().next().unwrap();
    assert_eq!(scope.to_string(), "pods in bank or shop with app=web, app.kubernetes.io/part-of=");
    assert!(config.needs_kubelet());
    assert_eq!(config.kubelet.address, "127.0.0.1:10250".parse().unwrap());
    assert!(
        !good("services: []\nintercept: {scopes: [{pods: {namespaces: [shop]}}, {pods: {}}]}")
            .needs_kubelet()
    );
    // Where the cgroups of pods are cannot be told from a file.
    let config = good(
        "services: []\nintercept: {scopes: [{cgroup: /a}], inbound: [{name: a, ports: [80], scopes: [{pods: {}}]}]}",
    );
    assert_eq!(config.pod_selectors().count(), 1);
}

#[test]
fn the_kubelet_is_where_and_how_the_file_says() {
    let of = |text: &str| {
        let name = "/etc/weir/weir.yaml";
        parse_laid_out(name, Path::new("/etc/weir"), &format!("services: []\nintercept: {{kubelet: {text}}}"))
            .unwrap()
            .0
            .kubelet
    };
    let read_only = of("{read_only: true, interval: 30s}");
    assert_eq!(read_only.address, "127.0.0.1:10255".parse().unwrap());
    assert_eq!((read_only.access, read_only.interval), (KubeletAccess::ReadOnly, Duration::from_secs(30)));
    let own = of("{address: \"10.0.0.11:10250\", ca: kubelet.crt, sni: Node-1, token: /t}");
    let (ca, sni, token) = ("/etc/weir/kubelet.crt".into(), Some("node-1".to_owned()), "/t".into());
    assert_eq!(own.access, KubeletAccess::Authenticated { ca, sni, token });
    assert_eq!(own.address, "10.0.0.11:10250".parse().unwrap());
}

#[test]
fn mistakes_about_pods_are_all_named() {
    bad(
        "services: []\n\
         intercept:\n\
         \x20 scopes:\n\
         \x20 - pods: {namespaces: [Shop], labels: {'-a': x, b: 'y z', c: 1}, name: x}\n\
         \x20 - {pods: {labels: {app: web}, namespaces: [a, b]}}\n\
         \x20 - {pods: {namespaces: [b, a], labels: {app: web}}}\n\
         \x20 - {netns: /run/netns/a}\n\
         \x20 kubelet: {read_only: true, ca: /x, interval: 500ms}\n",
        &[
            "w:4:25: intercept.scopes[0].pods.namespaces[0]: wrong value: found 'Shop', expected the name of a Kubernetes \
             namespace: at most 63 lower-case letters, digits and '-'",
            "w:4:41: intercept.scopes[0].pods.labels.-a: wrong key, expected the name of a label such as app or \
             app.kubernetes.io/name",
            "w:4:53: intercept.scopes[0].pods.labels.b: wrong value: found 'y z', expected the value of a label: at most 63 \
             letters, digits and '-', '_', '.', or an empty text in quotes",
            "w:4:63: intercept.scopes[0].pods.labels.c: wrong type: found the number 1, expected the value of a label: at most \
             63 letters, digits and '-', '_', '.', or an empty text in quotes; write it in quotes: \"1\"",
            "w:4:67: intercept.scopes[0].pods.name: unknown key, expected labels or namespaces",
            "w:6:5: intercept.scopes[2]: pods in a or b with app=web is already a scope in line 5",
            "w:8:34: intercept.kubelet.ca: the read-only port knows neither TLS nor tokens, expected read_only: false, or \
             nothing here",
            "w:8:48: intercept.kubelet.interval: the kubelet would be asked every 500ms, expected 1s or more",
        ],
    );
    bad(
        "services: []\n\
         intercept:\n\
         \x20 scopes: [{pods: {namespaces: [a, b], labels: {app: web}}}, {netns: /run/netns/a}]\n\
         \x20 inbound:\n\
         \x20 - {name: a, ports: [80], scopes: [{pods: {namespaces: [b], labels: {app: web, tier: front}}}]}\n\
         \x20 - {name: b, ports: [81], scopes: [{pods: {namespaces: [b]}}]}\n\
         \x20 - {name: c, ports: [80], scopes: [{pods: {labels: {app: web}, namespaces: [b]}}]}\n",
        &[
            "w:6:37: intercept.inbound[1].scopes[0]: in none of intercept.scopes, so its applications are not served",
            "w:7:23: intercept.inbound[2].ports[0]: port 80 is already taken in line 5, expected other scopes, or other ports",
        ],
    );
}
