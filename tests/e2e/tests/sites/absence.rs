//! A server that was away for longer than the others wait comes back: what it alone had is kept, and all are equal again.
use e2e::sites::Sites;
use std::time::Duration;

/// Removals that nobody lacks are forgotten within this time.
const FORGOTTEN: Duration = Duration::from_secs(35);

#[test]
fn who_was_away_too_long_takes_over_a_store_and_keeps_its_own_writes() -> anyhow::Result<()> {
    let mut sites = Sites::start_with(13, 3, &["--absent-after", "30s"])?;
    let map = |at: usize, name: &str, data: &str| {
        sites.kubectl(at, &["create", "configmap", name, &format!("--from-literal={data}")])
    };
    let patch =
        |at: usize, patch: &str| sites.kubectl(at, &["patch", "configmap", "shared", "--type=merge", "-p", patch]);
    map(0, "shared", "color=none")?;
    patch(0, r#"{"data":{"size":"none","old":"1"}}"#)?;
    for name in ["removed-at-home", "removed-away", "edited-away"] {
        map(0, name, "x=1")?;
    }
    sites.kubectl(2, &["create", "deployment", "web", "--image=eyot.dev/demo:1", "--replicas=2"])?;
    let pods = ["get", "pods", "-l", "app=web", "-o", "name"];
    sites.until("two pods are there", || sites.kubectl(0, &pods).is_ok_and(|pods| pods.lines().count() == 2))?;
    let incarnation = ["get", "server", "c", "-o", "jsonpath={.spec.incarnation}"];
    let before = sites.agree(&incarnation)?;

    sites.cut(2, true)?;
    sites.kubectl(0, &["delete", "configmap", "removed-at-home", "edited-away"])?;
    patch(0, r#"{"data":{"size":"large","old":null}}"#)?;
    map(1, "made-at-home", "x=1")?;
    sites.kubectl(2, &["delete", "configmap", "removed-away"])?;
    sites.kubectl(2, &["label", "configmap", "edited-away", "kept=no"])?;
    patch(2, r#"{"data":{"color":"red"}}"#)?;
    map(2, "made-away", "x=1")?;
    sites.kubectl(2, &["scale", "deployment", "web", "--replicas=3"])?;
    let absent = |sites: &Sites, at: usize, name: &str| {
        let link = ["get", "server", name, "-o", "jsonpath={.status.link}"];
        sites.kubectl(at, &link).is_ok_and(|link| link == "Absent")
    };
    sites.until("each side waits no longer for the other", || {
        absent(&sites, 0, "c") && absent(&sites, 1, "c") && absent(&sites, 2, "a")
    })?;
    assert!(sites.eyot(1, &["status"]).unwrap_or_else(|error| error.to_string()).contains("Absent, not heard for"));
    std::thread::sleep(FORGOTTEN);
    sites.kill(2)?;
    sites.boot(2)?;
    sites.kubectl(2, &["create", "configmap", "made-after-boot", "--from-literal=x=1"])?;

    sites.cut(2, false)?;
    sites.until("c takes over a store", || sites.whole_log(2).contains("taking over its store"))?;
    sites.until("what c had is at home", || sites.kubectl(0, &["get", "configmap", "made-after-boot"]).is_ok())?;
    sites.until("what home had is at c", || sites.kubectl(2, &["get", "configmap", "made-at-home"]).is_ok())?;
    assert_ne!(sites.agree(&incarnation)?, before);
    sites.agree(&["get", "--raw", "/v1-eyot/digest"])?;
    let names = sites.agree(&["get", "configmaps", "-n", "default", "-o", "name"])?;
    let made = ["made-at-home", "made-away", "made-after-boot", "shared"];
    assert!(made.iter().all(|name| names.contains(name)), "{names}");
    assert!(!names.contains("removed-"), "{names}");
    let data = sites.kubectl(1, &["get", "configmap", "shared", "-o", "jsonpath={.data}"])?;
    assert_eq!(data, r#"{"color":"red","size":"large"}"#);
    assert_eq!(sites.agree(&pods)?.lines().count(), 3);

    // It is a member like any other.
    sites.kubectl(2, &["create", "configmap", "told", "--from-literal=x=1"])?;
    sites.until("b hears of c", || sites.kubectl(1, &["get", "configmap", "told"]).is_ok())?;
    sites.until("a waits for c again", || !absent(&sites, 0, "c"))
}
