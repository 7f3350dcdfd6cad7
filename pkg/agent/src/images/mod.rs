//! Images: those on this machine first, then from their registry; `gc` removes those that nobody runs.
pub mod gc;

use crate::context::{Context, container_reference};
use crate::cri::{AuthConfig, ImageSpec, ImageStatusRequest, PullImageRequest, request, request_within};
use base64::Engine;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Secret};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bound of one pull: large images over thin lines.
const PULL_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// An image that containers can be made from.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// What the runtime calls it.
    pub reference: String,
    /// The image's own user where it is a number, and its name where it is not.
    pub user: (Option<i64>, String),
}

/// An image that a pod asks for, and what its events are about.
pub struct Wanted<'a> {
    pub about: ObjectReference,
    pub name: &'a str,
    pub policy: &'a str,
}

impl<'a> Wanted<'a> {
    /// The image that a container is made from.
    pub fn of(pod: &Pod, container: &'a Container) -> Self {
        Self {
            about: container_reference(pod, &container.name),
            name: container.image.as_deref().unwrap_or_default(),
            policy: container.image_pull_policy.as_deref().unwrap_or("IfNotPresent"),
        }
    }
}

/// Why there is no image: the waiting reason and message.
#[derive(Debug, Clone)]
pub struct Failure {
    pub reason: &'static str,
    pub message: String,
}

/// One pull of an image at a time; whoever comes second finds it there.
#[derive(Default)]
pub struct Images {
    pulling: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// The disk runs out: unused images go now.
    pub short_of_disk: tokio::sync::Notify,
}

impl Images {
    /// The image, pulled where its policy says so.
    pub async fn ensure(&self, context: &Context, pod: &Pod, wanted: &Wanted<'_>) -> Result<Image, Failure> {
        let Wanted { about, name, policy } = wanted;
        let (name, policy) = (*name, *policy);
        if policy != "Always"
            && let Some(image) = status(context, name).await?
        {
            let message =
                format!("Container image \"{name}\" already present on machine and can be accessed by the pod");
            context.recorder.normal(about, "Pulled", message);
            return Ok(image);
        }
        if policy == "Never" {
            let message = format!("Container image \"{name}\" is not present with pull policy of Never");
            context.recorder.warning(about, "ErrImageNeverPull", message.clone());
            return Err(Failure { reason: "ErrImageNeverPull", message });
        }
        let turn = self.pulling.lock().entry(name.to_owned()).or_default().clone();
        let began = Instant::now();
        let guard = turn.lock().await;
        if policy != "Always"
            && let Some(image) = status(context, name).await?
        {
            return Ok(image);
        }
        context.recorder.normal(about, "Pulling", format!("Pulling image \"{name}\""));
        let pulled = pull(context, pod, name, began).await;
        drop(guard);
        self.pulling.lock().retain(|_, turn| Arc::strong_count(turn) > 1);
        match pulled {
            Ok((image, message)) => {
                context.recorder.normal(about, "Pulled", message);
                Ok(image)
            }
            Err(failure) => {
                let message = format!("Failed to pull image \"{name}\": {}", failure.message);
                context.recorder.warning(about, "Failed", message);
                context.recorder.warning(about, "Failed", format!("Error: {}", failure.reason));
                Err(failure)
            }
        }
    }
}

async fn pull(context: &Context, pod: &Pod, name: &str, began: Instant) -> Result<(Image, String), Failure> {
    let own = Instant::now();
    let failed = |message: String| Failure { reason: "ErrImagePull", message };
    let mut last = None;
    for auth in credentials(context, pod, name).await {
        let image = Some(ImageSpec { image: name.to_owned(), ..Default::default() });
        let ask = PullImageRequest { image, auth, sandbox_config: None };
        match context.cri.images().pull_image(request_within(ask, PULL_TIMEOUT)).await {
            Ok(_) => {
                let image = status(context, name).await?.ok_or_else(|| failed("it is gone again".to_owned()))?;
                let size = size(context, name).await;
                let (alone, all) = (own.elapsed().as_millis(), began.elapsed().as_millis());
                let message = format!(
                    "Successfully pulled image \"{name}\" in {alone}ms ({all}ms including waiting). Image size: {size} bytes."
                );
                return Ok((image, message));
            }
            Err(status) => last = Some(status),
        }
    }
    Err(failed(last.map_or_else(String::new, |status| status.message().to_owned())))
}

async fn look(context: &Context, name: &str) -> Result<Option<crate::cri::Image>, tonic::Status> {
    let image = Some(ImageSpec { image: name.to_owned(), ..Default::default() });
    Ok(context.cri.images().image_status(request(ImageStatusRequest { image })).await?.into_inner().image)
}

async fn status(context: &Context, name: &str) -> Result<Option<Image>, Failure> {
    let inspected = look(context, name).await;
    let found = inspected.map_err(|status| Failure {
        reason: "ImageInspectError",
        message: format!("Failed to inspect image \"{name}\": {}", status.message()),
    })?;
    Ok(found.map(|image| Image { reference: image.id, user: (image.uid.map(|uid| uid.value), image.username) }))
}

async fn size(context: &Context, name: &str) -> u64 {
    look(context, name).await.ok().flatten().map_or(0, |image| image.size)
}

/// The pod's credentials for the image's registry, and at last none.
async fn credentials(context: &Context, pod: &Pod, image: &str) -> Vec<Option<AuthConfig>> {
    let host = registry(image);
    let mut all = Vec::new();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let checkpoint = context.checkpoint_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    for reference in pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten()) {
        if let Ok(Some(secret)) = context.objects.get::<Secret>(&checkpoint, namespace, &reference.name).await {
            all.extend(of_secret(&secret, host));
        }
    }
    all.into_iter().map(Some).chain([None]).collect()
}

/// The host of an image's name; names without one are Docker Hub's.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

fn of_secret(secret: &Secret, host: &str) -> Vec<AuthConfig> {
    let data = secret.data.as_ref();
    let new = data.and_then(|data| data.get(".dockerconfigjson"));
    let old = data.and_then(|data| data.get(".dockercfg"));
    let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok();
    let mut registries = new.and_then(|bytes| parse(&bytes.0)).map(|mut config| config["auths"].take());
    registries = registries.or_else(|| old.and_then(|bytes| parse(&bytes.0)));
    let Some(Value::Object(registries)) = registries else { return Vec::new() };
    registries.iter().filter(|(name, _)| is_of(name, host)).filter_map(|(_, entry)| auth(entry)).collect()
}

fn is_of(entry: &str, host: &str) -> bool {
    let entry = entry.trim_start_matches("https://").trim_start_matches("http://");
    let entry = entry.split('/').next().unwrap_or_default();
    entry == host || (host == "docker.io" && entry == "index.docker.io")
}

fn auth(entry: &Value) -> Option<AuthConfig> {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let (mut username, mut password) = (text("username"), text("password"));
    if username.is_empty() {
        let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (user, secret) = decoded.split_once(':')?;
        (username, password) = (user.to_owned(), secret.to_owned());
    }
    Some(AuthConfig { username, password, identity_token: text("identitytoken"), ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_to_their_registry_alone() {
        let config = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "r.example:5000": {"username": "a", "password": "b"}}}"#;
        let secret: Secret = serde_json::from_value(serde_json::json!({
            "data": {".dockerconfigjson": base64::engine::general_purpose::STANDARD.encode(config)}}))
        .expect("a secret");
        let of = |image: &str| {
            let all = of_secret(&secret, registry(image));
            all.into_iter().map(|a| (a.username, a.password)).collect::<Vec<_>>()
        };
        assert_eq!(of("busybox"), [("u".to_owned(), "p".to_owned())]);
        assert_eq!(of("library/busybox"), [("u".to_owned(), "p".to_owned())]);
        assert_eq!(of("r.example:5000/x:1"), [("a".to_owned(), "b".to_owned())]);
        assert!(of("other.example/x").is_empty());
    }
}
