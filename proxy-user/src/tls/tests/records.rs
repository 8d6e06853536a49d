//! Records that a peer with the right keys should not send, and those that are made.

use std::io;

use proxy_core::tls::TlsVersion;
use proxy_io::{Chunk, Driver};
use rustls::{AlertDescription, ContentType};

use super::peer::*;
use super::pki::Pki;
use crate::tls::seal::{HEAD_BYTES, PLAIN_BYTES};
use crate::tls::{Alpn, Stream, TlsStream};

const DATA: ContentType = ContentType::ApplicationData;
const HANDSHAKE: ContentType = ContentType::Handshake;

/// A client and a server of ours, connected, whose session is established on both sides.
async fn established(driver: &Driver, pki: &Pki, version: TlsVersion) -> (TlsStream, Stream) {
    let (far, near) = connected();
    let (far, near) = (driver.socket(far.into()).unwrap(), driver.socket(near.into()).unwrap());
    let (server, client) = (server_config(&pki.server()), only(&pki.client(), version));
    let (server, client) =
        tokio::join!(accept(&server, near), client.connect(endpoint(), Alpn::None, far, HANG));
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    send(&mut server, b"hello".to_vec()).await.unwrap();
    assert_eq!(recv_exactly(&mut client, 5).await, b"hello");
    let Stream::Tls(client) = client else { panic!("plain") };
    (*client, server)
}

/// Records of these kinds with these contents, sealed as the client's next ones.
fn sealed(client: &mut TlsStream, records: &[(ContentType, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, content) in records {
        client.session().sealer().seal(*kind, content, &mut out).unwrap();
    }
    out
}

#[test]
fn records_that_must_not_be_end_the_session_with_the_alert_for_them() {
    use AlertDescription::{BadRecordMac, DecodeError, IllegalParameter, RecordOverflow, UnexpectedMessage};
    use TlsVersion::{V1_2, V1_3};
    const BOTH: &[TlsVersion] = &[V1_2, V1_3];
    let (full, over) = (vec![7; PLAIN_BYTES], vec![7; PLAIN_BYTES + 1]);
    // What follows the type is padding: the one that the sealer puts at the end.
    let padded = [&full[..], &[u8::from(DATA)]].concat();
    let empty = vec![(DATA, &b""[..]); 33];
    type Case<'a> = (&'a [TlsVersion], &'a [(ContentType, &'a [u8])], AlertDescription);
    let cases: [Case<'_>; 22] = [
        (BOTH, &[(DATA, &over)], RecordOverflow),
        (&[V1_3], &[(ContentType::Unknown(0), &padded)], RecordOverflow),
        (&[V1_3], &[(ContentType::Unknown(0), b"")], UnexpectedMessage),
        (&[V1_3], &[(ContentType::Unknown(0), &[0; 99])], UnexpectedMessage),
        (BOTH, &empty, UnexpectedMessage),
        (BOTH, &[(ContentType::ChangeCipherSpec, &[1])], UnexpectedMessage),
        (BOTH, &[(ContentType::Heartbeat, &[1, 0, 9])], UnexpectedMessage),
        (BOTH, &[(ContentType::Unknown(99), &[1])], UnexpectedMessage),
        (BOTH, &[(HANDSHAKE, &[])], UnexpectedMessage),
        (BOTH, &[(ContentType::Alert, &[])], UnexpectedMessage),
        (BOTH, &[(ContentType::Alert, &[2])], DecodeError),
        (BOTH, &[(ContentType::Alert, &[1, 0, 1, 0])], DecodeError),
        // A ClientHello, a HelloRequest and a ticket: the head alone is enough to refuse them.
        (BOTH, &[(HANDSHAKE, &[1, 0, 1, 0])], UnexpectedMessage),
        (BOTH, &[(HANDSHAKE, &[0, 0, 0, 0])], UnexpectedMessage),
        (BOTH, &[(HANDSHAKE, &[4, 0, 200, 0])], UnexpectedMessage),
        (&[V1_2], &[(HANDSHAKE, &[24, 0, 0, 1, 0])], UnexpectedMessage),
        (&[V1_3], &[(HANDSHAKE, &[24, 0, 0, 1, 2])], IllegalParameter),
        (&[V1_3], &[(HANDSHAKE, &[24, 0, 0, 0])], DecodeError),
        (&[V1_3], &[(HANDSHAKE, &[24, 0, 0, 2])], DecodeError),
        (&[V1_3], &[(HANDSHAKE, &[24, 0, 0, 1, 0, 24])], UnexpectedMessage),
        (&[V1_3], &[(HANDSHAKE, &[24, 0]), (DATA, b"x")], UnexpectedMessage),
        (&[V1_3], &[(HANDSHAKE, &[24, 0, 0, 1, 0]), (DATA, b"with the old key")], BadRecordMac),
    ];
    let pki = Pki::new();
    on_each_driver(async |driver| {
        for (number, (versions, records, alert)) in cases.iter().enumerate() {
            for version in *versions {
                let (mut client, server) = established(&driver, &pki, *version).await;
                let bytes = sealed(&mut client, records);
                refused(client, server, bytes, *alert, &format!("{version:?}, case {number}")).await;
            }
        }
    });
}

#[test]
fn what_is_no_record_of_the_session_ends_it() {
    use AlertDescription::{BadRecordMac, RecordOverflow, UnexpectedMessage};
    let pki = Pki::new();
    on_each_driver(async |driver| {
        for (version, head, alert) in [
            (TlsVersion::V1_3, [23, 3, 3, 0x41, 0x01], RecordOverflow),
            (TlsVersion::V1_2, [23, 3, 3, 0x48, 0x01], RecordOverflow),
            (TlsVersion::V1_3, [20, 3, 3, 0, 1], UnexpectedMessage),
            (TlsVersion::V1_3, [22, 3, 3, 0, 9], UnexpectedMessage),
            (TlsVersion::V1_3, [21, 3, 3, 0, 2], UnexpectedMessage),
            (TlsVersion::V1_3, [23, 3, 1, 0, 17], UnexpectedMessage),
            (TlsVersion::V1_2, [23, 3, 1, 0, 25], UnexpectedMessage),
        ] {
            let (client, server) = established(&driver, &pki, version).await;
            refused(client, server, head.to_vec(), alert, &format!("{head:?}")).await;
        }
        for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
            for length in [0, 1, 15, 16, 23, 24] {
                let (client, server) = established(&driver, &pki, version).await;
                let short = [&[23, 3, 3, 0, length][..], &vec![0; usize::from(length)]].concat();
                refused(client, server, short, BadRecordMac, &format!("{length} bytes")).await;
            }
            // What came before it is good, the second copy is not.
            let (mut client, mut server) = established(&driver, &pki, version).await;
            let record = sealed(&mut client, &[(DATA, b"once")]);
            client.send_raw([&record[..], &record].concat()).await;
            assert_eq!(recv_exactly(&mut server, 4).await, b"once");
            refused(client, server, Vec::new(), BadRecordMac, "a record again").await;
        }
    });
}

/// Sends bytes that the server must refuse, and gives it the chance to say so.
async fn refused(
    mut client: TlsStream,
    mut server: Stream,
    bytes: Vec<u8>,
    alert: AlertDescription,
    what: &str,
) {
    if !bytes.is_empty() {
        client.send_raw(bytes).await;
    }
    let error = recv(&mut server).await.map(|bytes| bytes.len()).expect_err(what);
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{what}: {error}");
    let told = recv(&mut Stream::Tls(Box::new(client))).await.unwrap_err();
    assert_eq!(told.kind(), io::ErrorKind::ConnectionReset, "{what}: {told}");
    assert!(told.to_string().ends_with(&format!("{alert:?}")), "{what}: {told}, wanted {alert:?}");
}

#[test]
fn what_may_come_besides_data_changes_nothing() {
    let pki = Pki::new();
    let full = vec![7; PLAIN_BYTES];
    let padded = [b"padded", &[u8::from(DATA)][..], &[0; 200]].concat();
    on_each_driver(async |driver| {
        for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
            let (mut client, mut server) = established(&driver, &pki, version).await;
            for _ in 0..2 {
                let mut records = vec![(DATA, &b""[..]); 30];
                // user_canceled announces an end that need not come.
                records.push((ContentType::Alert, &[1, 90]));
                records.push((DATA, b"data"));
                let bytes = sealed(&mut client, &records);
                client.send_raw(bytes).await;
                assert_eq!(recv_exactly(&mut server, 4).await, b"data");
            }
            let bytes = sealed(&mut client, &[(DATA, &full)]);
            client.send_raw(bytes).await;
            assert!(recv_exactly(&mut server, PLAIN_BYTES).await == full);
            if version == TlsVersion::V1_3 {
                let bytes = sealed(&mut client, &[(ContentType::Unknown(0), &padded)]);
                client.send_raw(bytes).await;
                assert_eq!(recv_exactly(&mut server, 6).await, b"padded");
            }
            // Whatever follows the end is not looked at.
            let bytes = sealed(&mut client, &[(ContentType::Alert, &[1, 0]), (DATA, b"late")]);
            client.send_raw([&bytes[..], b"nonsense"].concat()).await;
            assert!(recv(&mut server).await.unwrap().is_empty());
        }
    });
}

#[test]
fn a_session_that_failed_is_not_ended_as_if_all_was_well() {
    let pki = Pki::new();
    on_each_driver(async |driver| {
        let (mut client, mut server) = established(&driver, &pki, TlsVersion::V1_3).await;
        // The server is in the middle of sending when it gets to see what is wrong, so it cannot tell at once.
        let mut chunk = Chunk::from(vec![1; 32 << 20]);
        let sending =
            std::future::poll_fn(|cx| std::task::Poll::Ready(server.poll_send(cx, &mut chunk))).await;
        assert!(sending.is_pending());
        let bytes = sealed(&mut client, &[(ContentType::ChangeCipherSpec, &[1])]);
        client.send_raw(bytes).await;
        recv(&mut server).await.unwrap_err();
        let mut client = Stream::Tls(Box::new(client));
        let reading = async {
            loop {
                match recv(&mut client).await {
                    Ok(bytes) if bytes.is_empty() => panic!("an end in order"),
                    Ok(_) => {}
                    Err(error) => return error,
                }
            }
        };
        let ending = async {
            let error = std::future::poll_fn(|cx| server.poll_send(cx, &mut chunk)).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
            std::future::poll_fn(|cx| server.poll_shutdown_write(cx)).await.unwrap();
        };
        let (told, ()) = tokio::join!(reading, ending);
        assert!(told.to_string().ends_with("UnexpectedMessage"), "{told}");
    });
}

#[test]
fn records_are_as_large_as_they_may_be_whatever_the_parts() {
    let pki = Pki::new();
    on_each_driver(async |driver| {
        for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
            let (mut client, mut server) = established(&driver, &pki, version).await;
            for (parts, records) in [
                (&[8192, 8192][..], 1),
                (&[8192; 8], 4),
                (&[5000; 20], 7),
                (&[1, PLAIN_BYTES], 2),
                (&[PLAIN_BYTES], 1),
                (&[3 * PLAIN_BYTES + 1, 1], 4),
                (&[1], 1),
            ] {
                let total = parts.iter().sum();
                let bytes = patterned(0, total);
                let mut rest = &bytes[..];
                let parts = parts.iter().map(|len| rest.split_off(..*len).unwrap());
                let mut out = Vec::new();
                client.session().seal(parts, &mut out).unwrap();
                assert_eq!(heads(&out), records, "{total} bytes");
                client.send_raw(out).await;
                assert!(recv_exactly(&mut server, total).await == bytes);
            }
        }
    });
}

#[test]
fn a_key_is_changed_between_the_records_of_one_send() {
    let pki = Pki::new();
    on_each_driver(async |driver| {
        let (mut client, mut server) = established(&driver, &pki, TlsVersion::V1_3).await;
        client.session().sealer().set_left(2);
        let mut client = Stream::Tls(Box::new(client));
        let bytes = patterned(0, 5 * PLAIN_BYTES);
        let (sent, received) =
            tokio::join!(send(&mut client, bytes.clone()), recv_exactly(&mut server, bytes.len()));
        sent.unwrap();
        assert!(received == bytes);
    });
}

/// Counts records.
fn heads(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() {
        bytes = &rest[usize::from(u16::from_be_bytes([head[3], head[4]]))..];
        count += 1;
    }
    count
}
