//! Who may do what, and in which order.
use super::text::{age, count, human_duration, int, list, name, selector, str_of, str_or};
use super::workloads::counted;
use serde_json::Value;

pub(super) fn role_binding(o: &Value, now: i64) -> Vec<Value> {
    let subjects = |kind: &str| {
        let of_kind = list(&o["subjects"]).iter().filter(|s| s["kind"] == kind);
        let text = of_kind.map(|s| match kind {
            "ServiceAccount" => format!("{}/{}", str_of(&s["namespace"]), str_of(&s["name"])),
            _ => str_of(&s["name"]).to_owned(),
        });
        Value::from(text.collect::<Vec<_>>().join(", "))
    };
    let role = &o["roleRef"];
    vec![
        name(o),
        format!("{}/{}", str_of(&role["kind"]), str_of(&role["name"])).into(),
        age(o, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

pub(super) fn signing_request(o: &Value, now: i64) -> Vec<Value> {
    let spec = &o["spec"];
    vec![
        name(o),
        age(o, now),
        str_or(&spec["signerName"], "<none>").into(),
        str_of(&spec["username"]).into(),
        spec["expirationSeconds"].as_i64().map_or_else(|| "<none>".into(), human_duration).into(),
        signing_status(&o["status"]).into(),
    ]
}

fn signing_status(status: &Value) -> String {
    let has = |ty: &str| list(&status["conditions"]).iter().any(|c| c["type"] == ty);
    let mut text = if has("Denied") {
        "Denied".to_owned()
    } else if has("Approved") {
        "Approved".to_owned()
    } else {
        "Pending".to_owned()
    };
    if has("Failed") {
        text += ",Failed";
    }
    if !str_of(&status["certificate"]).is_empty() {
        text += ",Issued";
    }
    text
}

pub(super) fn flow_schema(o: &Value, now: i64) -> Vec<Value> {
    let spec = &o["spec"];
    let dangling = list(&o["status"]["conditions"]).iter().find(|c| c["type"] == "Dangling");
    vec![
        name(o),
        str_of(&spec["priorityLevelConfiguration"]["name"]).into(),
        int(&spec["matchingPrecedence"]).into(),
        str_or(&spec["distinguisherMethod"]["type"], "<none>").into(),
        age(o, now),
        dangling.map_or("?", |c| str_of(&c["status"])).into(),
    ]
}

pub(super) fn priority_level(o: &Value, now: i64) -> Vec<Value> {
    let limited = &o["spec"]["limited"];
    let queuing = &limited["limitResponse"]["queuing"];
    let or_none = |present: &Value, value: &Value| {
        if present.is_null() { "<none>".into() } else { Value::from(int(value)) }
    };
    vec![
        name(o),
        str_of(&o["spec"]["type"]).into(),
        or_none(limited, &limited["nominalConcurrencyShares"]),
        or_none(queuing, &queuing["queues"]),
        or_none(queuing, &queuing["handSize"]),
        or_none(queuing, &queuing["queueLengthLimit"]),
        age(o, now),
    ]
}

pub(super) fn webhooks(o: &Value, now: i64) -> Vec<Value> {
    counted(o, &o["webhooks"], now)
}

pub(super) fn policy(o: &Value, now: i64) -> Vec<Value> {
    let spec = &o["spec"];
    let kind = &spec["paramKind"];
    let kind = if kind.is_null() {
        "<unset>".to_owned()
    } else {
        format!("{}/{}", str_of(&kind["apiVersion"]), str_of(&kind["kind"]))
    };
    let rules = count(&spec["validations"]) + count(&spec["mutations"]);
    vec![name(o), rules.into(), kind.into(), age(o, now)]
}

pub(super) fn policy_binding(o: &Value, now: i64) -> Vec<Value> {
    let reference = &o["spec"]["paramRef"];
    let parameter = match (str_of(&reference["name"]), str_or(&reference["namespace"], "*")) {
        ("", _) if reference["selector"].is_null() => "<unset>".to_owned(),
        ("", _) => selector(&reference["selector"]),
        (name, namespace) => format!("{namespace}/{name}"),
    };
    vec![name(o), str_of(&o["spec"]["policyName"]).into(), parameter.into(), age(o, now)]
}
