//! Events: what components tell users about objects. A [`Recorder`] takes notices without waiting; [`Service`] turns
//! them into Event objects, counting repeated ones up by patch.
mod correlate;

use correlate::{Correlator, Write};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Notices waiting to be written; a full queue drops the newest, as Events are best effort.
const PENDING: usize = 1024;
/// How long Events may still be written after shutdown began.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Bytes of a message; the API refuses longer ones.
const MESSAGE_BYTES: usize = 1024;
/// Bytes of an object's name that go into an Event's, leaving room for the time.
const NAME_BYTES: usize = 253 - 17;

/// What the Events of one component need.
pub struct Options {
    pub client: kube::Client,
    /// `source.component`, such as `deployment-controller`.
    pub component: String,
    /// `source.host`: the node's name for node components, otherwise empty.
    pub host: String,
}

/// Writes Events until shutdown.
pub struct Service {
    options: Options,
    notices: mpsc::Receiver<Notice>,
    recorder: Recorder,
    correlator: Correlator,
}

/// A cloneable handle for telling about objects.
#[derive(Clone)]
pub struct Recorder {
    notices: mpsc::Sender<Notice>,
}

#[derive(Debug)]
struct Notice {
    object: ObjectReference,
    warning: bool,
    reason: String,
    message: String,
}

/// What makes two notices the same: of one object, one reason, one message.
type Key = String;

impl Recorder {
    /// Something went as it should.
    pub fn normal(&self, object: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.send(object, false, reason, message.into());
    }

    /// Something the user should look at.
    pub fn warning(&self, object: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.send(object, true, reason, message.into());
    }

    fn send(&self, object: &ObjectReference, warning: bool, reason: &str, mut message: String) {
        if message.len() > MESSAGE_BYTES {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES - 3));
            message.push_str("...");
        }
        let notice = Notice { object: object.clone(), warning, reason: reason.to_owned(), message };
        if let Err(error) = self.notices.try_send(notice) {
            tracing::debug!(%error, "an Event was dropped");
        }
    }
}

/// The reference of an object that Events are about.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    object.object_ref(&())
}

impl Service {
    pub fn new(options: Options) -> Self {
        let (sender, notices) = mpsc::channel(PENDING);
        Self { options, notices, recorder: Recorder { notices: sender }, correlator: Correlator::default() }
    }

    pub fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// Writes until shutdown, then what is still waiting, as far as that goes quickly: a server that is away must not
    /// hold up the end.
    pub async fn run(self, shutdown: CancellationToken) {
        let late = async {
            shutdown.cancelled().await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! {
            () = self.write_all(&shutdown) => {}
            () = late => tracing::debug!("Events were left unwritten"),
        }
    }

    async fn write_all(mut self, shutdown: &CancellationToken) {
        while let Some(Some(notice)) = shutdown.run_until_cancelled(self.notices.recv()).await {
            self.record(notice).await;
        }
        while let Ok(notice) = self.notices.try_recv() {
            self.record(notice).await;
        }
    }

    async fn record(&mut self, notice: Notice) {
        let now = Timestamp::now();
        if let Some(write) = self.correlator.observe(&notice, now) {
            self.write(&notice, write, now).await;
        }
    }

    async fn write(&mut self, notice: &Notice, write: Write, now: Timestamp) {
        match write {
            Write::Create { key, name, message } => {
                let event = self.event(notice, name, message, now);
                if let Err(error) = self.api(&notice.event_namespace()).create(&PostParams::default(), &event).await {
                    // A namespace that is being deleted takes no Events, and nobody would read them.
                    tracing::debug!(%error, reason = notice.reason, "an Event was not written");
                    self.correlator.forget(&key);
                }
            }
            Write::Count { key, namespace, name, message, count, .. } => {
                let patch = serde_json::json!({"message": message, "count": count, "lastTimestamp": Time(now)});
                let patch = Patch::Merge(&patch);
                if let Err(error) = self.api(&namespace).patch(&name, &PatchParams::default(), &patch).await {
                    tracing::debug!(%error, reason = notice.reason, "an Event was not counted up");
                    self.correlator.forget(&key);
                    self.rewrite(notice, now).await;
                }
            }
        }
    }

    /// The Event to count up has expired: tell anew.
    async fn rewrite(&mut self, notice: &Notice, now: Timestamp) {
        if let Some(Write::Create { key, name, message }) = self.correlator.observe(notice, now) {
            let event = self.event(notice, name, message, now);
            if self.api(&notice.event_namespace()).create(&PostParams::default(), &event).await.is_err() {
                self.correlator.forget(&key);
            }
        }
    }

    fn api(&self, namespace: &str) -> Api<Event> {
        Api::namespaced(self.options.client.clone(), namespace)
    }

    fn event(&self, notice: &Notice, name: String, message: String, now: Timestamp) -> Event {
        let Options { component, host, .. } = &self.options;
        let source =
            EventSource { component: Some(component.clone()), host: Some(host.clone()).filter(|h| !h.is_empty()) };
        Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(notice.event_namespace()), ..Default::default() },
            involved_object: notice.object.clone(),
            reason: Some(notice.reason.clone()),
            message: Some(message),
            type_: Some(if notice.warning { "Warning" } else { "Normal" }.to_owned()),
            source: Some(source),
            reporting_component: Some(component.clone()),
            reporting_instance: Some(host.clone()),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            ..Default::default()
        }
    }
}

impl Notice {
    fn event_namespace(&self) -> String {
        self.object.namespace.clone().filter(|ns| !ns.is_empty()).unwrap_or_else(|| "default".to_owned())
    }

    fn event_name(&self, now: Timestamp) -> String {
        let name = self.object.name.as_deref().unwrap_or_default();
        let name = &name[..name.floor_char_boundary(NAME_BYTES)];
        format!("{name}.{:x}", now.as_nanosecond())
    }

    fn object_key(&self) -> Key {
        let ObjectReference { api_version, kind, namespace, name, uid, field_path, .. } = &self.object;
        let parts = [api_version, kind, namespace, name, uid, field_path];
        parts.map(|part| part.as_deref().unwrap_or_default()).join("\u{1f}")
    }

    fn reason_key(&self) -> Key {
        format!("{}\u{1f}{}\u{1f}{}", self.object_key(), self.warning, self.reason)
    }

    fn message_key(&self) -> Key {
        format!("{}\u{1f}{}", self.reason_key(), self.message)
    }
}
