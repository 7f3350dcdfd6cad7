//! Telling the API what was decided: bindings, the `PodScheduled` condition, and events.
use crate::core::{Handover, Nomination};
use crate::pod::PodInfo;
use api::home::{HANDOVERS, HOME};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// Longest note of an event that the API takes, in bytes.
const MAX_NOTE_BYTES: usize = 1024;
/// Failures that are remembered, so that their repetition is counted rather than written anew.
const MAX_SERIES: usize = 4096;
/// A repetition is written at most this often.
const SERIES_INTERVAL_SECONDS: i64 = 60;

/// Why a binding did not happen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The pod is gone, or already has a node: nothing to try again.
    #[error("pod {namespace}/{name} is gone or has a node already")]
    Settled { namespace: Arc<str>, name: Arc<str>, source: Box<kube::Error> },
    #[error("binding volumes of {namespace}/{name}: {reason}")]
    Volumes { namespace: Arc<str>, name: Arc<str>, reason: String },
    #[error("binding {namespace}/{name} to {node}")]
    Failed { namespace: Arc<str>, name: Arc<str>, node: Arc<str>, source: Box<kube::Error> },
}

/// Writes to the API in the scheduler's name. Cheap to clone.
#[derive(Clone)]
pub struct Reporter {
    client: kube::Client,
    /// Name of the scheduler: the events' reporting controller and instance.
    name: Arc<str>,
}

impl Reporter {
    pub fn new(client: kube::Client, name: &str) -> Self {
        Self { client, name: name.into() }
    }

    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    /// `pods/binding`: the pod gets its node, if it is still this pod and has none.
    pub async fn bind(&self, pod: &PodInfo, node: &Arc<str>) -> Result<(), BindError> {
        let metadata = ObjectMeta {
            name: Some(pod.name.to_string()),
            namespace: Some(pod.namespace.to_string()),
            uid: Some(pod.uid.to_string()),
            ..ObjectMeta::default()
        };
        let target = ObjectReference { kind: Some("Node".into()), name: Some(node.to_string()), ..Default::default() };
        let binding = Binding { metadata, target };
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace);
        let result = api.create_subresource::<_, Value>("binding", &pod.name, &PostParams::default(), &binding).await;
        let (namespace, name) = (pod.namespace.clone(), pod.name.clone());
        match result {
            Ok(_) => Ok(()),
            Err(source) if is_settled(&source) => Err(BindError::Settled { namespace, name, source: Box::new(source) }),
            Err(source) => Err(BindError::Failed { namespace, name, node: node.clone(), source: Box::new(source) }),
        }
    }

    /// Writes the condition `PodScheduled=False` and the nomination, unless the pod says so already.
    pub async fn condition(
        &self,
        pod: &PodInfo,
        reason: &str,
        message: &str,
        nomination: &Nomination,
    ) -> Result<(), kube::Error> {
        let mut status = json!({});
        if let Some(condition) = condition(pod, reason, message, Timestamp::now()) {
            status["conditions"] = json!([condition]);
        }
        nominated(&mut status, pod, nomination);
        self.patch_status(pod, status).await
    }

    pub async fn nominate(&self, pod: &PodInfo, nomination: &Nomination) -> Result<(), kube::Error> {
        let mut status = json!({});
        nominated(&mut status, pod, nomination);
        self.patch_status(pod, status).await
    }

    /// Makes another site the pod's home, and says so. Nothing happens to a pod that is gone, and an error is what may pass.
    pub async fn hand_over(&self, pod: &PodInfo, handover: &Handover) -> Result<(), kube::Error> {
        let annotations = json!({(HOME): &*handover.site, (HANDOVERS): handover.count.to_string()});
        let mut patch = json!({"metadata": {"uid": &*pod.uid, "annotations": annotations}});
        if handover.back {
            patch["metadata"]["resourceVersion"] = json!(pod.object.metadata.resource_version);
        }
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace);
        // Through its status, which schedulers may write.
        match api.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 && !handover.back => {
                return Ok(());
            }
            result => result.map(drop)?,
        }
        let now = Timestamp::now();
        let (reason, action) =
            if handover.back { ("TakenBack", "TakingBack") } else { ("ScheduledElsewhere", "HandingOver") };
        let event = self.new_event(pod, "Normal", reason, action, &handover.reason, now);
        if let Err(error) = self.event(&event).await {
            tracing::debug!(%error, "a report was not written");
        }
        Ok(())
    }

    /// Ends a pod gracefully because another needs its room, and says so in its status first.
    pub async fn evict(&self, victim: &PodInfo, preemptor: &PodInfo, node: &str) -> Result<(), kube::Error> {
        if !victim.is_preempted() {
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                "message": format!("{}: preempting to accommodate a higher priority pod", self.name),
                "lastProbeTime": null, "lastTransitionTime": rfc3339(Timestamp::now()),
                "observedGeneration": victim.object.metadata.generation});
            self.patch_status(victim, json!({"conditions": [condition]})).await?;
            let api = Api::<Pod>::namespaced(self.client.clone(), &victim.namespace);
            let uid = Preconditions { uid: Some(victim.uid.to_string()), ..Preconditions::default() };
            let params = DeleteParams { preconditions: Some(uid), ..DeleteParams::default() };
            match api.delete(&victim.name, &params).await {
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(()),
                result => result.map(drop)?,
            }
        }
        let note = format!("Preempted by pod {} on node {node}", preemptor.uid);
        let mut event = self.new_event(victim, "Normal", "Preempted", "Preempting", &note, Timestamp::now());
        event.related = Some(reference(preemptor));
        if let Err(error) = self.event(&event).await {
            tracing::debug!(%error, "a report was not written");
        }
        Ok(())
    }

    /// Merges into a pod's status, if it is still this pod and there is something to merge.
    async fn patch_status(&self, pod: &PodInfo, status: Value) -> Result<(), kube::Error> {
        if status.as_object().is_none_or(|status| status.is_empty()) {
            return Ok(());
        }
        let patch = json!({"metadata": {"uid": &*pod.uid}, "status": status});
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace);
        let result = api.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        match result {
            // It left in the meantime.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            result => result.map(drop),
        }
    }

    pub async fn event(&self, event: &Event) -> Result<(), kube::Error> {
        let api =
            Api::<Event>::namespaced(self.client.clone(), event.metadata.namespace.as_deref().unwrap_or_default());
        match &event.series {
            None => api.create(&PostParams::default(), event).await.map(drop),
            Some(series) => {
                let patch = json!({"series": series});
                let name = event.metadata.name.as_deref().unwrap_or_default();
                api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            }
        }
    }

    pub fn scheduled(&self, pod: &PodInfo, node: &str) -> Event {
        let note = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
        self.new_event(pod, "Normal", "Scheduled", "Binding", &note, Timestamp::now())
    }

    fn new_event(&self, pod: &PodInfo, ty: &str, reason: &str, action: &str, note: &str, now: Timestamp) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", pod.name, now.as_nanosecond())),
                namespace: Some(pod.namespace.to_string()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            type_: Some(ty.into()),
            reason: Some(reason.into()),
            action: Some(action.into()),
            note: Some(truncated(note)),
            regarding: Some(reference(pod)),
            reporting_controller: Some(self.name.to_string()),
            reporting_instance: Some(self.name.to_string()),
            ..Event::default()
        }
    }
}

fn is_settled(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409)
}

fn reference(pod: &PodInfo) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(pod.name.to_string()),
        namespace: Some(pod.namespace.to_string()),
        uid: Some(pod.uid.to_string()),
        resource_version: pod.object.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

/// The condition to write; none if the pod has it. The time moves only when the status does.
fn condition(pod: &PodInfo, reason: &str, message: &str, now: Timestamp) -> Option<Value> {
    let conditions = pod.object.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let before = conditions.into_iter().find(|condition| condition.type_ == "PodScheduled");
    let same = |text: &Option<String>, other: &str| text.as_deref().unwrap_or_default() == other;
    let was_false = before.is_some_and(|condition| condition.status == "False");
    if before.is_some_and(|b| was_false && same(&b.reason, reason) && same(&b.message, message)) {
        return None;
    }
    let since = before.filter(|_| was_false).and_then(|condition| condition.last_transition_time.as_ref());
    let since = since.map_or(now, |time| time.0);
    let mut condition = json!({"type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        "lastProbeTime": null, "lastTransitionTime": rfc3339(since)});
    if let Some(generation) = pod.object.metadata.generation {
        condition["observedGeneration"] = generation.into();
    }
    Some(condition)
}

fn nominated(status: &mut Value, pod: &PodInfo, nomination: &Nomination) {
    match nomination {
        Nomination::Set(node) if pod.nominated_node() != Some(node) => status["nominatedNodeName"] = json!(**node),
        Nomination::Clear if pod.nominated_node().is_some() => status["nominatedNodeName"] = Value::Null,
        _ => {}
    }
}

/// Kubernetes' times have whole seconds.
fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn truncated(note: &str) -> String {
    if note.len() <= MAX_NOTE_BYTES {
        return note.into();
    }
    const MORE: &str = " ...";
    let mut end = MAX_NOTE_BYTES - MORE.len();
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{MORE}", &note[..end])
}

/// Turns repeated failures of a pod into one event with a count.
#[derive(Default)]
pub struct Failures {
    series: HashMap<(Arc<str>, u64), Event>,
}

impl Failures {
    /// The event to write, if any is due now.
    pub fn event(&mut self, reporter: &Reporter, pod: &PodInfo, message: &str, now: Timestamp) -> Option<Event> {
        if self.series.len() >= MAX_SERIES {
            self.series.clear();
        }
        let key = (pod.uid.clone(), digest(message));
        let Some(event) = self.series.get_mut(&key) else {
            let event = reporter.new_event(pod, "Warning", "FailedScheduling", "Scheduling", message, now);
            self.series.insert(key, event.clone());
            return Some(event);
        };
        let last =
            event.series.as_ref().map_or(event.event_time.as_ref().map(|t| t.0), |s| Some(s.last_observed_time.0));
        let count = event.series.as_ref().map_or(1, |series| series.count) + 1;
        let quiet = last.is_some_and(|last| now.as_second() - last.as_second() < SERIES_INTERVAL_SECONDS);
        let first_repetition = event.series.is_none();
        let last_observed_time = if quiet && !first_repetition { last.unwrap_or(now) } else { now };
        event.series = Some(EventSeries { count, last_observed_time: MicroTime(last_observed_time) });
        (!quiet || first_repetition).then(|| event.clone())
    }
}

fn digest(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn a_condition_is_written_once() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let fresh = pod("p", json!({}), json!({"metadata": {"generation": 3}}));
        let written = condition(&fresh, "Unschedulable", "m", now).unwrap();
        assert_eq!(written["lastTransitionTime"], "2026-01-02T00:00:00Z");
        assert_eq!(written["observedGeneration"], 3);
        let status = json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        let told = pod("p", json!({}), status);
        assert_eq!(condition(&told, "Unschedulable", "m", now), None);
        let other = condition(&told, "Unschedulable", "n", now).unwrap();
        assert_eq!(other["lastTransitionTime"], "2026-01-01T00:00:00Z");
    }

    #[tokio::test]
    async fn repetitions_are_counted() {
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::empty()))
        });
        let reporter = Reporter::new(kube::Client::new(service, "default"), "default-scheduler");
        let mut failures = Failures::default();
        let p = pod("p", json!({}), json!({}));
        let mut at = |second: i64, message: &str| {
            failures.event(&reporter, &p, message, Timestamp::from_second(second).unwrap())
        };
        let first = at(0, "m").unwrap();
        assert_eq!((first.note.as_deref(), first.series), (Some("m"), None));
        let second = at(1, "m").unwrap();
        assert_eq!((second.metadata.name, second.series.unwrap().count), (first.metadata.name.clone(), 2));
        assert!(at(30, "m").is_none());
        assert_eq!(at(62, "m").unwrap().series.unwrap().count, 4);
        assert_ne!(at(63, "other").unwrap().metadata.name, first.metadata.name);
    }

    #[test]
    fn notes_are_cut() {
        assert_eq!(truncated("short"), "short");
        let long = truncated(&"ä".repeat(2000));
        assert!(long.len() <= MAX_NOTE_BYTES && long.ends_with(" ..."));
    }
}
