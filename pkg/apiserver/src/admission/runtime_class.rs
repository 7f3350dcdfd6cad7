//! RuntimeClass: a pod gets its class's overhead and place (`plugin/pkg/admission/runtimeclass`).
use crate::registry::strategy::child;
use serde_json::{Value, json};

/// The class that a pod names.
pub fn wanted(pod: &Value) -> Option<&str> {
    pod["spec"]["runtimeClassName"].as_str().filter(|name| !name.is_empty())
}

/// Gives the pod what its class (if it has one) says.
///
/// # Errors
/// When the pod claims something else than its class.
pub fn resolve(pod: &mut Value, class: Option<&Value>) -> Result<(), String> {
    let class = class.unwrap_or(&Value::Null);
    overhead(pod, &class["overhead"]["podFixed"])?;
    select_nodes(pod, &class["scheduling"]["nodeSelector"])?;
    tolerate(pod, &class["scheduling"]["tolerations"]);
    Ok(())
}

fn overhead(pod: &mut Value, fixed: &Value) -> Result<(), String> {
    let claimed = pod["spec"]["overhead"].as_object();
    match (claimed, fixed.as_object()) {
        (None, None) => {}
        (Some(_), None) => {
            return Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into());
        }
        (Some(claimed), Some(fixed)) if !same_amounts(claimed, fixed) => {
            return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
        }
        (_, Some(_)) => drop(child(pod, "spec").insert("overhead".into(), fixed.clone())),
    }
    Ok(())
}

type Map = serde_json::Map<String, Value>;

fn same_amounts(one: &Map, other: &Map) -> bool {
    let amount = |value: &Value| value.as_str().and_then(|text| api::quantity::Quantity::parse(text).ok());
    one.len() == other.len()
        && one.iter().all(|(name, value)| {
            other.get(name).is_some_and(|other| match (amount(value), amount(other)) {
                (Some(one), Some(other)) => one == other,
                _ => value == other,
            })
        })
}

fn select_nodes(pod: &mut Value, selector: &Value) -> Result<(), String> {
    for (key, value) in selector.as_object().into_iter().flatten() {
        let spec = child(pod, "spec");
        let own = spec.entry("nodeSelector").or_insert_with(|| json!({}));
        match own[key.as_str()].as_str() {
            Some(other) if Some(other) != value.as_str() => {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {other}",
                    value.as_str().unwrap_or_default()
                ));
            }
            _ => own[key.as_str()] = value.clone(),
        }
    }
    Ok(())
}

fn tolerate(pod: &mut Value, tolerations: &Value) {
    for toleration in tolerations.as_array().into_iter().flatten() {
        let spec = child(pod, "spec");
        let own = spec.entry("tolerations").or_insert_with(|| json!([]));
        if let Some(own) = own.as_array_mut().filter(|own| !own.contains(toleration)) {
            own.push(toleration.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_gets_what_its_class_says() {
        let class = json!({"overhead": {"podFixed": {"cpu": "10m"}}, "scheduling": {
            "nodeSelector": {"a": "b"}, "tolerations": [{"key": "x", "operator": "Exists"}]}});
        let mut pod = json!({"spec": {"runtimeClassName": "c", "overhead": {"cpu": "0.01"}}});
        resolve(&mut pod, Some(&class)).unwrap();
        assert_eq!(pod["spec"]["overhead"], json!({"cpu": "10m"}));
        assert_eq!(
            (&pod["spec"]["nodeSelector"]["a"], &pod["spec"]["tolerations"][0]["key"]),
            (&json!("b"), &json!("x"))
        );
        let refused = |mut pod: Value, class: Option<&Value>| resolve(&mut pod, class).unwrap_err();
        assert!(refused(json!({"spec": {"overhead": {"cpu": "1"}}}), None).contains("without corresponding"));
        assert!(refused(json!({"spec": {"overhead": {"cpu": "1"}}}), Some(&class)).contains("doesn't match"));
        assert!(refused(json!({"spec": {"nodeSelector": {"a": "c"}}}), Some(&class)).starts_with("conflict: "));
    }
}
