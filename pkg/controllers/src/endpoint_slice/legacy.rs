//! The older Endpoints object of a Service, for clients that still read it.
use super::plan::{HEADLESS, addresses, hostname, is_headless, reference};
use super::ports;
use crate::action::{self, Action, Told};
use crate::pods;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// Addresses of one object; further pods are left out, as upstream does.
const MAX_ADDRESSES: usize = 1000;

pub(super) fn plan(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Vec<Action> {
    let (subsets, labels) = (subsets(service, pods), labels(service));
    match current {
        None => {
            let metadata = ObjectMeta {
                name: service.metadata.name.clone(),
                namespace: service.namespace(),
                labels: Some(labels),
                ..ObjectMeta::default()
            };
            let subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
            vec![action::create(&Endpoints { metadata, subsets }, Told::nothing())]
        }
        Some(current) => {
            let mut patch = json!({});
            if current.subsets.clone().unwrap_or_default() != subsets {
                patch["subsets"] = serde_json::to_value(&subsets).expect("typed objects are JSON");
            }
            if *current.labels() != labels {
                let gone = current.labels().keys().filter(|key| !labels.contains_key(*key));
                let mut all: serde_json::Map<String, Value> = gone.map(|key| (key.clone(), Value::Null)).collect();
                all.extend(labels.into_iter().map(|(key, value)| (key, Value::String(value))));
                patch["metadata"]["labels"] = Value::Object(all);
            }
            (patch != json!({})).then(|| action::patch(current, patch)).into_iter().collect()
        }
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), "endpoint-controller".into());
    labels
}

fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let spec = service.spec.as_ref();
    let unready_too = spec.and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let mut by_ports: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    let usable = pods.iter().filter(|pod| pods::is_active(pod) || (unready_too && !pods::is_finished(pod)));
    for pod in usable.take(MAX_ADDRESSES) {
        let Some(ip) = addresses(pod).into_iter().next() else { continue };
        let ports = of_subset(service, pod);
        let subset = by_ports.entry(format!("{ports:?}")).or_insert_with(|| EndpointSubset {
            ports: Some(ports).filter(|ports| !ports.is_empty()),
            ..EndpointSubset::default()
        });
        let node_name = Some(pods::node_name(pod).to_owned()).filter(|name| !name.is_empty());
        let address =
            EndpointAddress { ip, hostname: hostname(service, pod), node_name, target_ref: Some(reference(pod)) };
        let ready = unready_too || pods::is_ready(pod);
        let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address);
    }
    let mut subsets: Vec<EndpointSubset> = by_ports.into_values().collect();
    for subset in &mut subsets {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses].into_iter().flatten() {
            list.sort_by(|a, b| a.ip.cmp(&b.ip));
        }
    }
    subsets
}

fn of_subset(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
    let resolved = ports.filter_map(|port| {
        Some(EndpointPort {
            name: port.name.clone().filter(|name| !name.is_empty()),
            port: ports::target(pod, port)?,
            protocol: Some(ports::protocol(port).to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}
