//! Publishes the cluster's root certificate into every namespace: ConfigMap `kube-root-ca.crt`.
use crate::action::{self, Action, Told};
use crate::error::Error;
use crate::execute::Run;
use crate::runner::{Reconciler, Watches};
use crate::service_account::is_alive;
use client::Reflector;
use client::informers::Key;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::json;
use std::collections::BTreeMap;

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const WHAT: &str = "kubernetes.io/description";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

pub(crate) struct RootCa {
    pub(crate) namespaces: Reflector<Namespace>,
    pub(crate) maps: Reflector<ConfigMap>,
    pub(crate) pem: String,
}

fn plan(namespace: &Namespace, map: Option<&ConfigMap>, pem: &str) -> Vec<Action> {
    if !is_alive(namespace) {
        return Vec::new();
    }
    let data = BTreeMap::from([(KEY.to_owned(), pem.to_owned())]);
    match map {
        Some(map) if map.data.as_ref() == Some(&data) => Vec::new(),
        Some(map) => {
            let extra = map.data.iter().flatten().map(|(key, _)| (key.clone(), serde_json::Value::Null));
            let mut data: serde_json::Map<_, _> = extra.collect();
            data.insert(KEY.into(), pem.into());
            vec![action::patch(map, json!({"data": data}))]
        }
        None => {
            let annotations = BTreeMap::from([(WHAT.to_owned(), DESCRIPTION.to_owned())]);
            let metadata = ObjectMeta {
                name: Some(NAME.into()),
                namespace: namespace.metadata.name.clone(),
                annotations: Some(annotations),
                ..Default::default()
            };
            vec![action::create(&ConfigMap { metadata, data: Some(data), ..Default::default() }, Told::nothing())]
        }
    }
}

impl Reconciler for RootCa {
    const NAME: &'static str = "root-ca-cert-publisher";

    fn watch(&self, watches: &mut Watches) {
        watches.own::<Namespace>();
        watches.on::<ConfigMap>(|change| match change.new.name_any() == NAME {
            true => vec![(String::new(), change.new.namespace().unwrap_or_default())],
            false => Vec::new(),
        });
    }

    async fn reconcile(&self, (_, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(namespace) = self.namespaces.get("", &name) else { return Ok(()) };
        let map = self.maps.get(&name, NAME);
        crate::execute::unless_exists(run.all(plan(&namespace, map.as_deref(), &self.pem)).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_made_and_repaired() {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        assert!(matches!(plan(&namespace, None, "pem")[..], [Action::Create { .. }]));
        let map =
            |data| serde_json::from_value::<ConfigMap>(json!({"metadata": {"name": NAME}, "data": data})).unwrap();
        assert!(plan(&namespace, Some(&map(json!({"ca.crt": "pem"}))), "pem").is_empty());
        match &plan(&namespace, Some(&map(json!({"ca.crt": "old", "more": "x"}))), "pem")[..] {
            [Action::Patch { patch: action::Patch::Merge(patch), .. }] => {
                assert_eq!(*patch, json!({"data": {"ca.crt": "pem", "more": null}}));
            }
            other => panic!("{other:?}"),
        }
    }
}
