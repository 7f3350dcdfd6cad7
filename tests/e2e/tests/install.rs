//! `install.sh` for a node without a server, on a machine without systemd: as the README says, again, and away.
use e2e::installed::Machine;
use e2e::sites::Sites;

/// How full this machine is must not matter.
const FLAGS: &str = "--node-name edge --eviction-hard=";

#[test]
fn a_node_is_installed_and_removed() -> anyhow::Result<()> {
    let sites = Sites::start(14, 1)?;
    let (url, token) = (sites.url(0), sites.token_of_nodes(0)?);
    let machine = Machine::place(&sites)?;
    let said = machine.install(&url, &token, FLAGS)?;
    assert!(said.contains("Ready") && said.contains("Eyot runs this node"), "{said}");
    let ready = ["get", "node", "edge", "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}"];
    sites.until("the server has the node", || sites.kubectl(0, &ready).is_ok_and(|status| status == "True"))?;

    // What joins is for root alone, and on no command line; nothing of the templates is left to fill in.
    assert_eq!(machine.sh("stat -c %a /etc/eyot/config.yaml /etc/eyot")?, "600\n700\n");
    let proxies = machine.sh("stat -c %a /etc/eyot/eyot.env; sort /etc/eyot/eyot.env")?;
    assert_eq!(proxies, "600\nHTTPS_PROXY='http://proxy.invalid:3128'\nNO_PROXY='10.0.0.0/8'\n");
    let process = "cat /run/eyot.pid /proc/$(cat /run/eyot.pid)/task/*/children";
    let before = machine.sh(process)?;
    let line =
        machine.sh("for pid in $(cat /proc/$(cat /run/eyot.pid)/task/*/children); do cat /proc/$pid/cmdline; done")?;
    assert!(line.contains("agent") && !line.contains(&token), "{line}");
    let supervisor = machine.sh("cat /var/lib/eyot/supervise.sh")?;
    assert!(!supervisor.contains("@LOG@") && !supervisor.contains("@BIN@"), "{supervisor}");

    // Again: nothing happens. With another token: it is told, and nothing happens either.
    machine.install(&url, &token, FLAGS)?;
    assert_eq!(machine.sh(process)?, before, "nothing was restarted");
    let other = machine.install(&url, "other", FLAGS).unwrap_err().to_string();
    assert!(other.contains("config.yaml is there already and says otherwise"), "{other}");

    let said = machine.uninstall()?;
    assert!(said.contains("Eyot is removed"), "{said}");
    let left = "ls -A /etc/eyot /var/lib/eyot /usr/local/bin /run /var/log/eyot.log 2>/dev/null; nft list tables";
    let left = machine.sh(&format!("{left}; ip -brief link | grep -v -e ^lo -e ^eth0 || true"))?;
    let left: Vec<_> = left.lines().filter(|line| !line.is_empty() && !line.ends_with(':')).collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn a_node_that_may_not_join_is_told_why() -> anyhow::Result<()> {
    let sites = Sites::start(15, 1)?;
    let machine = Machine::place(&sites)?;
    let bare = machine.install(&sites.url(0), "hunter2", FLAGS).unwrap_err().to_string();
    assert!(bare.contains("the token must be whole"), "{bare}");
    Ok(())
}
