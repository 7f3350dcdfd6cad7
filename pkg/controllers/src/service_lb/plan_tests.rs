use super::*;
use crate::action::Patch;
use proptest::prelude::*;
use serde_json::{Value, json};

fn service(name: &str, second: u32, ports: &[i32], more: Value) -> Arc<Service> {
    let ports: Vec<_> = ports.iter().map(|port| json!({"port": port, "protocol": "TCP"})).collect();
    let mut spec = json!({"type": "LoadBalancer", "ports": ports, "ipFamilies": ["IPv4"]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let created = format!("2026-01-01T00:00:{second:02}Z");
    let metadata = json!({"name": name, "namespace": "ns", "uid": name, "creationTimestamp": created});
    Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
}

fn node(name: &str, ip: &str, ready: &str, labels: Value) -> Arc<Node> {
    let addresses = json!([{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": ip}]);
    let status = json!({"addresses": addresses, "conditions": [{"type": "Ready", "status": ready}]});
    let node = json!({"metadata": {"name": name, "labels": labels}, "status": status});
    Arc::new(serde_json::from_value(node).unwrap())
}

fn nodes() -> Vec<Arc<Node>> {
    vec![
        node("b", "192.0.2.20", "True", json!({})),
        node("a", "192.0.2.3", "True", json!({})),
        node("down", "192.0.2.4", "False", json!({})),
        node("out", "192.0.2.5", "True", json!({(EXCLUDED): ""})),
    ]
}

/// The addresses that a plan writes; `None` when it writes none.
fn written(actions: &[Action]) -> Option<Value> {
    actions.iter().find_map(|action| match action {
        Action::Patch { patch: Patch::Merge(patch), subresource: Some("status"), .. } => {
            Some(patch["status"]["loadBalancer"]["ingress"].clone())
        }
        _ => None,
    })
}

fn vip(ip: &str) -> Value {
    json!({"ip": ip, "ipMode": "VIP"})
}

#[test]
fn ready_nodes_serve_in_order_and_then_nothing_is_left_to_do() {
    let web = service("web", 1, &[80], json!({}));
    let actions = plan(&web, std::slice::from_ref(&web), &nodes(), &[], &[]);
    assert_eq!(written(&actions), Some(json!([vip("192.0.2.3"), vip("192.0.2.20")])));
    let mut done = (*web).clone();
    let status = json!({"loadBalancer": {"ingress": [vip("192.0.2.3"), vip("192.0.2.20")]}});
    done.status = Some(serde_json::from_value(status).unwrap());
    assert_eq!(plan(&done, &[Arc::new(done.clone())], &nodes(), &[], &[]), []);
}

#[test]
fn policy_local_names_nodes_with_ready_endpoints() {
    let web = service("web", 1, &[80], json!({"externalTrafficPolicy": "Local"}));
    let slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [
        {"addresses": ["10.42.0.5"], "nodeName": "b"},
        {"addresses": ["10.42.1.5"], "nodeName": "a", "conditions": {"ready": false}}]});
    let slices = [Arc::new(serde_json::from_value(slice).unwrap())];
    let actions = plan(&web, std::slice::from_ref(&web), &nodes(), &slices, &[]);
    assert_eq!(written(&actions), Some(json!([vip("192.0.2.20")])));
}

#[test]
fn policy_local_keeps_a_node_whose_last_pod_serves_while_it_ends() {
    let web = service("web", 1, &[80], json!({"externalTrafficPolicy": "Local"}));
    let ending = |serving: bool| json!({"ready": false, "serving": serving, "terminating": true});
    let slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [
        {"addresses": ["10.42.0.5"], "nodeName": "b", "conditions": ending(true)},
        {"addresses": ["10.42.1.5"], "nodeName": "a", "conditions": ending(false)}]});
    let slices = [Arc::new(serde_json::from_value(slice).unwrap())];
    let actions = plan(&web, std::slice::from_ref(&web), &nodes(), &slices, &[]);
    assert_eq!(written(&actions), Some(json!([vip("192.0.2.20")])));
}

#[test]
fn the_older_keeps_a_port_that_two_want() {
    let (old, new) = (service("z", 1, &[80, 443], json!({})), service("a", 2, &[443], json!({})));
    let third = service("c", 3, &[443, 8080], json!({}));
    let ours = [new.clone(), old.clone(), third];
    assert!(written(&plan(&old, &ours, &nodes(), &[], &[])).is_some());
    let refused = plan(&new, &ours, &nodes(), &[], &[]);
    assert_eq!(written(&refused), None);
    let [Action::Tell(note)] = &refused[..] else { panic!("{refused:?}") };
    assert_eq!(note.message, "Error syncing load balancer: port 443/TCP of the nodes is Service ns/z's");
    assert!(written(&plan(&new, &ours[..1], &nodes(), &[], &[])).is_some(), "once the older is gone");
}

#[test]
fn who_is_refused_takes_no_port_from_others() {
    let all = [(1, vec![80]), (2, vec![80, 443]), (3, vec![443])];
    let all: Vec<_> = all.iter().map(|(n, ports)| service(&format!("s{n}"), *n, ports, json!({}))).collect();
    assert_eq!(conflict(&all[2], &all, &[]), None);
}

#[test]
fn the_clusters_own_ports_are_never_given_away() {
    let api = service("api", 1, &[6443], json!({}));
    assert_eq!(written(&plan(&api, std::slice::from_ref(&api), &nodes(), &[], &[6443])), None);
}

#[test]
fn other_classes_are_somebody_elses_and_other_types_lose_their_addresses() {
    let other = service("other", 1, &[80], json!({"loadBalancerClass": "example.com/lb"}));
    assert_eq!(plan(&other, &[], &nodes(), &[], &[]), []);
    let mut was = (*service("was", 1, &[80], json!({"type": "ClusterIP"}))).clone();
    assert_eq!(plan(&was, &[], &nodes(), &[], &[]), []);
    let status = json!({"loadBalancer": {"ingress": [vip("192.0.2.3")]}});
    was.status = Some(serde_json::from_value(status).unwrap());
    assert_eq!(written(&plan(&was, &[], &nodes(), &[], &[])), Some(Value::Null));
}

#[test]
fn of_the_same_second_who_serves_goes_on() {
    let (serving, newcomer) = (with_address(&service("z", 1, &[80], json!({}))), service("a", 1, &[80], json!({})));
    let ours = [newcomer.clone(), serving.clone()];
    assert_eq!(conflict(&serving, &ours, &[]), None);
    assert_eq!(conflict(&newcomer, &ours, &[]), Some("port 80/TCP of the nodes is Service ns/z's".into()));
    let (both, older) = ([with_address(&newcomer), serving], service("z", 0, &[80], json!({})));
    assert_eq!(conflict(&both[0], &both, &[]), None, "names decide between two that were cut off from each other");
    assert!(conflict(&both[1], &both, &[]).is_some());
    assert!(conflict(&both[0], &[both[0].clone(), older], &[]).is_some(), "an older one comes first, addresses or not");
}

#[test]
fn a_service_whose_deletion_began_gives_its_addresses_back_at_once() {
    let mut going = (*with_address(&service("going", 1, &[80], json!({})))).clone();
    going.metadata.deletion_timestamp = going.metadata.creation_timestamp.clone();
    assert!(concerns(&going), "others may have waited for it");
    assert_eq!(written(&plan(&going, &[], &nodes(), &[], &[])), Some(Value::Null));
    going.status = None;
    assert!(concerns(&going));
    assert_eq!(plan(&going, &[], &nodes(), &[], &[]), []);
}

fn with_ingress(service: &Service, ingress: Value) -> Arc<Service> {
    let status = serde_json::from_value(json!({"loadBalancer": {"ingress": ingress}})).unwrap();
    Arc::new(Service { status: Some(status), ..service.clone() })
}

fn with_address(service: &Service) -> Arc<Service> {
    with_ingress(service, json!([vip("192.0.2.3")]))
}

/// Two sites that each plan for their own Services by what they know of the others'.
struct Sites {
    homes: Vec<usize>,
    /// By site and Service; a site may never have heard of another's.
    known: [Vec<Option<Arc<Service>>>; 2],
}

impl Sites {
    fn new(services: &[(Arc<Service>, usize)]) -> Self {
        let at =
            |site: usize| services.iter().map(|(service, home)| (*home == site).then(|| service.clone())).collect();
        Self { homes: services.iter().map(|(_, home)| *home).collect(), known: [at(0), at(1)] }
    }

    /// The truth about a Service: its home's.
    fn at_home(&self, which: usize) -> Option<Arc<Service>> {
        self.known[self.homes[which]][which].clone()
    }

    /// What the home of a Service makes of it.
    fn planned(&self, which: usize) -> Option<Arc<Service>> {
        let service = self.at_home(which)?;
        let ours: Vec<_> = self.known[self.homes[which]].iter().flatten().cloned().collect();
        let actions = plan(&service, &ours, &nodes(), &[], &[]);
        Some(written(&actions).map_or_else(|| service.clone(), |ingress| with_ingress(&service, ingress)))
    }

    fn act(&mut self, which: usize) {
        self.known[self.homes[which]][which] = self.planned(which);
    }

    /// The other site hears of a Service.
    fn tell(&mut self, which: usize) {
        self.known[1 - self.homes[which]][which] = self.at_home(which);
    }

    /// Everybody hears of everything and acts at the same moment, until nothing changes.
    fn settle(&mut self) {
        for _ in 0..4 {
            let all = 0..self.homes.len();
            all.clone().for_each(|which| self.tell(which));
            let planned: Vec<_> = all.clone().map(|which| self.planned(which)).collect();
            if all.clone().all(|which| planned[which] == self.at_home(which)) {
                return;
            }
            all.zip(planned).for_each(|(which, service)| self.known[self.homes[which]][which] = service);
        }
        panic!("the sites' plans chase each other");
    }

    fn all(&self) -> Vec<Arc<Service>> {
        (0..self.homes.len()).filter_map(|which| self.at_home(which)).collect()
    }
}

/// The ports whose bits are set.
fn some_of(bits: u8) -> Vec<i32> {
    [80, 443, 8080].into_iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0).map(|(_, port)| port).collect()
}

/// Nobody shares a port, and who waits does so for one that is no younger and has addresses.
fn check(all: &[Arc<Service>]) {
    let share = |a: &Service, b: &Service| ports(a).iter().any(|port| ports(b).contains(port));
    let (serving, waiting): (Vec<_>, Vec<_>) = all.iter().partition(|service| has_addresses(service));
    for (i, one) in serving.iter().enumerate() {
        assert!(!serving[i + 1..].iter().any(|other| share(one, other)), "{serving:?}");
    }
    for service in waiting {
        let holder = serving.iter().find(|other| {
            other.creation_timestamp() <= service.creation_timestamp()
                && conflict(service, all, &[]).is_some_and(|text| text.ends_with(&format!("ns/{}'s", other.name_any())))
        });
        assert!(holder.is_some_and(|holder| share(holder, service)), "{service:?} waits for nobody");
    }
}

proptest! {
    /// Services made at two sites at once, which hear of each other in any order and when they have given addresses already.
    #[test]
    fn sites_that_met_agree_on_who_has_a_port(
        made in prop::collection::vec((0..3_u32, 1..8_u8, 0..2_usize), 1..6),
        steps in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..30),
        gone in any::<prop::sample::Index>(),
    ) {
        let services: Vec<_> = made.iter().enumerate().map(|(i, (second, wanted, home))| {
            (service(&format!("s{i}"), *second, &some_of(*wanted), json!({})), *home)
        }).collect();
        let mut sites = Sites::new(&services);
        for (which, hear) in steps {
            let which = which.index(services.len());
            if hear { sites.tell(which) } else { sites.act(which) }
        }
        sites.settle();
        check(&sites.all());
        let which = gone.index(services.len());
        sites.known.iter_mut().for_each(|known| known[which] = None);
        sites.settle();
        check(&sites.all());
    }

    /// Where no two are of the same second, what happened on the way makes no difference.
    #[test]
    fn by_age_alone_there_is_one_outcome(
        wanted in prop::collection::vec((1..8_u8, 0..2_usize), 1..6),
        steps in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..30),
    ) {
        let services: Vec<_> = wanted.iter().zip(0..).map(|((wanted, home), i)| {
            (service(&format!("s{}", 9 - i), i, &some_of(*wanted), json!({})), *home)
        }).collect();
        let (mut at_once, mut slowly) = (Sites::new(&services), Sites::new(&services));
        for (which, hear) in steps {
            let which = which.index(services.len());
            if hear { slowly.tell(which) } else { slowly.act(which) }
        }
        at_once.settle();
        slowly.settle();
        let outcome = |sites: &Sites| sites.all().iter().map(|service| ingress(service)).collect::<Vec<_>>();
        prop_assert_eq!(outcome(&at_once), outcome(&slowly));
        prop_assert!(has_addresses(&slowly.all()[0]), "the oldest");
    }
}
