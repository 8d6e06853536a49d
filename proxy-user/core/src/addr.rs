//! Addresses by the part they play, so that two of them cannot be confused.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub SocketAddr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

address! {
    /// Where the application's own end of a connection is (downstream).
    ClientAddr
}
address! {
    /// What the application asked for in `connect()`, before anything was rewritten.
    OriginalDst
}
address! {
    /// Where a server that can do the work listens (upstream).
    EndpointAddr
}

/// Family of a service address or of an endpoint; a v4-mapped address counts as [`Family::V4`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4, and IPv6 sockets that speak to a v4-mapped address.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, in the order that tables and outputs use.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Tells the family of an address.
    #[must_use]
    pub fn of(address: SocketAddr) -> Self {
        match canonical(address) {
            SocketAddr::V4(_) => Self::V4,
            SocketAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Turns a v4-mapped IPv6 address into the IPv4 address that it means; others stay as they are.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    prefix_bits: u8,
}

/// Why a text is not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// The part before `/` is not an address.
    #[error("'{0}' is not an IP address")]
    Address(String),
    /// The part after `/` is no number that fits the address.
    #[error("'/{0}' is not a prefix length between /0 and /{1}")]
    Prefix(String, u8),
    /// Bits are set behind the prefix: most likely a typing error, so it is refused.
    #[error("{0} has bits set behind its prefix; the network would be {1}")]
    HostBits(String, Cidr),
}

impl Cidr {
    /// Address of the network; all bits behind the prefix are zero.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Length of the prefix: 0 to 32 for IPv4, 0 to 128 for IPv6.
    #[must_use]
    pub fn prefix_bits(&self) -> u8 {
        self.prefix_bits
    }

    /// Tells whether the network holds an address; a v4-mapped address is taken as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix_bits) == self.address
    }
}

impl std::str::FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| CidrError::Address(address.to_owned()))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            None => most,
            Some(prefix) => match prefix.parse::<u8>() {
                Ok(bits) if bits <= most => bits,
                _ => return Err(CidrError::Prefix(prefix.to_owned(), most)),
            },
        };
        // A v4-mapped network is the IPv4 network that it means; with its address whole, its prefix is at least 96.
        let (address, prefix_bits) = match address.to_canonical() {
            v4 @ IpAddr::V4(_) if address.is_ipv6() && prefix_bits >= 96 => (v4, prefix_bits - 96),
            _ => (address, prefix_bits),
        };
        let network = Self { address: masked(address, prefix_bits), prefix_bits };
        if network.address == address {
            Ok(network)
        } else {
            Err(CidrError::HostBits(text.to_owned(), network))
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

fn masked(address: IpAddr, prefix_bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix_bits)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix_bits)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidr_contains_its_addresses_and_no_others() {
        let net: Cidr = "10.1.0.0/16".parse().unwrap();
        assert!(net.contains("10.1.255.255".parse().unwrap()));
        assert!(net.contains("::ffff:10.1.0.1".parse().unwrap()));
        assert!(!net.contains("10.2.0.0".parse().unwrap()));
        assert!(!net.contains("fd00::1".parse().unwrap()));
        let all: Cidr = "::/0".parse().unwrap();
        assert!(all.contains("fd00::1".parse().unwrap()) && !all.contains("1.2.3.4".parse().unwrap()));
    }

    #[test]
    fn a_v4_mapped_network_is_the_ipv4_network() {
        let net: Cidr = "::ffff:10.1.0.0/112".parse().unwrap();
        assert_eq!(net, "10.1.0.0/16".parse().unwrap());
        assert!(net.contains(net.address()));
        assert!("::ffff:10.1.0.0/90".parse::<Cidr>().is_err());
    }

    #[test]
    fn cidr_says_what_is_wrong() {
        assert_eq!("10.0.0.0/33".parse::<Cidr>(), Err(CidrError::Prefix("33".into(), 32)));
        assert_eq!("ten".parse::<Cidr>(), Err(CidrError::Address("ten".into())));
        let error = "10.1.2.3/16".parse::<Cidr>().unwrap_err().to_string();
        assert!(error.contains("10.1.0.0/16"), "{error}");
    }

    #[test]
    fn v4_mapped_is_ipv4() {
        assert_eq!(Family::of("[::ffff:1.2.3.4]:80".parse().unwrap()), Family::V4);
        assert_eq!(Family::of("[fd00::1]:80".parse().unwrap()), Family::V6);
    }
}
