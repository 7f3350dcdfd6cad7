//! Policies over an engine on the store's double.
use crate::Verb;
use crate::engine::testing::{Bench, info};
use serde_json::{Value, json};

fn rules() -> Value {
    json!({"resourceRules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]})
}

async fn bench(sort: &str, spec: Value, binding: Value) -> Bench {
    let bench = Bench::new();
    bench.store("/registry/namespaces/ns", json!({"metadata": {"name": "ns", "labels": {"env": "test"}}})).await;
    let mut all = json!({"matchConstraints": rules(), "failurePolicy": "Fail"});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let policy = json!({"metadata": {"name": "p"}, "spec": all});
    bench.store(&format!("/registry/{sort}admissionpolicies/p"), policy).await;
    let mut spec = json!({"policyName": "p", "validationActions": ["Deny"]});
    spec.as_object_mut().unwrap().extend(binding.as_object().unwrap().clone());
    bench
        .store(&format!("/registry/{sort}admissionpolicybindings/b"), json!({"metadata": {"name": "b"}, "spec": spec}))
        .await;
    bench
}

async fn create(bench: &Bench, data: Value) -> (u16, Value) {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "m-"}, "data": data});
    bench.json(info(Verb::Create, "configmaps", "ns", ""), map).await
}

#[tokio::test]
async fn a_policy_denies_with_its_message() {
    let spec = json!({
        "variables": [{"name": "size", "expression": "size(object.data)"}],
        "validations": [
            {"expression": "variables.size < 2", "messageExpression": "'too many: ' + string(variables.size)"},
            {"expression": "namespaceObject.metadata.labels.env == 'test'"}],
    });
    let bench = bench("validating", spec, json!({})).await;
    assert_eq!(create(&bench, json!({"a": "1"})).await.0, 201);
    let (code, status) = create(&bench, json!({"a": "1", "b": "2"})).await;
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")));
    let message = status["message"].as_str().unwrap();
    assert!(
        message.ends_with("ValidatingAdmissionPolicy 'p' with binding 'b' denied request: too many: 2"),
        "{message}"
    );
}

#[tokio::test]
async fn conditions_params_and_actions() {
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "not-params", "expression": "object.metadata.?name.orValue('') != 'limits'"}],
        "validations": [{"expression": "size(object.data) <= int(params.data.max)", "reason": "Forbidden"}],
    });
    let reference = json!({"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}});
    let bench = bench("validating", spec, reference).await;
    let (code, status) = create(&bench, json!({"a": "1"})).await;
    let message = status["message"].as_str().unwrap();
    assert!(code == 422 && message.contains("failed to configure binding: no params found"), "{message}");
    let limits = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "limits"}, "data": {"max": "1"}});
    bench.store("/registry/configmaps/ns/limits", limits).await;
    assert_eq!(create(&bench, json!({"a": "1"})).await.0, 201);
    let (code, status) = create(&bench, json!({"a": "1", "b": "2"})).await;
    assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")));
    let warns = json!({"metadata": {"name": "b"}, "spec": {
        "policyName": "p", "validationActions": ["Warn"], "paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}}});
    bench.store("/registry/validatingadmissionpolicybindings/b", warns).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "w"}, "data": {"a": "", "b": ""}});
    let response = bench.send(info(Verb::Create, "configmaps", "ns", ""), map.to_string(), Default::default()).await;
    assert_eq!(response.status(), 201);
    let warning = response.headers()["warning"].to_str().unwrap();
    assert!(warning.contains("Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b'"), "{warning}");
}

#[tokio::test]
async fn a_policy_changes_objects_both_ways() {
    let apply =
        "Object{metadata: Object.metadata{annotations: {'by': 'policy'}}, data: {'size': string(size(object.data))}}";
    let patch = "[JSONPatch{op: 'add', path: '/data/patched', value: object.data.size}]";
    let spec = json!({"reinvocationPolicy": "Never", "mutations": [
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": apply}},
        {"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}]});
    let bench = bench("mutating", spec, json!({})).await;
    let (code, object) = create(&bench, json!({"a": "1"})).await;
    assert_eq!((code, &object["data"]), (201, &json!({"a": "1", "size": "1", "patched": "1"})), "{object}");
    assert_eq!(object["metadata"]["annotations"]["by"], "policy");
}

#[tokio::test]
async fn a_policy_that_fails_is_a_matter_of_its_failure_policy() {
    let spec =
        |policy: &str| json!({"failurePolicy": policy, "validations": [{"expression": "object.spec.nothing == 1"}]});
    assert_eq!(create(&bench("validating", spec("Fail"), json!({})).await, json!({})).await.0, 422);
    assert_eq!(create(&bench("validating", spec("Ignore"), json!({})).await, json!({})).await.0, 201);
}
