//! Persistent storage: claims and volumes are bound to each other, kept while they are used, and made for ephemeral
//! volumes of pods. Who makes the storage itself is a provisioner's matter.

mod binder;
mod claim;
mod ephemeral;
mod persistent;
mod protection;

pub(crate) use binder::{ClaimBinder, VolumeBinder};
pub(crate) use ephemeral::EphemeralVolumes;
pub(crate) use protection::{AttributesProtection, ClaimProtection, VolumeProtection};
