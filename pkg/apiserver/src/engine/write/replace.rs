//! Replacing: the live object by a new one, within what the request may change.
use super::super::{Call, Result, errors, served};
use super::{Outcome, RACE_ATTEMPTS, Scope, Write, field_error, guarded, lost_race, parse};
use crate::Body;
use crate::admission::{Charge, Operation};
use crate::alloc::book::Booking;
use crate::alloc::pools::Claims;
use crate::registry::strategy::{self, Generation};
use api::Status;
use api::validate::Reason;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;
use store::{Entry, Op, OpResult, Revision};

/// PUT of an object or of its status.
pub async fn update(call: &Call<'_>) -> Result<Response<Body>> {
    let mut write = Write::new(call, "UpdateOptions")?;
    let mut object = write.body()?;
    write.check_place(&mut object, true)?;
    for _ in 0..RACE_ATTEMPTS {
        let found = served::get(call, &call.key()).await?;
        let Some(entry) = found else { return create_by_update(&mut write, object).await };
        let live = parse(call, &entry)?;
        if let Some(outcome) = write.replace(&entry, &live, object.clone(), false).await? {
            return Ok(write.respond(outcome, StatusCode::OK));
        }
    }
    Err(lost_race(call))
}

/// A PUT of what does not exist creates it, where the kind allows that.
async fn create_by_update(write: &mut Write<'_>, mut object: Value) -> Result<Response<Body>> {
    let call = write.call;
    let said = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    let (uid, version) = (said("uid"), said("resourceVersion"));
    if !call.resource.strategy.create_on_update || write.scope != Scope::Main {
        return Err(call.not_found(&call.info().name));
    }
    let gvr = &call.resource.gvr;
    if !uid.is_empty() {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ");
        return Err(Status::conflict(&gvr.group, &gvr.resource, &call.info().name, &why).into());
    }
    if !matches!(version.as_str(), "" | "0") {
        return Err(call.not_found(&call.info().name));
    }
    strategy::child(&mut object, "metadata").remove("resourceVersion");
    let outcome = write.create(object, false).await?;
    Ok(write.respond(outcome, StatusCode::CREATED))
}

impl Write<'_> {
    /// Replaces the live object by `new` within the write's scope. None: somebody else was faster.
    pub async fn replace(
        &mut self,
        entry: &Arc<Entry>,
        live: &Value,
        mut new: Value,
        applied: bool,
    ) -> Result<Option<Outcome>> {
        let call = self.call;
        let resource = call.resource.clone();
        self.check_preconditions(entry, live, &new)?;
        keep_identity(&mut new, live);
        if !applied {
            keep_owners(&mut new, live);
        }
        self.keep_out_of_scope(&mut new, live);
        resource.default(&mut new);
        if !applied {
            self.record_fields(Some(live), &mut new);
        }
        if self.admits() {
            let attributes = self.attributes(Operation::Update, live).at(entry.mod_revision);
            let admitted = call.engine.admission.mutate(&attributes, Some(&mut new), Some(live)).await;
            self.warnings.extend(attributes.take_warnings());
            admitted?;
        }
        keep_identity(&mut new, live);
        self.keep_out_of_scope(&mut new, live);
        let context = strategy::Context { user: &call.request.user, now: &self.now };
        match self.scope {
            Scope::Main => (resource.strategy.on_update)(&mut new, live, &context),
            Scope::Status => (resource.strategy.on_status_update)(&mut new, live, &context),
            Scope::Approval => strategy::decide_signing_request(&mut new, live, &context),
            _ => {}
        }
        if call.is_service() && self.scope == Scope::Main {
            crate::alloc::service::normalize(&mut new, Some(live));
        }
        resource.settle(&mut new);
        self.count_generation(&mut new, live);
        if new == *live && served::is_current(call, entry, live).await? {
            self.ask(Operation::Update, Some(entry.mod_revision), &new, Some(live)).await?;
            return Ok(Some(Outcome::Stored(entry.clone())));
        }
        self.warn(&new, Some(live));
        self.require_valid(&new, Some(live), &call.info().name)?;
        self.ask(Operation::Update, Some(entry.mod_revision), &new, Some(live)).await?;
        let reserved = self.reserve(&mut new, Some(live), &call.info().name, &Claims::default()).await?;
        let gone = is_finished(&new, live, &resource.kind);
        let charge = self.charge(Operation::Update, Some(&new).filter(|_| !gone), Some(live)).await?;
        let shown = self.options.dry_run.then(|| new.clone());
        let stored = served::stored(call, new).await?;
        if let Some(shown) = shown {
            return Ok(Some(Outcome::DryRun(with_version(shown, entry.mod_revision))));
        }
        if gone {
            let outcome = self.remove(entry, live, &charge).await?;
            if outcome.is_some() {
                call.engine.removed(call, live);
            }
            return Ok(outcome);
        }
        let Ok(booking) = self.book(Some(&stored), Some(live)).await? else { return Ok(None) };
        let outcome = self.put(entry, &stored, &charge, &booking).await?;
        if let (Some(_), Some(reserved)) = (&outcome, reserved) {
            reserved.keep();
        }
        Ok(outcome)
    }

    async fn put(
        &self,
        entry: &Arc<Entry>,
        stored: &Value,
        charge: &Charge,
        booking: &Booking,
    ) -> Result<Option<Outcome>> {
        let value = serde_json::to_vec(stored).expect("a tree is JSON").into();
        let lease = match self.call.engine.ttl.lease(self.call).await? {
            Some(fresh) => Some(fresh),
            None => entry.lease,
        };
        let put = Op::Put { key: entry.key.clone(), value, lease };
        let mut txn = guarded(entry, put);
        charge.join(&mut txn);
        booking.join(&mut txn);
        let result = self.call.backend().txn(txn).await.map_err(errors::from_store)?;
        Ok(match result.results.into_iter().next() {
            Some(OpResult::Put { entry, .. }) => Some(Outcome::Stored(served::written(self.call, entry).await?)),
            _ => None,
        })
    }

    async fn remove(&self, entry: &Arc<Entry>, live: &Value, charge: &Charge) -> Result<Option<Outcome>> {
        let Ok(booking) = self.book(None, Some(live)).await? else { return Ok(None) };
        let mut txn = guarded(entry, Op::Delete { key: entry.key.clone() });
        charge.join(&mut txn);
        booking.join(&mut txn);
        let result = self.call.backend().txn(txn).await.map_err(errors::from_store)?;
        Ok(result.succeeded.then(|| Outcome::Deleted(entry.clone(), result.revision)))
    }

    /// What the body says of the live object must be true of it.
    fn check_preconditions(&self, entry: &Entry, live: &Value, new: &Value) -> Result<()> {
        let gvr = &self.call.resource.gvr;
        let name = &self.call.info().name;
        let said = |key: &str| new["metadata"][key].as_str().unwrap_or_default();
        let uid = live["metadata"]["uid"].as_str().unwrap_or_default();
        let patched = self.call.info().verb == crate::Verb::Patch && self.options.force.is_none();
        if !said("uid").is_empty() && said("uid") != uid && patched {
            let error = field_error("metadata.uid", Reason::Invalid, Some(said("uid").into()), "field is immutable");
            return Err(self.invalid(name, &[error.clone(), error]));
        }
        if !said("uid").is_empty() && said("uid") != uid {
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: \
                 UID in precondition: {}, UID in object meta: {uid}",
                String::from_utf8_lossy(&entry.key),
                said("uid")
            );
            return Err(Status::conflict(&gvr.group, &gvr.resource, name, &why).into());
        }
        match said("resourceVersion") {
            "" if !self.call.resource.strategy.unconditional_update && self.call.info().verb == crate::Verb::Update => {
                let why = "must be specified for an update";
                let error = field_error("metadata.resourceVersion", Reason::Invalid, Some(json!(0)), why);
                // Upstream names the resource here, where every other such error names the kind.
                let of = api::GroupKind { group: gvr.group.clone(), kind: gvr.resource.clone() };
                Err(Status::invalid(&of, name, &[error]).into())
            }
            "" => Ok(()),
            version => match version.parse::<u64>() {
                Ok(version) if version == entry.mod_revision.get() || version == 0 => Ok(()),
                Ok(_) => Err(Status::modified(&gvr.group, &gvr.resource, name).into()),
                Err(_) => {
                    let text = format!("strconv.ParseUint: parsing {version:?}: invalid syntax");
                    Err(Status::failure(500, "", text).into())
                }
            },
        }
    }

    /// Brings back what this write may not touch.
    fn keep_out_of_scope(&self, new: &mut Value, live: &Value) {
        let resource = &self.call.resource;
        match self.scope {
            Scope::Main if resource.has_status() => strategy::restore(new, live, "status"),
            Scope::Main => {}
            Scope::Status => keep_all_but(new, live, |key| key == "status", resource.custom.is_some()),
            Scope::Finalize => keep_all_but(new, live, |key| key == "spec", false),
            Scope::Approval => keep_all_but(new, live, |key| key == "status", false),
            Scope::EphemeralContainers => super::super::pods::only_ephemeral_containers(new, live),
            Scope::Resize => super::super::pods::only_resources(new, live),
        }
    }

    fn count_generation(&self, new: &mut Value, live: &Value) {
        let resource = &self.call.resource;
        let rule = match &resource.custom {
            Some(_) if resource.has_status() => Generation::Whole,
            Some(_) => Generation::Everything,
            None => resource.strategy.generation,
        };
        let before = live["metadata"]["generation"].as_i64().unwrap_or(0);
        if strategy::bumps_generation(rule, new, live) && self.scope != Scope::Status {
            new["metadata"]["generation"] = (before + 1).into();
        }
    }
}

fn with_version(mut value: Value, revision: Revision) -> Value {
    value["metadata"]["resourceVersion"] = revision.to_string().into();
    value
}

/// What no update changes (`rest.BeforeUpdate`).
fn keep_identity(new: &mut Value, live: &Value) {
    let meta = strategy::child(new, "metadata");
    meta.remove("resourceVersion");
    meta.remove("selfLink");
    for key in [
        "uid",
        "name",
        "namespace",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
    ] {
        match live["metadata"].get(key) {
            Some(value) => meta.insert(key.into(), value.clone()),
            None => meta.remove(key),
        };
    }
}

/// A client that knows nothing of the fields' owners does not take them away.
fn keep_owners(new: &mut Value, live: &Value) {
    let meta = strategy::child(new, "metadata");
    if !meta.contains_key("managedFields")
        && let Some(fields) = live["metadata"].get("managedFields")
    {
        meta.insert("managedFields".into(), fields.clone());
    }
}

/// Takes all top-level fields from `live` that are not in scope; metadata too if `metadata`, but for the
/// fields' owners.
fn keep_all_but(new: &mut Value, live: &Value, in_scope: fn(&str) -> bool, metadata: bool) {
    let (Some(fields), Some(before)) = (new.as_object_mut(), live.as_object()) else { return };
    fields.retain(|key, _| key == "metadata" || in_scope(key) || before.contains_key(key));
    for (key, value) in before.iter().filter(|(key, _)| !in_scope(key)) {
        if key != "metadata" {
            fields.insert(key.clone(), value.clone());
        } else if metadata {
            let owners = fields.get("metadata").and_then(|m| m.get("managedFields")).cloned();
            fields.insert(key.clone(), value.clone());
            if let Some(owners) = owners {
                fields["metadata"]["managedFields"] = owners;
            }
        }
    }
}

/// Whether an update takes the last thing that kept a deleted object alive.
fn is_finished(new: &Value, live: &Value, kind: &str) -> bool {
    let count = |object: &Value| object["metadata"]["finalizers"].as_array().map_or(0, Vec::len);
    let content = |object: &Value| object["spec"]["finalizers"].as_array().map_or(0, Vec::len);
    let deleting = live["metadata"]["deletionTimestamp"].is_string();
    let waits = new["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
    let last = count(new) == 0 && !waits && deleting;
    if kind == "Namespace" {
        return last && content(new) == 0 && (count(live) > 0 || content(live) > 0);
    }
    last && count(live) > 0
}
