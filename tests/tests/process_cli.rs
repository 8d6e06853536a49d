//! What the command line does without a running Weir and without any privilege.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use proxy_tests::pki::Pki;
use proxy_tests::{node, process, skip};
use serde_json::Value;

fn weir(arguments: &[&str]) -> (Output, String) {
    let output = Command::new(node::binary()).args(arguments).output().expect("the binary runs");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output, said)
}

/// A file that goes with its test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(label: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weir-test-{label}-{}.yaml", std::process::id()));
        fs::write(&path, text).expect("the folder for temporary files can be written to");
        Self(path)
    }

    fn check(&self) -> (Output, String) {
        weir(&["check", &self.0.display().to_string()])
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_good_file_is_ok() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../proxy-user/deploy/weir.example.yaml");
    let (output, said) = weir(&["check", example]);
    assert!(output.status.success() && said.starts_with("OK"), "{said}");
}

#[test]
fn every_mistake_is_named_at_once_with_its_place_and_what_was_meant() {
    let file = Scratch::new(
        "mistakes",
        "services:\n  - name: a\n    adresses: [\"10.96.0.10:80\"]\n    lane: quick\n    endpoints: [{address: \"10.1.0.5\"}]\n\
         \x20 - name: a\n    lane: direct\n    balance: {policy: round_robin}\n    endpoints: []\nworkers: -1\n",
    );
    let (output, said) = file.check();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let name = file.0.display().to_string();
    for (line, words) in [
        (3, &["adresses", "addresses"][..]),
        (4, &["quick"]),
        (5, &["10.1.0.5"]),
        (6, &["a"]),
        (10, &["workers"]),
    ] {
        let place = format!("{name}:{line}:");
        let found = said.lines().find(|said| said.starts_with(&place));
        assert!(
            found.is_some_and(|found| words.iter().all(|word| found.contains(word))),
            "line {line}: {said}"
        );
    }
}

#[test]
fn certificates_are_looked_at_by_check_and_doctor() {
    if process::find("openssl").is_none() {
        return skip::skip("openssl is not installed");
    }
    let pki = Pki::new();
    pki.certificate("web", &["DNS:web.shop"]);
    let text = |key: &str| {
        format!(
            "services: [{{name: web, protocol: http, endpoints: [{{address: \"10.1.0.5:80\"}}]}}]\nlisteners: [{{address: \"127.0.0.1:8443\", \
             protocol: http, service: web, tls: {{certificates: [{{cert: {}, key: {key}}}]}}}}]\n",
            pki.path("web.pem")
        )
    };
    let (output, said) = Scratch::new("tls", &text(&pki.path("web.key"))).check();
    assert!(output.status.success(), "{said}");
    let strange = Scratch::new("tls-strange", &text(&pki.path("ca.key")));
    let (output, said) = strange.check();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("ca.key: the key does not belong to the certificate in"), "{said}");
    let path = strange.0.display().to_string();
    let (_, said) = weir(&["check", &path, "-o", "json"]);
    let problems: Value = serde_json::from_str(&said).expect("it is JSON");
    assert_eq!(problems[0]["file"], pki.path("ca.key"), "{said}");
    let (_, said) = weir(&["doctor", "-c", &path]);
    assert!(said.contains("TLS file") && said.contains("does not belong"), "{said}");
    let good = Scratch::new("tls-good", &text(&pki.path("web.key")));
    let (_, said) = weir(&["doctor", "-c", &good.0.display().to_string()]);
    assert!(
        said.contains("web.pem") && said.contains("good for ") && said.contains(" days (web.shop)"),
        "{said}"
    );
}

#[test]
fn a_file_that_is_not_there_or_no_text_is_a_mistake_and_no_panic() {
    for text in ["", "services: [", "\u{0}", "- - - -\n", "services: &a [*a]\n"] {
        let (output, said) = Scratch::new("odd", text).check();
        assert!(output.status.code() == Some(1) && !said.contains("panicked"), "{text:?}: {said}");
    }
    let (output, said) = weir(&["check", "/nowhere/weir.yaml"]);
    assert!(output.status.code() == Some(1) && said.contains("/nowhere/weir.yaml"), "{said}");
}

#[test]
fn the_schema_and_completions_are_printed() {
    let (output, said) = weir(&["schema"]);
    let schema: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert!(schema["properties"]["services"].is_object(), "{said}");
    for shell in ["bash", "zsh", "fish"] {
        let (output, said) = weir(&["completions", shell]);
        assert!(output.status.success() && said.contains("connections"), "{shell}: {said}");
    }
}

#[test]
fn help_names_every_command() {
    let (output, said) = weir(&["--help"]);
    assert!(output.status.success());
    for command in ["run", "check", "doctor", "status", "connections", "detach"] {
        assert!(said.contains(command), "{command}: {said}");
        assert!(weir(&[command, "--help"]).0.status.success(), "{command}");
    }
}
