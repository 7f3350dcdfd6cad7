//! Follows claims, volumes and storage classes, of which there are few beside pods and nodes.
use crate::core::Core;
use client::{Event, Informers, Reflector, Subscription};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

/// The caches.
#[derive(Clone)]
pub struct StorageCaches {
    pub claims: Reflector<PersistentVolumeClaim>,
    volumes: Reflector<PersistentVolume>,
    classes: Reflector<StorageClass>,
}

/// Their notices.
pub struct StorageEvents {
    claims: Subscription<PersistentVolumeClaim>,
    volumes: Subscription<PersistentVolume>,
    classes: Subscription<StorageClass>,
}

/// One of them.
pub enum StorageEvent {
    Claim(Event<PersistentVolumeClaim>),
    Volume(Event<PersistentVolume>),
    Class(Event<StorageClass>),
}

impl StorageEvents {
    /// `None` when a cache is gone.
    pub async fn next(&mut self) -> Option<StorageEvent> {
        tokio::select! {
            event = self.classes.next() => event.map(StorageEvent::Class),
            event = self.volumes.next() => event.map(StorageEvent::Volume),
            event = self.claims.next() => event.map(StorageEvent::Claim),
        }
    }
}

impl StorageCaches {
    pub fn new(informers: &Informers) -> Self {
        Self { claims: informers.reflector(), volumes: informers.reflector(), classes: informers.reflector() }
    }

    pub fn subscribe(&self) -> StorageEvents {
        StorageEvents {
            claims: self.claims.subscribe(),
            volumes: self.volumes.subscribe(),
            classes: self.classes.subscribe(),
        }
    }

    pub async fn synced(&self) {
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
    }

    /// Tells the core what happened.
    pub fn apply(&self, event: StorageEvent, core: &mut Core) {
        core.storage_changed();
        let storage = core.storage_mut();
        match event {
            StorageEvent::Claim(Event::Applied { new, .. }) => storage.set_claim(new),
            StorageEvent::Claim(Event::Deleted(claim)) => storage.remove_claim(&claim),
            StorageEvent::Volume(Event::Applied { new, .. }) => storage.set_volume(new),
            StorageEvent::Volume(Event::Deleted(volume)) => storage.remove_volume(&volume.name_any()),
            StorageEvent::Class(Event::Applied { new, .. }) => storage.set_class(new),
            StorageEvent::Class(Event::Deleted(class)) => storage.remove_class(&class.name_any()),
            _ => self.resync(core),
        }
    }

    /// Full lists, where single events were missed.
    pub fn resync(&self, core: &mut Core) {
        core.storage_changed();
        let storage = core.storage_mut();
        storage.clear();
        self.classes.list().into_iter().for_each(|class| storage.set_class(class));
        self.volumes.list().into_iter().for_each(|volume| storage.set_volume(volume));
        self.claims.list().into_iter().for_each(|claim| storage.set_claim(claim));
    }
}
