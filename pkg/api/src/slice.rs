//! Numbers that servers give away without asking each other: addresses of Services, node ports, pod networks. Each server
//! gives from its own slice alone; the founder has what nobody was granted. Pure.
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// The largest part of everything that one grant takes: a sixteenth.
const LARGEST_PART: u64 = 16;
/// The part of the giver's own numbers that one grant takes at most: a quarter, so that it never gives the last away.
const GIVERS_PART: u64 = 4;
/// Numbers of servers come in blocks of at most so many, and of this part of the giver's own.
const LARGEST_BLOCK: u64 = 16;
const BLOCKS_PART: u64 = 16;
/// The smallest grants: addresses of Services, node ports.
const MIN_ADDRESSES: u64 = 16;
const MIN_PORTS: u64 = 8;

/// What a Server object says of its slice: `spec.serviceIPs`, `spec.nodePorts`, `spec.podCIDRs`. Networks are CIDRs,
/// ports `first-last`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    #[serde(rename = "serviceIPs", default, skip_serializing_if = "Vec::is_empty")]
    pub service_ips: Vec<String>,
    #[serde(rename = "nodePorts", default, skip_serializing_if = "Vec::is_empty")]
    pub node_ports: Vec<String>,
    #[serde(rename = "podCIDRs", default, skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<String>,
}

/// Three sets of numbers: addresses (as numbers), ports, addresses of pod networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    pub service_ips: Spans,
    pub node_ports: Spans,
    pub pod_ips: Spans,
}

/// Why a grant can't be read or made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0:?} is no IPv4 network such as 10.43.16.0/20")]
    Network(String),
    #[error("{0:?} is no range of ports such as 30000-30127")]
    Ports(String),
    #[error("{0:?} is no range of numbers such as 2-1023")]
    Range(String),
    #[error("no {0} are left to grant to another server: all are given or in use")]
    Exhausted(&'static str),
}

impl Grant {
    /// # Errors
    /// The first entry that can't be read.
    pub fn numbers(&self) -> Result<Numbers, Error> {
        let networks = |all: &[String]| all.iter().map(|text| network(text)).collect::<Result<Vec<_>, _>>();
        let ports = self.node_ports.iter().map(|text| ports(text)).collect::<Result<Vec<_>, _>>()?;
        Ok(Numbers {
            service_ips: Spans::new(networks(&self.service_ips)?),
            node_ports: Spans::new(ports),
            pod_ips: Spans::new(networks(&self.pod_cidrs)?),
        })
    }
}

fn network(text: &str) -> Result<Span, Error> {
    let wrong = || Error::Network(text.to_owned());
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let (address, prefix): (Ipv4Addr, u32) =
        (address.parse().map_err(|_| wrong())?, prefix.parse().map_err(|_| wrong())?);
    let size = 1u64.checked_shl(32u32.checked_sub(prefix).ok_or_else(wrong)?).ok_or_else(wrong)?;
    let first = u64::from(address.to_bits()) & !(size - 1);
    Ok(Span { first, end: first + size })
}

fn ports(text: &str) -> Result<Span, Error> {
    let wrong = || Error::Ports(text.to_owned());
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let (first, last): (u16, u16) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    if first > last { Err(wrong()) } else { Ok(Span { first: first.into(), end: u64::from(last) + 1 }) }
}

/// Ranges of numbers as a Server object has them in `spec.numbers`: `first-last`.
///
/// # Errors
/// The first that can't be read.
pub fn ranges(all: &[String]) -> Result<Spans, Error> {
    let read = |text: &String| ports(text).map_err(|_| Error::Range(text.clone()));
    Ok(Spans::new(all.iter().map(read).collect::<Result<_, _>>()?))
}

/// What a server that joins gets of the numbers that servers have, and what its giver has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    pub number: u64,
    /// For those that it will admit itself.
    pub block: Spans,
    pub left: Spans,
}

/// The lowest of the giver's `own` numbers, and a block from their end. A number is given once: what is given leaves `own`
/// for ever. None: there are no more.
pub fn admit(own: &Spans) -> Option<Admitted> {
    let number = own.nth(0)?;
    let rest = own.without(&Spans::new(vec![Span { first: number, end: number + 1 }]));
    let size = LARGEST_BLOCK.min(rest.len() / BLOCKS_PART);
    let end = rest.0.last().map_or(0, |last| last.end);
    let block = rest.and(&Spans::new(vec![Span { first: end - size, end }]));
    Some(Admitted { number, left: rest.without(&block), block })
}

impl From<&Numbers> for Grant {
    fn from(numbers: &Numbers) -> Self {
        Self {
            service_ips: numbers.service_ips.networks(),
            node_ports: numbers.node_ports.ranges(),
            pod_cidrs: numbers.pod_ips.networks(),
        }
    }
}

impl Numbers {
    /// What is in this and not in the other.
    pub fn without(&self, other: &Self) -> Self {
        Self {
            service_ips: self.service_ips.without(&other.service_ips),
            node_ports: self.node_ports.without(&other.node_ports),
            pod_ips: self.pod_ips.without(&other.pod_ips),
        }
    }
}

/// Numbers from `first` up to, without, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub first: u64,
    pub end: u64,
}

/// A set of numbers: spans in order that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans(Vec<Span>);

impl Spans {
    pub fn new(mut spans: Vec<Span>) -> Self {
        spans.retain(|span| span.first < span.end);
        spans.sort_unstable();
        let mut joined: Vec<Span> = Vec::with_capacity(spans.len());
        for span in spans {
            match joined.last_mut().filter(|last| span.first <= last.end) {
                Some(last) => last.end = last.end.max(span.end),
                None => joined.push(span),
            }
        }
        Self(joined)
    }

    /// How many numbers are in it.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|span| span.end - span.first).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, number: u64) -> bool {
        self.covers(Span { first: number, end: number + 1 })
    }

    /// Whether all of a span is in it.
    pub fn covers(&self, wanted: Span) -> bool {
        let at = self.0.partition_point(|span| span.end < wanted.end);
        self.0.get(at).is_some_and(|span| span.first <= wanted.first && wanted.end <= span.end)
    }

    /// The number at a place, counted from the lowest.
    pub fn nth(&self, mut place: u64) -> Option<u64> {
        for span in &self.0 {
            if place < span.end - span.first {
                return Some(span.first + place);
            }
            place -= span.end - span.first;
        }
        None
    }

    /// What is in both.
    pub fn and(&self, other: &Self) -> Self {
        let pairs = self.0.iter().flat_map(|a| other.0.iter().map(move |b| (a, b)));
        Self::new(pairs.map(|(a, b)| Span { first: a.first.max(b.first), end: a.end.min(b.end) }).collect())
    }

    /// What is in this and not in the other.
    pub fn without(&self, other: &Self) -> Self {
        let mut left = self.0.clone();
        for gone in &other.0 {
            left = left
                .into_iter()
                .flat_map(|span| {
                    let (before, after) = (span.end.min(gone.first), span.first.max(gone.end));
                    [Span { first: span.first, end: before }, Span { first: after, end: span.end }]
                })
                .filter(|span| span.first < span.end)
                .collect();
        }
        Self::new(left)
    }

    /// As `first-last`.
    pub fn ranges(&self) -> Vec<String> {
        self.0.iter().map(|span| range(*span)).collect()
    }

    /// The fewest networks that are together the same addresses.
    pub fn networks(&self) -> Vec<String> {
        self.0.iter().flat_map(|span| aligned(*span)).map(cidr).collect()
    }

    /// All numbers less by as much; none may be below it.
    pub fn down_by(self, base: u64) -> Self {
        Self(self.0.into_iter().map(|span| Span { first: span.first - base, end: span.end - base }).collect())
    }

    fn touches(&self, wanted: Span) -> bool {
        self.0.iter().any(|span| span.first < wanted.end && wanted.first < span.end)
    }

    /// The highest aligned span of that size that is in it and holds nothing of `used`.
    fn highest(&self, size: u64, used: &Self) -> Option<Span> {
        let ends = self.0.iter().rev();
        ends.flat_map(|span| {
            let (top, first) = (span.end / size * size, span.first);
            (1..).map(move |n| top.checked_sub(n * size)).take_while(move |at| at.is_some_and(|at| at >= first))
        })
        .flatten()
        .map(|first| Span { first, end: first + size })
        .find(|span| !used.touches(*span))
    }
}

/// What this server may give away by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// None: everything, on a server alone.
    pub limits: Option<Numbers>,
}

impl Share {
    /// The share of a server that was granted `own`; of the founder (none) what is not `others`'.
    pub fn of(whole: &Numbers, own: Option<&Numbers>, others: &[Numbers]) -> Self {
        let rest = || others.iter().fold(whole.clone(), |left, other| left.without(other));
        let limits = own.cloned().unwrap_or_else(rest);
        Self { limits: Some(limits) }
    }
}

/// A slice for a server that joins, out of the `own` numbers of the one that admits it. What is `used` already stays where
/// it is. `node_size` is how many addresses one node's pod network has.
///
/// # Errors
/// [`Error::Exhausted`] names what there is no room for.
pub fn grant(whole: &Numbers, own: &Numbers, used: &Numbers, node_size: u64) -> Result<Grant, Error> {
    let service = part(&whole.service_ips, &own.service_ips, &used.service_ips, MIN_ADDRESSES);
    let ports = part(&whole.node_ports, &own.node_ports, &used.node_ports, MIN_PORTS);
    let pods = part(&whole.pod_ips, &own.pod_ips, &used.pod_ips, node_size);
    Ok(Grant {
        service_ips: vec![cidr(service.ok_or(Error::Exhausted("addresses of Services"))?)],
        node_ports: vec![range(ports.ok_or(Error::Exhausted("node ports"))?)],
        pod_cidrs: vec![cidr(pods.ok_or(Error::Exhausted("pod networks"))?)],
    })
}

fn part(whole: &Spans, own: &Spans, used: &Spans, least: u64) -> Option<Span> {
    let most = (whole.len() / LARGEST_PART).min(own.len() / GIVERS_PART).max(1);
    let sizes = std::iter::successors(Some(1 << most.ilog2()), |size| Some(size / 2));
    sizes.take_while(|size| *size >= least).find_map(|size| own.highest(size, used))
}

/// A span as spans that begin at multiples of their sizes, which are powers of two.
fn aligned(mut span: Span) -> Vec<Span> {
    let mut all = Vec::new();
    while span.first < span.end {
        let fits = 1u64 << (span.end - span.first).ilog2();
        let size = if span.first == 0 { fits } else { fits.min(1 << span.first.trailing_zeros()) };
        all.push(Span { first: span.first, end: span.first + size });
        span.first += size;
    }
    all
}

fn cidr(span: Span) -> String {
    let prefix = 32 - (span.end - span.first).ilog2();
    format!("{}/{prefix}", Ipv4Addr::from_bits(span.first as u32))
}

fn range(span: Span) -> String {
    format!("{}-{}", span.first, span.end - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NODE: u64 = 256;

    fn whole() -> Numbers {
        Grant {
            service_ips: vec!["10.43.0.0/16".into()],
            node_ports: vec!["30000-32767".into()],
            pod_cidrs: vec!["10.42.0.0/16".into()],
        }
        .numbers()
        .unwrap()
    }

    #[test]
    fn the_founder_has_what_was_not_granted() {
        let given = grant(&whole(), &whole(), &Numbers::default(), NODE).unwrap();
        assert_eq!(given.service_ips, ["10.43.240.0/20"]);
        assert_eq!(given.node_ports, ["32640-32767"]);
        assert_eq!(given.pod_cidrs, ["10.42.240.0/20"]);
        let numbers = given.numbers().unwrap();
        let founder = Share::of(&whole(), None, std::slice::from_ref(&numbers)).limits.unwrap();
        assert_eq!(founder.node_ports.len(), 2768 - 128);
        assert!(founder.service_ips.and(&numbers.service_ips).is_empty());
        assert_eq!(Share::of(&whole(), Some(&numbers), &[]).limits, Some(numbers));
    }

    #[test]
    fn what_is_in_use_stays_with_its_giver() {
        let used = Numbers { service_ips: Spans::new(vec![network("10.43.255.7/32").unwrap()]), ..Numbers::default() };
        assert_eq!(grant(&whole(), &whole(), &used, NODE).unwrap().service_ips, ["10.43.224.0/20"]);
    }

    #[test]
    fn a_server_gets_a_number_and_a_block_for_others() {
        let own = ranges(&["2-1023".into()]).unwrap();
        let first = admit(&own).unwrap();
        assert_eq!((first.number, first.block.ranges()), (2, vec!["1008-1023".into()]));
        assert_eq!(first.left.ranges(), ["3-1007"]);
        let of_it = admit(&first.block).unwrap();
        assert_eq!((of_it.number, of_it.block.len()), (1008, 0), "a small block is for members alone");
        assert_eq!(admit(&Spans::default()), None);
        assert_eq!(ranges(&["x".into()]).unwrap_err().to_string(), "\"x\" is no range of numbers such as 2-1023");
    }

    #[test]
    fn what_is_left_of_a_slice_reads_back() {
        let given = grant(&whole(), &whole(), &Numbers::default(), NODE).unwrap().numbers().unwrap();
        let left = whole().without(&given);
        let told = Grant::from(&left);
        assert_eq!(told.service_ips, ["10.43.0.0/17", "10.43.128.0/18", "10.43.192.0/19", "10.43.224.0/20"]);
        assert_eq!(told.numbers().unwrap(), left);
    }

    #[test]
    fn bad_entries_and_exhaustion_are_told() {
        let bad = Grant { node_ports: vec!["80".into()], ..Grant::default() };
        assert_eq!(bad.numbers().unwrap_err().to_string(), "\"80\" is no range of ports such as 30000-30127");
        let bad = Grant { pod_cidrs: vec!["10.42.0.0".into()], ..Grant::default() };
        assert!(bad.numbers().unwrap_err().to_string().contains("is no IPv4 network"));
        let full = Numbers { node_ports: whole().node_ports, ..Numbers::default() };
        assert_eq!(grant(&whole(), &whole(), &full, NODE), Err(Error::Exhausted("node ports")));
    }

    proptest! {
        /// However servers join, each from any member, no number is two servers', and the members' slices cover what
        /// they did before.
        #[test]
        fn slices_never_overlap_and_nothing_moves(givers in prop::collection::vec(0usize..40, 1..40)) {
            let mut members = vec![whole()];
            for giver in givers {
                let giver = giver % members.len();
                let Ok(given) = grant(&whole(), &members[giver], &Numbers::default(), NODE) else { continue };
                let given = given.numbers().unwrap();
                let own = &mut members[giver];
                own.service_ips = own.service_ips.without(&given.service_ips);
                own.node_ports = own.node_ports.without(&given.node_ports);
                own.pod_ips = own.pod_ips.without(&given.pod_ips);
                members.push(given);
            }
            for (n, a) in members.iter().enumerate() {
                prop_assert!(!a.service_ips.is_empty() && !a.node_ports.is_empty() && !a.pod_ips.is_empty());
                for b in &members[..n] {
                    prop_assert!(a.service_ips.and(&b.service_ips).is_empty());
                    prop_assert!(a.node_ports.and(&b.node_ports).is_empty());
                    prop_assert!(a.pod_ips.and(&b.pod_ips).is_empty());
                }
            }
            let total: u64 = members.iter().map(|m| m.pod_ips.len()).sum();
            prop_assert_eq!(total, 1 << 16);
        }

        /// However servers are admitted, each by any member, no number is given twice.
        #[test]
        fn no_two_servers_get_one_number(givers in prop::collection::vec(0usize..2000, 1..1200)) {
            let mut blocks = vec![Spans::new(vec![Span { first: 2, end: 1024 }])];
            let mut given = std::collections::BTreeSet::new();
            for giver in givers {
                let giver = giver % blocks.len();
                let Some(admitted) = admit(&blocks[giver]) else { continue };
                prop_assert!(given.insert(admitted.number));
                blocks[giver] = admitted.left;
                blocks.push(admitted.block);
            }
            let left: u64 = blocks.iter().map(Spans::len).sum();
            prop_assert_eq!(left + given.len() as u64, 1022, "and none is lost");
        }

        #[test]
        fn sets_of_spans_are_sets(a in prop::collection::vec((0u64..60, 0u64..9), 0..6), b in prop::collection::vec((0u64..60, 0u64..9), 0..6)) {
            let set = |pairs: &[(u64, u64)]| Spans::new(pairs.iter().map(|(first, len)| Span { first: *first, end: first + len }).collect());
            let (a, b) = (set(&a), set(&b));
            for n in 0..80 {
                prop_assert_eq!(a.and(&b).contains(n), a.contains(n) && b.contains(n));
                prop_assert_eq!(a.without(&b).contains(n), a.contains(n) && !b.contains(n));
            }
            let all: Vec<u64> = (0..a.len()).filter_map(|place| a.nth(place)).collect();
            prop_assert_eq!(all, (0..80).filter(|n| a.contains(*n)).collect::<Vec<_>>());
            prop_assert_eq!(a.nth(a.len()), None);
            let networks = Grant { service_ips: a.networks(), ..Grant::default() }.numbers().unwrap();
            prop_assert_eq!(networks.service_ips, a);
        }
    }
}
