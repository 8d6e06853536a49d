//! A kernel that is too old: Weir has to refuse it and to name what it lacks.

use std::collections::BTreeMap;

use crate::test::tally::{Failure, Tally};

/// Runs both commands, and says what they said, how they ended, and whether anything stayed.
pub(super) const SCRIPT: &str = r#"
echo '{"intercept": {"scopes": [{"cgroup": "/"}]}, "services": [{"name": "web", "addresses": ["10.96.0.1:80"],
    "endpoints": [{"address": "127.0.0.1:81"}]}]}' >/run/old.json
timeout 120 "$WEIR_BIN" run -c /run/old.json >/run/said 2>&1 || echo "ended with $?." >>/run/said
ls -d /sys/fs/bpf/weir 2>/dev/null >>/run/said
sed 's/^/vm: run: /' /run/said
timeout 120 "$WEIR_BIN" doctor >/run/said 2>&1 || echo "ended with $?." >>/run/said
sed 's/^/vm: doctor: /' /run/said
"#;

/// What has to be among what a command says, and the test that this is. The helper is the one that keeps kernels before the
/// oldest promised one out (README, Limits).
const TESTS: [(&str, &str, &[&str]); 2] = [
    (
        "run",
        "old::run_refuses_a_kernel_and_names_what_it_lacks",
        &["this kernel lacks:", "helper bpf_set_retval in connect (Linux 5.18)", "ended with 1."],
    ),
    (
        "doctor",
        "old::doctor_names_what_a_kernel_lacks",
        &["problem  helper bpf_set_retval in connect", "Linux 5.18 or later has it", "ended with 1."],
    ),
];
/// What `run` must not leave.
const PINS: &str = "/sys/fs/bpf/weir";

/// What both commands said, line by line; nothing on kernels where they were not asked.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    said: BTreeMap<String, Vec<String>>,
}

impl Refusal {
    pub(super) fn handle_line(&mut self, line: &str) {
        let said = line.strip_prefix("vm: ").and_then(|line| line.split_once(": "));
        if let Some((command, said)) = said.filter(|(command, _)| TESTS.iter().any(|test| test.0 == *command))
        {
            self.said.entry(command.to_owned()).or_default().push(said.to_owned());
        }
    }

    /// One test for each command that said something.
    pub(super) fn into_tally(self) -> Tally {
        let mut tally = Tally::default();
        for (command, name, expected) in TESTS {
            let Some(lines) = self.said.get(command) else { continue };
            let is_said = |part: &&&str| lines.iter().any(|line| line.contains(**part));
            let missing: Vec<&str> = expected.iter().filter(|part| !is_said(part)).copied().collect();
            let is_left = lines.iter().any(|line| line == PINS);
            if missing.is_empty() && !is_left {
                tally.passed += 1;
                continue;
            }
            let why =
                if is_left { format!("{PINS} is there") } else { format!("it does not say {missing:?}") };
            tally.failed.push(Failure { name: name.to_owned(), why });
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: &str = "vm: run: Error: this kernel lacks:\n\
        vm: run:   helper bpf_set_retval in connect (Linux 5.18), needed for ECONNREFUSED instead of EPERM\n\
        vm: run: ended with 1.";

    fn read(text: &str) -> Tally {
        let mut refusal = Refusal::default();
        text.lines().for_each(|line| refusal.handle_line(line));
        refusal.into_tally()
    }

    #[test]
    fn a_refusal_that_names_what_is_missing_passes() {
        assert_eq!(read(REFUSED), Tally { passed: 1, ..Tally::default() });
        assert_eq!(read("vm: skipped: a: b\nrun: x\nvm: end"), Tally::default());
    }

    #[test]
    fn a_start_a_refusal_for_another_reason_and_what_stays_are_failures() {
        let why = |text: &str| read(text).failed.pop().map(|failure| failure.why).unwrap_or_default();
        assert!(why("vm: run: ready").contains("this kernel lacks"));
        assert!(why(&REFUSED.replace("ended with 1.", "ended with 124.")).contains("ended with 1."));
        assert!(why(&REFUSED.replace("bpf_set_retval", "bpf_bind")).contains("bpf_set_retval"));
        assert_eq!(why(&format!("{REFUSED}\nvm: run: {PINS}")), "/sys/fs/bpf/weir is there");
    }
}
