//! A pod that is handed to a site that has just been cut off comes back.
use e2e::sites::Sites;

/// A node that is an object alone.
fn node(sites: &Sites, at: usize) -> anyhow::Result<()> {
    let name = format!("node-{}", Sites::letter(at));
    let node = format!(
        r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"{name}","labels":{{"eyot.dev/site":"{}"}}}}}}"#,
        Sites::letter(at)
    );
    sites.kubectl(at, &["create", "-f", &sites.file(&name, &node)?])?;
    let room = r#"{"cpu":"1","memory":"1Gi","pods":"10"}"#;
    let status = format!(
        r#"{{"status":{{"capacity":{room},"allocatable":{room},"conditions":[{{"type":"Ready","status":"True"}}]}}}}"#
    );
    sites.kubectl(at, &["patch", "node", &name, "--subresource=status", "-p", &status]).map(drop)
}

#[test]
fn what_was_handed_to_a_site_that_never_heard_of_it_is_taken_back() -> anyhow::Result<()> {
    let sites = Sites::start(16, 2)?;
    node(&sites, 0)?;
    node(&sites, 1)?;
    sites.kubectl(0, &["cordon", "node-a"])?;
    sites.until("a hears of b's node", || sites.kubectl(0, &["get", "node", "node-b"]).is_ok())?;
    sites.until("b hears of the cordon", || {
        let cordoned = ["get", "node", "node-a", "-o", "jsonpath={.spec.unschedulable}"];
        sites.kubectl(1, &cordoned).is_ok_and(|cordoned| cordoned == "true")
    })?;
    sites.cut(1, true)?;
    sites.kubectl(0, &["run", "p", "--image=eyot.dev/demo:1"])?;
    let home = |site: &str| {
        let home = ["get", "pod", "p", "-o", r"jsonpath={.metadata.annotations.eyot\.dev/home}"];
        sites.kubectl(0, &home).is_ok_and(|home| home == site)
    };
    sites.until("it is handed over", || home("b"))?;
    sites.until("it is taken back", || home("a"))?;
    sites.kubectl(0, &["uncordon", "node-a"])?;
    sites.until("it gets a node at home", || {
        let node = ["get", "pod", "p", "-o", "jsonpath={.spec.nodeName}"];
        sites.kubectl(0, &node).is_ok_and(|node| node == "node-a")
    })?;
    let events = ["get", "events", "--field-selector", "reason=TakenBack", "-o", "jsonpath={.items[*].message}"];
    sites.until("an event says so", || sites.kubectl(0, &events).is_ok_and(|told| told.contains("out of reach")))?;
    sites.cut(1, false)?;
    sites.agree(&["get", "pod", "p", "-o", "jsonpath={.spec.nodeName}"])?;
    Ok(())
}
