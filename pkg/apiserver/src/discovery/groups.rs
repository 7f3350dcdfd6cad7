//! Groups and versions in upstream's order, from the registry and the virtual resources.
use super::virtuals;
use crate::registry::{Resource, Served};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

pub struct Group {
    /// Empty: the core group.
    pub name: String,
    /// The preferred one first.
    pub versions: Vec<Version>,
}

pub struct Version {
    pub name: String,
    pub resources: Vec<Arc<Resource>>,
}

/// The order in which kube-apiserver lists its groups (priorities in `pkg/controlplane/apiserver`); others follow
/// by name.
const ORDER: [&str; 21] = [
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

/// All groups that serve something.
pub fn all(served: &Served) -> Vec<Group> {
    let mut by_group: BTreeMap<&str, BTreeMap<&str, Vec<Arc<Resource>>>> = BTreeMap::new();
    let virtuals = virtuals::resources().iter().filter(|resource| !served.contains_key(&resource.gvr));
    for resource in served.values().chain(virtuals) {
        let versions = by_group.entry(&resource.gvr.group).or_default();
        versions.entry(&resource.gvr.version).or_default().push(resource.clone());
    }
    let mut groups: Vec<Group> = by_group.into_iter().map(|(name, versions)| group(name, versions)).collect();
    groups.sort_by_key(|group| ORDER.iter().position(|name| *name == group.name).unwrap_or(ORDER.len()));
    groups
}

fn group(name: &str, versions: BTreeMap<&str, Vec<Arc<Resource>>>) -> Group {
    let mut versions: Vec<Version> = versions
        .into_iter()
        .map(|(name, mut resources)| {
            resources.sort_by(|a, b| a.gvr.resource.cmp(&b.gvr.resource));
            Version { name: name.into(), resources }
        })
        .collect();
    versions.sort_by_key(|version| Reverse(priority(&version.name)));
    Group { name: name.into(), versions }
}

/// Kubernetes' order of versions (`k8s.io/apimachinery/pkg/version`): general availability before beta before
/// alpha, then larger numbers; anything else comes last.
fn priority(version: &str) -> (u8, u32, u32) {
    let parsed = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (major, stage) = rest.split_at(digits);
        let major = major.parse().ok()?;
        Some(if stage.is_empty() {
            (3, major, 0)
        } else if let Some(minor) = stage.strip_prefix("beta") {
            (2, major, minor.parse().ok()?)
        } else {
            (1, major, stage.strip_prefix("alpha")?.parse().ok()?)
        })
    };
    parsed().unwrap_or((0, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_as_kubernetes_sorts_them() {
        let mut versions = ["foo1", "v1alpha1", "v10", "v2", "v1beta2", "v11alpha2", "v1", "v1beta1"];
        versions.sort_by_key(|version| Reverse(priority(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v11alpha2", "v1alpha1", "foo1"]);
    }
}
