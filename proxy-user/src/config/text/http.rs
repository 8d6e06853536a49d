//! Values of HTTP and TLS that are written as text.

use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, net::IpAddr};

use proxy_core::grpc::Status;
use proxy_core::route;

use super::super::suggest::{did_you_mean, nearest};
use super::{TextType, status_range};

/// Longest body of an answer that Weir gives itself: it is kept in memory and in the config.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Longest value of a header: half of the usual bound on a whole head is room for anything sensible.
const MAX_HEADER_VALUE_BYTES: usize = 4096;

/// Headers that belong to a connection or to its framing (RFC 9110, 7.6.1): Weir writes them itself.
const OWN_HEADERS: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

text_type! {
    /// A number of bytes, above zero.
    Size(u64), "weir-size", "a size such as 64KiB or 10MiB", "64KiB", size, |bytes| show_size(*bytes)
}

text_type! {
    /// Whole percent.
    Percent(u8), "weir-percent", "a percentage from 0% to 100%", "20%",
    |text| match hundredths(text)? {
        share if share % 100 == 0 => Ok(u8::try_from(share / 100).map_err(|_| None)?),
        _ => Err(Some("write a whole number".to_owned())),
    },
    |percent| format!("{percent}%")
}

text_type! {
    /// A percentage above zero, or `off`.
    PercentOrOff(Option<u8>), "weir-percent-or-off", "a percentage from 1% to 100%, or off", "80%",
    |text| if text == "off" {
        Ok(None)
    } else {
        match Percent::parse(text)?.0 {
            0 => Err(None),
            percent => Ok(Some(percent)),
        }
    },
    |percent| percent.map_or_else(|| "off".to_owned(), |percent| format!("{percent}%"))
}

text_type! {
    /// A share above zero, in parts of 10,000.
    Share(u16), "weir-share", "a percentage from 0.01% to 100%", "5%",
    |text| match hundredths(text)? {
        0 => Err(None),
        share => Ok(share),
    },
    |share| match (share / 100, share % 100) {
        (whole, 0) => format!("{whole}%"),
        (whole, part) if part % 10 == 0 => format!("{whole}.{}%", part / 10),
        (whole, part) => format!("{whole}.{part:02}%"),
    }
}

text_type! {
    /// A host without a port, in lower case.
    Host(String), "weir-host", "a host name or IP address, without a port", "shop.example", host, Clone::clone
}

text_type! {
    /// A host, with a port or without one.
    HostPort(String), "weir-host-port", "a host name or IP address, with or without a port", "shop.example:8080",
    |text| {
        let after = text.rfind(']').map_or(0, |bracket| bracket + 1);
        match text[after..].rfind(':') {
            None => host(text),
            Some(colon) => {
                let (name, port) = (&text[..after + colon], &text[after + colon + 1..]);
                let port = port.parse::<u16>().ok().filter(|n| *n > 0 && port.starts_with(|c: char| c.is_ascii_digit()));
                let port = port.ok_or_else(|| Some("a port is 1 to 65535".to_owned()))?;
                host(name).map(|name| format!("{name}:{port}"))
            }
        }
    },
    Clone::clone
}

text_type! {
    /// A host, or `*.` and the end of one.
    HostPattern(String), "weir-host-pattern", "a host name, or one that begins with '*.', without a port", "*.shop.example",
    |text| match text.strip_prefix("*.") {
        _ if text == "*" => Err(Some("without hosts a route is for every host".to_owned())),
        Some(rest) if rest.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() => Err(None),
        Some(rest) => host(rest).map(|rest| format!("*.{rest}")),
        None if text.contains('*') => Err(Some("'*' can only stand for what is in front of the first dot".to_owned())),
        None => host(text),
    },
    Clone::clone
}

text_type! {
    /// A path without a query.
    UrlPath(String), "weir-url-path", "a path that begins with '/', without blanks, '?' and '#'", "/api",
    |text| {
        if !text.starts_with('/') { Err(None) }
        else if text.contains(['?', '#']) { Err(Some("leave out the query".to_owned())) }
        else { visible(text, 2000).map(|()| text.to_owned()) }
    },
    Clone::clone
}

text_type! {
    /// A regular expression that always takes linear time.
    Regex(String), "weir-regex", "a regular expression", "/v[0-9]+/.*",
    |text| route::regex(text).map(|_| text.to_owned()).map_err(|error| Some(error.to_string())), Clone::clone
}

text_type! {
    /// Name of a header, in lower case.
    HeaderName(String), "weir-header-name", "the name of a header", "x-beta", header_name, Clone::clone
}

text_type! {
    /// Name of a header that may be changed, in lower case.
    ChangedHeader(String), "weir-changed-header", "the name of a header that is not about the connection", "x-team",
    |text| {
        let name = header_name(text)?;
        if name == "host" {
            Err(Some("the host is changed by rewrite: {host: ...}".to_owned()))
        } else if OWN_HEADERS.contains(&name.as_str()) {
            Err(Some("Weir writes it itself, for each connection".to_owned()))
        } else {
            Ok(name)
        }
    },
    Clone::clone
}

text_type! {
    /// Value of a header.
    HeaderValue(String), "weir-header-value", "a text of ASCII characters that begins and ends with none that is blank", "1",
    |text| {
        let is_legal = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ' || b == b'\t');
        if text.len() > MAX_HEADER_VALUE_BYTES { Err(Some(format!("it has more than {MAX_HEADER_VALUE_BYTES} bytes"))) }
        else if is_legal && text.trim() == text { Ok(text.to_owned()) }
        else { Err(None) }
    },
    Clone::clone
}

text_type! {
    /// Name of a parameter in a query.
    QueryName(String), "weir-query-name", "the name of a query parameter as it is sent, without '=', '&' and '#'", "page",
    |text| match text {
        "" => Err(None),
        _ if text.contains(['=', '&', '#']) => Err(Some("encode other characters as %XX".to_owned())),
        _ => visible(text, 253).map(|()| text.to_owned()),
    },
    Clone::clone
}

text_type! {
    /// Value of a parameter in a query.
    QueryValue(String), "weir-query-value", "the value of a query parameter as it is sent, without '&' and '#'", "1",
    |text| match text {
        _ if text.contains(['&', '#']) => Err(Some("encode other characters as %XX".to_owned())),
        _ => visible(text, 2000).map(|()| text.to_owned()),
    },
    Clone::clone
}

text_type! {
    /// A method; its case counts.
    Method(String), "weir-method", "a method such as GET", "GET",
    |text| {
        const USUAL: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "PATCH"];
        let upper = text.to_ascii_uppercase();
        if upper != text && USUAL.contains(&upper.as_str()) { Err(Some(did_you_mean(&upper))) }
        else if is_token(text) && text.len() <= 32 { Ok(text.to_owned()) }
        else { Err(None) }
    },
    Clone::clone
}

text_type! {
    /// Name of a gRPC service.
    GrpcService(String), "weir-grpc-service", "the name of a gRPC service with its package", "shop.v1.Cart",
    |text| match text.rsplit_once('/') {
        Some((service, method)) if is_identifier(method) => {
            Err(Some(format!("write service: {}, method: {method}", service.trim_start_matches('/'))))
        }
        _ if text.len() <= 1024 && text.split('.').all(is_identifier) => Ok(text.to_owned()),
        _ => Err(None),
    },
    Clone::clone
}

text_type! {
    /// Name of a method of a gRPC service.
    GrpcMethod(String), "weir-grpc-method", "the name of a method of a gRPC service", "AddItem",
    |text| if text.len() <= 1024 && is_identifier(text) { Ok(text.to_owned()) } else { Err(None) }, Clone::clone
}

text_type! {
    /// A status of gRPC that is a failure.
    GrpcStatus(Status), "weir-grpc-status", "a status of gRPC that is a failure, such as unavailable", "unavailable",
    |text| match Status::named(text) {
        Some(Status::Ok) => Err(None),
        Some(status) => Ok(status),
        None => Err(nearest(&text.to_ascii_lowercase(), Status::ALL[1..].iter().map(|s| s.as_str())).map(did_you_mean)),
    },
    |status| status.as_str().to_owned()
}

text_type! {
    /// Requests in a time.
    Rate((u32, Duration)), "weir-rate", "a rate such as 100/s, 5000/m or 20/h", "100/s", rate,
    |(requests, interval)| match interval.as_secs() {
        1 => format!("{requests}/s"),
        60 => format!("{requests}/m"),
        _ => format!("{requests}/h"),
    }
}

/// What a request is tried again after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Cause {
    /// No connection.
    ConnectFailure,
    /// The connection ended.
    Reset,
    /// One try took too long.
    Timeout,
    /// A status from the first to the last.
    Status(u16, u16),
    /// A status of gRPC, but for `ok`.
    Grpc(Status),
}

text_type! {
    /// What a request is tried again after.
    RetryCause(Cause), "weir-retry-cause", "connect_failure, reset, timeout, or statuses such as \"503\", \"500-599\" or, of gRPC, unavailable", "reset",
    |text| match text {
        "connect_failure" => Ok(Cause::ConnectFailure),
        "reset" => Ok(Cause::Reset),
        "timeout" => Ok(Cause::Timeout),
        _ if text.starts_with(|c: char| c.is_ascii_digit()) => {
            status_range(text).map(|(first, last)| Cause::Status(first, last))
        }
        "ok" => Err(Some("a call that went well is not made again".to_owned())),
        _ => match Status::named(text) {
            Some(status) => Ok(Cause::Grpc(status)),
            None => Err(similar_cause(text)),
        },
    },
    |cause| match cause {
        Cause::ConnectFailure => "connect_failure".to_owned(),
        Cause::Reset => "reset".to_owned(),
        Cause::Timeout => "timeout".to_owned(),
        Cause::Grpc(status) => status.as_str().to_owned(),
        Cause::Status(first, last) if first == last => first.to_string(),
        Cause::Status(first, last) => format!("{first}-{last}"),
    }
}

text_type! {
    /// Body of an answer.
    Body(String), "weir-body", "a text of at most 64 KiB", "not here\n",
    |text| if text.len() <= MAX_BODY_BYTES { Ok(text.to_owned()) } else { Err(Some(format!("it has {} bytes", text.len()))) },
    Clone::clone
}

text_type! {
    /// A file of certificates or keys; relative to the folder of the config file unless it begins with `/`.
    TlsFile(PathBuf), "weir-file", "the path of a file", "tls/web.pem",
    |text| {
        let is_path = (1..=4095).contains(&text.len()) && !text.contains('\0') && !text.ends_with('/');
        if text.starts_with("-----BEGIN") { Err(Some("name the file that it stands in".to_owned())) }
        else if is_path { Ok(PathBuf::from(text)) }
        else { Err(None) }
    },
    |path| path.display().to_string()
}

text_type! {
    /// A name in a certificate.
    SubjectName(String), "weir-subject-name", "a DNS name, which may begin with '*.', or a URI", "spiffe://shop/web",
    |text| if text.is_empty() { Err(None) } else { visible(text, 2048).map(|()| text.to_owned()) }, Clone::clone
}

fn similar_cause(text: &str) -> Option<String> {
    let statuses = Status::ALL.into_iter().filter(|status| *status != Status::Ok).map(Status::as_str);
    let text = text.to_ascii_lowercase();
    nearest(&text, ["connect_failure", "reset", "timeout"].into_iter().chain(statuses)).map(did_you_mean)
}

fn size(text: &str) -> Result<u64, Option<String>> {
    let digits_count = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, unit) = text.split_at(digits_count);
    let number: u64 = digits.parse().map_err(|_| None)?;
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "" => return Err(Some(format!("write {number}B"))),
        "k" | "K" | "kB" | "KB" | "Ki" | "kib" => return Err(Some(format!("write {number}KiB"))),
        "m" | "M" | "MB" | "Mi" | "mib" => return Err(Some(format!("write {number}MiB"))),
        "g" | "G" | "GB" | "Gi" | "gib" => return Err(Some(format!("write {number}GiB"))),
        _ => return Err(Some("the units are B, KiB, MiB and GiB".to_owned())),
    };
    match number.checked_mul(1 << shift) {
        Some(bytes) if (1..=1 << 50).contains(&bytes) => Ok(bytes),
        Some(0) => Err(Some("it must be more than zero".to_owned())),
        _ => Err(Some("it must not be more than 1048576GiB".to_owned())),
    }
}

fn rate(text: &str) -> Result<(u32, Duration), Option<String>> {
    const MAX_REQUESTS: u32 = 1_000_000;
    let (number, unit) = text.split_once('/').ok_or(None)?;
    let is_number = (1..=9).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    let requests: u32 = number.parse().ok().filter(|_| is_number).ok_or(None)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "sec" | "second" => return Err(Some(format!("write {number}/s"))),
        "min" | "minute" => return Err(Some(format!("write {number}/m"))),
        "hour" => return Err(Some(format!("write {number}/h"))),
        _ => return Err(Some("the units are s, m and h".to_owned())),
    };
    match requests {
        0 => Err(Some("it must be more than zero".to_owned())),
        1..=MAX_REQUESTS => Ok((requests, Duration::from_secs(seconds))),
        _ => Err(Some(format!("it must not be more than {MAX_REQUESTS}"))),
    }
}

/// Prints a size so that [`Size`] reads it back.
pub(in crate::config) fn show_size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units.iter().find(|(shift, _)| bytes.trailing_zeros() >= *shift);
    whole.map_or_else(|| format!("{bytes}B"), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

/// Parses `5%` or `0.25%` as parts of 10,000.
fn hundredths(text: &str) -> Result<u16, Option<String>> {
    let Some(number) = text.strip_suffix('%') else {
        let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        return Err(is_number.then(|| format!("write {text}%")));
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let is_number =
        |digits: &str, most| (1..=most).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole, 3) || !is_number(part, 2) {
        return Err(None);
    }
    let whole: u16 = whole.parse().map_err(|_| None)?;
    let scale = if part.len() == 1 { 10 } else { 1 };
    let part: u16 = part.parse().map_err(|_| None)?;
    Some(whole * 100 + part * scale).filter(|share| *share <= 10_000).ok_or(None)
}

/// Parses a host without a port: an IP address (IPv6 in brackets, as in URLs) or a name of the usual letters.
fn host(text: &str) -> Result<String, Option<String>> {
    const MAX_HOST_BYTES: usize = 253;
    const MAX_LABEL_BYTES: usize = 63;
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match inner.parse() {
            Ok(IpAddr::V6(v6)) => Ok(format!("[{v6}]")),
            _ => Err(None),
        };
    }
    if let Ok(IpAddr::V6(v6)) = text.parse() {
        return Err(Some(format!("write [{v6}]")));
    }
    if text.contains("://") {
        return Err(Some("leave out the scheme".to_owned()));
    }
    if text.contains(':') {
        return Err(Some("leave out the port".to_owned()));
    }
    let is_label = |label: &str| {
        (1..=MAX_LABEL_BYTES).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.len() <= MAX_HOST_BYTES && name.split('.').all(is_label) {
        Ok(name.to_ascii_lowercase())
    } else if !text.is_ascii() {
        Err(Some("write other letters as punycode: xn--...".to_owned()))
    } else {
        Err(None)
    }
}

fn header_name(text: &str) -> Result<String, Option<String>> {
    if text.starts_with(':') {
        return Err(Some("hosts, path and method have keys of their own".to_owned()));
    }
    if is_token(text) && text.len() <= 253 { Ok(text.to_ascii_lowercase()) } else { Err(None) }
}

/// Tells whether a text is an identifier of protobuf.
fn is_identifier(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// Tells whether a text is a token (RFC 9110, 5.6.2).
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn visible(text: &str, most_bytes: usize) -> Result<(), Option<String>> {
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        Err(Some("encode other characters as %XX".to_owned()))
    } else if text.len() > most_bytes {
        Err(Some(format!("it has more than {most_bytes} bytes")))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_and_shares_read_as_written() {
        for (text, bytes) in [("1B", 1), ("64KiB", 65_536), ("10MiB", 10 << 20), ("2GiB", 2 << 30)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0B", "64", "64KB", "KiB", "-1B", "1.5KiB", "99999999999GiB", "1 KiB"] {
            assert!(size(text).is_err(), "{text}");
        }
        for (text, share) in [("5%", 500), ("0.25%", 25), ("0.5%", 50), ("100%", 10_000), ("0.05%", 5)] {
            assert_eq!(Share::parse(text), Ok(Share(share)), "{text}");
            assert_eq!(Share(share).to_string(), text);
        }
        for text in ["", "%", "5", "101%", "0%", "0.001%", ".5%", "5.%", "100.01%", "-1%"] {
            assert!(Share::parse(text).is_err(), "{text}");
        }
        assert!(Percent::parse("0%").is_ok() && Percent::parse("2.5%").is_err());
        assert!(PercentOrOff::parse("0%").is_err() && PercentOrOff::parse("101%").is_err());
        assert_eq!(PercentOrOff::parse("off").unwrap().0, None);
    }

    #[test]
    fn hosts_are_names_or_addresses_in_lower_case() {
        for (text, host) in [
            ("Shop.Example.", "shop.example"),
            ("10.0.0.1", "10.0.0.1"),
            ("[FD00::1]", "[fd00::1]"),
            ("_sip.x", "_sip.x"),
        ] {
            assert_eq!(HostPattern::parse(text), Ok(HostPattern(host.to_owned())), "{text}");
        }
        assert_eq!(HostPattern::parse("*.Shop.Example"), Ok(HostPattern("*.shop.example".to_owned())));
        for text in [
            "",
            ".",
            "a..b",
            "*",
            "*.",
            "a.*.b",
            "*a.b",
            "*.*.a",
            "shop.example:80",
            "fd00::1",
            "-a",
            "é.example",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
        assert_eq!(HostPort::parse("[FD00::1]:80"), Ok(HostPort("[fd00::1]:80".to_owned())));
        for text in ["a:0", "a:99999", "a:", ":80", "a:+8"] {
            assert!(HostPort::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn headers_that_are_about_a_connection_are_not_changed() {
        for name in OWN_HEADERS.into_iter().chain(["host", "Transfer-Encoding", ":path", "a b", ""]) {
            assert!(ChangedHeader::parse(name).is_err(), "{name}");
        }
        assert_eq!(ChangedHeader::parse("X-Team"), Ok(ChangedHeader("x-team".to_owned())));
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(bytes in 1_u64..1 << 50, share in 1_u16..=10_000, percent in 0_u8..=100) {
            prop_assert_eq!(Size::parse(&Size(bytes).to_string()), Ok(Size(bytes)));
            prop_assert_eq!(Share::parse(&Share(share).to_string()), Ok(Share(share)));
            prop_assert_eq!(Percent::parse(&Percent(percent).to_string()), Ok(Percent(percent)));
        }

        #[test]
        fn an_accepted_host_prints_to_the_same(text in "(\\*\\.)?[a-zA-Z0-9._:\\[\\]-]{0,30}") {
            if let Ok(pattern) = HostPattern::parse(&text) {
                prop_assert_eq!(HostPattern::parse(&pattern.0), Ok(pattern));
            }
            if let Ok(host) = HostPort::parse(&text) {
                prop_assert_eq!(HostPort::parse(&host.0), Ok(host));
            }
        }
    }
}
