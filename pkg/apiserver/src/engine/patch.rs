//! Patches of four kinds, tried again when somebody else changed the object meanwhile.
use super::write::{self, Outcome, RACE_ATTEMPTS, Scope, Write};
use super::{Call, Result, media, served};
use crate::Body;
use api::Status;
use api::status::Details;
use api::validate::{FieldError, Reason};
use bytes::Bytes;
use http::{Response, StatusCode, header};
use serde_json::Value;

/// The format of a patch, as its media type says.
enum Patch {
    Json(Bytes),
    Merge(Value),
    Strategic(Value),
    /// Server-side apply: the raw body as JSON.
    Apply(Bytes),
}

impl Patch {
    fn parse(call: &Call<'_>) -> Result<Self> {
        let request = call.request;
        let custom = call.resource.custom.is_some();
        let text = request.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let tree = || -> Result<Value> {
            serde_json::from_slice(&request.body).map_err(|e| {
                let why = api::go_json::syntax_error(&request.body).unwrap_or_else(|| e.to_string());
                Status::bad_request(format!("error decoding patch: {why}")).into()
            })
        };
        match text.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok(Self::Json(request.body.clone())),
            "application/merge-patch+json" => Ok(Self::Merge(tree()?)),
            "application/strategic-merge-patch+json" if !custom => Ok(Self::Strategic(tree()?)),
            "application/apply-patch+yaml" | "application/apply-patch+json" => {
                let json = media::to_json(&request.body, media::Format::Yaml);
                Ok(Self::Apply(
                    json.map_err(|status| Status::bad_request(format!("error decoding YAML: {}", status.message)))?,
                ))
            }
            _ => {
                let text = "415: Unsupported Media Type";
                Err(Status::unsupported_media_type(text).with_details(Details::default()).into())
            }
        }
    }
}

pub async fn patch(call: &Call<'_>) -> Result<Response<Body>> {
    let mut write = Write::new(call, "PatchOptions")?;
    let patch = Patch::parse(call)?;
    check_options(&write, &patch)?;
    let applied = match &patch {
        Patch::Apply(body) => Some(applied(&mut write, body)?),
        _ => None,
    };
    for _ in 0..RACE_ATTEMPTS {
        let found = served::get(call, &call.key()).await?;
        let Some(entry) = found else {
            let Some(applied) = applied.filter(|_| write.scope == Scope::Main) else {
                return Err(call.not_found(&call.info().name));
            };
            return create(&mut write, &applied).await;
        };
        let live = write::parse(call, &entry)?;
        let new = match &applied {
            Some(applied) => said_versions(write.apply(Some(&live), applied)?, applied),
            None => {
                let new = change(call, &patch, &live, entry.mod_revision)?;
                let new = write.check(new)?;
                write.quietly();
                new
            }
        };
        let mut new = new;
        write.check_place(&mut new, true)?;
        if let Some(outcome) = write.replace(&entry, &live, new, applied.is_some()).await? {
            return Ok(write.respond(outcome, StatusCode::OK));
        }
    }
    Err(write::lost_race(call))
}

/// `ValidatePatchOptions`.
fn check_options(write: &Write<'_>, patch: &Patch) -> Result<()> {
    let is_apply = matches!(patch, Patch::Apply(_));
    let mut errors = Vec::new();
    if is_apply && write.options.field_manager.is_empty() {
        let detail = "is required for apply patch".into();
        errors.push(FieldError { field: "fieldManager".into(), reason: Reason::Required, value: None, detail });
    }
    if !is_apply && write.options.force.is_some() {
        let detail = "may not be specified for non-apply patch".into();
        errors.push(FieldError { field: "force".into(), reason: Reason::Forbidden, value: None, detail });
    }
    if errors.is_empty() { Ok(()) } else { Err(super::params::invalid_options("PatchOptions", &errors)) }
}

/// The body of an apply, checked, without what this scope does not own.
fn applied(write: &mut Write<'_>, body: &Bytes) -> Result<Value> {
    let resource = write.call.resource.clone();
    if let Some(status) = undeclared(&resource, body) {
        return Err(status);
    }
    let mut applied = write.decode(body)?;
    // The namespace that the path has need not be said, and errors tell what was said.
    write.check_place(&mut applied.clone(), true)?;
    let fields = applied.as_object_mut().expect("decode checked it");
    match write.scope {
        Scope::Main if resource.has_status() => {
            fields.remove("status");
        }
        Scope::Status => fields.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status")),
        _ => {}
    }
    Ok(applied)
}

/// Apply can't own a field that has no schema, whatever `fieldValidation` says (structured-merge-diff's words).
fn undeclared(resource: &crate::registry::Resource, body: &Bytes) -> Option<Box<Status>> {
    let strict = api::decode::FieldValidation::Strict;
    let decoded = api::decode::decode(body, resource.ty(), &resource.schemas, strict);
    let Err(api::decode::Error::Strict(complaints)) = decoded else { return None };
    let unknown = complaints.iter().filter_map(|text| text.strip_prefix("unknown field \"")?.strip_suffix('"'));
    let errors: Vec<String> = unknown.map(|path| format!(".{path}: field not declared in schema")).collect();
    let text = match &errors[..] {
        [] => return None,
        [one] => one.clone(),
        several => format!("errors:\n{}", several.iter().map(|error| format!("  {error}\n")).collect::<String>()),
    };
    let object: Value = serde_json::from_slice(body).ok()?;
    let said = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    let gvr = &resource.gvr;
    let text = format!(
        "failed to create typed patch object ({}/{}; {}/{}, Kind={}): {text}",
        said("namespace"),
        said("name"),
        gvr.group,
        gvr.version,
        resource.kind
    );
    Some(Status::failure(500, "", text).into())
}

/// An applied resourceVersion or uid is a precondition, not a value to merge.
fn said_versions(mut merged: Value, applied: &Value) -> Value {
    for key in ["resourceVersion", "uid"] {
        if let Some(said) = applied["metadata"].get(key) {
            merged["metadata"][key] = said.clone();
        }
    }
    merged
}

async fn create(write: &mut Write<'_>, applied: &Value) -> Result<Response<Body>> {
    let call = write.call;
    let uid = applied["metadata"]["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() {
        let why = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
        let gvr = &call.resource.gvr;
        return Err(Status::conflict(&gvr.group, &gvr.resource, &call.info().name, &why).into());
    }
    let mut object = write.apply(None, applied)?;
    write.check_place(&mut object, true)?;
    let outcome: Outcome = write.create(object, true).await?;
    Ok(write.respond(outcome, StatusCode::CREATED))
}

/// The live object with the patch applied. The client sees and may test the resourceVersion.
fn change(call: &Call<'_>, patch: &Patch, live: &Value, revision: store::Revision) -> Result<Value> {
    let resource = &call.resource;
    let mut live = live.clone();
    live["metadata"]["resourceVersion"] = revision.to_string().into();
    let mut new = match patch {
        Patch::Json(body) => api::patch::json_patch(&live, body),
        Patch::Merge(patch) => Ok(api::patch::merge_patch(&live, patch)),
        Patch::Strategic(patch) => api::patch::strategic_merge(&live, patch, resource.ty(), &resource.schemas),
        Patch::Apply(_) => unreachable!("apply has its own path"),
    }
    .map_err(|e| refused(call, &e))?;
    // Unchanged: no precondition, or a lost race would be told to the client rather than tried again.
    if new["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"]
        && let Some(meta) = new["metadata"].as_object_mut()
    {
        meta.remove("resourceVersion");
    }
    Ok(new)
}

/// A patched Scale. Apply of a scale is taken as a merge: it owns one field.
pub fn scale(call: &Call<'_>, live: &Value) -> Result<Value> {
    match Patch::parse(call)? {
        Patch::Json(body) => api::patch::json_patch(live, &body),
        Patch::Merge(patch) | Patch::Strategic(patch) => Ok(api::patch::merge_patch(live, &patch)),
        Patch::Apply(body) => {
            let patch: Value = serde_json::from_slice(&body).map_err(|e| Status::bad_request(e.to_string()))?;
            Ok(api::patch::merge_patch(live, &patch))
        }
    }
    .map_err(|e| refused(call, &e))
}

fn refused(call: &Call<'_>, error: &api::patch::Error) -> Box<Status> {
    use api::patch::Error as E;
    match error {
        E::Malformed(text) => Status::bad_request(text.clone()),
        E::Failed(text) => Status::failure(500, "", text.clone()),
        // Upstream keeps to itself what was wrong; its log has it.
        E::Unprocessable(text) => {
            tracing::debug!(%text, name = call.info().name, "a patch does not apply");
            let text = "the server rejected our request due to an error in our request";
            Status::failure(422, "Invalid", text).with_details(Details::default())
        }
        E::TooLarge(text) => Status::too_large(text.to_string()),
    }
    .into()
}
