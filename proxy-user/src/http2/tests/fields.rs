//! What heads and trailers may say.

use http::{HeaderMap, Method};
use proxy_core::http2::hpack::{Decoder, Encoder, Field};

use super::super::field::{self, Fields, Malformed, Protocol};
use super::*;

fn fields(list: &[(&str, &str)]) -> Fields {
    let (mut encoder, mut block) = (Encoder::new(), Vec::new());
    encoder.begin(&mut block);
    for (name, value) in list {
        let field =
            Field { name: name.as_bytes(), value: value.as_bytes(), is_sensitive: *name == "x-secret" };
        encoder.field(field, &mut block);
    }
    let mut fields = Fields::default();
    fields.decode(&mut Decoder::new(4096), &block, 1 << 10).unwrap();
    fields
}

const HEAD: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "a:1"), (":path", "/b?c")];

#[test]
fn a_request_is_read_as_it_is_said() {
    let list = [&HEAD[..], &[("te", "trailers"), ("x-secret", "s"), ("x", "1"), ("x", "2")]].concat();
    let request = fields(&list).request().unwrap();
    assert_eq!((request.method(), request.uri().to_string()), (&Method::GET, "http://a:1/b?c".to_owned()));
    assert!(request.headers()["x-secret"].is_sensitive() && !request.headers()["te"].is_sensitive());
    assert_eq!(request.headers().get_all("x").iter().count(), 2);
    let (mut encoder, mut block) = (Encoder::new(), Vec::new());
    let set = ("x".parse().unwrap(), "3".parse().unwrap());
    let edit = Edit { is_https: true, set: Some((&set.0, &set.1)) };
    field::write_request(&mut encoder, &request, edit, &mut block);
    let mut read = Fields::default();
    read.decode(&mut Decoder::new(4096), &block, 1 << 10).unwrap();
    let again = read.request().unwrap();
    assert_eq!(again.uri().to_string(), "https://a:1/b?c");
    assert_eq!(again.headers().get_all("x").iter().collect::<Vec<_>>(), ["3"]);
    assert!(again.headers()["x-secret"].is_sensitive());
}

#[test]
fn a_request_that_is_malformed_is_none() {
    let with = |more: &[(&'static str, &'static str)]| [&HEAD[..], more].concat();
    let without = |name: &str| HEAD.into_iter().filter(|(of, _)| *of != name).collect::<Vec<_>>();
    let with_path = |method: &'static str, path: &'static str| {
        vec![(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path)]
    };
    let wrong = [
        without(":method"),
        without(":scheme"),
        without(":path"),
        with(&[(":path", "/")]),
        with(&[(":status", "200")]),
        with(&[(":other", "x")]),
        with(&[("x", "y"), (":method", "GET")]),
        with(&[("X", "y")]),
        with(&[("x y", "z")]),
        with(&[("", "z")]),
        with(&[("x", "a\r\nb")]),
        with(&[("x", "a\0")]),
        with(&[("connection", "close")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("upgrade", "h2c")]),
        with(&[("keep-alive", "5")]),
        with(&[("proxy-connection", "close")]),
        with(&[("te", "gzip")]),
        with(&[(":protocol", "websocket")]),
        with_path("GET", ""),
        with_path("GET", "b"),
        with_path("GET", "?b"),
        with_path("GET", "*"),
        with_path("GET", "http://a/b"),
        with_path("GET", "/a b"),
        with_path("G T", "/"),
        vec![(":method", "CONNECT"), (":authority", "a"), (":path", "/")],
        vec![(":method", "CONNECT")],
    ];
    for list in wrong {
        assert_eq!(fields(&list).request().err(), Some(Malformed), "{list:?}");
    }
    assert!(fields(&without(":authority")).request().is_ok(), "the host may stand in its field");
    assert!(fields(&with_path("OPTIONS", "*")).request().is_ok());
}

#[test]
fn tunnels_have_heads_of_their_own() {
    let request = fields(&[(":method", "CONNECT"), (":authority", "a:443")]).request().unwrap();
    assert_eq!((request.method(), request.uri().to_string()), (&Method::CONNECT, "a:443".to_owned()));
    let list = [&[(":method", "CONNECT"), (":protocol", "websocket")], &HEAD[1..]].concat();
    let request = fields(&list).request().unwrap();
    assert_eq!(request.extensions().get(), Some(&Protocol("websocket".parse().unwrap())));
    let mut block = Vec::new();
    field::write_request(&mut Encoder::new(), &request, Edit::default(), &mut block);
    let mut read = Fields::default();
    read.decode(&mut Decoder::new(4096), &block, 1 << 10).unwrap();
    assert_eq!(read.request().unwrap().extensions().get(), request.extensions().get::<Protocol>());
}

#[test]
fn of_a_list_that_is_too_long_enough_is_kept_to_see_that() {
    let long = "y".repeat(2000);
    let list: Vec<(&str, &str)> = HEAD.into_iter().chain([("x-1", &*long), ("x-2", &*long)]).collect();
    let request = fields(&list).request().unwrap();
    assert_eq!(request.headers().keys().collect::<Vec<_>>(), ["x-1"]);
}

#[test]
fn a_length_is_digits_and_once() {
    let of = |lengths: &[&str]| {
        let mut all = HeaderMap::new();
        for length in lengths {
            all.append("content-length", length.parse().unwrap());
        }
        field::content_length(&all)
    };
    assert_eq!((of(&[]), of(&["12"])), (Ok(None), Ok(Some(12))));
    for wrong in
        [&["1", "1"][..], &["+1"], &["-1"], &[" 1"], &["1 "], &[""], &["0x1"], &["99999999999999999999"]]
    {
        assert_eq!(of(wrong), Err(Malformed), "{wrong:?}");
    }
}

#[test]
fn an_answer_is_a_status_and_trailers_are_fields_only() {
    let answer = fields(&[(":status", "299"), ("x-secret", "s"), ("grpc-status", "0")]).response().unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["grpc-status"]), (299, &"0".parse().unwrap()));
    let (mut encoder, mut block) = (Encoder::new(), Vec::new());
    field::write_response(&mut encoder, &answer, &mut block);
    let mut read = Fields::default();
    read.decode(&mut Decoder::new(4096), &block, 1 << 10).unwrap();
    let again = read.response().unwrap();
    assert_eq!((again.status(), again.headers()), (answer.status(), answer.headers()));
    assert!(again.headers()["x-secret"].is_sensitive());
    let wrong: [&[(&str, &str)]; 8] = [
        &[],
        &[("x", "y"), (":status", "200")],
        &[(":status", "200"), (":status", "200")],
        &[(":status", "20")],
        &[(":status", "0200")],
        &[(":status", "200"), (":path", "/")],
        &[(":status", "200"), ("transfer-encoding", "chunked")],
        &[(":status", "200"), ("x", "a\nb")],
    ];
    for list in wrong {
        assert_eq!(fields(list).response().err(), Some(Malformed), "{list:?}");
    }
    let trailers = [("x", "1"), ("x", "2"), ("x-secret", "s")];
    assert_eq!(fields(&trailers).trailers().unwrap().get_all("x").iter().count(), 2);
    for name in [":status", ":path", "connection", "X", ""] {
        assert_eq!(fields(&[(name, "200")]).trailers().err(), Some(Malformed), "{name:?}");
    }
}
