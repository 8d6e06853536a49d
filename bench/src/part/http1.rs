//! Messages of HTTP/1.1 on their way: heads are found, read and written for the other side, bodies are followed.

use std::hint::black_box;

use anyhow::{Result, ensure};
use proxy_core::detect::DETECT_BYTES;
use proxy_user::forward::http1::{
    Chunked, Fault, RequestEdits, RequestHead, ResponseEdits, ResponseHead, Scan, slots,
};

use super::Run;

/// As a browser asks.
const REQUEST: &[u8] = b"GET /products/4711?colour=blue HTTP/1.1\r\n\
    Host: shop.example\r\n\
    Connection: keep-alive\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: http://shop.example/products?colour=blue\r\n\
    Cookie: session=7d1c9f0a52be4c1f8a6d; theme=dark\r\n\
    Sec-Fetch-Mode: navigate\r\n\r\n";
/// As a server answers.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: nginx\r\n\
    Date: Thu, 29 Feb 2024 12:00:00 GMT\r\n\
    Content-Type: text/html; charset=utf-8\r\n\
    Content-Length: 5120\r\n\
    Connection: keep-alive\r\n\
    Cache-Control: private, max-age=60\r\n\
    ETag: \"65e06f40-1400\"\r\n\
    Vary: Accept-Encoding\r\n\r\n";
/// What is sent with a request beside what came.
const FORWARDED: [(&str, &[u8]); 2] = [("x-forwarded-for", b"10.1.2.3"), ("x-forwarded-proto", b"https")];
/// Most fields of a head, or trailers of a body.
const MOST_FIELDS: usize = 100;
/// Chunks of the body, and bytes of each but the last, which is empty.
const CHUNKS: (usize, usize) = (16, 1000);
/// Bytes that come at once: no multiple of a chunk, so that chunks are split at different places.
const PIECE_BYTES: usize = 4096;

pub(super) fn request_head() -> Result<Run> {
    head(REQUEST, |head, out| {
        let mut slots = slots();
        let edits = RequestEdits { set: &FORWARDED.map(Some), ..RequestEdits::default() };
        RequestHead::parse(head, &mut slots)?.write(out, &edits);
        Ok(())
    })
}

pub(super) fn response_head() -> Result<Run> {
    head(ANSWER, |head, out| {
        let mut slots = slots();
        let head = ResponseHead::parse(head, &mut slots)?;
        let body = head.body("GET");
        head.write(out, body, &ResponseEdits::default());
        Ok(())
    })
}

fn head(bytes: &'static [u8], through: fn(&[u8], &mut Vec<u8>) -> Result<(), Fault>) -> Result<Run> {
    let pass = move |bytes: &[u8], out: &mut Vec<u8>| {
        let end = Scan::default().find(bytes, DETECT_BYTES, MOST_FIELDS)?;
        through(&bytes[..end.unwrap_or_default()], out)
    };
    let mut out = Vec::new();
    pass(bytes, &mut out)?;
    Ok(Box::new(move |times| {
        for _ in 0..times {
            out.clear();
            let _ = black_box(pass(black_box(bytes), &mut out));
            black_box(&out);
        }
    }))
}

/// A whole body.
pub(super) fn chunked_body() -> Result<Run> {
    let (count, bytes) = CHUNKS;
    let chunk = [format!("{bytes:x}\r\n").into_bytes(), vec![b'x'; bytes], b"\r\n".to_vec()].concat();
    let body = [chunk.repeat(count), b"0\r\n\r\n".to_vec()].concat();
    ensure!(follow(&body)?.is_done(), "the body does not end");
    Ok(Box::new(move |times| {
        for _ in 0..times {
            let _ = black_box(follow(black_box(&body)));
        }
    }))
}

fn follow(body: &[u8]) -> Result<Chunked, Fault> {
    let mut chunked = Chunked::new(MOST_FIELDS, DETECT_BYTES);
    for piece in body.chunks(PIECE_BYTES) {
        chunked.take(piece, |data| {
            black_box(data);
        })?;
    }
    Ok(chunked)
}
