use std::future::poll_fn;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::task::Poll;
use std::thread;

use proxy_core::outcome::Reason;
use proxy_core::tls::{ClientTls, ServerTls, TlsVersion};
use proxy_io::Chunk;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ProtocolVersion, ServerConfig, SupportedCipherSuite};

use super::peer::{self, *};
use super::pki::{Pki, server_of};
use crate::tls::{Alpn, Stream, TlsError, server};

const MIB: usize = 1 << 20;

#[test]
fn a_client_sends_a_mebibyte_and_gets_it_back_with_every_cipher() {
    let pki = Pki::new();
    let (server, client) = (pki.server(), pki.client());
    on_each_driver(async |driver| {
        for suite in aws_lc_rs::ALL_CIPHER_SUITES.iter().filter(|suite| is_ecdsa(suite)) {
            let (far, near) = pair(&driver);
            let config = with_suite(&client, *suite);
            let client =
                thread::spawn(move || ping_to_the_end(&mut far_client(config, "web.shop", far), MIB));
            let mut stream = accept(&server_config(&server), near).await.unwrap();
            let negotiated = stream.negotiated().unwrap();
            assert_eq!(negotiated.version, suite.version().version, "{suite:?}");
            assert_eq!(negotiated.sni.as_deref(), Some("web.shop"));
            assert!(stream.as_plain().is_none());
            echo(&mut stream).await;
            assert_eq!(on_thread(|| client.join().unwrap()).await, LAST_WORDS, "{suite:?}");
        }
    });
}

#[test]
fn an_endpoint_gets_a_mebibyte_and_sends_it_back() {
    let pki = Pki::new();
    let (server, client) = (pki.server(), pki.client());
    on_each_driver(async |driver| {
        for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
            let (far, near) = pair(&driver);
            let config = server_config(&server);
            let echoing = thread::spawn(move || echo_blocking(&mut far_server(&config, far)));
            let client = only(&client, version);
            let mut stream = client.connect(endpoint(), Alpn::None, near).await.unwrap();
            for round in 0..16 {
                let sent = patterned(round, MIB / 16);
                send(&mut stream, sent.clone()).await.unwrap();
                assert!(recv_exactly(&mut stream, sent.len()).await == sent);
            }
            poll_fn(|cx| stream.poll_shutdown_write(cx)).await.unwrap();
            assert_eq!(recv_exactly(&mut stream, LAST_WORDS.len()).await, LAST_WORDS);
            assert!(recv(&mut stream).await.unwrap().is_empty());
            assert!(recv(&mut stream).await.unwrap().is_empty(), "the end stays the end");
            on_thread(|| echoing.join().unwrap()).await;
        }
    });
}

#[test]
fn a_huge_chunk_is_sent_whole_to_a_slow_reader() {
    const TOTAL: usize = 16 * MIB;
    let pki = Pki::new();
    let (server, client) = (pki.server(), pki.client());
    on_each_driver(async |driver| {
        let (far, near) = pair(&driver);
        let config = client_config(&client);
        let (start, started) = std::sync::mpsc::channel();
        let reader = thread::spawn(move || {
            let mut far = far_client(config, "web.shop", far);
            far.write_all(b"go").unwrap();
            started.recv().unwrap();
            let mut received = vec![0; TOTAL];
            far.read_exact(&mut received).unwrap();
            received
        });
        let mut stream = accept(&server_config(&server), near).await.unwrap();
        assert_eq!(recv_exactly(&mut stream, 2).await, b"go");
        let mut chunk = Chunk::from(patterned(0, TOTAL));
        let early = poll_fn(|cx| Poll::Ready(stream.poll_send(cx, &mut chunk))).await;
        assert!(early.is_pending(), "the reader has not begun");
        assert_eq!(chunk.len(), TOTAL, "the chunk keeps its length");
        let busy = poll_fn(|cx| stream.poll_shutdown_write(cx)).await.unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
        start.send(()).unwrap();
        poll_fn(|cx| stream.poll_send(cx, &mut chunk)).await.unwrap();
        assert!(chunk.is_empty());
        assert!(on_thread(|| reader.join().unwrap()).await == patterned(0, TOTAL));
    });
}

#[test]
fn bytes_that_come_one_by_one_are_put_together() {
    let pki = Pki::new();
    let (server, client) = (pki.server(), pki.client());
    on_each_driver(async |driver| {
        for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
            let (far, middle) = connected();
            let (other_middle, near) = pair(&driver);
            let dripping = drip(middle, other_middle);
            let config = only_config(&client, version);
            let client =
                thread::spawn(move || ping_to_the_end(&mut far_client(config, "web.shop", far), 5000));
            let mut stream = accept(&server_config(&server), near).await.unwrap();
            echo(&mut stream).await;
            drop(stream);
            assert_eq!(on_thread(|| client.join().unwrap()).await, LAST_WORDS);
            on_thread(|| dripping.join().unwrap()).await;
        }
    });
}

#[test]
fn what_the_client_has_sent_before_is_part_of_the_handshake() {
    let pki = Pki::new();
    let (server, client) = (pki.server(), pki.client());
    on_each_driver(async |driver| {
        let (far, mut near) = pair(&driver);
        let config = client_config(&client);
        let client = thread::spawn(move || ping_to_the_end(&mut far_client(config, "web.shop", far), 100));
        let early = poll_fn(|cx| near.poll_recv(cx)).await.unwrap();
        let mut stream = server::accept(&server_config(&server), near, early).await.unwrap();
        echo(&mut stream).await;
        assert_eq!(on_thread(|| client.join().unwrap()).await, LAST_WORDS);
    });
}

#[test]
fn an_end_that_was_not_announced_is_an_error() {
    let pki = Pki::new();
    let (server, client) = (pki.server(), pki.client());
    on_each_driver(async |driver| {
        for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
            let (far, near) = pair(&driver);
            let config = only_config(&client, version);
            let client = thread::spawn(move || {
                let mut far = far_client(config, "web.shop", far);
                far.write_all(b"half of a sent").unwrap();
                // No close_notify.
                far.sock.shutdown(Shutdown::Write).unwrap();
                far
            });
            let mut stream = accept(&server_config(&server), near).await.unwrap();
            assert_eq!(recv_exactly(&mut stream, 14).await, b"half of a sent");
            let error = recv(&mut stream).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            on_thread(|| drop(client.join().unwrap())).await;
        }
    });
}

#[test]
fn an_altered_record_is_refused_and_the_peer_is_told() {
    let pki = Pki::new();
    let (server, client) = (pki.server(), pki.client());
    on_each_driver(async |driver| {
        for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
            let (far, near) = pair(&driver);
            let config = only_config(&client, version);
            let client = thread::spawn(move || {
                let mut far = far_client(config, "web.shop", far);
                far.write_all(b"good").unwrap();
                far.read_exact(&mut [0; 4]).unwrap();
                let mut record = Vec::new();
                far.conn.writer().write_all(b"evil").unwrap();
                far.conn.write_tls(&mut record).unwrap();
                *record.last_mut().unwrap() ^= 1;
                far.sock.write_all(&record).unwrap();
                far.read(&mut [0; 4]).unwrap_err().to_string()
            });
            let mut stream = accept(&server_config(&server), near).await.unwrap();
            assert_eq!(recv_exactly(&mut stream, 4).await, b"good");
            send(&mut stream, b"good".to_vec()).await.unwrap();
            let error = recv(&mut stream).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            let refused = send(&mut stream, b"more".to_vec()).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe, "nothing follows the alert");
            let told = on_thread(|| client.join().unwrap()).await;
            assert!(told.contains("BadRecordMac"), "{told}");
        }
    });
}

#[test]
fn keys_are_changed_when_the_peer_changes_its_own() {
    let pki = Pki::new();
    let (server, client) = (pki.server(), pki.client());
    on_each_driver(async |driver| {
        let (far, near) = pair(&driver);
        let config = only_config(&client, TlsVersion::V1_3);
        let client = thread::spawn(move || {
            let mut far = far_client(config, "web.shop", far);
            for _ in 0..5 {
                far.write_all(b"ping").unwrap();
                far.read_exact(&mut [0; 4]).unwrap();
                far.conn.refresh_traffic_keys().unwrap();
            }
            ping_to_the_end(&mut far, 100_000)
        });
        let mut stream = accept(&server_config(&server), near).await.unwrap();
        echo(&mut stream).await;
        assert_eq!(on_thread(|| client.join().unwrap()).await, LAST_WORDS);
    });
}

#[test]
fn a_key_is_changed_before_it_is_worn_out_and_without_a_way_to_do_so_the_stream_ends() {
    let pki = Pki::new();
    let (server, client) = (pki.server(), pki.client());
    on_each_driver(async |driver| {
        for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
            let (far, near) = pair(&driver);
            let config = only_config(&client, version);
            let client = thread::spawn(move || {
                let mut far = far_client(config, "web.shop", far);
                let mut received = Vec::new();
                let _ = far.read_to_end(&mut received);
                received
            });
            let mut stream = accept(&server_config(&server), near).await.unwrap();
            let Stream::Tls(inner) = &mut stream else { panic!("plain") };
            inner.session().sealer().set_left(3);
            let mut sent = Vec::new();
            for round in 0..6 {
                if let Err(error) = send(&mut stream, vec![round; 5]).await {
                    assert!(error.to_string().contains("worn out"), "{error}");
                    break;
                }
                sent.extend([round; 5]);
            }
            assert_eq!(sent.len(), if version == TlsVersion::V1_2 { 15 } else { 30 });
            drop(stream);
            assert_eq!(on_thread(|| client.join().unwrap()).await, sent);
        }
    });
}

#[test]
fn a_flood_of_key_changes_ends_the_session() {
    let pki = Pki::new();
    let (server, client) = (pki.server(), pki.client());
    on_each_driver(async |driver| {
        let (far, near) = pair(&driver);
        let config = only_config(&client, TlsVersion::V1_3);
        let client = thread::spawn(move || {
            let mut far = far_client(config, "web.shop", far);
            far.write_all(b"ping").unwrap();
            for _ in 0..40 {
                far.conn.refresh_traffic_keys().unwrap();
                while far.conn.wants_write() {
                    far.conn.write_tls(&mut far.sock).unwrap();
                }
            }
            far.sock
        });
        let mut stream = accept(&server_config(&server), near).await.unwrap();
        assert_eq!(recv_exactly(&mut stream, 4).await, b"ping");
        let error = recv(&mut stream).await.unwrap_err();
        assert!(error.to_string().contains("too many records without content"), "{error}");
        on_thread(|| drop(client.join().unwrap())).await;
    });
}

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
                    let (server, client) =
                        tokio::join!(accept(&config, near), client.connect(endpoint(), Alpn::None, far));
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
                tokio::join!(accept(&config, near), client.connect(endpoint, Alpn::None, far));
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
            let connected = peer::client(client).connect(endpoint(), Alpn::None, near).await;
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
        let error = peer::client(&client).connect(endpoint(), Alpn::None, near).await.err().unwrap();
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
            let (server, client) = tokio::join!(accept(&server, near), client.connect(endpoint(), alpn, far));
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
            let _ = far.read(&mut [0; 8]);
        });
        let error = accept(&config, near).await.err().unwrap();
        assert_eq!(error.reason(), Reason::TlsHandshake, "{error}");
        on_thread(|| writing.join().unwrap()).await;
    });
}

#[test]
fn an_idle_stream_holds_no_buffers() {
    let pki = Pki::new();
    let (server, client) = (server_config(&pki.server()), peer::client(&pki.client()));
    on_each_driver(async |driver| {
        let (far, near) = connected();
        let (far, near) = (driver.socket(far.into()).unwrap(), driver.socket(near.into()).unwrap());
        let (near, far) = tokio::join!(accept(&server, near), client.connect(endpoint(), Alpn::None, far));
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        for (from, to) in [(&mut near, &mut far)] {
            let (_, received) =
                tokio::join!(async { send(from, patterned(0, MIB)).await.unwrap() }, recv_exactly(to, MIB));
            assert!(received == patterned(0, MIB));
        }
        for stream in [near, far] {
            let Stream::Tls(stream) = stream else { panic!("plain") };
            assert_eq!(stream.held_bytes(), 0);
        }
        assert_eq!(driver.counters().held_bytes, 0);
        assert_eq!(driver.counters().buffers_leased, 0);
        assert!(size_of::<crate::tls::TlsStream>() < 1024, "{}", size_of::<crate::tls::TlsStream>());
    });
}

/// Only with ECDSA keys, as [`Pki`] makes them, or without a say in it.
fn is_ecdsa(suite: &SupportedCipherSuite) -> bool {
    !format!("{:?}", suite.suite()).contains("RSA")
}

fn with_suite(tls: &ClientTls, suite: SupportedCipherSuite) -> ClientConfig {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![suite];
    let mut roots = rustls::RootCertStore::empty();
    let ca = crate::tls::cert::load_roots(tls.ca.as_ref().unwrap()).unwrap();
    roots.extend(ca.roots);
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[suite.version()])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A far client that speaks one version only.
fn only_config(tls: &ClientTls, version: TlsVersion) -> ClientConfig {
    let wanted = match version {
        TlsVersion::V1_2 => ProtocolVersion::TLSv1_2,
        TlsVersion::V1_3 => ProtocolVersion::TLSv1_3,
    };
    let is_wanted = |suite: &&SupportedCipherSuite| suite.version().version == wanted && is_ecdsa(suite);
    with_suite(tls, *aws_lc_rs::ALL_CIPHER_SUITES.iter().find(is_wanted).unwrap())
}

/// A client of ours that speaks one version only.
fn only(tls: &ClientTls, version: TlsVersion) -> crate::tls::Client {
    crate::tls::Client::with_template(tls, only_config(tls, version))
}

fn only_server(tls: &ServerTls, version: TlsVersion) -> Arc<ServerConfig> {
    let versions = match version {
        TlsVersion::V1_2 => &[&rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let resolver = Arc::clone(&server_config(tls).cert_resolver);
    let builder = ServerConfig::builder_with_provider(super::pki::provider());
    Arc::new(
        builder.with_protocol_versions(versions).unwrap().with_no_client_auth().with_cert_resolver(resolver),
    )
}

/// Passes bytes on one by one in both directions, each in a segment of its own.
fn drip(left: TcpStream, right: TcpStream) -> thread::JoinHandle<()> {
    fn one_way(mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            for byte in &buffer[..count] {
                if to.write_all(&[*byte]).is_err() {
                    return;
                }
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
    let (left_too, right_too) = (left.try_clone().unwrap(), right.try_clone().unwrap());
    thread::spawn(move || {
        let back = thread::spawn(move || one_way(right_too, left_too));
        one_way(left, right);
        back.join().unwrap();
    })
}
