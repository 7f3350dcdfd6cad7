use super::*;
use crate::proxy::observe::SERVICE_NAME;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

fn zone() -> Zone {
    let networks = ["10.42.0.0/16", "10.43.0.0/16"].map(|cidr| cidr.parse().expect("cidr")).to_vec();
    Zone::new("cluster.local", Ipv4Addr::new(10, 43, 0, 10), networks).expect("zone")
}

fn service(name: &str, spec: Value) -> Service {
    let service = json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
    serde_json::from_value(service).expect("service")
}

fn slice(service: &str, name: &str, endpoints: Value) -> EndpointSlice {
    let slice = json!({
        "metadata": {"namespace": "default", "name": name, "labels": {SERVICE_NAME: service}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
    });
    serde_json::from_value(slice).expect("slice")
}

fn index() -> Index {
    let mut index = Index::complete([], []);
    let http = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    index.apply_service(&service("web", json!({"clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5"], "ports": http})));
    index.apply_slice(
        None,
        &slice(
            "db",
            "db-1",
            json!([
                {"addresses": ["10.42.0.7"], "hostname": "db-0"},
                {"addresses": ["10.42.0.8"]},
                {"addresses": ["10.42.0.9"], "conditions": {"ready": false}},
            ]),
        ),
    );
    index.apply_service(&service("db", json!({"clusterIP": "None"})));
    index.apply_service(&service("out", json!({"type": "ExternalName", "externalName": "example.com"})));
    index
}

fn ask(index: &Index, name: &str, kind: RecordType) -> Answer {
    zone().answer(index, &Name::from_ascii(name).expect("name"), kind)
}

/// The data of the answers, or the name of what there is instead.
fn data(name: &str, kind: RecordType) -> Vec<String> {
    match ask(&index(), name, kind) {
        Answer::Records { answers, .. } => answers.iter().map(|record| record.data.to_string()).collect(),
        Answer::Alias { target, .. } => vec![format!("alias {target}")],
        other => vec![format!("{other:?}")],
    }
}

#[test]
fn a_service_by_name_in_any_case() {
    assert_eq!(data("web.default.svc.cluster.local.", RecordType::A), ["10.43.0.5"]);
    assert_eq!(data("WEB.default.SVC.cluster.LOCAL.", RecordType::A), ["10.43.0.5"]);
    assert_eq!(data("web.default.svc.cluster.local.", RecordType::AAAA), ["NoData"]);
    assert_eq!(data("web.default.svc.cluster.local.", RecordType::MX), ["NoData"]);
}

#[test]
fn what_does_not_exist_and_what_only_has_names_below() {
    for name in [
        "no.default.svc.cluster.local.",
        "web.other.svc.cluster.local.",
        "other.svc.cluster.local.",
        "x.cluster.local.",
    ] {
        assert_eq!(data(name, RecordType::A), ["NxDomain"], "{name}");
    }
    for name in ["default.svc.cluster.local.", "svc.cluster.local.", "cluster.local."] {
        assert_eq!(data(name, RecordType::A), ["NoData"], "{name}");
    }
    for name in ["example.com.", "web.default.svc.", "cluster.locals.", "."] {
        assert_eq!(data(name, RecordType::A), ["NotOurs"], "{name}");
    }
}

#[test]
fn a_headless_service_is_its_ready_members() {
    assert_eq!(data("db.default.svc.cluster.local.", RecordType::A), ["10.42.0.7", "10.42.0.8"]);
    assert_eq!(data("db-0.db.default.svc.cluster.local.", RecordType::A), ["10.42.0.7"]);
    assert_eq!(data("10-42-0-8.db.default.svc.cluster.local.", RecordType::A), ["10.42.0.8"]);
    assert_eq!(data("10-42-0-9.db.default.svc.cluster.local.", RecordType::A), ["NxDomain"]);
}

#[test]
fn ports_have_srv_records_with_addresses_beside_them() {
    assert_eq!(
        data("_http._tcp.web.default.svc.cluster.local.", RecordType::SRV),
        ["0 100 80 web.default.svc.cluster.local."]
    );
    assert_eq!(data("_http._udp.web.default.svc.cluster.local.", RecordType::SRV), ["NxDomain"]);
    assert_eq!(data("_http._tcp.web.default.svc.cluster.local.", RecordType::A), ["NoData"]);
    let name = "_sql._tcp.db.default.svc.cluster.local.";
    let golden = ["0 50 5432 db-0.db.default.svc.cluster.local.", "0 50 5432 10-42-0-8.db.default.svc.cluster.local."];
    assert_eq!(data(name, RecordType::SRV).len(), 2);
    assert!(golden.iter().all(|line| data(name, RecordType::SRV).contains(&(*line).to_owned())));
    let Answer::Records { additionals, .. } = ask(&index(), name, RecordType::SRV) else { panic!("records") };
    assert_eq!(additionals.len(), 2);
}

#[test]
fn pods_by_address_in_namespaces_that_exist() {
    assert_eq!(data("10-42-0-99.default.pod.cluster.local.", RecordType::A), ["10.42.0.99"]);
    assert_eq!(data("10-42-0-99.other.pod.cluster.local.", RecordType::A), ["NxDomain"]);
    assert_eq!(data("nonsense.default.pod.cluster.local.", RecordType::A), ["NxDomain"]);
}

#[test]
fn reverse_names() {
    assert_eq!(data("5.0.43.10.in-addr.arpa.", RecordType::PTR), ["web.default.svc.cluster.local."]);
    assert_eq!(data("7.0.42.10.in-addr.arpa.", RecordType::PTR), ["db-0.db.default.svc.cluster.local."]);
    assert_eq!(data("77.0.42.10.in-addr.arpa.", RecordType::PTR), ["NxDomain"]);
    assert_eq!(data("1.2.0.192.in-addr.arpa.", RecordType::PTR), ["NotOurs"]);
    assert_eq!(data("5.0.43.10.in-addr.arpa.", RecordType::A), ["NoData"]);
}

#[test]
fn external_names_are_aliases() {
    assert_eq!(data("out.default.svc.cluster.local.", RecordType::A), ["alias example.com."]);
    assert_eq!(data("x.out.default.svc.cluster.local.", RecordType::A), ["NxDomain"]);
}

#[test]
fn the_zone_itself() {
    assert_eq!(data("cluster.local.", RecordType::NS), ["ns.dns.cluster.local."]);
    assert_eq!(data("ns.dns.cluster.local.", RecordType::A), ["10.43.0.10"]);
    assert_eq!(data("dns-version.cluster.local.", RecordType::TXT), ["1.1.0"]);
    assert!(data("cluster.local.", RecordType::SOA)[0].starts_with("ns.dns.cluster.local. hostmaster.cluster.local."));
}

#[test]
fn nothing_is_denied_before_everything_is_known() {
    let mut index = Index::default();
    index.apply_service(&service("web", json!({"clusterIP": "10.43.0.5"})));
    assert!(matches!(ask(&index, "web.default.svc.cluster.local.", RecordType::A), Answer::Records { .. }));
    assert_eq!(ask(&index, "no.default.svc.cluster.local.", RecordType::A), Answer::Unknown);
    assert_eq!(ask(&index, "77.0.42.10.in-addr.arpa.", RecordType::PTR), Answer::Unknown);
    assert_eq!(ask(&index, "example.com.", RecordType::A), Answer::NotOurs);
}

#[test]
fn changes_leave_nothing_behind() {
    let mut index = index();
    index.delete_service(&service("web", json!({})));
    assert_eq!(ask(&index, "web.default.svc.cluster.local.", RecordType::A), Answer::NxDomain);
    assert_eq!(ask(&index, "5.0.43.10.in-addr.arpa.", RecordType::PTR), Answer::NxDomain);
    let (old, new) = (slice("db", "db-1", json!([])), slice("db", "db-1", json!([{"addresses": ["10.42.0.8"]}])));
    index.apply_slice(Some(&old), &new);
    assert_eq!(ask(&index, "7.0.42.10.in-addr.arpa.", RecordType::PTR), Answer::NxDomain);
    assert_eq!(ask(&index, "db-0.db.default.svc.cluster.local.", RecordType::A), Answer::NxDomain);
    index.delete_slice(&new);
    assert_eq!(ask(&index, "db.default.svc.cluster.local.", RecordType::A), Answer::NoData);
    // From headless to one with an address, and back: its slices are still known.
    index.apply_slice(None, &new);
    index.apply_service(&service("db", json!({"clusterIP": "10.43.0.6", "ports": []})));
    assert_eq!(ask(&index, "8.0.42.10.in-addr.arpa.", RecordType::PTR), Answer::NxDomain);
    index.apply_service(&service("db", json!({"clusterIP": "None"})));
    assert!(matches!(ask(&index, "db.default.svc.cluster.local.", RecordType::A), Answer::Records { .. }));
}
