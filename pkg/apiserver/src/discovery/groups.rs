//! Groups and versions in upstream's order, from the registry and the virtual resources.
use super::virtuals;
use crate::aggregation::{Remote, Remotes, local};
use crate::registry::{Resource, Served};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) struct Group {
    /// Empty: the core group.
    pub name: String,
    pub priority: i64,
    /// The preferred one first.
    pub versions: Vec<Version>,
}

pub(crate) struct Version {
    pub name: String,
    pub priority: i64,
    pub content: Content,
}

/// Who serves a version.
pub(crate) enum Content {
    Local(Vec<Arc<Resource>>),
    Remote(Arc<Remote>),
}

/// All groups that serve something, here or elsewhere: those of larger priority first, then by name.
pub(crate) fn all(served: &Served, remotes: &Remotes) -> Vec<Group> {
    let mut by_group: BTreeMap<&str, BTreeMap<&str, Vec<Arc<Resource>>>> = BTreeMap::new();
    let virtuals = virtuals::resources().iter().filter(|resource| !served.contains_key(&resource.gvr));
    for resource in served.values().chain(virtuals) {
        let versions = by_group.entry(&resource.gvr.group).or_default();
        versions.entry(&resource.gvr.version).or_default().push(resource.clone());
    }
    let mut groups: BTreeMap<String, Group> =
        by_group.into_iter().map(|(name, versions)| (name.to_owned(), group(name, versions))).collect();
    for remote in remotes.all() {
        let new = || Group { name: remote.group.clone(), priority: 0, versions: Vec::new() };
        let group = groups.entry(remote.group.clone()).or_insert_with(new);
        group.priority = group.priority.max(remote.group_priority);
        group.versions.retain(|version| version.name != remote.version);
        let priority = remote.version_priority;
        let content = Content::Remote(remote.clone());
        group.versions.push(Version { name: remote.version.clone(), priority, content });
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    for group in &mut groups {
        group.versions.sort_by_key(|version| (Reverse(version.priority), Reverse(priority(&version.name))));
    }
    groups.sort_by_key(|group| Reverse(group.priority));
    groups
}

fn group(name: &str, versions: BTreeMap<&str, Vec<Arc<Resource>>>) -> Group {
    let versions = versions.into_iter().map(|(version, mut resources)| {
        resources.sort_by(|a, b| a.gvr.resource.cmp(&b.gvr.resource));
        let priority = local::version_priority(name, version);
        Version { name: version.into(), priority, content: Content::Local(resources) }
    });
    Group { name: name.into(), priority: local::group_priority(name), versions: versions.collect() }
}

/// Kubernetes' order of versions (`k8s.io/apimachinery/pkg/version`): general availability before beta before
/// alpha, then larger numbers; anything else comes last.
pub fn priority(version: &str) -> (u8, u32, u32) {
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
