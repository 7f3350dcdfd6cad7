//! The first free slice of the cluster's pod network.
use crate::action::{self, Action, Note};
use api::slice::{Share, Span};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use std::collections::BTreeSet;

/// The first slice of `mask` bits inside `cluster`, and inside this server's share, that overlaps none of `used`.
pub(super) fn free(cluster: Ipv4Net, mask: u8, used: &BTreeSet<Ipv4Net>, share: &Share) -> Option<Ipv4Net> {
    let ours = |slice: &Ipv4Net| {
        let first = u64::from(slice.network().to_bits());
        let span = Span { first, end: u64::from(slice.broadcast().to_bits()) + 1 };
        share.limits.as_ref().is_none_or(|limits| limits.pod_ips.covers(span))
    };
    let mut used: Vec<Ipv4Net> = used.iter().copied().collect();
    cluster.subnets(mask).ok()?.find(|slice| {
        // Slices come in order: what ends before this one can't matter to later ones.
        used.retain(|other| other.broadcast() >= slice.network());
        ours(slice) && !used.iter().any(|other| other.contains(slice) || slice.contains(other))
    })
}

/// Writes the slice into a node, or says that there is none left.
pub(super) fn plan(node: &Node, slice: Option<Ipv4Net>) -> Action {
    match slice {
        Some(slice) => {
            let slice = slice.to_string();
            let metadata = json!({"uid": node.metadata.uid});
            action::patch(node, json!({"metadata": metadata, "spec": {"podCIDR": slice, "podCIDRs": [slice]}}))
        }
        None => Action::Tell(Note {
            about: client::reference(node),
            warning: false,
            reason: "CIDRNotAvailable",
            message: format!(
                "Node {} status is now: CIDRNotAvailable",
                node.metadata.name.as_deref().unwrap_or_default()
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slice(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_gap_is_taken_and_a_full_network_is_told() {
        let cluster = slice("10.42.0.0/16");
        let used = BTreeSet::from([slice("10.42.0.0/24"), slice("10.42.2.0/24")]);
        assert_eq!(free(cluster, 24, &used, &Share::default()), Some(slice("10.42.1.0/24")));
        let tiny = slice("10.42.0.0/24");
        assert_eq!(free(tiny, 24, &BTreeSet::from([tiny]), &Share::default()), None);
        assert_eq!(
            free(tiny, 24, &BTreeSet::from([slice("10.42.0.128/26")]), &Share::default()),
            None,
            "foreign sizes count too"
        );
    }

    #[test]
    fn nodes_get_networks_of_their_servers_share() {
        let grant = api::slice::Grant { pod_cidrs: vec!["10.42.240.0/23".into()], ..Default::default() };
        let share = Share { limits: Some(grant.numbers().unwrap()) };
        let cluster = slice("10.42.0.0/16");
        assert_eq!(free(cluster, 24, &BTreeSet::new(), &share), Some(slice("10.42.240.0/24")));
        let used = BTreeSet::from([slice("10.42.240.0/24"), slice("10.42.241.0/24")]);
        assert_eq!(free(cluster, 24, &used, &share), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn slices_never_overlap(mask in 18u8..=26, nodes in 1usize..300) {
            let cluster = slice("10.42.0.0/16");
            let mut used = BTreeSet::new();
            for _ in 0..nodes {
                match free(cluster, mask, &used, &Share::default()) {
                    Some(new) => {
                        prop_assert!(used.iter().all(|other: &Ipv4Net| !new.contains(other) && !other.contains(&new)));
                        prop_assert!(cluster.contains(&new));
                        used.insert(new);
                    }
                    None => { prop_assert_eq!(used.len(), 1 << (mask - 16)); break; }
                }
            }
        }
    }
}
