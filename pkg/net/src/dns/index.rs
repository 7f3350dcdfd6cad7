//! What Services and EndpointSlices say about names, kept up to date object by object.
use crate::proxy::observe::SERVICE_NAME;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// (namespace, name) of a Service.
pub type Key = (String, String);

/// A port that SRV records tell of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    pub number: u16,
}

/// A member of a headless Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its host name, or its address with dashes.
    pub label: String,
    pub address: IpAddr,
    pub ports: Vec<Port>,
}

/// What a Service's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Cluster { addresses: Vec<IpAddr>, ports: Vec<Port> },
    Headless { members: Vec<Member> },
    External { name: String },
}

/// All names of the cluster.
#[derive(Debug, Default)]
pub struct Index {
    /// Whether it has seen everything once; until then what it lacks may exist.
    complete: bool,
    targets: BTreeMap<Key, Target>,
    /// Services that are headless, for which slices count.
    headless: HashMap<Key, ()>,
    /// Members by Service and slice; an EndpointSlice may be seen before its Service.
    slices: HashMap<Key, BTreeMap<String, Vec<Member>>>,
    /// Services by cluster address, for PTR records.
    addresses: HashMap<IpAddr, Key>,
    /// Headless members by address, for PTR records: Service and label.
    members: HashMap<IpAddr, BTreeMap<Key, String>>,
}

impl Index {
    /// An index of everything there is.
    pub fn complete<'a>(
        services: impl IntoIterator<Item = &'a Service>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
    ) -> Self {
        let mut index = Self { complete: true, ..Self::default() };
        services.into_iter().for_each(|service| index.apply_service(service));
        slices.into_iter().for_each(|slice| index.apply_slice(None, slice));
        index
    }

    /// Whether what it lacks does not exist.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// What the name of a Service stands for.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Target> {
        self.targets.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Whether any Service is in the namespace, so that the namespace's own name exists.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        let from = (namespace.to_owned(), String::new());
        self.targets.range(from..).next().is_some_and(|((first, _), _)| first == namespace)
    }

    /// The names behind an address: (label, Service); no label for the Service itself.
    pub fn names(&self, address: IpAddr) -> Vec<(Option<&str>, &Key)> {
        let service = self.addresses.get(&address).map(|key| (None, key));
        let members = self.members.get(&address).into_iter().flatten();
        service.into_iter().chain(members.map(|(key, label)| (Some(label.as_str()), key))).collect()
    }

    /// A Service that is new or has changed.
    pub fn apply_service(&mut self, service: &Service) {
        let key = (service.namespace().unwrap_or_default(), service.name_any());
        self.forget(&key);
        let Some(spec) = &service.spec else { return };
        if spec.type_.as_deref() == Some("ExternalName") {
            let name = spec.external_name.clone().unwrap_or_default();
            self.targets.insert(key, Target::External { name });
        } else if spec.cluster_ip.as_deref() == Some("None") {
            self.headless.insert(key.clone(), ());
            self.gather(&key);
        } else {
            let addresses = cluster_addresses(spec);
            self.addresses.extend(addresses.iter().map(|address| (*address, key.clone())));
            self.targets.insert(key, Target::Cluster { addresses, ports: service_ports(spec) });
        }
    }

    /// A Service that is gone.
    pub fn delete_service(&mut self, service: &Service) {
        self.forget(&(service.namespace().unwrap_or_default(), service.name_any()));
    }

    /// A slice that is new or has changed; it may have changed its Service.
    pub fn apply_slice(&mut self, old: Option<&EndpointSlice>, new: &EndpointSlice) {
        if let Some(old) = old.filter(|old| owner(old) != owner(new)) {
            self.delete_slice(old);
        }
        let Some(key) = owner(new) else { return };
        self.slices.entry(key.clone()).or_default().insert(new.name_any(), members(new));
        self.gather(&key);
    }

    /// A slice that is gone.
    pub fn delete_slice(&mut self, slice: &EndpointSlice) {
        let Some(key) = owner(slice) else { return };
        if let Some(slices) = self.slices.get_mut(&key) {
            slices.remove(&slice.name_any());
            if slices.is_empty() {
                self.slices.remove(&key);
            }
        }
        self.gather(&key);
    }

    /// Forgets a Service's names, not its slices.
    fn forget(&mut self, key: &Key) {
        self.headless.remove(key);
        match self.targets.remove(key) {
            Some(Target::Cluster { addresses, .. }) => {
                for address in addresses {
                    if self.addresses.get(&address) == Some(key) {
                        self.addresses.remove(&address);
                    }
                }
            }
            Some(Target::Headless { members }) => self.forget_members(key, &members),
            Some(Target::External { .. }) | None => {}
        }
    }

    fn forget_members(&mut self, key: &Key, members: &[Member]) {
        for member in members {
            if let Some(keys) = self.members.get_mut(&member.address) {
                keys.remove(key);
                if keys.is_empty() {
                    self.members.remove(&member.address);
                }
            }
        }
    }

    /// Collects the members of a headless Service from its slices.
    fn gather(&mut self, key: &Key) {
        if !self.headless.contains_key(key) {
            return;
        }
        if let Some(Target::Headless { members }) = self.targets.remove(key) {
            self.forget_members(key, &members);
        }
        let slices = self.slices.get(key).into_iter().flat_map(BTreeMap::values);
        let mut members: Vec<Member> = slices.flatten().cloned().collect();
        members.sort();
        members.dedup();
        for member in &members {
            self.members.entry(member.address).or_default().insert(key.clone(), member.label.clone());
        }
        self.targets.insert(key.clone(), Target::Headless { members });
    }
}

fn owner(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.labels().get(SERVICE_NAME)?.clone();
    Some((slice.namespace().unwrap_or_default(), name))
}

fn cluster_addresses(spec: &ServiceSpec) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> =
        spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok()).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

fn service_ports(spec: &ServiceSpec) -> Vec<Port> {
    let ports = spec.ports.iter().flatten();
    ports.filter_map(|port| self::port(port.name.as_deref(), port.protocol.as_deref(), port.port)).collect()
}

fn port(name: Option<&str>, protocol: Option<&str>, number: i32) -> Option<Port> {
    Some(Port {
        name: name.unwrap_or_default().to_ascii_lowercase(),
        protocol: protocol.unwrap_or("TCP").to_ascii_lowercase(),
        number: u16::try_from(number).ok()?,
    })
}

/// The ready endpoints of a slice; `publishNotReadyAddresses` makes them ready in the slice already.
fn members(slice: &EndpointSlice) -> Vec<Member> {
    let ports = slice.ports.iter().flatten();
    let ports: Vec<Port> = ports.filter_map(|p| port(p.name.as_deref(), p.protocol.as_deref(), p.port?)).collect();
    let ready =
        |endpoint: &&Endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
    let member = |endpoint: &Endpoint| {
        let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        let label = endpoint.hostname.as_deref().map_or_else(|| dashed(address), str::to_ascii_lowercase);
        Some(Member { label, address, ports: ports.clone() })
    };
    slice.endpoints.iter().flatten().filter(ready).filter_map(member).collect()
}

/// An address as a label: `10-42-0-5`.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// An address from a label, as in `10-42-0-5.default.pod.cluster.local`.
pub fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}
