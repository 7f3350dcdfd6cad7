//! Gives every namespace its `default` ServiceAccount.
use crate::action::{self, Action, Told};
use crate::error::Error;
use crate::execute::Run;
use crate::runner::{Reconciler, Watches};
use client::Reflector;
use client::informers::Key;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

/// The account that pods get when they name none.
const DEFAULT: &str = "default";

pub(crate) struct DefaultServiceAccount {
    pub(crate) namespaces: Reflector<Namespace>,
    pub(crate) accounts: Reflector<ServiceAccount>,
}

/// Whether things may still be made in a namespace.
pub(crate) fn is_alive(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}

fn plan(namespace: &Namespace, account: Option<&ServiceAccount>) -> Vec<Action> {
    if account.is_some() || !is_alive(namespace) {
        return Vec::new();
    }
    let metadata =
        ObjectMeta { name: Some(DEFAULT.into()), namespace: namespace.metadata.name.clone(), ..Default::default() };
    vec![action::create(&ServiceAccount { metadata, ..Default::default() }, Told::nothing())]
}

impl Reconciler for DefaultServiceAccount {
    const NAME: &'static str = "service-account-controller";

    fn watch(&self, watches: &mut Watches) {
        watches.own::<Namespace>();
        watches.on::<ServiceAccount>(|change| match change.new.name_any() == DEFAULT {
            true => vec![(String::new(), change.new.namespace().unwrap_or_default())],
            false => Vec::new(),
        });
    }

    async fn reconcile(&self, (_, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(namespace) = self.namespaces.get("", &name) else { return Ok(()) };
        let account = self.accounts.get(&name, DEFAULT);
        crate::execute::unless_exists(run.all(plan(&namespace, account.as_deref())).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_account_is_made_once_and_only_in_a_living_namespace() {
        let namespace = |json| serde_json::from_value::<Namespace>(json).unwrap();
        let alive = namespace(json!({"metadata": {"name": "a"}, "status": {"phase": "Active"}}));
        match &plan(&alive, None)[..] {
            [Action::Create { target, .. }] => assert_eq!((&*target.namespace, &*target.name), ("a", "default")),
            other => panic!("{other:?}"),
        }
        assert!(plan(&alive, Some(&ServiceAccount::default())).is_empty());
        let dying = namespace(json!({"metadata": {"name": "a"}, "status": {"phase": "Terminating"}}));
        assert!(plan(&dying, None).is_empty());
    }
}
