//! The PROXY protocol, versions 1 and 2: what one proxy tells the next of the client that it works for, before the first byte
//! of the connection (haproxy.org, proxy-protocol.txt).
//!
//! What is decided stays: more bytes never change an answer other than "not complete yet".

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::str::FromStr;

use crate::addr::canonical;

/// Longest header that is read, as in nginx. A header may announce 64 KiB; what is added to addresses in practice (names,
/// certificates' subjects, numbers of virtual networks) takes some hundred bytes.
pub const MOST_BYTES: usize = 4096;

/// Longest line of version 1, its CRLF included (2.1).
const LINE_BYTES: usize = 107;
const LINE_START: &[u8] = b"PROXY ";
/// What version 2 begins with (2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length of the rest.
const FIXED_BYTES: usize = 16;
/// Length of the addresses of IPv4: two of 4 bytes, two ports.
const V4_BYTES: usize = 12;
/// The same of IPv6.
const V6_BYTES: usize = 36;

/// How a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl Version {
    /// Word in the config.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// Whom a connection is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Header {
    /// For nobody, such as a health check, or for somebody who cannot be named here: who connects is the client.
    Local,
    /// For a client.
    Proxied {
        /// The client; canonical.
        source: SocketAddr,
        /// Where it connected to; canonical.
        destination: SocketAddr,
    },
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// They begin like none.
    #[error("no PROXY header")]
    Missing,
    /// A line of version 1 that is not as it must be.
    #[error("a malformed PROXY header of version 1")]
    Line,
    /// A header of version 2 that is not as it must be.
    #[error("a malformed PROXY header of version 2")]
    Binary,
    /// It announces more than [`MOST_BYTES`].
    #[error("a PROXY header of more than {MOST_BYTES} bytes")]
    TooLong,
}

/// Reads the header at the beginning of what a client has sent so far; gives its length as well. `None` asks for more bytes.
///
/// What version 2 may add to addresses (TLVs) is skipped, its checksum included. Copies nothing.
///
/// # Errors
/// If this is no header, whatever comes: as early as that can be told.
pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Fault> {
    let begins = |start: &[u8]| bytes.iter().zip(start).all(|(a, b)| a == b);
    if begins(LINE_START) {
        parse_line(bytes)
    } else if begins(SIGNATURE) {
        parse_binary(bytes)
    } else {
        Err(Fault::Missing)
    }
}

fn parse_line(bytes: &[u8]) -> Result<Option<(Header, usize)>, Fault> {
    let bytes = &bytes[..bytes.len().min(LINE_BYTES)];
    let Some(at) = bytes.iter().position(|byte| *byte == b'\r').filter(|at| at + 1 < bytes.len()) else {
        // A CR in the last place that could be its own has no LF behind it.
        return if bytes.len() < LINE_BYTES { Ok(None) } else { Err(Fault::Line) };
    };
    if bytes[at + 1] != b'\n' {
        return Err(Fault::Line);
    }
    let line = bytes[..at].get(LINE_START.len()..).unwrap_or_default();
    let line = str::from_utf8(line).map_err(|_| Fault::Line)?;
    let header = line_header(line).ok_or(Fault::Line)?;
    Ok(Some((header, at + 2)))
}

/// Reads what stands between `PROXY ` and the end of the line.
fn line_header(line: &str) -> Option<Header> {
    let mut words = line.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        // Whatever follows must be ignored (2.1).
        return Some(Header::Local);
    }
    let addresses = [words.next()?, words.next()?];
    let ports = [port(words.next()?)?, port(words.next()?)?];
    let [source, destination] = match family {
        "TCP4" => ips::<Ipv4Addr>(addresses)?,
        "TCP6" => ips::<Ipv6Addr>(addresses)?,
        _ => return None,
    };
    let end = |ip, port| canonical(SocketAddr::new(ip, port));
    let header = Header::Proxied { source: end(source, ports[0]), destination: end(destination, ports[1]) };
    words.next().is_none().then_some(header)
}

fn ips<T: FromStr + Into<IpAddr>>([source, destination]: [&str; 2]) -> Option<[IpAddr; 2]> {
    Some([source.parse::<T>().ok()?.into(), destination.parse::<T>().ok()?.into()])
}

/// Reads a port as it is written canonically: `str::parse` takes a sign and zeroes in front, too.
fn port(text: &str) -> Option<u16> {
    let is_canonical = text == "0" || text.starts_with(|c: char| c.is_ascii_digit() && c != '0');
    text.parse().ok().filter(|_| is_canonical)
}

fn parse_binary(bytes: &[u8]) -> Result<Option<(Header, usize)>, Fault> {
    let command = bytes.get(12).copied();
    if command.is_some_and(|command| command != 0x20 && command != 0x21) {
        return Err(Fault::Binary);
    }
    let family = bytes.get(13).copied();
    // Of a connection for nobody the family means nothing.
    if command == Some(0x21) && family.is_some_and(|family| family >> 4 > 3 || family & 0xf > 2) {
        return Err(Fault::Binary);
    }
    let (Some(command), Some(family), Some(length)) = (command, family, bytes.get(14..FIXED_BYTES)) else {
        return Ok(None);
    };
    let rest_bytes = usize::from(u16::from_be_bytes([length[0], length[1]]));
    let header_bytes = FIXED_BYTES + rest_bytes;
    if header_bytes > MOST_BYTES {
        return Err(Fault::TooLong);
    }
    let least_bytes = match (command, family) {
        (0x21, 0x11) => V4_BYTES,
        (0x21, 0x21) => V6_BYTES,
        _ => 0,
    };
    if rest_bytes < least_bytes {
        return Err(Fault::Binary);
    }
    let Some(rest) = bytes.get(FIXED_BYTES..header_bytes) else { return Ok(None) };
    let header = match least_bytes {
        V4_BYTES => proxied::<4>(rest),
        V6_BYTES => proxied::<16>(rest),
        // A health check, a unix socket, or a protocol other than TCP.
        _ => Some(Header::Local),
    };
    header.map(|header| Some((header, header_bytes))).ok_or(Fault::Binary)
}

/// Reads two addresses of so many bytes, then two ports.
fn proxied<const IP_BYTES: usize>(rest: &[u8]) -> Option<Header>
where
    IpAddr: From<[u8; IP_BYTES]>,
{
    let (source, rest) = rest.split_first_chunk::<IP_BYTES>()?;
    let (destination, rest) = rest.split_first_chunk::<IP_BYTES>()?;
    let [a, b, c, d] = *rest.first_chunk::<4>()?;
    let end = |ip: &[u8; IP_BYTES], port| canonical(SocketAddr::new(IpAddr::from(*ip), port));
    let source = end(source, u16::from_be_bytes([a, b]));
    Some(Header::Proxied { source, destination: end(destination, u16::from_be_bytes([c, d])) })
}

/// A header as it is sent.
#[derive(Clone, Copy, Debug)]
pub struct Encoded {
    bytes: [u8; LINE_BYTES],
    len: usize,
}

impl Deref for Encoded {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Write for Encoded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put(text.as_bytes());
        Ok(())
    }
}

impl Encoded {
    /// The longest line and the longest binary header that are written fit.
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

/// Writes a header. If its two addresses are of different families, both are written as IPv6.
#[must_use]
pub fn encode(version: Version, header: &Header) -> Encoded {
    let mut out = Encoded { bytes: [0; LINE_BYTES], len: 0 };
    match version {
        Version::V1 => encode_line(header, &mut out),
        Version::V2 => encode_binary(header, &mut out),
    }
    out
}

fn encode_line(header: &Header, out: &mut Encoded) {
    use fmt::Write as _;
    // Writing to memory cannot fail.
    let _ = match *header {
        Header::Local => out.write_str("PROXY UNKNOWN\r\n"),
        Header::Proxied { source, destination } => {
            let ports = (source.port(), destination.port());
            match same_family(source.ip(), destination.ip()) {
                Pair::V4(from, to) => write!(out, "PROXY TCP4 {from} {to} {} {}\r\n", ports.0, ports.1),
                Pair::V6(from, to) => write!(out, "PROXY TCP6 {from} {to} {} {}\r\n", ports.0, ports.1),
            }
        }
    };
}

fn encode_binary(header: &Header, out: &mut Encoded) {
    out.put(SIGNATURE);
    let Header::Proxied { source, destination } = *header else { return out.put(&[0x20, 0, 0, 0]) };
    match same_family(source.ip(), destination.ip()) {
        Pair::V4(from, to) => {
            out.put(&[0x21, 0x11, 0, 12]);
            out.put(&from.octets());
            out.put(&to.octets());
        }
        Pair::V6(from, to) => {
            out.put(&[0x21, 0x21, 0, 36]);
            out.put(&from.octets());
            out.put(&to.octets());
        }
    }
    out.put(&source.port().to_be_bytes());
    out.put(&destination.port().to_be_bytes());
}

enum Pair {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

fn same_family(source: IpAddr, destination: IpAddr) -> Pair {
    let v6 = |ip| match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    match (source.to_canonical(), destination.to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Pair::V4(source, destination),
        (source, destination) => Pair::V6(v6(source), v6(destination)),
    }
}

#[cfg(test)]
mod tests;
