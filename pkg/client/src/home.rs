//! Whose typed objects are.
use api::home::{Claim, Ownership};
use api::slice::Share;
use kube::Resource;
use tokio::sync::watch;

/// The view of a server alone, which never changes.
pub fn alone() -> watch::Receiver<Ownership> {
    watch::channel(Ownership::default()).1
}

/// The share of a server alone: everything.
pub fn everything() -> watch::Receiver<Share> {
    watch::channel(Share::default()).1
}

/// The next change of the view; never, when nobody can make one any more.
pub async fn changed(ownership: &mut watch::Receiver<Ownership>) {
    if ownership.changed().await.is_err() {
        std::future::pending().await
    }
}

/// What an object says about who may act on it.
pub fn claim<K: Resource<DynamicType = ()>>(object: &K) -> Claim<'_> {
    let meta = object.meta();
    let controller = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let annotation = |name: &str| meta.annotations.as_ref()?.get(name).map(String::as_str);
    Claim::read(&K::kind(&()), controller.map(|owner| &*owner.kind), annotation)
}
