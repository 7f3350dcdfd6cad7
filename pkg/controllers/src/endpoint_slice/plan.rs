//! A Service's endpoints, shared out over slices so that few slices change when few pods do.
use super::ports;
use crate::action::{self, Action, Told};
use crate::execute::Run;
use crate::{owned, pods};
use api::home::{SITE, Site};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Endpoints of one slice; upstream's default.
const MAX_ENDPOINTS: usize = 100;
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";

pub(super) fn is_headless(service: &Service) -> bool {
    matches!(service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()), None | Some("" | "None"))
}

/// Which part of a Service's endpoints is this site's: those on its own nodes, in slices named by site.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    /// None where there is one site alone.
    site: Option<Site>,
    /// Whether slices that name no site are ours.
    founder: bool,
    /// Whether a slice without endpoints is to say that there are none.
    tells_absence: bool,
}

impl Part {
    pub(super) fn of(run: &Run) -> Self {
        let view = run.view();
        match view.marked {
            false => Self { site: None, founder: true, tells_absence: true },
            true => Self {
                site: Some(view.site.clone()),
                founder: view.site == view.default_site,
                tells_absence: run.acts(),
            },
        }
    }

    /// Whether a slice with this label is this site's.
    pub(super) fn holds(&self, site: Option<&str>) -> bool {
        match (&self.site, site) {
            (None, _) => true,
            (Some(_), None) => self.founder,
            (Some(own), Some(site)) => **own == *site,
        }
    }

    fn prefix(&self, service: &Service) -> String {
        match &self.site {
            None => format!("{}-", service.name_any()),
            Some(site) => format!("{}-{site}-", service.name_any()),
        }
    }
}

/// What the slices of `service` should become. `slices` are those that this controller manages for it.
pub(super) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    node: impl Fn(&str) -> Option<Arc<Node>>,
    slices: &[Arc<EndpointSlice>],
    part: &Part,
) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut left: Vec<&EndpointSlice> =
        slices.iter().map(|slice| &**slice).filter(|slice| slice.metadata.deletion_timestamp.is_none()).collect();
    for family in families(service) {
        let mut groups: Vec<(Vec<EndpointPort>, Vec<Endpoint>)> = Vec::new();
        for pod in pods.iter().filter(|pod| has_address(pod)) {
            let endpoint = endpoint(service, pod, &node, &family);
            if endpoint.addresses.is_empty() {
                continue;
            }
            let ports = ports::of_slice(service, pod);
            match groups.iter_mut().find(|(other, _)| *other == ports) {
                Some((_, endpoints)) => endpoints.push(endpoint),
                None => groups.push((ports, vec![endpoint])),
            }
        }
        if groups.is_empty() && part.tells_absence {
            // A slice without endpoints tells watchers that the Service has none.
            groups.push((Vec::new(), Vec::new()));
        }
        for (ports, endpoints) in groups {
            fill(service, part, &family, ports, endpoints, &mut left, &mut actions);
        }
    }
    actions.extend(left.into_iter().map(|slice| action::delete(slice, Told::nothing())));
    actions
}

fn families(service: &Service) -> Vec<String> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    if families.is_empty() { vec!["IPv4".to_owned()] } else { families }
}

fn has_address(pod: &Pod) -> bool {
    !pods::is_finished(pod) && !addresses(pod).is_empty()
}

pub(super) fn addresses(pod: &Pod) -> Vec<String> {
    let status = pod.status.as_ref();
    let all = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten().map(|ip| ip.ip.clone());
    let all: Vec<String> = all.collect();
    let first = status.and_then(|status| status.pod_ip.clone()).filter(|ip| !ip.is_empty());
    if all.is_empty() { first.into_iter().collect() } else { all }
}

fn endpoint(service: &Service, pod: &Pod, node: impl Fn(&str) -> Option<Arc<Node>>, family: &str) -> Endpoint {
    let spec = service.spec.as_ref();
    let unready_too = spec.and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let (serving, terminating) = (pods::is_ready(pod), pods::is_terminating(pod));
    let of_family = |ip: &String| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == (family == "IPv6"));
    let node_name = Some(pods::node_name(pod).to_owned()).filter(|name| !name.is_empty());
    let zone = node_name.as_deref().and_then(node).and_then(|node| node.labels().get(ZONE).cloned());
    let ready = unready_too || (serving && !terminating);
    let preference = spec.and_then(|spec| spec.traffic_distribution.as_deref()).filter(|_| ready);
    Endpoint {
        addresses: addresses(pod).into_iter().filter(of_family).collect(),
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hints: preference.and_then(|preference| hints(preference, zone.as_deref(), node_name.as_deref())),
        hostname: hostname(service, pod),
        target_ref: Some(reference(pod)),
        node_name,
        zone,
        ..Endpoint::default()
    }
}

/// Pods with a hostname in the Service's own subdomain get a DNS name.
pub(super) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.clone().filter(|hostname| !hostname.is_empty())?;
    (spec.subdomain == service.metadata.name).then_some(hostname)
}

pub(super) fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.namespace(),
        name: pod.metadata.name.clone(),
        uid: pod.uid(),
        ..ObjectReference::default()
    }
}

/// `spec.trafficDistribution`: whom an endpoint should serve.
fn hints(preference: &str, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    let for_zones = zone.map(|zone| vec![ForZone { name: zone.to_owned() }]);
    match preference {
        "PreferClose" | "PreferSameZone" => {
            for_zones.map(|zones| EndpointHints { for_zones: Some(zones), for_nodes: None })
        }
        "PreferSameNode" => {
            let for_nodes = node.map(|node| vec![ForNode { name: node.to_owned() }])?;
            Some(EndpointHints { for_zones, for_nodes: Some(for_nodes) })
        }
        _ => None,
    }
}

fn fill(
    service: &Service,
    part: &Part,
    family: &str,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
    left: &mut Vec<&EndpointSlice>,
    actions: &mut Vec<Action>,
) {
    let fits =
        |slice: &&EndpointSlice| slice.address_type == family && slice.ports.clone().unwrap_or_default() == ports;
    let (mut mine, rest): (Vec<_>, Vec<_>) = left.drain(..).partition(fits);
    *left = rest;
    mine.sort_by_key(|slice| slice.name_any());
    let mut wanted: BTreeMap<Option<String>, Endpoint> =
        endpoints.into_iter().map(|endpoint| (uid(&endpoint), endpoint)).collect();
    // What is in a slice stays there; gaps are filled in order.
    let mut contents: Vec<(Option<&EndpointSlice>, Vec<Endpoint>)> = Vec::new();
    for slice in mine {
        let kept = slice.endpoints.iter().flatten().filter_map(|endpoint| wanted.remove(&uid(endpoint)));
        contents.push((Some(slice), kept.collect()));
    }
    let mut new = wanted.into_values();
    for (_, content) in &mut contents {
        content.extend(new.by_ref().take(MAX_ENDPOINTS.saturating_sub(content.len())));
    }
    let new: Vec<Endpoint> = new.collect();
    contents.extend(new.chunks(MAX_ENDPOINTS).map(|chunk| (None, chunk.to_vec())));
    let all_empty = contents.iter().all(|(_, content)| content.is_empty());
    if contents.is_empty() {
        contents.push((None, Vec::new()));
    }
    for (n, (slice, content)) in contents.into_iter().enumerate() {
        let keep = !content.is_empty() || (all_empty && n == 0);
        match slice {
            Some(slice) if keep => actions.extend(update(service, part, slice, content)),
            Some(slice) => actions.push(action::delete(slice, Told::nothing())),
            None => actions.push(create(service, part, family, ports.clone(), content)),
        }
    }
}

fn uid(endpoint: &Endpoint) -> Option<String> {
    endpoint.target_ref.as_ref()?.uid.clone()
}

fn labels(service: &Service, part: &Part) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels.extend(part.site.iter().map(|site| (SITE.to_owned(), site.to_string())));
    labels
}

fn update(service: &Service, part: &Part, slice: &EndpointSlice, content: Vec<Endpoint>) -> Option<Action> {
    let labels = labels(service, part);
    let mut patch = json!({});
    if *slice.labels() != labels {
        let gone = slice.labels().keys().filter(|key| !labels.contains_key(*key));
        let mut all: serde_json::Map<String, Value> = gone.map(|key| (key.clone(), Value::Null)).collect();
        all.extend(labels.into_iter().map(|(key, value)| (key, Value::String(value))));
        patch["metadata"]["labels"] = Value::Object(all);
    }
    if slice.endpoints.as_deref().unwrap_or_default() != content {
        patch["endpoints"] = serde_json::to_value(content).expect("typed objects are JSON");
    }
    (patch != json!({})).then(|| action::patch(slice, patch))
}

fn create(service: &Service, part: &Part, family: &str, ports: Vec<EndpointPort>, endpoints: Vec<Endpoint>) -> Action {
    let metadata = ObjectMeta {
        generate_name: Some(part.prefix(service)),
        namespace: service.namespace(),
        labels: Some(labels(service, part)),
        owner_references: Some(vec![owned::reference_to(service)]),
        ..ObjectMeta::default()
    };
    let slice =
        EndpointSlice { metadata, address_type: family.to_owned(), endpoints: Some(endpoints), ports: Some(ports) };
    action::create(&slice, Told::nothing())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Patch;
    use proptest::prelude::*;

    pub(in super::super) fn service(spec: Value) -> Service {
        serde_json::from_value(
            json!({"metadata": {"name": "web", "namespace": "ns", "uid": "s", "labels": {"a": "b"}}, "spec": spec}),
        )
        .unwrap()
    }

    fn web() -> Service {
        service(json!({"clusterIP": "10.43.0.9", "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]}))
    }

    pub(in super::super) fn pod(n: usize, ready: bool) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({
            "metadata": {"name": format!("p{n}"), "namespace": "ns", "uid": n.to_string()},
            "spec": {"nodeName": "a", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": format!("10.42.{}.{}", n / 250, n % 250 + 1),
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        })).unwrap())
    }

    fn node(_: &str) -> Option<Arc<Node>> {
        serde_json::from_value(json!({"metadata": {"name": "a", "labels": {(ZONE): "z"}}})).ok().map(Arc::new)
    }

    /// Carries actions out on a list of slices.
    fn apply(slices: &mut Vec<Arc<EndpointSlice>>, actions: Vec<Action>, next: &mut u32) {
        for action in actions {
            match action {
                Action::Create { object, .. } => {
                    let mut slice: EndpointSlice = serde_json::from_value(object).unwrap();
                    *next += 1;
                    slice.metadata.name = Some(format!("web-{next:04}"));
                    slice.metadata.uid = slice.metadata.name.clone();
                    slices.push(Arc::new(slice));
                }
                Action::Patch { target, patch: Patch::Merge(patch), .. } => {
                    let slice = slices.iter_mut().find(|slice| slice.name_any() == target.name).unwrap();
                    let mut new = (**slice).clone();
                    if let Some(endpoints) = patch.get("endpoints") {
                        new.endpoints = serde_json::from_value(endpoints.clone()).unwrap();
                    }
                    *slice = Arc::new(new);
                }
                Action::Delete { target, .. } => slices.retain(|slice| slice.name_any() != target.name),
                other => panic!("{other:?}"),
            }
        }
    }

    fn alone() -> Part {
        Part { site: None, founder: true, tells_absence: true }
    }

    #[test]
    fn each_site_writes_slices_of_its_own_name() {
        let north = Part { site: Some("north".into()), founder: true, tells_absence: true };
        let south = Part { site: Some("south".into()), founder: false, tells_absence: false };
        assert!(north.holds(None) && north.holds(Some("north")) && !north.holds(Some("south")));
        assert!(south.holds(Some("south")) && !south.holds(None));
        let actions = plan(&web(), &[pod(0, true)], node, &[], &south);
        let [Action::Create { object, .. }] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(object["metadata"]["generateName"], "web-south-");
        assert_eq!(object["metadata"]["labels"][SITE], "south");
        assert!(plan(&web(), &[], node, &[], &south).is_empty(), "home alone says that there is none");
        assert_eq!(plan(&web(), &[], node, &[], &north).len(), 1);
    }

    #[test]
    fn an_endpoint_tells_where_and_how_a_pod_is() {
        let actions = plan(&web(), &[pod(0, true)], node, &[], &alone());
        let [Action::Create { object, .. }] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(object["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
        let endpoint = &object["endpoints"][0];
        assert_eq!(endpoint["conditions"], json!({"ready": true, "serving": true, "terminating": false}));
        assert_eq!((&endpoint["zone"], &endpoint["nodeName"]), (&json!("z"), &json!("a")));
        assert_eq!(object["metadata"]["labels"][MANAGED_BY], MANAGER);
        assert_eq!(object["metadata"]["labels"]["a"], "b");
    }

    #[test]
    fn terminating_pods_serve_but_are_not_ready_and_finished_ones_are_gone() {
        let mut leaving = (*pod(0, true)).clone();
        leaving.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        let mut over = (*pod(1, false)).clone();
        over.status.as_mut().unwrap().phase = Some("Succeeded".into());
        let actions = plan(&web(), &[Arc::new(leaving), Arc::new(over)], node, &[], &alone());
        let [Action::Create { object, .. }] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(object["endpoints"].as_array().unwrap().len(), 1);
        assert_eq!(object["endpoints"][0]["conditions"], json!({"ready": false, "serving": true, "terminating": true}));
    }

    #[test]
    fn a_service_without_pods_has_an_empty_slice_and_a_headless_one_its_label() {
        let headless = service(json!({"clusterIP": "None", "selector": {"app": "x"}}));
        let actions = plan(&headless, &[], node, &[], &alone());
        let [Action::Create { object, .. }] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(object["endpoints"], json!([]));
        assert_eq!(object["metadata"]["labels"][HEADLESS], "");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn slices_hold_every_pod_once_and_settle(first in prop::collection::btree_set(0usize..400, 0..300),
                                                 second in prop::collection::btree_set(0usize..400, 0..300)) {
            let (service, mut slices, mut next) = (web(), Vec::new(), 0);
            for set in [first, second] {
                let pods: Vec<_> = set.iter().map(|n| pod(*n, n % 3 > 0)).collect();
                let actions = plan(&service, &pods, node, &slices, &alone());
                apply(&mut slices, actions, &mut next);
                let mut held: Vec<usize> = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten())
                    .map(|endpoint| uid(endpoint).unwrap().parse().unwrap()).collect();
                held.sort_unstable();
                prop_assert_eq!(held, set.into_iter().collect::<Vec<_>>());
                prop_assert!(slices.iter().all(|slice| slice.endpoints.iter().flatten().count() <= MAX_ENDPOINTS));
                prop_assert!(!slices.is_empty());
                prop_assert_eq!(plan(&service, &pods, node, &slices, &alone()), vec![], "nothing is left to do");
            }
        }
    }
}
