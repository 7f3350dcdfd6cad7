//! Creates and updates: from a body to one compare-and-set.
//!
//! `decode -> identity -> default -> managed fields -> admission -> strategy -> validate -> store`; an update
//! whose result equals what is stored writes nothing.
use super::params::WriteOptions;
use super::{Call, Result, errors, media, output, served};
use crate::Body;
use crate::admission::{self, Attributes, Charge, Operation};
use crate::alloc::Reservation;
use crate::registry::strategy::{self, Generation};
use api::Status;
use api::apply::Writer;
use api::decode::FieldValidation;
use api::validate::{FieldError, Reason};
use bytes::Bytes;
use http::{Response, StatusCode, header};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use store::{Compare, Entry, Op, OpResult, Revision, Txn};

/// How often a write that lost a race is tried again before the client is told to.
pub const RACE_ATTEMPTS: usize = 16;
/// How often a generated name that is taken is generated anew (upstream's `maxNameGenerationCreateAttempts`).
const NAME_ATTEMPTS: usize = 8;

/// Which part of an object a write may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All but the status.
    Main,
    Status,
    /// A namespace's `spec.finalizers`.
    Finalize,
    /// A signing request's conditions.
    Approval,
    /// A pod's ephemeral containers.
    EphemeralContainers,
    /// The resources of a pod's containers.
    Resize,
}

impl Scope {
    pub fn of(subresource: &str) -> Self {
        match subresource {
            "status" => Self::Status,
            "finalize" => Self::Finalize,
            "approval" => Self::Approval,
            "ephemeralcontainers" => Self::EphemeralContainers,
            "resize" => Self::Resize,
            _ => Self::Main,
        }
    }
}

/// What a write led to.
pub enum Outcome {
    Stored(Arc<Entry>),
    /// Nothing was written, on request; the object as it would be.
    DryRun(Value),
    /// The last finalizer went, and the object with it.
    Deleted(Arc<Entry>, Revision),
}

/// A write under way.
pub struct Write<'a> {
    pub call: &'a Call<'a>,
    pub options: WriteOptions,
    pub scope: Scope,
    pub warnings: Vec<String>,
    pub now: String,
}

impl<'a> Write<'a> {
    pub fn new(call: &'a Call<'a>, options_kind: &str) -> Result<Self> {
        let options = WriteOptions::parse(call.info(), options_kind)?;
        let now = (call.engine.clock)().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        Ok(Self { call, options, scope: Scope::of(call.sub()), warnings: Vec::new(), now })
    }

    /// The body as a checked tree of the resource's kind.
    pub fn body(&mut self) -> Result<Value> {
        let request = self.call.request;
        let json = media::to_json(&request.body, media::body_format(&request.headers)?)?;
        self.decode(&json)
    }

    /// Reads JSON as the resource's kind.
    pub fn decode(&mut self, json: &Bytes) -> Result<Value> {
        let resource = &self.call.resource;
        let decoded = api::decode::decode(json, resource.ty(), &resource.schemas, self.options.validation)
            .map_err(|e| self.unreadable(json, &e))?;
        self.warnings.extend(decoded.warnings);
        let mut value = decoded.value;
        self.check_kind(&mut value)?;
        Ok(value)
    }

    /// The result of a patch, checked like a body.
    pub fn check(&mut self, value: Value) -> Result<Value> {
        let resource = &self.call.resource;
        let decoded = match api::decode::check(value.clone(), resource.ty(), &resource.schemas, self.options.validation)
        {
            Ok(decoded) => decoded,
            Err(strict @ api::decode::Error::Strict(_)) => return Err(Status::bad_request(strict.to_string()).into()),
            Err(api::decode::Error::Malformed(why)) => {
                // Upstream shows what the patch made of the object, and names neither kind nor object.
                let nameless = api::GroupKind { group: String::new(), kind: String::new() };
                let error = field_error("patch", Reason::Invalid, Some(value.to_string().into()), &why);
                return Err(Status::invalid(&nameless, "", &[error]).into());
            }
        };
        self.warnings.extend(decoded.warnings);
        let mut value = decoded.value;
        self.check_kind(&mut value)?;
        Ok(value)
    }

    fn unreadable(&self, json: &[u8], error: &api::decode::Error) -> Box<Status> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Head {
            #[serde(default)]
            api_version: String,
            #[serde(default)]
            kind: String,
        }
        let expected = &self.call.resource.kind;
        if matches!(error, api::decode::Error::Strict(_)) && self.call.resource.custom.is_some() {
            return Status::bad_request(error.to_string()).into();
        }
        let head = match serde_json::from_slice::<Value>(json).and_then(|value| match value {
            Value::Object(_) => serde_json::from_value::<Head>(value),
            other => Err(serde::de::Error::custom(format!(
                "json: cannot unmarshal {} into Go value of type {HEAD}",
                api::go_json::kind_name(&other)
            ))),
        }) {
            Ok(head) => head,
            Err(unreadable) => return unrecognized(expected, json, &unreadable).into(),
        };
        let version = api::GroupVersion::parse(&head.api_version).version;
        let (kind, version) = match head.kind.as_str() {
            "" => (expected.as_str(), self.call.resource.gvr.version.clone()),
            kind => (kind, version),
        };
        Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {expected}: {error}")).into()
    }

    /// `apiVersion` and `kind` may be left out, but not differ.
    fn check_kind(&self, value: &mut Value) -> Result<()> {
        let resource = &self.call.resource;
        let expected = resource.gvr.group_version().to_string();
        let Some(object) = value.as_object_mut() else {
            return Err(Status::bad_request(format!(
                "the object provided is unrecognized (must be of type {})",
                resource.kind
            ))
            .into());
        };
        let given = |object: &Map<String, Value>, key: &str| {
            object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let (version, kind) = (given(object, "apiVersion"), given(object, "kind"));
        if self.is_apply() && !kind.is_empty() && (kind != resource.kind || version != expected) {
            return Err(Status::bad_request(format!("invalid object type: {}", gvk_text(&version, &kind))).into());
        }
        if !version.is_empty() && version != expected || !kind.is_empty() && kind != resource.kind {
            return Err(wrong_kind(resource, &version, &kind).into());
        }
        object.insert("apiVersion".into(), expected.into());
        object.insert("kind".into(), resource.kind.clone().into());
        strategy::child(value, "metadata");
        Ok(())
    }

    fn is_apply(&self) -> bool {
        let media = self.call.request.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        media.is_some_and(|media| media.starts_with("application/apply-patch"))
    }

    /// Upstream's `checkName` and namespace rule: the body may not contradict the path.
    pub fn check_place(&self, value: &mut Value, named: bool) -> Result<()> {
        let info = self.call.info();
        let meta = strategy::child(value, "metadata");
        let given = |key: &str| meta.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (name, namespace) = (given("name"), given("namespace"));
        if named && name != info.name {
            let text = if name.is_empty() {
                format!("the name of the object ({} based on URL) was undeterminable: name must be provided", info.name)
            } else {
                format!("the name of the object ({name}) does not match the name on the URL ({})", info.name)
            };
            return Err(Status::bad_request(text).into());
        }
        if !self.call.resource.namespaced {
            if !namespace.is_empty() {
                return Err(Status::bad_request("namespace may not be set on a cluster-scoped object").into());
            }
            meta.remove("namespace");
            return Ok(());
        }
        if namespace.is_empty() {
            meta.insert("namespace".into(), info.namespace.clone().into());
        } else if namespace != info.namespace {
            let text = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(Status::bad_request(text).into());
        }
        Ok(())
    }

    /// Who is recorded as the fields' owner: the `fieldManager` parameter, else the client program's name.
    pub fn manager(&self) -> String {
        manager(&self.options.field_manager, &self.call.request.headers)
    }

    fn writer<'w>(&'w self, manager: &'w str, api_version: &'w str) -> Writer<'w> {
        let subresource = match self.scope {
            Scope::Main => "",
            _ => self.call.sub(),
        };
        Writer { manager, api_version, subresource, now: &self.now }
    }

    fn record_fields(&self, live: Option<&Value>, new: &mut Value) {
        let resource = &self.call.resource;
        let (manager, version) = (self.manager(), resource.gvr.group_version().to_string());
        api::apply::update(live, new, &self.writer(&manager, &version), resource.ty(), &resource.schemas);
    }

    /// Server-side apply of a body on what is live.
    pub fn apply(&self, live: Option<&Value>, applied: &Value) -> Result<Value> {
        let resource = &self.call.resource;
        let version = resource.gvr.group_version().to_string();
        let writer = self.writer(&self.options.field_manager, &version);
        let force = self.options.force.unwrap_or(false);
        api::apply::apply(live, applied, &writer, force, resource.ty(), &resource.schemas)
            .map_err(|e| apply_failure(&e))
    }

    /// Creates `object`, whose fields are not yet owned unless `applied` (apply has done it).
    pub async fn create(&mut self, mut object: Value, applied: bool) -> Result<Outcome> {
        let call = self.call;
        let resource = call.resource.clone();
        let given_version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if !matches!(given_version, "" | "0") {
            let text = "resourceVersion should not be set on objects to be created";
            return Err(Status::failure(500, "", text).into());
        }
        admission::namespace_is_there(call).await?;
        let has_status = resource.has_status() && !resource.strategy.keeps_status;
        let fields = object.as_object_mut().expect("checked above");
        if has_status {
            fields.remove("status");
        }
        resource.default(&mut object);
        if !applied {
            // What the strategy resets is nobody's.
            let reset = has_status.then(|| object.as_object_mut()?.remove("status")).flatten();
            self.record_fields(None, &mut object);
            reset.into_iter().for_each(|status| object["status"] = status);
        }
        let generated = object["metadata"]["name"].as_str().unwrap_or_default().is_empty();
        wipe(&mut object);
        let attributes = self.attributes(Operation::Create, &object);
        let admitted = call.engine.admission.mutate(&attributes, Some(&mut object), None).await;
        self.warnings.extend(attributes.take_warnings());
        admitted?;
        let generated = generated && object["metadata"]["name"].as_str().unwrap_or_default().is_empty();
        for attempt in 1.. {
            let mut new = if generated { object.clone() } else { std::mem::take(&mut object) };
            self.identify(&mut new, generated)?;
            let name = new["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            match self.create_once(new, &name, has_status).await {
                Err(status) if generated && status.reason == "AlreadyExists" && attempt < NAME_ATTEMPTS => {}
                other => return other,
            }
        }
        unreachable!("the last attempt returns")
    }

    async fn create_once(&mut self, mut new: Value, name: &str, has_status: bool) -> Result<Outcome> {
        let call = self.call;
        let resource = &call.resource;
        if has_status && resource.custom.is_none() {
            new["status"] = json!({});
        }
        let context = strategy::Context { user: &call.request.user, now: &self.now };
        (resource.strategy.on_create)(&mut new, &context);
        if has_status && resource.custom.is_none() {
            // The empty status has its counts, as upstream's struct does.
            resource.default(&mut new);
        }
        resource.settle(&mut new);
        if call.is_service() {
            crate::alloc::service::normalize(&mut new, None);
        }
        self.warn(&new, None);
        self.require_valid(&new, None, name)?;
        self.ask(Operation::Create, None, &new, None).await?;
        let reserved = self.reserve(&mut new, None, name).await?;
        let shown = self.options.dry_run.then(|| new.clone());
        let stored = served::stored(call, new).await?;
        if let Some(shown) = shown {
            self.charge(Operation::Create, Some(&stored), None).await?;
            return self.dry_create(shown, name).await;
        }
        let outcome = self.put_new(stored, name).await;
        if let (Ok(_), Some(reserved)) = (&outcome, reserved) {
            reserved.keep();
        }
        outcome
    }

    /// What admission knows of this write.
    pub fn attributes(&self, operation: Operation, object: &Value) -> Attributes<'a> {
        let kind = match (operation, self.call.info().verb) {
            (Operation::Create, _) => "CreateOptions",
            (_, crate::Verb::Patch) => "PatchOptions",
            _ => "UpdateOptions",
        };
        let validation = match self.options.validation {
            FieldValidation::Strict => "Strict",
            FieldValidation::Ignore => "Ignore",
            FieldValidation::Warn => "",
        };
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let attributes = Attributes::new(self.call, operation).named(name);
        attributes.with_options(kind, self.options.dry_run, &self.options.field_manager, validation)
    }

    /// Whether the object itself is what the request is about: the body of `scale` is admitted as such.
    fn admits(&self) -> bool {
        self.call.sub() != "scale"
    }

    /// Asks admission about an object that is complete and valid.
    async fn ask(
        &mut self,
        operation: Operation,
        revision: Option<Revision>,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<()> {
        if !self.admits() {
            return Ok(());
        }
        let mut attributes = self.attributes(operation, new);
        attributes.revision = revision;
        let asked = self.call.engine.admission.validate(&attributes, Some(new), old).await;
        self.warnings.extend(attributes.take_warnings());
        asked
    }

    /// The addresses and ports of a Service.
    async fn reserve(&self, new: &mut Value, old: Option<&Value>, name: &str) -> Result<Option<Reservation>> {
        if !self.call.is_service() || self.scope != Scope::Main {
            return Ok(None);
        }
        let alloc = &self.call.engine.alloc;
        alloc.seed(self.call.backend()).await.map_err(errors::from_store)?;
        alloc.reserve(new, old).map(Some).map_err(|errors| self.invalid(name, &errors))
    }

    /// What only the server sets on a new object.
    fn identify(&self, object: &mut Value, generated: bool) -> Result<()> {
        let first = self.call.resource.strategy.generation != Generation::None || self.call.resource.custom.is_some();
        let meta = strategy::child(object, "metadata");
        if generated {
            let base = meta.get("generateName").and_then(Value::as_str).unwrap_or_default();
            if base.is_empty() {
                let why = "name or generateName is required";
                return Err(self.invalid("", &[field_error("metadata.name", Reason::Required, None, why)]));
            }
            meta.insert("name".into(), generate_name(base).into());
        }
        if first {
            meta.insert("generation".into(), 1.into());
        }
        meta.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
        meta.insert("creationTimestamp".into(), self.now.clone().into());
        Ok(())
    }

    async fn dry_create(&self, shown: Value, name: &str) -> Result<Outcome> {
        let key = self.call.resource.key(self.call.namespace(), name);
        match self.call.backend().get(key.as_bytes(), None).await.map_err(errors::from_store)? {
            Some(entry) => Err(self.exists(name, &entry)),
            None => Ok(Outcome::DryRun(shown)),
        }
    }

    /// What quotas charge for the write.
    async fn charge(&self, operation: Operation, new: Option<&Value>, old: Option<&Value>) -> Result<Charge> {
        let attributes = self.attributes(operation, new.or(old).unwrap_or(&Value::Null));
        self.call.engine.admission.charge(&attributes, new, old).await
    }

    async fn put_new(&self, stored: Value, name: &str) -> Result<Outcome> {
        let call = self.call;
        let key: Bytes = call.resource.key(call.namespace(), name).into();
        let lease = call.engine.ttl.lease(call).await?;
        let value: Bytes = serde_json::to_vec(&stored).expect("a tree is JSON").into();
        for _ in 0..RACE_ATTEMPTS {
            let charge = self.charge(Operation::Create, Some(&stored), None).await?;
            let mut txn = Txn {
                compare: vec![Compare::ModRevision { key: key.clone(), revision: Revision::ZERO }],
                then: vec![Op::Put { key: key.clone(), value: value.clone(), lease }],
                otherwise: vec![Op::Get { key: key.clone() }],
            };
            charge.join(&mut txn);
            let result = call.backend().txn(txn).await.map_err(errors::from_store)?;
            match result.results.into_iter().next() {
                Some(OpResult::Put { entry, .. }) => return Ok(Outcome::Stored(served::written(call, entry).await?)),
                Some(OpResult::Get { entry: Some(entry) }) => return Err(self.exists(name, &entry)),
                // A quota changed meanwhile.
                Some(OpResult::Get { entry: None }) => {}
                _ => return Err(Status::internal("the store answered a put with something else").into()),
            }
        }
        Err(lost_race(call))
    }

    fn exists(&self, name: &str, entry: &Entry) -> Box<Status> {
        let gvr = &self.call.resource.gvr;
        let mut status = Status::already_exists(&gvr.group, &gvr.resource, name);
        if entry.summary.deleting {
            status.message = format!("object is being deleted: {}", status.message);
        }
        status.into()
    }

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
            _ => {}
        }
        if call.is_service() && self.scope == Scope::Main {
            crate::alloc::service::normalize(&mut new, Some(live));
        }
        resource.settle(&mut new);
        self.count_generation(&mut new, live);
        if new == *live && served::is_current(call, entry).await? {
            self.ask(Operation::Update, Some(entry.mod_revision), &new, Some(live)).await?;
            return Ok(Some(Outcome::Stored(entry.clone())));
        }
        self.warn(&new, Some(live));
        self.require_valid(&new, Some(live), &call.info().name)?;
        self.ask(Operation::Update, Some(entry.mod_revision), &new, Some(live)).await?;
        let reserved = self.reserve(&mut new, Some(live), &call.info().name).await?;
        let gone = is_finished(&new, live, &resource.kind);
        let charge = self.charge(Operation::Update, Some(&new).filter(|_| !gone), Some(live)).await?;
        let shown = self.options.dry_run.then(|| new.clone());
        let stored = served::stored(call, new).await?;
        if let Some(shown) = shown {
            return Ok(Some(Outcome::DryRun(with_version(shown, entry.mod_revision))));
        }
        if gone {
            let outcome = self.remove(entry, &charge).await?;
            if outcome.is_some() {
                call.engine.removed(call, live);
            }
            return Ok(outcome);
        }
        let outcome = self.put(entry, &stored, &charge).await?;
        if let (Some(_), Some(reserved)) = (&outcome, reserved) {
            reserved.keep();
        }
        Ok(outcome)
    }

    async fn put(&self, entry: &Arc<Entry>, stored: &Value, charge: &Charge) -> Result<Option<Outcome>> {
        let value = serde_json::to_vec(stored).expect("a tree is JSON").into();
        let lease = match self.call.engine.ttl.lease(self.call).await? {
            Some(fresh) => Some(fresh),
            None => entry.lease,
        };
        let put = Op::Put { key: entry.key.clone(), value, lease };
        let mut txn = guarded(entry, put);
        charge.join(&mut txn);
        let result = self.call.backend().txn(txn).await.map_err(errors::from_store)?;
        Ok(match result.results.into_iter().next() {
            Some(OpResult::Put { entry, .. }) => Some(Outcome::Stored(served::written(self.call, entry).await?)),
            _ => None,
        })
    }

    async fn remove(&self, entry: &Arc<Entry>, charge: &Charge) -> Result<Option<Outcome>> {
        let mut txn = guarded(entry, Op::Delete { key: entry.key.clone() });
        charge.join(&mut txn);
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
            Scope::EphemeralContainers => super::pods::only_ephemeral_containers(new, live),
            Scope::Resize => super::pods::only_resources(new, live),
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

    /// Notes what is most likely not meant.
    fn warn(&mut self, new: &Value, old: Option<&Value>) {
        let resource = &self.call.resource;
        let status_only = old.is_some() && self.scope != Scope::Main;
        if resource.custom.is_none() && !status_only {
            self.warnings.extend(api::warn::warnings(&resource.gvk(), new, old));
        }
    }

    fn require_valid(&self, new: &Value, old: Option<&Value>, name: &str) -> Result<()> {
        let mut errors = self.call.resource.validate(self.call.sub(), new, old);
        if let (Scope::Resize, Some(old)) = (self.scope, old) {
            errors.extend(super::pods::resize_errors(new, old));
        }
        if errors.is_empty() { Ok(()) } else { Err(self.invalid(name, &errors)) }
    }

    pub fn invalid(&self, name: &str, errors: &[FieldError]) -> Box<Status> {
        let mut of = self.call.resource.group_kind();
        if of.kind == "Event" {
            // Upstream checks events of both groups as one kind, the core group's.
            of.group.clear();
        }
        Status::invalid(&of, name, errors).into()
    }

    /// The answer.
    pub fn respond(&self, outcome: Outcome, code: StatusCode) -> Response<Body> {
        let call = self.call;
        match outcome {
            Outcome::Stored(entry) => output::entry(call, code, &entry, &self.warnings),
            Outcome::Deleted(entry, revision) => output::at_revision(call, code, &entry, revision, &self.warnings),
            Outcome::DryRun(shown) => output::value(call, code, shown, &self.warnings),
        }
    }

    /// Under `Warn`, an unknown field of a retried write would be reported again.
    pub fn quietly(&mut self) {
        if self.options.validation == FieldValidation::Warn {
            self.options.validation = FieldValidation::Ignore;
        }
    }
}

/// Who owns what a request writes: who it says, else the client program's name.
pub fn manager(said: &str, headers: &http::HeaderMap) -> String {
    const MANAGER_CHARS: usize = 128;
    if !said.is_empty() {
        return said.to_owned();
    }
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let program = agent.split('/').next().unwrap_or_default();
    let manager: String = program.chars().filter(|c| !c.is_control()).take(MANAGER_CHARS).collect();
    if manager.is_empty() { "unknown".into() } else { manager }
}

/// POST to a collection.
pub async fn create(call: &Call<'_>) -> Result<Response<Body>> {
    let mut write = Write::new(call, "CreateOptions")?;
    let mut object = write.body()?;
    write.check_place(&mut object, false)?;
    let outcome = write.create(object, false).await?;
    Ok(write.respond(outcome, StatusCode::CREATED))
}

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

/// The live object in its served version.
///
/// # Errors
/// 500 when what is stored is no object; it is never written over.
pub fn parse(call: &Call<'_>, entry: &Entry) -> Result<Value> {
    let value: Value = serde_json::from_slice(&entry.value)
        .map_err(|e| Status::internal(format!("unable to decode {}: {e}", String::from_utf8_lossy(&entry.key))))?;
    Ok(call.resource.to_served(value))
}

/// What upstream reads of a body before it knows its kind.
const HEAD: &str =
    r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

/// A body that is no object at all (`transformDecodeError`).
fn unrecognized(expected: &str, body: &[u8], error: &serde_json::Error) -> Status {
    const SHOWN_BYTES: usize = 30;
    let why = api::go_json::syntax_error(body).unwrap_or_else(|| error.to_string());
    let (start, rest) = body.split_at(body.len().min(SHOWN_BYTES));
    let shown = match start.first() {
        None => "<empty>".into(),
        Some(b'{') => String::from_utf8_lossy(start).into_owned(),
        Some(_) => start.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let more = if rest.is_empty() { "" } else { " ..." };
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {expected}): couldn't get version/kind; json parse error: \
         {why} ({shown}{more})"
    ))
}

/// 409 after too many lost races.
pub fn lost_race(call: &Call<'_>) -> Box<Status> {
    let gvr = &call.resource.gvr;
    Status::modified(&gvr.group, &gvr.resource, &call.info().name).into()
}

/// One operation, if the key still is as it was read.
pub fn guarded(entry: &Entry, op: Op) -> Txn {
    let compare = Compare::ModRevision { key: entry.key.clone(), revision: entry.mod_revision };
    Txn { compare: vec![compare], then: vec![op], otherwise: Vec::new() }
}

fn with_version(mut value: Value, revision: Revision) -> Value {
    value["metadata"]["resourceVersion"] = revision.to_string().into();
    value
}

fn field_error(field: &str, reason: Reason, value: Option<Value>, detail: &str) -> FieldError {
    FieldError { field: field.into(), reason, value, detail: detail.into() }
}

/// An apply that can't be done, as the client reads it. What can't be typed is upstream's own failure.
fn apply_failure(error: &api::apply::Error) -> Box<Status> {
    match error {
        api::apply::Error::Conflicts(_) => Status::apply_conflict(error).into(),
        other if other.to_string().starts_with("failed to create typed patch object") => {
            Status::failure(500, "", other.to_string()).into()
        }
        other => Status::bad_request(other.to_string()).into(),
    }
}

/// `/v1, Kind=Secret`
fn gvk_text(version: &str, kind: &str) -> String {
    let parsed = api::GroupVersion::parse(version);
    format!("{}/{}, Kind={kind}", parsed.group, parsed.version)
}

/// A body of another kind, or of another version of it, than the path's.
fn wrong_kind(resource: &crate::registry::Resource, version: &str, kind: &str) -> Status {
    let expected = resource.gvr.group_version().to_string();
    let given = api::GroupVersion::parse(version);
    let known = api::schema::Schemas::builtin().for_kind(&api::GroupVersionKind::new(
        given.group.as_str(),
        given.version.as_str(),
        if kind.is_empty() { resource.kind.as_str() } else { kind },
    ));
    if known.is_some() && (kind.is_empty() || kind == resource.kind) {
        let text =
            format!("the API version in the data ({version}) does not match the expected API version ({expected})");
        return Status::bad_request(text);
    }
    let kind = if kind.is_empty() { &resource.kind } else { kind };
    let version = if given.version.is_empty() { &resource.gvr.version } else { &given.version };
    // The file and line are those of upstream's registry of kinds.
    Status::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {}: no kind {kind:?} is registered for version {:?} in scheme \
         \"pkg/runtime/scheme.go:111\"",
        resource.kind,
        if given.group.is_empty() { version.clone() } else { format!("{}/{version}", given.group) },
    ))
}

/// The alphabet and length of generated suffixes (`k8s.io/apimachinery/pkg/util/rand`).
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
const NAME_LENGTH: usize = 63;

/// `base` and five random characters, together no longer than a label.
pub fn generate_name(base: &str) -> String {
    let mut end = base.len().min(NAME_LENGTH - SUFFIX_LENGTH);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let suffix = (0..SUFFIX_LENGTH).map(|_| SUFFIX_ALPHABET[rand::random_range(0..SUFFIX_ALPHABET.len())] as char);
    base[..end].chars().chain(suffix).collect()
}

/// Takes away what only the server sets, before anybody else sees a new object (`WipeObjectMetaSystemFields`).
fn wipe(object: &mut Value) {
    let meta = strategy::child(object, "metadata");
    for server_set in [
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
        "uid",
        "creationTimestamp",
    ] {
        meta.remove(server_set);
    }
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
