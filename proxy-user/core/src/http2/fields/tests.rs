use super::*;

fn list(fields: &[(&str, &str)]) -> FieldList {
    fields.iter().copied().collect()
}

const HEAD: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "a:1"), (":path", "/b?c")];

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [&HEAD[..], more].concat()
}

fn head(method: &'static str, path: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path)]
}

/// What a list is on the other side, edited on its way.
fn through(said: &FieldList, edits: &[Edit<'_>]) -> FieldList {
    let (mut block, mut read) = (Vec::new(), FieldList::default());
    said.encode(&mut Encoder::new(), edits, &mut block);
    read.decode(&mut Decoder::new(4096), &block, 1 << 16).unwrap();
    read
}

#[test]
fn a_list_is_read_as_it_is_said() {
    let mut said = list(&with(&[("te", "trailers"), ("x", "1"), ("x", "2")]));
    said.push(Field { name: b"x-secret", value: b"s", is_sensitive: true });
    let read = through(&said, &[]);
    assert!(read == said, "{read:?} instead of {said:?}");
    assert_eq!((read.method(), read.authority(), read.path_and_query()), ("GET", Some("a:1"), "/b?c"));
    assert_eq!(read.find_all("x").collect::<Vec<_>>(), [b"1", b"2"]);
    let sensitive: Vec<_> = read.iter().filter(|field| field.is_sensitive).map(|field| field.name).collect();
    assert_eq!(sensitive, [b"x-secret"]);
    assert_eq!(read.list_bytes(), said.iter().map(|f| f.name.len() + f.value.len() + 32).sum::<usize>());
    assert_eq!(format!("{:?}", through(&list(&[("x", "y")]), &[])), r#"["x"]"#, "values may be secrets");
}

#[test]
fn edits_take_the_place_of_what_was_there() {
    let said = list(&with(&[("x", "1"), ("y", "2"), ("x", "3")]));
    let edits: [Edit<'_>; 3] = [(":scheme", b"https"), ("x", b"4"), ("z", b"5")];
    let mut applied = said.clone();
    edits.iter().for_each(|edit| applied.apply(*edit));
    let wanted =
        [(":method", "GET"), (":scheme", "https"), (":authority", "a:1"), (":path", "/b?c"), ("y", "2")];
    assert!(through(&said, &edits) == list(&[&wanted[..], &[("x", "4"), ("z", "5")]].concat()));
    let kept = [&wanted[..4], &[("x", "4"), ("y", "2"), ("z", "5")]].concat();
    assert!(applied == list(&kept), "the same, but for the order of what is in no order: {applied:?}");
    let connect = list(&[(":method", "CONNECT"), (":authority", "a:1")]);
    assert!(through(&connect, &edits[..1]) == connect, "no pseudo-header that is none");
}

#[test]
fn a_list_is_changed_in_its_order() {
    let mut changed = list(&[("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")]);
    changed.set("a", b"5");
    changed.append("b", b"6");
    changed.set("d", b"7");
    changed.set(":method", b"GET");
    assert!(
        changed == list(&[(":method", "GET"), ("a", "5"), ("b", "2"), ("c", "4"), ("b", "6"), ("d", "7")])
    );
    changed.remove("b");
    changed.retain(|field| field.value != b"4");
    assert!(changed.copy(100, 4) == list(&[(":method", "GET"), ("a", "5"), ("d", "7")]));
    assert_eq!(changed.plain().collect::<Vec<_>>(), [("a", &b"5"[..]), ("d", b"7")]);
    changed.clear();
    assert!(changed.iter().next().is_none() && changed.find("a").is_none() && changed.authority().is_none());
    changed.set_status(507);
    changed.set_status(204);
    assert_eq!((changed.status(), changed.find_all(":status").count()), (204, 1));
}

#[test]
fn a_request_that_is_malformed_is_none() {
    let without = |name: &str| HEAD.into_iter().filter(|(of, _)| *of != name).collect::<Vec<_>>();
    let wrong = [
        vec![],
        without(":method"),
        without(":scheme"),
        without(":path"),
        with(&[(":path", "/")]),
        with(&[(":status", "200")]),
        with(&[(":other", "x")]),
        with(&[(":", "x")]),
        with(&[("x", "y"), (":method", "GET")]),
        with(&[("x y", "z")]),
        with(&[("x:", "z")]),
        with(&[("x\u{e9}", "z")]),
        with(&[("", "z")]),
        with(&[("x", "a\r\nb")]),
        with(&[("x", "a\0")]),
        with(&[("x", "a\u{7f}b")]),
        with(&[("connection", "close")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("upgrade", "h2c")]),
        with(&[("keep-alive", "5")]),
        with(&[("proxy-connection", "close")]),
        with(&[("te", "gzip")]),
        with(&[("te", "Trailers")]),
        with(&[(":protocol", "websocket")]),
        head("GET", ""),
        head("GET", "b"),
        head("GET", "?b"),
        head("GET", "*"),
        head("GET", "http://a/b"),
        head("GET", "/a b"),
        head("GET", "/a#b"),
        head("GET", "/a?b#c"),
        head("GET", "/a<b"),
        head("GET", "/a?b>c"),
        head("GET", "/a`b"),
        head("GET", "/a?\"b\""),
        head("GET", "/a\tb"),
        head("G T", "/"),
        head("", "/"),
        [&without(":scheme")[..], &[(":scheme", "")]].concat(),
        [&without(":scheme")[..], &[(":scheme", "1x")]].concat(),
        [&without(":scheme")[..], &[(":scheme", "a:b")]].concat(),
        [&without(":authority")[..], &[(":authority", "")]].concat(),
        [&without(":authority")[..], &[(":authority", "a b")]].concat(),
        vec![(":method", "CONNECT"), (":authority", "a"), (":path", "/")],
        vec![(":method", "CONNECT"), (":authority", "a"), (":scheme", "http")],
        vec![(":method", "CONNECT")],
        vec![(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/")],
        vec![(":method", "CONNECT"), (":protocol", "websocket"), (":authority", "a")],
    ];
    for fields in wrong {
        assert_eq!(list(&fields).check_request(), Err(Malformed), "{fields:?}");
    }
    let right = [
        HEAD.to_vec(),
        without(":authority"),
        head("OPTIONS", "*"),
        head("PURGE", "/\u{e9}\"{}|\\^?a?b`{}|\u{e9}"),
        with(&[("x", ""), ("te", "trailers"), ("x-b", "a\tb\u{e9}"), ("x!#$%&'*+-.^_`|~1", "y")]),
        vec![(":method", "CONNECT"), (":authority", "a:443")],
        [&[(":method", "CONNECT"), (":protocol", "websocket")], &HEAD[1..]].concat(),
    ];
    for fields in right {
        assert_eq!(list(&fields).check_request(), Ok(()), "{fields:?}");
    }
    let mut broken = list(&without(":path"));
    broken.set(":path", b"/\xff");
    assert_eq!(broken.check_request(), Err(Malformed), "no text");
}

#[test]
fn an_answer_is_a_status_and_trailers_are_fields_only() {
    let wrong: [&[(&str, &str)]; 11] = [
        &[],
        &[("x", "y"), (":status", "200")],
        &[(":status", "200"), (":status", "200")],
        &[(":status", "")],
        &[(":status", "20")],
        &[(":status", "099")],
        &[(":status", "0200")],
        &[(":status", "2x0")],
        &[(":status", "200"), (":path", "/")],
        &[(":status", "200"), ("transfer-encoding", "chunked")],
        &[(":status", "200"), ("x", "a\nb")],
    ];
    for fields in wrong {
        assert_eq!(list(fields).check_answer(), Err(Malformed), "{fields:?}");
    }
    let answer = list(&[(":status", "299"), ("grpc-status", "0")]);
    assert_eq!((answer.check_answer(), answer.status()), (Ok(()), 299));
    assert_eq!(list(&[("x", "1"), ("x", "2")]).check_trailers(), Ok(()));
    for name in [":status", ":path", "connection", ""] {
        assert_eq!(list(&[(name, "200")]).check_trailers(), Err(Malformed), "{name:?}");
    }
}

#[test]
fn names_are_in_small_letters_and_values_without_spaces_around() {
    let mut said = list(&[(":path", " /"), ("X-Capitals", "A"), ("a", " b c\t"), ("d", " \t "), ("e", "")]);
    let read = through(&said, &[]);
    assert!(
        read == list(&[(":path", " /"), ("x-capitals", "A"), ("a", "b c"), ("d", ""), ("e", "")]),
        "{read:?}"
    );
    said.push(Field { name: b"X", value: b"said so by a peer", is_sensitive: false });
    assert_eq!(said.check_trailers(), Err(Malformed));
    let mut peers = FieldList::default();
    peers.push(Field { name: b"X", value: b"", is_sensitive: false });
    assert_eq!(peers.check_trailers(), Err(Malformed), "a peer may not use capitals");
}

#[test]
fn of_a_list_that_is_too_long_enough_is_kept_to_see_that() {
    let long = "y".repeat(2000);
    let said: FieldList = HEAD.into_iter().chain([("x-1", &*long), ("x-2", &*long)]).collect();
    let (mut block, mut read) = (Vec::new(), FieldList::default());
    said.encode(&mut Encoder::new(), &[], &mut block);
    read.decode(&mut Decoder::new(4096), &block, 1 << 10).unwrap();
    assert_eq!(read.plain().map(|(name, _)| name).collect::<Vec<_>>(), ["x-1"]);
    assert!(read.list_bytes() > 1 << 10);
}

#[test]
fn a_length_is_digits_and_once() {
    let of = |lengths: &[&'static str]| {
        let lengths = lengths.iter().map(|length| ("content-length", *length));
        lengths.collect::<FieldList>().content_length()
    };
    assert_eq!((of(&[]), of(&["12"])), (Ok(None), Ok(Some(12))));
    for wrong in
        [&["1", "1"][..], &["+1"], &["-1"], &[" 1"], &["1 "], &[""], &["0x1"], &["99999999999999999999"]]
    {
        assert_eq!(of(wrong), Err(Malformed), "{wrong:?}");
    }
}
