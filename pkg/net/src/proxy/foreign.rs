//! Other programs' firewalls: a drop in any table wins over an accept in ours, so all that helps is to say it.
use super::nft;
use crate::routes::vtep;
use std::collections::BTreeSet;

/// A chain of somebody else's that drops by default what pods need.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dropper {
    /// Family and name of the table.
    pub table: String,
    pub chain: String,
    /// `forward` or `input`.
    pub hook: String,
}

/// Looks once; says each dropper once in the log. `vxlan` is whether packets come from other nodes that way.
pub async fn warn(our_table: &str, vxlan: bool, said: &mut BTreeSet<Dropper>) {
    let Ok(text) = nft::list_chains().await else { return };
    for dropper in find(&text, our_table) {
        if said.insert(dropper.clone()) {
            let Dropper { table, chain, hook } = &dropper;
            let cure = cure(hook, vxlan);
            tracing::warn!(
                "table {table}, chain {chain} drops packets in {hook} by default: {cure} there, or pods lose them"
            );
        }
    }
}

/// What must be accepted there.
fn cure(hook: &str, vxlan: bool) -> String {
    match hook {
        "forward" => "accept traffic from and to the pod network".to_owned(),
        _ if vxlan => format!("accept pods, and UDP port {} from other nodes,", vtep::PORT),
        _ => "accept pods".to_owned(),
    }
}

/// Reads `nft list chains`.
fn find(text: &str, our_table: &str) -> Vec<Dropper> {
    let (mut table, mut chain, mut found) = (String::new(), String::new(), Vec::new());
    for line in text.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["table", family, name, "{"] => table = format!("{family} {name}"),
            ["chain", name, "{"] => chain = name.to_owned(),
            ["type", "filter", "hook", hook @ ("forward" | "input"), "priority", .., "policy", "drop;"] => {
                found.push(Dropper { table: table.clone(), chain: chain.clone(), hook: hook.to_owned() });
            }
            _ => {}
        }
    }
    found.retain(|dropper| dropper.table != format!("inet {our_table}"));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER: &str = "table ip filter {
\tchain DOCKER {
\t}
\tchain FORWARD {
\t\ttype filter hook forward priority filter; policy drop;
\t}
\tchain OUTPUT {
\t\ttype filter hook output priority filter; policy drop;
\t}
\tchain INPUT {
\t\ttype filter hook input priority filter; policy accept;
\t}
}
table inet eyot {
\tchain filter-input {
\t\ttype filter hook input priority filter - 10; policy drop;
\t}
}
";

    #[test]
    fn finds_docker_and_not_ourselves() {
        let dropper = Dropper { table: "ip filter".into(), chain: "FORWARD".into(), hook: "forward".into() };
        assert_eq!(find(DOCKER, "eyot"), [dropper]);
        assert_eq!(find("", "eyot"), []);
        assert!(cure("input", true).contains("8472") && !cure("input", false).contains("8472"));
        assert!(cure("forward", true).contains("pod network"));
    }
}
