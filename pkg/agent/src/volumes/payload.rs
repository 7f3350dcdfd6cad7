//! What the files of configMap, secret, downwardAPI and projected volumes are.
use super::atomic::{File, Payload};
use super::{Token, Volumes};
use crate::context::Context;
use crate::pod::config::spec;
use crate::pod::env::{Sources, field_value, resource_value};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccount, ServiceAccountTokenProjection,
    Volume, VolumeProjection,
};
use kube::Api;
use std::collections::BTreeMap;

const DEFAULT_MODE: i32 = 0o644;
/// Lifetime of a token that names none, in seconds (Kubernetes' default).
const TOKEN_SECONDS: i64 = 3600;

impl Volumes {
    pub(super) async fn payload(&mut self, context: &Context, pod: &Pod, volume: &Volume) -> Result<Payload, String> {
        let mut payload = Payload::new();
        if let Some(source) = &volume.config_map {
            let data = config_map(context, pod, &source.name, source.optional).await?;
            add(&mut payload, data, source.items.as_deref(), source.default_mode, source.optional)?;
        }
        if let Some(source) = &volume.secret {
            let data = secret(context, pod, source.secret_name.as_deref().unwrap_or_default(), source.optional).await?;
            add(&mut payload, data, source.items.as_deref(), source.default_mode, source.optional)?;
        }
        if let Some(source) = &volume.downward_api {
            let items = source.items.as_deref().unwrap_or_default();
            downward(context, pod, items, source.default_mode, &mut payload)?;
        }
        if let Some(source) = &volume.projected {
            for part in source.sources.iter().flatten() {
                self.project(context, pod, &volume.name, part, source.default_mode, &mut payload).await?;
            }
        }
        Ok(payload)
    }

    async fn project(
        &mut self,
        context: &Context,
        pod: &Pod,
        volume: &str,
        part: &VolumeProjection,
        mode: Option<i32>,
        payload: &mut Payload,
    ) -> Result<(), String> {
        if let Some(source) = &part.config_map {
            let data = config_map(context, pod, &source.name, source.optional).await?;
            add(payload, data, source.items.as_deref(), mode, source.optional)?;
        }
        if let Some(source) = &part.secret {
            let data = secret(context, pod, &source.name, source.optional).await?;
            add(payload, data, source.items.as_deref(), mode, source.optional)?;
        }
        if let Some(source) = &part.downward_api {
            downward(context, pod, source.items.as_deref().unwrap_or_default(), mode, payload)?;
        }
        if let Some(source) = &part.service_account_token {
            let text = self.token(context, pod, volume, source).await?;
            let (uid, group) = (single_user(pod), super::fs_group(pod));
            let mode = if uid.is_some() || group.is_some() { 0o600 } else { file_mode(None, mode) };
            payload.insert(source.path.clone(), File { content: text.into_bytes(), mode, uid });
        }
        Ok(())
    }

    /// The pod's token, issued anew when four fifths of its life have passed.
    async fn token(
        &mut self,
        context: &Context,
        pod: &Pod,
        volume: &str,
        source: &ServiceAccountTokenProjection,
    ) -> Result<String, String> {
        let key = (volume.to_owned(), source.path.clone());
        let now = Timestamp::now();
        if let Some(token) = self.tokens.get(&key).filter(|token| now < token.refresh_at) {
            return Ok(token.text.clone());
        }
        match request_token(context, pod, source, now).await {
            Ok(token) => {
                let text = token.text.clone();
                self.tokens.insert(key, token);
                Ok(text)
            }
            // A token that lies there already may still be good, and none would be worse.
            Err(error) => self.last_token(context, pod, volume, source).ok_or(error),
        }
    }

    fn last_token(
        &self,
        context: &Context,
        pod: &Pod,
        volume: &str,
        source: &ServiceAccountTokenProjection,
    ) -> Option<String> {
        let volume = spec(pod).volumes.iter().flatten().find(|v| v.name == volume)?;
        let dir = super::path(context, pod.metadata.uid.as_deref()?, volume)?;
        std::fs::read_to_string(dir.join(&source.path)).ok()
    }
}

async fn request_token(
    context: &Context,
    pod: &Pod,
    source: &ServiceAccountTokenProjection,
    now: Timestamp,
) -> Result<Token, String> {
    let account = spec(pod).service_account_name.as_deref().unwrap_or("default");
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let seconds = source.expiration_seconds.unwrap_or(TOKEN_SECONDS);
    let bound = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
    };
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: source.audience.clone().filter(|audience| !audience.is_empty()).map(|audience| vec![audience]),
            bound_object_ref: Some(bound),
            expiration_seconds: Some(seconds),
        }),
        ..Default::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(context.options.client.clone(), namespace);
    let answer = api.create_token_request(account, &Default::default(), &request).await;
    let answer = answer.map_err(|error| format!("failed to fetch token: {error}"))?;
    let status = answer.status.ok_or("failed to fetch token: the answer has none")?;
    let (Some(text), Some(expires)) = (status.token, status.expiration_timestamp) else {
        return Err("failed to fetch token: the answer has none".to_owned());
    };
    let life = expires.0.duration_since(now);
    let refresh_at = now.saturating_add(life * 4 / 5).unwrap_or(now).min(in_a_day(now));
    Ok(Token { text, refresh_at })
}

/// Long-lived tokens are renewed daily all the same, as upstream does.
fn in_a_day(now: Timestamp) -> Timestamp {
    now.saturating_add(SignedDuration::from_hours(24)).unwrap_or(now)
}

/// The user that all containers run as, if it is one: the token is theirs alone then.
fn single_user(pod: &Pod) -> Option<u32> {
    let spec = spec(pod);
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let user = |c: &Container| c.security_context.as_ref().and_then(|context| context.run_as_user).or(of_pod);
    let mut users = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(user);
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}

type Data = BTreeMap<String, Vec<u8>>;

async fn config_map(context: &Context, pod: &Pod, name: &str, optional: Option<bool>) -> Result<Data, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let checkpoint = context.checkpoint_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    let map = context.objects.get::<ConfigMap>(&checkpoint, namespace, name).await;
    let Some(map) = map.map_err(|error| error.to_string())? else {
        return absent("configmap", name, optional);
    };
    let text = map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
    Ok(text.chain(map.binary_data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0))).collect())
}

async fn secret(context: &Context, pod: &Pod, name: &str, optional: Option<bool>) -> Result<Data, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let checkpoint = context.checkpoint_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    let secret = context.objects.get::<Secret>(&checkpoint, namespace, name).await;
    let Some(secret) = secret.map_err(|error| error.to_string())? else {
        return absent("secret", name, optional);
    };
    Ok(secret.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0)).collect())
}

fn absent(kind: &str, name: &str, optional: Option<bool>) -> Result<Data, String> {
    if optional == Some(true) { Ok(Data::new()) } else { Err(format!("{kind} \"{name}\" not found")) }
}

fn add(
    payload: &mut Payload,
    data: Data,
    items: Option<&[KeyToPath]>,
    mode: Option<i32>,
    optional: Option<bool>,
) -> Result<(), String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        let files =
            data.into_iter().map(|(key, content)| (key, File { content, mode: file_mode(None, mode), uid: None }));
        payload.extend(files);
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(content) => {
                let file = File { content: content.clone(), mode: file_mode(item.mode, mode), uid: None };
                payload.insert(item.path.clone(), file);
            }
            None if optional == Some(true) => {}
            None => return Err(format!("references non-existent config key: {}", item.key)),
        }
    }
    Ok(())
}

fn downward(
    context: &Context,
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    mode: Option<i32>,
    payload: &mut Payload,
) -> Result<(), String> {
    let sources = Sources {
        node_name: context.options.node_name.clone(),
        host_ip: context.node_ip(),
        node_cpu_milli: i64::from(context.machine.cpus) * 1000,
        node_memory_bytes: context.machine.memory_bytes,
        ..Sources::default()
    };
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => field_value(pod, field, &sources)?,
            (None, Some(resource)) => {
                let container = spec(pod).containers.first().ok_or("the pod has no container")?;
                resource_value(pod, container, resource, &sources)?
            }
            (None, None) => String::new(),
        };
        let file = File { content: text.into_bytes(), mode: file_mode(item.mode, mode), uid: None };
        payload.insert(item.path.clone(), file);
    }
    Ok(())
}

fn file_mode(own: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(own.or(default).unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o7777
}
