//! Claims, volumes and storage classes as decisions see them, with what was decided on top.
use client::volumes::{self, Seeker};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// `(namespace, name)`.
type Key = (Box<str>, Box<str>);

/// What has to happen to a claim before its pod is bound.
#[derive(Clone, Debug)]
pub enum Step {
    /// This volume is the claim's.
    Bind { claim: Arc<PersistentVolumeClaim>, volume: Arc<PersistentVolume> },
    /// Its volume is to be made on the node.
    Provision { claim: Arc<PersistentVolumeClaim> },
    /// All is decided, but not yet done.
    Wait { claim: Arc<PersistentVolumeClaim> },
}

impl Step {
    pub fn claim(&self) -> &Arc<PersistentVolumeClaim> {
        match self {
            Self::Bind { claim, .. } | Self::Provision { claim } | Self::Wait { claim } => claim,
        }
    }
}

/// Why a node can't have a pod's volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Conflict {
    /// A volume that it has is elsewhere.
    Elsewhere,
    /// There is none to have.
    NoMatch,
    /// A claim's volume is gone.
    Gone,
}

impl Conflict {
    pub fn reason(self) -> &'static str {
        match self {
            Self::Elsewhere => "node(s) didn't match PersistentVolume's node affinity",
            Self::NoMatch => "node(s) didn't find available persistent volumes to bind",
            Self::Gone => "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
        }
    }
}

#[derive(Debug, Default)]
pub struct Storage {
    claims: HashMap<Key, Arc<PersistentVolumeClaim>>,
    volumes: BTreeMap<String, Arc<PersistentVolume>>,
    classes: HashMap<String, Arc<StorageClass>>,
    /// Volumes given to claims whose binding the API has not shown yet.
    given: BTreeMap<String, Key>,
    /// Nodes on which claims' volumes shall be made, ahead of the API's word.
    selected: HashMap<Key, Arc<str>>,
}

/// A pod's claims, as far as they matter to where it can run.
#[derive(Debug, Default)]
pub struct Wanted<'a> {
    bound: Vec<&'a Arc<PersistentVolumeClaim>>,
    open: Vec<&'a Arc<PersistentVolumeClaim>>,
}

impl Wanted<'_> {
    pub fn is_empty(&self) -> bool {
        self.bound.is_empty() && self.open.is_empty()
    }
}

impl Storage {
    pub fn set_claim(&mut self, claim: Arc<PersistentVolumeClaim>) {
        let key = key_of(&claim);
        if volumes::is_bound(&claim) || claim.annotations().contains_key(volumes::SELECTED_NODE) {
            self.selected.remove(&key);
        }
        self.claims.insert(key, claim);
    }

    pub fn remove_claim(&mut self, claim: &PersistentVolumeClaim) {
        let key = key_of(claim);
        self.claims.remove(&key);
        self.release(&key);
    }

    pub fn set_volume(&mut self, volume: Arc<PersistentVolume>) {
        if volumes::is_claimed(&volume) {
            self.given.remove(&volume.name_any());
        }
        self.volumes.insert(volume.name_any(), volume);
    }

    pub fn remove_volume(&mut self, name: &str) {
        self.volumes.remove(name);
        self.given.remove(name);
    }

    pub fn set_class(&mut self, class: Arc<StorageClass>) {
        self.classes.insert(class.name_any(), class);
    }

    pub fn remove_class(&mut self, name: &str) {
        self.classes.remove(name);
    }

    /// Forgets all but what was decided, before full lists.
    pub fn clear(&mut self) {
        self.claims.clear();
        self.volumes.clear();
        self.classes.clear();
    }

    /// Takes note of a decision; [`Self::undo`] takes it back.
    pub fn assume(&mut self, steps: &[Step], node: &Arc<str>) {
        for step in steps {
            let key = key_of(step.claim());
            match step {
                Step::Bind { volume, .. } => _ = self.given.insert(volume.name_any(), key),
                Step::Provision { .. } => _ = self.selected.insert(key, node.clone()),
                Step::Wait { .. } => {}
            }
        }
    }

    pub fn undo(&mut self, steps: &[Step]) {
        for step in steps {
            self.release(&key_of(step.claim()));
        }
    }

    fn release(&mut self, key: &Key) {
        self.given.retain(|_, claim| claim != key);
        self.selected.remove(key);
    }

    /// A pod's claims, or why it can't run anywhere for now.
    ///
    /// # Errors
    /// The reason, as upstream words it.
    pub fn wanted(&self, pod: &Pod) -> Result<Wanted<'_>, String> {
        let mut wanted = Wanted::default();
        for (name, volume) in claim_names(pod) {
            let claim = self.claim(pod, &name, volume)?;
            if volumes::is_bound(claim) {
                wanted.bound.push(claim);
            } else if self.is_delayed(claim) && (volumes::volume_name(claim).is_empty()) {
                wanted.open.push(claim);
            } else {
                return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
            }
        }
        Ok(wanted)
    }

    fn claim(&self, pod: &Pod, name: &str, volume: &Volume) -> Result<&Arc<PersistentVolumeClaim>, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let ephemeral = volume.persistent_volume_claim.is_none();
        let Some(claim) = self.claims.get(&(namespace.into(), name.into())) else {
            return Err(match ephemeral {
                true => format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"),
                false => format!("persistentvolumeclaim {name:?} not found"),
            });
        };
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
            let lost = volumes::volume_name(claim);
            return Err(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {lost:?}"));
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
        }
        if ephemeral && !volumes::is_made_for(claim, pod) {
            let pod = pod.name_any();
            return Err(format!("PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"));
        }
        Ok(claim)
    }

    fn class(&self, claim: &PersistentVolumeClaim) -> Option<&Arc<StorageClass>> {
        self.classes.get(volumes::class_of_claim(claim))
    }

    fn is_delayed(&self, claim: &PersistentVolumeClaim) -> bool {
        self.class(claim).is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
    }

    /// What has to happen for the pod to have its volumes on a node.
    ///
    /// # Errors
    /// When the node can't have them.
    pub fn steps(
        &self,
        wanted: &Wanted<'_>,
        node: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<Step>, Conflict> {
        for claim in &wanted.bound {
            let volume = self.volumes.get(volumes::volume_name(claim)).ok_or(Conflict::Gone)?;
            if !volumes::reaches(volume, node, labels) {
                return Err(Conflict::Elsewhere);
            }
        }
        let mut taken: BTreeSet<String> = self.given.keys().cloned().collect();
        let mut steps = Vec::new();
        for claim in &wanted.open {
            let step = self.step(claim, node, labels, &taken)?;
            if let Step::Bind { volume, .. } = &step {
                taken.insert(volume.name_any());
            }
            steps.push(step);
        }
        Ok(steps)
    }

    fn step(
        &self,
        claim: &Arc<PersistentVolumeClaim>,
        node: &str,
        labels: &BTreeMap<String, String>,
        taken: &BTreeSet<String>,
    ) -> Result<Step, Conflict> {
        let key = key_of(claim);
        let given = self.given.iter().find(|(_, to)| **to == key).and_then(|(name, _)| self.volumes.get(name));
        if let Some(volume) = given {
            let here = volumes::reaches(volume, node, labels);
            return if here { Ok(Step::Wait { claim: claim.clone() }) } else { Err(Conflict::Elsewhere) };
        }
        let selected = claim.annotations().get(volumes::SELECTED_NODE).map(String::as_str);
        if let Some(selected) = selected.or(self.selected.get(&key).map(|node| &**node)) {
            return if selected == node { Ok(Step::Wait { claim: claim.clone() }) } else { Err(Conflict::NoMatch) };
        }
        let seeker = Seeker::Node { name: node, labels, taken };
        if let Some(volume) = volumes::best_match(claim, self.volumes.values(), &seeker) {
            return Ok(Step::Bind { claim: claim.clone(), volume: volume.clone() });
        }
        match self.class(claim) {
            Some(class) if class.provisioner != NO_PROVISIONER && allows(class, labels) => {
                Ok(Step::Provision { claim: claim.clone() })
            }
            _ => Err(Conflict::NoMatch),
        }
    }

    /// Claims of a pod that only one pod at a time may use.
    pub fn exclusive<'p>(&self, pod: &'p Pod) -> Vec<Cow<'p, str>> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let exclusive = |name: &str| {
            let claim = self.claims.get(&(namespace.into(), name.into()));
            let modes = claim.iter().flat_map(|claim| claim.spec.iter());
            modes.flat_map(|spec| spec.access_modes.iter().flatten()).any(|mode| mode == "ReadWriteOncePod")
        };
        claim_names(pod).map(|(name, _)| name).filter(|name| exclusive(name)).collect()
    }
}

/// The claims that a pod's volumes name.
pub fn claim_names(pod: &Pod) -> impl Iterator<Item = (Cow<'_, str>, &Volume)> {
    let all = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    all.filter_map(|volume| Some((volumes::claim_name(pod, volume)?, volume)))
}

fn key_of(claim: &PersistentVolumeClaim) -> Key {
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
    (text(&claim.metadata.namespace), text(&claim.metadata.name))
}

/// Does the class make volumes at such a place?
fn allows(class: &StorageClass, labels: &BTreeMap<String, String>) -> bool {
    let Some(terms) = class.allowed_topologies.as_ref().filter(|terms| !terms.is_empty()) else { return true };
    terms.iter().any(|term| {
        let mut wanted = term.match_label_expressions.iter().flatten();
        wanted.all(|wanted| labels.get(&wanted.key).is_some_and(|value| wanted.values.contains(value)))
    })
}
