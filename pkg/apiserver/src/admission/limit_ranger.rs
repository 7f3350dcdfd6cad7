//! LimitRanger: what a namespace's LimitRanges give to containers that ask for nothing, and refuse to those that
//! ask for too much (`plugin/pkg/admission/limitranger`).
use super::{Attributes, Operation, cache};
use crate::engine::{Result, from_store};
use crate::registry::strategy::child;
use api::quantity::Quantity;
use api::quota::{Amounts, pod_amounts, read};
use serde_json::Value;
use store::Range;

/// Tells which amounts were given.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// Up to here, thousandths are compared; beyond, whole units (`resource.MaxMilliValue`).
const MAX_MILLI: i64 = i64::MAX / 1000;

/// The LimitRanges that are about this request.
async fn ranges(attributes: &Attributes<'_>, old: Option<&Value>) -> Result<Vec<Value>> {
    let claims = attributes.is("", "persistentvolumeclaims");
    let pods = attributes.resource().gvr.group.is_empty() && attributes.resource().gvr.resource == "pods";
    let handled = match (attributes.operation, attributes.subresource()) {
        (Operation::Create, "") => pods || claims,
        (Operation::Update, "") => claims,
        (Operation::Update, "resize") => pods,
        _ => false,
    };
    if !handled || old.is_some_and(|old| old["metadata"]["deletionTimestamp"].is_string()) {
        return Ok(Vec::new());
    }
    let range = Range::prefix(format!("/registry/limitranges/{}/", attributes.call.namespace()));
    let page = attributes.call.backend().list(&range, None, 0).await.map_err(from_store)?;
    Ok(page.entries.iter().filter_map(|entry| cache::object(entry)).collect())
}

fn items<'r>(range: &'r Value, ty: &str) -> impl Iterator<Item = &'r Value> {
    let items = range["spec"]["limits"].as_array().into_iter().flatten();
    items.filter(move |item| item["type"] == *ty)
}

/// Gives containers their defaults.
pub async fn mutate(attributes: &Attributes<'_>, object: &mut Value, old: Option<&Value>) -> Result<()> {
    let ranges = ranges(attributes, old).await?;
    if attributes.kind.kind == "Pod" {
        ranges.iter().for_each(|range| fill(range, object));
    }
    Ok(())
}

/// Refuses what is out of range.
pub async fn validate(attributes: &Attributes<'_>, object: &Value, old: Option<&Value>) -> Result<()> {
    let pod = attributes.kind.kind == "Pod";
    for range in ranges(attributes, old).await? {
        let wrong = if pod { check_pod(&range, object) } else { check_claim(&range, object) };
        match wrong.as_slice() {
            [] => {}
            [one] => return Err(attributes.forbidden(Some(object), one)),
            many => return Err(attributes.forbidden(Some(object), &format!("[{}]", many.join(", ")))),
        }
    }
    Ok(())
}

fn fill(range: &Value, pod: &mut Value) {
    let (mut requests, mut limits) = (serde_json::Map::new(), serde_json::Map::new());
    for item in items(range, "Container") {
        requests.extend(item["defaultRequest"].as_object().cloned().unwrap_or_default());
        limits.extend(item["default"].as_object().cloned().unwrap_or_default());
    }
    let mut told = Vec::new();
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (which, word, defaults) in [("requests", "request", &requests), ("limits", "limit", &limits)] {
                let set = merge(container, which, defaults);
                if !set.is_empty() {
                    told.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !told.is_empty() {
        let text = format!("LimitRanger plugin set: {}", told.join("; "));
        child(pod, "metadata");
        child(&mut pod["metadata"], "annotations").insert(ANNOTATION.into(), text.into());
    }
}

/// Adds what is missing and names it.
fn merge(container: &mut Value, which: &str, defaults: &serde_json::Map<String, Value>) -> Vec<String> {
    let mut set = Vec::new();
    for (name, amount) in defaults {
        if container["resources"][which].get(name).is_none() {
            child(container, "resources");
            child(&mut container["resources"], which).insert(name.clone(), amount.clone());
            set.push(name.clone());
        }
    }
    set.sort();
    set
}

fn check_pod(range: &Value, pod: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for item in items(range, "Container") {
        for list in ["containers", "initContainers"] {
            for container in pod["spec"][list].as_array().into_iter().flatten() {
                let resources = &container["resources"];
                check(&mut wrong, item, &read(&resources["requests"]), &read(&resources["limits"]));
            }
        }
    }
    for item in items(range, "Pod") {
        check(&mut wrong, item, &pod_amounts(pod, "requests"), &pod_amounts(pod, "limits"));
    }
    wrong
}

fn check(wrong: &mut Vec<String>, item: &Value, requests: &Amounts, limits: &Amounts) {
    let ty = item["type"].as_str().unwrap_or_default();
    for (name, bound) in read(&item["min"]) {
        wrong.extend(too_little(ty, &name, &bound, requests.get(&name), limits.get(&name)));
    }
    for (name, bound) in read(&item["max"]) {
        wrong.extend(too_much(ty, &name, &bound, requests.get(&name), limits.get(&name)));
    }
    for (name, bound) in read(&item["maxLimitRequestRatio"]) {
        wrong.extend(too_wide(ty, &name, &bound, requests.get(&name), limits.get(&name)));
    }
}

fn check_claim(range: &Value, claim: &Value) -> Vec<String> {
    const TYPE: &str = "PersistentVolumeClaim";
    let mut wrong = Vec::new();
    let requests = read(&claim["spec"]["resources"]["requests"]);
    for item in items(range, TYPE) {
        for (name, bound) in read(&item["min"]) {
            wrong.extend(too_little(TYPE, &name, &bound, requests.get(&name), None));
        }
        for (name, bound) in read(&item["max"]) {
            let why = match requests.get(&name) {
                None => "  No request is specified".to_owned(),
                Some(request) if *request > bound => format!(", but request is {request}"),
                Some(_) => continue,
            };
            wrong.push(maximum(TYPE, &name, &bound, &why));
        }
    }
    wrong
}

fn maximum(ty: &str, name: &str, bound: &Quantity, why: &str) -> String {
    // Upstream ends the sentence before it says that something is missing.
    let dot = if why.starts_with(' ') { "." } else { "" };
    format!("maximum {name} usage per {ty} is {bound}{dot}{why}")
}

fn too_little(
    ty: &str,
    name: &str,
    bound: &Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let minimum = format!("minimum {name} usage per {ty} is {bound}");
    match (request, limit) {
        (None, _) => Some(format!("{minimum}.  No request is specified")),
        (Some(request), _) if request < bound => Some(format!("{minimum}, but request is {request}")),
        (_, Some(limit)) if limit < bound => Some(format!("{minimum}, but limit is {limit}")),
        _ => None,
    }
}

fn too_much(
    ty: &str,
    name: &str,
    bound: &Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let why = match (request, limit) {
        (_, None) => "  No limit is specified".to_owned(),
        (_, Some(limit)) if limit > bound => format!(", but limit is {limit}"),
        (Some(request), _) if request > bound => format!(", but request is {request}"),
        _ => return None,
    };
    Some(maximum(ty, name, bound, &why))
}

/// The ratio of limit to request.
fn too_wide(
    ty: &str,
    name: &str,
    bound: &Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let text = format!("{name} max limit to request ratio per {ty} is {bound}");
    let Some(request) = request.filter(|q| !q.is_zero()) else {
        return Some(format!("{text}, but no request is specified or request is 0"));
    };
    let Some(limit) = limit.filter(|q| !q.is_zero()) else {
        return Some(format!("{text}, but no limit is specified or limit is 0"));
    };
    let small = [request, limit, bound].iter().all(|q| q.value() <= MAX_MILLI);
    let number = |q: &Quantity| if small { q.milli_value() } else { q.value() } as f64;
    let ratio = number(limit) / number(request);
    (ratio > bound.to_f64()).then(|| format!("{text}, but provided ratio is {ratio:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn range(item: Value) -> Value {
        json!({"spec": {"limits": [item]}})
    }

    fn pod(resources: Value) -> Value {
        json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn defaults_fill_what_is_missing_and_say_so() {
        let range = range(
            json!({"type": "Container", "default": {"cpu": "500m", "memory": "500Mi"}, "defaultRequest": {"cpu": "100m"}}),
        );
        let mut pod = pod(json!({"limits": {"cpu": "1"}}));
        fill(&range, &mut pod);
        let resources = &pod["spec"]["containers"][0]["resources"];
        assert_eq!(*resources, json!({"limits": {"cpu": "1", "memory": "500Mi"}, "requests": {"cpu": "100m"}}));
        let told = "LimitRanger plugin set: cpu request for container c; memory limit for container c";
        assert_eq!(pod["metadata"]["annotations"][ANNOTATION], told);
        let before = pod.clone();
        fill(&range, &mut pod);
        assert_eq!(pod, before, "a second round changes nothing");
    }

    #[test]
    fn bounds_are_upstreams_words() {
        let says = |item: Value, resources: Value| check_pod(&range(item), &pod(resources));
        let min = json!({"type": "Container", "min": {"cpu": "50m"}});
        assert_eq!(says(min.clone(), json!({})), ["minimum cpu usage per Container is 50m.  No request is specified"]);
        assert_eq!(
            says(min, json!({"requests": {"cpu": "10m"}})),
            ["minimum cpu usage per Container is 50m, but request is 10m"]
        );
        let max = json!({"type": "Pod", "max": {"memory": "1Gi"}});
        assert_eq!(
            says(max.clone(), json!({"limits": {"memory": "2Gi"}})),
            ["maximum memory usage per Pod is 1Gi, but limit is 2Gi"]
        );
        assert_eq!(says(max, json!({})), ["maximum memory usage per Pod is 1Gi.  No limit is specified"]);
        let ratio = json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}});
        assert_eq!(
            says(ratio, json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "300m"}})),
            ["cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"]
        );
    }

    #[test]
    fn claims_are_bounded_by_their_request() {
        let range =
            range(json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}));
        let claim = |storage: &str| json!({"spec": {"resources": {"requests": {"storage": storage}}}});
        assert!(check_claim(&range, &claim("1Gi")).is_empty());
        assert_eq!(
            check_claim(&range, &claim("3Gi")),
            ["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"]
        );
    }
}
