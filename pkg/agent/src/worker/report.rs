//! What of a pod's status was sent, and what is next. At most one patch is under way; what changes meanwhile goes
//! into the next.
use super::{Job, Outcome, Worker};
use crate::context::Context;
use crate::cri::ContainerStatus;
use crate::pod::observed::{Observed, container_name};
use crate::pod::status::{self, status};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A container that somebody waits for is not told to run until it has done so for this long.
const BRIEF: Duration = Duration::from_millis(500);

/// A pod that is shown while a server says that there is none is reported to again after this.
const DOUBT: Duration = Duration::from_secs(3);

/// How a patch ended.
pub enum Sent {
    Taken(Value),
    /// The object is gone or is another.
    Gone,
    Refused,
}

/// A status that is kept: as text it takes a fifth of what it takes as a tree, and most of the time nobody reads it.
#[derive(PartialEq)]
struct Kept(Box<str>);

impl Kept {
    fn of(status: &Value) -> Self {
        Self(status.to_string().into())
    }

    fn value(&self) -> Value {
        serde_json::from_str(&self.0).expect("it was written from a tree")
    }
}

/// The status as the server has it from us.
pub struct Reporter {
    last: Option<Kept>,
    next: Option<Kept>,
    /// Since when a server says that there is no such pod.
    gone: Option<Instant>,
    /// It had ended before we knew it: its last words were said then, and their files are gone.
    ended: bool,
}

impl Reporter {
    /// A restarted agent knows from the object what was sent before.
    pub fn new(pod: &Pod) -> Self {
        let known = pod.status.as_ref().filter(|status| status.container_statuses.is_some());
        let last = known.and_then(|status| serde_json::to_value(status).ok()).as_ref().map(Kept::of);
        Self { last, next: None, gone: None, ended: status::has_ended(pod) }
    }

    /// Another object shows the status from now on.
    pub fn begin(&mut self, object: &Pod) {
        *self = Self { ended: false, ..Self::new(object) };
    }

    /// It had ended before this agent knew it.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the server knows everything.
    pub fn is_settled(&self) -> bool {
        self.gone.is_some() || self.ended || (self.next.is_none() && self.last.is_some())
    }

    /// True when it must be tried again.
    pub fn sent(&mut self, sent: Sent) -> bool {
        match sent {
            Sent::Taken(value) => {
                let value = Kept::of(&value);
                if self.next.as_ref() == Some(&value) {
                    self.next = None;
                }
                self.last = Some(value);
                false
            }
            Sent::Gone => {
                self.gone = Some(Instant::now());
                self.next = None;
                false
            }
            Sent::Refused => true,
        }
    }

    /// Whether nobody is told anything more. Of several servers, one may not have heard of a pod yet that another has
    /// shown: as long as it is shown, the status is sent anew after a while.
    fn is_over(&mut self, shown: bool, now: Instant) -> bool {
        if shown && self.gone.is_some_and(|since| now.duration_since(since) >= DOUBT) {
            self.gone = None;
        }
        self.gone.is_some() || self.ended
    }
}

impl Worker {
    /// Sends the status if it differs from what the server has; the time until there may be more to say.
    pub(super) fn report(&mut self, ending: bool, finished: bool) -> Duration {
        if self.reporter.is_over(!self.gone, Instant::now()) || self.gone {
            return if self.gone || self.reporter.ended { super::REFRESH } else { DOUBT };
        }
        let Some(uid) = self.shown_uid() else { return super::REFRESH };
        let now_ns = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        if let Some(left) = brief(&self.pod, &self.observed, now_ns).filter(|_| !ending) {
            return left;
        }
        let mut new = self.status_now(ending);
        // What the node ended has failed, however well its containers took it.
        if finished && ending && new.get("reason").is_none() {
            end_phase(&mut new);
        }
        if let Some(last) = self.reporter.next.as_ref().or(self.reporter.last.as_ref()) {
            keep_times(&last.value(), &mut new);
        }
        let kept = Kept::of(&new);
        if self.reporter.last.as_ref() == Some(&kept) {
            self.reporter.next = None;
            return super::REFRESH;
        }
        if matches!(new["phase"].as_str(), Some("Succeeded" | "Failed")) {
            // From the moment that this is known, the scheduler gives away what the pod held.
            self.context.ledger.lock().close(&self.uid);
        }
        self.reporter.next = Some(kept);
        let patch = patch(&uid, self.reporter.last.as_ref().map(Kept::value).as_ref(), &new);
        let (context, pod) = self.shared();
        self.job(Job::Report, async move { Outcome::Report(send(&context, &pod, patch, new).await) })
    }

    fn status_now(&self, ending: bool) -> Value {
        let now = self.began.max(Timestamp::now()).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let deadline = self.past_deadline() && self.pod.metadata.deletion_timestamp.is_none();
        let evicted =
            deadline.then_some(("DeadlineExceeded", "Pod was active on the node longer than the specified deadline"));
        let refused = self.refused.as_ref().map(|refusal| (refusal.reason, refusal.message.as_str()));
        let evicted = refused.or(evicted);
        let mut new = status(&status::Context {
            pod: &self.pod,
            observed: &self.observed,
            health: &self.probes,
            waiting: &self.waiting,
            host_ip: &self.context.node_ip(),
            now: &now,
            messages: &self.messages,
            evicted,
            disruption: self.refused.as_ref().filter(|refusal| refusal.disruption).map(|r| r.message.as_str()),
            ending,
            actual: &self.resizes.actual,
            resize: status::Resize {
                pending: self.resizes.pending.as_ref().map(|pending| (pending.reason, pending.message.as_str())),
                under_way: self.resizes.under_way,
                error: self.resizes.error.as_deref(),
            },
        });
        if self.refused.as_ref().is_some_and(|refusal| refusal.at_the_door)
            && let Some(fields) = new.as_object_mut()
        {
            fields.retain(|name, _| !name.ends_with("ontainerStatuses"));
        }
        new["startTime"] = self.began.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
        new
    }
}

/// `kubectl run -i` reads the log and attaches as soon as it sees the container run. What ends within moments would
/// fall in between and be printed twice or not at all; shown as ended at once, it is read from its log alone. The
/// kubelet sees containers start up to a second late. The time for which the pod's start is not told yet.
fn brief(pod: &Pod, observed: &Observed, now_ns: i64) -> Option<Duration> {
    let waited_for = |status: &&ContainerStatus| {
        let mut all = pod.spec.iter().flat_map(|spec| &spec.containers);
        all.any(|c| c.name == container_name(status) && c.stdin_once == Some(true))
    };
    let age = |status: &ContainerStatus| Duration::from_nanos((now_ns - status.started_at).max(0).unsigned_abs());
    let left = observed.running().filter(waited_for).map(|status| BRIEF.saturating_sub(age(status)));
    left.max().filter(|left| !left.is_zero())
}

/// A pod that was deleted ends as its containers did.
fn end_phase(status: &mut Value) {
    let statuses = status["containerStatuses"].as_array().cloned().unwrap_or_default();
    let well = |status: &Value| status["state"]["terminated"]["exitCode"] == 0;
    status["phase"] = if statuses.iter().all(well) { "Succeeded" } else { "Failed" }.into();
}

/// A condition that stays as it is keeps the time of its last change.
fn keep_times(last: &Value, new: &mut Value) {
    let Some(conditions) = new["conditions"].as_array_mut() else { return };
    for condition in conditions {
        let old = last["conditions"].as_array().into_iter().flatten().find(|old| old["type"] == condition["type"]);
        if let Some(old) = old.filter(|old| old["status"] == condition["status"]) {
            condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
        }
    }
}

/// A strategic merge patch: conditions of others stay; ours lose the texts that they no longer have.
fn patch(uid: &str, last: Option<&Value>, new: &Value) -> Value {
    let mut status = new.clone();
    if let Some(conditions) = status["conditions"].as_array_mut() {
        for condition in conditions {
            let mut old = last.and_then(|last| last["conditions"].as_array()).into_iter().flatten();
            let old = old.find(|old| old["type"] == condition["type"]);
            for field in ["reason", "message"] {
                if old.is_some_and(|old| !old[field].is_null()) && condition.get(field).is_none() {
                    condition[field] = Value::Null;
                }
            }
        }
    }
    if let Some(conditions) = status["conditions"].as_array_mut() {
        let has = |kind: &Value, all: &[Value]| all.iter().any(|condition| condition["type"] == *kind);
        let before = last.and_then(|last| last["conditions"].as_array()).into_iter().flatten();
        for old in before.filter(|old| OURS_FOR_A_TIME.iter().any(|kind| old["type"] == *kind)) {
            if !has(&old["type"], conditions) {
                conditions.push(json!({"type": old["type"], "$patch": "delete"}));
            }
        }
    }
    json!({"metadata": {"uid": uid}, "status": status})
}

/// Conditions that go when what they tell is over.
const OURS_FOR_A_TIME: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

async fn send(context: &Context, pod: &Pod, patch: Value, new: Value) -> Sent {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(context.options.client.clone(), namespace);
    match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(_) => Sent::Taken(new),
        Err(kube::Error::Api(status)) if status.code == 404 => Sent::Gone,
        // The name belongs to another pod by now.
        Err(kube::Error::Api(status)) if status.code == 409 && status.message.to_lowercase().contains("uid") => {
            Sent::Gone
        }
        Err(error) => {
            tracing::debug!(pod = name, namespace, %error, "status not sent");
            Sent::Refused
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stay_while_the_status_stays_and_texts_are_removed() {
        let last =
            json!({"conditions": [{"type": "Ready", "status": "True", "reason": "x", "lastTransitionTime": "a"}]});
        let mut new = json!({"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "b"}]});
        keep_times(&last, &mut new);
        assert_eq!(new["conditions"][0]["lastTransitionTime"], "a");
        let patch = patch("u", Some(&last), &new);
        let condition = patch["status"]["conditions"][0].as_object().expect("object");
        assert_eq!(condition.get("reason"), Some(&Value::Null));
        assert_eq!(condition.get("message"), None);
    }

    #[test]
    fn a_server_that_has_not_heard_of_a_pod_yet_is_told_again() {
        let mut reporter = Reporter::new(&Pod::default());
        let now = Instant::now();
        assert!(!reporter.is_over(true, now));
        reporter.sent(Sent::Gone);
        assert!(reporter.is_settled() && reporter.is_over(true, now), "a moment to learn that it was deleted");
        let later = now + DOUBT + DOUBT;
        assert!(reporter.is_over(false, later), "it was");
        assert!(!reporter.is_over(true, later) && !reporter.is_settled(), "it was not");
    }

    #[test]
    fn who_waits_for_a_container_hears_of_it_when_it_stays() {
        use crate::cri::{ContainerState, label};
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [
            {"name": "a", "stdinOnce": true}, {"name": "b"}]}}))
        .expect("a pod");
        let running = |name: &str, started_at| ContainerStatus {
            state: ContainerState::ContainerRunning.into(),
            labels: [(label::CONTAINER_NAME.to_owned(), name.to_owned())].into(),
            started_at,
            ..ContainerStatus::default()
        };
        let of = |containers| brief(&pod, &Observed { sandboxes: vec![], containers }, 1_000_000_000);
        assert_eq!(of(vec![running("b", 999_000_000)]), None, "nobody waits for it");
        assert_eq!(of(vec![running("a", 900_000_000)]), Some(BRIEF - Duration::from_millis(100)));
        assert_eq!(of(vec![running("a", 1_000_000)]), None);
    }

    #[test]
    fn conditions_of_a_resize_go_with_it() {
        let last = json!({"conditions": [{"type": "PodResizePending", "status": "True"}, {"type": "x/own"}]});
        let patch = patch("u", Some(&last), &json!({"conditions": []}));
        let gone = json!([{"type": "PodResizePending", "$patch": "delete"}]);
        assert_eq!(patch["status"]["conditions"], gone, "those of others stay");
    }

    #[test]
    fn a_deleted_pod_ends_as_its_containers_did() {
        let mut status = json!({"containerStatuses": [{"state": {"terminated": {"exitCode": 0}}}]});
        end_phase(&mut status);
        assert_eq!(status["phase"], "Succeeded");
        status["containerStatuses"][0]["state"]["terminated"]["exitCode"] = 137.into();
        end_phase(&mut status);
        assert_eq!(status["phase"], "Failed");
    }
}
