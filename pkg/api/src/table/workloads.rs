//! What runs pods, and what bounds it.
use super::text::{
    age, containers, count, has_condition, human_duration, int, labels, list, name, scalar, seconds, selector, since,
    str_of, str_or,
};
use serde_json::Value;

pub(super) fn pod_template(o: &Value, _: i64) -> Vec<Value> {
    let [names, images] = containers(&o["template"]["spec"]);
    vec![name(o), names, images, labels(&o["template"]["metadata"]["labels"]).into()]
}

pub(super) fn replication_controller(o: &Value, now: i64) -> Vec<Value> {
    replicas(o, now, labels(&o["spec"]["selector"]))
}

pub(super) fn replica_set(o: &Value, now: i64) -> Vec<Value> {
    replicas(o, now, selector(&o["spec"]["selector"]))
}

fn replicas(o: &Value, now: i64, selector: String) -> Vec<Value> {
    let [names, images] = containers(&o["spec"]["template"]["spec"]);
    let status = &o["status"];
    vec![
        name(o),
        int(&o["spec"]["replicas"]).into(),
        int(&status["replicas"]).into(),
        int(&status["readyReplicas"]).into(),
        age(o, now),
        names,
        images,
        selector.into(),
    ]
}

pub(super) fn deployment(o: &Value, now: i64) -> Vec<Value> {
    let [names, images] = containers(&o["spec"]["template"]["spec"]);
    let status = &o["status"];
    // Unlike the others this one prints an empty selector as nothing.
    let selector = Some(selector(&o["spec"]["selector"])).filter(|s| s != "<none>").unwrap_or_default();
    vec![
        name(o),
        format!("{}/{}", int(&status["readyReplicas"]), int(&o["spec"]["replicas"])).into(),
        int(&status["updatedReplicas"]).into(),
        int(&status["availableReplicas"]).into(),
        age(o, now),
        names,
        images,
        selector.into(),
    ]
}

pub(super) fn stateful_set(o: &Value, now: i64) -> Vec<Value> {
    let [names, images] = containers(&o["spec"]["template"]["spec"]);
    let ready = format!("{}/{}", int(&o["status"]["readyReplicas"]), int(&o["spec"]["replicas"]));
    vec![name(o), ready.into(), age(o, now), names, images]
}

pub(super) fn daemon_set(o: &Value, now: i64) -> Vec<Value> {
    let pod_spec = &o["spec"]["template"]["spec"];
    let [names, images] = containers(pod_spec);
    let number = |key: &str| Value::from(int(&o["status"][key]));
    vec![
        name(o),
        number("desiredNumberScheduled"),
        number("currentNumberScheduled"),
        number("numberReady"),
        number("updatedNumberScheduled"),
        number("numberAvailable"),
        labels(&pod_spec["nodeSelector"]).into(),
        age(o, now),
        names,
        images,
        selector(&o["spec"]["selector"]).into(),
    ]
}

pub(super) fn controller_revision(o: &Value, now: i64) -> Vec<Value> {
    let owners = list(&o["metadata"]["ownerReferences"]);
    let controller = owners.iter().find(|owner| owner["controller"] == true).map(|owner| {
        let kind = str_of(&owner["kind"]).to_lowercase();
        let kind = match str_of(&owner["apiVersion"]).split_once('/') {
            Some((group, _)) => format!("{kind}.{group}"),
            None => kind,
        };
        format!("{kind}/{}", str_of(&owner["name"]))
    });
    vec![name(o), controller.unwrap_or_else(|| "<none>".into()).into(), int(&o["revision"]).into(), age(o, now)]
}

pub(super) fn job(o: &Value, now: i64) -> Vec<Value> {
    let [names, images] = containers(&o["spec"]["template"]["spec"]);
    vec![
        name(o),
        job_status(o).into(),
        job_completions(o).into(),
        job_duration(&o["status"], now).into(),
        age(o, now),
        names,
        images,
        selector(&o["spec"]["selector"]).into(),
    ]
}

fn job_status(o: &Value) -> &'static str {
    let has = |ty: &str| has_condition(&o["status"]["conditions"], ty);
    if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if !o["metadata"]["deletionTimestamp"].is_null() {
        "Terminating"
    } else {
        ["Suspended", "FailureTarget", "SuccessCriteriaMet"].into_iter().find(|ty| has(ty)).unwrap_or("Running")
    }
}

fn job_completions(o: &Value) -> String {
    let succeeded = int(&o["status"]["succeeded"]);
    match (o["spec"]["completions"].as_i64(), int(&o["spec"]["parallelism"])) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        _ => format!("{succeeded}/1"),
    }
}

fn job_duration(status: &Value, now: i64) -> String {
    let end = seconds(&status["completionTime"]).unwrap_or(now);
    seconds(&status["startTime"]).map(|start| human_duration(end - start)).unwrap_or_default()
}

pub(super) fn cron_job(o: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let job = &spec["jobTemplate"]["spec"];
    let [names, images] = containers(&job["template"]["spec"]);
    let last = &status["lastScheduleTime"];
    let suspend = match spec["suspend"].as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    vec![
        name(o),
        spec["schedule"].clone(),
        str_or(&spec["timeZone"], "<none>").into(),
        suspend.into(),
        list(&status["active"]).len().into(),
        if last.is_null() { "<none>".into() } else { since(last, now).into() },
        age(o, now),
        names,
        images,
        selector(&job["selector"]).into(),
    ]
}

pub(super) fn scale(o: &Value, now: i64) -> Vec<Value> {
    vec![name(o), int(&o["spec"]["replicas"]).into(), int(&o["status"]["replicas"]).into(), age(o, now)]
}

pub(super) fn pod_disruption_budget(o: &Value, now: i64) -> Vec<Value> {
    let or_none = |value: &Value| if value.is_null() { "N/A".to_owned() } else { scalar(value) };
    vec![
        name(o),
        or_none(&o["spec"]["minAvailable"]).into(),
        or_none(&o["spec"]["maxUnavailable"]).into(),
        int(&o["status"]["disruptionsAllowed"]).into(),
        age(o, now),
    ]
}

pub(super) fn horizontal_pod_autoscaler(o: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let target = &spec["scaleTargetRef"];
    let min = spec["minReplicas"].as_i64().map_or_else(|| "<unset>".into(), |min| min.to_string());
    vec![
        name(o),
        format!("{}/{}", str_of(&target["kind"]), str_of(&target["name"])).into(),
        metrics(spec, status).into(),
        min.into(),
        int(&spec["maxReplicas"]).into(),
        int(&status["currentReplicas"]).into(),
        age(o, now),
    ]
}

/// At most two metrics as `current/target`.
fn metrics(spec: &Value, status: &Value) -> String {
    let statuses = list(&status["currentMetrics"]);
    let mut texts: Vec<String> = (list(&spec["metrics"]).iter().enumerate())
        .map(|(i, metric)| metric_text(metric, statuses.get(i).unwrap_or(&Value::Null)))
        .collect();
    // autoscaling/v1 knows one metric only.
    if let Some(target) = spec["targetCPUUtilizationPercentage"].as_i64() {
        let current = percent(&status["currentCPUUtilizationPercentage"], "<unknown>");
        texts.push(format!("cpu: {current}/{target}%"));
    }
    match texts.len() {
        0 => "<none>".into(),
        1 | 2 => texts.join(", "),
        n => format!("{} + {} more...", texts[..2].join(", "), n - 2),
    }
}

fn metric_text(metric: &Value, status: &Value) -> String {
    let (key, named) = match str_of(&metric["type"]) {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".into(),
    };
    let (source, current) = (&metric[key], &status[key]["current"]);
    let target = &source["target"];
    let known = |value: &Value| if value.is_null() { "<unknown>".into() } else { scalar(value) };
    let text = if !target["averageValue"].is_null() {
        let suffix = if matches!(key, "external" | "object") { " (avg)" } else { "" };
        format!("{}/{}{suffix}", known(&current["averageValue"]), scalar(&target["averageValue"]))
    } else if named {
        let current = percent(&current["averageUtilization"], "<unknown>");
        format!("{current}/{}", percent(&target["averageUtilization"], "<auto>"))
    } else {
        format!("{}/{}", known(&current["value"]), known(&target["value"]))
    };
    if named { format!("{}: {text}", str_of(&source["name"])) } else { text }
}

fn percent(value: &Value, absent: &str) -> String {
    value.as_i64().map_or_else(|| absent.into(), |n| format!("{n}%"))
}

/// Used by kinds that print how many entries they have.
pub(super) fn counted(o: &Value, entries: &Value, now: i64) -> Vec<Value> {
    vec![name(o), count(entries).into(), age(o, now)]
}
