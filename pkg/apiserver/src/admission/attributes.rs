//! What admission knows of a request besides the object itself.
use super::webhook::Question;
use crate::engine::{Call, Result, from_store, served};
use crate::registry::Resource;
use api::decode::FieldValidation;
use api::{GroupVersionKind, Status};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use store::{Entry, Revision};

/// What a request does to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    /// Exec, attach, port-forward and proxies.
    Connect,
}

impl Operation {
    /// As rules and reviews call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// One request's way through admission.
pub(crate) struct Attributes<'a> {
    pub call: &'a Call<'a>,
    pub operation: Operation,
    /// The object's kind, which a subresource may have of its own.
    pub kind: GroupVersionKind,
    /// Empty while a name is still to be generated.
    pub name: String,
    pub dry_run: bool,
    /// `CreateOptions`, `UpdateOptions`, ...
    pub options: Value,
    /// The resourceVersion of the object before, which trees in the engine don't hold.
    pub revision: Option<Revision>,
    /// For `Warning` headers; what runs at once may add to them.
    warnings: Mutex<Vec<String>>,
}

impl<'a> Attributes<'a> {
    pub fn new(call: &'a Call<'a>, operation: Operation) -> Self {
        let resource = &call.resource;
        let kind = resource.subresource(&call.info().subresource).map_or_else(|| resource.gvk(), |s| s.kind.clone());
        Self {
            call,
            operation,
            kind,
            name: call.info().name.clone(),
            dry_run: false,
            options: Value::Null,
            revision: None,
            warnings: Mutex::default(),
        }
    }

    /// Options of this kind, as reviews show them.
    pub fn with_options(mut self, kind: &str, dry_run: bool, field_manager: &str, field_validation: &str) -> Self {
        let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if dry_run {
            options["dryRun"] = json!(["All"]);
        }
        for (name, value) in [("fieldManager", field_manager), ("fieldValidation", field_validation)] {
            if !value.is_empty() {
                options[name] = value.into();
            }
        }
        (self.options, self.dry_run) = (options, dry_run);
        self
    }

    pub fn at(mut self, revision: Revision) -> Self {
        self.revision = Some(revision);
        self
    }

    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    pub fn resource(&self) -> &Arc<Resource> {
        &self.call.resource
    }

    pub fn subresource(&self) -> &str {
        &self.call.info().subresource
    }

    /// Namespace of the request: for a namespace itself, its own name.
    pub fn namespace(&self) -> &str {
        &self.call.info().namespace
    }

    /// Whether this is a request for the plain resource of that group and name.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        let gvr = &self.resource().gvr;
        gvr.group == group && gvr.resource == resource && self.subresource().is_empty()
    }

    pub fn warn(&self, text: impl Into<String>) {
        self.warnings.lock().push(text.into());
    }

    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock())
    }

    /// 403 in the words of upstream's `NewForbidden`.
    pub fn forbidden(&self, object: Option<&Value>, why: &str) -> Box<Status> {
        let gvr = &self.resource().gvr;
        let text = |key: &str| object.and_then(|o| o["metadata"][key].as_str()).filter(|t| !t.is_empty());
        let given = Some(self.name.as_str()).filter(|n| !n.is_empty());
        let name = given.or(text("name")).or(text("generateName")).unwrap_or("Unknown");
        Status::forbidden(&gvr.group, &gvr.resource, name, why).into()
    }

    /// The stored namespace of the request; none for cluster scope or where it is not there.
    pub async fn stored_namespace(&self) -> Result<Option<Arc<Entry>>> {
        if self.namespace().is_empty() {
            return Ok(None);
        }
        let key = format!("/registry/namespaces/{}", self.namespace());
        self.call.backend().get(key.as_bytes(), None).await.map_err(from_store)
    }

    /// Whether the object is one of the resource's own kind, which exists in other versions.
    fn own_kind(&self) -> bool {
        self.kind == self.resource().gvk()
    }

    /// The object as somebody outside sees it in `resource`'s version.
    ///
    /// # Errors
    /// 500 when a conversion webhook does not convert.
    pub async fn shown(&self, resource: &Resource, object: &Value) -> Result<Value> {
        let mut shown = object.clone();
        if let (Some(revision), true) = (self.revision, object["metadata"].is_object()) {
            shown["metadata"]["resourceVersion"] = revision.to_string().into();
        }
        if self.own_kind() {
            shown = served::convert(self.call.engine, self.resource(), resource, shown).await?;
        }
        Ok(shown)
    }

    async fn shown_if(&self, resource: &Resource, object: Option<&Value>) -> Result<Option<Value>> {
        match object {
            Some(object) => self.shown(resource, object).await.map(Some),
            None => Ok(None),
        }
    }

    /// What came back of [`Self::shown`], in the request's version, pruned and defaulted.
    ///
    /// # Errors
    /// It is no object of the kind any more, or could not be converted.
    pub async fn taken(&self, from: &Resource, object: Value) -> Result<Value> {
        let own = self.resource();
        if !self.own_kind() {
            return Ok(object);
        }
        let object = served::convert(self.call.engine, from, own, object).await?;
        let decoded = api::decode::check(object, own.ty(), &own.schemas, FieldValidation::Ignore);
        let decoded = decoded.map_err(Status::internal)?;
        let mut object = decoded.value;
        if self.revision.is_some()
            && let Some(meta) = object["metadata"].as_object_mut()
        {
            meta.remove("resourceVersion");
        }
        own.default(&mut object);
        Ok(object)
    }

    /// Hands `ask` what a review says, with the objects in `resource`'s version.
    ///
    /// # Errors
    /// As [`Self::shown`].
    pub async fn question<T>(
        &self,
        uid: &str,
        resource: &Resource,
        object: Option<&Value>,
        old: Option<&Value>,
        ask: impl FnOnce(&Question<'_>) -> T,
    ) -> Result<T> {
        let (object, old) = (self.shown_if(resource, object).await?, self.shown_if(resource, old).await?);
        let kind = if self.own_kind() { resource.gvk() } else { self.kind.clone() };
        Ok(ask(&Question {
            uid,
            kind: &kind,
            resource: &resource.gvr,
            request_kind: &self.kind,
            request_resource: &self.resource().gvr,
            subresource: self.subresource(),
            namespace: self.namespace(),
            name: &self.name,
            operation: self.operation,
            user: &self.call.request.user,
            object: object.as_ref(),
            old: old.as_ref(),
            options: &self.options,
            dry_run: self.dry_run,
        }))
    }
}
