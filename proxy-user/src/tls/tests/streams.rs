use std::future::poll_fn;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::task::Poll;
use std::thread;

use proxy_core::tls::TlsVersion;
use proxy_io::Chunk;
use rustls::crypto::aws_lc_rs;

use super::peer::{self, *};
use super::pki::Pki;
use crate::tls::{Alpn, Stream, server};

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
            let mut stream = client.connect(endpoint(), Alpn::None, near, HANG).await.unwrap();
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
        let mut stream = server::accept(&server_config(&server), near, early, HANG).await.unwrap();
        echo(&mut stream).await;
        assert_eq!(on_thread(|| client.join().unwrap()).await, LAST_WORDS);
    });
}

#[test]
fn an_end_that_is_expected_is_announced_with_the_last_bytes() {
    let pki = Pki::new();
    let (server, client) = (pki.server(), pki.client());
    on_each_driver(async |driver| {
        for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
            for (total, is_shut) in [(1, false), (12, true), (MIB, false), (MIB, true)] {
                let (far, near) = pair(&driver);
                let config = only_config(&client, version);
                let client = thread::spawn(move || {
                    let mut far = far_client(config, "web.shop", far);
                    far.write_all(b"go").unwrap();
                    let mut received = Vec::new();
                    far.read_to_end(&mut received).map(|_| received)
                });
                let mut stream = accept(&server_config(&server), near).await.unwrap();
                assert_eq!(recv_exactly(&mut stream, 2).await, b"go");
                stream.expect_end();
                send(&mut stream, patterned(0, total)).await.unwrap();
                let refused = send(&mut stream, b"more".to_vec()).await.unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe, "nothing follows");
                if is_shut {
                    poll_fn(|cx| stream.poll_shutdown_write(cx)).await.unwrap();
                }
                drop(stream);
                assert!(on_thread(|| client.join().unwrap()).await.unwrap() == patterned(0, total));
            }
        }
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
                    assert_eq!(error.kind(), std::io::ErrorKind::QuotaExceeded, "{error}");
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
fn an_idle_stream_holds_no_buffers() {
    let pki = Pki::new();
    let (server, client) = (server_config(&pki.server()), peer::client(&pki.client()));
    on_each_driver(async |driver| {
        let (far, near) = connected();
        let (far, near) = (driver.socket(far.into()).unwrap(), driver.socket(near.into()).unwrap());
        let (near, far) =
            tokio::join!(accept(&server, near), client.connect(endpoint(), Alpn::None, far, HANG));
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
