//! What it takes to end: a container gracefully, a sandbox, and all that a pod held.
use super::{Outcome, hooks};
use crate::context::{Context, container_reference};
use crate::cri::{
    ContainerStatus, RemoveContainerRequest, RemovePodSandboxRequest, StopContainerRequest, StopPodSandboxRequest,
    label, request, request_within,
};
use crate::files;
use crate::logs;
use crate::pod::config::{self, spec};
use crate::pod::observed::Observed;
use crate::pod::resources::{Qos, cgroup_parent};
use crate::pod::step::Why;
use crate::runtime::Ctr;
use crate::volumes;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::{Code, Status};

/// A container gets this long after its preStop hook, whatever the hook used up (upstream's figure).
const MIN_GRACE: Duration = Duration::from_secs(2);
/// Bytes of a termination message, and of one taken from the log; lines of the latter (Kubernetes documentation,
/// "Determine the Reason for Pod Failure").
const MESSAGE_BYTES: u64 = 4096;
const LOG_BYTES: usize = 2048;
const LOG_LINES: usize = 80;

/// One container to be ended.
pub struct Kill {
    pub pod: Arc<Pod>,
    pub container: Option<Container>,
    pub id: String,
    pub name: String,
    pub why: Why,
    pub grace: Duration,
    /// Overtakes a kill that runs: its hook was run and its event told.
    pub again: bool,
    pub ip: String,
}

/// preStop, the stop signal, and SIGKILL when the time is over.
pub async fn kill(context: &Context, kill: Kill) -> Outcome {
    let about = container_reference(&kill.pod, &kill.name);
    if !kill.again {
        let message = match &kill.why {
            Why::Unhealthy(which) => format!("Container {} failed {which} probe, will be restarted", kill.name),
            Why::Changed(what) => format!("Container {} {what}, will be restarted", kill.name),
            _ => format!("Stopping container {}", kill.name),
        };
        context.recorder.normal(&about, "Killing", message);
    }
    let began = Instant::now();
    let hook = kill.container.as_ref().and_then(|c| c.lifecycle.as_ref()).and_then(|l| l.pre_stop.as_ref());
    if let (Some(hook), Some(container), false, false) = (hook, &kill.container, kill.again, kill.grace.is_zero()) {
        let run = hooks::run(context, hook, container, &kill.id, &kill.ip, kill.grace).await;
        if let Err(message) = run {
            tracing::debug!(container = kill.name, message, "preStop hook failed");
            context.recorder.warning(&about, "FailedPreStopHook", "PreStopHook failed");
        }
    }
    let left = kill.grace.saturating_sub(began.elapsed());
    let left = if kill.grace.is_zero() { left } else { left.max(MIN_GRACE.min(kill.grace)) };
    let seconds = left.as_secs_f64().ceil() as i64;
    if stop_container(context, &kill.id, seconds).await { Outcome::Done } else { Outcome::Failed }
}

/// Whether the container has ended.
pub async fn stop_container(context: &Context, id: &str, grace_seconds: i64) -> bool {
    let ask = StopContainerRequest { container_id: id.to_owned(), timeout: grace_seconds };
    let bound = Duration::from_secs(grace_seconds.max(0).unsigned_abs() + 60);
    well(id, "StopContainer", context.cri.runtime().stop_container(request_within(ask, bound)).await.map(drop))
}

pub async fn stop_sandbox(context: &Context, id: &str) -> Outcome {
    let ask = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
    outcome(well(id, "StopPodSandbox", context.cri.runtime().stop_pod_sandbox(request(ask)).await.map(drop)))
}

pub async fn remove_sandbox(context: &Context, id: &str) -> Outcome {
    let ask = || request(RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() });
    let mut removed = context.cri.runtime().remove_pod_sandbox(ask()).await;
    if end_half_started(context, &removed).await {
        removed = context.cri.runtime().remove_pod_sandbox(ask()).await;
    }
    let done = well(id, "RemovePodSandbox", removed.map(drop));
    if done {
        context.owners.lock().remove(id);
    }
    outcome(done)
}

pub async fn remove_container(context: &Context, id: &str) -> Outcome {
    let ask = || request(RemoveContainerRequest { container_id: id.to_owned() });
    let mut removed = context.cri.runtime().remove_container(ask()).await;
    if end_half_started(context, &removed).await {
        removed = context.cri.runtime().remove_container(ask()).await;
    }
    let done = well(id, "RemoveContainer", removed.map(drop));
    if done {
        context.owners.lock().remove(id);
    }
    outcome(done)
}

/// An instance that nobody needs any more, with its log and its message's file.
pub async fn remove_old(context: &Context, pod: &Pod, id: &str, status: Option<ContainerStatus>) -> Outcome {
    let removed = remove_container(context, id).await;
    if let (Outcome::Done, Some(status)) = (&removed, &status) {
        let restarts = crate::pod::observed::restart_count(status);
        let name = crate::pod::observed::container_name(status);
        let dir = config::log_directory(pod, &context.settings).join(name);
        let log = format!("{restarts}.log");
        let ours = |entry: &std::fs::DirEntry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name == log || name.strip_prefix(&log).is_some_and(|rest| rest.starts_with('.'))
        };
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten().filter(ours) {
            let _ = files::remove_file(&entry.path());
        }
        if let Some(file) = status.annotations.get(label::TERMINATION_FILE).filter(|file| !file.is_empty()) {
            let _ = files::remove_file(Path::new(file));
        }
    }
    removed
}

fn outcome(done: bool) -> Outcome {
    if done { Outcome::Done } else { Outcome::Failed }
}

/// Ends the process that keeps the runtime from removing something. Whoever is killed while a container starts leaves one that
/// runs, but that CRI takes for created: stopping it does nothing, and removing it fails for good.
async fn end_half_started<T>(context: &Context, removed: &Result<T, Status>) -> bool {
    let Some(id) = removed.as_ref().err().and_then(|status| half_started(status.message())) else { return false };
    let ctr = Ctr::new(&context.options.cri_socket, "");
    if let Err(error) = ctr.end_task(id).await {
        // It ends with the code of the process that it killed.
        tracing::debug!(id, %error, "ending a container that was half started");
    }
    true
}

/// The container that containerd can't delete because its process runs.
fn half_started(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("cannot delete running task ")?;
    rest.split(|c: char| !c.is_ascii_alphanumeric()).next().filter(|id| !id.is_empty())
}

/// Gone already is as good as ended.
fn well(id: &str, call: &str, result: Result<(), Status>) -> bool {
    match result {
        Err(status) if status.code() != Code::NotFound => {
            tracing::warn!(id, call, error = status.message(), "the runtime refused");
            false
        }
        _ => true,
    }
}

/// Volumes and groups; files stay until the pod is forgotten, as logs and messages do.
pub async fn release(context: &Arc<Context>, pod: &Arc<Pod>) -> Outcome {
    let (context, pod) = (context.clone(), pod.clone());
    let work = tokio::task::spawn_blocking(move || {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let parent = cgroup_parent(&context.options.instance, &pod, Qos::of(spec(&pod)));
        if let Err(error) = context.cgroups.remove(&parent) {
            // Groups left over are removed when the pod is no more; they hold nothing.
            tracing::debug!(uid, %error, "cgroup stays for now");
        }
        volumes::remove(&context.pod_dir(uid))
    });
    match work.await {
        Ok(Ok(())) => Outcome::Done,
        Ok(Err(error)) => {
            tracing::warn!(%error, "volumes can't be removed yet");
            Outcome::Failed
        }
        Err(_) => Outcome::Failed,
    }
}

/// The last traces: the API object, containers and sandboxes, logs, the checkpoint.
pub async fn forget(context: &Context, pod: &Pod, observed: &Observed, gone: bool) -> Outcome {
    if !gone && !delete(context, pod).await {
        return Outcome::Failed;
    }
    let mut all = true;
    for status in &observed.containers {
        all &= matches!(remove_container(context, &status.id).await, Outcome::Done);
    }
    for sandbox in &observed.sandboxes {
        all &= matches!(remove_sandbox(context, &sandbox.id).await, Outcome::Done);
    }
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let parent = cgroup_parent(&context.options.instance, pod, Qos::of(spec(pod)));
    if let Err(error) = context.cgroups.remove(&parent) {
        tracing::debug!(uid, %error, "cgroup not removed yet");
        all = false;
    }
    let logs = config::log_directory(pod, &context.settings);
    for dir in [logs, context.checkpoint_dir(uid)] {
        if let Err(error) = files::remove_dir(&dir) {
            tracing::warn!(dir = %dir.display(), %error, "not removed");
        }
    }
    outcome(all)
}

async fn delete(context: &Context, pod: &Pod) -> bool {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(context.options.client.clone(), namespace);
    let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default().grace_period(0) };
    match api.delete(name, &params).await {
        Ok(_) => true,
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => true,
        Err(error) => {
            tracing::debug!(namespace, name, %error, "pod not deleted yet");
            false
        }
    }
}

/// What a container left as its message: its file, or the end of its log where the pod wants that.
pub fn last_words(status: &ContainerStatus, container: Option<&Container>, log_dir: &Path) -> String {
    let file = status.annotations.get(label::TERMINATION_FILE).filter(|file| !file.is_empty());
    let mut text = file.and_then(|file| head(Path::new(file))).unwrap_or_default();
    let policy = container.and_then(|c| c.termination_message_policy.as_deref());
    if text.is_empty() && policy == Some("FallbackToLogsOnError") && status.exit_code != 0 {
        let restarts = crate::pod::observed::restart_count(status);
        let name = crate::pod::observed::container_name(status);
        let log = log_dir.join(name).join(format!("{restarts}.log"));
        text = logs::tail_text(&log, LOG_LINES, LOG_BYTES);
    }
    if text.is_empty() { status.message.clone() } else { text }
}

fn head(file: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(file).ok()?.take(MESSAGE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::half_started;

    #[test]
    fn knows_what_keeps_a_container_from_being_removed() {
        let message =
            "failed to delete containerd container \"95d9\": cannot delete running task 95d9: failed precondition";
        assert_eq!(half_started(message), Some("95d9"));
        assert_eq!(half_started("container \"95d9\" not found"), None);
    }
}
