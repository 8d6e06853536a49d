//! TLS at Weir's edge and towards endpoints, judged by real programs: scanners, and clients and servers with keys of all kinds.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use proxy_tests::client::Place;
use proxy_tests::http::{Backend, Message, ok};
use proxy_tests::net::{Family, Side};
use proxy_tests::node::Weir;
use proxy_tests::pki::{Key, Pki, ROOT};
use proxy_tests::process::Running;
use proxy_tests::scratch::Scratch;
use proxy_tests::world::World;
use proxy_tests::{config, wait};
use serde_json::{Value, json};

/// Time for a program to start.
const LIMIT: Duration = Duration::from_secs(30);

fn edge() -> SocketAddr {
    SocketAddr::from(([10, 77, 0, 1], 8443))
}

fn host(number: u8) -> SocketAddr {
    Family::V4.host(number, 8080)
}

fn echo(request: &Message) -> Option<String> {
    Some(ok(&format!("{}\n", request.start_line())))
}

/// Findings of testssl.sh that must be there, with the words that they begin with. It says what it found on top.
const FINDINGS: [(&str, &str); 30] = [
    ("SSLv2", "not offered"),
    ("SSLv3", "not offered"),
    ("TLS1", "not offered"),
    ("TLS1_1", "not offered"),
    ("TLS1_2", "offered"),
    ("TLS1_3", "offered"),
    ("cipherlist_NULL", "not offered"),
    ("cipherlist_aNULL", "not offered"),
    ("cipherlist_EXPORT", "not offered"),
    ("cipherlist_LOW", "not offered"),
    ("cipherlist_3DES_IDEA", "not offered"),
    ("cipherlist_AVERAGE", "not offered"),
    ("cipherlist_STRONG", "offered"),
    ("GREASE", ""),
    ("heartbleed", "not vulnerable"),
    ("CCS", "not vulnerable"),
    ("ticketbleed", "not vulnerable"),
    ("ROBOT", "not vulnerable"),
    ("secure_renego", "supported"),
    ("secure_client_renego", "not vulnerable"),
    ("CRIME_TLS", "not vulnerable"),
    ("POODLE_SSL", "not vulnerable"),
    ("fallback_SCSV", "no protocol below TLS 1.2"),
    ("SWEET32", "not vulnerable"),
    ("FREAK", "not vulnerable"),
    ("DROWN", "not vulnerable"),
    ("LOGJAM", "not vulnerable"),
    ("BEAST", "not vulnerable"),
    ("LUCKY13", "not vulnerable"),
    ("RC4", "not vulnerable"),
];
/// Checks that give them. Those of all vulnerabilities at once are not asked for, since newer releases may add slow ones.
const CHECKS: [&str; 18] = [
    "--protocols",
    "--standard",
    "--grease",
    "--heartbleed",
    "--ccs-injection",
    "--ticketbleed",
    "--robot",
    "--renegotiation",
    "--crime",
    "--poodle",
    "--tls-fallback",
    "--sweet32",
    "--freak",
    "--drown",
    "--logjam",
    "--beast",
    "--lucky13",
    "--rc4",
];

#[test]
fn a_scanner_finds_two_versions_and_nothing_weak() {
    let Some(world) = World::new() else { return };
    let (Some(testssl), Some(openssl)) = (world.program("testssl"), world.program("openssl")) else { return };
    let pki = Pki::new();
    let _backend = Backend::answering(&world.net, host(10), echo);
    // Some of the attacks are on RSA, and most servers have the other kind.
    for (name, key) in [("web", Key::Rsa2048), ("curve", Key::P256)] {
        pki.certificate_by(ROOT, name, &["DNS:web.shop"], key);
        let Some(_weir) = Weir::start(&world.net, &ending(&world, &pki, &[name])) else { return };
        let findings = scan(world.outside(), &testssl, edge(), &CHECKS);
        assert_eq!(faults(&findings), Vec::<&Value>::new(), "{name}");
        for (id, words) in FINDINGS {
            let finding = findings.iter().find(|finding| finding["id"] == id);
            let text = finding.and_then(|finding| finding["finding"].as_str());
            assert!(text.is_some_and(|text| text.starts_with(words)), "{name} {id}: {text:?}");
        }
    }

    // The scanner sees what is weak where something is.
    let mut weak = world.far().command(&openssl);
    weak.args([
        "s_server",
        "-www",
        "-accept",
        &host(11).to_string(),
        "-tls1_1",
        "-cipher",
        "ALL:@SECLEVEL=0",
    ]);
    weak.args(["-cert", &pki.path("web.pem"), "-key", &pki.path("web.key")]);
    let _weak = Running::start(&mut weak).unwrap();
    wait::until_true("s_server to listen", LIMIT, || {
        world.net.run(Side::Far, || TcpStream::connect(host(11)).is_ok()).unwrap()
    });
    let findings = scan(world.far(), &testssl, host(11), &["--protocols"]);
    assert!(faults(&findings).iter().any(|fault| fault["id"] == "TLS1_1"), "{findings:#?}");
}

/// What testssl.sh says of a server.
fn scan(place: Place<'_>, testssl: &Path, address: SocketAddr, checks: &[&str]) -> Vec<Value> {
    let scratch = Scratch::new("testssl");
    let report = scratch.path().join("report.json");
    let (ip, url) = (address.ip().to_string(), format!("web.shop:{}", address.port()));
    let mut command = place.command(testssl);
    command.args([
        "--quiet",
        "--color",
        "0",
        "--warnings",
        "off",
        "--nodns",
        "none",
        "--ip",
        &ip,
        "--jsonfile",
    ]);
    command.arg(&report).args(checks).arg(&url);
    // What it leaves behind goes with the scratch folder.
    command.env("TMPDIR", scratch.path()).current_dir(scratch.path()).stdin(Stdio::null());
    let said = command.output().unwrap();
    let findings = fs::read(&report).ok().and_then(|text| serde_json::from_slice(&text).ok());
    findings.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&said.stdout)))
}

/// Everything that is weak, or could not be checked.
fn faults(findings: &[Value]) -> Vec<&Value> {
    let is_good = |finding: &&Value| {
        matches!(finding["severity"].as_str(), Some("OK" | "INFO" | "DEBUG"))
            // Algorithms of Russian standards that Debian's openssl lacks.
            || finding["id"] == "engine_problem"
    };
    findings.iter().filter(|finding| !is_good(finding)).collect()
}

/// Kinds of keys, with the names of their certificates.
const KEYS: [(Key, &str, &str); 4] = [
    (Key::Rsa2048, "rsa2048", "RSA-PSS"),
    (Key::Rsa4096, "rsa4096", "RSA-PSS"),
    (Key::P256, "p256", "ECDSA"),
    (Key::P384, "p384", "ECDSA"),
];

/// Certificates of all kinds by intermediate authorities of other kinds.
fn chains() -> Pki {
    let pki = Pki::new();
    pki.authority(ROOT, "upper", Key::Rsa4096);
    pki.authority("upper", "lower", Key::P384);
    for (index, (key, name, _)) in KEYS.into_iter().enumerate() {
        let authority = ["upper", "lower"][index % 2];
        pki.certificate_by(authority, name, &[&format!("DNS:{name}.shop")], key);
    }
    pki
}

#[test]
fn keys_of_all_kinds_and_chains_are_shown_to_clients() {
    let Some(world) = World::new() else { return };
    let (Some(curl), Some(openssl)) = (world.program("curl"), world.program("openssl")) else { return };
    let pki = chains();
    let ca = pki.path("ca.pem");
    let _backend = Backend::answering(&world.net, host(10), echo);
    let names = KEYS.map(|(_, name, _)| name);
    let Some(_weir) = Weir::start(&world.net, &ending(&world, &pki, &names)) else { return };
    for (_, name, signature) in KEYS {
        let (url, resolve) =
            (format!("https://{name}.shop:8443/"), format!("{name}.shop:8443:{}", edge().ip()));
        for version in ["1.2", "1.3"] {
            let (least, most) = (format!("--tlsv{version}"), version.to_owned());
            let all = [
                "-sS",
                "--max-time",
                "10",
                "--cacert",
                &ca,
                "--resolve",
                &resolve,
                &least,
                "--tls-max",
                &most,
            ];
            let said = world.outside().output(&curl, &[&all[..], &[&url]].concat());
            assert_eq!(said.unwrap(), "GET / HTTP/1.1\n", "{name} {version}");

            let (server, version) = (format!("{name}.shop"), format!("-tls{}", version.replace('.', "_")));
            let all = [
                "s_client",
                "-connect",
                &edge().to_string(),
                "-servername",
                &server,
                "-CAfile",
                &ca,
                &version,
            ];
            let verify = ["-verify_return_error", "-verify_hostname", &server];
            let said = world.outside().output(&openssl, &[&all[..], &verify].concat()).unwrap();
            let is_signed = said.contains(&format!("Peer signature type: {signature}"));
            assert!(said.contains("Verify return code: 0 (ok)") && is_signed, "{said}");
        }
    }
}

#[test]
fn of_two_certificates_for_a_name_clients_get_one_that_they_understand() {
    let Some(world) = World::new() else { return };
    let Some(openssl) = world.program("openssl") else { return };
    let pki = Pki::new();
    pki.certificate_by(ROOT, "modern", &["DNS:web.shop"], Key::P256);
    pki.certificate_by(ROOT, "old", &["DNS:web.shop"], Key::Rsa2048);
    let _backend = Backend::answering(&world.net, host(10), echo);
    let Some(_weir) = Weir::start(&world.net, &ending(&world, &pki, &["modern", "old"])) else { return };
    let (ca, address) = (pki.path("ca.pem"), edge().to_string());
    for (options, wanted) in [
        (&["-tls1_3"][..], "CN = modern"),
        (&["-tls1_2"], "CN = modern"),
        (&["-tls1_3", "-sigalgs", "RSA-PSS+SHA256:RSA+SHA256"], "CN = old"),
        (&["-tls1_2", "-sigalgs", "RSA+SHA256"], "CN = old"),
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "CN = old"),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], "CN = modern"),
    ] {
        for name in [&["-servername", "web.shop"][..], &["-noservername"]] {
            let all = ["s_client", "-verify_return_error", "-CAfile", &ca, "-connect", &address];
            let said = world.outside().output(&openssl, &[&all[..], options, name].concat());
            let said = said.unwrap_or_else(|error| panic!("{options:?} {name:?}: {error:#}"));
            assert!(said.contains(&format!("subject={wanted}")), "{options:?} {name:?}: {said}");
        }
    }
}

#[test]
fn endpoints_with_keys_of_all_kinds_are_believed_by_their_chains_and_shown_ours() {
    let Some(world) = World::new() else { return };
    let Some(openssl) = world.program("openssl") else { return };
    let pki = chains();
    let mut services = Vec::new();
    let mut servers = Vec::new();
    let mut serve = |number: u8, cert: &str, own: &str, more: &[&str]| {
        let mut server = world.far().command(&openssl);
        let (chain, key, ca) =
            (pki.path(&format!("{cert}.pem")), pki.path(&format!("{cert}.key")), pki.path("ca.pem"));
        server.args([
            "s_server",
            "-www",
            "-accept",
            &host(number).to_string(),
            "-cert",
            &chain,
            "-key",
            &key,
        ]);
        server.args(["-Verify", "3", "-verify_return_error", "-CAfile", &ca]).args(more);
        servers.push(Running::start(&mut server).unwrap());
        wait::until_true("s_server to listen", LIMIT, || {
            world.net.run(Side::Far, || TcpStream::connect(host(number)).is_ok()).unwrap()
        });
        let mut tls = json!({"ca": ca, "sni": format!("{cert}.shop")});
        config::merge(&mut tls, pki.files(own));
        services.push(json!({
            "name": format!("s{number}"), "protocol": "http", "tls": tls,
            "addresses": [Family::V4.vip(number, 80).to_string()],
            "endpoints": [{"address": host(number).to_string()}],
        }));
    };
    let mut cases = Vec::new();
    for (index, (_, name, _)) in KEYS.into_iter().enumerate() {
        let own = KEYS[(index + 1) % KEYS.len()].1;
        let number = 10 + u8::try_from(index).unwrap() * 2;
        let chain = pki.path(&format!("{name}.pem"));
        serve(number, name, own, &["-cert_chain", &chain, "-tls1_2"]);
        serve(number + 1, name, own, &["-cert_chain", &chain, "-tls1_3"]);
        cases.extend([(number, own), (number + 1, own)]);
    }
    // Without the authority in between there is no way to the root.
    serve(18, "rsa2048", "p256", &["-tls1_3"]);
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    for (number, own) in cases {
        let page = ask(&world, number);
        // OpenSSL's releases differ in their blanks.
        assert!(page.replace(' ', "").contains(&format!("Subject:CN={own}\n")), "{number}: {page}");
    }
    let refused = ask(&world, 18);
    assert!(refused.contains("503") && refused.contains("x-weir-reason: tls_upstream"), "{refused}");
}

/// The whole answer of a service to an intercepted application.
fn ask(world: &World, number: u8) -> String {
    let url = format!("http://{}/", Family::V4.vip(number, 80));
    world.app().output(Path::new("curl"), &["-sS", "-i", "--max-time", "10", &url]).unwrap()
}

/// A listener with all of these certificates.
fn ending(world: &World, pki: &Pki, names: &[&str]) -> Value {
    let service =
        json!({"name": "web", "protocol": "http", "endpoints": [{"address": host(10).to_string()}]});
    let certificates: Vec<Value> = names.iter().map(|name| pki.files(name)).collect();
    let listener = json!({
        "address": edge().to_string(), "protocol": "http", "service": "web", "tls": {"certificates": certificates},
    });
    let mut config = config::config(world, [service]);
    config::merge(&mut config, json!({"listeners": [listener]}));
    config
}
