//! Priority levels and flow schemas: the mandatory ones and those that upstream suggests. Data alone: requests are
//! bounded by [`crate::front::in_flight`]. The lists are facts of kube-apiserver v1.36
//! (`k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap`).
use super::{Object, Update};
use serde::Deserialize;
use serde_json::{Value, json};

const OBJECTS: &str = include_str!("flow_control.json");
/// What every server must have, exactly so.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

/// `false` on a suggested object makes it its editor's own.
const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Objects {
    priority_levels: Vec<Given>,
    flow_schemas: Vec<Given>,
}

#[derive(Deserialize)]
struct Given {
    name: String,
    spec: Value,
}

pub fn all() -> Vec<Object> {
    let objects: Objects = serde_json::from_str(OBJECTS).expect("flow_control.json is checked by a test");
    let levels = objects.priority_levels.into_iter().map(|given| object("PriorityLevelConfiguration", given));
    levels.chain(objects.flow_schemas.into_iter().map(|given| object("FlowSchema", given))).collect()
}

fn object(kind: &str, Given { name, spec }: Given) -> Object {
    let mandatory = MANDATORY.contains(&&*name);
    let mut value = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind,
        "metadata": {"name": name, "generation": 1,
            "annotations": {AUTOUPDATE: "true"}},
        "spec": spec,
    });
    let plural = match kind {
        "FlowSchema" => {
            let level = value["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
            let message = format!(
                "This FlowSchema references the PriorityLevelConfiguration object named \"{level}\" and it exists"
            );
            value["status"] = json!({"conditions": [
                {"type": "Dangling", "status": "False", "reason": "Found", "message": message}]});
            "flowschemas"
        }
        _ => "prioritylevelconfigurations",
    };
    let update = if mandatory { Update::Set(&["spec"]) } else { Update::SetUnless(AUTOUPDATE, &["spec"]) };
    Object { key: format!("/registry/{plural}/{name}"), value, update }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_has_its_level() {
        let all = all();
        let level = |name: &Value| {
            all.iter().any(|o| o.value["kind"] == "PriorityLevelConfiguration" && o.value["metadata"]["name"] == *name)
        };
        let schemas: Vec<_> = all.iter().filter(|o| o.value["kind"] == "FlowSchema").collect();
        assert!(schemas.len() > MANDATORY.len());
        assert!(schemas.iter().all(|o| level(&o.value["spec"]["priorityLevelConfiguration"]["name"])));
        assert!(MANDATORY.iter().all(|name| level(&json!(name))));
    }
}
