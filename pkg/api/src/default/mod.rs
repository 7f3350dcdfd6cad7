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
                if let (Some(default), false) = (&field.default, object.contains_key(&**name)) {
                    object.insert(name.to_string(), default.clone());
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

/// Counts that Go's types write even where they are zero.
fn zeroes(object: &mut Object, fields: &[&str]) {
    fields.iter().for_each(|field| fill(object, field, 0));
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
            json!({"spec": {
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
