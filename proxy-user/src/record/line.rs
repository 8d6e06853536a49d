//! Lines of the access log, as text or JSON. Both have the same fields in the same order.
//!
//! A request's line has the fields of its connection's with the same meaning, and more that begin with `http.`, `route` or
//! `tls.`: what reads one kind reads the other.

use std::fmt::Display;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use proxy_core::addr::{ClientAddr, EndpointAddr, OriginalDst};

use super::access::{AccessRecord, Record};
use super::cgroup::Application;
use super::request::{RequestRecord, Text};
use crate::config::LogFormat;

/// What stands for everything that is not known, as in metrics.
const UNKNOWN: &str = "unknown";
/// Lane of connections that come to an application; all others leave one, or come to a listener.
const INBOUND: &str = "inbound";
const OUTBOUND: &str = "outbound";

/// Appends one line with its end.
pub fn append(
    bytes: &mut Vec<u8>,
    format: LogFormat,
    time: SystemTime,
    record: &Record,
    application: Option<&Application>,
) {
    let mut line = Line { bytes, format, is_first: true };
    line.begin();
    match record {
        Record::Connection(record) => connection(&mut line, time, record, application),
        Record::Request(record) => request(&mut line, time, record, application),
    }
    line.end();
}

fn connection(
    line: &mut Line<'_>,
    time: SystemTime,
    record: &AccessRecord,
    application: Option<&Application>,
) {
    line.word("time", &rfc3339(time));
    let is_inbound = record.lane == INBOUND;
    line.source(record.client, application.filter(|_| !is_inbound));
    line.destination(record.endpoint, record.original_dst, record.service.as_deref());
    if is_inbound {
        line.workload(["dst.namespace", "dst.workload", "dst.cgroup"], application);
    }
    line.word("direction", &if is_inbound { INBOUND } else { OUTBOUND });
    line.word("lane", &record.lane);
    line.number("bytes_sent", &record.sent_bytes);
    line.number("bytes_recv", &record.received_bytes);
    line.seconds("duration", record.duration);
    line.word("reason", &record.reason);
}

fn request(line: &mut Line<'_>, time: SystemTime, record: &RequestRecord, application: Option<&Application>) {
    line.word("time", &rfc3339(time));
    line.source(record.client, application);
    line.destination(record.endpoint, record.original_dst, record.service.as_deref());
    line.word("direction", &OUTBOUND);
    // Whoever reads the bytes is a worker.
    line.word("lane", &"proxy");
    if let Some((route, rule)) = &record.rule {
        line.text("route", route);
        line.number("route.rule", rule);
    }
    line.text("http.version", record.version);
    line.optional("http.method", record.method.as_ref());
    line.optional("http.host", record.host.as_ref());
    line.optional("http.path", record.path.as_ref());
    if let Some(status) = record.status {
        line.number("http.status", &status);
    }
    if let Some(status) = record.grpc {
        line.word("grpc.status", &status.as_str());
    }
    line.optional("http.request_id", record.request_id.as_ref());
    line.optional("http.trace_id", record.trace_id.as_ref());
    line.optional("http.user_agent", record.user_agent.as_ref());
    if let Some(tls) = &record.tls {
        line.word("tls.version", &tls.version);
        line.optional("tls.sni", tls.sni.as_ref());
    }
    line.number("tries", &record.tries);
    line.number("bytes_sent", &record.sent_bytes);
    line.number("bytes_recv", &record.received_bytes);
    if let Some(first_byte) = record.first_byte {
        line.seconds("first_byte", first_byte);
    }
    line.seconds("duration", record.duration);
    line.word("reason", &record.reason.as_str());
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

    fn source(&mut self, client: ClientAddr, application: Option<&Application>) {
        self.word("src.addr", &client);
        self.workload(["src.namespace", "src.workload", "src.cgroup"], application);
    }

    fn workload(&mut self, [namespace, name, cgroup]: [&str; 3], application: Option<&Application>) {
        let pod = application.and_then(|application| application.pod.as_deref());
        self.text(namespace, pod.map_or(UNKNOWN, |pod| &pod.namespace));
        self.text(name, pod.map_or(UNKNOWN, |pod| &pod.name));
        self.text(cgroup, application.map_or(UNKNOWN, |application| &application.cgroup));
    }

    fn destination(&mut self, endpoint: Option<EndpointAddr>, asked: OriginalDst, service: Option<&str>) {
        match endpoint {
            Some(endpoint) => self.word("dst.addr", &endpoint),
            None => self.word("dst.addr", &UNKNOWN),
        }
        self.word("dst.original", &asked);
        self.text("dst.service", service.unwrap_or(UNKNOWN));
    }

    fn seconds(&mut self, key: &str, time: Duration) {
        self.number(key, &format_args!("{:.6}", time.as_secs_f64()));
    }

    /// A text that a peer may leave out; then there is no field.
    fn optional(&mut self, key: &str, value: Option<&Text>) {
        if let Some(value) = value {
            self.text(key, value.as_str());
        }
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
            self.quoted(value);
        }
    }

    /// A text as JSON writes it (RFC 8259, 7), with more escapes than that asks for: what comes from a peer must neither
    /// break its line nor move anything in the terminal of who reads it.
    fn quoted(&mut self, value: &str) {
        self.bytes.push(b'"');
        let mut plain_from = 0;
        for (at, c) in value.char_indices() {
            if !matches!(c, '"' | '\\') && !is_deceptive(c) {
                continue;
            }
            self.bytes.extend_from_slice(&value.as_bytes()[plain_from..at]);
            plain_from = at + c.len_utf8();
            match c {
                '"' | '\\' => self.put(&format_args!("\\{c}")),
                '\n' => self.put(&"\\n"),
                '\t' => self.put(&"\\t"),
                // All of them are in the plane that four digits can name.
                _ => self.put(&format_args!("\\u{:04x}", u32::from(c))),
            }
        }
        self.bytes.extend_from_slice(&value.as_bytes()[plain_from..]);
        self.bytes.push(b'"');
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

/// Tells whether a character does something instead of being seen: controls (C0, DEL, C1), line and paragraph ends, and those
/// that turn the direction of a text or are invisible (Unicode Standard Annex 9).
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
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

    use proptest::prelude::*;
    use proxy_core::outcome::RequestReason;

    use super::super::pod::PodName;
    use super::super::request::TlsFacts;
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
        append(&mut bytes, LogFormat::Text, SystemTime::UNIX_EPOCH, &record().into(), Some(&application));
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
    fn a_request_has_the_fields_of_its_connection_and_its_own() {
        assert_eq!(
            written(LogFormat::Text, &request(), Some("/app.slice")),
            "time=2024-02-29T12:34:56.789Z src.addr=10.0.0.1:4000 src.namespace=unknown src.workload=unknown \
             src.cgroup=/app.slice dst.addr=[fd00::5]:8080 dst.original=10.96.0.10:80 dst.service=shop/web direction=outbound \
             lane=proxy route=shop/main route.rule=3 http.version=1.1 http.method=GET http.host=shop.example \
             http.path=\"/a?b=c\" http.status=200 http.request_id=00112233-4455-4677-8899-aabbccddeeff \
             http.trace_id=4bf92f3577b34da6a3ce929d0e0e4736 http.user_agent=\"curl/8 (x)\" tls.version=1.3 \
             tls.sni=shop.example tries=2 bytes_sent=5 bytes_recv=70 first_byte=0.001000 duration=0.001500 reason=ok\n"
        );
        let json = written(LogFormat::Json, &request(), None);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((value["http.status"].as_u64(), value["tries"].as_u64()), (Some(200), Some(2)));
        assert_eq!((value["http.path"].as_str(), value["route.rule"].as_u64()), (Some("/a?b=c"), Some(3)));
        assert_eq!(value.as_object().unwrap().len(), 28);
    }

    #[test]
    fn what_is_not_known_of_a_request_has_no_field() {
        let record = RequestRecord {
            endpoint: None,
            service: None,
            rule: None,
            method: None,
            host: None,
            path: None,
            status: None,
            request_id: None,
            trace_id: None,
            user_agent: None,
            first_byte: None,
            tls: None,
            reason: RequestReason::HeadTimeout,
            ..request()
        };
        let line = written(LogFormat::Text, &record, None);
        for absent in ["route", "http.m", "http.h", "http.p", "http.s", "_id", "agent", "tls", "first_byte"] {
            assert!(!line.contains(absent), "{absent}: {line}");
        }
        assert!(line.ends_with(" reason=head_timeout\n") && line.contains(" dst.addr=unknown "), "{line}");
    }

    #[test]
    fn nothing_that_a_peer_sends_moves_a_terminal_or_breaks_a_line() {
        let path = "/\u{1b}[2J\u{7f}\u{9b}31m\r\n\u{202e}\u{2028}\u{feff}\"\\é ☃";
        let record = RequestRecord { path: Some(Text::new(path.as_bytes())), ..request() };
        for format in [LogFormat::Text, LogFormat::Json] {
            let line = written(format, &record, None);
            let escaped = r#"/\u001b[2J\u007f\u009b31m\u000d\n\u202e\u2028\ufeff\"\\é ☃"#;
            assert!(line.contains(escaped), "{line}");
            assert!(!line.trim_end_matches('\n').chars().any(is_deceptive), "{line:?}");
        }
        let value: serde_json::Value =
            serde_json::from_str(&written(LogFormat::Json, &record, None)).unwrap();
        assert_eq!(value["http.path"], path);
    }

    proptest! {
        #[test]
        fn any_bytes_become_one_line_that_can_be_read_back(bytes in prop::collection::vec(any::<u8>(), 0..80), text in any::<String>()) {
            let record = RequestRecord {
                path: Some(Text::new(&bytes)),
                user_agent: Some(Text::new(text.as_bytes())),
                ..request()
            };
            let json = written(LogFormat::Json, &record, Some(&text));
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(&value["http.path"], &*String::from_utf8_lossy(&bytes));
            prop_assert_eq!(&value["http.user_agent"], &*text);
            prop_assert_eq!(&value["src.cgroup"], &*text);
            for line in [json, written(LogFormat::Text, &record, Some(&text))] {
                prop_assert!(!line[..line.len() - 1].chars().any(is_deceptive) && line.ends_with('\n'));
            }
        }
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

    fn written(format: LogFormat, record: &(impl Clone + Into<Record>), cgroup: Option<&str>) -> String {
        let application = cgroup.map(|cgroup| Application { cgroup: cgroup.into(), pod: None });
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_709_210_096_789);
        let mut bytes = Vec::new();
        append(&mut bytes, format, time, &record.clone().into(), application.as_ref());
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

    fn request() -> RequestRecord {
        let text = |text: &str| Some(Text::new(text.as_bytes()));
        RequestRecord {
            client: ClientAddr("10.0.0.1:4000".parse().unwrap()),
            original_dst: OriginalDst("10.96.0.10:80".parse().unwrap()),
            endpoint: Some(EndpointAddr("[fd00::5]:8080".parse().unwrap())),
            service: Some("shop/web".into()),
            cgroup_id: 1,
            rule: Some(("shop/main".into(), 3)),
            version: "1.1",
            method: text("GET"),
            host: text("shop.example"),
            path: text("/a?b=c"),
            status: Some(200),
            grpc: None,
            request_id: text("00112233-4455-4677-8899-aabbccddeeff"),
            trace_id: text("4bf92f3577b34da6a3ce929d0e0e4736"),
            user_agent: text("curl/8 (x)"),
            tls: Some(TlsFacts { version: "1.3", sni: text("shop.example") }),
            tries: 2,
            sent_bytes: 5,
            received_bytes: 70,
            first_byte: Some(Duration::from_millis(1)),
            duration: Duration::from_micros(1500),
            reason: RequestReason::Ok,
        }
    }
}
