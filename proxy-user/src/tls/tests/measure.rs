use super::peer::*;
use super::pki::Pki;
use crate::tls::session::{Keys, Session};
use rustls::unbuffered::ConnectionState;
use rustls::{client::UnbufferedClientConnection, server::UnbufferedServerConnection, *};
use std::time::Instant;

fn drive<D>(
    status: rustls::unbuffered::UnbufferedStatus<'_, '_, D>,
    out: &mut Vec<u8>,
) -> (usize, bool, bool) {
    let d = status.discard;
    match status.state.unwrap() {
        ConnectionState::EncodeTlsData(mut e) => {
            if let Err(rustls::unbuffered::EncodeError::InsufficientSize(n)) = e.encode(&mut []) {
                let s = out.len();
                out.resize(s + n.required_size, 0);
                e.encode(&mut out[s..]).unwrap();
            }
            (d, true, false)
        }
        ConnectionState::TransmitTlsData(t) => {
            t.done();
            (d, true, false)
        }
        ConnectionState::WriteTraffic(_) => (d, false, true),
        _ => (d, false, false),
    }
}

fn handshake(
    sc: &std::sync::Arc<ServerConfig>,
    cc: &std::sync::Arc<ClientConfig>,
) -> (UnbufferedClientConnection, UnbufferedServerConnection, std::time::Duration) {
    let mut c = UnbufferedClientConnection::new(cc.clone(), "web.shop".try_into().unwrap()).unwrap();
    let mut s = UnbufferedServerConnection::new(sc.clone()).unwrap();
    let (mut to_s, mut to_c) = (Vec::new(), Vec::new());
    let mut server_time = std::time::Duration::ZERO;
    loop {
        let mut done = true;
        loop {
            let (d, more, ok) = drive(c.process_tls_records(&mut to_c), &mut to_s);
            to_c.drain(..d);
            done &= ok || more;
            if !more {
                break;
            }
        }
        let t = Instant::now();
        let mut sd;
        loop {
            let (d, more, ok) = drive(s.process_tls_records(&mut to_s), &mut to_c);
            to_s.drain(..d);
            sd = ok;
            if !more {
                break;
            }
        }
        server_time += t.elapsed();
        if done && sd && to_c.is_empty() {
            break;
        }
        if sd && done {
            loop {
                let (d, more, _) = drive(c.process_tls_records(&mut to_c), &mut to_s);
                to_c.drain(..d);
                if !more {
                    break;
                }
            }
            if to_c.is_empty() {
                break;
            }
        }
    }
    (c, s, server_time)
}

#[test]
#[ignore]
fn measure() {
    let pki = Pki::new();
    for (resume, pq) in [(false, true), (false, false), (true, true)] {
        let mut tls = pki.server();
        tls.is_resuming = resume;
        let sc = server_config(&tls);
        let mut cc = client_config(&pki.client());
        if !resume {
            cc.resumption = rustls::client::Resumption::disabled();
        } else {
            cc.resumption = rustls::client::Resumption::in_memory_sessions(32);
        }
        if !pq {
            let mut p = rustls::crypto::aws_lc_rs::default_provider();
            p.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
            let mut roots = rustls::RootCertStore::empty();
            roots.extend(crate::tls::cert::load_roots(&pki.ca()).unwrap().roots);
            cc = ClientConfig::builder_with_provider(p.into())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            cc.enable_secret_extraction = true;
            cc.resumption = rustls::client::Resumption::disabled();
        }
        let cc = std::sync::Arc::new(cc);
        handshake(&sc, &cc);
        let n = 500;
        let t = Instant::now();
        let mut server = std::time::Duration::ZERO;
        for _ in 0..n {
            server += handshake(&sc, &cc).2;
        }
        let all = t.elapsed();
        eprintln!(
            "handshake resume={resume} pq={pq}: both {:?}, server {:?}, client {:?}",
            all / n,
            server / n,
            (all - server) / n
        );
    }
    let mut tls = pki.server();
    tls.is_resuming = false;
    let (sc, cc) = (server_config(&tls), std::sync::Arc::new(client_config(&pki.client())));
    for size in [100usize, 1000, 16384, 65536] {
        let n = if size > 10000 { 20_000 } else { 500_000 };
        let plain = vec![7u8; size];
        // ours
        let (c, s, _) = handshake(&sc, &cc);
        let suite = c.negotiated_cipher_suite().unwrap();
        let (cs, ck) = c.dangerous_into_kernel_connection().unwrap();
        let (ss, sk) = s.dangerous_into_kernel_connection().unwrap();
        let mut c = Session::new(suite, cs, Some(Keys::Client(Box::new(ck)))).unwrap();
        let mut s = Session::new(suite, ss, Some(Keys::Server(Box::new(sk)))).unwrap();
        let (mut seal, mut open) = (std::time::Duration::ZERO, std::time::Duration::ZERO);
        for _ in 0..n {
            let t = Instant::now();
            let mut out = Vec::new();
            c.seal(&plain, &mut out).unwrap();
            seal += t.elapsed();
            let t = Instant::now();
            let mut got = Vec::new();
            for part in out.chunks(8192) {
                s.open(part, &mut got).unwrap();
            }
            open += t.elapsed();
            assert!(got.len() == size);
        }
        let mbs = |d: std::time::Duration| size as f64 * n as f64 / d.as_secs_f64() / 1e6;
        eprintln!(
            "ours {size}: seal {:?} {:.0} MB/s, open {:?} {:.0} MB/s",
            seal / n,
            mbs(seal),
            open / n,
            mbs(open)
        );
        // rustls
        let (mut c, mut s, _) = handshake(&sc, &cc);
        let (mut seal, mut open) = (std::time::Duration::ZERO, std::time::Duration::ZERO);
        for _ in 0..n {
            let t = Instant::now();
            let mut out = vec![0; size + 22 * size.div_ceil(16384)];
            let ConnectionState::WriteTraffic(mut w) = c.process_tls_records(&mut []).state.unwrap() else {
                panic!()
            };
            let k = w.encrypt(&plain, &mut out).unwrap();
            out.truncate(k);
            seal += t.elapsed();
            let t = Instant::now();
            let mut got: Vec<u8> = Vec::new();
            let mut input: Vec<u8> = Vec::new();
            for part in out.chunks(8192) {
                input.extend_from_slice(part);
                loop {
                    let st = s.process_tls_records(&mut input);
                    let d = st.discard;
                    let more = match st.state.unwrap() {
                        ConnectionState::ReadTraffic(mut r) => {
                            while let Some(x) = r.next_record() {
                                got.extend_from_slice(x.unwrap().payload);
                            }
                            true
                        }
                        _ => false,
                    };
                    input.drain(..d);
                    if !more {
                        break;
                    }
                }
            }
            open += t.elapsed();
            assert!(got.len() == size);
        }
        eprintln!(
            "rustls {size}: seal {:?} {:.0} MB/s, open {:?} {:.0} MB/s",
            seal / n,
            mbs(seal),
            open / n,
            mbs(open)
        );
    }
}
