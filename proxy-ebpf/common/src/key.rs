//! Keys of maps.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout;

/// Third word of a v4-mapped address (`::ffff:0:0/96`, RFC 4291 2.5.5.2) as it stands in memory.
pub const V4_MAPPED_WORD_BE: u32 = u32::to_be(0x0000_ffff);

/// Address and port of one end of a TCP connection; an IPv4 address is stored v4-mapped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Addr {
    /// IPv6 address as four words in network byte order.
    pub ip_be: [u32; 4],
    /// Port in network byte order.
    pub port_be: u16,
    /// Zero.
    pub pad: u16,
}
layout!(Addr, 20, 4);

impl Addr {
    /// Makes the address of an IPv4 end from network-order parts.
    #[must_use]
    #[inline(always)]
    pub const fn v4(ip_be: u32, port_be: u16) -> Self {
        Self { ip_be: [0, 0, V4_MAPPED_WORD_BE, ip_be], port_be, pad: 0 }
    }

    /// Tells whether this is an IPv4 address in its v4-mapped form.
    #[must_use]
    #[inline(always)]
    pub const fn is_v4_mapped(&self) -> bool {
        self.ip_be[0] == 0 && self.ip_be[1] == 0 && self.ip_be[2] == V4_MAPPED_WORD_BE
    }

    /// Tells whether this is an address of the machine itself: 127/8 or ::1.
    #[must_use]
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4_mapped() {
            self.ip_be[3].to_ne_bytes()[0] == 127
        } else {
            self.ip_be[0] == 0 && self.ip_be[1] == 0 && self.ip_be[2] == 0 && self.ip_be[3] == u32::to_be(1)
        }
    }
}

impl From<SocketAddr> for Addr {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(ip.octets().as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Self { ip_be: words, port_be: address.port().to_be(), pad: 0 }
    }
}

impl From<Addr> for SocketAddr {
    /// IPv4 comes back as IPv4.
    fn from(address: Addr) -> Self {
        let mut octets = [0; 16];
        for (bytes, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(address.ip_be) {
            *bytes = word.to_ne_bytes();
        }
        SocketAddr::new(Ipv6Addr::from(octets).to_canonical(), u16::from_be(address.port_be))
    }
}

/// Key of a slot in a service's table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SlotKey {
    /// Service.
    pub service: u32,
    /// Generation of the table: a new table is written beside the old one, then one write to the service flips.
    pub generation: u32,
    /// [`FAMILY_V4`](crate::value::FAMILY_V4) or [`FAMILY_V6`](crate::value::FAMILY_V6).
    pub family: u32,
    /// Index below the table's `slot_count`.
    pub slot: u32,
}
layout!(SlotKey, 16, 4);

/// Key of a listener of the proxy lane.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ListenerKey {
    /// Network namespace (SO_NETNS_COOKIE).
    pub netns_cookie: u64,
    /// Family, as in [`SlotKey`].
    pub family: u32,
    /// Index below [`Settings::listener_count`](crate::config::Settings::listener_count).
    pub index: u32,
}
layout!(ListenerKey, 16, 8);

impl ListenerKey {
    /// Makes the key of the node listener of a family: no network namespace has the cookie 0.
    #[must_use]
    #[inline(always)]
    pub const fn node(family: u32) -> Self {
        Self { netns_cookie: 0, family, index: 0 }
    }
}

/// Key under which a redirected connection finds its original destination.
///
/// The listener's address is a part: without it keys collide as soon as there are several listeners, because the kernel
/// gives the same source port to connections that differ in their destination.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct OriginalDstKey {
    /// Network namespace of the client and the listener; 0 for the node listener, which clients reach from theirs.
    pub netns_cookie: u64,
    /// The client's end.
    pub source: Addr,
    /// The listener's end.
    pub listener: Addr,
}
layout!(OriginalDstKey, 48, 8);

impl OriginalDstKey {
    /// Makes the key of a connection from a namespace to a listener: one on loopback is inside of it, any other is the node's.
    #[must_use]
    #[inline(always)]
    pub const fn to_listener(netns_cookie: u64, source: Addr, listener: Addr) -> Self {
        if listener.is_loopback() {
            Self { netns_cookie, source, listener }
        } else {
            Self { netns_cookie: 0, source, listener }
        }
    }

    /// Makes the key that holds a place for a socket between connect() and its SYN, while the source port is unknown.
    ///
    /// Its port 0 keeps it apart from every real key.
    #[must_use]
    #[inline(always)]
    pub const fn reservation(socket_cookie: u64) -> Self {
        let none = Addr { ip_be: [0; 4], port_be: 0, pad: 0 };
        Self { netns_cookie: socket_cookie, source: none, listener: none }
    }

    /// Makes the key under which the socket that an application accepts finds the client behind a worker's connection.
    ///
    /// What is otherwise zero keeps it apart from the keys of connections to listeners.
    #[must_use]
    #[inline(always)]
    pub const fn to_application(netns_cookie: u64, worker: Addr, application: Addr) -> Self {
        Self { netns_cookie, source: worker, listener: Addr { pad: 1, ..application } }
    }

    /// Tells whether the key only holds a place.
    #[must_use]
    pub const fn is_reservation(&self) -> bool {
        self.source.port_be == 0
    }
}

/// Key of per-CPU totals.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TotalsKey {
    /// Service, or 0 for traffic that was left untouched.
    pub service: u32,
    /// Endpoint, or 0 where the kernel does not know it.
    pub endpoint: u32,
    /// A lane of [`crate::value::lane`].
    pub lane: u32,
}
layout!(TotalsKey, 12, 4);

/// Key of the longest-prefix table of excluded networks; aya adds the prefix length in front.
pub type ExcludedNet = [u32; 4];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_border_and_mapped_ones_become_ipv4() {
        for text in ["127.0.0.1:80", "[fd00::1:2]:65535", "[::1]:1", "255.255.255.255:0"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from(Addr::from(address)), address);
        }
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert_eq!(SocketAddr::from(Addr::from(mapped)), "10.0.0.1:80".parse().unwrap());
    }

    #[test]
    fn words_and_ports_are_in_network_order() {
        let addr = Addr::from("1.2.3.4:258".parse::<SocketAddr>().unwrap());
        assert_eq!(addr.as_bytes()[10..18], [0xff, 0xff, 1, 2, 3, 4, 1, 2]);
        assert_eq!(addr, Addr::v4(u32::from_ne_bytes([1, 2, 3, 4]), u16::from_ne_bytes([1, 2])));
    }

    #[test]
    fn connections_to_the_node_are_known_by_their_ends_alone() {
        let addr = |text: &str| Addr::from(text.parse::<SocketAddr>().unwrap());
        let to =
            |listener| OriginalDstKey::to_listener(7, addr("10.0.0.9:4000"), addr(listener)).netns_cookie;
        assert_eq!(["127.87.0.1:61500", "[::1]:61500"].map(to), [7, 7]);
        assert_eq!(["10.0.0.1:40001", "[fd00::1]:40001"].map(to), [0, 0]);
    }

    #[test]
    fn loopback_is_recognised_in_both_families() {
        let is = |text: &str| Addr::from(text.parse::<SocketAddr>().unwrap()).is_loopback();
        assert!(is("127.9.8.7:1") && is("[::1]:1"));
        assert!(!is("128.0.0.1:1") && !is("[fd00::1]:1") && !is("[::]:1"));
    }
}
