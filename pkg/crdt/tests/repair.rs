//! Kinds stay valid after the merge of two valid edits.
mod copies;

use copies::{exchange, meet_at, pair_at, remove};
use serde_json::{Value, json};

fn object(api_version: &str, kind: &str, spec: Value) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "o", "uid": "u"}, "spec": spec})
}

/// What two concurrent edits of a spec become: the second is later.
fn meet(object: &Value, a: impl FnOnce(&mut Value), b: impl FnOnce(&mut Value)) -> Value {
    let key = b"/registry/things/default/o";
    let (merged, _) = meet_at(key, object, |value| a(&mut value["spec"]), |value| b(&mut value["spec"]));
    merged["spec"].clone()
}

fn deployment(pod: Value) -> Value {
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": pod});
    object("apps/v1", "Deployment", json!({"selector": {"matchLabels": {"app": "x"}}, "template": template}))
}

#[test]
fn recreate_has_no_rolling_update() {
    let mut object = deployment(json!({}));
    object["spec"]["strategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}});
    let spec = meet(
        &object,
        |a| a["strategy"]["rollingUpdate"] = json!({"maxSurge": 2, "maxUnavailable": 1}),
        |b| b["strategy"] = json!({"type": "Recreate"}),
    );
    assert_eq!(spec["strategy"], json!({"type": "Recreate"}));
    // Params made anew beside a change of the type.
    let mut object = deployment(json!({}));
    object["spec"]["strategy"] = json!({"type": "RollingUpdate"});
    let spec = meet(
        &object,
        |a| a["strategy"]["rollingUpdate"] = json!({"maxSurge": 2}),
        |b| b["strategy"]["type"] = "Recreate".into(),
    );
    assert_eq!(spec["strategy"], json!({"type": "Recreate"}));
}

#[test]
fn a_variable_has_a_value_or_a_source() {
    let pod = json!({"containers": [{"name": "c", "env": [{"name": "E"}]}]});
    let env = |spec: &mut Value, value: Value| spec["template"]["spec"]["containers"][0]["env"] = json!([value]);
    let source = json!({"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}});
    let value = json!({"name": "E", "value": "1"});
    let of = |spec: Value| spec["template"]["spec"]["containers"][0]["env"][0].clone();
    let merged = meet(&deployment(pod.clone()), |a| env(a, value.clone()), |b| env(b, source.clone()));
    assert_eq!(of(merged), source);
    let merged = meet(&deployment(pod.clone()), |a| env(a, source.clone()), |b| env(b, value.clone()));
    assert_eq!(of(merged), value);
    let secret = json!({"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}});
    let merged = meet(&deployment(pod), |a| env(a, source.clone()), |b| env(b, secret.clone()));
    assert_eq!(of(merged), secret);
}

#[test]
fn volumes_probes_and_handlers_have_one_source() {
    let pod = json!({"volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [{"name": "c", "livenessProbe": {"exec": {"command": ["a"]}, "periodSeconds": 5}}]});
    let merged = meet(
        &deployment(pod),
        |a| {
            let pod = &mut a["template"]["spec"];
            pod["volumes"] = json!([{"name": "v", "configMap": {"name": "m"}}]);
            pod["containers"][0]["livenessProbe"] = json!({"tcpSocket": {"port": 1}, "periodSeconds": 5});
        },
        |b| {
            let pod = &mut b["template"]["spec"];
            pod["volumes"] = json!([{"name": "v", "hostPath": {"path": "/p"}}]);
            pod["containers"][0]["livenessProbe"] = json!({"httpGet": {"port": 1}, "periodSeconds": 6});
        },
    );
    let pod = &merged["template"]["spec"];
    assert_eq!(pod["volumes"], json!([{"name": "v", "hostPath": {"path": "/p"}}]));
    assert_eq!(pod["containers"][0]["livenessProbe"], json!({"httpGet": {"port": 1}, "periodSeconds": 6}));
}

#[test]
fn a_mount_goes_with_its_volume() {
    let pod = json!({"volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "c"}]});
    let merged = meet(
        &deployment(pod),
        |a| remove(&mut a["template"]["spec"], "volumes"),
        |b| b["template"]["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]),
    );
    assert_eq!(merged["template"]["spec"], json!({"containers": [{"name": "c"}]}));
    let template =
        json!({"spec": {"containers": [{"name": "c", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]}});
    let claims = json!([{"metadata": {"name": "data"}}]);
    let set = object("apps/v1", "StatefulSet", json!({"template": template, "volumeClaimTemplates": claims}));
    assert_eq!(
        meet(&set, |a| a["replicas"] = 1.into(), |b| b["paused"] = true.into())["template"],
        set["spec"]["template"]
    );
}

#[test]
fn a_service_has_what_its_type_has() {
    let ports = |node_port: Option<u64>| match node_port {
        Some(port) => json!([{"port": 80, "protocol": "TCP", "nodePort": port}]),
        None => json!([{"port": 80, "protocol": "TCP"}]),
    };
    let service = |kind: &str, port: Option<u64>| {
        let spec = json!({"type": kind, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": ports(port)});
        object("v1", "Service", spec)
    };
    let spec = meet(
        &service("NodePort", Some(30000)),
        |a| a["ports"] = ports(Some(30001)),
        |b| (b["type"], b["ports"]) = ("ClusterIP".into(), ports(None)),
    );
    assert_eq!((&spec["type"], &spec["ports"]), (&"ClusterIP".into(), &ports(None)));
    let spec = meet(
        &service("ClusterIP", None),
        |a| (a["type"], a["ports"]) = ("NodePort".into(), ports(Some(30000))),
        |b| *b = json!({"type": "ExternalName", "externalName": "e.example", "ports": ports(None)}),
    );
    assert_eq!(spec, json!({"type": "ExternalName", "externalName": "e.example", "ports": ports(None)}));
}

#[test]
fn cluster_ip_is_the_first_of_cluster_ips() {
    let spec = json!({"type": "ExternalName", "externalName": "e", "ports": [{"port": 80, "protocol": "TCP"}]});
    let give = |ip: &'static str| {
        move |spec: &mut Value| {
            spec["type"] = "ClusterIP".into();
            (spec["clusterIP"], spec["clusterIPs"]) = (ip.into(), json!([ip]));
        }
    };
    let spec = meet(&object("v1", "Service", spec), give("10.0.0.1"), give("10.1.0.1"));
    assert_eq!((&spec["clusterIP"], &spec["clusterIPs"]), (&"10.1.0.1".into(), &json!(["10.1.0.1"])));
    let dual =
        json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"]});
    let spec = meet(
        &object("v1", "Service", dual),
        |a| (a["clusterIP"], a["clusterIPs"]) = ("None".into(), json!(["None"])),
        |b| (b["clusterIPs"], b["ipFamilies"]) = (json!(["10.0.0.1", "fd00::1"]), json!(["IPv4", "IPv6"])),
    );
    assert_eq!((&spec["clusterIP"], &spec["clusterIPs"]), (&"10.0.0.1".into(), &json!(["10.0.0.1", "fd00::1"])));
}

#[test]
fn a_node_port_is_one_ports() {
    let spec = json!({"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": []});
    let add = |port: u64| {
        move |spec: &mut Value| {
            let new = json!({"name": format!("p{port}"), "port": port, "protocol": "TCP", "nodePort": 30000});
            spec["ports"].as_array_mut().unwrap().push(new);
        }
    };
    let spec = meet(&object("v1", "Service", spec), add(80), add(81));
    let of = |at: usize| (&spec["ports"][at]["port"], spec["ports"][at].get("nodePort"));
    assert_eq!((of(0), of(1)), ((&80.into(), Some(&30000.into())), (&81.into(), None)));
}

#[test]
fn replicas_have_bounds_in_order() {
    let bounds = json!({"minReplicas": 2, "maxReplicas": 5});
    let (low, high) =
        (|spec: &mut Value| spec["maxReplicas"] = 3.into(), |spec: &mut Value| spec["minReplicas"] = 4.into());
    let scaler = object("autoscaling/v2", "HorizontalPodAutoscaler", bounds);
    assert_eq!(meet(&scaler, low, high), json!({"minReplicas": 4, "maxReplicas": 4}));
    assert_eq!(meet(&scaler, high, low), json!({"minReplicas": 3, "maxReplicas": 3}));
}

#[test]
fn a_budget_has_one_bound() {
    let budget = object("policy/v1", "PodDisruptionBudget", json!({"selector": {}}));
    let spec = meet(&budget, |a| a["minAvailable"] = 1.into(), |b| b["maxUnavailable"] = 1.into());
    assert_eq!(spec, json!({"selector": {}, "maxUnavailable": 1}));
}

#[test]
fn a_key_is_text_or_binary() {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "uid": "u"}});
    let (merged, _) = meet_at(
        b"/registry/configmaps/default/m",
        &map,
        |a| a["binaryData"] = json!({"k": "AA==", "b": "AA=="}),
        |b| b["data"] = json!({"k": "text"}),
    );
    assert_eq!((&merged["data"], &merged["binaryData"]), (&json!({"k": "text"}), &json!({"b": "AA=="})));
}

#[test]
fn a_node_has_one_range_a_family() {
    let give = |cidr: &'static str| move |spec: &mut Value| *spec = json!({"podCIDR": cidr, "podCIDRs": [cidr]});
    let spec = meet(&object("v1", "Node", json!({})), give("10.42.0.0/24"), give("10.42.9.0/24"));
    assert_eq!(spec, json!({"podCIDR": "10.42.9.0/24", "podCIDRs": ["10.42.9.0/24"]}));
}

#[test]
fn a_template_has_its_selectors_labels() {
    let spec = json!({"selector": {"app": "x"}, "template": {"metadata": {"labels": {"app": "x", "a": "1"}}}});
    let spec = meet(
        &object("v1", "ReplicationController", spec),
        |a| (a["selector"], a["template"]["metadata"]["labels"]) = (json!({"a": "1"}), json!({"a": "1"})),
        |b| remove(&mut b["template"]["metadata"]["labels"], "a"),
    );
    assert_eq!(spec["template"]["metadata"]["labels"]["a"], "1");
}

#[test]
fn a_manager_whose_value_lost_owns_it_no_longer() {
    let key = b"/registry/deployments/default/o";
    let claim = |manager: &str, image: &str| {
        let (manager, image) = (manager.to_owned(), image.to_owned());
        move |value: &mut Value| {
            value["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
            let container = json!({"k:{\"name\":\"c\"}": {"f:image": {}}});
            let fields = json!({"f:spec": {"f:template": {"f:spec": {"f:containers": container}}}});
            let mut fields = fields;
            fields["f:spec"][format!("f:{manager}")] = json!({});
            value["metadata"]["managedFields"] =
                json!([{"manager": manager, "operation": "Apply", "apiVersion": "apps/v1", "fieldsV1": fields}]);
        }
    };
    let (mut one, mut two) = pair_at(key, &deployment(json!({"containers": [{"name": "c", "image": "0"}]})));
    let (a, b) = (one.edit(20, claim("early", "1")), two.edit(21, claim("late", "2")));
    let (merged, lost, _) = exchange(&mut one, &mut two, &[a], &[b]);
    assert_eq!(lost.len(), 1);
    let managers = merged["metadata"]["managedFields"].as_array().unwrap();
    let owns = |manager: &str| managers.iter().find(|entry| entry["manager"] == manager).unwrap()["fieldsV1"].clone();
    assert_eq!(owns("early"), json!({"f:spec": {"f:early": {}}}));
    assert!(owns("late").to_string().contains("f:image"));
}

#[test]
fn what_one_write_brought_is_left_alone() {
    let pod = json!({"containers": [{"name": "c", "env": [{"name": "E", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}]});
    let (one, _) = pair_at(b"/registry/deployments/default/o", &deployment(pod.clone()));
    assert_eq!(one.value()["spec"]["template"]["spec"], pod);
}
