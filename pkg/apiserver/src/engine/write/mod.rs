//! Creates and updates: from a body to one compare-and-set.
//!
//! `body` (decode) `-> create` (identity) `| replace` (scope, preconditions) `-> default -> fields` (owners) `-> admission ->
//! strategy -> validate -> store`; an update whose result equals what is stored writes nothing.

mod body;
mod create;
mod fields;
mod replace;

use super::params::WriteOptions;
use super::{Call, Result, errors, output};
use crate::Body;
use crate::admission::{Attributes, Charge, Operation};
use crate::alloc::Reservation;
use crate::alloc::book::{Booking, book};
use crate::alloc::pools::Claims;
use api::Status;
use api::decode::FieldValidation;
use api::validate::{FieldError, Reason};
pub use create::{create, generate_name};
pub use fields::manager;
use http::{Response, StatusCode};
pub use replace::update;
use serde_json::Value;
use std::sync::Arc;
use store::{Compare, Entry, Op, Revision, Txn};

/// How often a write that lost a race is tried again before the client is told to.
pub const RACE_ATTEMPTS: usize = 16;

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
    async fn reserve(
        &self,
        new: &mut Value,
        old: Option<&Value>,
        name: &str,
        avoid: &Claims,
    ) -> Result<Option<Reservation>> {
        if !self.call.is_service() || self.scope != Scope::Main {
            return Ok(None);
        }
        let alloc = &self.call.engine.alloc;
        alloc.seed(self.call.backend()).await.map_err(errors::from_store)?;
        alloc.limit(&self.call.engine.sites().shares.borrow());
        alloc.reserve(new, old, avoid).map(Some).map_err(|errors| self.invalid(name, &errors))
    }

    /// What is to be written with a Service; or what of it another server has taken.
    async fn book(&self, new: Option<&Value>, old: Option<&Value>) -> Result<std::result::Result<Booking, Claims>> {
        if !self.call.is_service() || self.scope != Scope::Main {
            return Ok(Ok(Booking::default()));
        }
        book(self.call.backend(), new, old, &self.now).await.map_err(errors::from_store)
    }

    /// What quotas charge for the write.
    async fn charge(&self, operation: Operation, new: Option<&Value>, old: Option<&Value>) -> Result<Charge> {
        let attributes = self.attributes(operation, new.or(old).unwrap_or(&Value::Null));
        self.call.engine.admission.charge(&attributes, new, old).await
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

/// The live object in its served version.
///
/// # Errors
/// 500 when what is stored is no object; it is never written over.
pub fn parse(call: &Call<'_>, entry: &Entry) -> Result<Value> {
    let value: Value = serde_json::from_slice(&entry.value)
        .map_err(|e| Status::internal(format!("unable to decode {}: {e}", String::from_utf8_lossy(&entry.key))))?;
    Ok(call.resource.to_served(value))
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

fn field_error(field: &str, reason: Reason, value: Option<Value>, detail: &str) -> FieldError {
    FieldError { field: field.into(), reason, value, detail: detail.into() }
}
