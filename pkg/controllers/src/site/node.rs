//! Nodes that joined before their server had a site get its labels.
use crate::action::{self, Action};
use crate::error::Error;
use crate::execute::Run;
use crate::runner::{Reconciler, Watches};
use api::home::{HOME, SITE, ZONE};
use client::Reflector;
use client::informers::Key;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use serde_json::{Map, Value, json};

pub(crate) struct NodeSite {
    pub(crate) nodes: Reflector<Node>,
}

/// Labels and home of a node at `site`, where it lacks them. A label that says otherwise is somebody's intention.
fn plan(node: &Node, site: &str) -> Option<Action> {
    let lacking = [SITE, ZONE].into_iter().filter(|key| !node.labels().contains_key(*key));
    let labels: Map<String, Value> = lacking.map(|key| (key.to_owned(), site.into())).collect();
    let mut metadata = json!({"uid": node.uid()});
    if !node.annotations().contains_key(HOME) {
        metadata["annotations"] = json!({(HOME): site});
    }
    if !labels.is_empty() {
        metadata["labels"] = Value::Object(labels);
    }
    let changes = metadata.as_object().is_some_and(|metadata| metadata.len() > 1);
    changes.then(|| action::patch(node, json!({"metadata": metadata})))
}

impl Reconciler for NodeSite {
    const NAME: &'static str = "node-controller";
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches) {
        watches.own::<Node>();
    }

    async fn reconcile(&self, (_, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(node) = self.nodes.get("", &name) else { return Ok(()) };
        let site = {
            let view = run.view();
            view.marked.then(|| view.home_of(&client::home::claim(&*node)).to_owned())
        };
        run.all(site.and_then(|site| plan(&node, &site)).into_iter().collect()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Patch;

    #[test]
    fn a_node_gets_the_labels_that_it_lacks() {
        let node = |labels: Value, annotations: Value| -> Node {
            serde_json::from_value(
                json!({"metadata": {"name": "n", "uid": "u", "labels": labels, "annotations": annotations}}),
            )
            .unwrap()
        };
        let patch = |node: &Node| match plan(node, "south") {
            Some(Action::Patch { patch: Patch::Merge(patch), .. }) => patch["metadata"].clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            patch(&node(json!({(ZONE): "z1"}), json!({}))),
            json!({"uid": "u", "annotations": {(HOME): "south"}, "labels": {(SITE): "south"}})
        );
        assert_eq!(plan(&node(json!({(SITE): "south", (ZONE): "z1"}), json!({(HOME): "south"})), "south"), None);
    }
}
