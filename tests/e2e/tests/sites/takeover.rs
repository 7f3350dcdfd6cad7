//! A site that is lost to two parts of the cluster which are lost to each other: both act for it, and when all are back
//! what is too much goes, the replacements first.
use e2e::sites::Sites;
use std::collections::BTreeSet;

#[test]
fn two_islands_take_over_and_one_goes_on() -> anyhow::Result<()> {
    let sites = Sites::start(8, 3)?;
    sites.kubectl(2, &["create", "deployment", "web", "--image=eyot.dev/demo:1", "--replicas=3"])?;
    sites.kubectl(2, &["annotate", "deployment", "web", "eyot.dev/takeover-seconds=25"])?;
    let set = r#"{"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {"replicas": 2,
        "podManagementPolicy": "Parallel", "selector": {"matchLabels": {"app": "db"}}, "template":
        {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "it", "image": "eyot.dev/demo:1"}]}}}}"#;
    let file = sites.file("set.json", set)?;
    sites.kubectl(2, &["apply", "-f", &file])?;
    let uids = |at: usize, app: &str| -> BTreeSet<String> {
        let uids = ["get", "pods", "-l", app, "-o", "jsonpath={.items[*].metadata.uid}"];
        sites.kubectl(at, &uids).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    for at in 0..3 {
        sites.until("all pods are there", || uids(at, "app=web").len() == 3 && uids(at, "app=db").len() == 2)?;
    }
    let (web, db) = (uids(2, "app=web"), uids(2, "app=db"));

    for at in 0..3 {
        sites.cut(at, true)?;
    }
    for at in 0..2 {
        sites.until("it acts for the lost site", || uids(at, "app=web").len() == 6)?;
        assert_eq!(uids(at, "app=db"), db, "pods of a StatefulSet stay");
    }
    assert_eq!(uids(2, "app=web"), web, "home goes on with what it has");

    // The two islands meet: one of them acts, by a record that both have.
    for at in 0..2 {
        sites.cut(at, false)?;
    }
    let both = || (uids(0, "app=web"), uids(1, "app=web"));
    sites.until("they meet", || matches!(both(), (a, b) if a == b && a.is_superset(&web)))?;
    let taken = ["get", "server", "c", "-o", "jsonpath={.metadata.annotations}"];
    sites.until("both records are there", || {
        (0..2).all(|at| {
            sites.kubectl(at, &taken).is_ok_and(|all| all.contains("eyot.dev/a") && all.contains("eyot.dev/b"))
        })
    })?;

    sites.cut(2, false)?;
    sites.agree(&["get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"])?;
    for at in 0..3 {
        sites
            .until("what was there before is what stays", || uids(at, "app=web") == web && uids(at, "app=db") == db)?;
    }
    Ok(())
}
