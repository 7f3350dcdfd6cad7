//! Which addresses and node ports are taken, and by whom. Pure: chance comes in as an argument.
use api::slice::{Share, Span, Spans};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// The addresses of Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u128,
    /// Addresses in it, at most [`Cidr::MOST`].
    size: u64,
    v6: bool,
    /// As it was given.
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no CIDR such as 10.43.0.0/16")]
pub struct BadCidr(String);

impl Cidr {
    /// As many addresses of a large IPv6 range as are handed out.
    const MOST: u64 = 1 << 20;

    /// # Errors
    /// For what is no `address/prefix`.
    pub fn parse(text: &str) -> Result<Self, BadCidr> {
        let network: IpNet = text.parse().map_err(|_| BadCidr(text.into()))?;
        let host = u32::from(network.max_prefix_len() - network.prefix_len());
        let v6 = network.addr().is_ipv6();
        let size = if v6 { Self::MOST.min(1u64.checked_shl(host).unwrap_or(Self::MOST)) } else { 1 << host };
        let base = match network.network() {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        Ok(Self { base, size, v6, text: network.trunc().to_string() })
    }

    /// `IPv4` or `IPv6`, as Services name families.
    pub fn family(&self) -> &'static str {
        if self.v6 { "IPv6" } else { "IPv4" }
    }

    /// The address at an offset.
    pub fn at(&self, offset: u64) -> IpAddr {
        let bits = self.base + u128::from(offset);
        if self.v6 { Ipv6Addr::from_bits(bits).into() } else { Ipv4Addr::from_bits(bits as u32).into() }
    }

    /// Neither the network's own address nor the broadcast one.
    pub fn usable(&self, ip: IpAddr) -> bool {
        let bits = match ip {
            IpAddr::V4(v4) if !self.v6 => u128::from(v4.to_bits()),
            IpAddr::V6(v6) if self.v6 => v6.to_bits(),
            _ => return false,
        };
        bits > self.base && bits - self.base < u128::from(self.last())
    }

    /// The offset after the last usable one.
    fn last(&self) -> u64 {
        if self.v6 { self.size } else { self.size.saturating_sub(1) }
    }

    /// Where dynamic addresses begin: below are those that are asked for by hand (KEP-3070).
    fn dynamic(&self) -> u64 {
        if self.size < 16 { 1 } else { (self.size / 16).clamp(16, 256) }
    }
}

/// What one Service holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    pub ips: BTreeSet<IpAddr>,
    pub ports: BTreeSet<u16>,
}

impl Claims {
    pub fn extend(&mut self, more: Self) {
        self.ips.extend(more.ips);
        self.ports.extend(more.ports);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("provided {0} is already allocated")]
    Taken(&'static str),
    #[error("the provided IP ({address}) is not in the valid range. The range of valid IPs is {network}")]
    AddressOutside { address: IpAddr, network: String },
    #[error("provided port is not in the valid range. The range of valid ports is {first}-{last}")]
    PortOutside { first: u16, last: u16 },
    #[error("range is full")]
    Full,
    #[error("this server has none left of its own: {0} of its Server object may name more")]
    ShareFull(&'static str),
}

/// Everything that is taken.
#[derive(Debug)]
pub struct Pools {
    pub cidr: Cidr,
    ports: RangeInclusive<u16>,
    owners: HashMap<String, Claims>,
    ips_taken: BTreeMap<IpAddr, usize>,
    ports_taken: BTreeMap<u16, usize>,
    /// What this server gives away by itself; what is asked for by name may lie outside.
    share: Share,
}

impl Pools {
    pub fn new(cidr: Cidr, ports: RangeInclusive<u16>) -> Self {
        Self {
            cidr,
            ports,
            owners: HashMap::new(),
            ips_taken: BTreeMap::new(),
            ports_taken: BTreeMap::new(),
            share: Share::default(),
        }
    }

    /// From now on new numbers come from this share; nothing that is held moves.
    pub fn limit(&mut self, share: &Share) {
        if self.share != *share {
            self.share.clone_from(share);
        }
    }

    /// What `owner` holds from now on, in the place of what it held.
    pub fn hold(&mut self, owner: &str, claims: Claims) {
        self.release(owner);
        for ip in &claims.ips {
            *self.ips_taken.entry(*ip).or_default() += 1;
        }
        for port in &claims.ports {
            *self.ports_taken.entry(*port).or_default() += 1;
        }
        if claims != Claims::default() {
            self.owners.insert(owner.into(), claims);
        }
    }

    pub fn release(&mut self, owner: &str) {
        let Some(claims) = self.owners.remove(owner) else { return };
        claims.ips.iter().for_each(|ip| give_back(&mut self.ips_taken, ip));
        claims.ports.iter().for_each(|port| give_back(&mut self.ports_taken, port));
    }

    fn held_by(&self, owner: &str) -> Option<&Claims> {
        self.owners.get(owner)
    }

    /// An address that was asked for.
    ///
    /// # Errors
    /// When it is outside, or another's.
    pub fn check_ip(&self, owner: &str, ip: IpAddr) -> Result<(), Error> {
        if !self.cidr.usable(ip) {
            return Err(Error::AddressOutside { address: ip, network: self.cidr.text.clone() });
        }
        let ours = self.held_by(owner).is_some_and(|c| c.ips.contains(&ip));
        if ours || !self.ips_taken.contains_key(&ip) { Ok(()) } else { Err(Error::Taken("IP")) }
    }

    /// A port that was asked for.
    ///
    /// # Errors
    /// When it is outside, or another's.
    pub fn check_port(&self, owner: &str, port: u16) -> Result<(), Error> {
        if !self.ports.contains(&port) {
            return Err(Error::PortOutside { first: *self.ports.start(), last: *self.ports.end() });
        }
        let ours = self.held_by(owner).is_some_and(|c| c.ports.contains(&port));
        if ours || !self.ports_taken.contains_key(&port) { Ok(()) } else { Err(Error::Taken("port")) }
    }

    /// A free address: of the upper band from a random place on, and of the lower one when that is full.
    ///
    /// # Errors
    /// When nothing is left.
    pub fn free_ip(&self, random: u64) -> Result<IpAddr, Error> {
        let (first, split, end) = (1, self.cidr.dynamic(), self.cidr.last());
        let free = |offset| !self.ips_taken.contains_key(&self.cidr.at(offset));
        let ours = |first, end| self.offsets(Span { first, end });
        let offset = pick(&ours(split, end), random, free).or_else(|| pick(&ours(first, split), random, free));
        let full = if self.share.limits.is_some() { Error::ShareFull("spec.serviceIPs") } else { Error::Full };
        offset.map(|o| self.cidr.at(o)).ok_or(full)
    }

    /// The offsets in a band that are this server's.
    fn offsets(&self, band: Span) -> Spans {
        let base = self.cidr.base as u64;
        match self.share.limits.as_ref().filter(|_| !self.cidr.v6) {
            None => Spans::new(vec![band]),
            Some(limits) => {
                let band = Span { first: base + band.first, end: base + band.end };
                Spans::new(vec![band]).and(&limits.service_ips).down_by(base)
            }
        }
    }

    /// A free port that `others` do not ask for.
    ///
    /// # Errors
    /// When nothing is left.
    pub fn free_port(&self, random: u64, others: &BTreeSet<u16>) -> Result<u16, Error> {
        let (first, end) = (u64::from(*self.ports.start()), u64::from(*self.ports.end()) + 1);
        let split = if end - first < 32 { first } else { first + ((end - first) / 32).clamp(16, 128) };
        let free = |p: u64| !self.ports_taken.contains_key(&(p as u16)) && !others.contains(&(p as u16));
        let ours = |first, end| {
            let band = Spans::new(vec![Span { first, end }]);
            self.share.limits.as_ref().map_or_else(|| band.clone(), |limits| band.and(&limits.node_ports))
        };
        let full = if self.share.limits.is_some() { Error::ShareFull("spec.nodePorts") } else { Error::Full };
        let port = pick(&ours(split, end), random, free).or_else(|| pick(&ours(first, split), random, free));
        port.map(|p| p as u16).ok_or(full)
    }
}

fn give_back<K: Ord>(taken: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = taken.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            taken.remove(key);
        }
    }
}

/// The first of these numbers, counted from a random one on, that is free.
fn pick(numbers: &Spans, random: u64, free: impl Fn(u64) -> bool) -> Option<u64> {
    let size = numbers.len();
    (0..size).filter_map(|i| numbers.nth((random % size + i) % size)).find(|&n| free(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(cidr: &str) -> Pools {
        Pools::new(Cidr::parse(cidr).unwrap(), 30_000..=30_003)
    }

    fn claims(ips: &[&str], ports: &[u16]) -> Claims {
        Claims { ips: ips.iter().map(|i| i.parse().unwrap()).collect(), ports: ports.iter().copied().collect() }
    }

    #[test]
    fn an_address_is_held_once_and_comes_back() {
        let mut pools = pools("10.43.0.0/16");
        let ip: IpAddr = "10.43.0.10".parse().unwrap();
        pools.hold("a", claims(&["10.43.0.10"], &[]));
        assert_eq!(pools.check_ip("b", ip), Err(Error::Taken("IP")));
        assert_eq!(pools.check_ip("a", ip), Ok(()));
        pools.release("a");
        assert_eq!(pools.check_ip("b", ip), Ok(()));
        assert!(matches!(pools.check_ip("b", "10.44.0.1".parse().unwrap()), Err(Error::AddressOutside { .. })));
        assert!(pools.check_ip("b", "10.43.0.0".parse().unwrap()).is_err());
        assert!(pools.check_ip("b", "10.43.255.255".parse().unwrap()).is_err());
    }

    #[test]
    fn a_server_gives_from_its_own_slice_alone_and_takes_what_is_asked_for() {
        let grant = api::slice::Grant {
            service_ips: vec!["10.43.240.0/30".into()],
            node_ports: vec!["30002-30003".into()],
            pod_cidrs: Vec::new(),
        };
        let mut pools = pools("10.43.0.0/16");
        pools.hold("before", claims(&["10.43.0.99"], &[30_000]));
        pools.limit(&Share { limits: Some(grant.numbers().unwrap()) });
        for n in 0..4u64 {
            let ip = pools.free_ip(n * 7919).unwrap();
            assert!(ip.to_string().starts_with("10.43.240."), "{ip}");
            pools.hold(&n.to_string(), claims(&[&ip.to_string()], &[]));
        }
        assert_eq!(pools.free_ip(0), Err(Error::ShareFull("spec.serviceIPs")));
        assert_eq!(pools.check_ip("x", "10.43.7.7".parse().unwrap()), Ok(()), "asked for by name");
        assert_eq!(pools.free_port(7, &[30_002].into()), Ok(30_003));
        assert_eq!(pools.free_port(7, &[30_002, 30_003].into()), Err(Error::ShareFull("spec.nodePorts")));
        assert!(pools.check_ip("x", "10.43.0.99".parse().unwrap()).is_err(), "what was held stays held");
    }

    #[test]
    fn every_address_is_given_before_the_range_is_full() {
        let mut pools = pools("10.0.0.0/27");
        for n in 0..30u64 {
            let ip = pools.free_ip(n * 7919).unwrap();
            assert!(pools.cidr.usable(ip));
            assert!(n >= 15 || ip >= "10.0.0.16".parse::<IpAddr>().unwrap(), "the upper band first");
            pools.hold(&n.to_string(), claims(&[&ip.to_string()], &[]));
        }
        assert_eq!(pools.free_ip(0), Err(Error::Full));
    }

    #[test]
    fn ports_too() {
        let mut pools = pools("10.0.0.0/24");
        pools.hold("a", claims(&[], &[30_000, 30_001]));
        assert_eq!(pools.free_port(0, &[30_002].into()), Ok(30_003));
        assert_eq!(pools.check_port("b", 30_000), Err(Error::Taken("port")));
        assert_eq!(
            pools.check_port("b", 80).unwrap_err().to_string(),
            "provided port is not in the valid range. The range of valid ports is 30000-30003"
        );
    }

    #[test]
    fn six_is_a_family() {
        let cidr = Cidr::parse("fd00::/108").unwrap();
        assert_eq!((cidr.family(), cidr.at(5).to_string()), ("IPv6", "fd00::5".to_string()));
        assert!(Cidr::parse("10.0.0.0/33").is_err() && Cidr::parse("x").is_err());
    }
}
