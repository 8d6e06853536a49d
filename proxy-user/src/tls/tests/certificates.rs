use std::fs;

use proxy_core::tls::CertificateFiles;

use super::pki::{Pki, provider, write};
use crate::tls::cert::{self, is_named};
use crate::tls::server;

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_name() {
    let pki = Pki::new();
    let (good, other) = (pki.certificate("good", &["web.shop"]), pki.certificate("other", &["web.shop"]));
    let with_cert = |name: &str, text: &str| {
        let cert = pki.path(name);
        write(&cert, text);
        CertificateFiles { cert, ..good.clone() }
    };
    let with_key = |name: &str, text: &str| {
        let key = pki.path(name);
        write(&key, text);
        CertificateFiles { key, ..good.clone() }
    };
    let (cert, key) = (fs::read_to_string(&good.cert).unwrap(), fs::read_to_string(&good.key).unwrap());
    let cut = &cert[..cert.len() / 2];
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let garbled = cert.replace("MII", "TUl");
    for (files, name, wanted) in [
        (with_cert("empty", ""), "empty", "the file is empty"),
        (with_cert("key-only", &key), "key-only", "no certificate in it"),
        (with_cert("cut", cut), "cut", "it is cut off"),
        (with_cert("text", "hello"), "text", "no certificate in it"),
        (with_cert("garbled", &garbled), "garbled", "certificate 1 is malformed"),
        (with_key("cert-only", &cert), "cert-only", "no private key in it"),
        (with_key("encrypted", &encrypted), "encrypted", "the private key is encrypted"),
        (
            CertificateFiles { key: other.key, ..good.clone() },
            "other.key",
            "does not belong to the certificate in",
        ),
        (CertificateFiles { cert: pki.path("none"), ..good.clone() }, "none", "No such file"),
    ] {
        let problem = cert::load(&files, &provider()).err().unwrap();
        assert!(problem.file.ends_with(name), "{problem}");
        assert!(problem.to_string().contains(wanted), "{problem}");
        assert!(problem.to_string().starts_with(&problem.file.display().to_string()), "{problem}");
    }
}

#[test]
fn names_and_the_end_of_a_certificate_are_known() {
    let pki = Pki::new();
    let files = pki.certificate_until("old", &["Web.Shop", "10.0.0.1", "::1", "spiffe://shop/web"], 2024);
    let loaded = cert::load(&files, &provider()).unwrap();
    assert_eq!(loaded.status.not_after, 1_704_067_200, "expired, and that is no mistake");
    assert_eq!(loaded.status.names, ["web.shop", "10.0.0.1", "::1", "spiffe://shop/web"]);
}

#[test]
fn every_problem_of_a_server_is_reported_at_once() {
    let pki = Pki::new();
    let mut tls = pki.asking_server(true, &[]);
    fs::remove_file(pki.ca()).unwrap();
    tls.certificates.push(CertificateFiles { cert: pki.path("a"), key: pki.path("b") });
    tls.certificates.push(CertificateFiles { key: pki.path("c"), ..tls.certificates[0].clone() });
    let problems = server::build(&tls, &provider()).err().unwrap();
    let files: Vec<_> = problems.iter().map(|problem| problem.file.file_name().unwrap()).collect();
    assert_eq!(files, ["a", "c", "ca.pem"]);
}

#[test]
fn nothing_prints_a_private_key() {
    let pki = Pki::new();
    let tls = pki.server();
    let key = fs::read_to_string(&tls.certificates[0].key).unwrap();
    let secret = key.lines().nth(1).unwrap();
    let loaded = cert::load(&tls.certificates[0], &provider()).unwrap();
    let config = server::build(&tls, &provider()).unwrap().0;
    let printed = format!("{:?} {config:?}", loaded.key);
    assert!(printed.contains("ServerConfig") && !printed.contains(secret), "{printed}");
}

#[test]
fn a_star_stands_for_one_label() {
    for (pattern, name, wanted) in [
        ("web.shop", "web.shop", true),
        ("*.shop", "web.shop", true),
        ("*.shop", "shop", false),
        ("*.shop", "a.web.shop", false),
        ("*.shop", ".shop", false),
        ("*.shop", "webshop", false),
        ("spiffe://shop/web", "spiffe://shop/web", true),
    ] {
        assert_eq!(is_named(pattern, name), wanted, "{pattern} {name}");
    }
}
