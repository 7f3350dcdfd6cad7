//! Strategies of jobs, daemon sets and signing requests.
use super::{Context, child, restore};
use serde_json::{Map, Value, json};

/// Labels and selector that no other job has, unless the job chose its own (`manualSelector`).
pub fn create_job(job: &mut Value, _: &Context<'_>) {
    let manual = child(job, "spec").entry("manualSelector").or_insert(false.into());
    if *manual == true {
        return;
    }
    let (name, uid) = (job["metadata"]["name"].clone(), job["metadata"]["uid"].clone());
    let spec = child(job, "spec");
    let template = spec.entry("template").or_insert_with(|| json!({}));
    child(template, "metadata");
    let labels = child(&mut template["metadata"], "labels");
    for (key, value) in [("job-name", &name), ("controller-uid", &uid)] {
        for key in [key.to_owned(), format!("batch.kubernetes.io/{key}")] {
            labels.entry(key).or_insert_with(|| value.clone());
        }
    }
    let selector = spec.entry("selector").or_insert_with(|| json!({}));
    child(selector, "matchLabels").entry("batch.kubernetes.io/controller-uid").or_insert(uid);
    // A job without labels has its template's.
    let labels = template_labels(job);
    let own = child(&mut job["metadata"], "labels");
    if own.is_empty() {
        *own = labels;
    }
}

fn template_labels(job: &Value) -> Map<String, Value> {
    job["spec"]["template"]["metadata"]["labels"].as_object().cloned().unwrap_or_default()
}

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// In `apps/v1` the template's generation is an annotation.
pub fn create_daemon_set(object: &mut Value, _: &Context<'_>) {
    child(&mut object["metadata"], "annotations").insert(TEMPLATE_GENERATION.into(), "1".into());
}

pub fn update_daemon_set(new: &mut Value, old: &Value, _: &Context<'_>) {
    let before: u64 =
        old["metadata"]["annotations"][TEMPLATE_GENERATION].as_str().and_then(|t| t.parse().ok()).unwrap_or(1);
    let changed = new["spec"]["template"] != old["spec"]["template"];
    let after = before + u64::from(changed);
    child(&mut new["metadata"], "annotations").insert(TEMPLATE_GENERATION.into(), after.to_string().into());
}

/// Coordinated leader election is an alpha feature: its fields are dropped, as where it is off.
pub fn create_lease(object: &mut Value, _: &Context<'_>) {
    for field in ["strategy", "preferredHolder"] {
        child(object, "spec").remove(field);
    }
}

pub fn update_lease(new: &mut Value, _: &Value, context: &Context<'_>) {
    create_lease(new, context);
}

/// Who asks is what authentication found, never what the body says.
pub fn create_signing_request(object: &mut Value, context: &Context<'_>) {
    let user = context.user;
    let spec = child(object, "spec");
    for (key, value) in [
        ("username", json!(user.name)),
        ("uid", json!(user.uid)),
        ("groups", json!(user.groups)),
        ("extra", json!(user.extra)),
    ] {
        spec.remove(key);
        let empty = value.as_str() == Some("") || value.as_object().is_some_and(serde_json::Map::is_empty);
        if !empty {
            spec.insert(key.into(), value);
        }
    }
}

pub fn update_signing_request(new: &mut Value, old: &Value, _: &Context<'_>) {
    restore(new, old, "spec");
}

/// Approval and denial come through `approval` only.
pub fn update_signing_request_status(new: &mut Value, old: &Value, context: &Context<'_>) {
    restore(new, old, "spec");
    let decided = |c: &&Value| matches!(c["type"].as_str(), Some("Approved" | "Denied"));
    let empty = Vec::new();
    let kept = old["status"]["conditions"].as_array().unwrap_or(&empty).iter().filter(decided).cloned();
    let given = new["status"]["conditions"].as_array().unwrap_or(&empty).iter();
    let conditions: Vec<Value> = kept.chain(given.filter(|c| !decided(c)).cloned()).collect();
    child(new, "status").insert("conditions".into(), conditions.into());
    stamp_conditions(new, old, context.now);
}

/// `approval` decides, and signs nothing.
pub fn decide_signing_request(new: &mut Value, old: &Value, context: &Context<'_>) {
    let conditions = new["status"]["conditions"].take();
    restore(new, old, "status");
    if !conditions.is_null() {
        child(new, "status").insert("conditions".into(), conditions);
    }
    stamp_conditions(new, old, context.now);
}

/// Times of conditions that came without; what was true before has been since then.
fn stamp_conditions(request: &mut Value, old: &Value, now: &str) {
    let before = old["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    for condition in request["status"]["conditions"].as_array_mut().into_iter().flatten() {
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = now.into();
        }
        if condition["lastTransitionTime"].is_null() {
            let same = before.iter().find(|c| c["type"] == condition["type"] && c["status"] == condition["status"]);
            let since = same.map(|c| c["lastTransitionTime"].clone()).filter(|time| !time.is_null());
            condition["lastTransitionTime"] = since.unwrap_or_else(|| now.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_selects_its_own_pods() {
        let mut job =
            json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"metadata": {"labels": {"a": "b"}}}}});
        let user = crate::User::default();
        create_job(&mut job, &Context { user: &user, now: "" });
        assert_eq!(
            job["spec"]["template"]["metadata"]["labels"],
            json!({"a": "b", "job-name": "j", "batch.kubernetes.io/job-name": "j", "controller-uid": "u", "batch.kubernetes.io/controller-uid": "u"})
        );
        assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}));
    }

    #[test]
    fn an_approval_brings_no_certificate() {
        let old =
            json!({"status": {"conditions": [{"type": "Approved", "status": "True", "lastTransitionTime": "then"}]}});
        let mut new =
            json!({"status": {"certificate": "mine", "conditions": [{"type": "Approved", "status": "True"}]}});
        let user = crate::User::default();
        decide_signing_request(&mut new, &old, &Context { user: &user, now: "now" });
        let stamped =
            json!({"type": "Approved", "status": "True", "lastTransitionTime": "then", "lastUpdateTime": "now"});
        assert_eq!(new, json!({"status": {"conditions": [stamped]}}));
    }

    #[test]
    fn the_requester_is_the_caller() {
        let mut request = json!({"spec": {"username": "root", "groups": ["system:masters"]}});
        let user = crate::User { name: "me".into(), groups: vec!["g".into()], ..Default::default() };
        create_signing_request(&mut request, &Context { user: &user, now: "" });
        assert_eq!(request["spec"], json!({"username": "me", "groups": ["g"]}));
    }
}
