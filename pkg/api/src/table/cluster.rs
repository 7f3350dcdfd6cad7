//! Nodes, namespaces and the small kinds of the core.
use super::text::{age, count, has_condition, int, list, name, scalar, since, str_of, str_or};
use super::workloads::counted;
use serde_json::Value;
use std::collections::BTreeSet;

pub(super) fn node(o: &Value, now: i64) -> Vec<Value> {
    let info = &o["status"]["nodeInfo"];
    let mut kernel = str_or(&info["kernelVersion"], "<unknown>").to_owned();
    if let Some(architecture) = info["architecture"].as_str() {
        kernel = format!("{kernel} ({architecture})");
    }
    vec![
        name(o),
        node_status(o).into(),
        roles(&o["metadata"]["labels"]).into(),
        age(o, now),
        str_of(&info["kubeletVersion"]).into(),
        address(o, "InternalIP").into(),
        address(o, "ExternalIP").into(),
        str_or(&info["osImage"], "<unknown>").into(),
        kernel.into(),
        str_or(&info["containerRuntimeVersion"], "<unknown>").into(),
    ]
}

fn node_status(o: &Value) -> String {
    let conditions = &o["status"]["conditions"];
    let known = list(conditions).iter().any(|c| c["type"] == "Ready");
    let ready = match (known, has_condition(conditions, "Ready")) {
        (true, true) => "Ready",
        (true, false) => "NotReady",
        (false, _) => "Unknown",
    };
    if o["spec"]["unschedulable"] == true { format!("{ready},SchedulingDisabled") } else { ready.into() }
}

fn roles(labels: &Value) -> String {
    let role = |(key, value): (&String, &Value)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) => Some(role.to_owned()),
        None if key == "kubernetes.io/role" => value.as_str().map(str::to_owned),
        None => None,
    };
    let roles: BTreeSet<String> =
        labels.as_object().into_iter().flatten().filter_map(role).filter(|role| !role.is_empty()).collect();
    if roles.is_empty() { "<none>".into() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

fn address<'v>(o: &'v Value, ty: &str) -> &'v str {
    let found = list(&o["status"]["addresses"]).iter().find(|a| a["type"] == ty);
    found.map_or("<none>", |a| str_of(&a["address"]))
}

pub(super) fn namespace(o: &Value, now: i64) -> Vec<Value> {
    vec![name(o), str_of(&o["status"]["phase"]).into(), age(o, now)]
}

pub(super) fn config_map(o: &Value, now: i64) -> Vec<Value> {
    vec![name(o), (count(&o["data"]) + count(&o["binaryData"])).into(), age(o, now)]
}

pub(super) fn secret(o: &Value, now: i64) -> Vec<Value> {
    let [name, count, age] = <[Value; 3]>::try_from(counted(o, &o["data"], now)).unwrap_or_default();
    vec![name, str_of(&o["type"]).into(), count, age]
}

pub(super) fn name_and_age(o: &Value, now: i64) -> Vec<Value> {
    vec![name(o), age(o, now)]
}

pub(super) fn lease(o: &Value, now: i64) -> Vec<Value> {
    vec![name(o), str_of(&o["spec"]["holderIdentity"]).into(), age(o, now)]
}

pub(super) fn priority_class(o: &Value, now: i64) -> Vec<Value> {
    let global = o["globalDefault"] == true;
    vec![name(o), int(&o["value"]).into(), global.into(), age(o, now), str_of(&o["preemptionPolicy"]).into()]
}

pub(super) fn runtime_class(o: &Value, now: i64) -> Vec<Value> {
    vec![name(o), str_of(&o["handler"]).into(), age(o, now)]
}

pub(super) fn component_status(o: &Value, _: i64) -> Vec<Value> {
    let Some(healthy) = list(&o["conditions"]).iter().find(|c| c["type"] == "Healthy") else {
        return vec![name(o), "Unknown".into(), "".into(), "".into()];
    };
    let status = if healthy["status"] == "True" { "Healthy" } else { "Unhealthy" };
    vec![name(o), status.into(), str_of(&healthy["message"]).into(), str_of(&healthy["error"]).into()]
}

pub(super) fn resource_quota(o: &Value, now: i64) -> Vec<Value> {
    let (hard, used) = (&o["status"]["hard"], &o["status"]["used"]);
    let shown = |limits: bool| {
        let of_kind = hard.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("limits.") == limits);
        let texts: Vec<String> = of_kind
            .map(|(name, hard)| {
                let used = used.get(name).map_or_else(|| "0".into(), scalar);
                format!("{name}: {used}/{}", scalar(hard))
            })
            .collect();
        Value::from(texts.join(", "))
    };
    vec![name(o), shown(false), shown(true), age(o, now)]
}

/// An APIService that the server serves itself is `Local`.
pub(super) fn api_service(o: &Value, now: i64) -> Vec<Value> {
    let service = &o["spec"]["service"];
    let target = if service.is_null() {
        "Local".to_owned()
    } else {
        format!("{}/{}", str_of(&service["namespace"]), str_of(&service["name"]))
    };
    let available = match list(&o["status"]["conditions"]).iter().find(|c| c["type"] == "Available") {
        Some(c) if c["status"] == "True" => "True".to_owned(),
        Some(c) if !str_of(&c["reason"]).is_empty() => format!("{} ({})", str_of(&c["status"]), str_of(&c["reason"])),
        Some(c) => str_of(&c["status"]).to_owned(),
        None => "Unknown".to_owned(),
    };
    vec![name(o), target.into(), available.into(), age(o, now)]
}

/// Both APIs' events: they differ in names only.
pub(super) fn event(o: &Value, now: i64) -> Vec<Value> {
    let either = |core: &str, events: &str| o.get(core).or_else(|| o.get(events)).unwrap_or(&Value::Null);
    let (first, last) = event_times(o, now);
    let series = &o["series"];
    let count = match (series.is_null(), int(either("count", "deprecatedCount"))) {
        (false, _) => int(&series["count"]),
        (true, 0) => 1,
        (true, count) => count,
    };
    let about = either("involvedObject", "regarding");
    let kind = str_of(&about["kind"]).to_lowercase();
    let target = match str_of(&about["name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        last.into(),
        str_of(&o["type"]).into(),
        str_of(&o["reason"]).into(),
        target.into(),
        str_of(&about["fieldPath"]).into(),
        event_source(o).into(),
        str_of(either("message", "note")).trim().into(),
        first.into(),
        count.into(),
        name(o),
    ]
}

fn event_times(o: &Value, now: i64) -> (String, String) {
    let ago = |keys: &[&str]| {
        let found = keys.iter().map(|key| &o[*key]).find(|time| !time.is_null());
        found.map(|time| since(time, now))
    };
    let unknown = || "<unknown>".to_owned();
    let first = ago(&["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"]).unwrap_or_else(unknown);
    let last = if o["series"].is_null() {
        ago(&["lastTimestamp", "deprecatedLastTimestamp"]).unwrap_or_else(|| first.clone())
    } else {
        since(&o["series"]["lastObservedTime"], now)
    };
    (first, last)
}

fn event_source(o: &Value) -> String {
    let source = o.get("source").or_else(|| o.get("deprecatedSource")).unwrap_or(&Value::Null);
    let component =
        str_or(&source["component"], str_or(&o["reportingComponent"], str_of(&o["reportingController"]))).to_owned();
    match str_or(&source["host"], str_of(&o["reportingInstance"])) {
        "" => component,
        instance => format!("{component}, {instance}"),
    }
}
