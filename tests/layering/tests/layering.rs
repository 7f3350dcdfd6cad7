//! Dependencies point at the domain: the edges that the architecture forbids, checked over `cargo metadata`.
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Who must not reach what, directly or through others; see docs/architecture.md.
const FORBIDDEN: &[(&[&str], &[&str])] = &[
    (
        &["eyot-controllers", "eyot-scheduler", "eyot-colocation", "eyot-agent", "eyot-net", "eyot-qos"],
        &["eyot-store", "eyot-apiserver", "eyot-sync"],
    ),
    (&["eyot-api", "eyot-crdt"], &["tokio", "hyper", "rusqlite"]),
    (&["eyot-store"], &["eyot-apiserver", "eyot-client", "hyper"]),
    (&["eyot-etcd"], &["eyot-apiserver", "eyot-client"]),
    (&["eyot-sync"], &["eyot-apiserver", "eyot-client", "eyot-etcd", "hyper"]),
    (
        &["eyot-apiserver"],
        &["eyot-etcd", "eyot-controllers", "eyot-scheduler", "eyot-agent", "eyot-net", "eyot-client"],
    ),
];
/// Nothing stands on the binary.
const TOP: &str = "eyot";

type Graph = BTreeMap<String, BTreeSet<String>>;

/// Normal dependencies of every package, by name.
fn graph() -> Graph {
    let out = Command::new(env!("CARGO")).args(["metadata", "--format-version", "1", "--locked"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let names: BTreeMap<String, String> =
        metadata["packages"].as_array().unwrap().iter().map(|p| (text(&p["id"]), text(&p["name"]))).collect();
    let mut graph = Graph::new();
    for node in metadata["resolve"]["nodes"].as_array().unwrap() {
        let normal = node["deps"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dep| dep["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null()));
        let deps = normal.map(|dep| names[dep["pkg"].as_str().unwrap()].clone());
        graph.entry(names[node["id"].as_str().unwrap()].clone()).or_default().extend(deps);
    }
    graph
}

fn reachable<'a>(graph: &'a Graph, from: &str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&str> = graph.get(from).into_iter().flatten().map(String::as_str).collect();
    while let Some(name) = open.pop() {
        if seen.insert(name) {
            open.extend(graph.get(name).into_iter().flatten().map(String::as_str));
        }
    }
    seen
}

#[test]
fn dependencies_point_at_the_domain() {
    let graph = graph();
    let mut broken = Vec::new();
    for (from, to) in FORBIDDEN {
        for from in from.iter().filter(|name| graph.contains_key(**name)) {
            let reached = reachable(&graph, from);
            broken.extend(to.iter().filter(|to| reached.contains(*to)).map(|to| format!("{from} -> {to}")));
        }
    }
    assert!(broken.is_empty(), "forbidden dependencies: {broken:?}");
}

#[test]
fn nothing_stands_on_the_binary() {
    let graph = graph();
    for (name, deps) in &graph {
        assert!(!deps.contains(TOP), "{name} depends on the binary");
    }
}

#[test]
fn the_walk_finds_indirect_edges() {
    let graph = Graph::from([
        ("a".into(), BTreeSet::from(["b".into()])),
        ("b".into(), BTreeSet::from(["c".into()])),
        ("c".into(), BTreeSet::from(["a".into()])),
    ]);
    assert_eq!(reachable(&graph, "a"), BTreeSet::from(["a", "b", "c"]));
}
