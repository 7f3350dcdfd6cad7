//! Who owns whom: an index over the metadata of everything, and what it says about one object. Pure.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::PartialObjectMeta;
use kube::{Resource, ResourceExt};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

pub(super) type Uid = String;
pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// An object in the index.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Index of the kind among those watched.
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
    pub owners: Vec<OwnerReference>,
    pub deleting: bool,
    /// Waits for its dependents before it goes.
    pub foreground: bool,
    /// Lets its dependents go free before it goes.
    pub orphans: bool,
}

/// A watched kind.
pub(super) type Kind = Arc<kube::core::ApiResource>;

/// The index: about 200 bytes an object.
#[derive(Default)]
pub(super) struct Graph {
    nodes: HashMap<Uid, Node>,
    dependents: HashMap<Uid, HashSet<Uid>>,
    buried: Buried,
}

/// Owners whose end was seen, the last ones.
#[derive(Default)]
struct Buried {
    uids: HashSet<Uid>,
    order: VecDeque<Uid>,
}

/// Ends that are remembered: some 100 bytes each. Owners past it count as not known.
const BURIED: usize = 50_000;

impl Buried {
    fn add(&mut self, uid: &Uid) {
        if self.uids.insert(uid.clone()) {
            self.order.push_back(uid.clone());
        }
        while self.order.len() > BURIED {
            self.order.pop_front().inspect(|oldest| _ = self.uids.remove(oldest));
        }
    }
}

impl Node {
    pub(super) fn of<K: Resource>(kind: &Kind, object: &PartialObjectMeta<K>) -> Option<(Uid, Self)> {
        let meta = &object.metadata;
        let finalizers = meta.finalizers.as_deref().unwrap_or_default();
        let has = |finalizer: &str| finalizers.iter().any(|f| f == finalizer);
        let deleting = meta.deletion_timestamp.is_some();
        let node = Self {
            kind: kind.clone(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: object.name_any(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting,
            foreground: deleting && has(FOREGROUND),
            orphans: deleting && has(ORPHAN),
        };
        Some((meta.uid.clone()?, node))
    }
}

impl Graph {
    /// Takes an object in. Returns the uids to look at: its own when it has owners or waits for its dependents.
    pub(super) fn put(&mut self, uid: &Uid, node: Node) -> Vec<Uid> {
        let before = self.nodes.get(uid);
        if before == Some(&node) {
            return Vec::new();
        }
        for owner in before.map(|node| node.owners.clone()).unwrap_or_default() {
            self.unlink(&owner.uid, uid);
        }
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        let mut look_at = Vec::new();
        if !node.owners.is_empty() || node.foreground || node.orphans {
            look_at.push(uid.clone());
        }
        if node.foreground {
            look_at.extend(self.dependents_of(uid));
        }
        // Whoever waits for this one may go on when it stopped blocking.
        look_at.extend(node.owners.iter().map(|owner| &owner.uid).filter(|owner| self.waits(owner)).cloned());
        self.nodes.insert(uid.clone(), node);
        look_at
    }

    /// An object is gone. Returns whom that concerns: its dependents, and owners that waited for it.
    pub(super) fn remove(&mut self, uid: &Uid) -> Vec<Uid> {
        let Some(node) = self.nodes.remove(uid) else { return self.dependents_of(uid) };
        let mut look_at = self.dependents_of(uid);
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
            look_at.extend(self.waits(&owner.uid).then(|| owner.uid.clone()));
        }
        look_at
    }

    /// An object's end was seen: it was deleted, not just missing from a list.
    pub(super) fn bury(&mut self, uid: &Uid) {
        self.buried.add(uid);
    }

    pub(super) fn is_buried(&self, uid: &Uid) -> bool {
        self.buried.uids.contains(uid)
    }

    pub(super) fn get(&self, uid: &Uid) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub(super) fn dependents_of(&self, uid: &Uid) -> Vec<Uid> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// Dependents that hold up their owner's foreground deletion.
    pub(super) fn blocking(&self, uid: &Uid) -> Vec<Uid> {
        let blocks = |dependent: &Uid| {
            let owners = self.nodes.get(dependent).map(|node| &*node.owners).unwrap_or_default();
            owners.iter().any(|owner| owner.uid == *uid && owner.block_owner_deletion == Some(true))
        };
        self.dependents_of(uid).into_iter().filter(blocks).collect()
    }

    /// Whether one of its dependents is itself being deleted in the foreground.
    pub(super) fn has_waiting_dependent(&self, uid: &Uid) -> bool {
        self.dependents.get(uid).into_iter().flatten().any(|dependent| self.waits(dependent))
    }

    /// uids of one kind's objects, to find those that vanished while nobody watched.
    pub(super) fn of_kind(&self, kind: &Kind) -> Vec<Uid> {
        self.nodes.iter().filter(|(_, node)| node.kind == *kind).map(|(uid, _)| uid.clone()).collect()
    }

    fn waits(&self, uid: &Uid) -> bool {
        self.nodes.get(uid).is_some_and(|node| node.foreground)
    }

    fn unlink(&mut self, owner: &Uid, dependent: &Uid) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

/// What is known about an owner, from the index or by asking the API.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum OwnerState {
    Solid,
    /// Asked for and not there, or there in another life.
    Absent,
    /// Being deleted in the foreground: waits for its dependents.
    Waiting,
    /// Not there, and nobody has seen its end: it may be on its way from another site.
    Unknown,
}

/// What should happen to an object with owners.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    Keep,
    /// It has another owner: these references go.
    Unlink(Vec<Uid>),
    /// Nobody owns it any more.
    Delete {
        /// Its own dependents have to go first.
        foreground: bool,
    },
}

/// `blocks_dependents`: the object has dependents of its own.
pub(super) fn judge(owners: &[(OwnerReference, OwnerState)], has_dependents: bool) -> Verdict {
    let of = |state: OwnerState| owners.iter().filter(move |(_, s)| *s == state);
    let stands = |state: OwnerState| matches!(state, OwnerState::Solid | OwnerState::Unknown);
    let gone: Vec<Uid> = owners.iter().filter(|(_, s)| !stands(*s)).map(|(o, _)| o.uid.clone()).collect();
    if gone.is_empty() {
        return Verdict::Keep;
    }
    if owners.iter().any(|(_, state)| stands(*state)) {
        return Verdict::Unlink(gone);
    }
    Verdict::Delete { foreground: of(OwnerState::Waiting).next().is_some() && has_dependents }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::ApiResource;

    fn kind() -> Kind {
        Arc::new(ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&()))
    }

    fn owner(uid: &str, blocks: bool) -> OwnerReference {
        OwnerReference { uid: uid.into(), block_owner_deletion: Some(blocks), ..OwnerReference::default() }
    }

    fn node(owners: Vec<OwnerReference>, foreground: bool) -> Node {
        Node {
            kind: kind(),
            namespace: "ns".into(),
            name: "n".into(),
            owners,
            deleting: foreground,
            foreground,
            orphans: false,
        }
    }

    #[test]
    fn absence_of_an_owner_proves_nothing_until_its_end_was_seen() {
        let unknown = (owner("a", true), OwnerState::Unknown);
        assert_eq!(judge(std::slice::from_ref(&unknown), false), Verdict::Keep);
        let absent = (owner("b", true), OwnerState::Absent);
        assert_eq!(judge(&[unknown, absent], false), Verdict::Unlink(vec!["b".into()]), "the unknown one may come");
        let mut graph = Graph::default();
        graph.put(&"a".into(), node(Vec::new(), false));
        graph.remove(&"a".into());
        assert!(!graph.is_buried(&"a".into()), "missing from a list");
        graph.bury(&"a".into());
        assert!(graph.is_buried(&"a".into()));
        (0..BURIED).for_each(|n| graph.bury(&n.to_string()));
        assert!(!graph.is_buried(&"a".into()), "the oldest are forgotten");
    }

    #[test]
    fn a_deleted_owner_brings_its_dependents_up() {
        let mut graph = Graph::default();
        assert!(graph.put(&"rs".into(), node(vec![], false)).is_empty());
        assert_eq!(graph.put(&"pod".into(), node(vec![owner("rs", true)], false)), ["pod"]);
        assert!(graph.put(&"pod".into(), node(vec![owner("rs", true)], false)).is_empty(), "nothing changed");
        assert_eq!(graph.remove(&"rs".into()), ["pod"]);
        assert_eq!(graph.remove(&"unknown".into()), Vec::<Uid>::new());
    }

    #[test]
    fn a_waiting_owner_is_looked_at_when_a_blocker_goes() {
        let mut graph = Graph::default();
        graph.put(&"pod".into(), node(vec![owner("rs", true)], false));
        graph.put(&"free".into(), node(vec![owner("rs", false)], false));
        let mut look_at = graph.put(&"rs".into(), node(vec![], true));
        look_at.sort();
        assert_eq!(look_at, ["free", "pod", "rs"]);
        assert_eq!(graph.blocking(&"rs".into()), ["pod"]);
        assert_eq!(graph.remove(&"pod".into()), ["rs"]);
        assert!(graph.blocking(&"rs".into()).is_empty());
    }

    #[test]
    fn a_circle_shows_by_a_dependent_that_waits() {
        let mut graph = Graph::default();
        graph.put(&"1".into(), node(vec![owner("3", true)], true));
        graph.put(&"2".into(), node(vec![owner("1", true)], false));
        graph.put(&"3".into(), node(vec![owner("2", true)], false));
        assert!(graph.has_waiting_dependent(&"3".into()));
        assert!(!graph.has_waiting_dependent(&"2".into()) && !graph.has_waiting_dependent(&"1".into()));
        graph.put(&"3".into(), node(vec![owner("2", false)], true));
        assert!(graph.blocking(&"2".into()).is_empty(), "and it is broken there");
    }

    #[test]
    fn only_an_object_without_living_owner_is_deleted() {
        use OwnerState::*;
        let owners = |states: &[OwnerState]| {
            states.iter().enumerate().map(|(n, s)| (owner(&n.to_string(), true), *s)).collect::<Vec<_>>()
        };
        assert_eq!(judge(&owners(&[Solid]), true), Verdict::Keep);
        assert_eq!(judge(&[], true), Verdict::Keep, "what never had an owner is nobody's business");
        assert_eq!(judge(&owners(&[Solid, Absent, Waiting]), true), Verdict::Unlink(vec!["1".into(), "2".into()]));
        assert_eq!(judge(&owners(&[Absent]), true), Verdict::Delete { foreground: false });
        assert_eq!(judge(&owners(&[Waiting]), true), Verdict::Delete { foreground: true });
        assert_eq!(judge(&owners(&[Waiting]), false), Verdict::Delete { foreground: false });
    }
}
