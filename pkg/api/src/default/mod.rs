//! Defaults on schema types, so that every pod template gets them once, wherever it stands.
//!
//! What each type gets is what upstream's `SetDefaults_*` functions give it (`k8s.io/kubernetes/pkg/apis/*/v1/defaults.go`)
//! plus the schema's static defaults. The walk is top down: a type may fill in a child that is then visited.
mod apps;
mod core;
mod other;

use crate::GroupVersionKind;
use crate::schema::{Schemas, Type};
use serde_json::{Map, Value};

type Object = Map<String, Value>;

/// Fills in what upstream's defaulting would.
pub fn default(kind: &GroupVersionKind, value: &mut Value, ty: &Type, schemas: &Schemas) {
    if let Value::Object(object) = value
        && kind.group.is_empty()
        && kind.kind == "Pod"
    {
        child(object, "spec");
        core::pod(object);
    }
    // A root that is given as what its name stands for: its own defaults hang on the name.
    if let (false, Some(root), Value::Object(object)) =
        (matches!(ty, Type::Ref(_)), schemas.for_kind(kind), &mut *value)
    {
        by_name(&root.name, object);
    }
    walk(value, ty, schemas);
}

fn walk(value: &mut Value, ty: &Type, schemas: &Schemas) {
    if let (Type::Ref(name), Value::Object(object)) = (ty, &mut *value) {
        by_name(name, object);
    }
    match (schemas.resolve(ty), value) {
        (Type::Struct(structure), Value::Object(object)) => {
            for (name, field) in &structure.fields {
                if !object.contains_key(&**name)
                    && let Some(value) = field.default.as_ref().or(field.zero.as_ref())
                {
                    object.insert(name.to_string(), value.clone());
                }
                if let Some(child) = object.get_mut(&**name) {
                    walk(child, &field.ty, schemas);
                }
            }
        }
        (Type::Map(item) | Type::AtomicMap(item), Value::Object(object)) => {
            object.values_mut().for_each(|value| walk(value, item, schemas));
        }
        (Type::List(list), Value::Array(items)) => items.iter_mut().for_each(|value| walk(value, &list.item, schemas)),
        _ => {}
    }
}

fn is_empty(value: &Value, ty: &Type) -> bool {
    match (ty, value) {
        (Type::Map(_) | Type::AtomicMap(_), Value::Object(map)) => map.is_empty(),
        (Type::List(_), Value::Array(list)) => list.is_empty(),
        (Type::Any, _) => false,
        (_, Value::Null) => true,
        _ => false,
    }
}

/// Brings a defaulted object into the form in which upstream's store gives it back: protobuf has no lists and maps
/// without anything in them, so they are left out, or null where they are always written. (Who writes those owns
/// them all the same, so this comes after managedFields.)
pub fn settle(value: &mut Value, ty: &Type, schemas: &Schemas) {
    match (schemas.resolve(ty), value) {
        (Type::Struct(structure), Value::Object(object)) => {
            object.retain(|name, value| {
                let Some(field) = structure.fields.get(&**name) else { return true };
                if !is_empty(value, schemas.resolve(&field.ty)) {
                    settle(value, &field.ty, schemas);
                    return true;
                }
                *value = Value::Null;
                field.zero == Some(Value::Null)
            });
        }
        (Type::Map(item) | Type::AtomicMap(item), Value::Object(object)) => {
            object.values_mut().for_each(|value| settle(value, item, schemas));
        }
        (Type::List(list), Value::Array(items)) => {
            items.iter_mut().for_each(|value| settle(value, &list.item, schemas))
        }
        _ => {}
    }
}

/// The conditional defaults of one named type.
fn by_name(name: &str, object: &mut Object) {
    let Some(short) = name.strip_prefix("io.k8s.") else { return };
    if let Some(name) = short.strip_prefix("api.core.v1.") {
        core::set(name, object);
    } else if let Some(name) = short.strip_prefix("api.apps.v1.").or_else(|| short.strip_prefix("api.batch.v1.")) {
        apps::set(name, object);
    } else {
        other::set(short, object);
    }
}

/// Sets a field that is absent.
fn fill(object: &mut Object, field: &str, value: impl Into<Value>) {
    if !object.contains_key(field) {
        object.insert(field.to_owned(), value.into());
    }
}

/// Sets a field that is absent or empty text, as Go's zero value counts as unset there.
fn fill_text(object: &mut Object, field: &str, value: &str) {
    if text(object, field).is_empty() {
        object.insert(field.to_owned(), value.into());
    }
}

fn text<'a>(object: &'a Object, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn empty() -> Value {
    Value::Object(Map::new())
}

/// Sets a count that is absent or zero, as zero counts as unset there.
fn fill_count(object: &mut Object, field: &str, value: i64) {
    if object.get(field).is_none_or(|value| *value == 0) {
        object.insert(field.to_owned(), value.into());
    }
}

/// An object below, made when it is absent.
fn child<'a>(object: &'a mut Object, field: &str) -> Option<&'a mut Object> {
    object.entry(field).or_insert_with(empty).as_object_mut()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn defaulted(group: &str, kind: &str, mut value: Value) -> Value {
        let schemas = Schemas::builtin();
        let kind = GroupVersionKind::new(group, "v1", kind);
        let ty = Type::Ref(schemas.for_kind(&kind).unwrap().name.clone());
        default(&kind, &mut value, &ty, schemas);
        let once = value.clone();
        default(&kind, &mut value, &ty, schemas);
        assert_eq!(once, value, "defaults must be stable");
        value
    }

    #[test]
    fn counts_in_a_status_are_written_even_as_zero() {
        let set = defaulted("apps", "DaemonSet", json!({"status": {"numberReady": 2}}));
        assert_eq!((&set["status"]["numberReady"], &set["status"]["desiredNumberScheduled"]), (&json!(2), &json!(0)));
        assert_eq!(defaulted("", "Service", json!({"status": {}}))["status"], json!({"loadBalancer": {}}));
    }

    #[test]
    fn empty_lists_and_maps_are_not_stored() {
        let settled = |group: &str, kind: &str, object: Value| {
            let mut object = defaulted(group, kind, object);
            let schemas = Schemas::builtin();
            settle(&mut object, &schemas.for_kind(&GroupVersionKind::new(group, "v1", kind)).unwrap().ty, schemas);
            object
        };
        let map = settled("", "ConfigMap", json!({"data": {}, "metadata": {"labels": {}}}));
        assert_eq!(map, json!({"metadata": {}}));
        let role = settled("rbac.authorization.k8s.io", "Role", json!({"metadata": {}, "rules": []}));
        assert_eq!(role["rules"], Value::Null);
        let volume = json!({"name": "v", "emptyDir": {}});
        let pod = settled("", "Pod", json!({"spec": {"volumes": [volume], "initContainers": null}}));
        assert_eq!((pod["spec"].get("initContainers"), &pod["spec"]["volumes"][0]), (None, &volume));
    }

    #[test]
    fn an_autoscalers_behavior_is_whole_or_absent() {
        let schemas = Schemas::builtin();
        let kind = GroupVersionKind::new("autoscaling", "v2", "HorizontalPodAutoscaler");
        let ty = Type::Ref(schemas.for_kind(&kind).unwrap().name.clone());
        let mut scaler = json!({"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 9}}}});
        default(&kind, &mut scaler, &ty, schemas);
        let behavior = &scaler["spec"]["behavior"];
        assert_eq!(behavior["scaleUp"]["policies"].as_array().map(Vec::len), Some(2));
        assert_eq!(behavior["scaleDown"]["policies"].as_array().map(Vec::len), Some(1));
        assert_eq!(
            (&behavior["scaleUp"]["stabilizationWindowSeconds"], &behavior["scaleDown"]["selectPolicy"]),
            (&json!(0), &json!("Max"))
        );
    }

    #[test]
    fn a_root_given_without_its_name_has_its_own_defaults_too() {
        let schemas = Schemas::builtin();
        let kind = GroupVersionKind::new("", "v1", "Secret");
        let mut secret = json!({});
        default(&kind, &mut secret, &schemas.for_kind(&kind).unwrap().ty, schemas);
        assert_eq!(secret["type"], "Opaque");
    }

    #[test]
    fn a_pod() {
        let pod = defaulted(
            "",
            "Pod",
            json!({"spec": {
            "containers": [{"name": "a", "image": "reg:5000/x", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
                "livenessProbe": {"httpGet": {"port": 80}}}],
            "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "c"}}]}}),
        );
        assert_eq!(
            pod,
            json!({"metadata": {}, "status": {}, "spec": {
            "containers": [{"name": "a", "image": "reg:5000/x", "imagePullPolicy": "Always",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "c", "defaultMode": 420}}],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
            "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler", "enableServiceLinks": true}})
        );
    }

    #[test]
    fn a_deployment_and_its_template() {
        let template = json!({"spec": {"containers": [{"name": "a", "image": "x:1"}]}});
        let got = defaulted("apps", "Deployment", json!({"spec": {"template": template}}));
        assert_eq!(
            got["spec"]["strategy"],
            json!({"type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(got["spec"]["replicas"], 1);
        let container = &got["spec"]["template"]["spec"]["containers"][0];
        assert_eq!((&container["imagePullPolicy"], &container["resources"]), (&json!("IfNotPresent"), &json!({})));
        assert_eq!(got["spec"]["template"]["spec"].get("enableServiceLinks"), None);
    }

    #[test]
    fn services_of_each_type() {
        let ports = json!([{"port": 80}, {"port": 53, "protocol": "UDP", "targetPort": "dns"}]);
        let got = defaulted("", "Service", json!({"spec": {"type": "NodePort", "ports": ports}}));
        assert_eq!(
            got["spec"],
            json!({"type": "NodePort", "sessionAffinity": "None",
            "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80},
                {"port": 53, "protocol": "UDP", "targetPort": "dns"}]})
        );
        let got = defaulted("", "Service", json!({"spec": {"sessionAffinity": "ClientIP"}}));
        assert_eq!(got["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800);
        assert_eq!(got["spec"]["type"], "ClusterIP");
    }

    #[test]
    fn a_job_and_a_cron_job() {
        let template =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never", "containers": []}});
        let got = defaulted("batch", "Job", json!({"spec": {"template": template}}));
        assert_eq!((&got["spec"]["completions"], &got["spec"]["parallelism"]), (&json!(1), &json!(1)));
        assert_eq!(got["spec"]["backoffLimit"], 6);
        let got = defaulted(
            "batch",
            "CronJob",
            json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": template}}}}),
        );
        assert_eq!(got["spec"]["concurrencyPolicy"], "Allow");
        assert_eq!(got["spec"]["jobTemplate"]["spec"].get("backoffLimit"), None, "a template waits for its job");
    }

    #[test]
    fn roles_name_their_group() {
        let got = defaulted(
            "rbac.authorization.k8s.io",
            "RoleBinding",
            json!({"roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]}),
        );
        assert_eq!(got["roleRef"]["apiGroup"], "rbac.authorization.k8s.io");
        assert_eq!(got["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
        assert_eq!(got["subjects"][1].get("apiGroup"), None);
    }
}
