//! Replays writes that were recorded on an unmodified API server (v1.36.3): each step holds the object before, the
//! request, and what came of it. Ownership, merged content and errors must be the same.
use api::apply::{Error, Writer, apply, update};
use api::decode::{FieldValidation, decode};
use api::schema::{Definition, Schemas};
use api::{GroupVersion, GroupVersionKind};
use eyot_api as api;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Step {
    note: String,
    /// `apply`, `create` or `patch`.
    op: String,
    gvk: (String, String),
    manager: String,
    force: bool,
    subresource: String,
    live: Option<Value>,
    body: Value,
    result: Option<Value>,
    error: Option<String>,
}

#[test]
fn recorded_writes() {
    let steps: Vec<Step> = serde_json::from_str(include_str!("fixtures/apply.json")).unwrap();
    assert!(steps.len() > 20);
    for step in &steps {
        let gv = GroupVersion::parse(&step.gvk.0);
        let kind = GroupVersionKind::new(gv.group, gv.version, &*step.gvk.1);
        let definition = Schemas::builtin().for_kind(&kind).expect("a built-in kind");
        let ours = if step.op == "apply" { applied(step, definition) } else { Ok(updated(step, &kind, definition)) };
        match (ours, &step.result, &step.error) {
            (Ok(mut ours), Some(theirs), _) => {
                api::default::default(&kind, &mut ours, &definition.ty, Schemas::builtin());
                assert_eq!(owners(&ours), owners(theirs), "{}", step.note);
                assert_eq!(content(&ours), content(theirs), "{}", step.note);
            }
            (Err(ours), _, Some(theirs)) => assert_eq!(sorted(&ours.to_string()), sorted(theirs), "{}", step.note),
            (ours, ..) => panic!("{}: {ours:?}, recorded {:?}", step.note, step.error),
        }
    }
}

fn writer(step: &Step) -> Writer<'_> {
    Writer {
        manager: &step.manager,
        api_version: &step.gvk.0,
        subresource: &step.subresource,
        now: "2026-01-01T00:00:00Z",
    }
}

fn decoded(body: &Value, definition: &Definition) -> Value {
    let body = body.to_string();
    decode(body.as_bytes(), &definition.ty, Schemas::builtin(), FieldValidation::Strict).unwrap().value
}

fn applied(step: &Step, definition: &Definition) -> Result<Value, Error> {
    let body = decoded(&step.body, definition);
    apply(step.live.as_ref(), &body, &writer(step), step.force, &definition.ty, Schemas::builtin())
}

fn updated(step: &Step, kind: &GroupVersionKind, definition: &Definition) -> Value {
    let mut new = match step.op.as_str() {
        "create" => {
            let mut new = decoded(&step.body, definition);
            api::default::default(kind, &mut new, &definition.ty, Schemas::builtin());
            new
        }
        _ => step.result.clone().expect("patches succeed"),
    };
    if step.op == "patch" {
        // A patch's result carries the managedFields that were there, or those that it sets.
        let before = step.live.as_ref().map(|live| &live["metadata"]["managedFields"]);
        let sent = step.body.pointer("/metadata/managedFields").or(before).filter(|fields| !fields.is_null());
        match sent {
            Some(fields) => new["metadata"]["managedFields"] = fields.clone(),
            None => drop(new["metadata"].as_object_mut().unwrap().remove("managedFields")),
        }
    }
    update(step.live.as_ref(), &mut new, &writer(step), &definition.ty, Schemas::builtin());
    new
}

/// managedFields without times, in an order that does not depend on them.
fn owners(object: &Value) -> Vec<Value> {
    let mut entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    for entry in &mut entries {
        entry.as_object_mut().unwrap().remove("time");
    }
    entries.sort_by_key(|entry| json!([entry["operation"], entry["manager"], entry["subresource"]]).to_string());
    entries
}

/// What the client wrote; the server adds to the rest.
fn content(object: &Value) -> Value {
    let mut spec = object["spec"].clone();
    if object["kind"] != "Deployment" {
        // Addresses are allocated, and a pod's account and token are mounted.
        let keep = ["ports", "selector"];
        if let Some(fields) = spec.as_object_mut() {
            fields.retain(|key, _| keep.contains(&key.as_str()));
        }
    }
    json!({"spec": spec, "data": object["data"], "labels": object["metadata"]["labels"]})
}

/// The order of conflicts between managers is a map's, upstream.
fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}
