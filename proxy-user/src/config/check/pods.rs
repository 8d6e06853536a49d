//! Pods as scopes: the kubelet is asked as it can be asked.

use std::time::Duration;

use super::super::error::Finding;
use super::Check;

/// A kubelet makes a few megabytes of text for each answer.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);

impl Check<'_, '_> {
    pub(super) fn kubelet(&mut self) {
        let kubelet = &self.file.intercept.kubelet;
        if let Some(at) = kubelet.interval.as_ref().filter(|at| at.value.0 < LEAST_INTERVAL) {
            let problem = format!("the kubelet would be asked every {}", at.value);
            self.report(at.origin, Finding::new(problem).expected("1s or more"));
        }
        if kubelet.read_only != Some(true) {
            return;
        }
        let of_tls = [
            kubelet.ca.as_ref().map(|at| at.origin),
            kubelet.sni.as_ref().map(|at| at.origin),
            kubelet.token.as_ref().map(|at| at.origin),
        ];
        for origin in of_tls.into_iter().flatten() {
            let problem = "the read-only port knows neither TLS nor tokens";
            self.report(origin, Finding::new(problem).expected("read_only: false, or nothing here"));
        }
    }
}
