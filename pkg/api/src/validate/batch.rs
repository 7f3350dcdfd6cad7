//! Jobs and CronJobs.
use super::classes::{PREFIXED_PATH, is_prefixed_path};
use super::field::{Errors, IMMUTABLE, Path, Tree, same};
use super::shown::internal_pod_spec;
use super::{names, pod, selector};
use crate::selector::LabelSelector;
use serde_json::{Value, json};

/// A Job's pods are named after it with an ending of this many characters.
const CRON_NAME_MAX: usize = 52;
const MAX_INDEXED: i64 = 100_000;
const MAX_RULES: usize = 20;
const MANAGED_BY_MAX_BYTES: usize = 63;

pub fn job(errors: &mut Errors, object: &Value) {
    let (path, spec) = (Path::field("spec"), &object["spec"]);
    job_spec(errors, &path, spec);
    if !spec.has("selector") {
        errors.required(&path.child("selector"), "");
    } else {
        selector::label_selector(errors, &path.child("selector"), &spec["selector"]);
        if let Ok(parsed) = LabelSelector::from_json(&spec["selector"]) {
            generated(errors, &path.child("selector"), object, &parsed);
            selector::matches_template(errors, &path, spec, &parsed);
        }
    }
    let completions = spec.int("completions").unwrap_or(0);
    if spec.text("completionMode") == "Indexed" && completions > 0 {
        let name = object["metadata"].text("name");
        let last = format!("{name}-{}", completions - 1);
        if !names::dns_label(&last).is_empty() {
            let text = format!("will not able to create pod with invalid DNS label: {last}");
            errors.invalid(&Path::field("metadata").child("name"), name, text);
        }
    }
}

/// A selector that is not the job's own choice selects by what the server gave its pods.
fn generated(errors: &mut Errors, path: &Path<'_>, object: &Value, selector: &LabelSelector) {
    let (meta, spec) = (&object["metadata"], &object["spec"]);
    if spec.flag("manualSelector") || !meta.has("uid") {
        return;
    }
    let labels = json!({
        "controller-uid": meta["uid"], "job-name": meta["name"],
        "batch.kubernetes.io/controller-uid": meta["uid"], "batch.kubernetes.io/job-name": meta["name"],
    });
    if !selector.matches(&labels) {
        errors.invalid(path, spec["selector"].clone(), "`selector` not auto-generated");
    }
}

const COUNTS: &[&str] = &[
    "parallelism",
    "completions",
    "activeDeadlineSeconds",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
];

fn job_spec(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    errors.none_negative(path, spec, COUNTS);
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    mode(errors, path, spec);
    failure_policy(errors, &path.child("podFailurePolicy"), spec);
    replacement(errors, &path.child("podReplacementPolicy"), spec);
    managed_by(errors, &path.child("managedBy"), spec);
    pod::template(errors, &path.child("template"), &spec["template"]);
    restart_policy(errors, path, spec);
}

fn mode(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let mode = spec.text("completionMode");
    if !mode.is_empty() && !["NonIndexed", "Indexed"].contains(&mode) {
        errors.unsupported(&path.child("completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    if mode == "Indexed" {
        if !spec.has("completions") {
            errors.required(&path.child("completions"), "when completion mode is Indexed");
        }
        if let Some(count) = spec.int("parallelism").filter(|count| *count > MAX_INDEXED) {
            let text = format!("must be less than or equal to {MAX_INDEXED} when completion mode is Indexed");
            errors.invalid(&path.child("parallelism"), count, text);
        }
        if let (Some(failed), Some(all)) = (spec.int("maxFailedIndexes"), spec.int("completions"))
            && failed > all
        {
            let text = "must be less than or equal to completions";
            errors.invalid(&path.child("maxFailedIndexes"), failed, text);
        }
        return;
    }
    for name in ["backoffLimitPerIndex", "maxFailedIndexes"].iter().filter(|name| spec.has(name)) {
        errors.invalid(&path.child(name), spec[*name].clone(), "requires indexed completion mode");
    }
    if spec.has("successPolicy") {
        let (at, text) = (path.child("successPolicy"), "requires indexed completion mode");
        errors.invalid_as(&at, "batch.SuccessPolicy", &spec["successPolicy"], text);
    }
}

fn failure_policy(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let rules = path.child("rules");
    let list = spec["podFailurePolicy"].list("rules");
    if list.len() > MAX_RULES {
        errors.too_many(&rules, list.len(), MAX_RULES);
    }
    let actions = &["Count", "FailIndex", "FailJob", "Ignore"];
    for (i, rule) in list.iter().enumerate() {
        let at = rules.index(i);
        match rule.text("action") {
            "" => errors.required(&at.child("action"), r#"valid values: ["Count" "FailIndex" "FailJob" "Ignore"]"#),
            "FailIndex" if !spec.has("backoffLimitPerIndex") => {
                errors.invalid(&at.child("action"), "FailIndex", "requires the backoffLimitPerIndex to be set");
            }
            action if !actions.contains(&action) => errors.unsupported(&at.child("action"), action, actions),
            _ => {}
        }
        let codes = &rule["onExitCodes"];
        if !codes.is_null() {
            errors.one_of(&at.child("onExitCodes").child("operator"), codes.text("operator"), &["In", "NotIn"]);
        }
        match (!codes.is_null(), rule.count("onPodConditions") > 0) {
            (true, true) => {
                errors.invalid_whole(&at, "specifying both OnExitCodes and OnPodConditions is not supported");
            }
            (false, false) => {
                errors.invalid_whole(&at, "specifying one of OnExitCodes and OnPodConditions is required");
            }
            _ => {}
        }
    }
}

/// The controller that works on the job in our controller's place.
fn managed_by(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let name = spec.text("managedBy");
    if !spec.has("managedBy") {
        return;
    }
    if name.is_empty() {
        errors.required(path, "");
    } else if !is_prefixed_path(name) {
        errors.invalid(path, name, PREFIXED_PATH);
    }
    if name.len() > MANAGED_BY_MAX_BYTES {
        errors.too_long(path, MANAGED_BY_MAX_BYTES);
    }
}

fn replacement(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let value = spec.text("podReplacementPolicy");
    let allowed: &[&str] = if spec.has("podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    errors.maybe_one_of(path, value, allowed);
}

fn restart_policy(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let template = path.child("template");
    let pod = template.child("spec");
    let at = pod.child("restartPolicy");
    match spec["template"]["spec"].text("restartPolicy") {
        "Always" | "" => errors.required(&at, r#"valid values: "OnFailure", "Never""#),
        "OnFailure" if spec.has("podFailurePolicy") => {
            errors.invalid(&at, "OnFailure", r#"only "Never" is supported when podFailurePolicy is specified"#);
        }
        "OnFailure" | "Never" => {}
        other => errors.unsupported(&at, other, &["OnFailure", "Never"]),
    }
}

pub fn job_update(errors: &mut Errors, path: &Path<'_>, new: &Value, old: &Value) {
    if new.text("completionMode") != "Indexed" {
        errors.all_immutable(path, new, old, &["completions"]);
    } else if new["completions"] != old["completions"] && new["completions"] != new["parallelism"] {
        let text = "can only be modified in tandem with spec.parallelism";
        errors.invalid(&path.child("completions"), new["completions"].clone(), text);
    }
    let fixed =
        ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"];
    errors.all_immutable(path, new, old, &fixed);
    if !same(&fixed_template(new, old), &fixed_template(old, old)) {
        let (at, template) = (path.child("template"), &new["template"]);
        if old.flag("suspend") {
            // Resources may change then, and so upstream looks at the spec alone.
            errors.invalid_as(&at.child("spec"), "core.PodSpec", &internal_pod_spec(&template["spec"]), IMMUTABLE);
        } else {
            let mut shown = template.clone();
            shown["spec"] = internal_pod_spec(&template["spec"]);
            errors.invalid_as(&at, "core.PodTemplateSpec", &shown, IMMUTABLE);
        }
    }
}

/// A suspended Job's template may still be told where to run and with how much.
fn fixed_template(spec: &Value, old: &Value) -> Value {
    let mut template = spec["template"].clone();
    if !old.flag("suspend") {
        return template;
    }
    if let Some(meta) = template["metadata"].as_object_mut() {
        meta.retain(|name, _| name != "labels" && name != "annotations");
    }
    let Some(pod) = template["spec"].as_object_mut() else { return template };
    pod.retain(|name, _| !["nodeSelector", "tolerations", "schedulingGates"].contains(&name.as_str()));
    if let Some(Value::Object(affinity)) = pod.get_mut("affinity") {
        affinity.remove("nodeAffinity");
    }
    for list in ["containers", "initContainers"] {
        let containers = pod.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        containers.filter_map(Value::as_object_mut).for_each(|container| drop(container.remove("resources")));
    }
    template
}

pub fn cron_job_name(errors: &mut Errors, object: &Value) {
    let name = object["metadata"].text("name");
    if name.len() > CRON_NAME_MAX {
        let text = format!("must be no more than {CRON_NAME_MAX} characters");
        errors.invalid(&Path::field("metadata").child("name"), name, text);
    }
}

pub fn cron_job(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    schedule(errors, &path.child("schedule"), spec.text("schedule"));
    errors.none_negative(path, spec, &["startingDeadlineSeconds"]);
    time_zone(errors, &path.child("timeZone"), spec);
    let policies = &["Allow", "Forbid", "Replace"];
    errors.one_of(&path.child("concurrencyPolicy"), spec.text("concurrencyPolicy"), policies);
    let (template, job) = (path.child("jobTemplate"), &spec["jobTemplate"]["spec"]);
    let at = template.child("spec");
    job_spec(errors, &at, job);
    if job.has("selector") {
        errors.invalid(&at.child("selector"), job["selector"].clone(), "`selector` will be auto-generated");
    }
    if job.flag("manualSelector") {
        errors.unsupported(&at.child("manualSelector"), true, &["nil", "false"]);
    }
    errors.none_negative(path, spec, &["successfulJobsHistoryLimit", "failedJobsHistoryLimit"]);
}

const TZ: &str = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";

fn schedule(errors: &mut Errors, path: &Path<'_>, schedule: &str) {
    if schedule.is_empty() {
        return errors.required(path, "");
    }
    if schedule.contains("TZ") {
        return errors.invalid(path, schedule, TZ);
    }
    if let Err(text) = check_schedule(schedule) {
        errors.invalid(path, schedule, text);
    }
}

/// The five fields of a schedule: name, least and greatest number, names of numbers.
const FIELDS: &[(u32, u32, &[&str])] = &[
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];
const DESCRIPTORS: &[&str] = &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// The standard cron format, with the texts of `github.com/robfig/cron`.
fn check_schedule(schedule: &str) -> Result<(), String> {
    if schedule.starts_with('@') {
        let every = schedule.strip_prefix("@every ");
        return match every.is_some_and(|text| !text.is_empty()) || DESCRIPTORS.contains(&schedule) {
            true => Ok(()),
            false => Err(format!("unrecognized descriptor: {schedule}")),
        };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        let quoted: Vec<String> = fields.iter().map(ToString::to_string).collect();
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), quoted.join(" ")));
    }
    fields
        .iter()
        .zip(FIELDS)
        .try_for_each(|(text, field)| text.split(',').try_for_each(|part| check_range(part, field)))
}

/// `*`, `?`, `3`, `1-5`, each with a step after a slash.
fn check_range(part: &str, (low, high, words): &(u32, u32, &[&str])) -> Result<(), String> {
    let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    if step.is_some_and(|step| step.contains('/')) {
        return Err(format!("too many slashes: {part}"));
    }
    let number = |text: &str| {
        let word = words.iter().position(|word| word.eq_ignore_ascii_case(text));
        let first_word = if words.len() == 12 { 1 } else { 0 };
        word.map(|at| at as u32 + first_word)
            .or_else(|| text.parse().ok())
            .ok_or_else(|| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
    };
    let (start, end) = match range {
        "*" | "?" => (*low, *high),
        _ => match range.split_once('-') {
            Some((_, end)) if end.contains('-') => return Err(format!("too many hyphens: {part}")),
            Some((start, end)) => (number(start)?, number(end)?),
            None => (number(range)?, if step.is_some() { *high } else { number(range)? }),
        },
    };
    if start < *low {
        return Err(format!("beginning of range ({start}) below minimum ({low}): {part}"));
    }
    if end > *high {
        return Err(format!("end of range ({end}) above maximum ({high}): {part}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {part}"));
    }
    match step.map(number).transpose()? {
        Some(0) => Err(format!("step of range should be a positive number: {part}")),
        _ => Ok(()),
    }
}

fn time_zone(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    if !spec.has("timeZone") {
        return;
    }
    let zone = spec.text("timeZone");
    let good = |part: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+');
        !part.is_empty() && part.len() <= 14 && part.bytes().all(allowed) && !part.starts_with('-') && part != ".."
    };
    if zone.is_empty() {
        errors.invalid(path, zone, "timeZone must be nil or non-empty string");
    } else if zone.eq_ignore_ascii_case("Local") {
        let text = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(path, zone, text);
    } else if !zone.split('/').all(good) || jiff::tz::TimeZone::get(zone).is_err() {
        errors.invalid(path, zone, format!("unknown time zone {zone}"));
    }
}

#[cfg(test)]
mod tests {
    use super::check_schedule;

    #[test]
    fn schedules() {
        for good in ["*/5 * * * *", "0 3 1-15/2 jan-mar mon,fri", "@hourly", "@every 1h30m", "? ? ? ? ?"] {
            assert_eq!(check_schedule(good), Ok(()), "{good}");
        }
        assert_eq!(check_schedule("* * * *").unwrap_err(), "expected exactly 5 fields, found 4: [* * * *]");
        assert_eq!(check_schedule("60 * * * *").unwrap_err(), "end of range (60) above maximum (59): 60");
        assert!(check_schedule("x * * * *").unwrap_err().starts_with("failed to parse int from x"));
    }
}
