use proptest::prelude::*;

use super::*;

fn proxied(source: &str, destination: &str) -> Header {
    let [source, destination] = [source, destination].map(|text| text.parse().unwrap());
    Header::Proxied { source, destination }
}

fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

#[test]
fn the_lines_of_the_specification_are_understood() {
    for (line, header) in [
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            proxied("255.255.255.255:65535", "255.255.255.255:65535"),
        ),
        (
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ::1 65535 443\r\n",
            proxied("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[::1]:443"),
        ),
        ("PROXY TCP6 ::ffff:10.0.0.1 ::ffff:10.0.0.2 0 1\r\n", proxied("10.0.0.1:0", "10.0.0.2:1")),
        ("PROXY UNKNOWN\r\n", Header::Local),
        ("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", Header::Local),
    ] {
        assert_eq!(parse(line.as_bytes()), Ok(Some((header, line.len()))), "{line}");
    }
}

#[test]
fn lines_that_two_readers_could_take_differently_are_refused() {
    for line in [
        "PROXY TCP4 10.0.0.1 10.0.0.2 80\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 80 81 82\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 80 81 \r\n",
        "PROXY TCP4  10.0.0.1 10.0.0.2 80 81\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 080 81\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 +80 81\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 80 65536\r\n",
        "PROXY TCP4 10.0.0.1 ::1 80 81\r\n",
        "PROXY TCP6 10.0.0.1 ::1 80 81\r\n",
        "PROXY TCP4 10.0.0.01 10.0.0.2 80 81\r\n",
        "PROXY UDP4 10.0.0.1 10.0.0.2 80 81\r\n",
        "PROXY UNKNOWN\rX",
        "PROXY \r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 80 81\n\r\n",
    ] {
        assert_eq!(parse(line.as_bytes()), Err(Fault::Line), "{line:?}");
    }
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LINE_BYTES));
    assert_eq!(parse(long.as_bytes()), Err(Fault::Line));
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LINE_BYTES - 16));
    assert_eq!(parse(longest.as_bytes()), Ok(Some((Header::Local, LINE_BYTES))));
}

#[test]
fn other_protocols_are_known_by_their_first_bytes() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"PROXZ", b"\r\n\r\nG", b"proxy TCP4"] {
        assert_eq!(parse(bytes), Err(Fault::Missing), "{bytes:?}");
    }
}

#[test]
fn binary_headers_without_a_tcp_client_are_of_nobody() {
    let unix = [0; 216];
    for (command, family, rest) in [
        (0x20, 0x00, &[][..]),
        (0x20, 0x11, &[][..]),
        (0x20, 0xff, &[1, 2, 3][..]),
        (0x21, 0x00, &[1, 2, 3][..]),
        (0x21, 0x31, &unix),
        (0x21, 0x12, &[0; 12]),
    ] {
        let bytes = binary(command, family, rest);
        assert_eq!(parse(&bytes), Ok(Some((Header::Local, bytes.len()))), "{command:x} {family:x}");
    }
}

#[test]
fn malformed_binary_headers_are_refused() {
    for bytes in [
        binary(0x11, 0x11, &[0; 12]),
        binary(0x22, 0x11, &[0; 12]),
        binary(0x21, 0x41, &[0; 12]),
        binary(0x21, 0x13, &[0; 12]),
        binary(0x21, 0x11, &[0; 11]),
        binary(0x21, 0x21, &[0; 35]),
    ] {
        assert_eq!(parse(&bytes), Err(Fault::Binary), "{bytes:?}");
    }
    assert_eq!(parse(&binary(0x21, 0x11, &[0; MOST_BYTES - 16])).map(|found| found.is_some()), Ok(true));
    assert_eq!(parse(&binary(0x21, 0x11, &[0; MOST_BYTES - 15])), Err(Fault::TooLong));
}

#[test]
fn what_is_sent_for_nobody_names_nobody() {
    assert_eq!(&*encode(Version::V1, &Header::Local), b"PROXY UNKNOWN\r\n");
    assert_eq!(&*encode(Version::V2, &Header::Local), binary(0x20, 0, &[]));
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V1), Just(Version::V2)]
}

fn header() -> impl Strategy<Value = Header> {
    let ends = any::<(SocketAddr, SocketAddr)>().prop_map(|(source, destination)| {
        // What a scope or a flow says is not passed on.
        let plain = |end: SocketAddr| canonical(SocketAddr::new(end.ip(), end.port()));
        Header::Proxied { source: plain(source), destination: plain(destination) }
    });
    prop_oneof![1 => Just(Header::Local), 9 => ends]
}

/// Bytes near enough to a header to get far.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let line = "PROXY (TCP4|TCP6|UNKNOWN)( [0-9a-f.:]{0,12}){0,5}\r?\n?.{0,4}".prop_map(String::into_bytes);
    let binary =
        (prop_oneof![Just(0x21), any::<u8>()], any::<u8>(), prop::collection::vec(any::<u8>(), 0..60))
            .prop_map(|(command, family, rest)| binary(command, family, &rest));
    let mutated = (version(), header(), any::<prop::sample::Index>(), any::<u8>()).prop_map(
        |(version, header, at, byte)| {
            let mut bytes = encode(version, &header).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        },
    );
    prop_oneof![line, binary, mutated, prop::collection::vec(any::<u8>(), 0..32)]
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_nothing_behind_it(
        version in version(), header in header(), behind in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let encoded = encode(version, &header);
        let bytes = [&encoded, &behind[..]].concat();
        prop_assert_eq!(parse(&bytes), Ok(Some((header, encoded.len()))));
    }

    /// Every beginning of a header asks for more, and what is decided stays decided.
    #[test]
    fn any_split_gives_the_same(bytes in nearly()) {
        let whole = parse(&bytes);
        let mut decided = None;
        for len in 0..=bytes.len() {
            let now = parse(&bytes[..len]);
            if let Some(before) = &decided {
                prop_assert_eq!(&now, before);
            } else if now != Ok(None) {
                decided = Some(now);
            }
        }
        prop_assert_eq!(decided.unwrap_or(Ok(None)), whole);
        if let Ok(Some((_, len))) = whole {
            prop_assert!(len <= bytes.len() && len <= MOST_BYTES);
        }
    }
}
