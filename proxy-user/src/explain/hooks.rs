//! Living with others: their programs on our hooks, and what they do to connections.

use proxy_bpf::attach::Pins;
use proxy_bpf::cgroup::Hierarchy;
use proxy_bpf::others::{Other, others};

use super::finding::Finding;

const WHAT: &str = "other BPF programs on our hooks";
/// Programs that are named one by one; a machine with more has them from one maker.
const MOST_SHOWN: usize = 16;

/// Looks for programs of others on Weir's hooks, in every cgroup.
pub(super) fn hooks(hierarchy: &Hierarchy, may_ask: bool) -> Vec<Finding> {
    if !may_ask {
        return vec![Finding::warning(WHAT, "cannot be asked without rights", "run this command as root")];
    }
    let pins = Pins::existing();
    let ours = pins.as_ref().map(Pins::programs).unwrap_or_default();
    let mut findings: Vec<Finding> = pins
        .and_then(|pins| pins.refuse_foreign().err())
        .map(|error| Finding::problem("pins", error.to_string(), "`weir run` refuses to start until then"))
        .into_iter()
        .collect();
    let found = others(hierarchy, &ours);
    if found.is_empty() {
        findings.push(Finding::ok(WHAT, "none in any cgroup"));
    }
    findings.extend(found.iter().take(MOST_SHOWN).map(describe));
    if found.len() > MOST_SHOWN {
        let more = format!("and {} more", found.len() - MOST_SHOWN);
        findings.push(Finding::warning(WHAT, more, "bpftool cgroup tree shows them all"));
    }
    findings
}

fn describe(other: &Other) -> Finding {
    let Other { cgroup, id, name, hook } = other;
    let shown = if name.is_empty() { "one without a name" } else { name };
    let (whose, advice) = match Maker::of(name) {
        Maker::Cilium => (
            ", Cilium's socket load balancer",
            "whichever of the two comes first decides about an address that both know: keep Weir's services out of \
             Cilium's, or keep Cilium's out of pods (Helm: socketLB.hostNamespaceOnly=true)",
        ),
        Maker::Calico => (
            ", Calico's connect-time load balancer",
            "whichever of the two comes first decides about an address that both know: turn it off \
             (FelixConfiguration: bpfConnectTimeLoadBalancing: Disabled), or keep Weir's services out of Calico's",
        ),
        Maker::Weir => (
            ", of a Weir whose pins are not here",
            "an older one that is just ending, or one in a container with a bpffs of its own: one is enough",
        ),
        Maker::Unknown if hook.starts_with("connect") => (
            "",
            "both run; if it rewrites the same connections, whichever comes first decides: bpftool prog show id ID",
        ),
        Maker::Unknown => ("", "both run, and Weir leaves what it does alone: bpftool prog show id ID"),
    };
    Finding::warning(WHAT, format!("{shown} (id {id}) on {hook} of cgroup {cgroup}{whose}"), advice)
}

/// Who is known by the names of their programs.
enum Maker {
    Cilium,
    Calico,
    Weir,
    Unknown,
}

impl Maker {
    /// By a name of which the kernel kept 15 bytes.
    fn of(name: &str) -> Self {
        match name {
            // bpf/bpf_sock.c: cil_sock4_connect and so on; before 1.12 without the prefix.
            name if name.starts_with("cil_sock") => Self::Cilium,
            "sock4_connect" | "sock6_connect" => Self::Cilium,
            // felix/bpf-gpl/connect_balancer*.c: calico_connect_v4, _v6, _v46.
            name if name.starts_with("calico_connect") => Self::Calico,
            name if name.starts_with("weir_") => Self::Weir,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_known_is_called_by_name_and_told_apart() {
        let other = |name: &str, hook| Other { cgroup: "/".to_owned(), id: 7, name: name.to_owned(), hook };
        for (name, word) in [
            ("cil_sock4_conne", "Cilium"),
            ("sock6_connect", "Cilium"),
            ("calico_connect_", "Calico"),
            ("weir_connect4", "of a Weir"),
            ("", "without a name"),
        ] {
            let finding = describe(&other(name, "connect4"));
            assert!(finding.found.contains(word) && finding.found.contains("id 7"), "{finding:?}");
        }
        let plain = describe(&other("mine", "connect4"));
        assert!(plain.found == "mine (id 7) on connect4 of cgroup /", "{plain:?}");
        assert_ne!(plain.advice, describe(&other("mine", "sock_ops")).advice);
    }
}
