//! What a look at certificates finds.

use std::time::{SystemTime, UNIX_EPOCH};

use proxy_core::id::{Registry, Version};

use super::finding::Finding;
use crate::config::Config;
use crate::tls::{CertificateStatus, TlsProblem, TlsStore};

/// Time before its end in which a certificate is worth a warning: long enough for whoever renews it to come back from a
/// holiday, shorter than the time that automatic renewal leaves.
const SOON_DAYS: i64 = 14;
const DAY_SECONDS: i64 = 24 * 3600;

/// Reads every certificate and key that a configuration names.
///
/// # Errors
/// Everything that is wrong with the files.
pub fn read_certificates(config: &Config) -> Result<TlsStore, Vec<TlsProblem>> {
    TlsStore::build(None, &config.snapshot(&mut Registry::default(), Version(0), None))
}

#[expect(clippy::disallowed_methods, reason = "certificates end at a date")]
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match read_certificates(config) {
        Ok(store) => store.certificates().into_iter().map(|one| validity(one, now.cast_signed())).collect(),
        Err(problems) => problems.iter().map(unusable).collect(),
    }
}

fn unusable(problem: &TlsProblem) -> Finding {
    let what = format!("TLS file {}", problem.file.display());
    Finding::problem(
        what,
        problem.what.clone(),
        "put a good one in its place; `weir run` refuses to start with it",
    )
}

fn validity(certificate: &CertificateStatus, now: i64) -> Finding {
    let what = format!("certificate {}", certificate.file.display());
    let names = certificate.names.join(", ");
    let left = certificate.not_after - now;
    let days = left.abs() / DAY_SECONDS;
    let advice = "replace the file: it is taken up within seconds, without a restart";
    if left < 0 {
        Finding::problem(what, format!("expired {days} days ago ({names})"), advice)
    } else if days < SOON_DAYS {
        Finding::warning(what, format!("expires in {days} days ({names})"), advice)
    } else {
        Finding::ok(what, format!("good for {days} days ({names})"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn an_end_that_is_near_is_a_warning_and_one_that_is_over_a_problem() {
        let certificate = |days: i64| CertificateStatus {
            file: "/etc/weir/web.pem".into(),
            not_after: 1_000_000_000 + days * DAY_SECONDS,
            names: vec!["web.shop".to_owned(), "api.shop".to_owned()],
        };
        let found = |days| {
            let finding = validity(&certificate(days), 1_000_000_000);
            assert_eq!(finding.what, "certificate /etc/weir/web.pem");
            (finding.level, finding.found)
        };
        assert_eq!(found(90), (Level::Ok, "good for 90 days (web.shop, api.shop)".to_owned()));
        assert_eq!(found(14).0, Level::Ok);
        assert_eq!(found(13), (Level::Warning, "expires in 13 days (web.shop, api.shop)".to_owned()));
        assert_eq!(found(-3), (Level::Problem, "expired 3 days ago (web.shop, api.shop)".to_owned()));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_a_problem_with_its_name() {
        let problem = TlsProblem { file: "/etc/weir/web.key".into(), what: "the file is empty".to_owned() };
        let finding = unusable(&problem);
        assert_eq!(finding.level, Level::Problem);
        assert_eq!((&*finding.what, &*finding.found), ("TLS file /etc/weir/web.key", "the file is empty"));
    }
}
