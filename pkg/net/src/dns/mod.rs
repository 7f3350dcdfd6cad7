//! Cluster DNS: each node answers its own pods and itself, from the shared caches (Kubernetes' DNS specification,
//! version 1.1.0).
//!
//! `index` holds what Services and endpoints say, updated object by object; `zone` answers a question from it;
//! `message` turns packets into questions and answers into packets; `forward` asks the machine's own resolvers about
//! everything else, with `cache` before it; `server` runs the sockets.

mod cache;
mod forward;
pub mod index;
mod message;
mod server;
pub mod zone;

pub use forward::Upstreams;
pub use server::{Error, Server};

use client::{Event, Informers, Reflector};
use index::Index;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::RwLock;
use std::sync::Arc;

/// Keeps the index what the API says.
pub struct Follower {
    index: Arc<RwLock<Index>>,
    services: Reflector<Service>,
    slices: Reflector<EndpointSlice>,
}

impl Follower {
    pub fn new(index: Arc<RwLock<Index>>, informers: &Informers) -> Self {
        Self { index, services: informers.reflector(), slices: informers.reflector() }
    }

    /// Runs until dropped.
    pub async fn run(self) {
        let (mut services, mut slices) = (self.services.subscribe(), self.slices.subscribe());
        tokio::join!(self.services.synced(), self.slices.synced());
        self.rebuild();
        loop {
            tokio::select! {
                event = services.next() => match event {
                    Some(Event::Applied { new, .. }) => self.index.write().apply_service(&new),
                    Some(Event::Deleted(old)) => self.index.write().delete_service(&old),
                    Some(Event::Resync) => self.rebuild(),
                    None => return,
                },
                event = slices.next() => match event {
                    Some(Event::Applied { old, new }) => self.index.write().apply_slice(old.as_deref(), &new),
                    Some(Event::Deleted(old)) => self.index.write().delete_slice(&old),
                    Some(Event::Resync) => self.rebuild(),
                    None => return,
                },
            }
        }
    }

    fn rebuild(&self) {
        let (services, slices) = (self.services.list(), self.slices.list());
        let index = Index::complete(services.iter().map(Arc::as_ref), slices.iter().map(Arc::as_ref));
        *self.index.write() = index;
    }
}
