//! The Service dataplane: `observe` reads Kubernetes' objects into the `model`, `render` writes that as nftables,
//! `transaction` finds what changed, `nft` applies it; `conntrack` and `foreign` are the kernel's and other
//! programs' surprises.

pub mod conntrack;
mod foreign;
pub mod model;
pub mod nft;
pub mod observe;
pub mod render;
pub mod transaction;

use client::{Event, Informers, Reflector};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use model::{Base, Desired};
use render::Ruleset;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// Changes that come this close together share a transaction.
const COALESCE: Duration = Duration::from_millis(15);

/// A transaction that failed is tried again, as a full replacement, after this.
const RETRY: Duration = Duration::from_secs(1);

/// How often other programs' firewalls are looked at.
const FOREIGN_INTERVAL: Duration = Duration::from_secs(300);

/// Keeps the table what the API says.
pub struct Proxy {
    base: Base,
    node_name: String,
    services: Reflector<Service>,
    slices: Reflector<EndpointSlice>,
    pods: Reflector<Pod>,
    /// What the kernel has; `None` when that is not known.
    applied: Option<(Desired, Ruleset)>,
}

impl Proxy {
    pub fn new(base: Base, node_name: &str, informers: &Informers) -> Self {
        Self {
            base,
            node_name: node_name.to_owned(),
            services: informers.reflector(),
            slices: informers.reflector(),
            pods: informers.reflector(),
            applied: None,
        }
    }

    /// Runs until dropped; the rules stay.
    pub async fn run(mut self) {
        let (mut services, mut slices, mut pods) =
            (self.services.subscribe(), self.slices.subscribe(), self.pods.subscribe());
        self.first_rules().await;
        tokio::join!(self.services.synced(), self.slices.synced(), self.pods.synced());
        let mut foreign = tokio::time::interval(FOREIGN_INTERVAL);
        let mut said = BTreeSet::new();
        let mut due = Some(Instant::now());
        loop {
            let node = self.node_name.as_str();
            let dirty = tokio::select! {
                event = services.next() => event.is_some(),
                event = slices.next() => event.is_some(),
                event = pods.next() => event.is_some_and(|event| concerns(&event, node)),
                _ = foreign.tick() => { foreign::warn(&self.base.table, &mut said).await; false }
                () = sleep_until(due) => { due = self.synchronise().await; false }
            };
            if dirty && due.is_none() {
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
    async fn synchronise(&mut self) -> Option<Instant> {
        let (services, slices, pods) = (self.services.list(), self.slices.list(), self.pods.list());
        let desired = observe::desired(&services, &slices, &pods, &self.node_name);
        if self.applied.as_ref().is_some_and(|(applied, _)| *applied == desired) {
            return None;
        }
        (!self.apply(desired).await).then(|| Instant::now() + RETRY)
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
        let flows = self.applied.as_ref().map(|(old, _)| conntrack::stale(old, &desired)).unwrap_or_default();
        self.applied = Some((desired, new));
        conntrack::forget(&flows).await;
        true
    }
}

/// Only this node's pods with host ports matter here.
fn concerns(event: &Event<Pod>, node: &str) -> bool {
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
