//! The same against another implementation.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use proxy_core::outcome::Reason;
use proxy_core::tls::{ClientTls, TlsVersion};
use proxy_io::{Driver, Socket};
use rustls::ProtocolVersion;

use super::peer::{self, *};
use super::pki::Pki;
use crate::tls::Alpn;

#[test]
fn s_client_gets_back_what_it_sends() {
    if !is_installed() {
        return;
    }
    const TOTAL: usize = 300_000;
    let pki = Pki::new();
    let config = server_config(&pki.server());
    on_each_driver(async |driver| {
        for options in [
            &["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"][..],
            &["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
            &["-tls1_3", "-curves", "P-384", "-record_padding", "1000"],
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"],
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305", "-split_send_frag", "512"],
        ] {
            let (mut client, near) = s_client(&driver, &pki, &[&["-quiet"], options].concat()).await;
            let mut input = client.stdin.take().unwrap();
            let writing = thread::spawn(move || {
                input.write_all(&patterned(0, TOTAL)).unwrap();
                input
            });
            let mut stream = accept(&config, near).await.unwrap();
            assert_eq!(stream.negotiated().unwrap().sni.as_deref(), Some("web.shop"));
            let received = recv_exactly(&mut stream, TOTAL).await;
            send(&mut stream, received).await.unwrap();
            std::future::poll_fn(|cx| stream.poll_shutdown_write(cx)).await.unwrap();
            let output = on_thread(move || {
                drop(writing.join().unwrap());
                client.wait_with_output().unwrap()
            });
            let output = output.await;
            assert!(output.stdout == patterned(0, TOTAL), "{options:?}: {output:?}");
        }
    });
}

#[test]
fn keys_are_changed_when_s_client_asks_for_it() {
    if !is_installed() {
        return;
    }
    let pki = Pki::new();
    let config = server_config(&pki.server());
    on_each_driver(async |driver| {
        let (mut client, near) = s_client(&driver, &pki, &["-tls1_3"]).await;
        let talking = thread::spawn(move || {
            let (mut input, output) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
            let mut said = BufReader::new(client.stderr.take().unwrap()).lines();
            let mut lines = BufReader::new(output).lines();
            let mut says = |line: &str| assert!(lines.any(|one| one.unwrap() == line), "never says {line}");
            for round in ["first", "second", "third"] {
                writeln!(input, "{round}").unwrap();
                says(round);
                writeln!(input, "K").unwrap();
                assert!(said.any(|line| line.unwrap() == "KEYUPDATE"));
            }
            writeln!(input, "last").unwrap();
            says("last");
            writeln!(input, "Q").unwrap();
            client.wait().unwrap();
        });
        let mut stream = accept(&config, near).await.unwrap();
        echo(&mut stream).await;
        on_thread(move || talking.join().unwrap()).await;
    });
}

#[test]
fn renegotiation_is_refused() {
    if !is_installed() {
        return;
    }
    let pki = Pki::new();
    let config = server_config(&pki.server());
    on_each_driver(async |driver| {
        let (mut client, near) = s_client(&driver, &pki, &["-tls1_2", "-legacy_renegotiation"]).await;
        let mut input = client.stdin.take().unwrap();
        input.write_all(b"R\n").unwrap();
        let mut stream = accept(&config, near).await.unwrap();
        let error = recv(&mut stream).await.unwrap_err();
        assert!(error.to_string().contains("handshake message out of turn"), "{error}");
        drop(stream);
        let output = on_thread(move || client.wait_with_output().unwrap()).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("unexpected message") || said.contains("unexpected_message"), "{said}");
        drop(input);
    });
}

/// The alert comes after a ServerHello, and so inside the first records that are protected.
#[test]
fn a_client_that_understands_no_certificate_is_told() {
    if !is_installed() {
        return;
    }
    let pki = Pki::new();
    let config = server_config(&pki.server());
    on_each_driver(async |driver| {
        for options in
            [&["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"][..], &["-tls1_2", "-sigalgs", "RSA+SHA256"]]
        {
            let (client, near) = s_client(&driver, &pki, options).await;
            let error = accept(&config, near).await.err().unwrap();
            assert_eq!(error.reason(), Reason::TlsHandshake, "{error}");
            let output = on_thread(move || client.wait_with_output().unwrap()).await;
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("handshake failure"), "{options:?}: {said}");
        }
    });
}

/// It asks, is not answered, and goes on.
#[test]
fn a_server_that_would_like_to_renegotiate_is_ignored() {
    if !is_installed() {
        return;
    }
    let pki = Pki::new();
    pki.server();
    let client = peer::client(&pki.client());
    on_each_driver(async |driver| {
        let mut server = openssl("s_server");
        server.args(["-accept", "127.0.0.1:0", "-tls1_2", "-cert"]).arg(pki.path("web.pem"));
        let mut server = server.arg("-key").arg(pki.path("web.key")).spawn().unwrap();
        let (address, said) = accepts(&mut server).await;
        let fd = std::net::TcpStream::connect(address).unwrap();
        let socket = driver.socket(fd.into()).unwrap();
        let mut stream = client.connect(address, Alpn::None, socket, HANG).await.unwrap();
        let mut input = server.stdin.take().unwrap();
        let mut write = |line: &str| input.write_all(line.as_bytes()).unwrap();
        write("before\n");
        assert_eq!(recv_exactly(&mut stream, 7).await, b"before\n");
        // Its command for that. It takes commands before it looks at what has come.
        write("r\n");
        send(&mut stream, b"still here\n".to_vec()).await.unwrap();
        assert!(on_thread(move || said.iter().any(|line| line == "still here")).await);
        write("after\n");
        assert_eq!(recv_exactly(&mut stream, 6).await, b"after\n");
        server.kill().unwrap();
        on_thread(move || server.wait().unwrap()).await;
    });
}

#[test]
fn s_server_is_spoken_to_with_a_certificate_and_its_tickets_are_taken() {
    if !is_installed() {
        return;
    }
    let pki = Pki::new();
    pki.server();
    let own = ClientTls { certificate: Some(pki.certificate("own", &["proxy.shop"])), ..pki.client() };
    on_each_driver(async |driver| {
        for (version, wanted) in
            [("-tls1_2", ProtocolVersion::TLSv1_2), ("-tls1_3", ProtocolVersion::TLSv1_3)]
        {
            let (mut server, address) = s_server(&pki, &[version, "-Verify", "1"]).await;
            let client = peer::client(&ClientTls { min_version: TlsVersion::V1_2, ..own.clone() });
            for round in 0..2 {
                let fd = std::net::TcpStream::connect(address).unwrap();
                let socket = driver.socket(fd.into()).unwrap();
                let mut stream = client.connect(address, Alpn::Http1, socket, HANG).await.unwrap();
                let negotiated = stream.negotiated().unwrap();
                assert_eq!((negotiated.version, negotiated.is_resumed), (wanted, round > 0));
                // It turns lines round.
                send(&mut stream, b"drawer\n".to_vec()).await.unwrap();
                assert_eq!(recv_exactly(&mut stream, 7).await, b"reward\n");
            }
            server.kill().unwrap();
            on_thread(move || server.wait().unwrap()).await;
        }
    });
}

/// Starts `openssl s_client`; its connection is on the driver.
async fn s_client(driver: &Driver, pki: &Pki, options: &[&str]) -> (Child, Socket) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut client = openssl("s_client");
    client.args(["-connect", &address, "-servername", "web.shop", "-verify_return_error", "-CAfile"]);
    let client = client.arg(pki.ca()).args(options).spawn().unwrap();
    let near = on_thread(move || listener.accept().unwrap().0).await;
    (client, driver.socket(near.into()).unwrap())
}

/// Starts `openssl s_server`, which answers every line with its reverse.
async fn s_server(pki: &Pki, options: &[&str]) -> (Child, SocketAddr) {
    let mut server = openssl("s_server");
    server.args(["-accept", "127.0.0.1:0", "-rev", "-cert"]).arg(pki.path("web.pem")).arg("-key");
    server.arg(pki.path("web.key")).arg("-CAfile").arg(pki.ca()).args(options);
    let mut server = server.spawn().unwrap();
    let (address, _) = accepts(&mut server).await;
    (server, address)
}

/// Waits until a server says where it listens; gives the lines that it says after that, too.
async fn accepts(server: &mut Child) -> (SocketAddr, Receiver<String>) {
    let output = server.stdout.take().unwrap();
    on_thread(move || {
        let mut lines = BufReader::new(output).lines().map(Result::unwrap);
        let address = lines.find_map(|line| line.strip_prefix("ACCEPT ").map(|text| text.parse().unwrap()));
        let (sender, said) = channel();
        // It must not die of a closed pipe.
        thread::spawn(move || lines.for_each(|line| drop(sender.send(line))));
        (address.expect("it says where it listens"), said)
    })
    .await
}

/// Says loudly that a test is skipped, where `cargo xtask test` could not install it.
fn is_installed() -> bool {
    let is_there = Command::new("openssl").arg("version").output().is_ok();
    if !is_there {
        eprintln!("SKIPPED: openssl is not installed");
    }
    is_there
}

fn openssl(command: &str) -> Command {
    let mut openssl = Command::new("openssl");
    openssl.arg(command).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    openssl
}
