//! Deletes: at once, after a grace period, or when the last finalizer is gone
//! (`k8s.io/apiserver/pkg/registry/generic/registry` and `pkg/registry/rest/delete.go`).
use super::list;
use super::params::{self, ListOptions};
use super::write::{self, RACE_ATTEMPTS, guarded};
use super::{Call, Result, errors, media, output, served};
use crate::Body;
use crate::admission::{self, Attributes, Charge, Operation};
use crate::alloc::book::book;
use crate::registry::custom::names;
use crate::registry::strategy;
use api::Status;
use api::status::Details;
use api::validate::{FieldError, Reason};
use futures::StreamExt;
use futures::future::BoxFuture;
use http::{Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use store::{Entry, Op, OpResult, Revision};

/// Objects of a collection that are deleted at once: they share the store's syncs.
const COLLECTION_WORKERS: usize = 32;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// `metav1.DeleteOptions`, from the body or the query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub propagation: Option<Propagation>,
    pub dry_run: bool,
}

/// What happens to dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

impl DeleteOptions {
    /// A body, where there is one, overrides the query.
    ///
    /// # Errors
    /// 400 for a body that is no DeleteOptions, 422 for values that don't exist.
    fn parse(call: &Call<'_>) -> Result<Self> {
        let request = call.request;
        let text = if request.body.is_empty() {
            Self::query(call)?
        } else {
            let json = media::to_json(&request.body, media::body_format(&request.headers)?)?;
            serde_json::from_slice(&json)
                .map_err(|e| Status::bad_request(format!("error decoding delete options: {e}")))?
        };
        Self::from_value(&text)
    }

    fn query(call: &Call<'_>) -> Result<Value> {
        let info = call.info();
        let mut out = json!({});
        if let Some(text) = info.param("gracePeriodSeconds").filter(|t| !t.is_empty()) {
            let seconds: i64 = text
                .parse()
                .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))?;
            out["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(policy) = info.param("propagationPolicy") {
            out["propagationPolicy"] = policy.into();
        }
        if let Some(orphan) = params::flag(info, "orphanDependents") {
            out["orphanDependents"] = orphan.into();
        }
        let dry: Vec<&str> = info.query.iter().filter(|(k, _)| k == "dryRun").map(|(_, v)| v.as_str()).collect();
        if !dry.is_empty() {
            out["dryRun"] = json!(dry);
        }
        Ok(out)
    }

    /// Options inside another object, checked like a body (`ValidateDeleteOptions`).
    pub fn from_value(options: &Value) -> Result<Self> {
        let mut errors = Vec::new();
        let dry = options["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let dry_run = params::dry_run(dry, &mut errors);
        let orphan = options["orphanDependents"].as_bool();
        let policy = options["propagationPolicy"].as_str();
        let mut wrong = |reason, value: Option<&str>, detail: &str| {
            let field = "propagationPolicy".into();
            errors.push(FieldError { field, reason, value: value.map(Into::into), detail: detail.into() });
        };
        if orphan.is_some() && policy.is_some() {
            wrong(Reason::Invalid, policy, "orphanDependents and deletionPropagation cannot be both set");
        }
        let propagation = match (policy, orphan) {
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (Some(other), _) => {
                wrong(
                    Reason::NotSupported,
                    Some(other),
                    "supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
                );
                None
            }
            (None, None) => None,
        };
        if !errors.is_empty() {
            return Err(params::invalid_options("DeleteOptions", &errors));
        }
        let text = |key: &str| options["preconditions"][key].as_str().map(Into::into);
        Ok(Self {
            grace_period_seconds: options["gracePeriodSeconds"].as_i64(),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            propagation,
            dry_run,
        })
    }
}

impl DeleteOptions {
    /// As reviews show them.
    fn to_value(&self) -> Value {
        let mut value = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if let Some(seconds) = self.grace_period_seconds {
            value["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(policy) = self.propagation {
            value["propagationPolicy"] = format!("{policy:?}").into();
        }
        for (key, text) in [("uid", &self.uid), ("resourceVersion", &self.resource_version)] {
            if let Some(text) = text {
                value["preconditions"][key] = text.clone().into();
            }
        }
        if self.dry_run {
            value["dryRun"] = json!(["All"]);
        }
        value
    }
}

/// What a delete does to an object right now.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Nothing: it is on its way out already.
    Pending,
    /// It becomes this and goes later.
    Mark(Box<Value>),
    Remove,
}

/// What the kind says about deletes.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub graceful: bool,
    pub orphans: bool,
    pub collectable: bool,
    /// Finalizers in `spec` count too, and the phase shows the deletion.
    pub namespace: bool,
    /// Its objects go first (CustomResourceDefinitions).
    pub definition: bool,
}

/// Plans the delete of `live` at `now`.
pub fn plan(live: &Value, options: &DeleteOptions, rules: Rules, now: jiff::Timestamp) -> Step {
    let mut new = live.clone();
    if rules.definition && !live["metadata"]["deletionTimestamp"].is_string() {
        terminate(&mut new, now);
        return Step::Mark(Box::new(new));
    }
    let graceful = match grace(&mut new, options, rules, now) {
        Grace::Pending => return Step::Pending,
        Grace::Wait(seconds) => Some(seconds),
        Grace::None => None,
    };
    let finalizers = finalizers(live, options, rules);
    let meta = strategy::child(&mut new, "metadata");
    if finalizers.is_empty() {
        meta.remove("finalizers");
    } else {
        meta.insert("finalizers".into(), json!(finalizers));
    }
    let content = rules.namespace && new["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    let held = !finalizers.is_empty() || content;
    match graceful {
        None if !held => return Step::Remove,
        None => mark(&mut new, now),
        Some(0) if !held => return Step::Remove,
        Some(_) => {}
    }
    if rules.namespace {
        new["status"]["phase"] = "Terminating".into();
    }
    Step::Mark(Box::new(new))
}

/// Upstream's first step of a definition's delete: no grace period, no new generation.
fn terminate(definition: &mut Value, now: jiff::Timestamp) {
    let meta = strategy::child(definition, "metadata");
    meta.insert("deletionTimestamp".into(), now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into());
    let finalizers = meta.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(all) = finalizers.as_array_mut().filter(|all| !all.iter().any(|f| f == names::CLEANUP)) {
        all.push(names::CLEANUP.into());
    }
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    names::condition(definition, "Terminating", true, "InstanceDeletionPending", message, &now);
}

enum Grace {
    /// No grace period, or it is over.
    None,
    Wait(i64),
    Pending,
}

/// Sets the deletion's time and period on an object that has a grace period; shortens one that runs.
fn grace(new: &mut Value, options: &DeleteOptions, rules: Rules, now: jiff::Timestamp) -> Grace {
    if !rules.graceful {
        return Grace::None;
    }
    let asked = options.grace_period_seconds.map(|s| if s < 0 { 1 } else { s });
    let started: Option<jiff::Timestamp> = new["metadata"]["deletionTimestamp"].as_str().and_then(|t| t.parse().ok());
    if let Some(deadline) = started {
        let running = new["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        return match asked {
            _ if running == 0 => Grace::None,
            Some(asked) if asked < running => shorten(new, deadline, running, asked, now),
            _ => Grace::Pending,
        };
    }
    let period = period(new, asked);
    set_deadline(new, add(now, period), period);
    bump(new);
    Grace::Wait(period)
}

/// The period of a pod: none where no node has it or nothing runs any more.
fn period(pod: &Value, asked: Option<i64>) -> i64 {
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(0);
    let scheduled = pod["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty());
    let over = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
    match asked.unwrap_or(own) {
        _ if !scheduled || over => 0,
        negative if negative < 0 => 1,
        period => period,
    }
}

fn shorten(new: &mut Value, deadline: jiff::Timestamp, running: i64, asked: i64, now: jiff::Timestamp) -> Grace {
    let moved = add(add(deadline, -running), asked);
    let (deadline, period) = if moved < now { (now, if asked == 0 { 0 } else { 1 }) } else { (moved, asked) };
    set_deadline(new, deadline, period);
    Grace::Wait(period)
}

fn add(time: jiff::Timestamp, seconds: i64) -> jiff::Timestamp {
    time.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(jiff::Timestamp::MAX)
}

fn set_deadline(object: &mut Value, deadline: jiff::Timestamp, period: i64) {
    let meta = strategy::child(object, "metadata");
    meta.insert("deletionTimestamp".into(), deadline.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into());
    meta.insert("deletionGracePeriodSeconds".into(), period.into());
}

fn bump(object: &mut Value) {
    if let Some(generation) = object["metadata"]["generation"].as_i64().filter(|&g| g > 0) {
        object["metadata"]["generation"] = (generation + 1).into();
    }
}

/// Marks an object that only waits for its finalizers.
fn mark(object: &mut Value, now: jiff::Timestamp) {
    if !object["metadata"]["deletionTimestamp"].is_string() {
        bump(object);
        set_deadline(object, now, 0);
    }
    object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
}

/// The finalizers after the options' policy for dependents.
fn finalizers(live: &Value, options: &DeleteOptions, rules: Rules) -> Vec<String> {
    let before: Vec<&str> =
        live["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let has = |f: &str| before.contains(&f);
    let policy = options.propagation.or(match () {
        () if has(ORPHAN) => Some(Propagation::Orphan),
        () if has(FOREGROUND) => Some(Propagation::Foreground),
        () if rules.orphans => Some(Propagation::Orphan),
        () => None,
    });
    let mut after: Vec<String> =
        before.iter().filter(|f| ![ORPHAN, FOREGROUND].contains(f)).map(|&f| f.into()).collect();
    match policy.filter(|_| rules.collectable) {
        Some(Propagation::Orphan) => after.push(ORPHAN.into()),
        Some(Propagation::Foreground) => after.push(FOREGROUND.into()),
        _ => {}
    }
    after
}

/// What became of one object.
pub enum Deleted {
    /// It is gone; shown as it last was, at the deletion's revision.
    Gone(Arc<Entry>, Revision),
    /// It goes later.
    Later(Arc<Entry>),
    /// Would be gone or marked.
    DryRun(Arc<Entry>, Option<Box<Value>>),
}

/// DELETE of one object.
pub async fn delete(call: &Call<'_>) -> Result<Response<Body>> {
    let options = DeleteOptions::parse(call)?;
    let mut warnings = Vec::new();
    let deleted = delete_named(call, call.namespace(), &call.info().name, &options, &mut warnings).await?;
    Ok(output::with_warnings(respond(call, deleted), &warnings))
}

/// Deletes one object of the call's resource, once admission agrees; it may have warnings.
pub async fn delete_named(
    call: &Call<'_>,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
    warnings: &mut Vec<String>,
) -> Result<Deleted> {
    let key = call.resource.key(namespace, name);
    for _ in 0..RACE_ATTEMPTS {
        let found = served::get(call, &key).await?;
        let entry = found.ok_or_else(|| call.not_found(name))?;
        let live = write::parse(call, &entry)?;
        check_preconditions(call, name, &entry, &live, options)?;
        admit(call, name, &entry, &live, options, warnings).await?;
        let step = plan(&live, options, rules(call), (call.engine.clock)());
        if options.dry_run {
            let marked = if let Step::Mark(new) = step { Some(new) } else { None };
            return Ok(Deleted::DryRun(entry, marked));
        }
        if let Some(deleted) = execute(call, entry, &live, step).await? {
            return Ok(deleted);
        }
    }
    let gvr = &call.resource.gvr;
    Err(Status::modified(&gvr.group, &gvr.resource, name).into())
}

async fn admit(
    call: &Call<'_>,
    name: &str,
    entry: &Entry,
    live: &Value,
    options: &DeleteOptions,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let mut attributes = Attributes::new(call, Operation::Delete).named(name).at(entry.mod_revision);
    (attributes.options, attributes.dry_run) = (options.to_value(), options.dry_run);
    if !call.sub().is_empty() {
        // An eviction was admitted as such.
        return admission::check(&attributes, None, Some(live));
    }
    let admitted = call.engine.admission.admit(&attributes, None, Some(live)).await;
    warnings.extend(attributes.take_warnings());
    admitted
}

fn rules(call: &Call<'_>) -> Rules {
    let strategy = &call.resource.strategy;
    Rules {
        graceful: strategy.graceful,
        orphans: strategy.orphans,
        collectable: strategy.collectable,
        namespace: call.resource.kind == "Namespace" && call.resource.gvr.group.is_empty(),
        definition: call.resource.kind == "CustomResourceDefinition" && call.resource.custom.is_none(),
    }
}

/// None: somebody else was faster.
async fn execute(call: &Call<'_>, entry: Arc<Entry>, live: &Value, step: Step) -> Result<Option<Deleted>> {
    let op = match step {
        Step::Pending => return Ok(Some(Deleted::Later(entry))),
        Step::Mark(new) if *new == *live => return Ok(Some(Deleted::Later(entry))),
        Step::Mark(new) => {
            let stored = served::stored(call, *new).await?;
            let value = serde_json::to_vec(&stored).expect("a tree is JSON").into();
            Op::Put { key: entry.key.clone(), value, lease: entry.lease }
        }
        Step::Remove => Op::Delete { key: entry.key.clone() },
    };
    let removes = matches!(op, Op::Delete { .. });
    let mut txn = guarded(&entry, op);
    let charge = if removes {
        call.engine.admission.charge(&Attributes::new(call, Operation::Delete), None, Some(live)).await?
    } else {
        Charge::default()
    };
    charge.join(&mut txn);
    if removes && call.is_service() {
        let Ok(booking) = book(call.backend(), None, Some(live), "").await.map_err(errors::from_store)? else {
            return Ok(None);
        };
        booking.join(&mut txn);
    }
    let result = call.backend().txn(txn).await.map_err(errors::from_store)?;
    Ok(match result.results.into_iter().next() {
        Some(OpResult::Put { entry, .. }) => Some(Deleted::Later(served::written(call, entry).await?)),
        Some(OpResult::Delete { .. }) => {
            call.engine.removed(call, live);
            Some(Deleted::Gone(entry, result.revision))
        }
        _ => None,
    })
}

fn check_preconditions(
    call: &Call<'_>,
    name: &str,
    entry: &Entry,
    live: &Value,
    options: &DeleteOptions,
) -> Result<()> {
    let (gvr, kind) = (&call.resource.gvr, &call.resource.kind);
    let uid = live["metadata"]["uid"].as_str().unwrap_or_default();
    let version = entry.mod_revision.to_string();
    let why = match (&options.uid, &options.resource_version) {
        (Some(wanted), _) if wanted != uid => format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been \
             deleted and then recreated"
        ),
        (_, Some(wanted)) if *wanted != version => format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). \
             The object might have been modified"
        ),
        _ => return Ok(()),
    };
    Err(Status::conflict(&gvr.group, kind, name, &why).into())
}

fn respond(call: &Call<'_>, deleted: Deleted) -> Response<Body> {
    let shows_object = call.resource.strategy.returns_deleted;
    match deleted {
        Deleted::Later(entry) => output::entry(call, StatusCode::OK, &entry, &[]),
        Deleted::DryRun(_, Some(marked)) => output::value(call, StatusCode::OK, *marked, &[]),
        Deleted::Gone(entry, revision) if shows_object => {
            output::at_revision(call, StatusCode::OK, &entry, revision, &[])
        }
        Deleted::DryRun(entry, None) if shows_object => output::entry(call, StatusCode::OK, &entry, &[]),
        Deleted::Gone(entry, _) | Deleted::DryRun(entry, None) => output::status(call, &success(call, &entry)),
    }
}

fn success(call: &Call<'_>, entry: &Entry) -> Status {
    let gvr = &call.resource.gvr;
    let name = call.resource.parse_key(&entry.key).map_or("", |(_, name)| name);
    Status::success(Some(Details {
        name: name.into(),
        group: gvr.group.clone(),
        kind: gvr.resource.clone(),
        uid: entry.summary.uid.to_string(),
        ..Details::default()
    }))
}

/// DELETE of a collection: each matching object by the rules of a single delete; answers with the list of what
/// was deleted.
pub async fn delete_collection(call: &Call<'_>) -> Result<Response<Body>> {
    let options = DeleteOptions::parse(call)?;
    let selection = ListOptions::parse(call.info(), &call.resource)?;
    let found = list::find(call, &selection).await?;
    let warnings = Mutex::default();
    let mut deletes: Vec<BoxFuture<'_, Result<()>>> = Vec::with_capacity(found.entries.len());
    for entry in &found.entries {
        deletes.push(Box::pin(delete_member(call, entry, &options, &warnings)));
    }
    let mut deletes = futures::stream::iter(deletes).buffer_unordered(COLLECTION_WORKERS);
    while let Some(deleted) = deletes.next().await {
        deleted?;
    }
    drop(deletes);
    Ok(output::with_warnings(list::render(call, found), &warnings.into_inner()))
}

/// One of a collection; it may be gone already.
async fn delete_member(
    call: &Call<'_>,
    entry: &Entry,
    options: &DeleteOptions,
    warnings: &Mutex<Vec<String>>,
) -> Result<()> {
    let Some((namespace, name)) = call.resource.parse_key(&entry.key) else { return Ok(()) };
    let mut own = Vec::new();
    let deleted = delete_named(call, namespace, name, options, &mut own).await;
    warnings.lock().extend(own);
    match deleted {
        Err(status) if status.code != 404 => Err(status),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: Rules = Rules { graceful: true, orphans: false, collectable: true, namespace: false, definition: false };
    const PLAIN: Rules = Rules { graceful: false, ..POD };

    fn now() -> jiff::Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn pod() -> Value {
        json!({"metadata": {"name": "p", "generation": 1}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}})
    }

    fn marked(step: Step) -> Value {
        match step {
            Step::Mark(new) => *new,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_running_pod_gets_its_grace_period_once() {
        let new = marked(plan(&pod(), &DeleteOptions::default(), POD, now()));
        assert_eq!(new["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
        assert_eq!(new["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(new["metadata"]["generation"], 2);
        assert_eq!(plan(&new, &DeleteOptions::default(), POD, now()), Step::Pending);
        let shorter = DeleteOptions { grace_period_seconds: Some(5), ..Default::default() };
        let sooner = marked(plan(&new, &shorter, POD, now()));
        assert_eq!(sooner["metadata"]["deletionTimestamp"], "2026-01-01T00:00:05Z");
        assert_eq!(sooner["metadata"]["generation"], 2);
        let force = DeleteOptions { grace_period_seconds: Some(0), ..Default::default() };
        assert_eq!(plan(&new, &force, POD, now()), Step::Remove);
    }

    #[test]
    fn a_pod_without_a_node_goes_at_once() {
        let mut pod = pod();
        pod["spec"]["nodeName"] = "".into();
        assert_eq!(plan(&pod, &DeleteOptions::default(), POD, now()), Step::Remove);
        pod["metadata"]["finalizers"] = json!(["x/y"]);
        let new = marked(plan(&pod, &DeleteOptions::default(), POD, now()));
        assert_eq!(new["metadata"]["deletionGracePeriodSeconds"], 0);
    }

    #[test]
    fn finalizers_hold_an_object() {
        let held = json!({"metadata": {"name": "c", "finalizers": ["a/b"], "generation": 4}});
        let new = marked(plan(&held, &DeleteOptions::default(), PLAIN, now()));
        assert_eq!(new["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
        assert_eq!(new["metadata"]["generation"], 5);
        assert_eq!(marked(plan(&new, &DeleteOptions::default(), PLAIN, now())), new);
    }

    #[test]
    fn policies_become_finalizers() {
        let object = json!({"metadata": {"name": "c"}});
        let with = |propagation| DeleteOptions { propagation: Some(propagation), ..Default::default() };
        let new = marked(plan(&object, &with(Propagation::Foreground), PLAIN, now()));
        assert_eq!(new["metadata"]["finalizers"], json!(["foregroundDeletion"]));
        let new = marked(plan(&object, &with(Propagation::Orphan), PLAIN, now()));
        assert_eq!(new["metadata"]["finalizers"], json!(["orphan"]));
        assert_eq!(plan(&object, &with(Propagation::Background), PLAIN, now()), Step::Remove);
        let orphaning = Rules { orphans: true, ..PLAIN };
        assert_eq!(
            marked(plan(&object, &DeleteOptions::default(), orphaning, now()))["metadata"]["finalizers"],
            json!(["orphan"])
        );
    }

    #[test]
    fn a_namespace_terminates_until_its_content_is_gone() {
        let rules = Rules { namespace: true, ..PLAIN };
        let mut namespace =
            json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let new = marked(plan(&namespace, &DeleteOptions::default(), rules, now()));
        assert_eq!(new["status"]["phase"], "Terminating");
        namespace["spec"]["finalizers"] = json!([]);
        assert_eq!(plan(&namespace, &DeleteOptions::default(), rules, now()), Step::Remove);
    }
}
