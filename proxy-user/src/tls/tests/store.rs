use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use proxy_core::http::HttpLimits;
use proxy_core::id::{Registry, Version};
use proxy_core::service::Protocol;
use proxy_core::snapshot::{ExplicitListener, Intercept, Serves, Snapshot};
use proxy_core::tls::{ClientTls, ServerTls};
use rustls::{ClientConnection, ServerConnection};

use super::peer::{endpoint, server_config};
use super::pki::{Pki, write};
use crate::tls::client::SystemRoots;
use crate::tls::{Alpn, Client, TlsStore, TlsWatch};

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
    assert_eq!(of(&third, Protocol::Http).alpn_protocols, [&b"h2"[..], b"http/1.1"]);
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

#[test]
fn the_systems_authorities_are_read_again_when_they_change_and_missed_when_they_are_gone() {
    let (first, second) = (Pki::new(), Pki::new());
    let bundle = first.path("bundle.pem");
    let (tls, snapshot) = speaking();
    let mut watch = TlsWatch::default();
    let build = |old: Option<&TlsStore>| {
        TlsStore::build_with(old, &snapshot, SystemRoots::at(bundle.clone())).unwrap()
    };
    let client = |store: &TlsStore| Arc::clone(store.client(&tls).unwrap());
    // Where there were never any, that is said in the log and no mistake.
    let none = build(None);
    write(&bundle, fs::read(first.ca()).unwrap());
    assert!(!watch.poll_changed(&none) && watch.poll_changed(&none));
    let one = build(Some(&none));
    assert!(believes(&client(&one), &first) && !believes(&client(&one), &second));
    assert!(Arc::ptr_eq(&client(&build(Some(&one))), &client(&one)), "nothing has changed");

    write(&bundle, [fs::read(first.ca()).unwrap(), fs::read(second.ca()).unwrap()].concat());
    assert!(!watch.poll_changed(&one) && watch.poll_changed(&one));
    let both = build(Some(&one));
    assert!(believes(&client(&both), &first) && believes(&client(&both), &second));

    fs::remove_file(&bundle).unwrap();
    assert!(!watch.poll_changed(&both) && watch.poll_changed(&both));
    let gone = build(Some(&both));
    let problems: Vec<String> = gone.problems().map(ToString::to_string).collect();
    assert!(
        problems.len() == 1 && problems[0].contains("bundle.pem: there is no TLS authority"),
        "{problems:?}"
    );
    assert!(believes(&client(&gone), &second), "what was read before stays in force");
}

/// Whether a client ends a handshake with a server whose certificate is of this authority.
fn believes(client: &Client, pki: &Pki) -> bool {
    let mut server = ServerConnection::new(server_config(&pki.server())).unwrap();
    let config = client.config(endpoint(), Alpn::None);
    let mut client = ClientConnection::new(config, client.server_name(endpoint())).unwrap();
    while client.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut &bytes[..]).unwrap();
        server.process_new_packets().unwrap();
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            if client.process_new_packets().is_err() {
                return false;
            }
        }
    }
    true
}

/// A snapshot with a service whose endpoints show certificates of the system's authorities for `web.shop`.
fn speaking() -> (Arc<ClientTls>, Snapshot) {
    let text = "intercept: {scopes: [{cgroup: /app}]}\n\
                services: [{name: a, addresses: ['10.96.0.1:80'], lane: proxy, tls: {sni: web.shop}, \
                            endpoints: [{address: '10.0.0.1:443'}]}]";
    let config = crate::config::parse("test", text).unwrap();
    let snapshot = config.snapshot(&mut Registry::default(), Version(1), None);
    let tls = snapshot.services().find_map(|service| service.tls.clone()).unwrap();
    (tls, snapshot)
}

/// A snapshot with a listener for each.
fn snapshot(servers: &[&ServerTls]) -> Snapshot {
    let listener = |(port, tls): (u16, &&ServerTls)| {
        Arc::new(ExplicitListener {
            address: ([127, 0, 0, 1], port).into(),
            protocol: Protocol::Http,
            serves: Serves::Routes(Vec::new()),
            tls: Some(Arc::new((*tls).clone())),
            expects_proxy_header: false,
            trusted_proxies: Vec::new(),
            http: HttpLimits::DEFAULT,
        })
    };
    let listeners = (1..).zip(servers).map(listener).collect();
    Snapshot::new(Version(1), Intercept::default(), listeners, [])
}
