//! What Services hold, written down as API servers of upstream do: an IPAddress object for each address (KEP-1880), and a map
//! of node ports where upstream keeps one. It is written in the transaction of the Service itself, so of two servers
//! on one store only one gets an address or a port.
use super::pools::Claims;
use super::{owner, service};
use api::apply::{Writer, update};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use store::{Backend, Compare, Entry, Op, Revision, Txn};

/// Where upstream keeps its map of node ports (`RangeAllocation`); made by its API server, never by us.
const NODE_PORTS: &str = "/registry/ranges/servicenodeports";
const ADDRESSES: &str = "/registry/ipaddresses/";
const VERSION: &str = "networking.k8s.io/v1";
/// Who is said to have written an address (`pkg/registry/core/service/ipallocator`).
const MANAGED_BY: &str = "ipallocator.k8s.io";

/// What a transaction must do besides writing its Service.
#[derive(Debug, Default)]
pub struct Booking {
    compare: Vec<Compare>,
    then: Vec<Op>,
}

impl Booking {
    /// Adds the booking to a transaction, which then fails if any of it was changed meanwhile.
    pub fn join(&self, txn: &mut Txn) {
        txn.compare.extend(self.compare.iter().cloned());
        txn.then.extend(self.then.iter().cloned());
    }

    fn only_if(&mut self, key: &str, found: Option<&Arc<Entry>>) {
        let revision = found.map_or(Revision::ZERO, |entry| entry.mod_revision);
        self.compare.push(Compare::ModRevision { key: key.to_owned().into(), revision });
    }

    fn put(&mut self, key: &str, value: &Value) {
        self.then.push(Op::Put { key: key.to_owned().into(), value: value.to_string().into(), lease: None });
    }
}

/// Plans what is to be written with a Service that becomes `new` (none: goes) and was `old` (none: is made). The second
/// value is what another server has taken of it: then the Service needs others.
///
/// # Errors
/// Those of the store.
pub async fn book(
    backend: &dyn Backend,
    new: Option<&Value>,
    old: Option<&Value>,
    now: &str,
) -> store::Result<Result<Booking, Claims>> {
    let of = |object: Option<&Value>| object.map(service::claims).unwrap_or_default();
    let (after, before) = (of(new), of(old));
    let Some(object) = new.or(old) else { return Ok(Ok(Booking::default())) };
    let mut booking = Booking::default();
    let mut taken = Claims::default();
    for ip in after.ips.difference(&before.ips) {
        let key = format!("{ADDRESSES}{ip}");
        let found = backend.get(key.as_bytes(), None).await?;
        booking.only_if(&key, found.as_ref());
        match &found {
            None => booking.put(&key, &address(*ip, object, now)),
            Some(entry) if belongs(entry, object) => {}
            Some(_) => drop(taken.ips.insert(*ip)),
        }
    }
    for ip in before.ips.difference(&after.ips) {
        let key = format!("{ADDRESSES}{ip}");
        if let Some(entry) = backend.get(key.as_bytes(), None).await?.filter(|entry| belongs(entry, object)) {
            booking.only_if(&key, Some(&entry));
            booking.then.push(Op::Delete { key: entry.key.clone() });
        }
    }
    if after.ports != before.ports {
        let found = backend.get(NODE_PORTS.as_bytes(), None).await?;
        booking.only_if(NODE_PORTS, found.as_ref());
        if let Some((map, mut ports)) = found.as_ref().and_then(PortMap::read) {
            taken.ports.extend(after.ports.difference(&before.ports).filter(|port| ports.has(**port)));
            before.ports.difference(&after.ports).for_each(|port| ports.set(*port, false));
            after.ports.difference(&before.ports).for_each(|port| ports.set(*port, true));
            booking.put(NODE_PORTS, &ports.written(map));
        }
    }
    Ok(if taken == Claims::default() { Ok(booking) } else { Err(taken) })
}

/// Writes down the addresses of Services that came into the store without: before this was done, or at birth.
///
/// # Errors
/// Those of the store.
pub async fn make_good(backend: &dyn Backend, services: &[Arc<Entry>], now: &str) -> store::Result<()> {
    let known = backend.list(&store::Range::prefix(ADDRESSES), None, 0).await?;
    let known: BTreeSet<&[u8]> = known.entries.iter().map(|entry| &entry.key[..]).collect();
    for entry in services {
        let Ok(object) = serde_json::from_slice::<Value>(&entry.value) else { continue };
        for ip in service::claims(&object).ips {
            let key = format!("{ADDRESSES}{ip}");
            if known.contains(key.as_bytes()) {
                continue;
            }
            let mut booking = Booking::default();
            booking.only_if(&key, None);
            // Nor for a Service that is gone by now.
            booking.compare.push(Compare::ModRevision { key: entry.key.clone(), revision: entry.mod_revision });
            booking.put(&key, &address(ip, &object, now));
            let mut txn = Txn::default();
            booking.join(&mut txn);
            backend.txn(txn).await?;
        }
    }
    Ok(())
}

/// Key and content of a Service's IPAddress, without what only its birth gives it.
pub fn content(ip: IpAddr, namespace: &str, name: &str) -> (String, Value) {
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let object = json!({
        "apiVersion": VERSION, "kind": "IPAddress",
        "metadata": {
            "name": ip.to_string(),
            "labels": {"ipaddress.kubernetes.io/ip-family": family, "ipaddress.kubernetes.io/managed-by": MANAGED_BY},
        },
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": name}},
    });
    (format!("{ADDRESSES}{ip}"), object)
}

/// The IPAddress of a Service.
fn address(ip: IpAddr, service: &Value, now: &str) -> Value {
    let text = |field: &str| service["metadata"][field].as_str().unwrap_or_default();
    let (_, mut object) = content(ip, text("namespace"), text("name"));
    object["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
    object["metadata"]["creationTimestamp"] = now.into();
    let schemas = api::schema::Schemas::builtin();
    let kind = api::GroupVersionKind::new("networking.k8s.io", "v1", "IPAddress");
    if let Some(definition) = schemas.for_kind(&kind) {
        let writer = Writer { manager: "kube-apiserver", api_version: VERSION, subresource: "", now };
        update(None, &mut object, &writer, &definition.ty, schemas);
    }
    object
}

/// Whether an IPAddress is that of the Service.
fn belongs(entry: &Entry, object: &Value) -> bool {
    let address: Value = serde_json::from_slice(&entry.value).unwrap_or_default();
    let parent = &address["spec"]["parentRef"];
    let text = |field: &str| parent[field].as_str().unwrap_or_default();
    text("resource") == "services" && format!("{}/{}", text("namespace"), text("name")) == owner(object)
}

/// Upstream's map: a large number, whose lowest bit is the first port.
struct PortMap {
    first: u32,
    last: u32,
    /// The lowest byte first.
    bytes: Vec<u8>,
}

impl PortMap {
    /// None: it is empty, or can't be read, and its owner will make it anew.
    fn read(entry: &Arc<Entry>) -> Option<(Value, Self)> {
        let map: Value = serde_json::from_slice(&entry.value).ok()?;
        let (first, last) = map["range"].as_str()?.split_once('-')?;
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        let mut bytes = STANDARD.decode(map["data"].as_str().unwrap_or_default()).ok()?;
        bytes.reverse();
        Some((map, Self { first, last, bytes }))
    }

    fn place(&self, port: u16) -> Option<(usize, u8)> {
        let port = u32::from(port);
        let offset = (self.first..=self.last).contains(&port).then(|| port - self.first)?;
        Some((offset as usize / 8, 1 << (offset % 8)))
    }

    fn has(&self, port: u16) -> bool {
        self.place(port).is_some_and(|(byte, bit)| self.bytes.get(byte).is_some_and(|found| found & bit != 0))
    }

    fn set(&mut self, port: u16, taken: bool) {
        let Some((byte, bit)) = self.place(port) else { return };
        if self.bytes.len() <= byte {
            self.bytes.resize(byte + 1, 0);
        }
        match taken {
            true => self.bytes[byte] |= bit,
            false => self.bytes[byte] &= !bit,
        }
    }

    fn written(&self, mut map: Value) -> Value {
        let significant = self.bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let bytes: Vec<u8> = self.bytes[..significant].iter().rev().copied().collect();
        map["data"] = STANDARD.encode(bytes).into();
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::Memory;
    use crate::registry::Registry;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn service(name: &str, ip: &str, port: u16) -> Value {
        json!({"metadata": {"namespace": "n", "name": name}, "spec": {"clusterIP": ip, "ports": [{"nodePort": port}]}})
    }

    fn store() -> Arc<Memory> {
        Memory::new(Arc::new(Registry::builtin(api::schema::Schemas::builtin())))
    }

    async fn write(store: &Memory, new: Option<&Value>, old: Option<&Value>) -> Result<(), Claims> {
        let booking = book(store, new, old, NOW).await.unwrap()?;
        let mut txn = Txn::default();
        booking.join(&mut txn);
        assert!(store.txn(txn).await.unwrap().succeeded);
        Ok(())
    }

    async fn stored(store: &Memory, key: &str) -> Option<Value> {
        let entry = store.get(key.as_bytes(), None).await.unwrap()?;
        serde_json::from_slice(&entry.value).ok()
    }

    /// As upstream leaves it with port 30001 and 31399 taken.
    async fn with_map(store: &Memory) {
        let mut map = PortMap { first: 30_000, last: 32_767, bytes: Vec::new() };
        map.set(30_001, true);
        map.set(31_399, true);
        let value = map.written(json!({"apiVersion": "v1", "kind": "RangeAllocation", "range": "30000-32767"}));
        assert!(value["data"].as_str().unwrap().starts_with("gAAAAA"), "1399 is the highest bit of 175 bytes");
        let put = Op::Put { key: NODE_PORTS.into(), value: value.to_string().into(), lease: None };
        store.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
    }

    #[tokio::test]
    async fn an_address_is_written_with_its_service_and_goes_with_it() {
        let store = store();
        let (a, moved) = (service("a", "10.0.0.7", 0), service("a", "10.0.0.8", 0));
        write(&store, Some(&a), None).await.unwrap();
        let address = stored(&store, "/registry/ipaddresses/10.0.0.7").await.unwrap();
        assert_eq!(address["spec"]["parentRef"], json!({"resource": "services", "namespace": "n", "name": "a"}));
        assert_eq!(address["metadata"]["managedFields"][0]["manager"], "kube-apiserver");
        let taken = write(&store, Some(&service("b", "10.0.0.7", 0)), None).await.unwrap_err();
        assert_eq!(taken.ips, BTreeSet::from(["10.0.0.7".parse().unwrap()]));
        write(&store, Some(&a), None).await.expect("what stands there for it already is its own");
        write(&store, Some(&moved), Some(&a)).await.unwrap();
        assert!(stored(&store, "/registry/ipaddresses/10.0.0.7").await.is_none());
        write(&store, None, Some(&service("b", "10.0.0.8", 0))).await.unwrap();
        assert!(stored(&store, "/registry/ipaddresses/10.0.0.8").await.is_some(), "another's stays");
        write(&store, None, Some(&moved)).await.unwrap();
        assert!(stored(&store, "/registry/ipaddresses/10.0.0.8").await.is_none());
    }

    #[tokio::test]
    async fn ports_are_marked_where_upstream_marks_them() {
        let store = store();
        write(&store, Some(&service("a", "None", 30_005)), None).await.unwrap();
        assert!(stored(&store, NODE_PORTS).await.is_none(), "nobody else is there to read it");
        with_map(&store).await;
        let taken = write(&store, Some(&service("a", "None", 31_399)), None).await.unwrap_err();
        assert_eq!(taken.ports, BTreeSet::from([31_399]));
        let a = service("a", "None", 30_005);
        write(&store, Some(&a), None).await.unwrap();
        let ports = |map: &Value| {
            let entry = Arc::new(Entry { value: map.to_string().into(), ..blank() });
            let (_, map) = PortMap::read(&entry).unwrap();
            (30_000..=32_767).filter(|port| map.has(*port)).collect::<Vec<u16>>()
        };
        assert_eq!(ports(&stored(&store, NODE_PORTS).await.unwrap()), [30_001, 30_005, 31_399]);
        write(&store, None, Some(&a)).await.unwrap();
        assert_eq!(ports(&stored(&store, NODE_PORTS).await.unwrap()), [30_001, 31_399]);
    }

    fn blank() -> Entry {
        Entry {
            key: "k".into(),
            value: "".into(),
            create_revision: Revision::ZERO,
            mod_revision: Revision::ZERO,
            index: 0,
            version: 1,
            lease: None,
            summary: api::summary::Summary::default(),
        }
    }

    #[tokio::test]
    async fn a_booking_fails_when_another_server_was_faster() {
        let store = store();
        let (first, second) = (service("a", "10.0.0.7", 0), service("b", "10.0.0.7", 0));
        let plan = async |object: &Value| book(&*store, Some(object), None, NOW).await.unwrap().unwrap();
        let (one, other) = (plan(&first).await, plan(&second).await);
        let run = async |booking: Booking| {
            let mut txn = Txn::default();
            booking.join(&mut txn);
            store.txn(txn).await.unwrap().succeeded
        };
        assert!(run(one).await && !run(other).await);
    }

    #[tokio::test]
    async fn addresses_that_nobody_wrote_down_are() {
        let store = store();
        let key = "/registry/services/specs/n/a";
        let put = Op::Put { key: key.into(), value: service("a", "10.0.0.7", 0).to_string().into(), lease: None };
        store.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
        let services = [store.get(key.as_bytes(), None).await.unwrap().unwrap()];
        make_good(&*store, &services, NOW).await.unwrap();
        let address = stored(&store, "/registry/ipaddresses/10.0.0.7").await.unwrap();
        make_good(&*store, &services, NOW).await.unwrap();
        assert_eq!(stored(&store, "/registry/ipaddresses/10.0.0.7").await.unwrap(), address);
    }
}
