//! IP addresses and networks in fields.
use super::field::{Errors, Path};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address of either family. As upstream's legacy fields do, IPv4 with leading zeros is refused.
pub fn address(errors: &mut Errors, path: &Path<'_>, text: &str) -> Option<IpAddr> {
    let parsed = text.parse().ok();
    if parsed.is_none() {
        errors.invalid(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
    parsed
}

/// `10.0.0.0/8`, `2001:db8::/64`.
pub fn network(errors: &mut Errors, path: &Path<'_>, text: &str) {
    let parsed = text.split_once('/').and_then(|(ip, bits)| {
        let ip: IpAddr = ip.parse().ok()?;
        let bits: u8 = bits.parse().ok()?;
        (bits <= if ip.is_ipv4() { 32 } else { 128 }).then_some(())
    });
    if parsed.is_none() {
        errors.invalid(path, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    }
}

/// Whether a network lies within another, and is smaller; none where either is no network.
pub fn is_strict_subset(inner: &str, outer: &str) -> Option<bool> {
    let parse = |text: &str| {
        let (ip, bits) = text.split_once('/')?;
        Some((ip.parse::<IpAddr>().ok()?, bits.parse::<u32>().ok()?))
    };
    let ((inner, inner_bits), (outer, outer_bits)) = (parse(inner)?, parse(outer)?);
    let same_start = match (inner, outer) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= outer_bits,
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= outer_bits,
        _ => false,
    };
    Some(same_start && inner_bits > outer_bits)
}

/// An address that was never checked strictly, as upstream keeps two texts for it.
pub fn sloppy_endpoint(errors: &mut Errors, path: &Path<'_>, text: &str) {
    match address(errors, path, text) {
        Some(ip) => endpoint(errors, path, ip),
        None => errors.invalid(path, text, "must be a valid IP address"),
    }
}

/// An address that traffic can be sent to: not loopback, link-local or unspecified.
pub fn endpoint(errors: &mut Errors, path: &Path<'_>, ip: IpAddr) {
    let text = ip.to_string();
    let link_local = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let link_multicast = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == Ipv4Addr::new(224, 0, 0, 0).octets()[..3],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0).segments()[0],
    };
    if ip.is_unspecified() {
        errors.invalid(path, &*text, format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        errors.invalid(path, &*text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local(&ip) {
        errors.invalid(path, &*text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_multicast(&ip) {
        errors.invalid(path, &*text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_within_networks() {
        assert_eq!(is_strict_subset("10.1.0.0/16", "10.0.0.0/8"), Some(true));
        assert_eq!(is_strict_subset("11.0.0.0/16", "10.0.0.0/8"), Some(false));
        assert_eq!(is_strict_subset("10.0.0.0/8", "10.0.0.0/8"), Some(false));
        assert_eq!(is_strict_subset("2001:db8:1::/48", "2001:db8::/32"), Some(true));
        assert_eq!(is_strict_subset("::/0", "10.0.0.0/8"), Some(false));
        assert_eq!(is_strict_subset("x", "10.0.0.0/8"), None);
    }
}
