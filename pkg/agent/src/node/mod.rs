//! This node's Node object: registered at start, its status kept true, its Lease renewed; `pressure` ends pods when
//! the node runs short, and pods that hold more than their `limits`.
pub mod evict;
mod lease;
mod limits;
pub mod pressure;
pub mod shutdown;
mod status;

use crate::context::Context;
use crate::cri::{ListImagesRequest, StatusRequest, VersionRequest, request_within};
use crate::machine::Machine;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use status::{Facts, Health};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often the runtime is asked how it is; while it isn't well, more often.
const LOOK: Duration = Duration::from_secs(10);
const LOOK_UNWELL: Duration = Duration::from_millis(250);
/// An unchanged status is sent again after this (the kubelet's nodeStatusReportFrequency).
const REPORT: Duration = Duration::from_secs(300);
/// Wait before registration is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// A runtime that takes longer to say how it is, is away.
const ANSWER: Duration = Duration::from_secs(5);
/// Images named in the status; upstream's bound.
const IMAGES: usize = 50;

/// Registers the node, then keeps status and Lease true until shutdown.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let work = async {
        register(&context).await;
        context.recorder.normal(&reference(&context), "Starting", "Starting kubelet.");
        tokio::join!(lease::renew(&context), report(&context));
    };
    shutdown.run_until_cancelled(Box::pin(work)).await;
}

fn api(context: &Context) -> Api<Node> {
    Api::all(context.options.client.clone())
}

/// The node as Events name it; upstream uses the name as uid, so that `kubectl describe node` finds them.
fn reference(context: &Context) -> k8s_openapi::api::core::v1::ObjectReference {
    let name = context.options.node_name.clone();
    k8s_openapi::api::core::v1::ObjectReference {
        kind: Some("Node".into()),
        uid: Some(name.clone()),
        name: Some(name),
        ..Default::default()
    }
}

/// Makes the Node, or gives an existing one our labels.
async fn register(context: &Context) {
    let mut told = false;
    loop {
        match try_register(context).await {
            Ok(()) => return tracing::info!(node = context.options.node_name, "registered"),
            // Such as labels that a node may not give itself: somebody has to do something about it.
            Err(kube::Error::Api(refused)) if refused.code == 403 && !told => {
                told = true;
                tracing::warn!(node = context.options.node_name, why = refused.message, "the registration is refused");
            }
            Err(error) => tracing::debug!(%error, "not registered yet"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn try_register(context: &Context) -> Result<(), kube::Error> {
    let facts = facts(context, &look(context).await).await;
    let labels = status::labels(&context.options);
    let mut node = json!({
        "metadata": {"name": context.options.node_name, "labels": labels},
        "spec": {},
        "status": status::status(&facts, None, &now()),
    });
    if !context.options.taints.is_empty() {
        node["spec"]["taints"] = json!(context.options.taints);
    }
    let node: Node = serde_json::from_value(node).map_err(kube::Error::SerdeError)?;
    match api(context).create(&PostParams::default(), &node).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(answer)) if answer.code == 409 => {
            let patch = json!({"metadata": {"labels": labels}});
            let name = &context.options.node_name;
            api(context).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
        }
        Err(error) => Err(error),
    }
}

/// Keeps the status true.
async fn report(context: &Context) {
    let mut sent: Option<(Value, Instant)> = None;
    loop {
        let health = look(context).await;
        let facts = facts(context, &health).await;
        let new = status::status(&facts, sent.as_ref().map(|(old, _)| old), &now());
        let due = sent.as_ref().is_none_or(|(old, at)| at.elapsed() >= REPORT || status::differs(old, &new));
        if due {
            let name = &context.options.node_name;
            let patch = Patch::Strategic(json!({"status": new}));
            match api(context).patch_status(name, &PatchParams::default(), &patch).await {
                Ok(_) => sent = Some((new, Instant::now())),
                Err(kube::Error::Api(answer)) if answer.code == 404 => {
                    // Deleted under us: come back, as upstream's kubelet does when it restarts.
                    sent = None;
                    register(context).await;
                }
                Err(error) => tracing::debug!(%error, "node status not sent"),
            }
        }
        let unsent =
            sent.as_ref().is_none_or(|(old, _)| status::differs(old, &status::status(&facts, Some(old), &now())));
        tokio::select! {
            () = context.status_due.notified() => {}
            () = tokio::time::sleep(if health.is_ready() && !unsent { LOOK } else { LOOK_UNWELL }) => {}
        }
    }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// How the runtime is.
async fn look(context: &Context) -> Health {
    let ask = request_within(StatusRequest { verbose: false }, ANSWER);
    if context.going_down.load(Ordering::Acquire) {
        return Health::going_down();
    }
    match context.cri.runtime().status(ask).await {
        Ok(answer) => Health::of(answer.into_inner().status.map(|s| s.conditions).unwrap_or_default()),
        Err(status) => Health::away(status.message()),
    }
}

async fn facts<'a>(context: &'a Context, health: &Health) -> Facts<'a> {
    let version = request_within(VersionRequest { version: "v1".into() }, ANSWER);
    let version = context.cri.runtime().version(version).await.map(|answer| answer.into_inner());
    let runtime = version.map_or_else(
        |_| "containerd://Unknown".into(),
        |v| format!("{}://{}", v.runtime_name, v.runtime_version.trim_start_matches('v')),
    );
    let images = context.cri.images().list_images(request_within(ListImagesRequest { filter: None }, ANSWER)).await;
    let mut images = images.map(|answer| answer.into_inner().images).unwrap_or_default();
    images.sort_by_key(|image| std::cmp::Reverse(image.size));
    images.truncate(IMAGES);
    Facts {
        options: &context.options,
        machine: &context.machine,
        disk: Machine::disk(&context.options.data_dir),
        memory_low: context.pressure.of_memory(),
        disk_low: context.pressure.of_disk(),
        runtime,
        images,
        health: health.clone(),
    }
}
