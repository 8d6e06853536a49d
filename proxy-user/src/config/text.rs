//! Values that are written as text: each type parses itself, prints itself, and says what it expects.
//!
//! The same [`TextType::parse`] serves the check that reports mistakes and the deserializer, so they cannot disagree.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use proxy_core::addr::{Cidr, canonical};

/// Longest duration: a timer that waits longer is meant to be `off`, and the kernel's 32-bit milliseconds end at 49 days.
pub(super) const MAX_DURATION: Duration = Duration::from_secs(720 * 60 * 60);

/// Longest path of a unix socket, in bytes: `sun_path` holds 108 with its final NUL (unix(7)).
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// A type that is written as a text in the file.
pub(super) trait TextType: Sized {
    /// Name of the format in the JSON Schema.
    const FORMAT: &'static str;
    /// What a message says is expected.
    const EXPECTED: &'static str;
    /// A text that is right.
    const EXAMPLE: &'static str;

    /// Parses the text; the error is a hint, if there is one.
    fn parse(text: &str) -> Result<Self, Option<String>>;
}

/// A format by its name, for the check against the schema.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    pub(super) name: &'static str,
    pub(super) expected: &'static str,
    pub(super) check: fn(&str) -> Result<(), Option<String>>,
}

impl Format {
    const fn of<T: TextType>() -> Self {
        Self { name: T::FORMAT, expected: T::EXPECTED, check: |text| T::parse(text).map(drop) }
    }

    /// Finds a format that a schema names.
    pub(super) fn named(name: &str) -> Option<Self> {
        ALL.iter().find(|format| format.name == name).copied()
    }

    /// What to write instead of a bare number.
    pub(super) fn hint_for_number(&self, number: i64) -> String {
        if self.name == ShortTime::FORMAT {
            format!("write {number}us")
        } else if self.name.starts_with("weir-duration") {
            format!("write {number}s")
        } else if self.name == Size::FORMAT {
            format!("write {number}B")
        } else if [Percent::FORMAT, PercentOrOff::FORMAT, Share::FORMAT].contains(&self.name) {
            format!("write {number}%")
        } else {
            format!("write it in quotes: \"{number}\"")
        }
    }
}

const ALL: [Format; 41] = [
    Format::of::<Time>(),
    Format::of::<TimeOrZero>(),
    Format::of::<TimeOrOff>(),
    Format::of::<ShortTime>(),
    Format::of::<Address>(),
    Format::of::<Network>(),
    Format::of::<NodeIp>(),
    Format::of::<Name>(),
    Format::of::<CgroupPath>(),
    Format::of::<FilePath>(),
    Format::of::<SocketPath>(),
    Format::of::<StatusRange>(),
    Format::of::<HttpPath>(),
    Format::of::<Word>(),
    Format::of::<BodyPart>(),
    Format::of::<Size>(),
    Format::of::<Percent>(),
    Format::of::<PercentOrOff>(),
    Format::of::<Share>(),
    Format::of::<Host>(),
    Format::of::<HostPort>(),
    Format::of::<HostPattern>(),
    Format::of::<UrlPath>(),
    Format::of::<Regex>(),
    Format::of::<HeaderName>(),
    Format::of::<ChangedHeader>(),
    Format::of::<HeaderValue>(),
    Format::of::<QueryName>(),
    Format::of::<QueryValue>(),
    Format::of::<Method>(),
    Format::of::<RetryCause>(),
    Format::of::<GrpcService>(),
    Format::of::<GrpcMethod>(),
    Format::of::<GrpcStatus>(),
    Format::of::<Rate>(),
    Format::of::<Body>(),
    Format::of::<TlsFile>(),
    Format::of::<SubjectName>(),
    Format::of::<NamespaceName>(),
    Format::of::<LabelName>(),
    Format::of::<LabelValue>(),
];

/// Declares a [`TextType`] with its serde and schema implementations.
macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal, $expected:literal, $example:literal, $parse:expr, $show:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(in crate::config) struct $name(pub(in crate::config) $inner);

        impl TextType for $name {
            const FORMAT: &'static str = $format;
            const EXPECTED: &'static str = $expected;
            const EXAMPLE: &'static str = $example;

            fn parse(text: &str) -> Result<Self, Option<String>> {
                let parse: fn(&str) -> Result<$inner, Option<String>> = $parse;
                parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let show: fn(&$inner) -> String = $show;
                f.write_str(&show(&self.0))
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visit;
                impl serde::de::Visitor<'_> for Visit {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::parse(text).map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
                    }
                }
                deserializer.deserialize_str(Visit)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "format": $format, "examples": [Self::EXAMPLE]})
            }
        }
    };
}

// Behind the macro, which it uses.
mod http;
mod pods;

pub(super) use http::{
    Body, Cause, ChangedHeader, GrpcMethod, GrpcService, GrpcStatus, HeaderName, HeaderValue, Host,
    HostPattern, HostPort, Method, Percent, PercentOrOff, QueryName, QueryValue, Rate, Regex, RetryCause,
    Share, Size, SubjectName, TlsFile, UrlPath, show_size,
};
pub(super) use pods::{LabelName, LabelValue, NamespaceName};

text_type! {
    /// A length of time above zero (Gateway API, GEP-2257).
    Time(Duration), "weir-duration", "a duration such as 300ms, 5s or 1h30m", "5s",
    |text| match duration(text)? {
        Duration::ZERO => Err(Some("it must be longer than zero".to_owned())),
        time => Ok(time),
    },
    |time| show_duration(*time)
}

text_type! {
    /// A length of time that may be zero.
    TimeOrZero(Duration), "weir-duration-or-zero", "a duration such as 30s, or 0s", "30s", duration,
    |time| show_duration(*time)
}

text_type! {
    /// A length of time above zero, or `off`.
    TimeOrOff(Option<Duration>), "weir-duration-or-off", "a duration such as 1h, or off", "1h",
    |text| if text == "off" { Ok(None) } else { Time::parse(text).map(|time| Some(time.0)) },
    |time| time.map_or_else(|| "off".to_owned(), show_duration)
}

text_type! {
    /// So short a time that somebody can look again and again for as long.
    ShortTime(Duration), "weir-short-time", "a time of 1us to 1000us", "50us",
    |text| {
        let digits = text.strip_suffix("us").ok_or_else(|| Some("its unit is us, microseconds".to_owned()))?;
        let is_number = !digits.is_empty() && digits.len() <= 4 && digits.bytes().all(|b| b.is_ascii_digit());
        let micros = digits.parse().ok().filter(|micros| is_number && (1..=1000).contains(micros));
        micros.map(Duration::from_micros).ok_or(None)
    },
    |time| format!("{}us", time.as_micros())
}

text_type! {
    /// An IP address and a port; canonical, never v4-mapped.
    Address(SocketAddr), "weir-address", "an IP address with a port such as 10.0.0.1:80 or [fd00::1]:80", "10.0.0.1:80",
    address, ToString::to_string
}

text_type! {
    /// A network, or one address.
    Network(Cidr), "weir-network", "a network such as 10.0.0.0/8 or fd00::/8", "169.254.0.0/16",
    |text| text.parse().map_err(|error: proxy_core::addr::CidrError| Some(error.to_string())), ToString::to_string
}

text_type! {
    /// An address of this node that others can reach; canonical, never v4-mapped.
    NodeIp(IpAddr), "weir-node-ip", "an IP address of this node such as 10.0.0.1 or fd00::1", "10.0.0.1",
    |text| match text.parse().map(|ip: IpAddr| ip.to_canonical()) {
        Ok(ip) if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() => {
            Err(Some("other network namespaces cannot reach it".to_owned()))
        }
        Ok(IpAddr::V6(ip)) if ip.is_unicast_link_local() => {
            Err(Some("a link-local address means another one on each link".to_owned()))
        }
        Ok(ip) => Ok(ip),
        Err(_) => Err(None),
    },
    ToString::to_string
}

text_type! {
    /// Name of a service or a route.
    Name(String), "weir-name",
    "a name of at most 253 letters, digits and '/', '.', '-', '_' that begins and ends with a letter or digit",
    "shop/web", name, Clone::clone
}

text_type! {
    /// A cgroup, as its path below the cgroup v2 mount.
    CgroupPath(String), "weir-cgroup", "a path below the cgroup v2 mount such as /app.slice", "/app.slice",
    |text| match absolute(text) {
        Ok(()) if text.starts_with("/sys/fs/cgroup/") => {
            Err(Some(format!("leave out the mount: {}", &text["/sys/fs/cgroup".len()..])))
        }
        Ok(()) => Ok(if text == "/" { text.to_owned() } else { text.trim_end_matches('/').to_owned() }),
        Err(hint) => Err(hint),
    },
    Clone::clone
}

text_type! {
    /// A file, by its absolute path.
    FilePath(PathBuf), "weir-path", "an absolute path", "/run/netns/shop",
    |text| absolute(text).map(|()| PathBuf::from(text)), |path| path.display().to_string()
}

text_type! {
    /// A unix socket, by its absolute path.
    SocketPath(PathBuf), "weir-socket-path", "an absolute path of at most 107 bytes", "/run/weir/admin.sock",
    |text| match absolute(text) {
        Ok(()) if text.len() > MAX_SOCKET_PATH_BYTES => Err(Some(format!("it has {} bytes", text.len()))),
        result => result.map(|()| PathBuf::from(text)),
    },
    |path| path.display().to_string()
}

text_type! {
    /// Statuses from the first to the last, both included.
    StatusRange((u16, u16)), "weir-status-range", "a range of HTTP statuses such as \"200-299\"", "200-299",
    status_range, |(first, last)| format!("{first}-{last}")
}

text_type! {
    /// Path and query of an HTTP request.
    HttpPath(String), "weir-http-path", "a path that begins with '/', without blanks", "/healthz",
    |text| {
        let is_visible = text.bytes().all(|b| b.is_ascii_graphic());
        if !text.starts_with('/') { Err(None) }
        else if !is_visible { Err(Some("encode other characters as %XX".to_owned())) }
        else if text.len() > 2000 { Err(Some("it has more than 2000 bytes".to_owned())) }
        else { Ok(text.to_owned()) }
    },
    Clone::clone
}

text_type! {
    /// A word of visible ASCII characters: a zone, or the value of a Host header.
    Word(String), "weir-word", "a word of 1 to 253 visible ASCII characters", "zone-a",
    |text| {
        let is_word = (1..=253).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if is_word { Ok(text.to_owned()) } else { Err(None) }
    },
    Clone::clone
}

text_type! {
    /// Text that must occur in an answer.
    BodyPart(String), "weir-body-part", "a text of 1 to 1024 bytes", "ok",
    |text| if (1..=1024).contains(&text.len()) { Ok(text.to_owned()) } else { Err(None) }, Clone::clone
}

/// Parses `1h30m`: one to four numbers of at most five digits, each with its unit (GEP-2257).
fn duration(text: &str) -> Result<Duration, Option<String>> {
    const MAX_PARTS: usize = 4;
    let mut total = Duration::ZERO;
    let mut rest = text;
    for _ in 0..MAX_PARTS {
        let digits_count = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number = &rest[..digits_count];
        rest = &rest[digits_count..];
        let unit_bytes = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = &rest[..unit_bytes];
        rest = &rest[unit_bytes..];
        total += part(number, unit)?;
        if rest.is_empty() {
            return if total <= MAX_DURATION {
                Ok(total)
            } else {
                Err(Some(format!("it must not be longer than {}", show_duration(MAX_DURATION))))
            };
        }
    }
    Err(None)
}

fn part(number: &str, unit: &str) -> Result<Duration, Option<String>> {
    if number.is_empty() || number.len() > 5 {
        return Err(None);
    }
    let number: u64 = number.parse().map_err(|_| None)?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        "" => Err(Some(format!("write {number}s"))),
        "sec" | "secs" | "second" | "seconds" => Err(Some(format!("write {number}s"))),
        "min" | "mins" | "minute" | "minutes" => Err(Some(format!("write {number}m"))),
        "hr" | "hour" | "hours" => Err(Some(format!("write {number}h"))),
        "d" | "day" | "days" => Err(Some(format!("write {}h", number * 24))),
        _ => Err(Some("the units are h, m, s and ms".to_owned())),
    }
}

/// Prints a duration so that [`Time`] reads it back; whole milliseconds.
pub(super) fn show_duration(time: Duration) -> String {
    let (seconds, millis) = (time.as_secs(), time.subsec_millis());
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s"), (millis.into(), "ms")];
    let text: String = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

fn address(text: &str) -> Result<SocketAddr, Option<String>> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => {
                Err(Some("an interface (%) is not supported".to_owned()))
            }
            _ if address.port() == 0 => Err(Some("a port is 1 to 65535".to_owned())),
            _ => Ok(canonical(address)),
        };
    }
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    Err(if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        let with_port = SocketAddr::new(ip, 80).to_string();
        Some(format!("the port is missing; for example {with_port}"))
    } else if host.parse::<IpAddr>().is_ok() || host.starts_with('[') {
        Some("a port is 1 to 65535".to_owned())
    } else if host.bytes().any(|b| b.is_ascii_alphabetic()) && !host.contains(':') {
        Some("host names are not looked up here".to_owned())
    } else {
        None
    })
}

fn name(text: &str) -> Result<String, Option<String>> {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || b"/.-_".contains(&b);
    let is_outer = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let is_right = bytes.iter().copied().all(is_inner) && is_outer(bytes.first()) && is_outer(bytes.last());
    if is_right && bytes.len() <= 253 && !text.contains("//") { Ok(text.to_owned()) } else { Err(None) }
}

fn absolute(text: &str) -> Result<(), Option<String>> {
    if !text.starts_with('/') {
        return Err(Some("it begins with '/'".to_owned()));
    }
    if text.contains('\0') || text.len() > 4095 {
        return Err(None);
    }
    if text.split('/').any(|part| part == ".." || part == ".") {
        return Err(Some("'.' and '..' are not allowed in it".to_owned()));
    }
    Ok(())
}

fn status_range(text: &str) -> Result<(u16, u16), Option<String>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| {
        let is_digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|n| is_digits && (100..=599).contains(n))
    };
    let (Some(first), Some(last)) = (status(first), status(last)) else {
        let wild = text.strip_suffix("xx").filter(|d| ["1", "2", "3", "4", "5"].contains(d));
        return Err(Some(match wild {
            Some(digit) => format!("write \"{digit}00-{digit}99\""),
            None => "statuses are 100 to 599".to_owned(),
        }));
    };
    if first <= last { Ok((first, last)) } else { Err(Some("the first is above the last".to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_read_as_written() {
        for (text, millis) in
            [("300ms", 300), ("1s", 1000), ("1h30m", 5_400_000), ("1m1s1ms", 61_001), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "-5s",
            "5S",
            "1.5s",
            "100000s",
            "1h1h1h1h1h",
            "99999h",
            "5sec",
            "1d",
            "5\u{b5}s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(Time::parse("0s").is_err() && TimeOrZero::parse("0ms").is_ok());
        assert_eq!(TimeOrOff::parse("off").unwrap().0, None);
        assert_eq!(ShortTime::parse("1000us").unwrap().0, Duration::from_millis(1));
        for text in ["", "us", "0us", "1001us", "50", "1ms", "+5us", "00050us", "-5us"] {
            assert!(ShortTime::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn v4_mapped_addresses_become_ipv4() {
        assert_eq!(Address::parse("[::ffff:10.0.0.1]:80").unwrap().to_string(), "10.0.0.1:80");
    }

    #[test]
    fn every_example_is_right_and_printed_as_it_was() {
        fn check<T: TextType + ToString>() {
            let value = T::parse(T::EXAMPLE).unwrap_or_else(|_| panic!("{}", T::EXAMPLE));
            assert_eq!(value.to_string(), T::EXAMPLE);
            assert!(Format::named(T::FORMAT).is_some());
        }
        check::<Time>();
        check::<TimeOrZero>();
        check::<TimeOrOff>();
        check::<ShortTime>();
        check::<Address>();
        check::<Network>();
        check::<Name>();
        check::<CgroupPath>();
        check::<FilePath>();
        check::<SocketPath>();
        check::<StatusRange>();
        check::<HttpPath>();
        check::<Word>();
        check::<BodyPart>();
        check::<Size>();
        check::<Percent>();
        check::<PercentOrOff>();
        check::<Share>();
        check::<Host>();
        check::<HostPort>();
        check::<HostPattern>();
        check::<UrlPath>();
        check::<Regex>();
        check::<HeaderName>();
        check::<ChangedHeader>();
        check::<HeaderValue>();
        check::<QueryName>();
        check::<QueryValue>();
        check::<Method>();
        check::<RetryCause>();
        check::<Body>();
        check::<TlsFile>();
        check::<SubjectName>();
        check::<NamespaceName>();
        check::<LabelName>();
        check::<LabelValue>();
    }

    proptest! {
        #[test]
        fn a_printed_duration_reads_back(millis in 1_u64..720 * 3_600_000) {
            let time = Time(Duration::from_millis(millis));
            prop_assert_eq!(Time::parse(&time.to_string()), Ok(time));
        }

        #[test]
        fn no_text_panics_and_what_is_accepted_prints_to_the_same(text in "\\PC{0,40}") {
            for format in ALL {
                let _ = (format.check)(&text);
            }
            if let Ok(address) = Address::parse(&text) {
                prop_assert_eq!(Address::parse(&address.to_string()), Ok(address));
            }
        }
    }
}
