//! Pods of another node on the same link.
use super::{NODE, World};
use serde_json::json;

const NODES: &str = "/api/v1/nodes";

/// `outside` becomes a node with a pod of its own; what is told of it may change.
pub async fn check(world: &World, a: &str) {
    let there = |cidr: &str, address: &str| {
        let addresses = json!([{"type": "InternalIP", "address": address}]);
        let metadata = json!({"name": "there", "creationTimestamp": "2026-01-01T00:00:00Z"});
        world
            .api
            .put(NODES, json!({"metadata": metadata, "spec": {"podCIDR": cidr}, "status": {"addresses": addresses}}));
    };
    let route = |world: &World| world.node.command("ip route show proto 143").trim().to_owned();
    world.outside.command("ip address add 10.42.9.5/32 dev lo");
    world.outside.command("ip route add 10.42.7.0/24 via 192.0.2.1");
    there("10.42.9.0/24", "192.0.2.2");
    world.eventually("there is a way", |w| route(w).starts_with("10.42.9.0/24 via 192.0.2.2")).await;
    assert_eq!(world.a.tcp("10.42.9.5:9000"), Ok(format!("outside {a}")), "pod to pod, with its own address");
    assert!(world.outside.tcp(&format!("{a}:8080")).expect("and back").starts_with("a "));

    there("10.42.8.0/24", "192.0.2.2");
    world
        .eventually("another network", |w| route(w).starts_with("10.42.8.0/24") && !route(w).contains("10.42.9"))
        .await;
    there("10.42.8.0/24", "198.51.100.2");
    world.eventually("a node beyond the link has another", |w| !route(w).contains("via 192.0.2.2")).await;
    there("10.42.7.0/24", "192.0.2.2");
    there("10.42.9.0/24", "192.0.2.2");
    world.eventually("nor has it what is this node's", |w| route(w).starts_with("10.42.9.0/24")).await;
    world.node.command("ip route add 10.42.200.0/24 via 192.0.2.2");
    world.api.delete(NODES, "there");
    world.eventually("it left", |w| route(w).is_empty()).await;
    assert!(world.node.command("ip route show").contains("10.42.200.0/24"), "others' routes stay");
    world.node.command("ip route delete 10.42.200.0/24");
    // One stays for the cleanup to take away.
    there("10.42.9.0/24", "192.0.2.2");
    world.eventually("it is back", |w| route(w).starts_with("10.42.9.0/24")).await;
    assert!(!route(world).contains(NODE));
}
