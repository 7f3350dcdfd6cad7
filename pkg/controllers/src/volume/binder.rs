//! The binder: claims and volumes, each by its own key.
use super::{claim, persistent};
use crate::error::Error;
use crate::execute::Run;
use crate::runner::{Reconciler, Watches, key_of};
use client::Reflector;
use client::informers::Key;
use client::volumes;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, ResourceExt};

const NAME: &str = "persistent-volume-binder";

/// Finds volumes for claims.
pub(crate) struct ClaimBinder {
    pub(crate) claims: Reflector<PersistentVolumeClaim>,
    pub(crate) volumes: Reflector<PersistentVolume>,
    pub(crate) classes: Reflector<StorageClass>,
}

impl ClaimBinder {
    /// Claims that a new volume or class may help.
    fn waiting(claims: &Reflector<PersistentVolumeClaim>) -> Vec<Key> {
        claims.select("", |claim| !volumes::is_bound(claim)).iter().map(|claim| key_of(&**claim)).collect()
    }
}

impl Reconciler for ClaimBinder {
    const NAME: &'static str = NAME;

    fn watch(&self, watches: &mut Watches) {
        watches.own::<PersistentVolumeClaim>();
        let claims = self.claims.clone();
        watches.on::<PersistentVolume>(move |change| match claimed_by(change.new) {
            Some(key) => vec![key],
            None => {
                let old = change.old.and_then(claimed_by);
                Self::waiting(&claims).into_iter().chain(old).collect()
            }
        });
        let claims = self.claims.clone();
        watches.on::<StorageClass>(move |_| Self::waiting(&claims));
    }

    async fn reconcile(&self, (namespace, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(claim) = self.claims.get(&namespace, &name) else { return Ok(()) };
        let (volumes, classes) = (self.volumes.list(), self.classes.list());
        run.all(claim::plan(&claim::Seen { claim: &claim, volumes: &volumes, classes: &classes })).await
    }
}

/// Keeps volumes' phases, and releases those whose claims are gone.
pub(crate) struct VolumeBinder {
    pub(crate) claims: Reflector<PersistentVolumeClaim>,
    pub(crate) volumes: Reflector<PersistentVolume>,
}

impl Reconciler for VolumeBinder {
    const NAME: &'static str = NAME;

    fn watch(&self, watches: &mut Watches) {
        watches.own::<PersistentVolume>();
        let volumes = self.volumes.clone();
        watches.on::<PersistentVolumeClaim>(move |change| {
            let key = key_of(change.new);
            let of_claim = volumes.select("", |volume| claimed_by(volume).as_ref() == Some(&key));
            of_claim.iter().map(|volume| key_of(&**volume)).collect()
        });
    }

    async fn reconcile(&self, (_, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(volume) = self.volumes.get("", &name) else { return Ok(()) };
        let claim = self.claim_of(&volume, run).await?;
        run.all(persistent::plan(&volume, claim.as_ref())).await
    }
}

impl VolumeBinder {
    /// The life of the claim that the volume is bound to; before data is given up, the API itself is asked.
    async fn claim_of(&self, volume: &PersistentVolume, run: &Run) -> Result<Option<PersistentVolumeClaim>, Error> {
        let Some((namespace, name)) = claimed_by(volume) else { return Ok(None) };
        let uid = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()?.uid.clone());
        let right = |claim: &PersistentVolumeClaim| claim.uid() == uid;
        if let Some(claim) = self.claims.get(&namespace, &name).filter(|claim| right(claim)) {
            return Ok(Some((*claim).clone()));
        }
        if uid.is_none() || !persistent::would_release(volume) {
            return Ok(None);
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(run.client().clone(), &namespace);
        let what = || format!("PersistentVolumeClaim {namespace}/{name}");
        let live = api.get_opt(&name).await.map_err(|source| Error::Api { verb: "get", what: what(), source })?;
        Ok(live.filter(right))
    }
}

/// The claim that a volume belongs to or is kept for.
fn claimed_by(volume: &PersistentVolume) -> Option<Key> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some((reference.namespace.clone().unwrap_or_default(), reference.name.clone().unwrap_or_default()))
}
