//! An IPv4 network in CIDR notation.
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A network such as `10.42.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: Ipv4Addr,
    bits: u8,
}

/// What is no CIDR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no IPv4 network such as 10.42.0.0/16")]
pub struct ParseError(String);

impl Cidr {
    /// Whether `address` lies in the network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.address)
    }

    /// The network's n-th address; past its end it goes on into the next network.
    pub fn nth(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address).wrapping_add(n))
    }

    /// The network's first address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The length of its prefix.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0)
    }
}

impl FromStr for Cidr {
    type Err = ParseError;

    /// Bits beyond the prefix are dropped.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fail = || ParseError(text.to_owned());
        let (address, bits) = text.split_once('/').ok_or_else(fail)?;
        let (address, bits): (Ipv4Addr, u8) = (address.parse().map_err(|_| fail())?, bits.parse().map_err(|_| fail())?);
        if bits > 32 {
            return Err(fail());
        }
        let network = Self { address, bits };
        Ok(Self { address: Ipv4Addr::from(u32::from(address) & network.mask()), bits })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_contains() {
        let cidr: Cidr = "10.42.7.9/16".parse().expect("cidr");
        assert_eq!(cidr.to_string(), "10.42.0.0/16");
        assert!(cidr.contains(Ipv4Addr::new(10, 42, 255, 1)));
        assert!(!cidr.contains(Ipv4Addr::new(10, 43, 0, 1)));
        let all: Cidr = "1.2.3.4/0".parse().expect("cidr");
        assert!(all.contains(Ipv4Addr::BROADCAST) && all.to_string() == "0.0.0.0/0");
    }

    #[test]
    fn refuses_what_is_no_network() {
        for text in ["", "10.42.0.0", "10.42.0/16", "10.42.0.0/33", "fd00::/8", "10.42.0.0/-1"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
