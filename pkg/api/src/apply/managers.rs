//! `metadata.managedFields`: who owns which fields since when.
use super::set::Set;
use serde_json::{Map, Value};

/// Update entries that an object keeps; the oldest beyond are put together.
const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager of entries that were put together.
const ANCIENT: &str = "ancient-changes";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub manager: String,
    pub operation: Operation,
    pub api_version: String,
    pub subresource: String,
    pub time: Option<String>,
    pub fields: Set,
}

impl Entry {
    fn parse(value: Value) -> Option<Self> {
        let Value::Object(mut fields) = value else { return None };
        let mut text = |key: &str| match fields.remove(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let operation = match text("operation")?.as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        Some(Self {
            operation,
            manager: text("manager").unwrap_or_default(),
            api_version: text("apiVersion").unwrap_or_default(),
            subresource: text("subresource").unwrap_or_default(),
            time: text("time"),
            fields: Set::from_json(fields.remove("fieldsV1").unwrap_or_default()),
        })
    }

    fn into_json(self) -> Value {
        let mut out = Map::new();
        out.insert("apiVersion".into(), self.api_version.into());
        out.insert("fieldsType".into(), "FieldsV1".into());
        out.insert("fieldsV1".into(), self.fields.into_json());
        out.insert("manager".into(), self.manager.into());
        out.insert("operation".into(), self.operation.as_str().into());
        if !self.subresource.is_empty() {
            out.insert("subresource".into(), self.subresource.into());
        }
        if let Some(time) = self.time {
            out.insert("time".into(), time.into());
        }
        Value::Object(out)
    }

    /// An applier stays the same across API versions, an updater does not.
    fn is_same_manager(&self, other: &Self) -> bool {
        self.operation == other.operation
            && self.manager == other.manager
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// The order of entries in an object. Times are UTC with seconds, so their text sorts.
    fn order(&self) -> impl Ord + '_ {
        (self.operation, self.time.as_deref().unwrap_or_default(), &self.manager, &self.api_version, &self.subresource)
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Managers(Vec<Entry>);

impl Managers {
    /// Of an object; none if it has none or they can't be read.
    pub fn read(object: &Value) -> Self {
        object.pointer("/metadata/managedFields").cloned().and_then(Self::parse).unwrap_or_default()
    }

    /// None if any entry can't be read.
    pub fn parse(managed_fields: Value) -> Option<Self> {
        let Value::Array(entries) = managed_fields else { return None };
        entries.into_iter().map(Entry::parse).collect::<Option<_>>().map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter()
    }

    /// Removes and returns the entry of the same manager.
    pub fn take(&mut self, like: &Entry) -> Option<Entry> {
        let at = self.0.iter().position(|entry| entry.is_same_manager(like))?;
        Some(self.0.remove(at))
    }

    pub fn add(&mut self, entry: Entry) {
        if !entry.fields.is_empty() {
            self.0.push(entry);
        }
    }

    /// Adds fields to the entry of the same manager, with the later time.
    pub fn join(&mut self, mut entry: Entry) {
        if let Some(previous) = self.take(&entry) {
            entry.fields.union(&previous.fields);
        }
        self.add(entry);
    }

    /// Takes fields from everyone; who has none left goes.
    pub fn subtract(&mut self, fields: &Set) {
        self.0.retain_mut(|entry| {
            entry.fields.subtract(fields);
            !entry.fields.is_empty()
        });
    }

    /// Puts the oldest updates of each version together until no more than the bound are left.
    pub fn cap(&mut self) {
        let updates = |entries: &[Entry]| entries.iter().filter(|e| e.operation == Operation::Update).count();
        let mut excess = updates(&self.0).saturating_sub(MAX_UPDATE_MANAGERS);
        if excess == 0 {
            return;
        }
        self.0.sort_by(|a, b| a.order().cmp(&b.order()));
        let mut at = self.0.iter().position(|e| e.operation == Operation::Update).unwrap_or(self.0.len());
        while excess > 0 && at < self.0.len() {
            let version = self.0[at].api_version.clone();
            let is_next = |e: &Entry| e.operation == Operation::Update && e.api_version == version;
            match self.0[at + 1..].iter().position(is_next) {
                Some(next) => {
                    let newer = self.0.remove(at + 1 + next);
                    let bucket = &mut self.0[at];
                    bucket.fields.union(&newer.fields);
                    bucket.manager = ANCIENT.into();
                    bucket.subresource.clear();
                    bucket.time = newer.time;
                    excess -= 1;
                }
                None => at += 1,
            }
        }
    }

    /// Sorts and writes the entries into the object; no entry leaves no field.
    pub fn write(mut self, object: &mut Value) {
        self.0.sort_by(|a, b| a.order().cmp(&b.order()));
        let Some(object) = object.as_object_mut() else { return };
        if self.0.is_empty() {
            if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
                metadata.remove("managedFields");
            }
            return;
        }
        let entries = self.0.into_iter().map(Entry::into_json).collect();
        let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(metadata) = metadata {
            metadata.insert("managedFields".into(), Value::Array(entries));
        }
    }
}
