//! Requests that parsers read differently, each with another one behind it or inside that nobody may smuggle through.
//!
//! `-NNN` stands for the case's number in targets, so that what a server sees can be told apart.

/// What has to become of a case in front of a server that is trusted with nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Refused with this status, and nothing of it is a request to anybody.
    Refused(u16),
    /// One request, and what follows is a part of it.
    Inside,
    /// Two requests one after the other, as everybody may send them.
    Pipelined,
    /// Not complete yet, whatever one may want to see in it.
    Waiting,
    /// One request, after which nothing more is read.
    Last,
}

use Verdict::{Inside, Last, Pipelined, Refused, Waiting};

/// The request that is smuggled.
pub const SMUGGLED: &str = "GET /smuggled-NNN HTTP/1.1\r\nHost: x\r\n\r\n";

/// A case.
pub struct Case {
    /// What is odd about it.
    pub name: &'static str,
    /// What has to become of it.
    pub verdict: Verdict,
    /// Number, three digits.
    pub number: String,
    /// What the client says, all of it.
    pub bytes: Vec<u8>,
}

impl Case {
    /// Target of its first request.
    #[must_use]
    pub fn target(&self) -> String {
        format!("/case-{}", self.number)
    }

    /// Target of the smuggled one.
    #[must_use]
    pub fn smuggled(&self) -> String {
        format!("/smuggled-{}", self.number)
    }
}

/// The head of a POST with these header lines.
fn post(lines: &str) -> String {
    format!("POST /case-NNN HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n")
}

/// The head of a GET with these header lines.
fn get(lines: &str) -> String {
    format!("GET /case-NNN HTTP/1.1\r\n{lines}\r\n\r\n")
}

/// A chunked POST with this body.
fn chunks(body: &str) -> String {
    format!("{}{body}", post("Transfer-Encoding: chunked"))
}

/// All cases.
#[must_use]
pub fn cases() -> Vec<Case> {
    let groups = [both_framings(), lengths(), codings(), chunked(), lines(), targets(), hosts(), hops()];
    let all = groups.into_iter().flatten().enumerate();
    all.map(|(index, (name, verdict, head))| {
        let number = format!("{:03}", index + 1);
        let is_own = head.contains("/smuggled-NNN");
        let text = if is_own { head } else { head + SMUGGLED };
        Case { name, verdict, bytes: text.replace("-NNN", &format!("-{number}")).into_bytes(), number }
    })
    .collect()
}

type Group = Vec<(&'static str, Verdict, String)>;

/// Content-Length and Transfer-Encoding at once, in disguise mostly.
fn both_framings() -> Group {
    let length = SMUGGLED.len() + 5;
    let hidden = |coding: &str| {
        format!("{}0\r\n\r\n{SMUGGLED}", post(&format!("Content-Length: {length}\r\n{coding}")))
    };
    vec![
        ("CL.TE", Refused(400), hidden("Transfer-Encoding: chunked")),
        ("TE.CL", Refused(400), post("Transfer-Encoding: chunked\r\nContent-Length: 4") + "5c\r\n"),
        ("space before the colon of TE", Refused(400), hidden("Transfer-Encoding : chunked")),
        ("space before TE", Refused(400), hidden(" Transfer-Encoding: chunked")),
        ("TE in a folded line", Refused(400), hidden("A: b\r\n\tTransfer-Encoding: chunked")),
        ("TE behind a bare LF", Refused(400), hidden("A: b\nTransfer-Encoding: chunked")),
        ("TE behind a bare CR", Refused(400), hidden("A: b\rTransfer-Encoding: chunked")),
        ("TE with NUL in its name", Refused(400), hidden("Transfer-Encoding\0: chunked")),
        ("TE with an accent in its name", Refused(400), hidden("Tr\u{e4}nsfer-Encoding: chunked")),
        ("TE with VT in front", Refused(400), hidden("Transfer-Encoding: \x0bchunked")),
        ("TE with VT behind", Refused(400), hidden("Transfer-Encoding: chunked\x0b")),
        ("TE with an underscore", Inside, hidden("Transfer_Encoding: chunked")),
        ("TE that Connection names", Refused(400), hidden("Connection: Transfer-Encoding\r\nTE: chunked")),
        ("TE of nothing", Refused(501), hidden("Transfer-Encoding:")),
        ("TE identity", Refused(501), hidden("Transfer-Encoding: identity")),
    ]
}

fn lengths() -> Group {
    let with = |value: &str| post(&format!("Content-Length: {value}")) + "abcd";
    vec![
        ("two different CL", Refused(400), with("4\r\nContent-Length: 50")),
        ("two equal CL", Refused(400), with("4\r\nContent-Length: 4")),
        ("CL in two cases", Refused(400), with("4\r\ncontent-length: 50")),
        ("CL as a list", Refused(400), with("4, 4")),
        ("CL with a plus", Refused(400), with("+4")),
        ("CL with a minus", Refused(400), with("-4")),
        ("CL of nothing", Refused(400), with("")),
        ("CL with letters", Refused(400), with("4a")),
        ("CL in hexadecimal", Refused(400), with("0x4")),
        ("CL with a fraction", Refused(400), with("4.0")),
        ("CL of two numbers", Refused(400), with("4 5")),
        ("CL in quotes", Refused(400), with("\"4\"")),
        ("CL of 64 bits and one", Refused(400), with("18446744073709551620")),
        ("CL in another script", Refused(400), with("\u{664}")),
        ("CL with zeros in front", Pipelined, with("0004")),
        ("CL with blanks around", Pipelined, with(" \t 4 \t")),
        ("CL in a folded line", Refused(400), with("\r\n 4")),
        ("CL with an underscore", Pipelined, post("Content_Length: 4")),
    ]
}

fn codings() -> Group {
    let with = |value: &str| post(&format!("Transfer-Encoding: {value}")) + "0\r\n\r\n";
    vec![
        ("TE twice in a list", Refused(501), with("chunked, chunked")),
        ("TE twice", Refused(501), with("chunked\r\nTransfer-Encoding: chunked")),
        ("TE and another", Refused(501), with("chunked\r\nTransfer-Encoding: identity")),
        ("another and TE", Refused(501), with("identity\r\nTransfer-Encoding: chunked")),
        ("TE behind gzip", Refused(501), with("gzip, chunked")),
        ("TE before gzip", Refused(501), with("chunked, gzip")),
        ("TE with a comma behind", Refused(501), with("chunked,")),
        ("TE with a parameter", Refused(501), with("chunked;q=1")),
        ("TE in quotes", Refused(501), with("\"chunked\"")),
        ("TE almost", Refused(501), with("xchunked")),
        ("TE in capitals", Pipelined, with("CHUNKED")),
        ("TE behind a tab", Pipelined, with("\tchunked ")),
        ("TE in HTTP/1.0", Refused(400), with("chunked").replace("HTTP/1.1", "HTTP/1.0")),
        (
            "TE in HTTP/1.0 that stays",
            Refused(400),
            with("chunked\r\nConnection: keep-alive").replace("HTTP/1.1", "HTTP/1.0"),
        ),
    ]
}

fn chunked() -> Group {
    let end = "0\r\n\r\n";
    let long = format!("1;{}\r\na\r\n{end}", "x".repeat(300));
    vec![
        ("size with 0x", Refused(400), chunks("0x1\r\na\r\n0\r\n\r\n")),
        ("size with a plus", Refused(400), chunks("+1\r\na\r\n0\r\n\r\n")),
        ("size with a minus", Refused(400), chunks("-1\r\na\r\n0\r\n\r\n")),
        ("size behind a blank", Refused(400), chunks(" 1\r\na\r\n0\r\n\r\n")),
        ("size before a blank", Refused(400), chunks("1 \r\na\r\n0\r\n\r\n")),
        ("size with an underscore", Refused(400), chunks("1_0\r\na\r\n0\r\n\r\n")),
        ("size of nothing", Refused(400), chunks("\r\na\r\n0\r\n\r\n")),
        ("size of 64 bits and one", Refused(400), chunks("10000000000000001\r\na\r\n0\r\n\r\n")),
        ("size beyond everything", Waiting, chunks("ffffffffffffffff\r\na\r\n0\r\n\r\n")),
        ("size behind zeros", Pipelined, chunks("0001\r\na\r\n0\r\n\r\n")),
        ("size that ends with LF", Refused(400), chunks("1\na\r\n0\r\n\r\n")),
        ("size that ends with CR", Refused(400), chunks("1\ra\r\n0\r\n\r\n")),
        ("extension with LF", Refused(400), chunks("1;a\nb\r\na\r\n0\r\n\r\n")),
        ("extension with NUL", Refused(400), chunks("1;a\0\r\na\r\n0\r\n\r\n")),
        ("extension in quotes", Pipelined, chunks("1;a=\"b;c\"\r\na\r\n0\r\n\r\n")),
        ("extension without end of quotes", Pipelined, chunks("1;a=\"\r\na\r\n0\r\n\r\n")),
        ("extension beyond measure", Refused(400), chunks(&long)),
        ("data longer than its size", Refused(400), chunks("1\r\nab\r\n0\r\n\r\n")),
        ("data that ends with LF", Refused(400), chunks("1\r\na\n0\r\n\r\n")),
        ("data without an end", Refused(400), chunks("1\r\na0\r\n\r\n")),
        ("no empty line at the end", Refused(400), chunks("0\r\n")),
        ("LF at the end", Refused(400), chunks("0\r\n\n")),
        ("trailer that is folded", Refused(400), chunks("0\r\nA: b\r\n c\r\n\r\n")),
        ("trailer with LF", Refused(400), chunks("0\r\nA: b\nC: d\r\n\r\n")),
        ("trailer Content-Length", Refused(400), chunks("0\r\nContent-Length: 5\r\n\r\n")),
        ("trailer Transfer-Encoding", Refused(400), chunks("0\r\nTransfer-Encoding: chunked\r\n\r\n")),
        ("trailer Host", Refused(400), chunks("0\r\nhOsT: y\r\n\r\n")),
        ("trailer X-Forwarded-For", Refused(400), chunks("0\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")),
        ("trailer Cookie", Refused(400), chunks("0\r\nCookie: a=b\r\n\r\n")),
        ("trailer of no harm", Pipelined, chunks("0\r\nX-Sum: 1\r\n\r\n")),
        ("empty line behind the end", Pipelined, chunks("0\r\n\r\n\r\n")),
        (
            "another request in a chunk",
            Inside,
            chunks(&format!("{:x}\r\n{SMUGGLED}\r\n{end}", SMUGGLED.len())),
        ),
    ]
}

fn lines() -> Group {
    vec![
        ("bare LF everywhere", Refused(400), "GET /case-NNN HTTP/1.1\nHost: x\n\n".into()),
        ("bare LF once", Refused(400), get("Host: x\nA: b")),
        ("bare CR in a value", Refused(400), get("Host: x\r\nA: b\rc")),
        ("NUL in a value", Refused(400), get("Host: x\r\nA: b\0c")),
        ("NUL in the target", Refused(400), "GET /case-NNN\0 HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("line without a colon", Refused(400), get("Host: x\r\nnothing")),
        ("name of nothing", Refused(400), get("Host: x\r\n: b")),
        ("name in brackets", Refused(400), get("Host: x\r\nA(b): c")),
        ("name with all that it may have", Pipelined, get("Host: x\r\nA!#$%&'*+-.^_`|~: b")),
        ("fold before the first header", Refused(400), get(" A: b\r\nHost: x")),
        ("empty line in front", Pipelined, format!("\r\n{}", get("Host: x"))),
        ("two empty lines in front", Refused(400), format!("\r\n\r\n{}", get("Host: x"))),
        ("LF in front", Refused(400), format!("\n{}", get("Host: x"))),
        ("HTTP/0.9", Refused(400), "GET /case-NNN\r\n\r\n".into()),
        ("HTTP/0.9 by its name", Refused(505), "GET /case-NNN HTTP/0.9\r\nHost: x\r\n\r\n".into()),
        ("HTTP/1.2", Refused(505), "GET /case-NNN HTTP/1.2\r\nHost: x\r\n\r\n".into()),
        ("HTTP/2.0", Refused(505), "GET /case-NNN HTTP/2.0\r\nHost: x\r\n\r\n".into()),
        ("version in small letters", Refused(505), "GET /case-NNN http/1.1\r\nHost: x\r\n\r\n".into()),
        ("blank behind the version", Refused(400), "GET /case-NNN HTTP/1.1 \r\nHost: x\r\n\r\n".into()),
        ("two blanks", Refused(400), "GET  /case-NNN HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("tab for a blank", Refused(400), "GET\t/case-NNN HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("blank in the target", Refused(505), "GET /case-NNN /a HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("method in brackets", Refused(400), "GE(T /case-NNN HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("blank before the method", Refused(400), " GET /case-NNN HTTP/1.1\r\nHost: x\r\n\r\n".into()),
    ]
}

fn targets() -> Group {
    let line = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
    vec![
        ("absolute form beside Host", Pipelined, line("http://y/case-NNN")),
        ("absolute form with a user", Refused(400), line("http://y@z/case-NNN")),
        ("absolute form without a host", Refused(400), line("http:///case-NNN")),
        ("absolute form of another scheme", Refused(400), line("ftp://y/case-NNN")),
        ("target without a slash", Refused(400), line("case-NNN")),
        ("target of a server", Refused(400), line("*")),
        ("target of a tunnel", Refused(400), line("x:80")),
        ("target with a fragment", Refused(400), line("/case-NNN#a")),
        ("target with DEL", Refused(400), line("/case-NNN\x7f")),
        ("tunnel without a port", Refused(400), "CONNECT x HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        (
            "tunnel with a body",
            Refused(400),
            format!("CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\nContent-Length: {}\r\n\r\n", SMUGGLED.len()),
        ),
        (
            "data for a tunnel that is refused",
            Last,
            "CONNECT case-NNN:1 HTTP/1.1\r\nHost: x:1\r\n\r\n".into(),
        ),
    ]
}

fn hosts() -> Group {
    vec![
        ("no Host", Refused(400), get("A: b")),
        ("two Hosts", Refused(400), get("Host: x\r\nHost: y")),
        ("two equal Hosts", Refused(400), get("Host: x\r\nHost: x")),
        ("two Hosts in HTTP/1.0", Refused(400), get("Host: x\r\nHost: y").replace("HTTP/1.1", "HTTP/1.0")),
        ("Host with a user", Refused(400), get("Host: y@x")),
        ("Host with a path", Refused(400), get("Host: x/y")),
        ("Host with a blank", Refused(400), get("Host: x y")),
        ("Host behind a blank", Refused(400), get("Host : x")),
        ("Host with a query", Refused(400), get("Host: x?y")),
        ("Host of nothing", Pipelined, get("Host:")),
    ]
}

/// What is for one hop only, and bodies where few expect them.
fn hops() -> Group {
    let length = SMUGGLED.len();
    let bodied = |method: &str| {
        format!("{method} /case-NNN HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}")
    };
    let websocket = "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket";
    vec![
        ("Connection names Host", Refused(400), get("Host: x\r\nConnection: close, Host")),
        (
            "Connection names CL",
            Refused(400),
            post("Content-Length: 4\r\nConnection: Content-Length") + "abcd",
        ),
        ("Connection that ends it", Last, get("Host: x\r\nConnection: close")),
        ("GET with a body", Inside, bodied("GET")),
        ("HEAD with a body", Inside, bodied("HEAD")),
        ("OPTIONS with a body", Inside, bodied("OPTIONS")),
        ("upgrade that is not taken", Pipelined, get(websocket)),
        ("upgrade with a body", Inside, get(&format!("{websocket}\r\nContent-Length: {length}")) + SMUGGLED),
        (
            "upgrade to h2c",
            Pipelined,
            get("Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk"),
        ),
        ("upgrade to h2c among others", Pipelined, get(&format!("{websocket}, h2c"))),
        ("another expectation", Refused(417), post("Expect: 100-continue, x\r\nContent-Length: 4") + "abcd"),
        (
            "expectation with the body at once",
            Pipelined,
            post("Expect: 100-continue\r\nContent-Length: 4") + "abcd",
        ),
    ]
}
