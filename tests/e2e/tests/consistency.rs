//! `eyot.dev/consistency: home`: one truth, whichever server is asked, and none while its home is away.
use e2e::sites::Sites;

#[test]
fn what_needs_one_truth_is_written_at_home_or_nowhere() -> anyhow::Result<()> {
    let sites = Sites::start(6, 2)?;
    sites.kubectl(0, &["create", "namespace", "strict"])?;
    sites.kubectl(0, &["annotate", "namespace", "strict", "eyot.dev/consistency=home"])?;
    sites.kubectl(0, &["create", "quota", "few", "-n", "strict", "--hard=count/configmaps=3"])?;
    let told = ["get", "namespace", "strict", "-o", "jsonpath={.metadata.annotations}"];
    sites.until("b knows", || sites.kubectl(1, &told).is_ok_and(|all| all.contains("eyot.dev/consistency")))?;
    let make = |at: usize, name: &str| sites.kubectl(at, &["create", "configmap", name, "-n", "strict"]);
    sites.until("the quota is counted", || {
        let used = ["get", "quota", "few", "-n", "strict", "-o", "jsonpath={.status.used}"];
        sites.kubectl(0, &used).is_ok_and(|used| used.contains('1'))
    })?;

    // No time passes between a write at one and a read at the other.
    make(1, "one")?;
    sites.kubectl(0, &["get", "configmap", "one", "-n", "strict"])?;
    make(0, "two")?;
    let refused = make(1, "three").unwrap_err().to_string();
    assert!(refused.contains("exceeded quota"), "one quota for all servers: {refused}");

    sites.cut(0, true)?;
    // kubectl tries again for as long as it is told to, and is to be wordy to say what it was answered meanwhile.
    for write in [["create", "configmap", "four"], ["delete", "configmap", "one"]] {
        let wordy = ["-n", "strict", "--request-timeout=8s", "-v=8"];
        let refused = sites.kubectl(1, &[&write[..], &wordy].concat()).unwrap_err().to_string();
        assert!(refused.contains("503 Service Unavailable") && refused.contains("Retry-After: 10"), "{refused}");
    }
    sites.until("what is here is read", || sites.kubectl(1, &["get", "configmap", "one", "-n", "strict"]).is_ok())?;
    sites.kubectl(1, &["create", "configmap", "free"])?;
    sites.cut(0, false)?;
    sites.until("home writes again", || {
        sites.kubectl(1, &["delete", "configmap", "one", "-n", "strict", "--ignore-not-found"]).is_ok()
    })?;
    assert!(sites.kubectl(0, &["get", "configmap", "one", "-n", "strict"]).is_err());
    Ok(())
}
