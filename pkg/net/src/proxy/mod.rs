//! The Service dataplane: `observe` reads Kubernetes' objects into the `model`, `render` writes that as nftables,
//! `transaction` finds what changed, `nft` applies it; `conntrack` and `foreign` are the kernel's and other
//! programs' surprises.

pub mod conntrack;
mod foreign;
mod health;
pub mod model;
pub mod nft;
pub mod observe;
pub mod render;
mod sites;
pub mod transaction;

use crate::host;
use crate::policy;
use crate::routes;
use api::home::Ownership;
use client::{Event, Informers, Recorder, Reflector};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use model::{Base, Desired};
use render::Ruleset;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Changes that come this close together share a transaction.
const COALESCE: Duration = Duration::from_millis(15);

/// A transaction that failed is tried again, as a full replacement, after this.
const RETRY: Duration = Duration::from_secs(1);

/// The node's label that hints by zone speak of.
const ZONE: &str = "topology.kubernetes.io/zone";

/// How often other programs' firewalls are looked at.
const FOREIGN_INTERVAL: Duration = Duration::from_secs(300);

/// Keeps the table what the API says.
pub struct Proxy {
    base: Base,
    node_name: String,
    services: Reflector<Service>,
    slices: Reflector<EndpointSlice>,
    pods: Reflector<Pod>,
    policies: Reflector<NetworkPolicy>,
    namespaces: Reflector<Namespace>,
    nodes: Reflector<Node>,
    ownership: watch::Receiver<Ownership>,
    recorder: Recorder,
    /// Remembers that the kernel was told to route the loopback network.
    loopback_memo: PathBuf,
    health: health::Servers,
    /// What the kernel should have.
    wanted: Desired,
    /// What it has; `None` when that is not known.
    applied: Option<(Desired, Ruleset)>,
}

/// Which parts of [`Desired`] have to be looked at again.
#[derive(Debug, Clone, Copy, Default)]
struct Dirty {
    services: bool,
    policies: bool,
    nodes: bool,
}

impl Dirty {
    const ALL: Self = Self { services: true, policies: true, nodes: true };
    const SERVICES: Self = Self { services: true, policies: false, nodes: false };
    const POLICIES: Self = Self { services: false, policies: true, nodes: false };

    fn add(&mut self, other: Self) {
        self.services |= other.services;
        self.policies |= other.policies;
        self.nodes |= other.nodes;
    }

    fn any(self) -> bool {
        self.services || self.policies || self.nodes
    }
}

impl Proxy {
    pub fn new(
        base: Base,
        node_name: &str,
        loopback_memo: PathBuf,
        informers: &Informers,
        ownership: watch::Receiver<Ownership>,
        recorder: Recorder,
    ) -> Self {
        Self {
            base,
            node_name: node_name.to_owned(),
            services: informers.reflector(),
            slices: informers.reflector(),
            pods: informers.reflector(),
            policies: informers.reflector(),
            namespaces: informers.reflector(),
            nodes: informers.reflector(),
            ownership,
            recorder,
            loopback_memo,
            health: health::Servers::default(),
            wanted: Desired::default(),
            applied: None,
        }
    }

    /// Runs until dropped; the rules stay.
    pub async fn run(mut self) {
        let (mut services, mut slices, mut pods) =
            (self.services.subscribe(), self.slices.subscribe(), self.pods.subscribe());
        let (mut policies, mut namespaces, mut nodes) =
            (self.policies.subscribe(), self.namespaces.subscribe(), self.nodes.subscribe());
        self.first_rules().await;
        tokio::join!(self.services.synced(), self.slices.synced(), self.pods.synced());
        tokio::join!(self.policies.synced(), self.namespaces.synced(), self.nodes.synced());
        let mut foreign = tokio::time::interval(FOREIGN_INTERVAL);
        let mut said = BTreeSet::new();
        let (mut dirty, mut due) = (Dirty::ALL, Some(Instant::now()));
        let mut ownership = self.ownership.clone();
        loop {
            let more = tokio::select! {
                event = services.next() => event.map_or(Dirty::default(), |_| Dirty::SERVICES),
                event = slices.next() => event.map_or(Dirty::default(), |_| Dirty::SERVICES),
                event = pods.next() => event.map_or(Dirty::default(), |event| self.concerns(&event)),
                event = policies.next() => event.map_or(Dirty::default(), |_| Dirty::POLICIES),
                event = namespaces.next() => event.map_or(Dirty::default(), |event| concerns_policies(&event)),
                event = nodes.next() => event.map_or(Dirty::default(), |event| concerns_nodes(&event, &self.node_name)),
                () = client::home::changed(&mut ownership) => Dirty::SERVICES,
                _ = foreign.tick() => { foreign::warn(&self.base.table, self.base.vxlan.is_some(), &mut said).await; Dirty::default() }
                () = sleep_until(due) => {
                    due = self.synchronise(std::mem::take(&mut dirty)).await;
                    Dirty::default()
                }
            };
            dirty.add(more);
            if dirty.any() && due.is_none() {
                due = Some(Instant::now() + COALESCE);
            }
        }
    }

    /// A machine that has just booted gets masquerading and DNS before the API is heard; rules of an earlier run are
    /// better than none and stay until then.
    async fn first_rules(&mut self) {
        match nft::has_table(&self.base.table).await {
            Ok(true) => {}
            Ok(false) => {
                self.apply(Desired::default()).await;
            }
            Err(error) => tracing::warn!(%error, "Service rules can't be read"),
        }
    }

    /// Applies what the caches say; returns when to try again if that failed.
    async fn synchronise(&mut self, dirty: Dirty) -> Option<Instant> {
        if dirty.services {
            let (services, slices, pods) = (self.services.list(), self.slices.list(), self.pods.list());
            let slices = sites::in_reach(slices, &self.ownership.borrow());
            let Desired { policies, nodes, .. } = std::mem::take(&mut self.wanted);
            let zone = self.nodes.get("", &self.node_name).and_then(|node| zone(&node).cloned()).unwrap_or_default();
            let place = observe::Place { node: &self.node_name, zone: &zone };
            self.wanted = Desired { policies, nodes, ..observe::desired(&services, &slices, &pods, place) };
            self.keep_health_checks().await;
        }
        if dirty.policies {
            let (policies, namespaces, pods) = (self.policies.list(), self.namespaces.list(), self.pods.list());
            let policies = policy::observe::policies(&policies, &namespaces, &pods, &self.node_name);
            self.wanted.policies = Arc::new(policies);
        }
        if dirty.nodes {
            self.wanted.nodes = self.nodes.list().iter().filter_map(|node| routes::internal_ip(node)).collect();
        }
        if self.applied.as_ref().is_some_and(|(applied, _)| *applied == self.wanted) {
            return None;
        }
        (!self.apply(self.wanted.clone()).await).then(|| Instant::now() + RETRY)
    }

    /// Host ports of this node's pods matter, and to policies every pod does, if there are any.
    fn concerns(&self, event: &Event<Pod>) -> Dirty {
        let policies = !self.policies.is_empty();
        let named = match event {
            Event::Applied { old: Some(old), new } => policies && policy::observe::differs(old, new),
            Event::Applied { .. } | Event::Deleted(_) | Event::Resync => policies,
        };
        Dirty { services: concerns_host_ports(event, &self.node_name), policies: named, nodes: false }
    }

    async fn apply(&mut self, desired: Desired) -> bool {
        let started = Instant::now();
        let new = render::render(&self.base, &desired);
        let script = match &self.applied {
            Some((_, old)) => transaction::update(&self.base, old, &new),
            None => transaction::replace(&self.base, &new),
        };
        if !script.is_empty()
            && let Err(error) = nft::apply(&script).await
        {
            tracing::warn!(%error, "Service rules not applied; trying again with all of them");
            self.applied = None;
            return false;
        }
        tracing::debug!(bytes = script.len(), us = started.elapsed().as_micros() as u64, "Service rules applied");
        let was = self.applied.as_ref().map(|(old, _)| conntrack::View::of(old)).unwrap_or_default();
        let is = conntrack::View::of(&desired);
        let first = self.applied.replace((desired, new)).is_none();
        if first && let Err(error) = host::route_loopback(&self.loopback_memo) {
            tracing::warn!(%error, "node ports and host ports don't answer on 127.0.0.1");
        }
        if was != is {
            forget_stale_flows(is.and_gone(&was)).await;
        }
        true
    }

    async fn keep_health_checks(&mut self) {
        for error in self.health.keep(&self.wanted.health_checks).await {
            tracing::warn!(error = %error.source, "{error}");
            if let Some(service) = self.services.get(&error.namespace, &error.service) {
                let message = format!("{error}: {}", error.source);
                self.recorder.warning(&client::reference(&*service), "FailedToStartServiceHealthcheck", message);
            }
        }
    }
}

/// What went to endpoints that are gone must be sent anew; it is no harm if that fails.
async fn forget_stale_flows(view: conntrack::View) {
    let here = conntrack::addresses().await;
    let forgotten = tokio::task::spawn_blocking(move || conntrack::forget_stale(&view, &here)).await;
    match forgotten {
        Ok(Ok(0)) => {}
        Ok(Ok(flows)) => tracing::debug!(flows, "stale UDP flows forgotten"),
        Ok(Err(error)) => tracing::warn!(%error, "stale UDP flows are left to their timeout"),
        Err(error) => tracing::error!(%error, "forgetting stale UDP flows failed"),
    }
}

fn zone(node: &Node) -> Option<&String> {
    node.labels().get(ZONE)
}

/// Our node's zone is what hints are for; addresses of all nodes are let in.
fn concerns_nodes(event: &Event<Node>, name: &str) -> Dirty {
    match event {
        Event::Applied { old: Some(old), new } => Dirty {
            services: new.name_any() == name && zone(old) != zone(new),
            nodes: routes::internal_ip(old) != routes::internal_ip(new),
            policies: false,
        },
        Event::Applied { old: None, new } => Dirty { services: new.name_any() == name, nodes: true, policies: false },
        Event::Deleted(_) => Dirty { services: false, nodes: true, policies: false },
        Event::Resync => Dirty { services: true, nodes: true, policies: false },
    }
}

/// A namespace's labels are what peers are chosen by.
fn concerns_policies(event: &Event<Namespace>) -> Dirty {
    match event {
        Event::Applied { old: Some(old), new } if old.labels() == new.labels() => Dirty::default(),
        _ => Dirty::POLICIES,
    }
}

fn concerns_host_ports(event: &Event<Pod>, node: &str) -> bool {
    let matters = |pod: &Pod| {
        let Some(spec) = &pod.spec else { return false };
        let mut ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
        spec.node_name.as_deref() == Some(node) && ports.any(|port| port.host_port.is_some())
    };
    match event {
        Event::Applied { old, new } => matters(new) || old.as_ref().is_some_and(|old| matters(old)),
        Event::Deleted(old) => matters(old),
        Event::Resync => true,
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
