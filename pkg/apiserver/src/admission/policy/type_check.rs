//! Whether a policy's expressions fit the types of what it is for: warnings in its status, no more
//! (`k8s.io/apiserver/pkg/admission/plugin/policy/validating/typechecking.go`).
use crate::admission::expressions::{Types, environment_of};
use crate::registry::{Registry, Resource};
use api::cel::{self, Environment, Type, kinds};
use api::{GroupVersion, GroupVersionKind};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Kinds beyond these are not looked at.
const MAX_KINDS: usize = 10;

/// The `expressionWarnings` of a ValidatingAdmissionPolicy.
pub fn warnings(registry: &Registry, policy: &Value) -> Vec<Value> {
    let spec = &policy["spec"];
    let kinds = kinds_of(registry, &spec["matchConstraints"]);
    let params = params(registry, &spec["paramKind"]);
    let environments: Vec<(String, Environment)> = kinds
        .iter()
        .map(|(kind, resource)| (shown(kind), environment(type_of(resource), params.clone(), &spec["variables"])))
        .collect();
    let mut found = Vec::new();
    for (i, validation) in spec["validations"].as_array().into_iter().flatten().enumerate() {
        for field in ["expression", "messageExpression"] {
            let source = validation[field].as_str().filter(|source| !source.is_empty());
            let warning = source.and_then(|source| check(&environments, source));
            found.extend(
                warning
                    .map(|warning| json!({"fieldRef": format!("spec.validations[{i}].{field}"), "warning": warning})),
            );
        }
    }
    found
}

/// What is wrong with an expression, by kind.
fn check(environments: &[(String, Environment)], source: &str) -> Option<String> {
    let wrong = |(kind, environment): &(String, Environment)| {
        let error = environment.compile(source).err()?;
        Some(format!("{kind}: {error}\n"))
    };
    let all: Vec<String> = environments.iter().filter_map(wrong).collect();
    (!all.is_empty()).then(|| all.join("\n"))
}

/// `apps/v1, Kind=Deployment`
fn shown(kind: &GroupVersionKind) -> String {
    format!("{}, Kind={}", GroupVersion::new(&*kind.group, &*kind.version), kind.kind)
}

fn environment(object: Type, params: Option<Type>, variables: &Value) -> Environment {
    let mut known: Vec<(String, Type)> = Vec::new();
    for variable in variables.as_array().into_iter().flatten() {
        let text = |field: &str| variable[field].as_str().unwrap_or_default();
        let all = environment_of(Types { object: object.clone(), params: params.clone() }, &known);
        let ty = all.compile(text("expression")).map_or(Type::Dyn, |program| program.result_type().clone());
        known.push((text("name").to_owned(), ty));
    }
    environment_of(Types { object, params }, &known)
}

fn type_of(resource: &Resource) -> Type {
    match &resource.custom {
        Some(custom) => cel::declared(&custom.schema, "object", true).unwrap_or(Type::Dyn),
        None => kinds::of_schema(&resource.schemas, resource.ty()),
    }
}

/// The type of `params`, where the policy has any.
fn params(registry: &Registry, kind: &Value) -> Option<Type> {
    let version = GroupVersion::parse(kind["apiVersion"].as_str()?);
    let served = registry.served();
    let found = served.values().find(|r| kind["kind"] == *r.kind && r.gvr.group_version() == version);
    Some(found.map_or(Type::Dyn, |resource| type_of(resource)))
}

/// The kinds that the rules name one by one, in their order.
fn kinds_of(registry: &Registry, constraints: &Value) -> BTreeMap<GroupVersionKind, Arc<Resource>> {
    let served = registry.served();
    let mut kinds = BTreeMap::new();
    for rule in constraints["resourceRules"].as_array().into_iter().flatten() {
        let names = |field: &str| -> Vec<&str> {
            rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
        };
        let (groups, versions) = (names("apiGroups"), names("apiVersions"));
        if groups.contains(&"*") || versions.contains(&"*") {
            continue;
        }
        let resources: Vec<&str> = names("resources").into_iter().filter(|name| !name.contains(['*', '/'])).collect();
        for resource in served.values() {
            let gvr = &resource.gvr;
            let named = groups.contains(&&*gvr.group) && versions.contains(&&*gvr.version);
            if named && resources.contains(&&*gvr.resource) && kinds.len() < MAX_KINDS {
                kinds.insert(resource.gvk(), resource.clone());
            }
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(expression: &str, resources: &[&str]) -> Value {
        let rule = json!({"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["*"], "resources": resources});
        json!({"spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "variables": [{"name": "replicas", "expression": "object.spec.replicas"}],
            "validations": [{"expression": expression, "messageExpression": "'x'"}],
        }})
    }

    #[test]
    fn a_field_that_is_not_there_is_warned_of() {
        let registry = Registry::builtin(api::schema::Schemas::builtin());
        let check = |expression: &str, resources: &[&str]| warnings(&registry, &policy(expression, resources));
        assert_eq!(check("object.spec.replicas > 1 && variables.replicas > 1", &["deployments"]), Vec::<Value>::new());
        let found = check("object.spec.maxReplicas > 1", &["deployments", "replicasets"]);
        let warning = found[0]["warning"].as_str().unwrap();
        assert_eq!(found[0]["fieldRef"], "spec.validations[0].expression");
        assert!(
            warning.starts_with("apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'maxReplicas'"),
            "{warning}"
        );
        assert!(warning.contains("apps/v1, Kind=ReplicaSet: "), "{warning}");
        assert_eq!(check("variables.replicas == 'two'", &["deployments"]).len(), 1, "variables have types, too");
        assert!(check("object.nothing", &["*"]).is_empty(), "only what is named is checked");
    }
}
