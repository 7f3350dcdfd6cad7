//! What it takes to start: directories, groups and volumes, the sandbox, and one container.
use super::{Outcome, hooks};
use crate::context::{Context, container_reference};
use crate::cri::{self, CreateContainerRequest, RunPodSandboxRequest, StartContainerRequest, request};
use crate::images;
use crate::pod::config::{self, spec};
use crate::pod::env::{Sources, environment};
use crate::pod::observed::{Observed, Sandbox};
use crate::pod::resources::{Qos, cgroup_parent, pod_limits};
use crate::volumes::{self, Volumes};
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long a container waits for the list of Services.
const SERVICES_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a container did not start: the waiting reason and message.
#[derive(Debug)]
pub struct Failure {
    pub reason: &'static str,
    pub message: String,
}

pub type Result = std::result::Result<(), Failure>;

/// One container to be started.
pub struct Wanted {
    pub pod: Arc<Pod>,
    pub container: Container,
    pub sandbox: Sandbox,
    pub restart_count: u32,
    pub ips: Vec<String>,
    /// The container whose processes an ephemeral one sees.
    pub target: Option<String>,
}

/// The container that an ephemeral one is aimed at.
pub fn target(pod: &Pod, observed: &Observed, name: &str) -> Option<String> {
    let mut ephemeral = spec(pod).ephemeral_containers.iter().flatten();
    let wanted = ephemeral.find(|c| c.name == name)?.target_container_name.as_deref()?;
    Some(observed.latest(wanted)?.id.clone())
}

/// How often a container has been started before, by the logs that it left: `<n>.log`, rotated `<n>.log.<time>`.
pub fn count_by_logs(dir: &Path) -> u32 {
    let number = |entry: fs::DirEntry| entry.file_name().to_string_lossy().split_once(".log")?.0.parse::<u32>().ok();
    let last = fs::read_dir(dir).into_iter().flatten().flatten().filter_map(number).max();
    last.map_or(0, |last| last.saturating_add(1))
}

/// Directories, cgroup and volumes. `first`: not just brought up to date. True when all is there.
pub async fn prepare(context: &Context, pod: &Pod, volumes: &mut Volumes, first: bool) -> bool {
    if first && let Err(error) = ground(context, pod) {
        context.warn(pod, "FailedToMakePodDataDirectories", format!("error making pod data directories: {error}"));
        return false;
    }
    match volumes.setup(context, pod).await {
        Ok(()) => true,
        Err(failure) => {
            context.warn(pod, "FailedMount", failure.to_string());
            // What was mounted once stays usable when it can't be refreshed.
            !first
        }
    }
}

fn ground(context: &Context, pod: &Pod) -> io::Result<()> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    fs::create_dir_all(context.pod_dir(uid))?;
    fs::create_dir_all(config::log_directory(pod, &context.settings))?;
    let qos = Qos::of(spec(pod));
    let parent = cgroup_parent(&context.options.instance, pod, qos);
    context.cgroups.create(&parent, &pod_limits(spec(pod))).map_err(io::Error::other)
}

/// The pod's sandbox: its namespaces, its network, its group.
pub async fn sandbox(context: &Context, pod: &Pod, uid: &str, attempt: u32) -> Outcome {
    let config = config::sandbox(pod, &context.settings, attempt);
    let runtime_handler = match handler(context, pod).await {
        Ok(handler) => handler,
        Err(message) => {
            context.warn(pod, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {message}"));
            return Outcome::Failed;
        }
    };
    if spec(pod).host_users == Some(false) {
        let message = unsupported_users(pod, &runtime_handler);
        context.warn(pod, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {message}"));
        return Outcome::Failed;
    }
    let ask = RunPodSandboxRequest { config: Some(config), runtime_handler };
    match context.cri.runtime().run_pod_sandbox(request(ask)).await {
        Ok(answer) => {
            context.owners.lock().insert(answer.into_inner().pod_sandbox_id, uid.to_owned());
            Outcome::Done
        }
        Err(status) => {
            let message = format!(
                "Failed to create pod sandbox: rpc error: code = {:?} desc = {}",
                status.code(),
                status.message()
            );
            context.warn(pod, "FailedCreatePodSandBox", message);
            Outcome::Failed
        }
    }
}

/// A user namespace of the pod's own needs a runtime that can map its users; no runtime that this agent starts does.
fn unsupported_users(pod: &Pod, handler: &str) -> String {
    let name = crate::worker::full_name(pod);
    let why = match handler {
        "" => "can't set `spec.hostUsers: false`, runtime does not support user namespaces".to_owned(),
        _ => format!(
            "can't set `spec.hostUsers: false`, RuntimeClass handler {handler:?} does not support user namespaces"
        ),
    };
    format!("failed to generate sandbox config for pod {name:?}: {why}")
}

/// What the runtime calls the pod's RuntimeClass; empty: its default. Known from the pod's checkpoint while no server
/// answers.
async fn handler(context: &Context, pod: &Pod) -> std::result::Result<String, String> {
    let Some(name) = spec(pod).runtime_class_name.as_deref().filter(|name| !name.is_empty()) else {
        return Ok(String::new());
    };
    let checkpoint = context.checkpoint_dir(pod.metadata.uid.as_deref().unwrap_or_default()).join("runtime-handler");
    match Api::<RuntimeClass>::all(context.options.client.clone()).get(name).await {
        Ok(class) => {
            let saved = crate::files::write_private(&checkpoint, class.handler.as_bytes());
            saved.map_err(|error| format!("{}: {error}", checkpoint.display()))?;
            Ok(class.handler)
        }
        Err(error) => fs::read_to_string(&checkpoint)
            .map_err(|_| format!("failed to get handler for runtime class {name}: {error}")),
    }
}

/// One container, from its image to its postStart hook.
pub async fn container(context: &Context, wanted: Wanted) -> Result {
    let Wanted { pod, container, .. } = &wanted;
    let about = container_reference(pod, &container.name);
    let image = context.images.ensure(context, pod, &images::Wanted::of(pod, container)).await;
    let image = image.map_err(|failure| Failure { reason: failure.reason, message: failure.message })?;
    let config = configure(context, &wanted, &image).await.map_err(|message| {
        context.recorder.warning(&about, "Failed", format!("Error: {message}"));
        Failure { reason: "CreateContainerConfigError", message }
    })?;
    let id = create(context, &wanted, config).await.map_err(|message| {
        context.recorder.warning(&about, "Failed", format!("Error: {message}"));
        Failure { reason: "CreateContainerError", message }
    })?;
    context.recorder.normal(&about, "Created", "Container created");
    let ask = StartContainerRequest { container_id: id.clone() };
    if let Err(status) = context.cri.runtime().start_container(request(ask)).await {
        let message = status.message().to_owned();
        context.recorder.warning(&about, "Failed", format!("Error: {message}"));
        return Err(Failure { reason: "RunContainerError", message });
    }
    context.recorder.normal(&about, "Started", "Container started");
    post_start(context, &wanted, &id).await
}

async fn create(
    context: &Context,
    wanted: &Wanted,
    config: cri::ContainerConfig,
) -> std::result::Result<String, String> {
    let ask = CreateContainerRequest {
        pod_sandbox_id: wanted.sandbox.id.clone(),
        config: Some(config),
        sandbox_config: Some(config::sandbox(&wanted.pod, &context.settings, wanted.sandbox.attempt)),
    };
    let answer = context.cri.runtime().create_container(request(ask)).await;
    let id = answer.map_err(|status| status.message().to_owned())?.into_inner().container_id;
    let uid = wanted.pod.metadata.uid.clone().unwrap_or_default();
    context.owners.lock().insert(id.clone(), uid);
    Ok(id)
}

/// The container's configuration, or the text of a `CreateContainerConfigError`.
async fn configure(
    context: &Context,
    wanted: &Wanted,
    image: &images::Image,
) -> std::result::Result<cri::ContainerConfig, String> {
    let Wanted { pod, container, restart_count, ips, .. } = wanted;
    let sources = sources(context, pod, container, ips).await?;
    let env = environment(pod, container, &sources)?;
    let known = env.iter().cloned().collect();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let file = volumes::termination_file(context, uid, &container.name, *restart_count)
        .map_err(|error| format!("the file of the termination message: {error}"))?;
    let mounts = volumes::container_mounts(context, pod, container, &known, ips, Some(&file))?;
    let logs = config::log_directory(pod, &context.settings).join(&container.name);
    fs::create_dir_all(&logs).map_err(|error| format!("{}: {error}", logs.display()))?;
    let start = config::Start {
        pod,
        container,
        restart_count: *restart_count,
        env: &env,
        mounts,
        image: &image.reference,
        image_user: (image.user.0, &image.user.1),
        termination_file: &file.display().to_string(),
        target_id: wanted.target.clone(),
    };
    config::container(&start, &context.settings)
}

async fn sources(
    context: &Context,
    pod: &Pod,
    container: &Container,
    ips: &[String],
) -> std::result::Result<Sources, String> {
    // A container must not miss variables only because it starts early; but it starts without a server, too.
    let _ = tokio::time::timeout(SERVICES_TIMEOUT, context.services.synced()).await;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut services = context.services.list_namespace(namespace);
    services.extend(context.services.get("default", "kubernetes").filter(|_| namespace != "default"));
    let mut sources = Sources {
        services: services.iter().map(|service| (**service).clone()).collect(),
        node_name: context.options.node_name.clone(),
        host_ip: context.node_ip(),
        pod_ips: ips.to_vec(),
        node_cpu_milli: i64::from(context.machine.cpus) * 1000,
        node_memory_bytes: context.machine.memory_bytes,
        ..Sources::default()
    };
    let (maps, secrets) = names(container);
    let checkpoint = context.checkpoint_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    for name in maps {
        let map = context.objects.get::<ConfigMap>(&checkpoint, namespace, &name).await;
        sources.config_maps.extend(map.map_err(|error| error.to_string())?.map(|map| (name, map)));
    }
    for name in secrets {
        let secret = context.objects.get::<Secret>(&checkpoint, namespace, &name).await;
        sources.secrets.extend(secret.map_err(|error| error.to_string())?.map(|secret| (name, secret)));
    }
    Ok(sources)
}

/// The ConfigMaps and Secrets that a container's environment refers to.
fn names(container: &Container) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for from in container.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.as_ref().map(|source| source.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|source| source.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        maps.extend(source.config_map_key_ref.as_ref().map(|key| key.name.clone()));
        secrets.extend(source.secret_key_ref.as_ref().map(|key| key.name.clone()));
    }
    (maps, secrets)
}

async fn post_start(context: &Context, wanted: &Wanted, id: &str) -> Result {
    let hook = wanted.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
    let Some(hook) = hook else { return Ok(()) };
    let ip = wanted.ips.first().map(String::as_str).unwrap_or_default();
    let Err(message) = hooks::run(context, hook, &wanted.container, id, ip, hooks::POST_START_TIMEOUT).await else {
        return Ok(());
    };
    let about = container_reference(&wanted.pod, &wanted.container.name);
    tracing::debug!(container = wanted.container.name, message, "postStart hook failed");
    context.recorder.warning(&about, "FailedPostStartHook", "PostStartHook failed");
    context.recorder.normal(&about, "Killing", "FailedPostStartHook");
    let grace = spec(&wanted.pod).termination_grace_period_seconds.unwrap_or(30);
    super::end::stop_container(context, id, grace).await;
    Err(Failure { reason: "PostStartHookError", message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_counted_by_the_logs_that_are_left() {
        let dir = tempfile::tempdir().expect("directory");
        assert_eq!(count_by_logs(&dir.path().join("none")), 0);
        for name in ["0.log", "2.log.20260101-000000", "x.log"] {
            fs::write(dir.path().join(name), "").expect("file");
        }
        assert_eq!(count_by_logs(dir.path()), 3);
    }
}
