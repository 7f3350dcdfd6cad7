//! Addresses and networks (`k8s.io/apiserver/pkg/cel/library/ip.go` and `cidr.go`).
use super::{Entry, Methods, failed, opaque, wrong};
use crate::cel::{Error, Opaque, Value};
use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const FUNCTIONS: &[Entry] = &[
    ("ip(string) net.IP", |args| given(args).and_then(parse_ip).map(opaque)),
    ("isIP(string) bool", |args| Ok(Value::Bool(parse_ip(given(args)?).is_ok()))),
    ("ip.isCanonical(string) bool", |args| {
        let of = given(args)?;
        Ok(Value::Bool(parse_ip(of)?.0.to_string() == of))
    }),
    ("cidr(string) net.CIDR", |args| given(args).and_then(parse_cidr).map(opaque)),
    ("isCIDR(string) bool", |args| Ok(Value::Bool(parse_cidr(given(args)?).is_ok()))),
];

pub const METHODS: Methods = ".family(net.IP) int; .isUnspecified(net.IP) bool; .isLoopback(net.IP) bool; \
    .isLinkLocalMulticast(net.IP) bool; .isLinkLocalUnicast(net.IP) bool; .isGlobalUnicast(net.IP) bool; \
    .containsIP(net.CIDR, string) bool; .containsIP(net.CIDR, net.IP) bool; .containsCIDR(net.CIDR, string) bool; \
    .containsCIDR(net.CIDR, net.CIDR) bool; .ip(net.CIDR) net.IP; .prefixLength(net.CIDR) int; .masked(net.CIDR) net.CIDR";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ip(IpAddr);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cidr {
    ip: IpAddr,
    bits: u8,
}

fn given<'v>(args: &'v [Value<'_>]) -> Result<&'v str, Error> {
    args[0].as_str().ok_or_else(|| Error::no_overload("ip"))
}

fn parse_ip(of: &str) -> Result<Ip, Error> {
    if of.contains('%') {
        return Err(failed(format!("IP address {of:?} with zone value is not allowed")));
    }
    match of.parse() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            Err(failed(format!("IPv4-mapped IPv6 address {of:?} is not allowed")))
        }
        Ok(ip) => Ok(Ip(ip)),
        Err(_) => Err(failed(format!("IP Address {of:?} parse error during conversion from string"))),
    }
}

fn parse_cidr(of: &str) -> Result<Cidr, Error> {
    let wrong = || failed("network address parse error during conversion from string");
    let (ip, bits) = of.split_once('/').ok_or_else(wrong)?;
    let ip = parse_ip(ip).map_err(|_| wrong())?.0;
    let bits: u8 = bits.parse().map_err(|_| wrong())?;
    if bits > width(ip) {
        return Err(wrong());
    }
    Ok(Cidr { ip, bits })
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The address with all but its first bits cleared.
fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & mask))
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
        }
    }
}

impl Cidr {
    fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.ip.is_ipv4() && masked(ip, self.bits) == masked(self.ip, self.bits)
    }
}

impl Opaque for Ip {
    fn type_name(&self) -> &'static str {
        "net.IP"
    }

    fn call(&self, function: &str, _: &[Value<'_>]) -> Result<Value<'static>, Error> {
        let link_local = match self.0 {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let link_local_multicast = match self.0 {
            IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
            IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
        };
        let broadcast = self.0 == IpAddr::V4(Ipv4Addr::BROADCAST);
        let special = self.0.is_unspecified() || self.0.is_loopback() || self.0.is_multicast() || broadcast;
        Ok(match function {
            "family" => Value::Int(if self.0.is_ipv4() { 4 } else { 6 }),
            "isUnspecified" => Value::Bool(self.0.is_unspecified()),
            "isLoopback" => Value::Bool(self.0.is_loopback()),
            "isLinkLocalMulticast" => Value::Bool(link_local_multicast),
            "isLinkLocalUnicast" => Value::Bool(link_local),
            "isGlobalUnicast" => Value::Bool(!special && !link_local),
            _ => return wrong(function),
        })
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn text(&self) -> Option<String> {
        Some(self.0.to_string())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn ip_of(of: &Value<'_>) -> Result<IpAddr, Error> {
    match (of, of.as_str()) {
        (_, Some(text)) => parse_ip(text).map(|ip| ip.0),
        (Value::Opaque(of), _) if let Some(ip) = of.as_any().downcast_ref::<Ip>() => Ok(ip.0),
        _ => Err(Error::no_overload("containsIP")),
    }
}

fn cidr_of(of: &Value<'_>) -> Result<Cidr, Error> {
    match (of, of.as_str()) {
        (_, Some(text)) => parse_cidr(text),
        (Value::Opaque(of), _) if let Some(cidr) = of.as_any().downcast_ref::<Cidr>() => Ok(*cidr),
        _ => Err(Error::no_overload("containsCIDR")),
    }
}

impl Opaque for Cidr {
    fn type_name(&self) -> &'static str {
        "net.CIDR"
    }

    fn call(&self, function: &str, arguments: &[Value<'_>]) -> Result<Value<'static>, Error> {
        Ok(match (function, arguments) {
            ("containsIP", [ip]) => Value::Bool(self.contains(ip_of(ip)?)),
            ("containsCIDR", [other]) => {
                let other = cidr_of(other)?;
                Value::Bool(self.bits <= other.bits && self.contains(other.ip))
            }
            ("ip", _) => opaque(Ip(self.ip)),
            ("prefixLength", _) => Value::Int(self.bits.into()),
            ("masked", _) => opaque(Cidr { ip: masked(self.ip, self.bits), bits: self.bits }),
            _ => return wrong(function),
        })
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn text(&self) -> Option<String> {
        Some(format!("{}/{}", self.ip, self.bits))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
