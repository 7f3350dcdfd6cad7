//! Priority: a pod's class becomes its number (`plugin/pkg/admission/priority`).
use crate::registry::strategy::child;
use serde_json::{Value, json};

const PREEMPT: &str = "PreemptLowerPriority";

/// Sets name, number and preemption policy of `class`, or of none.
///
/// # Errors
/// When the pod claims another number or policy than its class has.
pub fn resolve(pod: &mut Value, class: Option<&Value>) -> Result<(), String> {
    let (name, number) = match class {
        Some(class) => (class["metadata"]["name"].as_str().unwrap_or_default(), class["value"].as_i64().unwrap_or(0)),
        None => ("", 0),
    };
    let policy = class.and_then(|c| c["preemptionPolicy"].as_str()).unwrap_or(PREEMPT);
    let spec = child(pod, "spec");
    if let Some(claimed) = spec.get("priority").and_then(Value::as_i64).filter(|&p| p != number) {
        return Err(format!(
            "the integer value of priority ({claimed}) must not be provided in pod spec; priority admission controller \
             computed {number} from the given PriorityClass name"
        ));
    }
    if let Some(claimed) = spec.get("preemptionPolicy").and_then(Value::as_str).filter(|&p| p != policy) {
        return Err(format!(
            "the string value of PreemptionPolicy ({claimed}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        ));
    }
    if !name.is_empty() {
        spec.insert("priorityClassName".into(), name.into());
    }
    spec.insert("priority".into(), json!(number));
    spec.insert("preemptionPolicy".into(), policy.into());
    Ok(())
}

/// An update that leaves them out keeps them.
pub fn keep(new: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy"] {
        if let Some(value) = old["spec"].get(field)
            && new["spec"].get(field).is_none_or(Value::is_null)
        {
            child(new, "spec").insert(field.into(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_decides() {
        let class = json!({"metadata": {"name": "high"}, "value": 7});
        let mut pod = json!({"spec": {"priorityClassName": "high"}});
        resolve(&mut pod, Some(&class)).unwrap();
        assert_eq!((&pod["spec"]["priority"], &pod["spec"]["preemptionPolicy"]), (&json!(7), &json!(PREEMPT)));
        let mut wrong = json!({"spec": {"priority": 9}});
        assert!(resolve(&mut wrong, Some(&class)).unwrap_err().contains("(9)"));
        let mut none = json!({"spec": {}});
        resolve(&mut none, None).unwrap();
        assert_eq!(none["spec"]["priority"], 0);
    }
}
