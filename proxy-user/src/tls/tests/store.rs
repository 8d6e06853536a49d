use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use proxy_core::http::HttpLimits;
use proxy_core::id::Version;
use proxy_core::service::Protocol;
use proxy_core::snapshot::{ExplicitListener, Intercept, Serves, Snapshot};
use proxy_core::tls::ServerTls;

use super::pki::{Pki, write};
use crate::tls::{TlsStore, TlsWatch};

#[test]
fn what_has_not_changed_stays_the_same() {
    let pki = Pki::new();
    let tls = pki.server();
    let first = TlsStore::build(None, &snapshot(&[&tls])).unwrap();
    let second = TlsStore::build(Some(&first), &snapshot(&[&tls, &pki.asking_server(false, &[])])).unwrap();
    let of = |store: &TlsStore, protocol| Arc::clone(store.server(&tls, protocol).unwrap());
    // The second description has written its certificate anew, under the same name.
    assert!(!Arc::ptr_eq(&of(&first, Protocol::Tcp), &of(&second, Protocol::Tcp)));
    let third = TlsStore::build(Some(&second), &snapshot(&[&tls])).unwrap();
    for protocol in [Protocol::Tcp, Protocol::Http] {
        assert!(Arc::ptr_eq(&of(&second, protocol), &of(&third, protocol)));
    }
    assert_eq!(of(&third, Protocol::Http).alpn_protocols, [b"http/1.1"]);
    assert!(of(&third, Protocol::Auto).alpn_protocols.is_empty());
    assert!(
        third.server(&pki.asking_server(false, &[]), Protocol::Tcp).is_none(),
        "nobody needs it any more"
    );
}

#[test]
fn a_new_certificate_is_taken_and_a_bad_one_is_named_while_the_old_stays() {
    let pki = Pki::new();
    let tls = pki.server();
    let (snapshot, mut watch) = (snapshot(&[&tls]), TlsWatch::default());
    let first = TlsStore::build(None, &snapshot).unwrap();
    assert!(!watch.poll_changed(&first));
    pki.certificate_until("web", &["web.shop", "new.shop"], 2040);
    assert!(!watch.poll_changed(&first) && watch.poll_changed(&first), "when it has come to rest");
    let second = TlsStore::build(Some(&first), &snapshot).unwrap();
    assert!(!watch.poll_changed(&second) && !watch.poll_changed(&second));
    let names = |store: &TlsStore| store.certificates()[0].names.clone();
    assert_eq!((names(&first).len(), names(&second).len()), (2, 2));
    assert_eq!(names(&second)[1], "new.shop");

    write(&tls.certificates[0].key, "no key");
    assert!(!watch.poll_changed(&second) && watch.poll_changed(&second));
    let third = TlsStore::build(Some(&second), &snapshot).unwrap();
    let problems: Vec<String> = third.problems().map(ToString::to_string).collect();
    assert!(problems.len() == 1 && problems[0].contains("web.key: there is no private key"), "{problems:?}");
    assert_eq!(names(&third), names(&second), "the old one stays in force");
    assert!(!watch.poll_changed(&third) && !watch.poll_changed(&third), "it is reported once");
    let fourth = TlsStore::build(Some(&third), &snapshot).unwrap();
    assert_eq!(fourth.problems().count(), 1, "and known until it is good again");

    pki.certificate_until("web", &["web.shop"], 2040);
    let fifth = TlsStore::build(Some(&fourth), &snapshot).unwrap();
    assert_eq!((fifth.problems().count(), names(&fifth).len()), (0, 1));
}

#[test]
fn a_file_that_was_never_good_is_an_error() {
    let pki = Pki::new();
    let tls = pki.server();
    let store = TlsStore::build(None, &snapshot(&[&tls])).unwrap();
    let missing = ServerTls { certificates: vec![pki.certificate("gone", &["web.shop"])], ..tls.clone() };
    fs::remove_file(pki.path("gone.key")).unwrap();
    let problems = TlsStore::build(Some(&store), &snapshot(&[&tls, &missing])).unwrap_err();
    let files: Vec<&PathBuf> = problems.iter().map(|problem| &problem.file).collect();
    assert_eq!(files, [&pki.path("gone.key")]);
}

#[test]
fn a_file_that_vanishes_for_a_moment_changes_nothing() {
    let pki = Pki::new();
    let tls = pki.server();
    let mut watch = TlsWatch::default();
    let store = TlsStore::build(None, &snapshot(&[&tls])).unwrap();
    let (key, aside) = (&tls.certificates[0].key, pki.path("aside"));
    fs::rename(key, &aside).unwrap();
    assert!(!watch.poll_changed(&store));
    fs::rename(&aside, key).unwrap();
    assert!(!watch.poll_changed(&store) && !watch.poll_changed(&store));
}

/// A snapshot with a listener for each.
fn snapshot(servers: &[&ServerTls]) -> Snapshot {
    let listener = |(port, tls): (u16, &&ServerTls)| {
        Arc::new(ExplicitListener {
            address: ([127, 0, 0, 1], port).into(),
            protocol: Protocol::Http,
            serves: Serves::Routes(Vec::new()),
            tls: Some(Arc::new((*tls).clone())),
            http: HttpLimits::DEFAULT,
        })
    };
    let listeners = (1..).zip(servers).map(listener).collect();
    Snapshot::new(Version(1), Intercept::default(), listeners, [])
}
