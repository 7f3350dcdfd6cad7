//! Creating: identity, a name where none is given, and the first compare-and-set.
use super::super::{Call, Result, errors, served};
use super::{Outcome, RACE_ATTEMPTS, Write, field_error, lost_race};
use crate::Body;
use crate::admission::{self, Operation};
use crate::alloc::pools::Claims;
use crate::registry::strategy::{self, Generation};
use api::Status;
use api::validate::Reason;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use store::{Compare, Entry, Op, OpResult, Revision, Txn};

/// How often a generated name that is taken is generated anew (upstream's `maxNameGenerationCreateAttempts`).
const NAME_ATTEMPTS: usize = 8;

/// POST to a collection.
pub async fn create(call: &Call<'_>) -> Result<Response<Body>> {
    let mut write = Write::new(call, "CreateOptions")?;
    let mut object = write.body()?;
    write.check_place(&mut object, false)?;
    let outcome = write.create(object, false).await?;
    Ok(write.respond(outcome, StatusCode::CREATED))
}

impl Write<'_> {
    /// Creates `object`, whose fields are not yet owned unless `applied` (apply has done it).
    pub async fn create(&mut self, mut object: Value, applied: bool) -> Result<Outcome> {
        let call = self.call;
        let resource = call.resource.clone();
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
        let mut taken = Claims::default();
        for _ in 0..RACE_ATTEMPTS {
            // Only Services can come back for other addresses.
            let again = call.is_service().then(|| new.clone());
            match (self.store_new(new, name, &taken).await?, again) {
                (Ok(outcome), _) => return Ok(outcome),
                (Err(claims), Some(again)) => {
                    taken.extend(claims);
                    new = again;
                }
                (Err(_), None) => break,
            }
        }
        Err(lost_race(call))
    }

    /// Stores what is complete but for a Service's addresses; or tells which of them another server has taken.
    async fn store_new(
        &self,
        mut new: Value,
        name: &str,
        taken: &Claims,
    ) -> Result<std::result::Result<Outcome, Claims>> {
        let call = self.call;
        let reserved = self.reserve(&mut new, None, name, taken).await?;
        if !self.options.dry_run {
            refuse_version(&mut new)?;
        }
        let shown = self.options.dry_run.then(|| new.clone());
        let stored = served::stored(call, new).await?;
        if let Some(shown) = shown {
            self.charge(Operation::Create, Some(&stored), None).await?;
            return self.dry_create(shown, name).await.map(Ok);
        }
        let outcome = self.put_new(stored, name).await?;
        if let (Ok(_), Some(reserved)) = (&outcome, reserved) {
            reserved.keep();
        }
        Ok(outcome)
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

    async fn put_new(&self, stored: Value, name: &str) -> Result<std::result::Result<Outcome, Claims>> {
        let call = self.call;
        let key: Bytes = call.resource.key(call.namespace(), name).into();
        let lease = call.engine.ttl.lease(call).await?;
        let value: Bytes = serde_json::to_vec(&stored).expect("a tree is JSON").into();
        for _ in 0..RACE_ATTEMPTS {
            let charge = self.charge(Operation::Create, Some(&stored), None).await?;
            let booking = match self.book(Some(&stored), None).await? {
                Ok(booking) => booking,
                Err(taken) => return self.taken(taken, &key, name).await.map(Err),
            };
            let mut txn = Txn {
                compare: vec![Compare::ModRevision { key: key.clone(), revision: Revision::ZERO }],
                then: vec![Op::Put { key: key.clone(), value: value.clone(), lease }],
                otherwise: vec![Op::Get { key: key.clone() }],
            };
            charge.join(&mut txn);
            booking.join(&mut txn);
            let result = call.backend().txn(txn).await.map_err(errors::from_store)?;
            match result.results.into_iter().next() {
                Some(OpResult::Put { entry, .. }) => {
                    return Ok(Ok(Outcome::Stored(served::written(call, entry).await?)));
                }
                Some(OpResult::Get { entry: Some(entry) }) => return Err(self.exists(name, &entry)),
                // A quota or what was booked changed meanwhile.
                Some(OpResult::Get { entry: None }) => {}
                _ => return Err(Status::internal("the store answered a put with something else").into()),
            }
        }
        Err(lost_race(call))
    }

    /// What was taken, unless by the very object that is to be created.
    async fn taken(&self, taken: Claims, key: &Bytes, name: &str) -> Result<Claims> {
        match self.call.backend().get(key, None).await.map_err(errors::from_store)? {
            Some(entry) => Err(self.exists(name, &entry)),
            None => Ok(taken),
        }
    }

    fn exists(&self, name: &str, entry: &Entry) -> Box<Status> {
        let gvr = &self.call.resource.gvr;
        let mut status = Status::already_exists(&gvr.group, &gvr.resource, name);
        if entry.summary.deleting {
            status.message = format!("object is being deleted: {}", status.message);
        }
        status.into()
    }
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

/// What is new has no version yet; upstream's store says so, and a dry run does not come so far.
fn refuse_version(object: &mut Value) -> Result<()> {
    let version = strategy::child(object, "metadata").remove("resourceVersion");
    match version.as_ref().and_then(Value::as_str).map(str::parse::<u64>) {
        Some(Ok(version)) if version != 0 => {
            Err(Status::failure(500, "", "resourceVersion should not be set on objects to be created").into())
        }
        _ => Ok(()),
    }
}

/// Takes away what only the server sets, before anybody else sees a new object (`WipeObjectMetaSystemFields`).
fn wipe(object: &mut Value) {
    let meta = strategy::child(object, "metadata");
    for server_set in
        ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation", "uid", "creationTimestamp"]
    {
        meta.remove(server_set);
    }
}
