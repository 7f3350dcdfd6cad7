//! Who is a member, and what that is worth: certificates and tokens hold as long as their server is one; any member
//! admits others.
use e2e::agents::Agent;
use e2e::sites::Sites;
use e2e::sleeping;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn a_removed_servers_certificates_and_tokens_are_worth_nothing() -> anyhow::Result<()> {
    let mut sites = Sites::start(3, 3)?;
    let a = sites.url(0);
    let as_c = ["--server", &a, "get", "namespaces", "-o", "name"];
    sites.until("c's administrator is one at a", || sites.kubectl(2, &as_c).is_ok())?;
    let token = sites.kubectl(2, &["create", "token", "default"])?;
    let whoami = ["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"];
    let with_token = |sites: &Sites, at: usize| {
        // A kubeconfig without certificates: they would go before the token.
        let args = ["--kubeconfig", "/dev/null", "--insecure-skip-tls-verify", "--token", token.trim(), "--server"];
        sites.kubectl(at, &[&args[..], &[&sites.url(at)], &whoami].concat())
    };
    for at in 0..2 {
        sites.until("its tokens hold", || with_token(&sites, at).is_ok_and(|name| name.ends_with(":default")))?;
    }
    let mut watch = sites.kubectl_command(2);
    watch.args(["--server", &a, "get", "configmaps", "--watch"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut watch = watch.spawn()?;

    sites.kubectl(1, &["delete", "server", "c"])?;
    for at in 0..2 {
        let url = sites.url(at);
        let as_c = ["--server", &url, "get", "namespaces", "-o", "name"];
        sites.until("c's administrator is nobody", || sites.kubectl(2, &as_c).is_err())?;
        sites.until("its tokens hold no longer", || with_token(&sites, at).is_err())?;
    }
    let begun = Instant::now();
    while watch.try_wait()?.is_none() && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let ended = watch.try_wait()?.is_some();
    let _ = watch.kill();
    watch.wait()?;
    assert!(ended, "the watch went on");

    // Nothing of it comes back with a restart, and the others trust each other as before.
    sites.kill(0)?;
    sites.boot(0)?;
    let refused = sites.kubectl(2, &as_c).unwrap_err().to_string();
    assert!(refused.contains("tls:") || refused.contains("EOF") || refused.contains("reset"), "{refused}");
    assert!(with_token(&sites, 0).is_err());
    sites.kubectl(1, &["create", "configmap", "told", "--from-literal=x=1"])?;
    sites.until("a hears of b", || sites.kubectl(0, &["get", "configmap", "told"]).is_ok())?;
    Ok(())
}

#[test]
fn a_member_admits_others_while_the_first_is_away() -> anyhow::Result<()> {
    let mut sites = Sites::start(4, 2)?;
    sites.kill(0)?;
    let c = sites.add(1)?;
    sites.kubectl(c, &["create", "configmap", "from-c", "--from-literal=x=1"])?;
    sites.until("b hears of c", || sites.kubectl(1, &["get", "configmap", "from-c"]).is_ok())?;
    sites.boot(0)?;
    sites.until("a hears of c", || sites.kubectl(0, &["get", "configmap", "from-c"]).is_ok())?;
    let spec = "jsonpath={range .items[*]}{.spec.number} {.spec.serviceIPs} {.spec.nodePorts} {.spec.podCIDRs};{end}";
    let told = sites.agree(&["get", "servers", "-o", spec])?;
    let mut servers: Vec<_> = told.split(';').filter(|server| !server.is_empty()).collect();
    servers.sort();
    servers.dedup();
    assert_eq!(servers.len(), 3, "{told}");
    // Who was admitted by a member is one like any other to all.
    let as_c = ["--server", &sites.url(0), "get", "namespaces", "-o", "name"];
    sites.until("c's administrator is one at a", || sites.kubectl(c, &as_c).is_ok())?;
    sites.until("a is linked with c", || {
        let link = ["get", "server", "c", "-o", "jsonpath={.status.link}"];
        sites.kubectl(0, &link).is_ok_and(|link| link == "Linked")
    })?;
    Ok(())
}

#[test]
fn a_node_leaves_a_server_that_was_removed() -> anyhow::Result<()> {
    let sites = Sites::start(10, 2)?;
    let mut agent = Agent::at_site_through(&sites, 1, 0)?;
    agent.boot()?;
    sites.until("it goes to the server of its site", || agent.log().contains("moving to a nearer server"))?;
    let path = format!("/api/v1/nodes/{}/proxy/healthz", agent.name());
    let reaches = |at: usize| sites.kubectl(at, &["get", "--raw", &path]).is_ok();
    for at in 0..2 {
        sites.until("the servers reach it", || reaches(at))?;
    }
    sites.kubectl(0, &["delete", "server", "b"])?;
    // What was under way between the two comes in.
    std::thread::sleep(std::time::Duration::from_secs(5));
    let name = agent.name();
    let renewed = || {
        let lease = ["get", "lease", "-n", "kube-node-lease", &name, "-o", "jsonpath={.spec.renewTime}"];
        sites.kubectl(0, &lease).unwrap_or_default()
    };
    let before = renewed();
    sites.until("it goes to another, and renews its lease there", || renewed() > before)?;
    assert!(reaches(0));
    sites.until("the one that was removed gets in no more", || !reaches(1))?;
    Ok(())
}

#[test]
fn the_token_of_nodes_admits_no_servers_and_can_be_replaced() -> anyhow::Result<()> {
    let sites = Sites::start(11, 2)?;
    let first = sites.token_of_nodes(0)?;
    sites.until("both servers have one", || sites.token_of_nodes(1).is_ok_and(|token| token == first))?;
    let why = |token: &str| -> anyhow::Result<String> {
        let output = sites.refused(0, token)?;
        assert!(!output.status.success());
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert!(why(&first)?.contains("admits nodes and no servers"));
    // Nor when it does not say what it is.
    let disguised = first.replace("::node:", "::server:");
    assert!(why(&disguised)?.contains("it refused: this token admits nodes and no servers"));

    let mut agent = Agent::place(&sites)?;
    let second = sites.eyot(1, &["token", "rotate", "--agent"])?.trim().to_owned();
    assert_ne!(first, second);
    for at in 0..2 {
        sites.until("both servers have the new one", || sites.token_of_nodes(at).is_ok_and(|token| token == second))?;
    }
    assert_eq!(agent.token(), first);
    let output = agent.refused(None)?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("does not know the token's password"), "{said}");
    agent.set_token(&second);
    // It gives no certificate that could speak for a server.
    let address = sites.outside(1)?.ip().to_string();
    for (flags, why) in [(["--node-ip", &address], "is that of b"), (["--node-name", "b"], "is a server's name")] {
        let output = agent.refused_as(&flags)?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{said}");
    }
    agent.boot()?;
    let node = agent.name();
    for at in 0..2 {
        sites.until("the node is there", || sites.kubectl(at, &["get", "node", &node]).is_ok())?;
    }
    Ok(())
}

/// A pod on that node, whose process is known by this number.
const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"terminationGracePeriodSeconds":0,
"nodeName":"NODE","containers":[{"name":"c","image":"eyot.dev/demo:1","imagePullPolicy":"Never",
"command":["sleep","141421"]}]}}"#;

#[test]
fn a_node_whose_certificates_a_removed_server_signed_goes_on() -> anyhow::Result<()> {
    let sites = Sites::start(12, 2)?;
    let mut agent = Agent::at_site(&sites, 1)?;
    agent.boot()?;
    let name = agent.name();
    let pod = sites.file("pod.json", &POD.replace("NODE", &name))?;
    sites.until("the default account is there", || sites.kubectl(0, &["get", "serviceaccount", "default"]).is_ok())?;
    sites.until("a knows the node", || sites.kubectl(0, &["get", "node", &name]).is_ok())?;
    sites.kubectl(0, &["create", "-f", &pod])?;
    let inside =
        |at: usize| sites.kubectl(at, &["exec", "p", "--", "echo", "inside"]).is_ok_and(|said| said == "inside\n");
    for at in 0..2 {
        sites.until("a command runs in the pod", || inside(at))?;
    }
    // From here on it has no token but the one that it keeps.
    agent.restart_bare()?;
    for at in 0..2 {
        sites.until("a command runs in the pod", || inside(at))?;
    }
    let process = sleeping(141_421);
    assert_eq!(process.len(), 1);

    // One session of its administrator by way of the other server, one by way of its own.
    let urls = [sites.url(0), sites.url(1)];
    let mut sessions = urls.iter().map(|url| Session::open(&sites, 1, url)).collect::<anyhow::Result<Vec<_>>>()?;
    sites.until("both sessions run", || sleeping(173_205).len() == 2)?;

    sites.kubectl(0, &["delete", "server", "b"])?;
    sites.until("it joins anew", || agent.log().contains("joined anew by the token"))?;
    for (at, session) in sessions.iter_mut().enumerate() {
        assert!(session.ends()?, "the session by way of server {at} goes on");
    }
    let renewed = || {
        let lease = ["get", "lease", "-n", "kube-node-lease", &name, "-o", "jsonpath={.spec.renewTime}"];
        sites.kubectl(0, &lease).unwrap_or_default()
    };
    let before = renewed();
    sites.until("it renews its lease at the other server", || renewed() > before)?;
    sites.until("that server reaches it", || inside(0))?;
    assert_eq!(sleeping(141_421), process, "its pod went on");
    sites.until("the one that was removed gets in no more", || !inside(1))?;
    let ready = ["get", "node", &name, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}"];
    sites.until("it is Ready", || sites.kubectl(0, &ready).is_ok_and(|status| status == "True"))?;
    Ok(())
}

/// `kubectl exec` in the pod, which ends when its connection does.
struct Session(std::process::Child);

impl Session {
    fn open(sites: &Sites, administrator: usize, url: &str) -> anyhow::Result<Self> {
        let mut command = sites.kubectl_command(administrator);
        command.args(["--server", url, "exec", "p", "--", "sleep", "173205"]);
        Ok(Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }

    fn ends(&mut self) -> anyhow::Result<bool> {
        let begun = Instant::now();
        while self.0.try_wait()?.is_none() && begun.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(self.0.try_wait()?.is_some())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
