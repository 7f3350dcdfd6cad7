//! The remaining groups.
use super::{Object, child, empty, fill, fill_count, fill_text, text};
use serde_json::{Value, json};

const RBAC: &str = "rbac.authorization.k8s.io";

/// `name` is the definition's name without `io.k8s.`.
pub fn set(name: &str, object: &mut Object) {
    match name {
        "api.rbac.v1.RoleRef" => fill_text(object, "apiGroup", RBAC),
        "api.rbac.v1.Subject" => subject(object),
        "api.storage.v1.StorageClass" => {
            fill(object, "reclaimPolicy", "Delete");
            fill(object, "volumeBindingMode", "Immediate");
        }
        "api.storage.v1.CSIDriverSpec" => csi_driver(object),
        "api.networking.v1.NetworkPolicySpec" => network_policy(object),
        "api.networking.v1.NetworkPolicyPort" => fill(object, "protocol", "TCP"),
        "api.discovery.v1.EndpointPort" => {
            fill(object, "name", "");
            fill(object, "protocol", "TCP");
        }
        "api.networking.v1.IngressClassParametersReference" => fill(object, "scope", "Cluster"),
        "api.authentication.v1.TokenRequestSpec" => fill(object, "expirationSeconds", 3600),
        "api.flowcontrol.v1.FlowSchemaSpec" => fill_count(object, "matchingPrecedence", 1000),
        "api.flowcontrol.v1.ExemptPriorityLevelConfiguration" => {
            fill(object, "nominalConcurrencyShares", 0);
            fill(object, "lendablePercent", 0);
        }
        "api.flowcontrol.v1.LimitedPriorityLevelConfiguration" => {
            fill(object, "nominalConcurrencyShares", 30);
            fill(object, "lendablePercent", 0);
        }
        "api.flowcontrol.v1.QueuingConfiguration" => {
            fill_count(object, "handSize", 8);
            fill_count(object, "queues", 64);
            fill_count(object, "queueLengthLimit", 50);
        }
        "api.resource.v1.ExactDeviceRequest" | "api.resource.v1.DeviceSubRequest" => {
            fill_text(object, "allocationMode", "ExactCount");
            if text(object, "allocationMode") == "ExactCount" {
                fill_count(object, "count", 1);
            }
        }
        "api.autoscaling.v1.HorizontalPodAutoscalerSpec" => {
            fill(object, "minReplicas", 1);
            fill(object, "targetCPUUtilizationPercentage", 80);
        }
        "api.autoscaling.v2.HorizontalPodAutoscalerSpec" => autoscaler(object),
        "api.scheduling.v1.PriorityClass" => fill(object, "preemptionPolicy", "PreemptLowerPriority"),
        "api.admissionregistration.v1.ValidatingWebhook" => webhook(object),
        "api.admissionregistration.v1.MutatingWebhook" => {
            webhook(object);
            fill(object, "reinvocationPolicy", "Never");
        }
        "api.admissionregistration.v1.RuleWithOperations" | "api.admissionregistration.v1.NamedRuleWithOperations" => {
            fill(object, "scope", "*");
        }
        "api.admissionregistration.v1.ValidatingAdmissionPolicySpec"
        | "api.admissionregistration.v1.MutatingAdmissionPolicySpec" => fill(object, "failurePolicy", "Fail"),
        "api.admissionregistration.v1.MatchResources" => {
            fill(object, "matchPolicy", "Equivalent");
            fill(object, "namespaceSelector", empty());
            fill(object, "objectSelector", empty());
        }
        "api.admissionregistration.v1.ServiceReference" => fill(object, "port", 443),
        "kube-aggregator.pkg.apis.apiregistration.v1.ServiceReference" => fill(object, "port", 443),
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.ServiceReference" => fill(object, "port", 443),
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionSpec" => custom_resource(object),
        _ => {}
    }
}

fn subject(subject: &mut Object) {
    if matches!(text(subject, "kind"), "User" | "Group") {
        fill_text(subject, "apiGroup", RBAC);
    }
}

fn csi_driver(spec: &mut Object) {
    fill(spec, "attachRequired", true);
    for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        fill(spec, field, false);
    }
    fill(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    fill(spec, "volumeLifecycleModes", json!(["Persistent"]));
}

fn network_policy(spec: &mut Object) {
    if spec.get("policyTypes").and_then(Value::as_array).is_some_and(|types| !types.is_empty()) {
        return;
    }
    let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
    let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    spec.insert("policyTypes".into(), types);
}

fn autoscaler(spec: &mut Object) {
    fill(spec, "minReplicas", 1);
    if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        spec.insert("metrics".into(), json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    }
    let Some(behavior) = spec.get_mut("behavior").and_then(Value::as_object_mut) else { return };
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    for (name, policies) in [("scaleUp", json!([pods, percent])), ("scaleDown", json!([percent]))] {
        if let Some(rules) = child(behavior, name) {
            fill(rules, "selectPolicy", "Max");
            fill(rules, "policies", policies);
        }
    }
    if let Some(up) = child(behavior, "scaleUp") {
        fill(up, "stabilizationWindowSeconds", 0);
    }
}

fn webhook(webhook: &mut Object) {
    fill(webhook, "failurePolicy", "Fail");
    fill(webhook, "matchPolicy", "Equivalent");
    fill(webhook, "namespaceSelector", empty());
    fill(webhook, "objectSelector", empty());
    fill(webhook, "timeoutSeconds", 10);
}

fn custom_resource(spec: &mut Object) {
    if let Some(conversion) = child(spec, "conversion") {
        fill_text(conversion, "strategy", "None");
    }
    let Some(names) = child(spec, "names") else { return };
    let kind = text(names, "kind").to_owned();
    if !kind.is_empty() {
        fill_text(names, "singular", &kind.to_lowercase());
        fill_text(names, "listKind", &format!("{kind}List"));
    }
}
