use proptest::prelude::*;

use super::*;

#[test]
fn request_lines_are_told_from_line_protocols() {
    for line in
        ["GET / HTTP/1.1\r\n", "OPTIONS * HTTP/1.0\r\n", "M-SEARCH http://a/b HTTP/1.1", "PRI /x HTTP/1."]
    {
        assert_eq!(settled(line.as_bytes()), Detected::Http1, "{line}");
    }
    for text in [
        "GET key\r\n",
        "SET key value\r\n",
        "GET  / HTTP/1.1",
        "GET / HTTP/2.0\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n",
        "*1\r\n$4\r\nPING\r\n",
        " GET / HTTP/1.1",
        "\r\nGET / HTTP/1.1",
        "\x00\x00\x00\x08\x04\u{d2}\x16/",
        "ThisIsMuchTooLongToBeTheMethodOfARequest / HTTP/1.1",
    ] {
        assert_eq!(settled(text.as_bytes()), Detected::Opaque, "{text:?}");
    }
    for text in ["", "G", "GET", "GET ", "GET /", "GET / HT", "PRI * HTTP/2.0\r\n\r\nSM\r\n"] {
        assert_eq!(detect(text.as_bytes()), Detected::NeedMore, "{text:?}");
    }
    assert_eq!(settled(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04"), Detected::Http2);
}

#[test]
fn a_target_without_an_end_is_given_up() {
    let mut text = b"GET /".to_vec();
    text.resize(DETECT_BYTES - 1, b'a');
    assert_eq!(detect(&text), Detected::NeedMore);
    text.push(b'a');
    assert_eq!(detect(&text), Detected::Opaque);
    text.extend_from_slice(b" HTTP/1.1\r\n");
    assert_eq!(detect(&text), Detected::Opaque, "what is decided stays");
}

#[test]
fn hellos_of_real_clients_tell_their_name_and_protocols() {
    // rustls 0.23 with a post-quantum key share, asked for Web.Shop.example; s_client of OpenSSL 3.0.
    assert!(RUSTLS.len() > 1200);
    let wanted = ClientHello {
        sni: Some("web.shop.example".into()),
        alpn: vec![b"h2"[..].into(), b"http/1.1"[..].into()],
    };
    assert_eq!(settled(RUSTLS), Detected::Tls(wanted));
    let wanted = ClientHello { sni: Some("db.shop.example".into()), alpn: vec![b"postgresql"[..].into()] };
    assert_eq!(settled(OPENSSL), Detected::Tls(wanted));
}

#[test]
fn unknown_extensions_and_odd_names_are_passed_over() {
    // GREASE (RFC 8701), a long one of an unknown kind, then a name that is none, then one that is.
    for (name, sni) in [(&b"a\0b.example"[..], None), (b"A_1-b.example", Some("a_1-b.example"))] {
        let extensions = [(0x0a0a, vec![]), (0xfafa, vec![0; 9000]), (SERVER_NAME, name_extension(name))];
        let wanted = ClientHello { sni: sni.map(Into::into), alpn: Vec::new() };
        assert_eq!(settled(&records(&body(&extensions), 16 << 10)), Detected::Tls(wanted));
    }
    let bare = records(&body(&[])[..2 + 32 + 1 + 4 + 2], 4096);
    assert_eq!(settled(&bare), Detected::Tls(ClientHello::default()), "without any extensions");
}

#[test]
fn what_only_begins_like_tls_is_opaque() {
    let good = records(&body(&[]), 4096);
    let with = |index: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[index] = byte;
        settled(&bytes)
    };
    assert_eq!(with(1, 2), Detected::Opaque, "SSL 2");
    assert_eq!(with(5, 2), Detected::Opaque, "a ServerHello");
    assert_eq!(with(6, 1), Detected::Opaque, "64 KiB and more");
    assert_eq!(with(3, 0x7f), Detected::Opaque, "a record that is too long");
    assert_eq!(with(5 + 4 + 34, 255), Detected::Opaque, "a session id that is longer than the hello");
    assert_eq!(settled(&[22, 3, 1, 0, 0, 1]), Detected::Opaque, "an empty record");
    assert_eq!(settled(&records(&body(&[(0, vec![0; DETECT_BYTES])]), 1 << 14)), Detected::Opaque);
}

proptest! {
    #[test]
    fn records_may_break_anywhere(piece in 1..2000_usize) {
        let whole = RUSTLS;
        let broken = records(&whole[9..], piece);
        prop_assert!(matches!(detect(whole), Detected::Tls(_)));
        // Tiny records take more bytes than are looked at; what is told must be right.
        if broken.len() <= DETECT_BYTES {
            prop_assert_eq!(settled(&broken), detect(whole));
        } else {
            prop_assert_eq!(settled(&broken), Detected::Opaque);
        }
    }

    #[test]
    fn any_bytes_settle_once(bytes in any_start()) {
        settled(&bytes);
    }
}

const SERVER_NAME: u16 = 0;
const RUSTLS: &[u8] = include_bytes!("hellos/rustls.bin");
const OPENSSL: &[u8] = include_bytes!("hellos/openssl.bin");

/// Random bytes, most of them after a beginning that gets deep into the parsers.
fn any_start() -> impl Strategy<Value = Vec<u8>> {
    let starts: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"GET ".to_vec(),
        b"PRI * HT".to_vec(),
        vec![22, 3],
        vec![22, 3, 1, 0, 200, 1, 0, 0],
        records(&body(&[]), 4096)[..5 + 4 + 34].to_vec(),
    ];
    (prop::sample::select(starts), prop::collection::vec(any::<u8>(), 0..300))
        .prop_map(|(start, rest)| [start, rest].concat())
}

/// Detects with every prefix: once something was told, more bytes must not change it.
fn settled(bytes: &[u8]) -> Detected {
    let last = detect(bytes);
    for end in 0..bytes.len() {
        let early = detect(&bytes[..end]);
        assert!(early == Detected::NeedMore || early == last, "{early:?} after {end} bytes, then {last:?}");
    }
    last
}

/// A ClientHello's body with these extensions.
fn body(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    let list: Vec<u8> =
        extensions.iter().flat_map(|(kind, data)| [&kind.to_be_bytes()[..], &vec16(data)].concat()).collect();
    body.extend(vec16(&list));
    body
}

fn name_extension(name: &[u8]) -> Vec<u8> {
    vec16(&[&[0][..], &vec16(name)].concat())
}

fn vec16(data: &[u8]) -> Vec<u8> {
    [&u16::try_from(data.len()).unwrap().to_be_bytes()[..], data].concat()
}

/// A ClientHello in records of at most `piece` bytes.
fn records(body: &[u8], piece: usize) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1, length[1], length[2], length[3]][..], body].concat();
    message.chunks(piece).flat_map(|part| [&[22, 3, 1][..], &vec16(part)].concat()).collect()
}
