//! Pods on machines that share no link: two servers of two sites with their nodes, and a node without a server, each in a
//! network of its own behind one router.
use anyhow::Context;
use e2e::routed::{Role, Routed};

const LETTERS: [&str; 3] = ["a", "b", "c"];
/// Bytes of what each pod serves.
const LARGE: &str = "4194304";

/// A pod on each node that says who it is and who asks, and serves something large, with a Service for it alone.
fn manifest(node: &str) -> String {
    let script = r#"mkdir -p /www/cgi-bin; printf '#!/bin/sh\necho Content-type: text/plain; echo; echo $(hostname) $REMOTE_ADDR\n' > /www/cgi-bin/who; chmod +x /www/cgi-bin/who; head -c 4194304 /dev/urandom > /www/large; exec httpd -f -p 0.0.0.0:8080 -h /www"#;
    serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": node, "labels": {"app": node}}, "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{
                "name": "it", "image": "eyot.dev/demo:1", "imagePullPolicy": "Never", "command": ["sh", "-c", script],
                "readinessProbe": {"httpGet": {"port": 8080, "path": "/large"}, "periodSeconds": 1}}]}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("on-{node}")}, "spec": {
            "selector": {"app": node}, "ports": [{"port": 80, "targetPort": 8080}]}},
    ]})
    .to_string()
}

/// Only `a` may speak to `c`.
const POLICY: &str = r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "only-a"},
    "spec": {"podSelector": {"matchLabels": {"app": "c"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}]}]}}"#;

#[test]
fn pods_on_machines_that_share_no_link() -> anyhow::Result<()> {
    let mut routed = Routed::start(1, &[Role::Server, Role::Server, Role::Agent])?;
    // The pod of the second site is made there; all others are the first site's.
    for (node, server) in [("a", 0), ("b", 1), ("c", 0)] {
        routed.until("the account is there", || routed.kubectl(server, &["get", "sa", "default"]).is_ok())?;
        routed.apply(server, &manifest(node))?;
    }
    let ready = "jsonpath={range .items[*]}{.status.conditions[?(@.type=='Ready')].status}{end}";
    for server in 0..2 {
        let all = || routed.kubectl(server, &["get", "pods", "-o", ready]).is_ok_and(|all| all == "TrueTrueTrue");
        routed.until("all pods are Ready, as both servers say", all)?;
    }
    let ip_of = |pod: &str| routed.kubectl(0, &["get", "pod", pod, "-o", "jsonpath={.status.podIP}"]);
    let addresses = [ip_of("a")?, ip_of("b")?, ip_of("c")?];
    let exec = |pod: &str, command: &str| routed.kubectl(0, &["exec", pod, "--", "sh", "-c", command]);
    let wget = |pod: &str, url: &str| exec(pod, &format!("timeout 5 wget -qO- http://{url}"));

    for (at, from) in LETTERS.iter().enumerate() {
        let tunnels = || {
            let routes = routed.on(at, &["ip", "route", "show", "proto", "143"]).unwrap_or_default();
            routes.matches(&format!("dev {}-vx onlink", routed.namespace(at))).count()
        };
        routed.until("it has a tunnel to both others", || tunnels() == 2)?;
        for (to, address) in LETTERS.iter().zip(&addresses).filter(|(to, _)| *to != from) {
            // By its address, by its Service's name, and a size that only the right MTU lets through.
            let service = format!("on-{to}.default.svc.cluster.local");
            let who = format!("{to} {}\n", addresses[at]);
            for host in [&format!("{address}:8080"), &service] {
                let asked = || wget(from, &format!("{host}/cgi-bin/who"));
                routed
                    .until(&format!("{from} reaches {to}"), || asked().is_ok_and(|said| said == who))
                    .with_context(|| format!("{host} said {:?}", asked()))?;
            }
            let large = exec(from, &format!("timeout 20 wget -qO- http://{service}/large | wc -c"))?;
            assert_eq!(large.trim(), LARGE, "{from} from {to}");
        }
    }
    // A machine itself, to a pod elsewhere: it comes from its end of the tunnel, and answers find back.
    let own = routed.on(0, &["ip", "-br", "-4", "address", "show", &format!("{}-vx", routed.namespace(0))])?;
    let own = own.split_whitespace().last().unwrap_or_default().trim_end_matches("/32").to_owned();
    let said = routed.on(0, &["curl", "-sS", "-m", "10", &format!("http://{}:8080/cgi-bin/who", addresses[2])])?;
    assert_eq!(said, format!("c {own}\n"));

    routed.apply(0, POLICY)?;
    let denied = || exec("b", "timeout 2 wget -qO- http://on-c/cgi-bin/who").is_err();
    routed.until("b is kept from c, twice in a row", || denied() && denied())?;
    assert!(wget("a", "on-c/cgi-bin/who").is_ok_and(|said| said.starts_with("c ")), "a is not");

    // A node that leaves for good leaves nothing.
    let node = ["delete", "node", "c"];
    let left = routed.end(2)?;
    assert!(!left.contains("-vx") && !left.contains("veth") && !left.contains("via"), "{left}");
    routed.kubectl(0, &node)?;
    for at in 0..2 {
        let routes = || routed.on(at, &["ip", "route", "show", "proto", "143"]).unwrap_or_default();
        routed.until("the others forget the way", || routes().lines().count() == 1)?;
    }
    Ok(())
}
