//! The files for clusters: their configuration is right, and manifests and chart say the same.

use serde_json::{Value, json};

use super::*;

const WEIR: &str = include_str!("../../../deploy/kubernetes/weir.yaml");
const CONFIG: &str = include_str!("../../../deploy/kubernetes/config.yaml");
const KUBELET: &str = include_str!("../../../deploy/kubernetes/kubelet.yaml");
const DETACH: &str = include_str!("../../../deploy/kubernetes/detach.yaml");
const CHART: &str = include_str!("../../../deploy/chart/Chart.yaml");
const VALUES: &str = include_str!("../../../deploy/chart/values.yaml");
const TEMPLATES: [(&str, &str); 2] = [
    ("ServiceAccount", include_str!("../../../deploy/chart/templates/serviceaccount.yaml")),
    ("DaemonSet", include_str!("../../../deploy/chart/templates/daemonset.yaml")),
];
const KUBELET_TEMPLATE: &str = include_str!("../../../deploy/chart/templates/kubelet.yaml");
const DOCKERFILE: &str = include_str!("../../../deploy/Dockerfile");

#[test]
fn the_config_of_manifests_and_chart_is_right_and_the_same() {
    let text = config_text();
    assert_eq!(yaml_of(VALUES)["config"], text.as_str());
    let config = good(&text);
    assert_eq!(config.intercept.scopes, [Scope::Cgroup("/kubepods.slice".to_owned())].into());
    assert_eq!(config.metrics.map(|address| address.port()), Some(15020));
}

#[test]
fn the_commented_services_are_right_too() {
    let text = config_text();
    let (before, rest) = text.split_once("services: []\n").expect("no services");
    let (_, rest) = rest.split_once('\n').expect("a line that introduces the example");
    let example: String =
        rest.lines().map_while(|line| line.strip_prefix("# ")).map(|l| l.to_owned() + "\n").collect();
    let after = rest.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    let config = good(&format!("{before}{example}{after}"));
    assert_eq!(config.services.len(), 1);
    assert!(config.services[0].health.is_some() && config.metrics.is_some());
}

#[test]
fn a_pod_has_what_weir_needs_of_its_node() {
    let daemon_set = object(WEIR, "DaemonSet");
    let pod = &daemon_set["spec"]["template"]["spec"];
    assert_eq!((&pod["hostNetwork"], &pod["hostPID"]), (&json!(true), &json!(true)));
    assert_eq!(
        (&pod["automountServiceAccountToken"], &pod["tolerations"]),
        (&json!(false), &json!([{"operator": "Exists"}]))
    );
    let update = &daemon_set["spec"]["updateStrategy"]["rollingUpdate"];
    assert_eq!(
        update,
        &json!({"maxSurge": 1, "maxUnavailable": 0}),
        "the new pod takes over from the old one"
    );
    let container = &pod["containers"][0];
    let arguments = json!(["run", "--takeover", "--stay", "-c", "/etc/weir/weir.yaml"]);
    assert_eq!(container["args"], arguments, "a second process is refused without --takeover");
    // The old process answers the new one's probe, too.
    assert!(container["readinessProbe"]["initialDelaySeconds"].as_u64() >= Some(5));
    assert!(daemon_set["spec"]["minReadySeconds"].as_u64() >= Some(10));
    assert_eq!(
        (&container["securityContext"]["privileged"], &container["ports"]),
        (&json!(true), &Value::Null)
    );
    for (probe, path) in [("readinessProbe", "/healthz/ready"), ("livenessProbe", "/healthz/live")] {
        let asked = json!({"host": "127.0.0.1", "port": 15000, "path": path});
        assert_eq!(container[probe]["httpGet"], asked, "{probe}");
    }
    for (path, is_read_only, propagation) in [
        ("/run/weir", None, None),
        ("/sys/fs/bpf", None, Some("Bidirectional")),
        ("/sys/fs/cgroup", Some(true), Some("HostToContainer")),
        ("/var/log/pods", Some(true), None),
    ] {
        let mount = mount(container, path);
        assert_eq!(mount["readOnly"].as_bool(), is_read_only, "{path}");
        assert_eq!(mount["mountPropagation"].as_str(), propagation, "{path}");
        assert_eq!(host_path(pod, mount), path);
    }
    let config = mount(container, "/etc/weir");
    assert_eq!(config["subPath"], Value::Null, "a change would never arrive");
    let grace = pod["terminationGracePeriodSeconds"].as_u64().expect("a number");
    assert!(grace > good(&config_text()).drain_timeout.as_secs() + 5);
}

#[test]
fn detaching_reaches_the_state_of_the_node() {
    let daemon_set = object(DETACH, "DaemonSet");
    let pod = &daemon_set["spec"]["template"]["spec"];
    let container = &pod["initContainers"][0];
    assert_eq!(container["args"], json!(["detach"]));
    for path in ["/run/weir", "/sys/fs/bpf"] {
        assert_eq!(host_path(pod, mount(container, path)), path);
    }
    assert_eq!(
        container["image"],
        object(WEIR, "DaemonSet")["spec"]["template"]["spec"]["containers"][0]["image"]
    );
}

/// Templates are plain enough for that: what they do not take from values stands in the manifests too, in the same order
/// (as a comment where it is the other choice), and what the manifests say besides are the values.
#[test]
fn the_chart_says_what_the_manifests_say() {
    for (kind, template) in TEMPLATES {
        let manifest = document(WEIR, kind);
        let mut lines = manifest.lines().map(bare);
        for line in template.lines().filter(|line| !line.contains("{{")).map(bare) {
            assert!(
                lines.any(|other| other == line),
                "{kind}: the manifest has no line `{line}`, or elsewhere"
            );
        }
        let values: Vec<&str> = VALUES.lines().map(bare).collect();
        for line in manifest.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            let key = line.split_once(": ").map_or(line, |(key, _)| key);
            let is_said = |other: &str| {
                other.trim() == line
                    || other.trim().strip_prefix(key).is_some_and(|rest| rest.starts_with(": {{"))
            };
            assert!(
                template.lines().any(is_said) || values.contains(&line),
                "{kind}: the chart lacks `{line}`"
            );
        }
    }
}

#[test]
fn the_account_may_ask_kubelets_and_nothing_else() {
    let (role, binding) = (object(KUBELET, "ClusterRole"), object(KUBELET, "ClusterRoleBinding"));
    let rights = json!(["nodes/pods", "nodes/proxy"]);
    assert_eq!(role["rules"], json!([{"apiGroups": [""], "resources": rights, "verbs": ["get"]}]));
    assert_eq!(
        (&binding["roleRef"]["name"], &binding["roleRef"]["kind"]),
        (&role["metadata"]["name"], &json!("ClusterRole"))
    );
    let account = &object(WEIR, "ServiceAccount")["metadata"];
    let subject =
        json!({"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]});
    assert_eq!(binding["subjects"], json!([subject]));
    let values = yaml_of(VALUES);
    assert_eq!(
        (&values["kubeletRights"], &values["podLabels"]),
        (&rights, &json!(false)),
        "nothing unless asked for"
    );
    let mut lines = KUBELET.lines();
    for line in KUBELET_TEMPLATE.lines().filter(|line| !line.contains("{{") && !line.starts_with('#')) {
        assert!(lines.any(|other| other == line), "the manifest has no line `{line}`, or elsewhere");
    }
}

#[test]
fn versions_are_those_of_the_workspace() {
    let version = env!("CARGO_PKG_VERSION");
    let image = &object(WEIR, "DaemonSet")["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(image, &format!("weir:{version}"));
    let chart = yaml_of(CHART);
    assert_eq!((&chart["version"], &chart["appVersion"]), (&json!(version), &json!(version)));
    let rust = format!("FROM rust:{}-", env!("CARGO_PKG_RUST_VERSION"));
    assert!(DOCKERFILE.lines().any(|line| line.starts_with(&rust)), "no {rust}");
}

fn config_text() -> String {
    yaml_of(CONFIG)["data"]["weir.yaml"].as_str().expect("text").to_owned()
}

/// The document of a file that is of a kind.
fn document<'a>(file: &'a str, kind: &str) -> &'a str {
    let line = format!("kind: {kind}");
    file.split("\n---\n").find(|text| text.lines().any(|l| l == line)).unwrap_or_else(|| panic!("no {kind}"))
}

fn object(file: &str, kind: &str) -> Value {
    yaml_of(document(file, kind))
}

fn mount<'a>(container: &'a Value, path: &str) -> &'a Value {
    let mounts = container["volumeMounts"].as_array().expect("mounts");
    mounts.iter().find(|mount| mount["mountPath"] == path).unwrap_or_else(|| panic!("{path} is not mounted"))
}

/// The path on the node of what a container mounts.
fn host_path<'a>(pod: &'a Value, mount: &Value) -> &'a str {
    let volumes = pod["volumes"].as_array().expect("volumes");
    let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).expect("a volume");
    volume["hostPath"]["path"].as_str().expect("a path on the node")
}

/// A line without its place, and without being a comment.
fn bare(line: &str) -> &str {
    let line = line.trim();
    line.strip_prefix("# ").map_or(line, str::trim_start)
}

fn yaml_of(text: &str) -> Value {
    let mut mistakes = Mistakes::default();
    let (_, root) = yaml::read(text, &mut mistakes);
    assert!(mistakes.is_empty(), "{}", mistakes.into_errors("a file for clusters", text));
    json_of(&root.expect("a document").value)
}

fn json_of(value: &yaml::Value<'_>) -> Value {
    match value {
        yaml::Value::Null => Value::Null,
        yaml::Value::Bool(value) => json!(value),
        yaml::Value::Integer(value) => json!(value),
        yaml::Value::Float(text) | yaml::Value::Text(text) => json!(text),
        yaml::Value::List(items) => items.iter().map(|item| json_of(&item.value)).collect(),
        yaml::Value::Map(entries) => Value::Object(
            entries.iter().map(|entry| (entry.key.to_string(), json_of(&entry.node.value))).collect(),
        ),
    }
}
