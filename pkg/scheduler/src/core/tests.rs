//! Whole decisions.
use super::*;
use crate::plugins;
use crate::storage::Step;
use crate::testing::{node, pod_object};
use kube::ResourceExt;
use serde_json::{Value, json};
use std::collections::HashMap;

fn core() -> Core {
    Core::new("default-scheduler", plugins::default(), 7)
}

/// Decides until nothing is due; `pod -> node`, or the message.
fn run(core: &mut Core, now_ms: u64) -> HashMap<String, String> {
    let decide = || {
        Some(match core.next(now_ms)? {
            Decision::Bind { pod, node, steps } => {
                core.bound(&pod.uid);
                (pod.name.to_string(), format!("{node}{}", told(&steps)))
            }
            Decision::Unschedulable { pod, message, .. } => (pod.name.to_string(), message),
            Decision::HandOver { pod, handover } => (pod.name.to_string(), format!("to site {}", handover.site)),
            Decision::Preempt { pod, preemption, .. } => {
                let victims: Vec<&str> = preemption.victims.iter().map(|victim| &*victim.name).collect();
                (pod.name.to_string(), format!("{} without {}", preemption.node, victims.join(" ")))
            }
        })
    };
    std::iter::from_fn(decide).collect()
}

/// What has to happen to a pod's claims, a word each.
fn told(steps: &[Step]) -> String {
    let one = |step: &Step| match step {
        Step::Bind { claim, volume } => format!(" {}={}", claim.name_any(), volume.name_any()),
        Step::Provision { claim } => format!(" {}=new", claim.name_any()),
        Step::Wait { claim } => format!(" {}=?", claim.name_any()),
    };
    steps.iter().map(one).collect()
}

fn pending(core: &mut Core, name: &str, requests: Value, extra: Value) {
    core.pod_changed(pod_object(name, requests, extra), 0);
}

#[test]
fn without_nodes() {
    let mut core = core();
    pending(&mut core, "p", json!({}), json!({}));
    assert_eq!(run(&mut core, 0)["p"], "no nodes available to schedule pods");
    core.node_changed(node("n1", json!({})));
    assert!(run(&mut core, 500).is_empty(), "it backs off first");
    assert_eq!(run(&mut core, 1_000)["p"], "n1");
}

#[test]
fn the_message_counts_reasons() {
    let mut core = core();
    core.node_changed(node("n1", json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})));
    core.node_changed(node("n2", json!({"status": {"allocatable": {"cpu": "1"}}})));
    core.node_changed(node("n3", json!({"spec": {"unschedulable": true}})));
    pending(&mut core, "p", json!({"cpu": "2"}), json!({}));
    assert_eq!(
        run(&mut core, 0)["p"],
        "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. \
         preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    );
}

#[test]
fn room_is_counted_at_once_and_given_back() {
    let mut core = core();
    core.node_changed(node("n1", json!({})));
    for name in ["a", "b", "c"] {
        pending(&mut core, name, json!({"cpu": "2"}), json!({}));
    }
    let decided = run(&mut core, 0);
    assert_eq!((decided["a"].as_str(), decided["b"].as_str()), ("n1", "n1"));
    assert!(decided["c"].contains("1 Insufficient cpu"), "{}", decided["c"]);
    assert!(decided["c"].contains("1 No preemption victims found for incoming pod"), "{}", decided["c"]);
    let placed = json!({"spec": {"nodeName": "n1"}});
    core.pod_changed(pod_object("a", json!({"cpu": "2"}), placed), 2_000);
    assert!(run(&mut core, 2_000).is_empty(), "a pod that came helps nobody");
    core.pod_gone("a");
    assert_eq!(run(&mut core, 2_000)["c"], "n1");
}

#[test]
fn a_pod_that_ended_gives_its_room_back() {
    let mut core = core();
    core.node_changed(node("n1", json!({})));
    let on_node = |phase: &str| json!({"spec": {"nodeName": "n1"}, "status": {"phase": phase}});
    core.pod_changed(pod_object("a", json!({"cpu": "3"}), on_node("Running")), 0);
    pending(&mut core, "b", json!({"cpu": "3"}), json!({}));
    assert!(run(&mut core, 0)["b"].contains("Insufficient cpu"));
    core.pod_changed(pod_object("a", json!({"cpu": "3"}), on_node("Succeeded")), 0);
    assert_eq!(run(&mut core, 1_000)["b"], "n1");
}

#[test]
fn a_failed_binding_is_taken_back() {
    let mut core = core();
    core.node_changed(node("n1", json!({})));
    pending(&mut core, "p", json!({"cpu": "3"}), json!({}));
    let Some(Decision::Bind { pod, .. }) = core.next(0) else { panic!("it fits") };
    assert_eq!(core.cluster().node("n1").unwrap().requested.cpu_milli, 3000);
    core.bind_failed(&pod.uid, &[], false, 0);
    assert_eq!(core.cluster().node("n1").unwrap().requested.cpu_milli, 0);
    assert!(core.next(500).is_none());
    assert!(matches!(core.next(1_000), Some(Decision::Bind { .. })));
    core.bind_failed(&pod.uid, &[], true, 1_000);
    assert!(core.next(60_000).is_none());
    assert_eq!(core.waiting(), 0);
}

#[test]
fn other_schedulers_pods_and_dying_ones_are_left_alone() {
    let mut core = core();
    core.node_changed(node("n1", json!({})));
    pending(&mut core, "other", json!({}), json!({"spec": {"schedulerName": "mine"}}));
    pending(&mut core, "dying", json!({}), json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    assert!(run(&mut core, 0).is_empty());
    core.pod_changed(
        pod_object("other", json!({"cpu": "4"}), json!({"spec": {"schedulerName": "mine", "nodeName": "n1"}})),
        0,
    );
    pending(&mut core, "p", json!({"cpu": "1"}), json!({}));
    assert!(run(&mut core, 0)["p"].contains("Insufficient cpu"));
}

#[test]
fn selectors_affinity_and_ports() {
    let mut core = core();
    core.node_changed(node("n1", json!({"metadata": {"labels": {"disk": "ssd"}}})));
    core.node_changed(node("n2", json!({"metadata": {"labels": {"disk": "hdd"}}})));
    pending(&mut core, "ssd", json!({}), json!({"spec": {"nodeSelector": {"disk": "ssd"}}}));
    pending(&mut core, "none", json!({}), json!({"spec": {"nodeSelector": {"disk": "tape"}}}));
    let prefer = json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 100, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["hdd"]}]}}]}}}});
    pending(&mut core, "prefers", json!({}), prefer);
    let decided = run(&mut core, 0);
    assert_eq!((decided["ssd"].as_str(), decided["prefers"].as_str()), ("n1", "n2"));
    assert!(
        decided["none"].starts_with("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.")
    );

    let port = json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}});
    for name in ["p1", "p2", "p3"] {
        pending(&mut core, name, json!({}), port.clone());
    }
    let decided = run(&mut core, 0);
    let mut nodes = [decided["p1"].as_str(), decided["p2"].as_str()];
    nodes.sort_unstable();
    assert_eq!(nodes, ["n1", "n2"]);
    assert!(decided["p3"].contains("2 node(s) didn't have free ports for the requested pod ports"));
}

#[test]
fn pods_that_name_their_nodes() {
    let named = |name: &str| {
        json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]}}}}})
    };
    let mut core = core();
    for name in ["n1", "n2", "n3"] {
        core.node_changed(node(name, json!({})));
    }
    pending(&mut core, "d2", json!({}), named("n2"));
    pending(&mut core, "d9", json!({}), named("n9"));
    pending(&mut core, "big", json!({"cpu": "64"}), named("n1"));
    let decided = run(&mut core, 0);
    assert_eq!(decided["d2"], "n2");
    assert!(decided["d9"].starts_with("0/3 nodes are available: 3 node(s) didn't satisfy plugin(s) [NodeAffinity]."));
    assert!(decided["big"].starts_with(
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    ));
}

#[test]
fn siblings_spread() {
    let mut core = core();
    for i in 0..5 {
        core.node_changed(node(&format!("n{i}"), json!({})));
    }
    let owned = json!({"metadata": {"ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]}});
    for i in 0..10 {
        pending(&mut core, &format!("p{i}"), json!({"cpu": "1m"}), owned.clone());
    }
    let mut counts: HashMap<String, usize> = HashMap::new();
    for node in run(&mut core, 0).into_values() {
        *counts.entry(node).or_default() += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [2; 5]);
}

#[test]
fn prefer_no_schedule_is_a_preference() {
    let mut core = core();
    core.node_changed(node("n1", json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}})));
    core.node_changed(node("n2", json!({})));
    pending(&mut core, "p", json!({}), json!({}));
    assert_eq!(run(&mut core, 0)["p"], "n2");
    core.node_gone("n2");
    pending(&mut core, "q", json!({}), json!({}));
    assert_eq!(run(&mut core, 0)["q"], "n1");
}

#[test]
fn a_removed_taint_wakes() {
    let mut core = core();
    core.node_changed(node("n1", json!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}})));
    pending(&mut core, "p", json!({}), json!({}));
    run(&mut core, 0);
    core.node_changed(node(
        "n1",
        json!({"status": {"conditions": []}, "spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}}),
    ));
    assert!(run(&mut core, 20_000).is_empty(), "a heartbeat wakes nobody");
    core.node_changed(node("n1", json!({})));
    assert_eq!(run(&mut core, 20_000)["p"], "n1");
}

#[test]
fn resync_forgets_what_is_gone() {
    let mut core = core();
    core.node_changed(node("n1", json!({})));
    core.node_changed(node("n2", json!({})));
    core.pod_changed(pod_object("a", json!({"cpu": "1"}), json!({"spec": {"nodeName": "n1"}})), 0);
    pending(&mut core, "w", json!({"cpu": "64"}), json!({}));
    core.resync(vec![pod_object("b", json!({"cpu": "1"}), json!({}))], vec![node("n1", json!({}))], 0);
    assert_eq!((core.cluster().len(), core.waiting()), (1, 1));
    assert_eq!(core.cluster().node("n1").unwrap().requested.cpu_milli, 0);
    assert_eq!(run(&mut core, 0)["b"], "n1");
}

/// `n0`, `n1` in zone a, `n2` in zone b.
fn zones() -> Core {
    let mut core = core();
    for (name, zone) in [("n0", "a"), ("n1", "a"), ("n2", "b")] {
        core.node_changed(node(name, json!({"metadata": {"labels": {"zone": zone}}})));
    }
    core
}

fn labelled(app: &str, spec: Value) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": spec})
}

fn term(app: &str, key: &str) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}})
}

fn requires(kind: &str, terms: Value) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
}

#[test]
fn anti_affinity_works_both_ways() {
    let mut core = zones();
    let apart = requires("podAntiAffinity", json!([term("web", "zone")]));
    for name in ["w1", "w2", "w3"] {
        pending(&mut core, name, json!({}), labelled("web", apart.clone()));
    }
    let decided = run(&mut core, 0);
    let zone = |name: &str| if decided[name] == "n2" { "b" } else { "a" };
    assert_ne!(zone("w1"), zone("w2"));
    assert!(decided["w3"].starts_with("0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules."));
    // A pod without any wish is kept away by those that are there.
    pending(&mut core, "plain", json!({}), labelled("web", json!({})));
    let decided = run(&mut core, 0);
    assert!(decided["plain"].contains("3 node(s) didn't satisfy existing pods anti-affinity rules"));
    core.pod_gone("plain");
    core.pod_gone("w1");
    assert!(run(&mut core, 2_000)["w3"].starts_with('n'), "room again");
}

#[test]
fn affinity_follows_and_the_first_may_stand_anywhere() {
    let mut core = zones();
    let together = requires("podAffinity", json!([term("web", "zone")]));
    pending(&mut core, "first", json!({}), labelled("web", together.clone()));
    let first = run(&mut core, 0)["first"].clone();
    pending(&mut core, "second", json!({"cpu": "1"}), labelled("web", together.clone()));
    let second = run(&mut core, 0)["second"].clone();
    assert_eq!(first == "n2", second == "n2");
    pending(&mut core, "lonely", json!({}), labelled("db", requires("podAffinity", json!([term("cache", "zone")]))));
    assert!(run(&mut core, 0)["lonely"].contains("3 node(s) didn't match pod affinity rules"));
    pending(&mut core, "cache", json!({}), labelled("cache", json!({"nodeSelector": {"zone": "b"}})));
    assert_eq!(run(&mut core, 20_000)["cache"], "n2");
    core.pod_changed(pod_object("cache", json!({}), labelled("cache", json!({"nodeName": "n2"}))), 20_000);
    assert!(run(&mut core, 20_000).is_empty(), "its place was taken into account when it was decided on");
    core.pod_changed(pod_object("cache2", json!({}), labelled("cache", json!({"nodeName": "n2"}))), 20_000);
    assert_eq!(run(&mut core, 20_000)["lonely"], "n2");
}

#[test]
fn other_namespaces_count_when_they_are_meant() {
    let mut core = zones();
    let elsewhere = json!({"metadata": {"namespace": "shop", "labels": {"app": "web"}}, "spec": {"nodeName": "n2"}});
    core.pod_changed(pod_object("theirs", json!({}), elsewhere), 0);
    let mut near = term("web", "zone");
    near["namespaceSelector"] = json!({"matchLabels": {"team": "x"}});
    pending(&mut core, "p", json!({}), labelled("db", requires("podAffinity", json!([near]))));
    assert!(run(&mut core, 0)["p"].contains("didn't match pod affinity rules"));
    core.namespace_changed("shop", [("team".to_owned(), "x".to_owned())].into());
    assert_eq!(run(&mut core, 1_000)["p"], "n2");
}

#[test]
fn preferences_pull_and_push() {
    let mut core = zones();
    core.pod_changed(pod_object("cache", json!({}), labelled("cache", json!({"nodeName": "n2"}))), 0);
    let prefers = |kind: &str| {
        json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution":
            [{"weight": 100, "podAffinityTerm": term("cache", "zone")}]}}})
    };
    pending(&mut core, "near", json!({}), labelled("x", prefers("podAffinity")));
    pending(&mut core, "far", json!({}), labelled("y", prefers("podAntiAffinity")));
    let decided = run(&mut core, 0);
    assert_eq!(decided["near"], "n2");
    assert_ne!(decided["far"], "n2");
}

#[test]
fn spread_constraints() {
    let constraint = |when: &str| {
        json!({"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"app": "web"}}}]})
    };
    let mut core = zones();
    core.node_changed(node("bare", json!({})));
    for i in 0..6 {
        pending(&mut core, &format!("p{i}"), json!({"cpu": "1"}), labelled("web", constraint("DoNotSchedule")));
    }
    let decided = run(&mut core, 0);
    let in_b = decided.values().filter(|node| *node == "n2").count();
    assert_eq!(in_b, 3, "{decided:?}");
    // Zone b is full; going to zone a would tip the balance, and the bare node is in no zone.
    for name in ["b", "c", "d", "e"] {
        pending(&mut core, name, json!({"cpu": "1"}), labelled("web", constraint("DoNotSchedule")));
    }
    let decided = run(&mut core, 0);
    let refused = decided.values().find(|text| text.starts_with("0/4")).expect("one does not fit");
    assert!(
        refused.contains("1 node(s) didn't match pod topology spread constraints (missing required label)"),
        "{refused}"
    );
    assert!(refused.contains("2 node(s) didn't match pod topology spread constraints."), "{refused}");
    // As a wish it yields.
    pending(&mut core, "w", json!({"cpu": "1"}), labelled("web", constraint("ScheduleAnyway")));
    assert!(!run(&mut core, 0)["w"].starts_with("0/"));
}

/// A pod of this priority, on a node or pending.
fn ranked(core: &mut Core, name: &str, cpu: &str, priority: i32, node: Option<&str>, extra: Value) {
    let mut object = json!({"metadata": {"labels": {"app": name}}, "spec": {"priority": priority, "nodeName": node}});
    if let Value::Object(extra) = extra {
        extra.into_iter().for_each(|(key, value)| object[key] = value);
    }
    core.pod_changed(pod_object(name, json!({"cpu": cpu}), object), 0);
}

#[test]
fn the_least_important_pods_make_room() {
    let mut core = core();
    core.node_changed(node("n1", json!({})));
    for (name, cpu, priority) in [("low", "1", 1), ("lower", "1", 0), ("equal", "1", 10), ("big", "1", 5)] {
        ranked(&mut core, name, cpu, priority, Some("n1"), json!({}));
    }
    ranked(&mut core, "p", "2", 10, None, json!({}));
    assert_eq!(run(&mut core, 0)["p"], "n1 without low lower");
    // It waits while they leave, and nobody of lower priority takes their place.
    core.pod_gone("low");
    assert!(
        run(&mut core, 1_000)["p"]
            .ends_with("preemption: not eligible due to a terminating pod on the nominated node.")
    );
    ranked(&mut core, "q", "1", 9, None, json!({}));
    core.pod_gone("lower");
    let decided = run(&mut core, 4_000);
    assert_eq!(decided["p"], "n1");
    assert_eq!(decided["q"], "n1 without big");
}

#[test]
fn the_nomination_is_followed_and_dropped() {
    let mut core = core();
    core.node_changed(node("n1", json!({})));
    ranked(&mut core, "low", "3", 1, Some("n1"), json!({}));
    ranked(&mut core, "p", "3", 5, None, json!({}));
    assert_eq!(run(&mut core, 0)["p"], "n1 without low");
    // A higher one takes the place over.
    ranked(&mut core, "top", "3", 9, None, json!({}));
    core.evicted(&"p".into(), &["low".into()], 0);
    let decided = run(&mut core, 0);
    assert_eq!(decided["top"], "n1 without low");
    core.pod_gone("low");
    let decided = run(&mut core, 2_000);
    assert_eq!(decided["top"], "n1");
    assert!(decided["p"].contains("Insufficient cpu"), "{}", decided["p"]);
}

#[test]
fn who_may_not_preempt_waits() {
    let mut core = core();
    core.node_changed(node("n1", json!({})));
    ranked(&mut core, "low", "3", 1, Some("n1"), json!({}));
    let never = json!({"spec": {"priority": 10, "preemptionPolicy": "Never"}});
    pending(&mut core, "p", json!({"cpu": "3"}), never);
    assert!(
        run(&mut core, 0)["p"].ends_with("1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.")
    );
    pending(&mut core, "q", json!({"cpu": "5"}), json!({"spec": {"priority": 10}}));
    assert!(
        run(&mut core, 0)["q"]
            .ends_with("preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
    );
}

#[test]
fn budgets_are_respected_where_possible() {
    let mut core = core();
    for (at, name) in ["a", "b"].into_iter().enumerate() {
        core.node_changed(node(name, json!({})));
        // The victim on the first node is of less importance, but protected.
        ranked(&mut core, &format!("on-{name}"), "3", at as i32, Some(name), json!({}));
    }
    core.budget_changed(
        &serde_json::from_value(json!({"metadata": {"namespace": "default", "name": "pdb"},
        "spec": {"selector": {"matchLabels": {"app": "on-a"}}},
        "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}}))
        .unwrap(),
    );
    ranked(&mut core, "p", "3", 10, None, json!({}));
    assert_eq!(run(&mut core, 0)["p"], "b without on-b");
    core.node_gone("b");
    ranked(&mut core, "q", "3", 20, None, json!({}));
    assert_eq!(run(&mut core, 0)["q"], "a without on-a");
}

#[test]
fn a_pod_in_the_way_is_preempted() {
    let mut core = core();
    core.node_changed(node("n1", json!({})));
    let guard = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
        "labelSelector": {"matchLabels": {"app": "p"}}, "topologyKey": "kubernetes.io/hostname"}]}});
    ranked(
        &mut core,
        "guard",
        "1",
        1,
        Some("n1"),
        json!({"spec": {"nodeName": "n1", "priority": 1, "affinity": guard}}),
    );
    ranked(&mut core, "other", "1", 0, Some("n1"), json!({}));
    ranked(&mut core, "p", "1", 10, None, json!({}));
    assert_eq!(run(&mut core, 0)["p"], "n1 without guard");
    assert_eq!(core.cluster().node("n1").unwrap().requested.cpu_milli, 2_000, "a try leaves no trace");
}

fn with_claim(name: &str) -> Value {
    json!({"spec": {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}]}})
}

/// Two nodes, a class that waits for its first consumer, and open claims.
fn storage(provisioner: &str, claims: &[&str]) -> Core {
    let mut core = core();
    core.node_changed(node("n1", json!({})));
    core.node_changed(node("n2", json!({})));
    core.storage_mut().set_class(Arc::new(
        serde_json::from_value(json!({"metadata": {"name": "late"},
        "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"}))
        .unwrap(),
    ));
    for name in claims {
        core.storage_mut().set_claim(claim(name, json!({})));
    }
    core.storage_changed();
    core
}

fn claim(name: &str, spec: Value) -> Arc<k8s_openapi::api::core::v1::PersistentVolumeClaim> {
    let mut claim = json!({"metadata": {"name": name, "namespace": "default", "uid": name, "annotations": {}},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "late", "resources": {"requests": {"storage": "1Gi"}}}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        claim["spec"][key] = value.clone();
    }
    if !claim["spec"]["volumeName"].is_null() {
        claim["metadata"]["annotations"] = json!({client::volumes::BIND_COMPLETED: "yes"});
    }
    Arc::new(serde_json::from_value(claim).unwrap())
}

fn volume(name: &str, node: &str) -> Arc<k8s_openapi::api::core::v1::PersistentVolume> {
    let affinity = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}});
    Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "storageClassName": "late", "nodeAffinity": affinity}, "status": {"phase": "Available"}}))
        .unwrap())
}

#[test]
fn pods_go_where_their_volumes_are() {
    let mut core = storage("kubernetes.io/no-provisioner", &["a", "b"]);
    core.storage_mut().set_volume(volume("v", "n2"));
    pending(&mut core, "p", json!({}), with_claim("a"));
    pending(&mut core, "q", json!({}), with_claim("b"));
    pending(&mut core, "r", json!({}), with_claim("none"));
    let decided = run(&mut core, 0);
    assert_eq!(decided["p"], "n2 a=v");
    assert!(decided["q"].contains("2 node(s) didn't find available persistent volumes to bind"), "{}", decided["q"]);
    assert!(decided["r"].contains("persistentvolumeclaim \"none\" not found"), "{}", decided["r"]);
    // Another pod of the same claim follows, before the API has said anything and after.
    pending(&mut core, "s", json!({}), with_claim("a"));
    assert_eq!(run(&mut core, 0)["s"], "n2 a=?");
    core.storage_mut().set_claim(claim("a", json!({"volumeName": "v"})));
    pending(&mut core, "t", json!({}), with_claim("a"));
    assert_eq!(run(&mut core, 0)["t"], "n2");
    core.storage_mut().set_volume(volume("w", "n1"));
    core.storage_changed();
    assert_eq!(run(&mut core, 2_000)["q"], "n1 b=w");
}

#[test]
fn volumes_are_made_where_the_first_pod_goes() {
    let mut core = storage("example.com/disks", &["a"]);
    pending(&mut core, "p", json!({}), with_claim("a"));
    let Some(Decision::Bind { pod, node, steps }) = core.next(0) else { panic!("it fits") };
    assert_eq!(told(&steps), " a=new");
    pending(&mut core, "q", json!({}), with_claim("a"));
    assert_eq!(run(&mut core, 0)["q"], format!("{node} a=?"));
    // When making it failed, any node will do again.
    core.bind_failed(&pod.uid, &steps, false, 0);
    assert!(run(&mut core, 2_000)["p"].ends_with(" a=new"));
}

#[test]
fn one_pod_at_a_time_may_have_an_exclusive_claim() {
    let mut core = storage("example.com/disks", &[]);
    core.storage_mut().set_volume(volume("v", "n1"));
    core.storage_mut().set_claim(claim("a", json!({"volumeName": "v", "accessModes": ["ReadWriteOncePod"]})));
    pending(&mut core, "p", json!({}), with_claim("a"));
    assert_eq!(run(&mut core, 0)["p"], "n1");
    pending(&mut core, "q", json!({}), with_claim("a"));
    assert!(run(&mut core, 0)["q"].contains("ReadWriteOncePod access mode already in-use by another pod"));
    core.pod_gone("p");
    assert_eq!(run(&mut core, 2_000)["q"], "n1");
}

mod sites {
    use super::*;
    use api::home::{Link, Ownership, Taken};

    fn homed(site: &str) -> Value {
        json!({"metadata": {"annotations": {"eyot.dev/home": site}}})
    }

    /// A scheduler of `south` with a node each here and in `north`, which founded the cluster.
    fn south(link: Link) -> Core {
        let mut core = core();
        core.sites_changed(Ownership::of("south", "north").with("north", link));
        core.node_changed(node("n", homed("north")));
        core.node_changed(node("s", homed("south")));
        core
    }

    fn handed(core: &mut Core, now_ms: u64) -> Option<Handover> {
        std::iter::from_fn(|| core.next(now_ms)).find_map(|decision| match decision {
            Decision::HandOver { handover, .. } => Some(handover),
            _ => None,
        })
    }

    #[test]
    fn pods_of_other_sites_are_left_to_them() {
        let mut core = south(Link::Up);
        pending(&mut core, "theirs", json!({}), homed("north"));
        pending(&mut core, "old", json!({}), json!({}));
        pending(&mut core, "ours", json!({}), homed("south"));
        assert_eq!(run(&mut core, 0), HashMap::from([("ours".to_owned(), "s".to_owned())]));
    }

    #[test]
    fn takeover_never_binds_what_has_its_home_elsewhere() {
        let taken = Some(Taken { by: "south".into(), epoch: 1 });
        let mut core = south(Link::Down { for_s: 9_000, taken });
        pending(&mut core, "theirs", json!({}), homed("north"));
        assert!(run(&mut core, 0).is_empty());
    }

    #[test]
    fn own_nodes_alone_are_chosen_however_full() {
        let mut core = south(Link::Down { for_s: 0, taken: None });
        pending(&mut core, "a", json!({"cpu": "3"}), homed("south"));
        assert_eq!(run(&mut core, 0)["a"], "s");
        pending(&mut core, "b", json!({"cpu": "3"}), homed("south"));
        let told = &run(&mut core, 1)["b"];
        assert!(told.contains("1 Insufficient cpu, 1 node(s) belonged to another site"), "{told}");
        assert_eq!(handed(&mut core, 60_000), None, "nobody is in reach");
    }

    #[test]
    fn what_does_not_fit_for_a_while_goes_where_there_is_room() {
        let mut core = south(Link::Up);
        pending(&mut core, "a", json!({"cpu": "3"}), homed("south"));
        pending(&mut core, "b", json!({"cpu": "3"}), homed("south"));
        assert_eq!(handed(&mut core, 0), None, "it waits first");
        assert_eq!(core.next_tick_ms(), Some(3_000));
        let handover = handed(&mut core, 3_000).expect("a handover");
        assert_eq!((&*handover.site, handover.count), ("north", 1));
        assert!(handover.reason.contains("Insufficient cpu"), "{}", handover.reason);
    }

    #[test]
    fn the_site_with_the_most_room_takes_it() {
        let mut core = core();
        let view = Ownership::of("south", "north").with("north", Link::Up).with("west", Link::Up);
        core.sites_changed(view.with("east", Link::Down { for_s: 1, taken: None }));
        for (name, site) in [("n", "north"), ("w", "west"), ("e", "east")] {
            core.node_changed(node(name, homed(site)));
        }
        let mut placed = json!({"spec": {"nodeName": "n"}});
        placed["metadata"] = homed("north")["metadata"].clone();
        pending(&mut core, "busy", json!({"cpu": "2"}), placed);
        core.node_changed(node("s", json!({"metadata": homed("south")["metadata"], "spec": {"unschedulable": true}})));
        pending(&mut core, "p", json!({"cpu": "1"}), homed("south"));
        handed(&mut core, 0);
        assert_eq!(&*handed(&mut core, 3_000).unwrap().site, "west");
    }

    #[test]
    fn a_pod_that_asks_for_another_site_goes_at_once() {
        let mut core = south(Link::Up);
        let mut extra = homed("south");
        extra["spec"] = json!({"nodeSelector": {"eyot.dev/site": "north"}});
        pending(&mut core, "p", json!({}), extra);
        assert_eq!(&*handed(&mut core, 0).unwrap().site, "north");
    }

    #[test]
    fn a_pod_whose_labels_no_own_node_has_goes_at_once() {
        let mut core = south(Link::Up);
        let mut labelled = homed("north");
        labelled["metadata"]["labels"] = json!({"disk": "ssd"});
        core.node_changed(node("n", labelled));
        let mut extra = homed("south");
        extra["spec"] = json!({"nodeSelector": {"disk": "ssd"}});
        pending(&mut core, "p", json!({}), extra);
        assert_eq!(&*handed(&mut core, 0).unwrap().site, "north");
    }

    #[test]
    fn each_handover_makes_the_next_one_wait_longer() {
        let mut core = south(Link::Up);
        core.node_changed(node("s", json!({"metadata": homed("south")["metadata"], "spec": {"unschedulable": true}})));
        let mut extra = homed("south");
        extra["metadata"]["annotations"]["eyot.dev/handovers"] = "3".into();
        pending(&mut core, "p", json!({}), extra);
        assert_eq!(handed(&mut core, 0), None);
        assert_eq!(handed(&mut core, 23_999), None);
        assert_eq!(handed(&mut core, 24_000).map(|handover| handover.count), Some(4));
    }

    /// `p` was handed to `north` at 3 s, as the API has told.
    fn lent(extra: &Value) -> (Core, Handover) {
        let mut core = south(Link::Up);
        core.node_changed(node("s", json!({"metadata": homed("south")["metadata"], "spec": {"unschedulable": true}})));
        let mut own = homed("south");
        own["metadata"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        pending(&mut core, "p", json!({}), own.clone());
        handed(&mut core, 0);
        let handover = handed(&mut core, 3_000).unwrap();
        own["metadata"]["annotations"] = json!({"eyot.dev/home": "north", "eyot.dev/handovers": "1"});
        pending(&mut core, "p", json!({}), own);
        core.handed_over(&"p".into(), &handover, true, 3_001);
        (core, handover)
    }

    fn cut(core: &mut Core, for_s: u64) {
        core.sites_changed(Ownership::of("south", "north").with("north", Link::Down { for_s, taken: None }));
    }

    #[test]
    fn a_pod_that_the_other_site_never_heard_of_is_taken_back() {
        let (mut core, handover) = lent(&json!({}));
        assert!(!handover.back);
        assert_eq!(handed(&mut core, 10_000), None, "it is in contact");
        cut(&mut core, 15);
        assert_eq!(handed(&mut core, 20_000), None, "it was heard of after that, and may have it");
        cut(&mut core, 20);
        let back = handed(&mut core, 22_000).unwrap();
        assert_eq!((&*back.site, back.count, back.back), ("south", 1, true));
        assert_eq!(handed(&mut core, 22_000), None, "once");
        core.handed_over(&"p".into(), &back, false, 22_100);
        assert_eq!(handed(&mut core, 22_200), None, "what failed is tried again with the next news");
        cut(&mut core, 25);
        let back = handed(&mut core, 27_000).unwrap();
        core.handed_over(&"p".into(), &back, true, 27_100);
        core.node_changed(node("s", homed("south")));
        pending(&mut core, "p", json!({}), homed("south"));
        assert_eq!(run(&mut core, 28_000)["p"], "s");
        cut(&mut core, 30);
        assert_eq!(handed(&mut core, 30_000), None);
    }

    #[test]
    fn what_has_a_node_or_must_not_run_twice_stays_lent() {
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "u", "controller": true}]);
        let (mut core, _) = lent(&json!({"ownerReferences": owner}));
        cut(&mut core, 20);
        assert_eq!(handed(&mut core, 22_000), None);
        let (mut core, _) = lent(&json!({}));
        let mut placed = homed("north");
        placed["spec"] = json!({"nodeName": "n"});
        pending(&mut core, "p", json!({}), placed);
        cut(&mut core, 20);
        assert_eq!(handed(&mut core, 22_000), None);
    }

    #[test]
    fn nothing_is_said_of_sites_on_a_server_alone() {
        let mut core = core();
        core.node_changed(node("a", homed("anywhere")));
        pending(&mut core, "p", json!({}), homed("elsewhere"));
        assert_eq!(run(&mut core, 0)["p"], "a");
    }
}
