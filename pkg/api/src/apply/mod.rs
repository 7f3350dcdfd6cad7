//! Field ownership: server-side apply and the bookkeeping of `metadata.managedFields` for every other write.
//! Behaviour is that of `sigs.k8s.io/structured-merge-diff` and `k8s.io/apimachinery/pkg/util/managedfields`.
//!
//! A set of fields is kept as the very JSON tree that `fieldsV1` is, so that nothing is converted on the way in
//! and out; a write first looks for what differs, and unchanged subtrees cost one comparison.

mod diff;
mod last_applied;
mod managers;
mod merge;
mod remove;
mod set;
mod types;

use crate::schema::{Schemas, Type};
use diff::Comparison;
use managers::{Entry, Managers, Operation};
use serde_json::{Map, Value, json};
use set::Set;
use std::fmt;
use types::{Ty, Types};

/// Owns what was there before an object without managedFields is first applied to.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Who writes, and when.
#[derive(Clone, Debug)]
pub struct Writer<'a> {
    /// The `fieldManager` parameter, or the user agent's first part.
    pub manager: &'a str,
    pub api_version: &'a str,
    /// `""` or `status`.
    pub subresource: &'a str,
    /// RFC 3339.
    pub now: &'a str,
}

impl Writer<'_> {
    fn entry(&self, operation: Operation, fields: Set) -> Entry {
        Entry {
            manager: if self.manager.is_empty() { "unknown".into() } else { self.manager.into() },
            operation,
            api_version: self.api_version.into(),
            subresource: self.subresource.into(),
            time: None,
            fields,
        }
    }
}

/// A field that another manager owns with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub manager: String,
    /// Upstream's path text, `.spec.replicas`.
    pub field: String,
    /// Of the other's update; empty where the other applied.
    pub api_version: String,
    pub subresource: String,
}

impl Conflict {
    /// `conflict with "kubectl-client-side-apply" using apps/v1`: the message of the cause, whose type is
    /// `FieldManagerConflict` and whose field is [`Conflict::field`].
    pub fn message(&self) -> String {
        format!("conflict with {}", self.with())
    }

    fn with(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.subresource);
        }
        if !self.api_version.is_empty() {
            text += &format!(" using {}", self.api_version);
        }
        text
    }
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Answered as 409 with a cause a field.
    #[error("{}", Conflicts(.0))]
    Conflicts(Vec<Conflict>),
    /// Answered as 400 or 422 by the caller.
    #[error("{0}")]
    Malformed(String),
}

struct Conflicts<'a>(&'a [Conflict]);

/// Upstream's message: one conflict on a line, several grouped by manager.
impl fmt::Display for Conflicts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [one] = self.0 {
            return write!(f, "Apply failed with 1 conflict: {}: {}", one.message(), one.field);
        }
        write!(f, "Apply failed with {} conflicts: ", self.0.len())?;
        let mut last = None;
        for conflict in self.0 {
            let with = conflict.with();
            if last.as_ref() != Some(&with) {
                let line = if last.is_some() { "\n" } else { "" };
                write!(f, "{line}conflicts with {with}:")?;
                last = Some(with);
            }
            write!(f, "\n- {}", conflict.field)?;
        }
        Ok(())
    }
}

/// Server-side apply of `applied` (already checked against the schema, not defaulted, without what the
/// resource's strategy resets, such as status) on `live` (absent: a create). Returns the merged object with
/// updated managedFields; it equals `live` when nothing changed.
///
/// # Errors
/// Conflicts without `force`, and an `applied` that carries managedFields or ambiguous list elements.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    writer: &Writer<'_>,
    force: bool,
    ty: &Type,
    schemas: &Schemas,
) -> Result<Value, Error> {
    let apply = Apply { writer, types: Types { schemas }, ty: Ty::Known(ty) };
    let kubectl = writer.manager == last_applied::KUBECTL;
    let mut merged = match apply.run(live, applied, force) {
        Err(Error::Conflicts(conflicts)) if kubectl => {
            let left = last_applied::not_allowed(conflicts, live, &apply);
            if !left.is_empty() {
                return Err(Error::Conflicts(left));
            }
            apply.run(live, applied, true)?
        }
        result => result?,
    };
    if kubectl {
        last_applied::refresh(&mut merged, applied);
    }
    Ok(merged)
}

/// Merges `patch` into `live` as apply does, without owners: what a mutating admission policy's
/// `applyConfiguration` means.
///
/// # Errors
/// A patch of something atomic, whose unsaid parts would be lost, and ambiguous list elements.
pub fn merge_unowned(live: &Value, patch: &Value, ty: &Type, schemas: &Schemas) -> Result<Value, Error> {
    let types = Types { schemas };
    let mut atomics = Vec::new();
    find_atomics(patch, Ty::Known(ty), &types, "", &mut atomics);
    if !atomics.is_empty() {
        let text = format!("may not mutate atomic arrays, maps or structs: {}", atomics.join(", "));
        return Err(Error::Malformed(format!("invalid ApplyConfiguration: {text}")));
    }
    merge::merge(live, patch, Ty::Known(ty), &types)
}

fn find_atomics<'a>(value: &Value, ty: Ty<'a>, types: &Types<'a>, path: &str, found: &mut Vec<String>) {
    match (types.shape(ty, value), value) {
        (types::Shape::Object(fields), Value::Object(object)) => {
            object.iter().for_each(|(k, v)| find_atomics(v, fields.child(k), types, &format!("{path}.{k}"), found));
        }
        (types::Shape::List(items), Value::Array(list)) => {
            list.iter().for_each(|v| find_atomics(v, items.item(), types, &format!("{path}[]"), found));
        }
        (types::Shape::Leaf, Value::Object(_) | Value::Array(_)) => found.push(path.to_owned()),
        _ => {}
    }
}

struct Apply<'a> {
    writer: &'a Writer<'a>,
    types: Types<'a>,
    ty: Ty<'a>,
}

impl Apply<'_> {
    fn run(&self, live: Option<&Value>, applied: &Value, force: bool) -> Result<Value, Error> {
        if applied.pointer("/metadata/managedFields").is_some() {
            return Err(Error::Malformed("metadata.managedFields must be nil".into()));
        }
        let empty = json!({});
        let base = live.unwrap_or(&empty);
        let mut managers = self.managers_of(live);
        let fields = remove::field_set(applied, self.ty, &self.types).map_err(|e| untyped(applied, &e))?;
        let mut entry = self.writer.entry(Operation::Apply, fields);
        let last = managers.take(&entry);

        let merged = merge::merge(base, applied, self.ty, &self.types)?;
        let mut merged = self.prune(merged, &managers, &entry.fields, last.as_ref())?;
        let comparison = diff::compare(base, &merged, self.ty, &self.types);
        take_ownership(&mut managers, &comparison, force)?;

        entry.fields.strip_server_fields();
        let changed = !comparison.is_empty();
        entry.time = if changed { Some(self.writer.now.into()) } else { last.and_then(|l| l.time) };
        managers.add(entry);
        managers.write(&mut merged);
        Ok(merged)
    }

    /// The managers of a live object; one that was never tracked gets an owner for all that it holds.
    fn managers_of(&self, live: Option<&Value>) -> Managers {
        let Some(live) = live else { return Managers::default() };
        let mut managers = Managers::read(live);
        if managers.is_empty() {
            let before = Writer { manager: BEFORE_FIRST_APPLY, ..self.writer.clone() };
            let Comparison { added: mut fields, modified, .. } = diff::compare(&json!({}), live, self.ty, &self.types);
            fields.union(&modified);
            fields.strip_server_fields();
            if self.writer.subresource.is_empty() {
                // What a write through this endpoint would have reset was not written through it.
                fields.root_mut().remove("f:status");
            }
            let time = Some(self.writer.now.into());
            managers.add(Entry { time, ..before.entry(Operation::Update, fields) });
        }
        managers
    }

    /// Removes what this manager applied before, does not apply now, and nobody else owns.
    fn prune(&self, merged: Value, managers: &Managers, now: &Set, last: Option<&Entry>) -> Result<Value, Error> {
        let Some(last) = last else { return Ok(merged) };
        let mut given_up = last.fields.clone();
        given_up.subtract(now);
        if given_up.is_empty() {
            return Ok(merged);
        }
        let owned = managers.iter().fold(now.clone(), |mut all, entry| {
            all.union(&entry.fields);
            all
        });
        remove::prune(merged, &last.fields, &owned, self.ty, &self.types)
    }
}

/// `group/version`, with the slash even of the core group.
fn slashed(api_version: &str) -> String {
    if api_version.contains('/') { api_version.to_owned() } else { format!("/{api_version}") }
}

/// The error of a configuration whose lists are ambiguous, as upstream words it.
fn untyped(applied: &Value, error: &Error) -> Error {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let meta = &applied["metadata"];
    Error::Malformed(format!(
        "failed to create typed patch object ({}/{}; {}, Kind={}): {error}",
        text(&meta["namespace"]),
        text(&meta["name"]),
        slashed(&text(&applied["apiVersion"])),
        text(&applied["kind"])
    ))
}

/// Takes what changed from its owners: refused without `force`, except for what is gone.
fn take_ownership(managers: &mut Managers, comparison: &Comparison, force: bool) -> Result<(), Error> {
    let mut changed = comparison.modified.clone();
    changed.union(&comparison.added);
    if !force {
        let conflicts = conflicts(managers, &changed);
        if !conflicts.is_empty() {
            return Err(Error::Conflicts(conflicts));
        }
    }
    changed.union(&comparison.removed);
    managers.subtract(&changed);
    Ok(())
}

fn conflicts(managers: &Managers, changed: &Set) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for entry in managers.iter() {
        let with = |field| Conflict {
            manager: entry.manager.clone(),
            field,
            api_version: match entry.operation {
                Operation::Update => entry.api_version.clone(),
                Operation::Apply => String::new(),
            },
            subresource: entry.subresource.clone(),
        };
        conflicts.extend(entry.fields.intersection(changed).paths().into_iter().map(with));
    }
    conflicts.sort_by_key(Conflict::with);
    conflicts
}

/// Records the fields that `new` changed against `live` as owned by the writer (operation `Update`); takes
/// them from managers whose value changed. `new` carries the client's managedFields: an explicit `[]` or
/// `[{}]` resets them.
///
/// To be called once `new` is complete but for what the server itself sets (uid, allocations, admission), so
/// that the writer does not come to own it.
pub fn update(live: Option<&Value>, new: &mut Value, writer: &Writer<'_>, ty: &Type, schemas: &Schemas) {
    let mut managers = managers_of_update(live, new, writer);
    if managers.is_empty() && live.is_some() {
        // Not tracked from its creation on: stays so until something is applied.
        return;
    }
    let empty = json!({});
    let types = Types { schemas };
    let comparison = diff::compare(live.unwrap_or(&empty), new, Ty::Known(ty), &types);
    if !comparison.is_empty() {
        let Comparison { removed, mut modified, added } = comparison;
        modified.union(&added);
        let mut gone = removed;
        gone.union(&modified);
        managers.subtract(&gone);
        modified.strip_server_fields();
        if !modified.is_empty() {
            let mut entry = writer.entry(Operation::Update, modified);
            entry.time = Some(writer.now.into());
            managers.join(entry);
        }
        managers.cap();
    }
    managers.write(new);
}

/// The managers to go on from; takes them out of `new`. A subresource can't set them, and a client that does not
/// know them can't lose them.
fn managers_of_update(live: Option<&Value>, new: &mut Value, writer: &Writer<'_>) -> Managers {
    let sent = new.get_mut("metadata").and_then(Value::as_object_mut).and_then(|meta| meta.remove("managedFields"));
    let of_live = || live.map(Managers::read).unwrap_or_default();
    match sent {
        Some(sent) if writer.subresource.is_empty() => {
            if is_reset(&sent) {
                return Managers::default();
            }
            Managers::parse(sent).filter(|managers| !managers.is_empty()).unwrap_or_else(of_live)
        }
        _ => of_live(),
    }
}

fn is_reset(managed_fields: &Value) -> bool {
    match managed_fields.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([one]) => one.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
