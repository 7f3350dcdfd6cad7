//! EndpointSlices for Endpoints that somebody else keeps: those of Services without a selector.
use super::plan::{MANAGED_BY, SERVICE_NAME};
use crate::action::{self, Action, Note, Told, merge_diff};
use crate::error::Error;
use crate::execute::Run;
use crate::owned;
use crate::runner::{Reconciler, Watches};
use client::Reflector;
use client::informers::Key;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Marks Endpoints that are a lock for electing a leader.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that are not copied.
const NOT_COPIED: &[&str] =
    &["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// Addresses of one slice; further ones are told about and left out.
const MAX_ADDRESSES: usize = 1000;

pub(crate) struct Mirror {
    pub(crate) endpoints: Reflector<Endpoints>,
    pub(crate) services: Reflector<Service>,
    pub(crate) slices: Reflector<EndpointSlice>,
}

/// What one slice should hold.
struct Wanted {
    family: &'static str,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
}

fn is_mirrored(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let skipped = endpoints.labels().get(SKIP).is_some_and(|skip| skip == "true");
    let selects = |service: &Service| service.spec.as_ref().is_some_and(|spec| spec.selector.is_some());
    !skipped && !endpoints.annotations().contains_key(LEADER) && service.is_some_and(|service| !selects(service))
}

fn ports_of(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
        app_protocol: port.app_protocol.clone(),
    });
    let mut ports: Vec<EndpointPort> = ports.collect();
    ports.sort_by(|a, b| (&a.name, a.port).cmp(&(&b.name, b.port)));
    ports
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Option<(&'static str, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let conditions = EndpointConditions { ready: Some(ready), ..EndpointConditions::default() };
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(conditions),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    Some((if ip.is_ipv4() { "IPv4" } else { "IPv6" }, endpoint))
}

/// One slice for each address family and set of ports, and how many addresses did not fit or are none.
fn wanted(endpoints: &Endpoints) -> (Vec<Wanted>, usize, usize) {
    let (mut all, mut invalid, mut surplus): (Vec<Wanted>, usize, usize) = (Vec::new(), 0, 0);
    for subset in endpoints.subsets.iter().flatten() {
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let addresses = ready.chain(subset.not_ready_addresses.iter().flatten().map(|address| (address, false)));
        let ports = ports_of(subset);
        for (address, ready) in addresses {
            let Some((family, endpoint)) = endpoint(address, ready) else {
                invalid += 1;
                continue;
            };
            match all.iter_mut().find(|slice| slice.family == family && slice.ports == ports) {
                Some(slice) if slice.endpoints.len() >= MAX_ADDRESSES => surplus += 1,
                Some(slice) => slice.endpoints.push(endpoint),
                None => all.push(Wanted { family, ports: ports.clone(), endpoints: vec![endpoint] }),
            }
        }
    }
    (all, invalid, surplus)
}

/// What the mirrored slices should become. Without `endpoints` there should be none.
fn plan(endpoints: Option<&Endpoints>, slices: &[Arc<EndpointSlice>]) -> Vec<Action> {
    let mut left: Vec<&Arc<EndpointSlice>> =
        slices.iter().filter(|slice| slice.metadata.deletion_timestamp.is_none()).collect();
    let mut actions = Vec::new();
    if let Some(endpoints) = endpoints {
        let (wanted, invalid, surplus) = wanted(endpoints);
        for slice in wanted {
            let same = |s: &&Arc<EndpointSlice>| {
                s.address_type == slice.family && s.ports.as_deref().unwrap_or_default() == slice.ports
            };
            match left.iter().position(same) {
                Some(n) => actions.extend(update(endpoints, left.remove(n), slice)),
                None => actions.push(create(endpoints, slice)),
            }
        }
        actions.extend(notes(endpoints, invalid, surplus));
    }
    actions.extend(left.into_iter().map(|slice| action::delete(&**slice, Told::nothing())));
    actions
}

fn notes(endpoints: &Endpoints, invalid: usize, surplus: usize) -> Vec<Action> {
    let about = client::reference(endpoints);
    let note = |reason, message| Action::Tell(Note { about: about.clone(), warning: true, reason, message });
    let skipped = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
    let too_many = format!(
        "A max of {MAX_ADDRESSES} addresses can be mirrored to EndpointSlices per Endpoints subset. {surplus} addresses were skipped"
    );
    let invalid = (invalid > 0).then(|| note("InvalidIPAddress", skipped));
    let surplus = (surplus > 0).then(|| note("TooManyAddressesToMirror", too_many));
    invalid.into_iter().chain(surplus).collect()
}

fn labels(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut labels = endpoints.labels().clone();
    labels.insert(SERVICE_NAME.into(), endpoints.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

fn annotations(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let copied = endpoints.annotations().iter().filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()));
    copied.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn update(endpoints: &Endpoints, slice: &EndpointSlice, wanted: Wanted) -> Option<Action> {
    let described = |labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>| json!({"labels": labels, "annotations": annotations});
    let old = described(slice.labels(), slice.annotations());
    let mut patch = json!({});
    if let Some(diff) = merge_diff(&old, &described(&labels(endpoints), &annotations(endpoints))) {
        patch["metadata"] = diff;
    }
    if slice.endpoints.as_deref().unwrap_or_default() != wanted.endpoints {
        patch["endpoints"] = serde_json::to_value(wanted.endpoints).expect("typed objects are JSON");
    }
    (patch != json!({})).then(|| action::patch(slice, patch))
}

fn create(endpoints: &Endpoints, wanted: Wanted) -> Action {
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", endpoints.name_any())),
        namespace: endpoints.namespace(),
        labels: Some(labels(endpoints)),
        annotations: Some(annotations(endpoints)),
        owner_references: Some(vec![owned::reference_to(endpoints)]),
        ..ObjectMeta::default()
    };
    let (address_type, ports) = (wanted.family.to_owned(), Some(wanted.ports));
    action::create(&EndpointSlice { metadata, address_type, endpoints: Some(wanted.endpoints), ports }, Told::nothing())
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.labels().get(MANAGED_BY).is_some_and(|by| by == MANAGER)
}

impl Reconciler for Mirror {
    const NAME: &'static str = "endpointslicemirroring-controller";

    fn watch(&self, watches: &mut Watches) {
        watches.own::<Endpoints>();
        watches.own::<Service>();
        watches.on::<EndpointSlice>(|change| {
            let name = change.new.labels().get(SERVICE_NAME).filter(|_| is_ours(change.new));
            name.map(|name| (change.new.namespace().unwrap_or_default(), name.clone())).into_iter().collect()
        });
    }

    async fn reconcile(&self, (namespace, name): Key, run: &mut Run) -> Result<(), Error> {
        let service = self.services.get(&namespace, &name);
        let endpoints = self.endpoints.get(&namespace, &name).filter(|e| is_mirrored(e, service.as_deref()));
        let slices =
            self.slices.select(&namespace, |slice| is_ours(slice) && slice.labels().get(SERVICE_NAME) == Some(&name));
        match run.all(plan(endpoints.as_deref(), &slices)).await {
            Err(error) if error.is_namespace_terminating() => Ok(()),
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn endpoints(subsets: Value) -> Endpoints {
        let metadata = json!({"name": "web", "namespace": "ns", "uid": "e", "labels": {"app": "web"},
            "annotations": {"note": "x", "endpoints.kubernetes.io/last-change-trigger-time": "t"}});
        serde_json::from_value(json!({"metadata": metadata, "subsets": subsets})).unwrap()
    }

    fn made(actions: &[Action]) -> Vec<Arc<EndpointSlice>> {
        let object = |action: &Action| match action {
            Action::Create { object, .. } => Arc::new(serde_json::from_value(object.clone()).unwrap()),
            other => panic!("{other:?}"),
        };
        actions.iter().map(object).collect()
    }

    #[test]
    fn families_and_ports_have_slices_of_their_own() {
        let port = |n: u16| json!([{"port": n}]);
        let object = endpoints(json!([
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": port(80)},
            {"addresses": [{"ip": "10.0.0.3"}], "ports": port(80)},
            {"addresses": [{"ip": "10.0.0.1"}], "ports": port(81)},
        ]));
        let slices = made(&plan(Some(&object), &[]));
        let shape = |s: &Arc<EndpointSlice>| (s.address_type.clone(), s.endpoints.as_ref().unwrap().len());
        let shapes: Vec<_> = slices.iter().map(shape).collect();
        assert_eq!(shapes, [("IPv4".into(), 3), ("IPv6".into(), 1), ("IPv4".into(), 1)]);
        assert_eq!(slices[0].labels()[SERVICE_NAME], "web");
        assert_eq!(slices[0].labels()["app"], "web");
        assert_eq!(slices[0].annotations().keys().collect::<Vec<_>>(), ["note"]);
        assert!(plan(Some(&object), &slices).is_empty(), "nothing changed");
        let fewer = endpoints(json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": port(80)}]));
        let actions = plan(Some(&fewer), &slices);
        assert!(
            matches!(actions[..], [Action::Patch { .. }, Action::Delete { .. }, Action::Delete { .. }]),
            "{actions:?}"
        );
        assert_eq!(plan(None, &slices).len(), 3, "all go with the Endpoints");
    }

    #[test]
    fn only_endpoints_that_others_keep_are_mirrored() {
        let service = |spec: Value| -> Service { serde_json::from_value(json!({"spec": spec})).unwrap() };
        let (plain, selecting) = (service(json!({})), service(json!({"selector": {"a": "b"}})));
        let mut object = endpoints(json!([]));
        assert!(is_mirrored(&object, Some(&plain)));
        assert!(!is_mirrored(&object, Some(&selecting)));
        assert!(!is_mirrored(&object, None));
        object.labels_mut().insert(SKIP.into(), "true".into());
        assert!(!is_mirrored(&object, Some(&plain)));
    }

    #[test]
    fn what_is_no_address_is_told() {
        let object = endpoints(json!([{"addresses": [{"ip": "nonsense"}]}]));
        let actions = plan(Some(&object), &[]);
        assert!(matches!(&actions[..], [Action::Tell(Note { reason: "InvalidIPAddress", .. })]), "{actions:?}");
    }
}
