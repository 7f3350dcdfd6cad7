//! Subresources that are not a part of the object: binding, eviction, scale.
use super::delete::{self, DeleteOptions, Deleted};
use super::write::{self, Outcome, RACE_ATTEMPTS, Scope, Write, guarded};
use super::{Call, Result, errors, media, output, pods, served};
use crate::Body;
use crate::admission::{Operation, home};
use crate::registry::strategy;
use api::Status;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use store::{Op, OpResult};

/// A body of another kind than the resource's own, checked for its kind and place.
fn foreign_body(call: &Call<'_>) -> Result<Value> {
    let request = call.request;
    let json = media::to_json(&request.body, media::body_format(&request.headers)?)?;
    let value: Value = serde_json::from_slice(&json).map_err(|e| Status::bad_request(e.to_string()))?;
    let expected = call.resource.subresource(call.sub()).map(|s| &s.kind);
    let kind = value["kind"].as_str().unwrap_or_default();
    if let Some(expected) = expected
        && !kind.is_empty()
        && kind != expected.kind
    {
        let text = format!("{kind} cannot be handled as a {}", expected.kind);
        return Err(Status::bad_request(text).into());
    }
    let name = value["metadata"]["name"].as_str().unwrap_or_default();
    if !name.is_empty() && !call.info().name.is_empty() && name != call.info().name {
        let text = format!("the name of the object ({name}) does not match the name on the URL ({})", call.info().name);
        return Err(Status::bad_request(text).into());
    }
    Ok(value)
}

/// `pods/binding`: what the scheduler writes, and nothing else is.
pub async fn bind(call: &Call<'_>) -> Result<Response<Body>> {
    let binding = foreign_body(call)?;
    if binding["metadata"]["name"] != *call.info().name {
        return Err(Status::bad_request("name in URL does not match name in Binding object").into());
    }
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    let kind = binding["target"]["kind"].as_str().unwrap_or_default();
    if node.is_empty() || !matches!(kind, "" | "Node") {
        return Err(Status::bad_request("a binding needs target.name, the name of a Node").into());
    }
    let (write, name) = (Write::new(call, "CreateOptions")?, &call.info().name);
    let mut binding = binding;
    let warnings = admit(&write, Operation::Create, &mut binding, None).await?;
    for _ in 0..RACE_ATTEMPTS {
        let found = call.backend().get(call.key().as_bytes(), None).await.map_err(errors::from_store)?;
        let entry = found.ok_or_else(|| call.not_found(name))?;
        let pod = write::parse(call, &entry)?;
        let uid = binding["metadata"]["uid"].as_str().unwrap_or_default();
        let has = pod["metadata"]["uid"].as_str().unwrap_or_default();
        if !uid.is_empty() && uid != has {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {has}");
            return Err(Status::conflict("", "pods", name, &why).into());
        }
        let mut new =
            pods::bind(&pod, &binding, &write.now).map_err(|why| Status::conflict("", "pods/binding", name, &why))?;
        home::follow_node(call, &mut new).await?;
        if write.options.dry_run {
            return Ok(created(call, &warnings));
        }
        let value = serde_json::to_vec(&new).expect("a tree is JSON").into();
        let put = Op::Put { key: entry.key.clone(), value, lease: None };
        let result = call.backend().txn(guarded(&entry, put)).await.map_err(errors::from_store)?;
        if result.succeeded {
            return Ok(created(call, &warnings));
        }
    }
    Err(write::lost_race(call))
}

fn created(call: &Call<'_>, warnings: &[String]) -> Response<Body> {
    let mut status = Status::success(None);
    status.code = 201;
    output::with_warnings(output::status(call, &status), warnings)
}

/// Admission of a body that has a kind of its own. Returns the warnings.
async fn admit(write: &Write<'_>, operation: Operation, body: &mut Value, old: Option<&Value>) -> Result<Vec<String>> {
    let attributes = write.attributes(operation, body).named(&write.call.info().name);
    write.call.engine.admission.admit(&attributes, Some(body), old).await?;
    Ok(attributes.take_warnings())
}

/// `pods/eviction`: a delete that disruption budgets may refuse for now.
pub async fn evict(call: &Call<'_>) -> Result<Response<Body>> {
    let (mut eviction, write) = (foreign_body(call)?, Write::new(call, "CreateOptions")?);
    let mut warnings = admit(&write, Operation::Create, &mut eviction, None).await?;
    let mut options = DeleteOptions::from_value(&eviction["deleteOptions"])?;
    options.dry_run |= write.options.dry_run;
    let (namespace, name) = (call.namespace(), &call.info().name);
    let found = call.backend().get(call.key().as_bytes(), None).await.map_err(errors::from_store)?;
    let entry = found.ok_or_else(|| call.not_found(name))?;
    let pod = write::parse(call, &entry)?;
    if !ignores_budgets(&pod) {
        spend_budget(call, namespace, &pod, &entry.summary, options.dry_run).await?;
    }
    if !options.dry_run {
        mark_disrupted(call).await?;
    }
    let _: Deleted = delete::delete_named(call, namespace, name, &options, &mut warnings).await?;
    Ok(created(call, &warnings))
}

/// Says on the pod why it goes: Jobs' failure policies tell a disruption from a failure by it (KEP-3329).
async fn mark_disrupted(call: &Call<'_>) -> Result<()> {
    for _ in 0..RACE_ATTEMPTS {
        let found = call.backend().get(call.key().as_bytes(), None).await.map_err(errors::from_store)?;
        let entry = found.ok_or_else(|| call.not_found(&call.info().name))?;
        let pod = write::parse(call, &entry)?;
        if pod["metadata"]["deletionTimestamp"].is_string() {
            return Ok(());
        }
        let marked = with_disruption(pod, (call.engine.clock)());
        let value = serde_json::to_vec(&marked).expect("a tree is JSON").into();
        let put = Op::Put { key: entry.key.clone(), value, lease: None };
        let result = call.backend().txn(guarded(&entry, put)).await.map_err(errors::from_store)?;
        if result.succeeded {
            return Ok(());
        }
    }
    Err(write::lost_race(call))
}

fn with_disruption(mut pod: Value, now: jiff::Timestamp) -> Value {
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
    let status = strategy::child(&mut pod, "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.retain(|other| other["type"] != "DisruptionTarget");
        conditions.push(condition);
    }
    pod
}

/// Pods that serve nobody don't count (`canIgnorePDB`).
fn ignores_budgets(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || pod["metadata"]["deletionTimestamp"].is_string()
}

const BUDGETS: &str = "/registry/poddisruptionbudgets";
/// Seconds after which an eviction that a budget refused may be tried again.
const BUDGET_RETRY_SECONDS: u32 = 10;

/// Takes one disruption from the budget that covers the pod.
async fn spend_budget(
    call: &Call<'_>,
    namespace: &str,
    pod: &Value,
    summary: &api::summary::Summary,
    dry_run: bool,
) -> Result<()> {
    let range = store::Range::prefix(format!("{BUDGETS}/{namespace}/").into_bytes());
    for _ in 0..RACE_ATTEMPTS {
        let page = call.backend().list(&range, None, 0).await.map_err(errors::from_store)?;
        let mut covering = Vec::new();
        for entry in page.entries {
            let budget: Value = serde_json::from_slice(&entry.value).map_err(Status::internal)?;
            let selector =
                api::selector::LabelSelector::from_json(&budget["spec"]["selector"]).map_err(Status::internal)?;
            if selector.matches(summary) {
                covering.push((entry, budget));
            }
        }
        let (entry, mut budget) = match (covering.pop(), covering.is_empty()) {
            (None, _) => return Ok(()),
            (Some(one), true) => one,
            (Some(_), false) => {
                let text =
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(Status::internal(text).into());
            }
        };
        if is_unhealthy_and_free(pod, &budget) {
            return Ok(());
        }
        take_disruption(&mut budget, pod, (call.engine.clock)())?;
        if dry_run {
            return Ok(());
        }
        let value = serde_json::to_vec(&budget).expect("a tree is JSON").into();
        let put = Op::Put { key: entry.key.clone(), value, lease: None };
        let result = call.backend().txn(guarded(&entry, put)).await.map_err(errors::from_store)?;
        if matches!(result.results.first(), Some(OpResult::Put { .. })) {
            return Ok(());
        }
    }
    Err(write::lost_race(call))
}

/// A pod that is not ready does not serve, so evicting it disrupts nothing where the budget is met or says so.
fn is_unhealthy_and_free(pod: &Value, budget: &Value) -> bool {
    let ready = pod["status"]["conditions"].as_array().into_iter().flatten();
    if ready.clone().any(|c| c["type"] == "Ready" && c["status"] == "True") {
        return false;
    }
    let count = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let met = count("currentHealthy") >= count("desiredHealthy") && count("desiredHealthy") > 0;
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || met
}

/// Counts an eviction against the budget, or says 429.
fn take_disruption(budget: &mut Value, pod: &Value, now: jiff::Timestamp) -> Result<()> {
    let refuse = |detail: String| {
        let mut status = Status::too_many_requests(
            "Cannot evict pod as it would violate the pod's disruption budget.",
            BUDGET_RETRY_SECONDS,
        );
        if let Some(details) = &mut status.details {
            details.retry_after_seconds = 0;
        }
        status.add_cause("DisruptionBudget", &detail, "");
        Box::new(status)
    };
    let name = budget["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let generation = budget["metadata"]["generation"].as_i64().unwrap_or(0);
    if budget["status"]["observedGeneration"].as_i64().unwrap_or(0) < generation {
        let mut status = Status::too_many_requests(
            "Cannot evict pod as it would violate the pod's disruption budget.",
            BUDGET_RETRY_SECONDS,
        );
        status.add_cause(
            "DisruptionBudget",
            &format!("The disruption budget {name} is still being processed by the server."),
            "",
        );
        return Err(status.into());
    }
    let count = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let (allowed, healthy, desired) = (count("disruptionsAllowed"), count("currentHealthy"), count("desiredHealthy"));
    if allowed <= 0 {
        return Err(refuse(format!(
            "The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
        )));
    }
    budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
    let pod = pod["metadata"]["name"].as_str().unwrap_or_default();
    strategy::child(&mut budget["status"], "disruptedPods")
        .insert(pod.into(), now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into());
    Ok(())
}

/// Where a kind keeps its replicas: JSON pointers of the desired and the counted number and of the selector.
struct ScalePaths {
    spec: String,
    status: String,
    selector: Option<String>,
}

impl ScalePaths {
    fn of(call: &Call<'_>) -> Self {
        match call.resource.custom.as_ref().and_then(|c| c.scale.as_ref()) {
            Some(scale) => Self {
                spec: scale.spec_replicas.clone(),
                status: scale.status_replicas.clone(),
                selector: scale.label_selector.clone(),
            },
            None => Self { spec: "/spec/replicas".into(), status: "/status/replicas".into(), selector: None },
        }
    }
}

/// `scale` of an object, as `autoscaling/v1`.
fn scale_of(paths: &ScalePaths, object: &Value, version: store::Revision) -> Value {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let mut meta = json!({"resourceVersion": version.to_string()});
    for key in ["name", "namespace", "uid", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(key) {
            meta[key] = value.clone();
        }
    }
    let mut status = json!({"replicas": number(&paths.status)});
    let selector = match &paths.selector {
        Some(pointer) => object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned(),
        None => selector_text(&object["spec"]["selector"]),
    };
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    let mut spec = json!({});
    if let Some(replicas) = object.pointer(&paths.spec).filter(|r| r.as_i64() != Some(0)) {
        spec["replicas"] = replicas.clone();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta, "spec": spec, "status": status})
}

/// A selector as its text; a ReplicationController's is a plain map.
fn selector_text(selector: &Value) -> String {
    let plain = selector.as_object().is_some_and(|s| s.values().all(Value::is_string));
    let parsed = if plain {
        let labels =
            selector.as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default()));
        api::selector::LabelSelector::from_set(labels)
    } else {
        api::selector::LabelSelector::from_json(selector).unwrap_or_else(|_| api::selector::LabelSelector::nothing())
    };
    parsed.to_string()
}

/// GET, PUT and PATCH of `scale`.
pub async fn scale(call: &Call<'_>) -> Result<Response<Body>> {
    let paths = ScalePaths::of(call);
    let mut write = Write::new(call, "UpdateOptions")?;
    write.scope = Scope::Main;
    let name = &call.info().name;
    for _ in 0..RACE_ATTEMPTS {
        let found = served::get(call, &call.key()).await?;
        let entry = found.ok_or_else(|| call.not_found(name))?;
        let object = write::parse(call, &entry)?;
        let now = scale_of(&paths, &object, entry.mod_revision);
        let mut wanted = match call.info().verb {
            crate::Verb::Get => return Ok(output::plain(call, StatusCode::OK, &now)),
            crate::Verb::Patch => super::patch::scale(call, &now)?,
            _ => foreign_body(call)?,
        };
        write.warnings = admit(&write, Operation::Update, &mut wanted, Some(&now)).await?;
        let mut new = object.clone();
        set_replicas(&mut new, &paths.spec, &wanted)?;
        let said = &wanted["metadata"]["resourceVersion"];
        if said.as_str().is_some_and(|v| !v.is_empty() && *said != now["metadata"]["resourceVersion"]) {
            return Err(write::lost_race(call));
        }
        let outcome = write.replace(&entry, &object, new, false).await?;
        let after = match outcome {
            None => continue,
            Some(Outcome::Stored(entry)) => scale_of(&paths, &write::parse(call, &entry)?, entry.mod_revision),
            Some(Outcome::DryRun(new)) => scale_of(&paths, &new, entry.mod_revision),
            Some(Outcome::Deleted(_, revision)) => scale_of(&paths, &object, revision),
        };
        return Ok(output::with_warnings(output::plain(call, StatusCode::OK, &after), &write.warnings));
    }
    Err(write::lost_race(call))
}

fn set_replicas(object: &mut Value, pointer: &str, scale: &Value) -> Result<()> {
    let replicas = match &scale["spec"]["replicas"] {
        Value::Null => 0,
        value => value.as_i64().ok_or_else(|| Status::bad_request("spec.replicas must be an integer"))?,
    };
    if replicas < 0 {
        let kind = api::GroupKind { group: "autoscaling".into(), kind: "Scale".into() };
        let error = api::validate::FieldError {
            field: "spec.replicas".into(),
            reason: api::validate::Reason::Invalid,
            value: Some(replicas.into()),
            detail: "must be greater than or equal to 0".into(),
        };
        let name = scale["metadata"]["name"].as_str().unwrap_or_default();
        return Err(Status::invalid(&kind, name, &[error]).into());
    }
    let mut at = object;
    let steps: Vec<&str> = pointer.split('/').skip(1).collect();
    let Some((last, way)) = steps.split_last() else { return Ok(()) };
    for step in way {
        strategy::child(at, step);
        at = &mut at[*step];
    }
    at[*last] = replicas.into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_shows_replicas_and_selector() {
        let object = json!({
            "metadata": {"name": "d", "namespace": "n"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}}, "status": {"replicas": 2},
        });
        let paths = ScalePaths { spec: "/spec/replicas".into(), status: "/status/replicas".into(), selector: None };
        let scale = scale_of(&paths, &object, store::Revision::from_u64(7));
        assert_eq!(scale["spec"], json!({"replicas": 3}));
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "a=b"}));
        let mut new = object.clone();
        set_replicas(&mut new, "/spec/replicas", &json!({"spec": {"replicas": 5}})).unwrap();
        assert_eq!(new["spec"]["replicas"], 5);
        assert!(set_replicas(&mut new, "/spec/replicas", &json!({"spec": {"replicas": -1}})).is_err());
    }

    #[test]
    fn an_evicted_pod_says_so_once() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let ready = json!({"type": "Ready", "status": "True"});
        let old = json!({"type": "DisruptionTarget", "status": "False"});
        let pod = with_disruption(json!({"status": {"conditions": [old, ready]}}), now);
        let conditions = pod["status"]["conditions"].as_array().unwrap();
        assert_eq!((conditions.len(), &conditions[0]), (2, &ready));
        assert_eq!(conditions[1]["reason"], "EvictionByEvictionAPI");
        assert_eq!(with_disruption(json!({}), now)["status"]["conditions"][0]["status"], "True");
    }

    #[test]
    fn a_budget_is_spent_and_then_refuses() {
        let mut budget = json!({"metadata": {"name": "b"}, "status": {"disruptionsAllowed": 1, "desiredHealthy": 2, "currentHealthy": 3}});
        let pod = json!({"metadata": {"name": "p"}});
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        take_disruption(&mut budget, &pod, now).unwrap();
        assert_eq!(budget["status"]["disruptedPods"]["p"], "2026-01-01T00:00:00Z");
        let refused = take_disruption(&mut budget, &pod, now).unwrap_err();
        assert_eq!(refused.code, 429);
        assert_eq!(
            refused.details.unwrap().causes[0].message,
            "The disruption budget b needs 2 healthy pods and has 3 currently"
        );
    }
}
