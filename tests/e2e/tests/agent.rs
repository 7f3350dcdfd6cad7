//! A node without a server, where nobody can dial it: it runs pods, is reached by way of its own links, survives the loss
//! of each server, and of all with its power.
use e2e::agents::Agent;
use e2e::sites::Sites;
use e2e::sleeping;
use std::fs;
use std::time::Duration;

/// A pod whose process is known by this number, with a volume of its node's disk.
const POD: &str = r#"{"apiVersion":"v1","kind":"List","items":[
{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"c"},"spec":{"storageClassName":"local-path",
"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Mi"}}}},
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"terminationGracePeriodSeconds":0,
"volumes":[{"name":"v","persistentVolumeClaim":{"claimName":"c"}}],
"containers":[{"name":"c","image":"eyot.dev/demo:1","imagePullPolicy":"Never",
"volumeMounts":[{"name":"v","mountPath":"/data"}],
"command":["sh","-c","echo I run; echo kept >> /data/file; exec sleep 271828"]}]}}]}"#;

/// A pod on that node, of which one server alone is told.
const NEW: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"new"},"spec":{"terminationGracePeriodSeconds":0,
"nodeName":"j","containers":[{"name":"c","image":"eyot.dev/demo:1","imagePullPolicy":"Never",
"command":["sleep","314159"]}]}}"#;

/// A web server on that node, and the Service before it.
const WEB: &str = r#"{"apiVersion":"v1","kind":"List","items":[
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","labels":{"app":"web"}},"spec":{"terminationGracePeriodSeconds":0,
"nodeName":"j","containers":[{"name":"c","image":"eyot.dev/demo:1","imagePullPolicy":"Never"}]}},
{"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},"spec":{"selector":{"app":"web"},
"ports":[{"port":80,"targetPort":8080}]}}]}"#;

/// How long a node goes on with what its server has not heard of, before this test believes it: some questions long.
const DOUBT: Duration = Duration::from_secs(8);

/// Whether the pod's process runs on this machine.
fn runs() -> bool {
    !sleeping(271_828).is_empty()
}

#[test]
fn a_node_without_a_server() -> anyhow::Result<()> {
    let mut sites = Sites::start(5, 2)?;
    let mut agent = Agent::place(&sites)?;
    let node = agent.name();
    agent.boot()?;
    let ready = |sites: &Sites, at: usize| {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        sites.kubectl(at, &["get", "node", &node, "-o", path]).is_ok_and(|status| status == "True")
    };
    for at in 0..2 {
        sites.until("the node is Ready", || ready(&sites, at))?;
    }
    // Whoever comes with another secret, or another token, gets no certificate.
    let said = |token: Option<&str>| -> anyhow::Result<String> {
        let output = agent.refused(token)?;
        assert!(!output.status.success());
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert!(said(None)?.contains("is another machine"));
    let wrong = agent.token().rsplit_once(':').map(|(cluster, _)| format!("{cluster}:wrong")).unwrap_or_default();
    assert!(said(Some(&wrong))?.contains("does not know the token's password"));
    let other = agent.token().replace(&agent.token()[3..13], "0123456789");
    assert!(said(Some(&other))?.contains("another cluster"));

    // A pod runs, and both servers reach it, though nobody can dial its node.
    let manifest = sites.dir().join("pod.json");
    fs::write(&manifest, POD)?;
    sites.until("the default account is there", || sites.kubectl(0, &["get", "serviceaccount", "default"]).is_ok())?;
    sites.kubectl(0, &["create", "-f", &manifest.display().to_string()])?;
    let logs = |sites: &Sites, at: usize| sites.kubectl(at, &["logs", "p"]).is_ok_and(|logs| logs == "I run\n");
    let exec = |sites: &Sites, at: usize| {
        sites.kubectl(at, &["exec", "p", "--", "echo", "inside"]).is_ok_and(|said| said == "inside\n")
    };
    let phase = |sites: &Sites, at: usize| {
        let phase = sites.kubectl(at, &["get", "pod", "p", "-o", "jsonpath={.status.phase}"]);
        phase.is_ok_and(|phase| phase == "Running")
    };
    for at in 0..2 {
        sites.until("its log is read", || logs(&sites, at))?;
        sites.until("a command runs in it", || exec(&sites, at))?;
        sites.until("its status is told", || phase(&sites, at))?;
    }
    assert!(runs());
    let status = agent.status();
    assert!(status.contains("Ready") && status.contains("server   a at a") && status.contains("1 Running"), "{status}");

    // So they do its pods' own ports, straight and by way of Services; nobody listens on others, and that is told at once.
    let web = sites.file("web.json", WEB)?;
    sites.kubectl(0, &["create", "-f", &web])?;
    for at in 0..2 {
        for path in ["pods/web:8080", "services/web:80"] {
            let path = format!("/api/v1/namespaces/default/{path}/proxy/");
            let answers = || sites.kubectl(at, &["get", "--raw", &path]).is_ok_and(|said| said == "web\n");
            sites.until("its web page is read", answers)?;
        }
    }
    let nobody = sites.kubectl(1, &["get", "--raw", "/api/v1/namespaces/default/pods/web:81/proxy/"]);
    let nobody = nobody.unwrap_err().to_string();
    assert!(nobody.contains("connection refused"), "{nobody}");
    sites.kubectl(0, &["delete", "-f", &web])?;

    // One server is lost: the node goes on with the other, also with what that has not heard of.
    sites.part(0, 1, true)?;
    let new = sites.file("new.json", NEW)?;
    sites.kubectl(0, &["create", "-f", &new])?;
    sites.until("the new pod runs", || sleeping(314_159).len() == 1)?;
    let process = sleeping(314_159);
    let version = sites.kubectl(0, &["get", "pod", "new", "-o", "jsonpath={.metadata.resourceVersion}"])?;
    sites.kill(0)?;
    let renewed = |sites: &Sites, at: usize| {
        let args = ["get", "lease", "-n", "kube-node-lease", &node, "-o", "jsonpath={.spec.renewTime}"];
        sites.kubectl(at, &args).unwrap_or_default()
    };
    let before = renewed(&sites, 1);
    sites.until("it renews its lease at the other", || renewed(&sites, 1) > before)?;
    assert!(ready(&sites, 1) && exec(&sites, 1));
    sites
        .until("it misses the new pod", || agent.log().contains("goes on: the server may not have heard of it yet"))?;
    std::thread::sleep(DOUBT);
    assert_eq!(sleeping(314_159), process, "it goes on");
    let path = format!("/api/v1/namespaces/default/pods/new?resourceVersion={version}");
    let told = sites.kubectl(1, &["get", "--raw", &path]).unwrap_err().to_string();
    assert!(told.contains("Too large resource version"), "the server does not say that there is none: {told}");

    // All are lost, and its power: its pod runs again from what it keeps.
    sites.kill(1)?;
    agent.lose_power()?;
    assert!(!runs());
    agent.boot()?;
    sites.until("the pod runs again", runs)?;
    sites.until("and so does the new one", || sleeping(314_159).len() == 1)?;
    let process = sleeping(314_159);

    // Servers return.
    sites.part(0, 1, false)?;
    for at in 0..2 {
        sites.boot(at)?;
        let before = renewed(&sites, at);
        sites.until("the node is back", || renewed(&sites, at) > before && ready(&sites, at))?;
        sites.until("its log is read", || logs(&sites, at))?;
        sites.until("a command runs in it", || exec(&sites, at))?;
    }
    let file = sites.kubectl(1, &["exec", "p", "--", "cat", "/data/file"])?;
    assert_eq!(file, "kept\nkept\n", "the same pod, its volume, one start each");
    let running = ["get", "pod", "new", "-o", "jsonpath={.status.phase}"];
    for at in 0..2 {
        sites.until("all know the new pod", || sites.kubectl(at, &running).is_ok_and(|phase| phase == "Running"))?;
    }
    assert_eq!(sleeping(314_159), process, "it went on");
    sites.kubectl(1, &["delete", "pod", "new"])?;
    sites.until("it ends when it is deleted", || sleeping(314_159).is_empty())?;
    Ok(())
}
