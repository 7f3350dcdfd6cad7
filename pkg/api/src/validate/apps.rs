//! Workloads whose pods run for ever.
use super::field::{Errors, Path, Tree, same};
use super::selector::Workload;
use super::{names, pod, selector, storage};
use serde_json::{Value, json};

/// `maxSurge`, `maxUnavailable`: a number or a percentage. Its value, for comparing with nothing.
pub(super) fn int_or_percent(errors: &mut Errors, path: &Path<'_>, value: &Value) -> i64 {
    match value {
        Value::String(text) => match names::percent(text) {
            Ok(value) => value,
            Err(message) => {
                errors.invalid(path, value.clone(), message);
                0
            }
        },
        number => {
            errors.not_negative(path, number.as_i64());
            number.as_i64().unwrap_or(0)
        }
    }
}

pub fn not_above_whole(errors: &mut Errors, path: &Path<'_>, value: &Value) {
    if let Value::String(text) = value
        && names::percent(text).is_ok_and(|percent| percent > 100)
    {
        errors.invalid(path, value.clone(), "must not be greater than 100%");
    }
}

pub fn deployment(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    errors.none_negative(path, spec, &["replicas"]);
    selector::workload_selector(errors, path, spec, Workload::Deployment);
    pod::always_template(errors, &path.child("template"), &spec["template"], "ReplicaSet");
    let (strategy, at) = (&spec["strategy"], path.child("strategy"));
    match strategy.text("type") {
        "Recreate" if strategy.has("rollingUpdate") => {
            errors.forbidden(&at.child("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" => rolling_update(errors, &at.child("rollingUpdate"), &strategy["rollingUpdate"]),
        _ => errors.unsupported_as(&at, "apps.DeploymentStrategy", strategy, &["Recreate", "RollingUpdate"]),
    }
    errors.none_negative(path, spec, &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"]);
    let ready = spec.int("minReadySeconds").unwrap_or(0);
    if let Some(deadline) = spec.int("progressDeadlineSeconds").filter(|deadline| *deadline <= ready) {
        let at = path.child("progressDeadlineSeconds");
        errors.invalid(&at, deadline, "must be greater than minReadySeconds");
    }
}

fn rolling_update(errors: &mut Errors, path: &Path<'_>, rolling: &Value) {
    if rolling.is_null() {
        return errors.required(path, "this should be defaulted and never be nil");
    }
    let (down, up) = (path.child("maxUnavailable"), path.child("maxSurge"));
    let unavailable = int_or_percent(errors, &down, &rolling["maxUnavailable"]);
    let surge = int_or_percent(errors, &up, &rolling["maxSurge"]);
    if unavailable == 0 && surge == 0 {
        errors.invalid(&down, rolling["maxUnavailable"].clone(), "may not be 0 when `maxSurge` is 0");
    }
    not_above_whole(errors, &down, &rolling["maxUnavailable"]);
}

pub fn replica_set(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    errors.none_negative(path, spec, &["replicas", "minReadySeconds"]);
    // Upstream says "deployment" here, too.
    selector::workload_selector(errors, path, spec, Workload::Deployment);
    pod::always_template(errors, &path.child("template"), &spec["template"], "ReplicaSet");
}

pub fn replication_controller(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    errors.none_negative(path, spec, &["minReadySeconds"]);
    if spec.count("selector") == 0 {
        errors.required(&path.child("selector"), "");
    }
    errors.none_negative(path, spec, &["replicas"]);
    if !spec.has("template") {
        return errors.required(&path.child("template"), "");
    }
    let labels = &spec["template"]["metadata"]["labels"];
    if spec.entries("selector").any(|(key, value)| labels.get(key) != Some(value)) {
        let template = path.child("template");
        let at = template.child("metadata");
        errors.invalid(&at.child("labels"), labels.clone(), "`selector` does not match template `labels`");
    }
    pod::always_template(errors, &path.child("template"), &spec["template"], "ReplicationController");
}

pub fn daemon_set(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    selector::workload_selector(errors, path, spec, Workload::DaemonSet);
    pod::always_template(errors, &path.child("template"), &spec["template"], "DaemonSet");
    errors.none_negative(path, spec, &["minReadySeconds", "revisionHistoryLimit"]);
    let (strategy, at) = (&spec["updateStrategy"], path.child("updateStrategy"));
    match strategy.text("type") {
        "OnDelete" => {}
        "RollingUpdate" => daemon_update(errors, &at.child("rollingUpdate"), &strategy["rollingUpdate"]),
        _ => errors.unsupported(&at, strategy.clone(), &["RollingUpdate", "OnDelete"]),
    }
}

fn daemon_update(errors: &mut Errors, path: &Path<'_>, rolling: &Value) {
    if rolling.is_null() {
        return errors.required(path, "");
    }
    let (down, up) = (path.child("maxUnavailable"), path.child("maxSurge"));
    let unavailable = int_or_percent(errors, &down, &rolling["maxUnavailable"]);
    let surge = int_or_percent(errors, &up, &rolling["maxSurge"]);
    not_above_whole(errors, &down, &rolling["maxUnavailable"]);
    not_above_whole(errors, &up, &rolling["maxSurge"]);
    match (unavailable != 0, surge != 0) {
        (true, true) => {
            errors.invalid(&up, rolling["maxSurge"].clone(), "may not be set when maxUnavailable is non-zero");
        }
        (false, false) => errors.required(&down, "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}

pub fn stateful_set(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    match spec.text("podManagementPolicy") {
        "" => errors.required(&path.child("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => {}
        other => errors.invalid(&path.child("podManagementPolicy"), other, "must be 'OrderedReady' or 'Parallel'"),
    }
    stateful_strategy(errors, &path.child("updateStrategy"), &spec["updateStrategy"]);
    let retention = &spec["persistentVolumeClaimRetentionPolicy"];
    for name in ["whenDeleted", "whenScaled"].iter().filter(|_| !retention.is_null()) {
        let at = path.child("persistentVolumeClaimRetentionPolicy");
        if !["Retain", "Delete"].contains(&retention.text(name)) {
            errors.unsupported(&at.child(name), retention.text(name), &["Retain", "Delete"]);
        }
    }
    let templates = path.child("volumeClaimTemplates");
    for (i, claim) in spec.list("volumeClaimTemplates").iter().enumerate() {
        storage::claim(errors, &templates.index(i).child("spec"), &claim["spec"]);
    }
    errors.none_negative(path, spec, &["replicas", "minReadySeconds"]);
    errors.not_negative(&path.child("ordinals.start"), spec["ordinals"].int("start"));
    let service = spec.text("serviceName");
    if !service.is_empty() {
        errors.each(&path.child("serviceName"), service, names::dns_label(service));
    }
    selector::workload_selector(errors, path, spec, Workload::StatefulSet);
    let template = with_claims(spec);
    pod::always_template(errors, &path.child("template"), &template, "StatefulSet");
}

fn stateful_strategy(errors: &mut Errors, path: &Path<'_>, strategy: &Value) {
    let rolling = &strategy["rollingUpdate"];
    match strategy.text("type") {
        "" => errors.required(path, ""),
        "OnDelete" if !rolling.is_null() => {
            let text = "only allowed for updateStrategy 'RollingUpdate'";
            errors.invalid_as(&path.child("rollingUpdate"), "apps.RollingUpdateStatefulSetStrategy", rolling, text);
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            let at = path.child("rollingUpdate");
            errors.none_negative(&at, rolling, &["partition"]);
            if rolling.has("maxUnavailable") {
                let (at, value) = (at.child("maxUnavailable"), &rolling["maxUnavailable"]);
                if int_or_percent(errors, &at, value) == 0 {
                    errors.invalid(&at, value.clone(), "cannot be 0");
                }
                not_above_whole(errors, &at, value);
            }
        }
        _ => {
            let text = "must be 'RollingUpdate' or 'OnDelete'";
            errors.invalid_as(path, "apps.StatefulSetUpdateStrategy", strategy, text);
        }
    }
}

/// The template as its pods will be: each claim template is a volume.
fn with_claims(spec: &Value) -> Value {
    let mut template = spec["template"].clone();
    let claims: Vec<&str> = spec.list("volumeClaimTemplates").iter().map(|c| c["metadata"].text("name")).collect();
    if claims.is_empty() {
        return template;
    }
    let own = template["spec"].list("volumes").iter().filter(|volume| !claims.contains(&volume.text("name"))).cloned();
    let named = claims.iter().map(|name| json!({ "name": name, "persistentVolumeClaim": { "claimName": name } }));
    let volumes: Vec<Value> = named.chain(own).collect();
    template["spec"]["volumes"] = volumes.into();
    template
}

const STATEFUL_MUTABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

pub fn stateful_set_update(errors: &mut Errors, new: &Value, old: &Value) {
    let fixed = |object: &Value| {
        let mut spec = object["spec"].clone();
        if let Value::Object(fields) = &mut spec {
            fields.retain(|name, _| !STATEFUL_MUTABLE.contains(&name.as_str()));
        }
        spec
    };
    if !same(&fixed(new), &fixed(old)) {
        errors.forbidden(
            &Path::field("spec"),
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}
