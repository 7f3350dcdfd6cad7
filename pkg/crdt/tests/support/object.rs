//! Random edits of an object as Kubernetes' clients make them.
use serde_json::{Map, Value, json};

/// How many kinds of edits there are.
pub const EDITS: u8 = 26;

/// An object after an edit; none: deleted. What is written is told apart by a word with `count` in it.
/// Nobody makes an object with a uid that is known to be another's alias.
pub fn edited(old: Option<Value>, edit: u8, choice: u8, count: u64, aliases: &[String]) -> Option<Value> {
    let word = format!("w{count}");
    let Some(mut object) = old else { return Some(new(choice, &word)) };
    let one_of = |n: u8| format!("k{}", choice % n);
    let metadata = object["metadata"].as_object_mut().unwrap();
    match edit {
        0 => *field(metadata, "labels", json!({}), &one_of(3)) = word.into(),
        1 => drop(metadata.get_mut("labels").map(|labels| labels.as_object_mut().unwrap().remove(&one_of(3)))),
        2 => drop(metadata.remove("labels")),
        3 => *field(metadata, "annotations", json!({}), &format!("eyot.dev/{}", one_of(2))) = word.into(),
        4 => {
            let mut all = list(metadata.get("finalizers"));
            all.push(if choice.is_multiple_of(3) { "same".into() } else { word.into() });
            all.dedup();
            metadata.insert("finalizers".to_owned(), all.into());
        }
        5 => {
            let mut all = list(metadata.get("finalizers"));
            if !all.is_empty() {
                all.remove(usize::from(choice) % all.len());
            }
            match all.is_empty() {
                true => drop(metadata.remove("finalizers")),
                false => drop(metadata.insert("finalizers".to_owned(), all.into())),
            }
        }
        6 => {
            let generation = metadata["generation"].as_i64().unwrap() + i64::from(choice % 3);
            metadata.insert("generation".to_owned(), generation.into());
        }
        7 => return None,
        8 | 9 => {
            if choice.is_multiple_of(4) {
                let new = new(choice / 4, &word);
                let taken = aliases.iter().any(|alias| new["metadata"]["uid"] == **alias);
                return if taken { None } else { Some(new) };
            }
            object["status"] = json!({"conditions": [{"type": one_of(2), "status": word}]});
        }
        _ => return Some(edited_spec(object, edit, choice, word)),
    }
    if object["metadata"]["labels"] == json!({}) {
        object["metadata"].as_object_mut().unwrap().remove("labels");
    }
    Some(object)
}

fn edited_spec(mut object: Value, edit: u8, choice: u8, word: String) -> Value {
    let one_of = |n: u8| format!("k{}", choice % n);
    let template = &mut object["spec"]["template"]["spec"];
    let mut containers = list(template.get("containers"));
    let which = usize::from(choice) % containers.len().max(1);
    match edit {
        10 => containers.iter_mut().skip(which).take(1).for_each(|container| container["image"] = word.clone().into()),
        11 if !containers.iter().any(|container| container["name"] == *one_of(4)) => {
            containers.insert(which, json!({"name": one_of(4), "image": word}));
        }
        12 if containers.len() > 1 => drop(containers.remove(which)),
        13 => containers.reverse(),
        14 => containers.iter_mut().take(1).for_each(|container| container["args"] = json!([word, "x"])),
        15 => containers.iter_mut().skip(which).take(1).for_each(|container| {
            container["env"] = json!([{"name": one_of(2), "value": word}, {"name": "other", "value": "1"}]);
        }),
        16 => containers
            .iter_mut()
            .skip(which)
            .take(1)
            .for_each(|container| drop(container.as_object_mut().unwrap().remove("env"))),
        17 => template["affinity"] = json!({"nodeAffinity": {"w": word}}),
        18 if template.get("affinity").is_some() => template["affinity"]["podAffinity"] = json!({one_of(2): word}),
        19 => drop(template.as_object_mut().unwrap().remove("affinity")),
        20 => template["nodeSelector"] = json!({one_of(3): word}),
        21 => template["securityContext"] = json!({}),
        22 => template["securityContext"] = json!({"sysctls": [], "seLinuxOptions": {"user": word}}),
        23 => drop(template.as_object_mut().unwrap().remove("securityContext")),
        24 => object["spec"]["odd.name/\u{0}x"] = json!({one_of(2): [1, null, {"a": word}], "f": 1.5}),
        _ => {
            let fields = json!({"f:spec": {format!("f:{}", one_of(3)): {format!("f:{word}"): {}}}});
            let entry = json!({"manager": one_of(2), "operation": "Update", "time": word, "fieldsV1": fields});
            object["metadata"]["managedFields"] = json!([entry]);
        }
    }
    if (10..17).contains(&edit) {
        object["spec"]["template"]["spec"]["containers"] = containers.into();
    }
    object
}

/// One of three identities: the same object may be made twice, and again after its deletion.
fn new(choice: u8, word: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "default", "uid": format!("u{}", choice % 3), "generation": 1,
            "labels": {"app": word}},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "k0", "image": format!("{word}0000")}]}}}
    })
}

fn field<'a>(object: &'a mut Map<String, Value>, name: &str, default: Value, inner: &str) -> &'a mut Value {
    &mut object.entry(name).or_insert(default)[inner]
}

fn list(value: Option<&Value>) -> Vec<Value> {
    value.and_then(Value::as_array).cloned().unwrap_or_default()
}
