//! The kernel's table of tracked flows over netlink (linux/netfilter/nfnetlink_conntrack.h): reading, and forgetting
//! single entries.
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Subsystem and operations: NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET and IPCTNL_MSG_CT_DELETE.
const GET: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;

/// Message types and flags that every netlink family shares (netlink(7)).
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;

const HEADER_BYTES: usize = 16;
/// struct nfgenmsg: family, version, resource.
const GENERIC_BYTES: usize = 4;
const FAMILY_IPV4: u8 = 2;
const UDP: u8 = 17;

/// Attributes of an entry, and of the tuples in it.
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// The two high bits of an attribute's type are flags.
const TYPE_MASK: u16 = 0x3fff;

/// The kernel sends dumps in messages of at most 32 KiB.
const BUFFER_BYTES: usize = 64 * 1024;

/// Stale flows forgotten in one go; the rest is found after the next change.
const MAX_STALE: usize = 16_384;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no socket to the kernel's connection tracking")]
    Socket(#[source] io::Error),
    #[error("tracked flows can't be read")]
    Read(#[source] io::Error),
    #[error("the flow to {to} can't be forgotten")]
    Forget { to: SocketAddrV4, source: io::Error },
}

/// A tracked UDP flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Where its first packet was sent.
    pub to: SocketAddrV4,
    /// Who answers: the endpoint, where the packet was redirected.
    pub answered_by: SocketAddrV4,
    /// The attributes that name it to the kernel, as it sent them.
    pub identity: Vec<u8>,
}

/// The table, by a socket of its own.
pub struct Table {
    socket: Socket,
    sequence: u32,
}

impl Table {
    pub fn open() -> Result<Self, Error> {
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        Ok(Self { socket: open().map_err(Error::Socket)?, sequence: 0 })
    }

    /// The UDP flows for which `wanted` holds, [`MAX_STALE`] at most.
    pub fn udp_flows(&mut self, wanted: impl Fn(&Flow) -> bool) -> Result<Vec<Flow>, Error> {
        let mut flows = Vec::new();
        let request = self.request(GET, REQUEST | DUMP, &[]);
        self.exchange(&request, |entry| {
            let flow = flow(entry).filter(|flow| flows.len() < MAX_STALE && wanted(flow));
            flows.extend(flow);
        })
        .map_err(Error::Read)?;
        Ok(flows)
    }

    /// Removes the entry; gone already is as good.
    pub fn forget(&mut self, flow: &Flow) -> Result<(), Error> {
        let request = self.request(DELETE, REQUEST | ACK, &flow.identity);
        match self.exchange(&request, |_| {}) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|source| Error::Forget { to: flow.to, source }),
        }
    }

    fn request(&mut self, kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
        self.sequence += 1;
        let length = u32::try_from(HEADER_BYTES + GENERIC_BYTES + attributes.len()).unwrap_or(u32::MAX);
        let mut message = Vec::with_capacity(HEADER_BYTES + GENERIC_BYTES + attributes.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend([FAMILY_IPV4, 0, 0, 0]);
        message.extend(attributes);
        message
    }

    /// Sends, and hands each entry of the answer to `see`, until the kernel says that this was all.
    fn exchange(&mut self, request: &[u8], mut see: impl FnMut(&[u8])) -> io::Result<()> {
        self.socket.send(request, 0)?;
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0)?;
            for (kind, body) in messages(&buffer) {
                match kind {
                    DONE => return Ok(()),
                    ERROR => return acknowledged(body),
                    _ => see(body.get(GENERIC_BYTES..).unwrap_or_default()),
                }
            }
        }
    }
}

/// An error message with the number zero is an acknowledgement.
fn acknowledged(body: &[u8]) -> io::Result<()> {
    match body.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(-number)),
        None => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

/// The messages of a packet: type and body.
fn messages(mut packet: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*packet.first_chunk()?)).ok()?;
        let kind = u16::from_ne_bytes(*packet.get(4..)?.first_chunk()?);
        let body = packet.get(HEADER_BYTES..length)?;
        packet = packet.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Attributes: type, content, and the whole with its header.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & TYPE_MASK;
        let (content, padded) = (bytes.get(4..length)?, length.next_multiple_of(4).min(bytes.len()));
        let whole = &bytes[..padded];
        bytes = &bytes[padded..];
        Some((kind, content, whole))
    })
}

/// Source and destination of one direction.
struct Tuple {
    from: SocketAddrV4,
    to: SocketAddrV4,
}

/// An entry, if it is an IPv4 flow of UDP.
fn flow(entry: &[u8]) -> Option<Flow> {
    let (mut original, mut reply, mut identity) = (None, None, Vec::new());
    for (kind, content, whole) in attributes(entry) {
        match kind {
            CTA_TUPLE_ORIG => original = Some(tuple(content)?),
            CTA_TUPLE_REPLY => reply = Some(tuple(content)?),
            _ => {}
        }
        if matches!(kind, CTA_TUPLE_ORIG | CTA_ID | CTA_ZONE) {
            identity.extend(whole);
        }
    }
    Some(Flow { to: original?.to, answered_by: reply?.from, identity })
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let part = |wanted: u16| attributes(bytes).find(|(kind, ..)| *kind == wanted).map(|(_, content, _)| content);
    let inside = |part: &'_ [u8], wanted: u16| -> Option<Vec<u8>> {
        attributes(part).find(|(kind, ..)| *kind == wanted).map(|(_, content, _)| content.to_vec())
    };
    let (ip, protocol) = (part(CTA_TUPLE_IP)?, part(CTA_TUPLE_PROTO)?);
    if inside(protocol, CTA_PROTO_NUM)?.first() != Some(&UDP) {
        return None;
    }
    let address = |wanted| Some(Ipv4Addr::from(*inside(ip, wanted)?.first_chunk::<4>()?));
    let port = |wanted| Some(u16::from_be_bytes(*inside(protocol, wanted)?.first_chunk::<2>()?));
    Some(Tuple {
        from: SocketAddrV4::new(address(CTA_IP_V4_SRC)?, port(CTA_PROTO_SRC_PORT)?),
        to: SocketAddrV4::new(address(CTA_IP_V4_DST)?, port(CTA_PROTO_DST_PORT)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(4 + content.len()).expect("short").to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple_of(kind: u16, protocol: u8, from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        const NESTED: u16 = 0x8000;
        let ip = [attribute(CTA_IP_V4_SRC, &from.0), attribute(CTA_IP_V4_DST, &to.0)].concat();
        let ports = [
            attribute(CTA_PROTO_NUM, &[protocol]),
            attribute(CTA_PROTO_SRC_PORT, &from.1.to_be_bytes()),
            attribute(CTA_PROTO_DST_PORT, &to.1.to_be_bytes()),
        ];
        let parts = [attribute(CTA_TUPLE_IP | NESTED, &ip), attribute(CTA_TUPLE_PROTO | NESTED, &ports.concat())];
        attribute(kind | NESTED, &parts.concat())
    }

    fn entry(protocol: u8) -> Vec<u8> {
        let (client, service, endpoint) = (([10, 42, 0, 2], 4000), ([10, 43, 0, 9], 53), ([10, 42, 0, 5], 5353));
        let original = tuple_of(CTA_TUPLE_ORIG, protocol, client, service);
        let reply = tuple_of(CTA_TUPLE_REPLY, protocol, endpoint, client);
        [original, reply, attribute(3, &[0; 4]), attribute(CTA_ID, &[1, 2, 3, 4])].concat()
    }

    #[test]
    fn a_redirected_flow() {
        let flow = flow(&entry(UDP)).expect("flow");
        assert_eq!(
            (flow.to.to_string(), flow.answered_by.to_string()),
            ("10.43.0.9:53".into(), "10.42.0.5:5353".into())
        );
        let named: Vec<_> = attributes(&flow.identity).map(|(kind, ..)| kind).collect();
        assert_eq!(named, [CTA_TUPLE_ORIG, CTA_ID]);
    }

    #[test]
    fn other_protocols_and_nonsense_are_no_flows() {
        assert_eq!(flow(&entry(6)), None);
        let whole = entry(UDP);
        for cut in 0..whole.len() {
            // Never panics; only the identity may be missing from what can still be read.
            let _ = flow(&whole[..cut]);
        }
        assert_eq!(messages(&[0; 40]).count(), 0, "a message of no length must not go on for ever");
    }

    #[test]
    fn a_packet_of_messages() {
        let mut table = Table { socket: Socket::new(NETLINK_NETFILTER).expect("socket"), sequence: 0 };
        let packet = [table.request(GET, REQUEST, &[1, 2, 3, 4]), table.request(DONE, 0, &[])].concat();
        let kinds: Vec<_> = messages(&packet).map(|(kind, body)| (kind, body.len())).collect();
        assert_eq!(kinds, [(GET, 8), (DONE, 4)]);
    }
}
