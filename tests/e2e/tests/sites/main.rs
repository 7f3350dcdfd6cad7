//! Three servers at three sites: each accepts every write, cut off or not, and they converge.
mod absence;
mod handover;
mod takeover;

use e2e::sites::Sites;

const MAP: [&str; 3] = ["get", "configmap", "shared"];

#[test]
fn a_cut_site_goes_on_and_converges() -> anyhow::Result<()> {
    let mut sites = Sites::start(1, 3)?;
    let linked = |at: usize, count: usize| {
        let links = sites.kubectl(at, &["get", "servers", "-o", "jsonpath={.items[*].status.link}"]);
        links.is_ok_and(|links| links.split(' ').filter(|link| *link != "Lost").count() == count)
    };
    for at in 0..3 {
        sites.until("all are linked", || linked(at, 3))?;
    }
    assert!(sites.eyot(1, &["status"]).unwrap_or_else(|error| error.to_string()).contains("server   b at b: this one"));

    // What one is told, all know.
    for at in 0..3 {
        let name = format!("from-{}", Sites::letter(at));
        sites.kubectl(at, &["create", "configmap", &name, "--from-literal=x=1"])?;
    }
    sites.kubectl(0, &["create", "configmap", "shared", "--from-literal=color=none", "--from-literal=size=none"])?;
    let names = sites.agree(&["get", "configmaps", "-n", "default", "-o", "name"])?;
    assert_eq!(names.lines().filter(|name| name.contains("from-")).count(), 3, "{names}");

    // One site's controllers act, and the others look on.
    sites.kubectl(1, &["create", "deployment", "web", "--image=eyot.dev/demo:1", "--replicas=3"])?;
    let pods = ["get", "pods", "-l", "app=web", "-o", "name"];
    sites.until("three pods are there", || sites.kubectl(2, &pods).is_ok_and(|pods| pods.lines().count() == 3))?;
    assert_eq!(sites.agree(&pods)?.lines().count(), 3);

    // Cut off, the third site reads and writes, also after a crash.
    sites.cut(2, true)?;
    sites.kubectl(2, &["label", "configmap", "shared", "island=yes"])?;
    sites.kubectl(2, &["patch", "configmap", "shared", "-p", r#"{"data":{"color":"red"}}"#])?;
    sites.kubectl(2, &["create", "namespace", "island"])?;
    sites.kubectl(2, &["delete", "configmap", "from-a"])?;
    sites.kill(2)?;
    sites.boot(2)?;
    sites.kubectl(2, &["create", "configmap", "after-boot", "--from-literal=x=1"])?;
    sites.kubectl(0, &["label", "configmap", "shared", "mainland=yes"])?;
    sites.kubectl(1, &["patch", "configmap", "shared", "-p", r#"{"data":{"color":"blue"}}"#])?;
    sites.kubectl(1, &["scale", "deployment", "web", "--replicas=5"])?;
    sites.until("the mainland scales", || sites.kubectl(0, &pods).is_ok_and(|pods| pods.lines().count() == 5))?;
    assert_eq!(sites.kubectl(2, &pods)?.lines().count(), 3, "the island looks on");

    // Back again, all is merged, and what lost is told.
    sites.cut(2, false)?;
    sites.until("the island's namespace arrives", || sites.kubectl(0, &["get", "namespace", "island"]).is_ok())?;
    sites
        .until("the mainland's pods arrive", || sites.kubectl(2, &pods).is_ok_and(|pods| pods.lines().count() == 5))?;
    let merged =
        sites.agree(&[&MAP[..], &["-o", "jsonpath={.data.color} {.data.size} {.metadata.labels}"]].concat())?;
    assert!(merged.starts_with("blue none"), "the later write wins: {merged}");
    assert!(merged.contains("island") && merged.contains("mainland"), "both labels: {merged}");
    let names = sites.agree(&["get", "configmaps", "-n", "default", "-o", "name"])?;
    assert!(names.contains("after-boot") && !names.contains("from-a"), "{names}");
    sites.agree(&["get", "--raw", "/v1-eyot/digest"])?;
    let conflicts = sites.eyot(0, &["conflicts"])?;
    assert!(conflicts.contains("data.color") && conflicts.contains("red"), "{conflicts}");
    let events =
        ["get", "events", "-o", "jsonpath={.items[*].message}", "--field-selector", "reason=ConcurrentWriteLost"];
    sites.until("an event tells of it", || sites.kubectl(1, &events).is_ok_and(|told| told.contains("data.color")))?;

    // Who was removed is told nothing more.
    sites.kubectl(0, &["delete", "server", "c"])?;
    let linked = || {
        let links = ["get", "servers", "-o", "jsonpath={.items[*].status.link}"];
        sites.kubectl(2, &links).unwrap_or_else(|error| error.to_string()).contains("Linked")
    };
    sites.until("c's links end", || !linked())?;
    sites.kubectl(0, &["create", "configmap", "secret-plan", "--from-literal=x=1"])?;
    sites.until("b hears of it", || sites.kubectl(1, &["get", "configmap", "secret-plan"]).is_ok())?;
    assert!(sites.kubectl(2, &["get", "configmap", "secret-plan"]).is_err());
    Ok(())
}

#[test]
fn who_may_not_join_is_told_why() -> anyhow::Result<()> {
    let sites = Sites::start(2, 1)?;
    let token = sites.eyot(0, &["token", "show"]).unwrap_or_default();
    let refused = sites.kubectl(0, &["get", "--raw", "/v1-eyot/link"]).unwrap_err().to_string();
    assert!(refused.contains("may not link servers") || refused.contains("forbidden"), "{refused}");
    assert!(token.is_empty() || token.starts_with("K10"));
    Ok(())
}
