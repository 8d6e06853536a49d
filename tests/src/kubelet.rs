//! A kubelet, as far as it tells which pods there are, and the cgroups that it makes for them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cgroup::Cgroup;
use crate::net::{Net, Side};
use crate::pki::Pki;
use crate::process::Running;
use crate::python::PYTHON;

const SOURCE: &str = include_str!("python/kubelet.py");
const LIMIT: Duration = Duration::from_secs(20);
/// Ports of the two interfaces, as kubelets have them.
const PORT: u16 = 10250;
const READ_ONLY_PORT: u16 = 10255;
const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.not.a.real.one";

/// A node's kubelet on Weir's loopback; it dies when this is dropped.
pub struct Kubelet<'a> {
    net: &'a Net,
    /// Also where the token and the list of pods are.
    pki: Pki,
    /// Of another one that runs: gone when the kubelet is dead.
    running: Option<Running>,
    is_read_only: bool,
}

impl<'a> Kubelet<'a> {
    /// Makes one with its certificate for this machine's name and starts it; it knows no pods.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(net: &'a Net, is_read_only: bool) -> Self {
        let pki = Pki::new();
        let name = fs::read_to_string("/proc/sys/kernel/hostname").expect("every machine has a name");
        pki.certificate("kubelet", &[&format!("DNS:{}", name.trim().to_lowercase())]);
        fs::write(pki.path("token"), TOKEN).expect("the folder can be written to");
        let mut kubelet = Self { net, pki, running: None, is_read_only };
        kubelet.tell(&[]);
        kubelet.restart();
        kubelet
    }

    /// What a config says of it.
    #[must_use]
    pub fn config(&self) -> Value {
        if self.is_read_only {
            return json!({"read_only": true, "interval": "1s"});
        }
        json!({"ca": self.pki.path("ca.pem"), "token": self.pki.path("token"), "interval": "1s"})
    }

    /// Pods that it knows from now on.
    pub fn tell(&self, pods: &[Value]) {
        self.tell_text(
            &json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}).to_string(),
        );
    }

    /// Whatever it answers from now on.
    pub fn tell_text(&self, text: &str) {
        self.pki.renew("pods.json", text.as_bytes());
    }

    /// Replaces the token that Weir is to show; the kubelet knows the first one only.
    pub fn give_token(&self, token: Option<&str>) {
        self.pki.renew("token", token.unwrap_or(TOKEN).as_bytes());
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Starts it (again).
    ///
    /// # Panics
    /// If it does not listen.
    pub fn restart(&mut self) {
        let port = if self.is_read_only { READ_ONLY_PORT } else { PORT };
        let mut command =
            self.net.command(Side::Near, |nsenter| std::process::Command::new(nsenter), Path::new(PYTHON));
        command.args(["-c", SOURCE, &port.to_string(), &self.pki.path("pods.json")]);
        if !self.is_read_only {
            command.args(["kubelet.pem", "kubelet.key", "token"].map(|name| self.pki.path(name)));
        }
        let running = Running::start(&mut command).expect("python can be started");
        assert_eq!(running.line(LIMIT).as_deref(), Some("listening"), "its error is above");
        self.running = Some(running);
    }
}

/// A pod as the API has it, as far as it matters.
#[must_use]
pub fn pod(namespace: &str, name: &str, uid: &str, labels: Value) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": namespace, "uid": uid, "labels": labels,
            "annotations": {"kubernetes.io/config.source": "api"},
        },
        "spec": {"containers": [{"name": "app", "image": "registry.example/app:1"}]},
        "status": {"phase": "Running"},
    })
}

/// The cgroups that a kubelet and a runtime make for a pod, below another one: of the pod, of its sandbox, of a container.
///
/// # Panics
/// If they cannot be made.
#[must_use]
pub fn pod_cgroups(above: &Cgroup, uid: &str) -> [Cgroup; 3] {
    let pod = above.child(&format!("kubepods-pod{}.slice", uid.replace('-', "_"))).expect("root may");
    let [sandbox, container] = ["cri-containerd-aaaa.scope", "cri-containerd-bbbb.scope"]
        .map(|name| pod.child(name).expect("root may"));
    [pod, sandbox, container]
}
