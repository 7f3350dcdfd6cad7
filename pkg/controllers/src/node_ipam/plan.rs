//! The first free slice of the cluster's pod network.
use crate::action::{self, Action, Note};
use ipnet::Slice;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

pub(super) mod ipnet {
    //! The little of address arithmetic that is needed here.
    use std::fmt;
    use std::net::Ipv4Addr;

    /// An IPv4 network.
    #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
    pub struct Slice {
        pub address: Ipv4Addr,
        pub bits: u8,
    }

    impl Slice {
        pub fn parse(text: &str) -> Option<Self> {
            let (address, bits) = text.split_once('/')?;
            let (address, bits) = (address.parse().ok()?, bits.parse().ok().filter(|bits| *bits <= 32)?);
            Some(Self { address, bits })
        }

        /// First and last address, as numbers.
        pub fn range(self) -> (u64, u64) {
            let size = 1u64 << (32 - self.bits);
            let first = u64::from(u32::from(self.address)) / size * size;
            (first, first + size - 1)
        }

        pub fn overlaps(self, other: Self) -> bool {
            let ((a, b), (c, d)) = (self.range(), other.range());
            a <= d && c <= b
        }
    }

    impl fmt::Display for Slice {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}/{}", self.address, self.bits)
        }
    }
}

/// The first slice of `mask` bits inside `cluster` that overlaps none of `used`.
pub(super) fn free(cluster: Slice, mask: u8, used: &BTreeSet<Slice>) -> Option<Slice> {
    let (first, last) = cluster.range();
    let size = 1usize << (32 - mask.clamp(cluster.bits, 32));
    let slices = (first..=last).step_by(size);
    let slices = slices.map(|start| Slice { address: Ipv4Addr::from(start as u32), bits: mask });
    let mut used: Vec<Slice> = used.iter().copied().collect();
    slices.into_iter().find(|slice| {
        // Both are in order: what ends before this slice can't matter to later ones.
        used.retain(|other| other.range().1 >= slice.range().0);
        !used.iter().any(|other| other.overlaps(*slice))
    })
}

/// Writes the slice into a node, or says that there is none left.
pub(super) fn plan(node: &Node, slice: Option<Slice>) -> Action {
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

    fn slice(text: &str) -> Slice {
        Slice::parse(text).unwrap()
    }

    #[test]
    fn the_first_gap_is_taken_and_a_full_network_is_told() {
        let cluster = slice("10.42.0.0/16");
        let used = BTreeSet::from([slice("10.42.0.0/24"), slice("10.42.2.0/24")]);
        assert_eq!(free(cluster, 24, &used), Some(slice("10.42.1.0/24")));
        let tiny = slice("10.42.0.0/24");
        assert_eq!(free(tiny, 24, &BTreeSet::from([tiny])), None);
        assert_eq!(free(tiny, 24, &BTreeSet::from([slice("10.42.0.128/26")])), None, "foreign sizes count too");
    }

    proptest! {
        #[test]
        fn slices_never_overlap(mask in 18u8..=26, nodes in 1usize..300) {
            let cluster = slice("10.42.0.0/16");
            let mut used = BTreeSet::new();
            for _ in 0..nodes {
                match free(cluster, mask, &used) {
                    Some(new) => {
                        prop_assert!(used.iter().all(|other| !new.overlaps(*other)));
                        prop_assert!(new.overlaps(cluster));
                        used.insert(new);
                    }
                    None => { prop_assert_eq!(used.len(), 1 << (mask - 16)); break; }
                }
            }
        }
    }
}
