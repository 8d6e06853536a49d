use super::*;
use crate::forward::http1::slots;

fn through(head: &str, method: &str, edits: &ResponseEdits<'_>) -> Result<String, Fault> {
    let mut slots = slots();
    let mut out = Vec::new();
    let head = ResponseHead::parse(head.as_bytes(), &mut slots)?;
    let body = head.body(method);
    head.write(&mut out, body, edits);
    Ok(String::from_utf8(out).unwrap())
}

fn body(head: &str, method: &str) -> Framing {
    let mut slots = slots();
    ResponseHead::parse(head.as_bytes(), &mut slots).unwrap().body(method)
}

#[test]
fn an_answer_is_passed_on_without_what_is_for_one_hop() {
    let head = "HTTP/1.0 200 Fine\r\nServer: x\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\nContent-Length: 3\r\n\r\n";
    let edits = ResponseEdits::default();
    assert_eq!(
        through(head, "GET", &edits).unwrap(),
        "HTTP/1.1 200 Fine\r\nServer: x\r\nContent-Length: 3\r\n\r\n"
    );
    let edits = ResponseEdits { is_last: true, ..edits };
    assert!(
        through(head, "GET", &edits).unwrap().ends_with("Content-Length: 3\r\nconnection: close\r\n\r\n")
    );
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let edits = ResponseEdits::default();
    assert_eq!(
        through(chunked, "GET", &edits).unwrap(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    let edits = ResponseEdits { is_version_1_0: true, is_last: true, ..edits };
    assert_eq!(through(chunked, "GET", &edits).unwrap(), "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
}

#[test]
fn the_body_is_as_long_as_the_rfc_says() {
    let with_length = |status: &str| format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(body(&with_length("200"), "GET"), Framing::Length(5));
    assert_eq!(body(&with_length("200"), "HEAD"), Framing::Length(0));
    assert_eq!(body(&with_length("204"), "GET"), Framing::Length(0));
    assert_eq!(body(&with_length("304"), "GET"), Framing::Length(0));
    assert_eq!(body(&with_length("200"), "CONNECT"), Framing::Length(0));
    assert_eq!(body(&with_length("404"), "CONNECT"), Framing::Length(5));
    assert_eq!(body("HTTP/1.1 200 OK\r\n\r\n", "GET"), Framing::UntilClose);
    assert_eq!(body("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", "POST"), Framing::Chunked);
}

#[test]
fn answers_that_could_be_read_differently_are_refused() {
    let refused = |head: &str| through(head, "GET", &ResponseEdits::default()).unwrap_err();
    assert_eq!(refused("HTTP/1.1 099 X\r\n\r\n"), Fault::StartLine);
    assert_eq!(refused("HTTP/1.1 20 X\r\n\r\n"), Fault::StartLine);
    assert_eq!(refused("HTTP/3.1 200 X\r\n\r\n"), Fault::Version);
    assert_eq!(refused("HTTP/1.1 200 X\r\nA : b\r\n\r\n"), Fault::Field);
    assert_eq!(refused("HTTP/1.1 200 X\r\nA: b\r\n c\r\n\r\n"), Fault::Field);
    assert_eq!(
        refused("HTTP/1.1 200 X\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"),
        Fault::ContentLength
    );
    let both = "HTTP/1.1 200 X\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(refused(both), Fault::Framing);
}

#[test]
fn a_switch_of_protocols_is_passed_on() {
    let head =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nA: b\r\n\r\n";
    assert_eq!(
        through(head, "GET", &ResponseEdits::default()).unwrap(),
        "HTTP/1.1 101 Switching Protocols\r\nA: b\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    );
}

#[test]
fn what_has_no_content_says_nothing_about_its_length() {
    for framing in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        let of = |status: &str, edits: &ResponseEdits<'_>| {
            through(&format!("HTTP/1.1 {status} X\r\n{framing}\r\n\r\n"), "GET", edits).unwrap()
        };
        let plain = ResponseEdits::default();
        assert_eq!(of("204", &plain), "HTTP/1.1 204 X\r\n\r\n");
        assert_eq!(of("103", &plain), "HTTP/1.1 103 X\r\n\r\n");
        assert_eq!(
            of("304", &plain).to_lowercase(),
            format!("http/1.1 304 x\r\n{}\r\n\r\n", framing.to_lowercase())
        );
        let tunnel = ResponseEdits { is_tunnel: true, ..plain };
        assert_eq!(of("200", &tunnel), "HTTP/1.1 200 X\r\n\r\n");
    }
}
