//! DefaultTolerationSeconds: a pod stays five minutes on a node that is not ready or out of reach.
use serde_json::{Value, json};

const KEYS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const SECONDS: u32 = 300;

/// Adds what the pod does not say itself.
pub fn tolerate(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let list = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(list) = list.as_array_mut() else { return };
    let given = list.clone();
    let empty_or = |value: &Value, wanted: &str| value.as_str().is_none_or(|v| v.is_empty() || v == wanted);
    for key in KEYS {
        let covered = given.iter().any(|t| empty_or(&t["key"], key) && empty_or(&t["effect"], "NoExecute"));
        if !covered {
            list.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_added_once() {
        let mut pod = json!({"spec": {"tolerations": [{"key": KEYS[0], "operator": "Exists", "effect": "NoExecute"}]}});
        tolerate(&mut pod);
        tolerate(&mut pod);
        let list = pod["spec"]["tolerations"].as_array().unwrap();
        assert_eq!((list.len(), &list[1]["key"]), (2, &json!(KEYS[1])));
        let mut all = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        tolerate(&mut all);
        assert_eq!(all["spec"]["tolerations"].as_array().unwrap().len(), 1);
    }
}
