//! Answers from the index, as Kubernetes' DNS specification (1.1.0) and CoreDNS' `kubernetes` plugin give them.
//! A name that exists without records of the asked type, or that only has names below it, is NODATA; others of the
//! zone are NXDOMAIN.
use super::index::{Index, Member, Port, Target, undashed};
use hickory_proto::ProtoError;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::Ipv4Net;
use std::net::{IpAddr, Ipv4Addr};

/// Seconds for which clients may keep what they were told, as CoreDNS says by default.
pub const TTL_S: u32 = 5;

/// Version of the DNS specification that is served, in `dns-version.<zone>`.
const DNS_VERSION: &str = "1.1.0";

/// The cluster's zone and what it needs to know beside the index.
#[derive(Debug, Clone)]
pub struct Zone {
    domain: Name,
    /// Labels of the domain, lower case.
    labels: usize,
    /// The cluster DNS Service's address, for `ns.dns.<zone>`.
    dns: Ipv4Addr,
    /// Networks whose reverse names are ours: unknown ones don't exist.
    networks: Vec<Ipv4Net>,
}

/// What there is to say.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Records, and others that will be asked for next.
    Records { answers: Vec<Record>, additionals: Vec<Record> },
    /// An alias to a name that may be anywhere.
    Alias { alias: Box<Record>, target: Box<Name> },
    /// The name exists, without records of this type.
    NoData,
    /// The name does not exist.
    NxDomain,
    /// Not known yet: the API has not been heard.
    Unknown,
    /// Somebody else's name.
    NotOurs,
}

impl Answer {
    fn records(answers: Vec<Record>) -> Self {
        if answers.is_empty() { Self::NoData } else { Self::Records { answers, additionals: Vec::new() } }
    }
}

/// A name below a Service: itself, a member, or a port.
enum Below<'a> {
    Itself,
    Member(&'a str),
    Port { name: &'a str, protocol: &'a str },
}

impl Zone {
    /// # Errors
    /// When `domain` is no domain name.
    pub fn new(domain: &str, dns: Ipv4Addr, networks: Vec<Ipv4Net>) -> Result<Self, ProtoError> {
        let mut domain = Name::from_ascii(domain)?.to_lowercase();
        domain.set_fqdn(true);
        let labels = usize::from(domain.num_labels());
        Ok(Self { domain, labels, dns, networks })
    }

    /// The zone's start of authority, which negative answers carry.
    pub fn soa(&self, serial: u32) -> Record {
        let mname = self.name(&["ns", "dns"]).unwrap_or_else(|_| self.domain.clone());
        let rname = self.name(&["hostmaster"]).unwrap_or_else(|_| self.domain.clone());
        let soa = SOA::new(mname, rname, serial, 7200, 1800, 86_400, TTL_S);
        Record::from_rdata(self.domain.clone(), TTL_S, RData::SOA(soa))
    }

    /// Answers one question. `name` may have any case.
    pub fn answer(&self, index: &Index, name: &Name, kind: RecordType) -> Answer {
        match self.answer_from(index, name, kind) {
            // Clients would remember that there is no such name.
            Answer::NoData | Answer::NxDomain if !index.is_complete() => Answer::Unknown,
            answer => answer,
        }
    }

    fn answer_from(&self, index: &Index, name: &Name, kind: RecordType) -> Answer {
        if self.domain.zone_of(name) {
            return self.forward_answer(index, name, kind).unwrap_or(Answer::NxDomain);
        }
        reverse(name).map_or(Answer::NotOurs, |address| self.reverse_answer(index, address, name, kind))
    }

    /// `Err` is a name that can't be built, so does not exist.
    fn forward_answer(&self, index: &Index, name: &Name, kind: RecordType) -> Result<Answer, ProtoError> {
        let lower = name.to_lowercase();
        let count = usize::from(lower.num_labels()) - self.labels;
        let labels: Vec<String> =
            lower.iter().take(count).map(|label| String::from_utf8_lossy(label).into_owned()).collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let records = |data: Vec<RData>| {
            let asked = data.into_iter().filter(|data| asks_for(kind, data.record_type()));
            Answer::records(asked.map(|data| Record::from_rdata(name.clone(), TTL_S, data)).collect())
        };
        Ok(match labels[..] {
            [] => self.apex(kind),
            ["dns-version"] => records(vec![RData::TXT(TXT::new(vec![DNS_VERSION.to_owned()]))]),
            ["svc" | "pod" | "dns"] => Answer::NoData,
            ["ns", "dns"] => records(vec![address_data(self.dns.into())]),
            [namespace, "svc" | "pod"] if index.has_namespace(namespace) => Answer::NoData,
            [label, namespace, "pod"] if index.has_namespace(namespace) => match undashed(label) {
                Some(address) => records(vec![address_data(address)]),
                None => Answer::NxDomain,
            },
            [service, namespace, "svc"] => self.service(index, [service, namespace], Below::Itself, name, kind)?,
            [member, service, namespace, "svc"] => {
                self.service(index, [service, namespace], Below::Member(member), name, kind)?
            }
            [port, protocol, service, namespace, "svc"] => {
                let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
                    return Ok(Answer::NxDomain);
                };
                let below = Below::Port { name: port, protocol };
                self.service(index, [service, namespace], below, name, kind)?
            }
            _ => Answer::NxDomain,
        })
    }

    fn apex(&self, kind: RecordType) -> Answer {
        let ns = || {
            Record::from_rdata(self.domain.clone(), TTL_S, RData::NS(NS(self.name(&["ns", "dns"]).unwrap_or_default())))
        };
        Answer::records(match kind {
            RecordType::SOA => vec![self.soa(1)],
            RecordType::NS => vec![ns()],
            RecordType::ANY => vec![self.soa(1), ns()],
            _ => Vec::new(),
        })
    }

    fn service(
        &self,
        index: &Index,
        [service, namespace]: [&str; 2],
        below: Below<'_>,
        name: &Name,
        kind: RecordType,
    ) -> Result<Answer, ProtoError> {
        let own = || self.name(&[service, namespace, "svc"]);
        Ok(match (index.service(namespace, service), below) {
            (None, _) => Answer::NxDomain,
            (Some(Target::External { name: target }), Below::Itself) => {
                let target = Name::from_ascii(target.trim_end_matches('.'))?.append_domain(&Name::root())?;
                let alias = Record::from_rdata(name.clone(), TTL_S, RData::CNAME(CNAME(target.clone())));
                Answer::Alias { alias: Box::new(alias), target: Box::new(target) }
            }
            (Some(Target::Cluster { addresses, ports }), Below::Itself) => {
                let srv = ports.iter().map(|port| Ok((port.number, own()?, addresses.clone())));
                answer(name, kind, addresses, srv.collect::<Result<_, ProtoError>>()?)
            }
            (Some(Target::Cluster { addresses, ports }), Below::Port { name: port, protocol }) => {
                match ports.iter().find(|p| p.name == port && p.protocol == protocol) {
                    Some(port) => answer(name, kind, &[], vec![(port.number, own()?, addresses.clone())]),
                    None => Answer::NxDomain,
                }
            }
            (Some(Target::Headless { members }), Below::Itself) => {
                let addresses = addresses_of(members.iter());
                answer(name, kind, &addresses, self.member_ports(members, &own()?, |_| true)?)
            }
            (Some(Target::Headless { members }), Below::Member(label)) => {
                let same = || members.iter().filter(|member| member.label == label);
                if same().next().is_none() {
                    return Ok(Answer::NxDomain);
                }
                let same: Vec<Member> = same().cloned().collect();
                answer(name, kind, &addresses_of(same.iter()), self.member_ports(&same, &own()?, |_| true)?)
            }
            (Some(Target::Headless { members }), Below::Port { name: port, protocol }) => {
                let wanted = |p: &Port| p.name == port && p.protocol == protocol;
                match self.member_ports(members, &own()?, wanted)? {
                    srv if srv.is_empty() => Answer::NxDomain,
                    srv => answer(name, kind, &[], srv),
                }
            }
            (Some(_), _) => Answer::NxDomain,
        })
    }

    /// Ports of members with each member's own name and address.
    fn member_ports(
        &self,
        members: &[Member],
        service: &Name,
        wanted: impl Fn(&Port) -> bool,
    ) -> Result<Vec<(u16, Name, Vec<IpAddr>)>, ProtoError> {
        let mut found = Vec::new();
        for member in members {
            for port in member.ports.iter().filter(|port| wanted(port)) {
                found.push((port.number, service.prepend_label(member.label.as_str())?, vec![member.address]));
            }
        }
        Ok(found)
    }

    fn reverse_answer(&self, index: &Index, address: IpAddr, name: &Name, kind: RecordType) -> Answer {
        let names = index.names(address);
        if names.is_empty() {
            let ours = |v4| self.networks.iter().any(|network| network.contains(&v4));
            return if matches!(address, IpAddr::V4(v4) if ours(v4)) { Answer::NxDomain } else { Answer::NotOurs };
        }
        if !asks_for(kind, RecordType::PTR) {
            return Answer::NoData;
        }
        let target = |(label, (namespace, service)): (Option<&str>, &(String, String))| {
            let service = self.name(&[service, namespace, "svc"]).ok()?;
            let target = match label {
                Some(label) => service.prepend_label(label).ok()?,
                None => service,
            };
            Some(Record::from_rdata(name.clone(), TTL_S, RData::PTR(PTR(target))))
        };
        Answer::records(names.into_iter().filter_map(target).collect())
    }

    /// A name of the zone.
    fn name(&self, labels: &[&str]) -> Result<Name, ProtoError> {
        Name::from_labels(labels.iter().map(|label| label.as_bytes()))?.append_domain(&self.domain)
    }
}

/// Addresses of the asked family, or SRV records with the addresses of their targets.
fn answer(name: &Name, kind: RecordType, addresses: &[IpAddr], srv: Vec<(u16, Name, Vec<IpAddr>)>) -> Answer {
    let record = |name: &Name, data| Record::from_rdata(name.clone(), TTL_S, data);
    let data = addresses.iter().map(|address| address_data(*address));
    let mut answers: Vec<_> =
        data.filter(|data| asks_for(kind, data.record_type())).map(|data| record(name, data)).collect();
    let mut additionals = Vec::new();
    if asks_for(kind, RecordType::SRV) {
        // Every target is as good as any other: equal priorities, weights that share out a hundred.
        let weight = u16::try_from(100 / srv.len().max(1)).unwrap_or(1).max(1);
        for (port, target, addresses) in srv {
            let data = addresses.into_iter().map(address_data).map(|data| record(&target, data));
            for additional in data {
                if !additionals.contains(&additional) {
                    additionals.push(additional);
                }
            }
            answers.push(record(name, RData::SRV(SRV::new(0, weight, port, target))));
        }
    }
    match Answer::records(answers) {
        Answer::Records { answers, .. } => Answer::Records { answers, additionals },
        none => none,
    }
}

fn addresses_of<'a>(members: impl Iterator<Item = &'a Member>) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = members.map(|member| member.address).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn asks_for(kind: RecordType, have: RecordType) -> bool {
    kind == have || kind == RecordType::ANY
}

/// The address of a complete reverse name.
fn reverse(name: &Name) -> Option<IpAddr> {
    let lower = name.to_lowercase();
    let labels: Vec<&str> = lower.iter().map(|label| std::str::from_utf8(label).unwrap_or_default()).collect();
    match labels[..] {
        [d, c, b, a, "in-addr", "arpa"] => format!("{a}.{b}.{c}.{d}").parse().ok().map(IpAddr::V4),
        [.., "ip6", "arpa"] if labels.len() == 34 => {
            let nibbles: String = labels[..32].iter().rev().copied().collect();
            u128::from_str_radix(&nibbles, 16).ok().filter(|_| nibbles.len() == 32).map(|n| IpAddr::V6(n.into()))
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
