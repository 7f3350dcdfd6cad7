//! A load balancer without machines of its own: a Service of type LoadBalancer is served on the nodes' addresses.
//!
//! Only the status is written here. Each node's rules take traffic for the addresses in it, so nothing has to run,
//! and a Service works from the moment that its status is seen. Services of another `loadBalancerClass` belong to
//! somebody else.
mod plan;

use crate::error::Error;
use crate::execute::Run;
use crate::runner::{Reconciler, Watches, key_of};
use client::Reflector;
use client::informers::Key;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use std::sync::Arc;

pub(crate) struct ServiceLoadBalancer {
    pub(crate) services: Reflector<Service>,
    pub(crate) nodes: Reflector<Node>,
    pub(crate) slices: Reflector<EndpointSlice>,
    /// TCP ports of the nodes' addresses that this cluster itself answers.
    pub(crate) reserved_ports: Vec<u16>,
}

impl ServiceLoadBalancer {
    fn ours(&self) -> Vec<Arc<Service>> {
        self.services.select("", plan::is_ours)
    }
}

impl Reconciler for ServiceLoadBalancer {
    const NAME: &'static str = "service-controller";
    /// Who may have a port depends on all of them.
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches) {
        watches.primary::<Service>();
        let services = self.services.clone();
        watches.on::<Service>(move |change| {
            let was = change.old.is_some_and(plan::concerns);
            if !was && !plan::concerns(change.new) {
                return Vec::new();
            }
            // A port that one gives up, another may have waited for.
            let ours = services.select("", plan::is_ours);
            ours.iter().map(|service| key_of(&**service)).chain([key_of(change.new)]).collect()
        });
        let services = self.services.clone();
        watches.on::<Node>(move |change| {
            if change.old.is_some_and(|old| plan::of_node(old) == plan::of_node(change.new)) && !change.deleted {
                return Vec::new();
            }
            services.select("", plan::is_ours).iter().map(|service| key_of(&**service)).collect()
        });
        let services = self.services.clone();
        watches.on::<EndpointSlice>(move |change| {
            let name = change.new.labels().get(plan::SERVICE_NAME).cloned().unwrap_or_default();
            let namespace = change.new.namespace().unwrap_or_default();
            let service = services.get(&namespace, &name).filter(|service| plan::is_local(service));
            service.map(|_| (namespace, name)).into_iter().collect()
        });
    }

    async fn reconcile(&self, (namespace, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(service) = self.services.get(&namespace, &name) else { return Ok(()) };
        let (ours, nodes) = (self.ours(), self.nodes.list());
        let slices = self.slices.select(&namespace, |slice| slice.labels().get(plan::SERVICE_NAME) == Some(&name));
        run.all(plan::plan(&service, &ours, &nodes, &slices, &self.reserved_ports)).await
    }
}
