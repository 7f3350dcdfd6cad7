//! Conflicts told where people look: an Event on the object, in the log, and for `eyot conflicts`.
use crdt::{HybridClock, Stamp};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;
use store::{Backend, ConflictRecord, Replica, Store};

/// New conflicts are looked for this often, when anything came in.
const LOOK: Duration = Duration::from_secs(2);
/// Conflicts read at once.
const PAGE: usize = 100;
/// Events made for one look at most: a long absence must not drown everything else.
const EVENTS: usize = 100;
const REASON: &str = "ConcurrentWriteLost";
/// Nobody edits Events; those that several servers make of the same conflict would be told of without end.
const EVENT_KEYS: &[u8] = b"/registry/events/";

pub struct Service {
    /// Where Events are made; none: the log alone tells.
    pub client: Option<kube::Client>,
    pub store: Arc<Store>,
    /// This server's name.
    pub server: String,
}

/// One conflict as JSON, for people and programs.
pub fn show(record: &ConflictRecord) -> Value {
    let side = |(stamp, value): &(Stamp, Option<Value>)| json!({"value": value, "time": time(*stamp), "incarnation": stamp.actor.to_string()});
    json!({
        "id": record.id,
        "found": timestamp(record.at_ms),
        "key": String::from_utf8_lossy(&record.key),
        "uid": record.conflict.life,
        "field": record.conflict.path,
        "winner": side(&record.conflict.winner),
        "loser": side(&record.conflict.loser),
    })
}

fn time(stamp: Stamp) -> String {
    timestamp(HybridClock::ms(stamp.time))
}

fn timestamp(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map(|time| time.to_string()).unwrap_or_default()
}

/// Whether people hear of conflicts on this key without asking.
fn is_told(key: &[u8]) -> bool {
    !key.starts_with(EVENT_KEYS)
}

impl Service {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let mut newest = self.store.newest();
        let mut after = self.last().await;
        loop {
            match self.store.conflicts(after, PAGE).await {
                Ok(found) => {
                    for record in found.iter().filter(|record| is_told(&record.key)).take(EVENTS) {
                        tracing::warn!(key = %String::from_utf8_lossy(&record.key), field = record.conflict.path, "a concurrent write lost");
                        self.tell(record).await;
                    }
                    after = found.last().map_or(after, |last| last.id);
                }
                Err(error) => tracing::debug!(%error, "reading conflicts"),
            }
            tokio::time::sleep(LOOK).await;
            if newest.changed().await.is_err() {
                return;
            }
        }
    }

    /// The last conflict there is: those before were told before.
    async fn last(&self) -> u64 {
        let mut after = 0;
        while let Ok(found) = self.store.conflicts(after, PAGE).await {
            match found.last() {
                Some(last) => after = last.id,
                None => break,
            }
        }
        after
    }

    async fn tell(&self, record: &ConflictRecord) {
        let Some(client) = self.client.clone() else { return };
        let Some(object) = self.object(record).await else { return };
        let namespace = object.namespace.clone().unwrap_or_else(|| "default".into());
        let event = self.event(record, object, &namespace);
        // The same conflict found by another server has the same name: it is told already.
        let made = Api::<Event>::namespaced(client, &namespace).create(&PostParams::default(), &event).await;
        if let Err(error) = made {
            tracing::debug!(%error, "telling of a conflict");
        }
    }

    /// The object that the conflict is about, as far as it is still there.
    async fn object(&self, record: &ConflictRecord) -> Option<ObjectReference> {
        let entry = self.store.get(&record.key, None).await.ok()??;
        let object: Value = serde_json::from_slice(&entry.value).ok()?;
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Some(ObjectReference {
            api_version: text("/apiVersion"),
            kind: text("/kind"),
            name: text("/metadata/name"),
            namespace: text("/metadata/namespace"),
            uid: text("/metadata/uid"),
            ..ObjectReference::default()
        })
    }

    fn event(&self, record: &ConflictRecord, object: ObjectReference, namespace: &str) -> Event {
        let conflict = &record.conflict;
        let identity = format!("{:?}{}{:?}{:?}", record.key, conflict.path, conflict.winner.0, conflict.loser.0);
        let hash: String =
            Sha256::digest(identity.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let short = |value: &Option<Value>| match value {
            Some(value) => value.to_string().chars().take(200).collect(),
            None => "nothing".to_owned(),
        };
        let field = if conflict.path.is_empty() { "the object" } else { &conflict.path };
        let message = format!(
            "{field}: {} (written {}) lost to {} (written {})",
            short(&conflict.loser.1),
            time(conflict.loser.0),
            short(&conflict.winner.1),
            time(conflict.winner.0)
        );
        let at = i64::try_from(record.at_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map(Time);
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{hash}", object.name.as_deref().unwrap_or("object"))),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: object,
            reason: Some(REASON.into()),
            message: Some(message),
            type_: Some("Warning".into()),
            source: Some(EventSource { component: Some("eyot".into()), host: Some(self.server.clone()) }),
            first_timestamp: at.clone(),
            last_timestamp: at,
            count: Some(1),
            ..Event::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_told;

    #[test]
    fn conflicts_about_what_tells_of_conflicts_are_not_told() {
        assert!(!is_told(b"/registry/events/default/shared.0123456789abcdef"));
        assert!(is_told(b"/registry/configmaps/default/shared"));
    }
}
