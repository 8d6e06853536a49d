//! What an encoder puts into the table.

use super::*;

#[test]
fn a_call_of_grpc_is_an_index_for_each_field_when_it_comes_again() {
    let call = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/helloworld.Greeter/SayHello"),
        (":authority", "greeter.default.svc.cluster.local:50051"),
        ("content-type", "application/grpc"),
        ("user-agent", "grpc-go/1.76.0"),
        ("te", "trailers"),
        ("grpc-accept-encoding", "gzip"),
        ("x-tenant", "blue"),
    ];
    let mut encoder = Encoder::new();
    let head = || call.map(|(name, value)| plain(name, value));
    encode(&mut encoder, head());
    assert_eq!(encode(&mut encoder, head()).len(), call.len());
}

#[test]
fn what_does_not_repeat_leaves_the_table_alone() {
    let mut encoder = Encoder::new();
    encode(&mut encoder, [plain(":path", "/users/0")]);
    for user in 1..1000 {
        encode(
            &mut encoder,
            [plain(":path", &format!("/users/{user}/posts")), plain("content-length", &user.to_string())],
        );
    }
    assert_eq!(entries(&encoder.table), [(b":path".to_vec(), b"/users/0".to_vec())]);
    encode(&mut encoder, [plain(":path", "/users/999/posts")]);
    assert_eq!(encode(&mut encoder, [plain(":path", "/users/999/posts")]).len(), 1);
}

#[test]
fn a_name_that_is_not_in_the_static_table_is_said_once() {
    let mut encoder = Encoder::new();
    encode(&mut encoder, [plain("grpc-timeout", "999u")]);
    // form and index, length, value
    assert_eq!(encode(&mut encoder, [plain("grpc-timeout", "1S")]).len(), 2 + 1 + 2);
    assert_eq!(entries(&encoder.table).len(), 1);
}

#[test]
fn secrets_stay_out_of_the_table_and_say_so() {
    let token = "Bearer ".to_owned() + &"a1B2".repeat(100);
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
    let sensitive = Field { is_sensitive: true, ..plain(":method", "GET") };
    for _ in 0..3 {
        let fields = [plain("authorization", "Basic dTpw"), plain("cookie", "pin=1234"), sensitive];
        let block = encode(&mut encoder, fields);
        let fields = decode(&mut decoder, &block).unwrap();
        assert!(fields.iter().all(|(_, _, is_sensitive)| *is_sensitive));
    }
    assert_eq!(entries(&encoder.table), []);
    // What is in the table already is no way round.
    encode(&mut encoder, [plain("x-key", "1")]);
    assert!(encode(&mut encoder, [Field { is_sensitive: true, ..plain("x-key", "1") }]).len() > 1);
    // A long one cannot be guessed.
    encode(&mut encoder, [plain("authorization", &token)]);
    assert_eq!(encode(&mut encoder, [plain("authorization", &token)]).len(), 1);
}

#[test]
fn a_peer_hears_of_the_smallest_size_and_of_the_last() {
    let mut encoder = Encoder::new();
    encode(&mut encoder, [plain("a", "b")]);
    encoder.set_table_bytes(u32::MAX);
    assert_eq!(encode(&mut encoder, []), []);
    for table_bytes in [100, 0, 50, 8192] {
        encoder.set_table_bytes(table_bytes);
    }
    assert_eq!(encode(&mut encoder, []), [0x20, 0x3f, 0xe1, 0x1f]);
    assert_eq!(entries(&encoder.table), []);
    encoder.set_table_bytes(30);
    assert_eq!(encode(&mut encoder, []), [0x3e]);
    assert_eq!(encode(&mut encoder, [plain(":path", "/x")]), [0x04, 2, b'/', b'x']);
}

#[test]
fn one_that_has_seen_nothing_is_small() {
    assert!(size_of::<(Decoder, Encoder)>() <= 400, "{}", size_of::<(Decoder, Encoder)>());
}
