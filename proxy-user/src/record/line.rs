//! Lines of the access log, as text or JSON. Both have the same fields in the same order.

use std::fmt::Display;
use std::io::Write as _;
use std::time::SystemTime;

use super::access::AccessRecord;
use super::cgroup::Application;
use crate::config::LogFormat;

/// What stands for everything that is not known, as in metrics.
const UNKNOWN: &str = "unknown";
/// Connections that leave an application; Weir sees no others yet.
const DIRECTION: &str = "outbound";

/// Appends one line with its end.
pub fn append(
    bytes: &mut Vec<u8>,
    format: LogFormat,
    time: SystemTime,
    record: &AccessRecord,
    application: Option<&Application>,
) {
    let mut line = Line { bytes, format, is_first: true };
    line.begin();
    line.word("time", &rfc3339(time));
    line.word("src.addr", &record.client);
    let pod = application.and_then(|application| application.pod.as_deref());
    line.text("src.namespace", pod.map_or(UNKNOWN, |pod| &pod.namespace));
    line.text("src.workload", pod.map_or(UNKNOWN, |pod| &pod.name));
    line.text("src.cgroup", application.map_or(UNKNOWN, |application| &application.cgroup));
    match record.endpoint {
        Some(endpoint) => line.word("dst.addr", &endpoint),
        None => line.word("dst.addr", &UNKNOWN),
    }
    line.word("dst.original", &record.original_dst);
    line.text("dst.service", record.service.as_deref().unwrap_or(UNKNOWN));
    line.word("direction", &DIRECTION);
    line.word("lane", &record.lane);
    line.number("bytes_sent", &record.sent_bytes);
    line.number("bytes_recv", &record.received_bytes);
    line.number("duration", &format_args!("{:.6}", record.duration.as_secs_f64()));
    line.word("reason", &record.reason);
    line.end();
}

struct Line<'a> {
    bytes: &'a mut Vec<u8>,
    format: LogFormat,
    is_first: bool,
}

impl Line<'_> {
    fn begin(&mut self) {
        if self.format == LogFormat::Json {
            self.put(&'{');
        }
    }

    fn end(&mut self) {
        self.put(match self.format {
            LogFormat::Json => &"}\n",
            LogFormat::Text => &'\n',
        });
    }

    fn number(&mut self, key: &str, value: &dyn Display) {
        self.key(key);
        self.put(value);
    }

    /// A value without blanks, quotes or anything else that would need an escape.
    fn word(&mut self, key: &str, value: &dyn Display) {
        self.key(key);
        match self.format {
            LogFormat::Json => self.put(&format_args!("\"{value}\"")),
            LogFormat::Text => self.put(value),
        }
    }

    /// Any value.
    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        let is_plain = |c: char| c.is_alphanumeric() || "/-_.:@+".contains(c);
        if self.format == LogFormat::Text && !value.is_empty() && value.chars().all(is_plain) {
            self.put(&value);
        } else {
            // A text as JSON writes it never breaks the line.
            serde_json::to_writer(&mut *self.bytes, value).expect("a text can be written to memory");
        }
    }

    fn key(&mut self, key: &str) {
        let comma = if self.is_first { "" } else { "," };
        let blank = if self.is_first { "" } else { " " };
        self.is_first = false;
        match self.format {
            LogFormat::Json => self.put(&format_args!("{comma}\"{key}\":")),
            LogFormat::Text => self.put(&format_args!("{blank}{key}=")),
        }
    }

    fn put(&mut self, value: &dyn Display) {
        write!(self.bytes, "{value}").expect("memory takes every byte");
    }
}

/// Prints a time in UTC with milliseconds (RFC 3339).
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// Date of a day counted from 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms", civil_from_days).
fn civil(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01: leap days come last in their year.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proxy_core::addr::{ClientAddr, EndpointAddr, OriginalDst};

    use super::super::pod::PodName;
    use super::*;

    #[test]
    fn text_has_one_word_per_field() {
        let line = written(LogFormat::Text, &record(), Some("/app.slice"));
        assert_eq!(
            line,
            "time=2024-02-29T12:34:56.789Z src.addr=10.0.0.1:4000 src.namespace=unknown src.workload=unknown \
             src.cgroup=/app.slice dst.addr=[fd00::5]:8080 dst.original=10.96.0.10:80 dst.service=shop/web direction=outbound lane=proxy bytes_sent=1 bytes_recv=2 \
             duration=0.001500 reason=fin\n"
        );
    }

    #[test]
    fn json_is_an_object_with_numbers_as_numbers() {
        let line = written(LogFormat::Json, &record(), None);
        assert!(line.ends_with("}\n"), "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["src.cgroup"], "unknown");
        assert_eq!((value["bytes_recv"].as_u64(), value["duration"].as_f64()), (Some(2), Some(0.0015)));
        assert_eq!(value.as_object().unwrap().len(), 14);
    }

    #[test]
    fn pods_are_named() {
        let pod = PodName { namespace: "shop".to_owned(), name: "web-7d9f".to_owned() };
        let application = Application { cgroup: "/kubepods/x".into(), pod: Some(pod.into()) };
        let mut bytes = Vec::new();
        append(&mut bytes, LogFormat::Text, SystemTime::UNIX_EPOCH, &record(), Some(&application));
        let line = String::from_utf8(bytes).unwrap();
        assert!(line.contains(" src.namespace=shop src.workload=web-7d9f src.cgroup=/kubepods/x "), "{line}");
    }

    #[test]
    fn no_name_breaks_its_line() {
        let mut record = record();
        (record.service, record.endpoint) = (None, None);
        let text = written(LogFormat::Text, &record, Some("/a b\n\"=c"));
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.contains(r#"src.cgroup="/a b\n\"=c" dst.addr=unknown "#), "{text}");
        let json = written(LogFormat::Json, &record, Some("/a b\n\"=c"));
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["src.cgroup"], "/a b\n\"=c");
    }

    #[test]
    fn days_become_dates() {
        let of = |seconds: u64| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(of(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(of(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(of(4_107_542_399), "2100-02-28T23:59:59.000Z");
        assert_eq!(of(4_107_542_400), "2100-03-01T00:00:00.000Z");
        assert_eq!(of(1_735_689_599), "2024-12-31T23:59:59.000Z");
    }

    fn written(format: LogFormat, record: &AccessRecord, cgroup: Option<&str>) -> String {
        let application = cgroup.map(|cgroup| Application { cgroup: cgroup.into(), pod: None });
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_709_210_096_789);
        let mut bytes = Vec::new();
        append(&mut bytes, format, time, record, application.as_ref());
        String::from_utf8(bytes).unwrap()
    }

    fn record() -> AccessRecord {
        AccessRecord {
            client: ClientAddr("10.0.0.1:4000".parse().unwrap()),
            original_dst: OriginalDst("10.96.0.10:80".parse().unwrap()),
            endpoint: Some(EndpointAddr("[fd00::5]:8080".parse().unwrap())),
            service: Some("shop/web".into()),
            lane: "proxy",
            cgroup_id: 1,
            sent_bytes: 1,
            received_bytes: 2,
            duration: Duration::from_micros(1500),
            reason: "fin",
        }
    }
}
