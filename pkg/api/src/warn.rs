//! What is allowed but most likely not meant, or goes out of use: texts for `Warning` headers
//! (`GetWarningsFor…` in `k8s.io/kubernetes/pkg/api`).
use crate::GroupVersionKind;
use crate::quantity::Quantity;
use crate::validate::field::{Path, Tree};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What there is to warn of when a defaulted object is created, or changed from `old`.
pub fn warnings(kind: &GroupVersionKind, new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    let generation = |object: &Value| object["metadata"].int("generation");
    if kind.group != "discovery.k8s.io" && kind.kind != "Service" {
        // Nobody changes pods by hand, and a template that did not change was warned of before.
        let told = |old: &Value| kind.kind == "Pod" || generation(new) == generation(old);
        if old.is_some_and(told) {
            return out;
        }
    }
    let spec = Path::field("spec");
    let template = spec.child("template");
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => pod(&mut out, &Path::root(), new),
        ("", "PodTemplate") => pod(&mut out, &Path::field("template"), &new["template"]),
        ("", "ReplicationController") | ("apps", "Deployment" | "ReplicaSet" | "DaemonSet") | ("batch", "Job") => {
            pod(&mut out, &template, &new["spec"]["template"]);
        }
        ("apps", "StatefulSet") => stateful_set(&mut out, new),
        ("batch", "CronJob") => {
            let job = spec.child("jobTemplate");
            let job = job.child("spec");
            pod(&mut out, &job.child("template"), &new["spec"]["jobTemplate"]["spec"]["template"]);
        }
        ("", "Service") => service(&mut out, new, old),
        ("discovery.k8s.io", "EndpointSlice") if new.text("addressType") == "FQDN" => {
            out.push("spec.addressType: FQDN endpoints are deprecated".into());
        }
        _ => {}
    }
    out
}

fn stateful_set(out: &mut Vec<String>, object: &Value) {
    let spec = Path::field("spec");
    pod(out, &spec.child("template"), &object["spec"]["template"]);
    if object["spec"].int("revisionHistoryLimit").is_some_and(|limit| limit < 0) {
        let text = "a negative value retains all historical revisions; a value >= 0 is recommended";
        out.push(format!("spec.revisionHistoryLimit: {text}"));
    }
}

fn service(out: &mut Vec<String>, new: &Value, old: Option<&Value>) {
    let (spec, none) = (&new["spec"], Value::Null);
    let before = old.map_or(&none, |old| &old["spec"]);
    if spec.count("externalIPs") > 0 && before.count("externalIPs") == 0 {
        out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".into());
    }
    if spec.text("trafficDistribution") == "PreferClose" && before.text("trafficDistribution") != "PreferClose" {
        out.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".into());
    }
}

/// Volume sources that went, and what upstream says of them.
const OLD_VOLUMES: &[(&str, &str)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const OLD_ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];
/// Labels of nodes that have another name now.
const OLD_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
];

fn old_label(key: &str) -> Option<&'static str> {
    OLD_LABELS.iter().find(|(label, _)| *label == key).map(|(_, text)| *text)
}

/// A pod or a pod template at `path`.
fn pod(out: &mut Vec<String>, path: &Path<'_>, pod: &Value) {
    let (at, spec) = (path.child("spec"), &pod["spec"]);
    let selector = at.child("nodeSelector");
    for (key, _) in spec.entries("nodeSelector") {
        out.extend(old_label(key).map(|text| format!("{}: {text}", selector.key(key))));
    }
    spread(out, &at.child("topologySpreadConstraints"), spec);
    let meta = path.child("metadata");
    let annotations = meta.child("annotations");
    for (key, text) in OLD_ANNOTATIONS.iter().filter(|(key, _)| pod["metadata"]["annotations"].has(key)) {
        out.push(format!("{}: {text}", annotations.key(key)));
    }
    let volumes = at.child("volumes");
    for (i, volume) in spec.list("volumes").iter().enumerate() {
        for (name, text) in OLD_VOLUMES.iter().filter(|(name, _)| volume.has(name)) {
            out.push(format!("{}: {text}", volumes.index(i).child(name)));
        }
    }
    doubles(out, &at.child("hostAliases"), spec.list("hostAliases"), "ip");
    let secrets = at.child("imagePullSecrets");
    doubles(out, &secrets, spec.list("imagePullSecrets"), "name");
    for (i, _) in spec.list("imagePullSecrets").iter().enumerate().filter(|(_, secret)| secret.text("name").is_empty())
    {
        out.push(format!("{}: invalid empty name \"\"", secrets.index(i).child("name")));
    }
    fractions(out, &at.child("overhead"), &spec["overhead"]);
    containers(out, &at, spec);
    for kind in ["podAffinity", "podAntiAffinity"] {
        let affinity = at.child("affinity");
        affinity_terms(out, &affinity.child(kind), &spec["affinity"][kind]);
    }
}

fn spread(out: &mut Vec<String>, path: &Path<'_>, spec: &Value) {
    for (i, constraint) in spec.list("topologySpreadConstraints").iter().enumerate() {
        let (at, key) = (path.index(i), constraint.text("topologyKey"));
        out.extend(old_label(key).map(|text| format!("{}: {key} is {text}", at.child("topologyKey"))));
        null_selector(out, &at, constraint);
    }
}

fn null_selector(out: &mut Vec<String>, path: &Path<'_>, of: &Value) {
    if !of.has("labelSelector") {
        out.push(format!("{}: a null labelSelector results in matching no pod", path.child("labelSelector")));
    }
}

fn affinity_terms(out: &mut Vec<String>, path: &Path<'_>, affinity: &Value) {
    let (required, preferred) =
        ("requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution");
    for (i, term) in affinity.list(required).iter().enumerate() {
        null_selector(out, &path.child(required).index(i), term);
    }
    for (i, weighted) in affinity.list(preferred).iter().enumerate() {
        let list = path.child(preferred);
        null_selector(out, &list.index(i).child("podAffinityTerm"), &weighted["podAffinityTerm"]);
    }
}

fn doubles(out: &mut Vec<String>, path: &Path<'_>, items: &[Value], field: &str) {
    let mut seen = BTreeSet::new();
    for (i, item) in items.iter().enumerate() {
        if !seen.insert(item.text(field)) {
            out.push(format!("{}: duplicate {field} {:?}", path.index(i).child(field), item.text(field)));
        }
    }
}

/// Half a byte can't be had.
fn fractions(out: &mut Vec<String>, path: &Path<'_>, amounts: &Value) {
    for name in ["memory", "ephemeral-storage"].iter().filter(|name| amounts.has(name)) {
        let whole = Quantity::from_json(&amounts[*name]).is_ok_and(|amount| amount.milli_value() % 1000 == 0);
        if !whole {
            let text = amounts.text(name);
            out.push(format!("{}: fractional byte value {text:?} is invalid, must be an integer", path.key(name)));
        }
    }
}

const CONTAINERS: &[&str] = &["initContainers", "containers", "ephemeralContainers"];

fn containers(out: &mut Vec<String>, path: &Path<'_>, spec: &Value) {
    for list in CONTAINERS {
        let at = path.child(list);
        for (i, container) in spec.list(list).iter().enumerate() {
            let at = at.index(i);
            let resources = at.child("resources");
            for kind in ["limits", "requests"] {
                fractions(out, &resources.child(kind), &container["resources"][kind]);
            }
            hidden_variables(out, &at.child("env"), container.list("env"));
        }
    }
    let mut ports: BTreeMap<(i64, &str), Vec<(String, &Value)>> = BTreeMap::new();
    each_port(path, spec, |at, port| {
        let text = at.to_string();
        let same = ports.entry((port.int("containerPort").unwrap_or(0), port.text("protocol"))).or_default();
        out.extend(same.iter().filter_map(|(place, other)| {
            overlap(port, other).map(|how| format!("{text}: {how} port definition with {place}"))
        }));
        same.push((text, port));
    });
    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    each_port(path, spec, |at, port| {
        match (port.text("name"), names.get(port.text("name"))) {
        ("", _) => {}
        (name, Some(first)) => out.push(format!(
            "{at}: duplicate port name {name:?} with {first}, services and probes that select ports by name will use {first}"
        )),
        (name, None) => drop(names.insert(name, at.to_string())),
    }
    });
}

fn each_port<'v>(path: &Path<'_>, spec: &'v Value, mut look: impl FnMut(&Path<'_>, &'v Value)) {
    for list in CONTAINERS {
        let at = path.child(list);
        for (i, container) in spec.list(list).iter().enumerate() {
            let ports = at.index(i);
            for (j, port) in container.list("ports").iter().enumerate() {
                look(&ports.child("ports").index(j), port);
            }
        }
    }
}

/// How two ports of one number and protocol stand in each other's way.
fn overlap(port: &Value, other: &Value) -> Option<&'static str> {
    let [(ip, host), (other_ip, other_host)] =
        [port, other].map(|p| (p.text("hostIP"), p.int("hostPort").unwrap_or(0)));
    if (ip, host) == (other_ip, other_host) {
        Some("duplicate")
    } else if host == 0 || other_host == 0 {
        Some("overlapping")
    } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
        Some("dangerously ambiguous")
    } else {
        None
    }
}

/// A variable given twice is fine only where the later builds on the earlier.
fn hidden_variables(out: &mut Vec<String>, path: &Path<'_>, env: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, variable) in env.iter().enumerate() {
        let (name, value) = (variable.text("name"), variable.text("value"));
        let reference = format!("$({name})");
        let builds_on_it = !variable.has("valueFrom") && value != reference && value.contains(&reference);
        if !seen.insert(name) && !builds_on_it {
            let text = "which may be dropped when using apply";
            out.push(format!("{}: hides previous definition of {name:?}, {text}", path.index(i)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of_pod(spec: Value) -> Vec<String> {
        let kind = GroupVersionKind::new("", "v1", "Pod");
        warnings(&kind, &json!({"spec": spec}), None)
    }

    #[test]
    fn ports_and_variables_given_twice() {
        let port = |name: &str| json!({"name": name, "containerPort": 80, "protocol": "TCP"});
        let env = json!([{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}, {"name": "A", "value": "3"}]);
        let found = of_pod(json!({"containers": [{"ports": [port("a"), port("a")], "env": env}]}));
        assert_eq!(
            found,
            [
                "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
                "spec.containers[0].ports[1]: duplicate port name \"a\" with spec.containers[0].ports[0], services and \
                 probes that select ports by name will use spec.containers[0].ports[0]"
            ]
        );
    }

    #[test]
    fn what_goes_out_of_use_or_can_not_be() {
        let found = of_pod(json!({
            "nodeSelector": {"beta.kubernetes.io/os": "linux"}, "volumes": [{"rbd": {}}],
            "topologySpreadConstraints": [{"topologyKey": "zone"}],
            "containers": [{"resources": {"limits": {"memory": "100m"}}}],
        }));
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[3].starts_with("spec.containers[0].resources.limits[memory]: fractional byte value \"100m\""));
        let kind = GroupVersionKind::new("", "v1", "Service");
        let service = json!({"spec": {"externalIPs": ["192.0.2.1"]}});
        assert_eq!(warnings(&kind, &service, None).len(), 1);
        assert_eq!(warnings(&kind, &service, Some(&service)), [""; 0], "who has it knows");
    }

    #[test]
    fn templates_have_paths_of_their_own() {
        let kind = GroupVersionKind::new("batch", "v1", "CronJob");
        let template = json!({"spec": {"volumes": [{"name": "v", "flocker": {}}]}});
        let found = warnings(&kind, &json!({"spec": {"jobTemplate": {"spec": {"template": template}}}}), None);
        assert_eq!(
            found,
            ["spec.jobTemplate.spec.template.spec.volumes[0].flocker: deprecated in v1.22, non-functional in v1.25+"]
        );
    }
}
