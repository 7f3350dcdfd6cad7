//! Watches over nodes: the silent become unreachable, taints follow conditions, and pods leave when they must.
mod plan;

use crate::error::Error;
use crate::execute::Run;
use crate::pods;
use crate::runner::{Reconciler, Watches};
use client::Reflector;
use client::informers::Key;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use plan::Heard;
use std::collections::HashMap;
use std::time::Duration;

/// Where nodes renew their leases.
const LEASES: &str = "kube-node-lease";
/// How often every node is looked at; upstream's node-monitor-period.
const PERIOD: Duration = Duration::from_secs(5);

pub(crate) struct NodeLifecycle {
    nodes: Reflector<Node>,
    leases: Reflector<Lease>,
    pods: Reflector<Pod>,
    /// Bounded by the number of nodes.
    heard: Mutex<HashMap<String, Heard>>,
}

impl NodeLifecycle {
    pub(crate) fn new(nodes: Reflector<Node>, leases: Reflector<Lease>, pods: Reflector<Pod>) -> Self {
        Self { nodes, leases, pods, heard: Mutex::default() }
    }

    fn hear(&self, node: &Node, name: &str, now: Timestamp) -> Heard {
        let lease = self.leases.get(LEASES, name);
        let mut all = self.heard.lock();
        let heard = plan::hear(all.get(name), node, lease.as_deref(), now);
        all.insert(name.to_owned(), heard.clone());
        heard
    }
}

impl Reconciler for NodeLifecycle {
    const NAME: &'static str = "node-controller";

    fn watch(&self, watches: &mut Watches) {
        watches.own::<Node>();
        watches.on::<Lease>(|_| Vec::new());
        watches.on::<Pod>(|change| {
            let (new, old) = (pods::node_name(change.new), change.old.map(pods::node_name));
            let bound = !new.is_empty() && old != Some(new);
            if bound { vec![(String::new(), new.to_owned())] } else { Vec::new() }
        });
    }

    async fn reconcile(&self, (_, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(node) = self.nodes.get("", &name) else {
            self.heard.lock().remove(&name);
            return Ok(());
        };
        run.again(PERIOD);
        let now = Timestamp::now();
        let heard = self.hear(&node, &name, now);
        if let Some(action) = plan::conditions(&node, &heard, now) {
            // Everything else follows from the conditions, once the cache shows them.
            return run.all(vec![action]).await;
        }
        let ready = self.nodes.select("", |node| plan::readiness(node) == "True" && run.owns(node));
        let evicting = !ready.is_empty();
        run.all(plan::taints(&node, evicting, now).into_iter().collect()).await?;
        if plan::is_calm(&node) {
            return Ok(());
        }
        let pods = self.pods.select("", |pod| pods::node_name(pod) == name);
        if plan::readiness(&node) != "True" {
            run.all(plan::mark_unready(&pods, now)).await?;
        }
        run.all(plan::evict(&node, &pods, now)).await
    }
}
