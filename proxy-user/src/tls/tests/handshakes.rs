use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use proxy_core::outcome::Reason;
use proxy_core::tls::{ClientTls, ServerTls, TlsVersion};
use proxy_io::Chunk;

use super::peer::{self, *};
use super::pki::{Pki, server_of};
use crate::tls::{Alpn, TlsError, server};

#[test]
fn sessions_are_resumed_on_both_sides_of_the_proxy() {
    let pki = Pki::new();
    let (server, client) = (pki.server(), pki.client());
    on_each_driver(async |driver| {
        for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
            for is_resuming in [true, false] {
                let config = server_config(&ServerTls { is_resuming, ..server.clone() });
                let client = only(&client, version);
                for round in 0..3 {
                    let (far, near) = connected();
                    let (far, near) =
                        (driver.socket(far.into()).unwrap(), driver.socket(near.into()).unwrap());
                    let (server, client) = tokio::join!(
                        accept(&config, near),
                        client.connect(endpoint(), Alpn::None, far, HANG)
                    );
                    let (mut server, mut client) = (server.unwrap(), client.unwrap());
                    // Tickets come with the first bytes.
                    send(&mut server, b"hello".to_vec()).await.unwrap();
                    assert_eq!(recv_exactly(&mut client, 5).await, b"hello");
                    for stream in [&server, &client] {
                        let is_resumed = stream.negotiated().unwrap().is_resumed;
                        assert_eq!(is_resumed, is_resuming && round > 0, "{version:?}, round {round}");
                    }
                }
            }
        }
    });
}

#[test]
fn another_endpoint_is_not_offered_the_first_ones_session() {
    let pki = Pki::new();
    let client = peer::client(&pki.client());
    let config = server_config(&pki.server());
    on_each_driver(async |driver| {
        for port in [1, 2] {
            let (far, near) = connected();
            let (far, near) = (driver.socket(far.into()).unwrap(), driver.socket(near.into()).unwrap());
            let driver_port = port + if driver.kind() == proxy_io::DriverKind::Ring { 10 } else { 0 };
            let endpoint = std::net::SocketAddr::from(([127, 0, 0, 1], driver_port));
            let (server, client) =
                tokio::join!(accept(&config, near), client.connect(endpoint, Alpn::None, far, HANG));
            let (mut server, mut client) = (server.unwrap(), client.unwrap());
            send(&mut server, b"hello".to_vec()).await.unwrap();
            recv_exactly(&mut client, 5).await;
            assert!(!client.negotiated().unwrap().is_resumed);
        }
    });
}

#[test]
fn the_certificate_is_the_one_for_the_name_that_was_asked_for() {
    let pki = Pki::new();
    let server = server_of(vec![
        pki.certificate("first", &["first.shop"]),
        pki.certificate("wild", &["*.wild.shop", "wild.shop"]),
        pki.certificate("exact", &["exact.wild.shop"]),
    ]);
    let config = server_config(&server);
    on_each_driver(async |driver| {
        for (name, wanted) in [
            ("first.shop", Ok("first.pem")),
            ("exact.wild.shop", Ok("exact.pem")),
            ("Any.Wild.shop", Ok("wild.pem")),
            ("wild.shop", Ok("wild.pem")),
            ("two.labels.wild.shop", Err("the first one answers, for another name")),
            ("127.0.0.1", Err("no name was asked for")),
        ] {
            let (far, near) = pair(&driver);
            let client = client_config(&pki.client());
            let shown = thread::spawn(move || {
                let mut far = far_client(client, name, far);
                let flushed = far.flush();
                let shown = far.conn.peer_certificates().map(|chain| chain[0].to_vec());
                flushed.map(|()| shown.unwrap()).map_err(|error| error.to_string())
            });
            let accepted = accept(&config, near).await;
            let shown = on_thread(|| shown.join().unwrap()).await;
            match (wanted, shown) {
                (Ok(file), Ok(shown)) => {
                    use rustls::pki_types::pem::PemObject as _;
                    let file = rustls::pki_types::CertificateDer::from_pem_file(pki.path(file)).unwrap();
                    assert!(file.to_vec() == shown, "{name}");
                    assert!(accepted.is_ok());
                }
                (Err(_), Err(error)) => {
                    assert!(error.contains("not valid for name") && error.contains("first.shop"), "{error}");
                    let Err(refused @ TlsError::Refused(_)) = accepted else { panic!("{name}") };
                    assert_eq!(refused.reason(), Reason::TlsCertificate);
                }
                (wanted, shown) => panic!("{name}: {wanted:?}, but {shown:?}"),
            }
        }
    });
}

#[test]
fn an_endpoint_with_a_certificate_for_another_name_is_refused_and_told() {
    let pki = Pki::new();
    let (other, stranger) = (Pki::new(), Pki::new());
    let server = pki.server();
    let wrong_name = ClientTls { sni: Some("db.shop".to_owned()), ..pki.client() };
    let by_address = ClientTls { sni: None, ..pki.client() };
    let unknown_authority = ClientTls { ca: Some(other.ca()), ..pki.client() };
    let expired = server_of(vec![stranger.certificate_until("old", &["web.shop"], 2024)]);
    on_each_driver(async |driver| {
        for (server, client, wanted) in [
            (&server, &by_address, None),
            (&server, &wrong_name, Some("not valid for name")),
            (&server, &unknown_authority, Some("UnknownIssuer")),
            (&expired, &stranger.client(), Some("certificate expired")),
        ] {
            let (far, near) = pair(&driver);
            let config = server_config(server);
            let told = thread::spawn(move || {
                let mut far = far_server(&config, far);
                far.read(&mut [0; 1]).map_err(|error| error.to_string())
            });
            let connected = peer::client(client).connect(endpoint(), Alpn::None, near, HANG).await;
            let reason = connected.as_ref().err().map(TlsError::reason);
            match (connected, wanted) {
                (Ok(mut stream), None) => poll_fn(|cx| stream.poll_shutdown_write(cx)).await.unwrap(),
                (Err(error), Some(wanted)) => {
                    assert!(error.to_string().contains(wanted), "{error}");
                    assert_eq!(reason, Some(Reason::TlsCertificate));
                }
                (connected, wanted) => panic!("{wanted:?}, but {:?}", connected.err()),
            }
            let told = on_thread(|| told.join().unwrap()).await;
            assert_eq!(told.is_err(), wanted.is_some(), "{told:?}");
            if let Err(told) = told {
                assert!(told.contains("received fatal alert"), "{told}");
            }
        }
    });
}

#[test]
fn clients_must_show_a_certificate_of_the_right_authority_and_name() {
    let pki = Pki::new();
    let other = Pki::new();
    let good = pki.certificate("client", &["spiffe://shop/web", "Client.Shop"]);
    let strange = other.certificate("client", &["spiffe://shop/web"]);
    let with = |certificate| ClientTls { certificate: Some(certificate), ..pki.client() };
    let (good, strange, none) = (with(good), with(strange), pki.client());
    on_each_driver(async |driver| {
        for (is_required, san, client, wanted) in [
            (true, &[][..], &good, Ok(true)),
            (true, &["db.shop", "spiffe://shop/web"], &good, Ok(true)),
            (true, &["*.shop"], &good, Ok(true)),
            (true, &["*.client.shop"], &good, Err("AccessDenied")),
            (true, &["spiffe://shop/Web"], &good, Err("AccessDenied")),
            (true, &[], &none, Err("CertificateRequired")),
            (true, &[], &strange, Err("UnknownCA")),
            (false, &[], &none, Ok(false)),
            (false, &[], &strange, Err("UnknownCA")),
            (false, &["db.shop"], &good, Err("AccessDenied")),
        ] {
            let (far, near) = pair(&driver);
            let config = client_config(client);
            let told = thread::spawn(move || {
                let mut far = far_client(config, "web.shop", far);
                far.write_all(b"ping").unwrap();
                far.read_exact(&mut [0; 4]).map_err(|error| error.to_string())
            });
            let config = server_config(&pki.asking_server(is_required, san));
            let accepted = accept(&config, near).await;
            match (accepted, wanted) {
                (Ok(mut stream), Ok(is_known)) => {
                    assert_eq!(stream.negotiated().unwrap().client.is_some(), is_known);
                    if let Some(client) = &stream.negotiated().unwrap().client {
                        assert!(client.subject.contains("CN=client"), "{client:?}");
                        assert_eq!(client.names, ["client.shop", "spiffe://shop/web"]);
                    }
                    let ping = recv_exactly(&mut stream, 4).await;
                    send(&mut stream, ping).await.unwrap();
                    on_thread(|| told.join().unwrap()).await.unwrap();
                }
                (Err(error), Err(alert)) => {
                    assert_eq!(error.reason(), Reason::TlsCertificate, "{error}");
                    let told = on_thread(|| told.join().unwrap()).await.unwrap_err();
                    assert!(told.contains(alert), "{told}");
                }
                (accepted, wanted) => panic!("{san:?}: {wanted:?}, but {:?}", accepted.err()),
            }
        }
    });
}

#[test]
fn an_old_version_is_refused_where_the_lowest_is_higher() {
    let pki = Pki::new();
    let server = ServerTls { min_version: TlsVersion::V1_3, ..pki.server() };
    on_each_driver(async |driver| {
        let (far, near) = pair(&driver);
        let config = only_config(&pki.client(), TlsVersion::V1_2);
        let told =
            thread::spawn(move || far_client(config, "web.shop", far).flush().unwrap_err().to_string());
        let error = accept(&server_config(&server), near).await.err().unwrap();
        assert_eq!(error.reason(), Reason::TlsHandshake, "{error}");
        let told = on_thread(|| told.join().unwrap()).await;
        assert!(told.contains("ProtocolVersion"), "{told}");
        let (far, near) = pair(&driver);
        let config = only_server(&pki.server(), TlsVersion::V1_2);
        let told = thread::spawn(move || far_server(&config, far).read(&mut [0; 1]).unwrap_err().to_string());
        let client = ClientTls { min_version: TlsVersion::V1_3, ..pki.client() };
        let error = peer::client(&client).connect(endpoint(), Alpn::None, near, HANG).await.err().unwrap();
        assert_eq!(error.reason(), Reason::TlsHandshake, "{error}");
        on_thread(|| told.join().unwrap()).await;
    });
}

#[test]
fn the_protocol_inside_is_agreed_on() {
    let pki = Pki::new();
    let mut server = server::build(&pki.server(), &super::pki::provider()).unwrap().0;
    server.alpn_protocols = Alpn::Http1.protocols();
    let server = Arc::new(server);
    let client = peer::client(&pki.client());
    on_each_driver(async |driver| {
        for (alpn, wanted) in [(Alpn::Http1, Some(&b"http/1.1"[..])), (Alpn::None, None)] {
            let (far, near) = connected();
            let (far, near) = (driver.socket(far.into()).unwrap(), driver.socket(near.into()).unwrap());
            let (server, client) =
                tokio::join!(accept(&server, near), client.connect(endpoint(), alpn, far, HANG));
            for stream in [server.unwrap(), client.unwrap()] {
                assert_eq!(stream.negotiated().unwrap().alpn.as_deref(), wanted);
            }
        }
    });
}

#[test]
fn what_is_not_tls_is_refused_at_once() {
    let pki = Pki::new();
    let config = server_config(&pki.server());
    on_each_driver(async |driver| {
        for text in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\xff\xff", &[22, 3, 1, 0, 4, 9, 0, 0, 0]] {
            let (mut far, near) = pair(&driver);
            far.write_all(text).unwrap();
            let reading = thread::spawn(move || {
                let mut answer = Vec::new();
                far.read_to_end(&mut answer).unwrap();
                answer
            });
            let error = accept(&config, near).await.err().unwrap();
            assert_eq!(error.reason(), Reason::TlsHandshake, "{error}");
            let answer = on_thread(|| reading.join().unwrap()).await;
            assert_eq!((answer[0], answer.len()), (21, 7), "an alert in the clear: {answer:?}");
        }
        let (far, near) = pair(&driver);
        drop(far);
        assert!(matches!(accept(&config, near).await, Err(TlsError::Closed)));
    });
}

#[test]
fn who_is_too_slow_is_told_if_it_has_begun_and_has_no_keys_yet() {
    /// user_canceled and close_notify, both warnings in the clear.
    const CANCELED: [u8; 14] = [21, 3, 3, 0, 2, 1, 90, 21, 3, 3, 0, 2, 1, 0];
    /// Time in which a busy machine gets to what has arrived already.
    const LIMIT: Duration = Duration::from_millis(300);
    let pki = Pki::new();
    let (server, client) = (pki.server(), pki.client());
    on_each_driver(async |driver| {
        let reading = |mut far: TcpStream| {
            thread::spawn(move || {
                let mut answer = Vec::new();
                far.read_to_end(&mut answer).map(|_| answer)
            })
        };
        for (begins, wanted) in
            [(&b""[..], &b""[..]), (b"\x16", &CANCELED), (b"\x16\x03\x01\x02\x00\x01", &CANCELED)]
        {
            let (mut far, near) = pair(&driver);
            far.write_all(begins).unwrap();
            let answer = reading(far);
            let error =
                server::accept(&server_config(&server), near, Chunk::default(), LIMIT).await.err().unwrap();
            assert_eq!(error.reason(), Reason::TlsTimeout, "{error}");
            assert_eq!(on_thread(|| answer.join().unwrap()).await.unwrap(), wanted, "after {begins:?}");
        }
        // Keys are in use after the hello of each side.
        let (far, near) = pair(&driver);
        let mut far = far_client(client_config(&client), "web.shop", far);
        far.conn.write_tls(&mut far.sock).unwrap();
        let answer = reading(far.sock);
        let error =
            server::accept(&server_config(&server), near, Chunk::default(), LIMIT).await.err().unwrap();
        assert!(matches!(error, TlsError::TimedOut(LIMIT)), "{error}");
        let answer = on_thread(|| answer.join().unwrap()).await.unwrap();
        assert!(answer.len() > 200 && !answer.ends_with(&CANCELED), "a flight of the server's and no more");

        let (far, near) = pair(&driver);
        let answer = reading(far);
        let client = peer::client(&client);
        let error = client.connect(endpoint(), Alpn::None, near, LIMIT).await.err().unwrap();
        assert!(matches!(error, TlsError::TimedOut(LIMIT)), "{error}");
        let answer = on_thread(|| answer.join().unwrap()).await.unwrap();
        assert!(answer.len() > 200 && answer.ends_with(&CANCELED), "a hello, and that it is not waited for");
    });
}

#[test]
fn a_handshake_takes_no_more_memory_than_it_may() {
    let pki = Pki::new();
    let config = server_config(&pki.server());
    on_each_driver(async |driver| {
        let (mut far, near) = pair(&driver);
        let writing = thread::spawn(move || {
            // A hello of nearly 64 KiB, in records of one byte.
            let hello = [&[1, 0, 0xff, 0][..], &vec![0; 0xff00]].concat();
            let records: Vec<u8> = hello.iter().flat_map(|byte| [22, 3, 1, 0, 1, *byte]).collect();
            let _ = far.write_all(&records);
            let mut answer = [0; 7];
            far.read_exact(&mut answer).unwrap();
            answer
        });
        let error = accept(&config, near).await.err().unwrap();
        assert_eq!(error.reason(), Reason::TlsHandshake, "{error}");
        let answer = on_thread(|| writing.join().unwrap()).await;
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, 50], "decode_error");
    });
}
