//! EndpointSlices, and Endpoints, of Services with a selector.
mod legacy;
mod mirror;
mod plan;
mod ports;

use crate::error::Error;
use crate::execute::{Run, unless_exists};
use crate::runner::{Change, Reconciler, Watches, key_of};
use api::home::SITE;
use api::selector::LabelSelector;
use client::Reflector;
use client::informers::Key;
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use mirror::Mirror;
use plan::Part;

/// What both kinds of endpoints are made from.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) services: Reflector<Service>,
    pub(crate) pods: Reflector<Pod>,
}

pub(crate) struct EndpointSlices {
    pub(crate) sources: Sources,
    pub(crate) nodes: Reflector<Node>,
    pub(crate) slices: Reflector<EndpointSlice>,
}

pub(crate) struct LegacyEndpoints {
    pub(crate) sources: Sources,
    pub(crate) endpoints: Reflector<Endpoints>,
}

impl Sources {
    /// The Service and its pods, if its endpoints are ours to keep.
    fn of(&self, (namespace, name): &Key) -> Option<(Arc<Service>, Vec<Arc<Pod>>)> {
        let service = self.services.get(namespace, name).filter(|s| s.metadata.deletion_timestamp.is_none())?;
        let spec = service.spec.as_ref()?;
        let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty())?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let selector = LabelSelector::from_set(selector.iter().map(|(key, value)| (&**key, &**value)));
        let pods = self.pods.select(namespace, |pod| selector.matches(pod.labels()));
        Some((service, pods))
    }

    fn selecting(&self, change: &Change<'_, Pod>) -> Vec<Key> {
        let selects = |service: &Service, labels: &BTreeMap<String, String>| {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            selector.is_some_and(|s| !s.is_empty() && s.iter().all(|(key, value)| labels.get(key) == Some(value)))
        };
        let namespace = change.new.namespace().unwrap_or_default();
        let services = self.services.select(&namespace, |service| {
            selects(service, change.new.labels()) || change.old.is_some_and(|old| selects(service, old.labels()))
        });
        services.iter().map(|service| key_of(&**service)).collect()
    }
}

impl Reconciler for EndpointSlices {
    const NAME: &'static str = "endpointslice-controller";

    fn watch(&self, watches: &mut Watches) {
        watches.everywhere();
        watches.own::<Service>();
        let sources = self.sources.clone();
        watches.on::<Pod>(move |change| sources.selecting(change));
        watches.on::<Node>(|_| Vec::new());
        watches.on::<EndpointSlice>(|change| {
            let name = change.new.labels().get(plan::SERVICE_NAME).cloned();
            name.map(|name| (change.new.namespace().unwrap_or_default(), name)).into_iter().collect()
        });
    }

    async fn reconcile(&self, key: Key, run: &mut Run) -> Result<(), Error> {
        let Some((service, mut pods)) = self.sources.of(&key) else { return Ok(()) };
        let part = Part::of(run);
        pods.retain(|pod| run.owns(&**pod));
        let slices = self.slices.select(&key.0, |slice| {
            slice.labels().get(plan::SERVICE_NAME) == Some(&key.1)
                && slice.labels().get(plan::MANAGED_BY).is_some_and(|by| by == plan::MANAGER)
                && part.holds(slice.labels().get(SITE).map(String::as_str))
        });
        let node = |name: &str| self.nodes.get("", name);
        match run.all(plan::plan(&service, &pods, node, &slices, &part)).await {
            Err(error) if error.is_namespace_terminating() => Ok(()),
            result => result,
        }
    }
}

impl Reconciler for LegacyEndpoints {
    const NAME: &'static str = "endpoint-controller";

    fn watch(&self, watches: &mut Watches) {
        watches.own::<Service>();
        let sources = self.sources.clone();
        watches.on::<Pod>(move |change| sources.selecting(change));
        watches.own::<Endpoints>();
    }

    async fn reconcile(&self, key: Key, run: &mut Run) -> Result<(), Error> {
        let Some((service, pods)) = self.sources.of(&key) else { return self.remove_left_over(&key, run).await };
        let current = self.endpoints.get(&key.0, &key.1);
        match run.all(legacy::plan(&service, &pods, current.as_deref())).await {
            Err(error) if error.is_namespace_terminating() => Ok(()),
            result => unless_exists(result),
        }
    }
}

impl LegacyEndpoints {
    /// Endpoints have no owner: those of a Service that is gone are deleted here.
    async fn remove_left_over(&self, (namespace, name): &Key, run: &mut Run) -> Result<(), Error> {
        let gone = self.sources.services.get(namespace, name).is_none();
        let ours = |endpoints: &Arc<Endpoints>| {
            endpoints.labels().get("endpoints.kubernetes.io/managed-by").is_some_and(|by| by == "endpoint-controller")
        };
        let left = self.endpoints.get(namespace, name).filter(|endpoints| gone && ours(endpoints));
        let delete = left.map(|left| crate::action::delete(&*left, crate::action::Told::nothing()));
        run.all(delete.into_iter().collect()).await
    }
}
