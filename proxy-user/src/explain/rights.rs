//! What this process may do.

/// Capabilities that Weir needs, by their bit (include/uapi/linux/capability.h).
const NEEDED: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
/// Holds the last two of those as well (capabilities(7)).
const CAP_SYS_ADMIN: u32 = 21;
const CAP_NET_ADMIN: u32 = 12;

/// Names what this process would need to run Weir, in one sentence; none if it may.
#[must_use]
pub fn missing_rights() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing(effective(&status).unwrap_or_default());
    (!missing.is_empty()).then(|| {
        let missing = missing.join(", ");
        format!(
            "root, or the capabilities CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, is needed; missing: {missing}"
        )
    })
}

/// Effective capabilities as bits. Format: proc_pid_status(5).
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing(effective: u64) -> Vec<&'static str> {
    let has = |bit: u32| effective & (1 << bit) != 0;
    let is_held = |bit: u32| has(bit) || (bit != CAP_NET_ADMIN && has(CAP_SYS_ADMIN));
    NEEDED.iter().filter(|(bit, _)| !is_held(*bit)).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_everything_and_nobody_nothing() {
        assert_eq!(effective("Name:\tweir\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(missing(0x1ff_ffff_ffff), [""; 0]);
        assert_eq!(missing(0), ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
    }

    #[test]
    fn sys_admin_stands_for_bpf_and_perfmon_only() {
        assert_eq!(missing(1 << CAP_SYS_ADMIN), ["CAP_NET_ADMIN"]);
        assert_eq!(missing(1 << CAP_SYS_ADMIN | 1 << CAP_NET_ADMIN), [""; 0]);
        assert_eq!(missing(1 << 39 | 1 << 38 | 1 << 12), [""; 0]);
    }
}
