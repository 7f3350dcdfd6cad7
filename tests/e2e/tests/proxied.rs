//! A server and a node whose only way to the others is an HTTP proxy.
use e2e::agents::Agent;
use e2e::sites::Sites;

/// The place of [`Agent::place`] among the servers.
const AGENT: usize = 9;

#[test]
fn a_server_and_a_node_join_through_an_http_proxy() -> anyhow::Result<()> {
    let mut sites = Sites::start(17, 1)?;
    sites.shun(0, 1, true)?;
    sites.shun(0, AGENT, true)?;
    let asked = sites.set_proxy()?;
    let b = sites.add(0)?;
    let first = sites.outside(0)?.to_string();
    assert!(asked.all().contains(&first), "{:?}", asked.all());
    sites.kubectl(b, &["create", "configmap", "from-b", "--from-literal=x=1"])?;
    sites.until("a hears of b", || sites.kubectl(0, &["get", "configmap", "from-b"]).is_ok())?;
    sites.kubectl(0, &["create", "configmap", "from-a", "--from-literal=x=1"])?;
    sites.until("b hears of a", || sites.kubectl(b, &["get", "configmap", "from-a"]).is_ok())?;
    assert!(sites.eyot(b, &["status"])?.contains("this one"), "what is on this host is asked without a proxy");

    let before = asked.all().len();
    let mut agent = Agent::place(&sites)?;
    agent.boot()?;
    let ready = ["get", "node", &agent.name(), "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}"];
    sites.until("the node is Ready", || sites.kubectl(0, &ready).is_ok_and(|ready| ready == "True"))?;
    assert!(asked.all()[before..].contains(&first), "{:?}", asked.all());
    let path = format!("/api/v1/nodes/{}/proxy/healthz", agent.name());
    sites.until("a reaches it back through what it dialled", || sites.kubectl(0, &["get", "--raw", &path]).is_ok())?;
    Ok(())
}
