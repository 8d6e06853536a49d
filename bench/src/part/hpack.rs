//! What compression of fields in HTTP/2 costs a call of gRPC that is not the first on its connection.

use std::hint::black_box;

use anyhow::{Result, anyhow};
use proxy_core::http2::hpack::{Decoder, Encoder, Field};

use super::Run;

type Head = &'static [(&'static str, &'static str)];

/// What is said of a call by each side on each connection, again and again: the client's head, the server's and its trailers.
const SIDES: [&[Head]; 2] = [&[&REQUEST], &[&ANSWER, &TRAILERS]];
const REQUEST: [(&str, &str); 9] = [
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
const ANSWER: [(&str, &str); 3] =
    [(":status", "200"), ("content-type", "application/grpc"), ("grpc-accept-encoding", "gzip")];
const TRAILERS: [(&str, &str); 2] = [("grpc-status", "0"), ("grpc-message", "")];
/// What an encoder waits for before it puts a field into its table.
const CALLS_BEFORE: usize = 3;

/// Decodes a call's 14 fields, all of which are in tables.
pub(super) fn decode() -> Result<Run> {
    let mut sides = Vec::new();
    for heads in SIDES {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
        let mut blocks = Vec::new();
        for _ in 0..CALLS_BEFORE {
            blocks = heads.iter().map(|head| block(&mut encoder, head)).collect();
            for block in &blocks {
                decoder.decode(block, |_| ()).map_err(|error| anyhow!("{error}"))?;
            }
        }
        sides.push((decoder, blocks));
    }
    Ok(Box::new(move |times| {
        for _ in 0..times {
            for (decoder, blocks) in &mut sides {
                for block in blocks {
                    let take = |field: Field<'_>| _ = black_box(field);
                    black_box(decoder.decode(black_box(block), take)).ok();
                }
            }
        }
    }))
}

/// Encodes them.
pub(super) fn encode() -> Result<Run> {
    let mut sides = SIDES.map(|heads| (Encoder::new(), heads));
    for (encoder, heads) in &mut sides {
        for head in heads.repeat(CALLS_BEFORE) {
            block(encoder, head);
        }
    }
    let mut out = Vec::with_capacity(1024);
    Ok(Box::new(move |times| {
        for _ in 0..times {
            for (encoder, heads) in &mut sides {
                for head in *heads {
                    out.clear();
                    write(encoder, black_box(head), &mut out);
                    black_box(&out);
                }
            }
        }
    }))
}

fn block(encoder: &mut Encoder, head: Head) -> Vec<u8> {
    let mut out = Vec::new();
    write(encoder, head, &mut out);
    out
}

fn write(encoder: &mut Encoder, head: Head, out: &mut Vec<u8>) {
    encoder.begin(out);
    for (name, value) in head {
        let field = Field { name: name.as_bytes(), value: value.as_bytes(), is_sensitive: false };
        encoder.field(field, out);
    }
}
