//! The summary of a stored object, taken in one pass over its bytes without building a tree: the store calls
//! this once a write, on its hot path.
use super::{Registry, Resource};
use api::summary::{Summarize, Summary};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Where a core Event's `source` selector really looks.
const EVENT_SOURCE: &str = "source.component";

/// Summaries by what the registry says of a key's resource.
pub struct Summarizer {
    registry: Arc<Registry>,
}

impl Summarizer {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }
}

impl Summarize for Summarizer {
    fn summarize(&self, key: &[u8], value: &[u8]) -> Summary {
        let resource = self.registry.by_key(key);
        let fields = resource.as_ref().map_or(&[][..], |r| &r.selectable_fields);
        summarize(value, fields, resource.as_deref())
    }
}

/// Reads labels, uid, owners, deletionTimestamp and the selectable `fields`. A value that is no JSON object has
/// an empty summary without a place to splice.
pub fn summarize(value: &[u8], fields: &[String], resource: Option<&Resource>) -> Summary {
    let mut scan = Scan { fields, found: Found::default() };
    let mut reader = serde_json::Deserializer::from_slice(value);
    if reader.deserialize_map(Root(&mut scan)).is_err() {
        return Summary::default();
    }
    scan.found.summary.splice_at = splice_offset(value);
    for field in fields {
        if let Some(value) = absent_value(resource, field, &scan.found.values) {
            scan.found.values.entry(field.as_str().into()).or_insert_with(|| value.into());
        }
    }
    scan.found.values.remove(EVENT_SOURCE);
    Summary { fields: scan.found.values, ..scan.found.summary }
}

/// What a selectable field reads as when the object leaves it out (`ToSelectableFields` of each kind).
fn absent_value(resource: Option<&Resource>, field: &str, found: &BTreeMap<Box<str>, Box<str>>) -> Option<String> {
    match (resource?.kind.as_str(), field) {
        ("Pod", "spec.hostNetwork") | ("Node", "spec.unschedulable") => Some("false".into()),
        ("Job", "status.successful") | ("ReplicaSet" | "ReplicationController", "status.replicas") => Some("0".into()),
        ("Event", "source") => {
            found.get(EVENT_SOURCE).or_else(|| found.get("reportingComponent")).map(ToString::to_string)
        }
        _ => None,
    }
}

/// The offset after the `{` of the root's `metadata`.
fn splice_offset(value: &[u8]) -> Option<u32> {
    let mut at = skip_space(value, 0);
    at = expect(value, at, b'{')?;
    loop {
        at = skip_space(value, at);
        let end = skip_string(value, at)?;
        let name = &value[at + 1..end - 1];
        at = skip_space(value, end);
        at = skip_space(value, expect(value, at, b':')?);
        if name == b"metadata" {
            return u32::try_from(expect(value, at, b'{')?).ok();
        }
        at = skip_space(value, skip_value(value, at)?);
        at = expect(value, at, b',')?;
    }
}

fn expect(value: &[u8], at: usize, byte: u8) -> Option<usize> {
    (value.get(at) == Some(&byte)).then_some(at + 1)
}

fn skip_space(value: &[u8], mut at: usize) -> usize {
    while value.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// The offset after the string that begins at `at`.
fn skip_string(value: &[u8], at: usize) -> Option<usize> {
    let mut at = expect(value, at, b'"')?;
    loop {
        match value.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// The offset after the value that begins at `at`; the JSON is known to be well formed.
fn skip_value(value: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    loop {
        match value.get(at)? {
            b'"' => at = skip_string(value, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth == 0 => return Some(at),
            b'}' | b']' => {
                depth -= 1;
                at += 1;
            }
            b',' if depth == 0 => return Some(at),
            _ => at += 1,
        }
        if depth == 0 && matches!(value.get(at), Some(b',' | b'}' | b']')) {
            return Some(at);
        }
    }
}

#[derive(Default)]
struct Found {
    summary: Summary,
    values: BTreeMap<Box<str>, Box<str>>,
}

struct Scan<'a> {
    fields: &'a [String],
    found: Found,
}

impl Scan<'_> {
    /// Whether something below `path` is selectable.
    fn leads_to_field(&self, path: &str) -> bool {
        self.fields.iter().any(|f| f.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
            || (path == "source" && self.is_field("source"))
    }

    fn is_field(&self, path: &str) -> bool {
        self.fields.iter().any(|f| f == path)
    }
}

/// The object itself.
struct Root<'s, 'a>(&'s mut Scan<'a>);

impl<'de> Visitor<'de> for Root<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if key == "metadata" {
                let meta: Meta<'de> = map.next_value()?;
                meta.fill(&mut self.0.found.summary);
            } else {
                map.next_value_seed(Field { scan: self.0, path: &key })?;
            }
        }
        Ok(())
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    #[serde(default, borrow)]
    uid: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, borrow)]
    labels: Option<BTreeMap<std::borrow::Cow<'a, str>, std::borrow::Cow<'a, str>>>,
    #[serde(default, borrow)]
    owner_references: Option<Vec<Owner<'a>>>,
    #[serde(default)]
    deletion_timestamp: Option<IgnoredAny>,
}

#[derive(serde::Deserialize)]
struct Owner<'a> {
    #[serde(default, borrow)]
    uid: std::borrow::Cow<'a, str>,
}

impl Meta<'_> {
    fn fill(self, summary: &mut Summary) {
        summary.uid = self.uid.unwrap_or_default().into();
        summary.labels = self.labels.into_iter().flatten().map(|(k, v)| (k.into(), v.into())).collect();
        summary.owners = self.owner_references.into_iter().flatten().map(|o| o.uid.into()).collect();
        summary.deleting = self.deletion_timestamp.is_some();
    }
}

/// A value on the way to a selectable field, or one that nobody asks for.
struct Field<'s, 'a, 'p> {
    scan: &'s mut Scan<'a>,
    path: &'p str,
}

impl<'de> DeserializeSeed<'de> for Field<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        if self.scan.is_field(self.path) || self.scan.leads_to_field(self.path) || self.path == EVENT_SOURCE {
            reader.deserialize_any(self)
        } else {
            reader.deserialize_ignored_any(IgnoredAny).map(|_| ())
        }
    }
}

impl Field<'_, '_, '_> {
    fn record(self, value: String) {
        self.scan.found.values.insert(self.path.into(), value.into());
    }
}

impl<'de> Visitor<'de> for Field<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            let path = format!("{}.{key}", self.path);
            map.next_value_seed(Field { scan: self.scan, path: &path })?;
        }
        Ok(())
    }

    /// No selectable field is a list: `status.podIPs` may be asked for and always reads as empty.
    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<(), S::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.record(value.into());
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.record(value.to_string());
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.record(value.to_string());
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.record(value.to_string());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.record(value.to_string());
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::builtin;
    use api::GroupVersionResource;

    fn of(group: &str, resource: &str, value: &str) -> Summary {
        let served = builtin::served(&Arc::default());
        let registry = Registry::default();
        registry.publish(served);
        let key = registry.get(&GroupVersionResource::new(group, "v1", resource)).unwrap().key("ns", "x");
        Summarizer::new(Arc::new(registry)).summarize(key.as_bytes(), value.as_bytes())
    }

    fn field<'s>(summary: &'s Summary, name: &str) -> &'s str {
        summary.fields.get(name).map_or("", |v| v)
    }

    #[test]
    fn a_pod_is_read_without_what_nobody_asks_for() {
        let summary = of(
            "",
            "pods",
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"a":"b","c":"d\n"},"name":"x","uid":"u","ownerReferences":[{"uid":"o"}]},
            "spec":{"nodeName":"n1","containers":[{"name":"c"}]},"status":{"phase":"Running","podIPs":[{"ip":"1.2.3.4"}]}}"#,
        );
        assert_eq!(summary.uid.as_ref(), "u");
        assert_eq!(summary.owners.as_ref(), [Box::from("o")]);
        assert_eq!(summary.labels.len(), 2);
        assert_eq!(field(&summary, "spec.nodeName"), "n1");
        assert_eq!(field(&summary, "status.phase"), "Running");
        assert_eq!(field(&summary, "spec.hostNetwork"), "false");
        assert!(!summary.deleting);
    }

    #[test]
    fn the_splice_is_after_the_brace_of_the_roots_metadata() {
        let value = r#"{"data":{"metadata":"{","x":"a\"{"},"list":[{"metadata":{}}],"n":1, "metadata" : {"name":"x"}}"#;
        let at = of("", "configmaps", value).splice_at.unwrap() as usize;
        assert_eq!(&value[at..], r#""name":"x"}}"#);
    }

    #[test]
    fn an_opaque_value_has_no_summary() {
        assert_eq!(of("", "configmaps", "\u{0}\u{1}k8s"), Summary::default());
        assert_eq!(of("", "configmaps", "[1]"), Summary::default());
        assert_eq!(of("", "configmaps", r#"{"a":1}"#).splice_at, None);
    }

    #[test]
    fn an_events_source_falls_back_to_the_reporting_component() {
        let event = of(
            "",
            "events",
            r#"{"metadata":{"deletionTimestamp":"t"},"reportingComponent":"r","source":{"component":"s"}}"#,
        );
        assert_eq!(field(&event, "source"), "s");
        assert!(event.deleting);
        let event = of("", "events", r#"{"metadata":{},"reportingComponent":"r","source":{}}"#);
        assert_eq!(field(&event, "source"), "r");
        assert_eq!(field(&event, "reportingComponent"), "r");
    }
}
