//! Between the stored version of an object and the served one. Most resources have one version and no need.
use super::{Conversion, Resource};
use serde_json::{Map, Value, json};

/// events.k8s.io/v1 and core/v1 names of the same field.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("deprecatedSource", "source"),
    ("reportingController", "reportingComponent"),
];
const REGARDING: &str = "regarding.";

impl Resource {
    /// The stored name of a field that a selector of this version calls otherwise.
    pub fn field_alias(&self, field: &str) -> Option<String> {
        if self.conversion != Conversion::Events {
            return None;
        }
        match field.strip_prefix(REGARDING) {
            Some(rest) => Some(format!("involvedObject.{rest}")),
            None => (field == "reportingController").then(|| "reportingComponent".into()),
        }
    }

    /// What upstream's conversion to its inner form does to a body, before anybody owns its fields.
    pub(super) fn convert_input(&self, object: &mut Value) {
        if self.kind == "Secret" && self.gvr.group.is_empty() {
            super::strategy::merge_string_data(object);
        }
        if self.conversion == Conversion::Autoscaler {
            target_cpu(object);
        }
    }

    /// A stored object in this version.
    pub fn to_served(&self, mut value: Value) -> Value {
        match self.conversion {
            Conversion::Identity | Conversion::Webhook => return value,
            Conversion::Rewrite => {}
            Conversion::Events => rename(&mut value, EVENT_FIELDS.iter().map(|&(new, old)| (old, new))),
            Conversion::Autoscaler => autoscaler_to_v1(&mut value),
        }
        self.stamp(&mut value, &self.gvr.group_version());
        value
    }

    /// An object of this version as it is stored.
    pub fn to_stored(&self, mut value: Value) -> Value {
        match self.conversion {
            Conversion::Identity | Conversion::Webhook => return value,
            Conversion::Rewrite => {}
            Conversion::Events => rename(&mut value, EVENT_FIELDS.iter().copied()),
            Conversion::Autoscaler => autoscaler_to_v2(&mut value),
        }
        self.stamp(&mut value, &self.storage_version);
        value
    }

    fn stamp(&self, value: &mut Value, version: &api::GroupVersion) {
        if let Some(object) = value.as_object_mut() {
            object.insert("apiVersion".into(), version.to_string().into());
            object.insert("kind".into(), self.kind.clone().into());
        }
    }
}

fn rename<'n>(value: &mut Value, names: impl Iterator<Item = (&'n str, &'n str)>) {
    let Some(object) = value.as_object_mut() else { return };
    for (from, to) in names {
        if let Some(field) = object.remove(from) {
            object.insert(to.into(), field);
        }
    }
}

const CPU_TARGET: &str = "targetCPUUtilizationPercentage";
const CPU_CURRENT: &str = "currentCPUUtilizationPercentage";
/// Where v1 keeps what it has no field for.
const METRICS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CONDITIONS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/behavior";

fn cpu_utilization(metric: &Value, side: &str) -> Option<Value> {
    let cpu = metric["type"] == "Resource" && metric["resource"]["name"] == "cpu";
    metric["resource"][side].get("averageUtilization").filter(|_| cpu).cloned()
}

/// v2's CPU metric is v1's one target; the rest moves into annotations.
fn autoscaler_to_v1(value: &mut Value) {
    let mut notes = Map::new();
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        if let Some(Value::Array(metrics)) = spec.remove("metrics") {
            let (mut cpu, mut rest) = (None, Vec::new());
            for metric in metrics {
                match cpu_utilization(&metric, "target").filter(|_| cpu.is_none()) {
                    Some(target) => cpu = Some(target),
                    None => rest.push(metric),
                }
            }
            cpu.and_then(|target| spec.insert(CPU_TARGET.into(), target));
            if !rest.is_empty() {
                notes.insert(METRICS_ANNOTATION.into(), Value::Array(rest).to_string().into());
            }
        }
        if let Some(behavior) = spec.remove("behavior") {
            notes.insert(BEHAVIOR_ANNOTATION.into(), behavior.to_string().into());
        }
    }
    if let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) {
        if let Some(Value::Array(metrics)) = status.remove("currentMetrics")
            && let Some(current) = metrics.iter().find_map(|m| cpu_utilization(m, "current"))
        {
            status.insert(CPU_CURRENT.into(), current);
        }
        if let Some(conditions) = status.remove("conditions") {
            notes.insert(CONDITIONS_ANNOTATION.into(), conditions.to_string().into());
        }
    }
    if !notes.is_empty() {
        super::strategy::child(&mut value["metadata"], "annotations").extend(notes);
    }
}

/// v2's default metric in v1's words.
fn target_cpu(object: &mut Value) {
    let measures = object["metadata"]["annotations"].get(METRICS_ANNOTATION).is_some();
    if !measures {
        super::strategy::child(object, "spec").entry(CPU_TARGET).or_insert_with(|| 80.into());
    }
}

fn autoscaler_to_v2(value: &mut Value) {
    let mut take = |name: &str| {
        let note = value.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()?.remove(name)?;
        serde_json::from_str::<Value>(note.as_str()?).ok()
    };
    let (metrics, conditions, behavior) =
        (take(METRICS_ANNOTATION), take(CONDITIONS_ANNOTATION), take(BEHAVIOR_ANNOTATION));
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        let mut all: Vec<Value> = metrics.and_then(|m| m.as_array().cloned()).unwrap_or_default();
        if let Some(target) = spec.remove(CPU_TARGET) {
            let target = json!({"type": "Utilization", "averageUtilization": target});
            all.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        if !all.is_empty() {
            spec.insert("metrics".into(), all.into());
        }
        behavior.and_then(|b| spec.insert("behavior".into(), b));
    }
    if let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) {
        if let Some(current) = status.remove(CPU_CURRENT) {
            let metric =
                json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": current}}});
            status.insert("currentMetrics".into(), json!([metric]));
        }
        conditions.and_then(|c| status.insert("conditions".into(), c));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::resource;

    #[test]
    fn an_event_goes_there_and_back() {
        let events = resource("events.k8s.io", "v1", "events");
        let new = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n", "regarding": {"name": "x"}, "reason": "r"});
        let stored = events.to_stored(new.clone());
        assert_eq!(
            stored,
            json!({"apiVersion": "v1", "kind": "Event", "message": "n", "involvedObject": {"name": "x"}, "reason": "r"})
        );
        assert_eq!(events.to_served(stored), new);
        assert_eq!(events.field_alias("regarding.name").as_deref(), Some("involvedObject.name"));
    }

    #[test]
    fn an_autoscaler_keeps_its_cpu_target() {
        let v1 = resource("autoscaling", "v1", "horizontalpodautoscalers");
        let old = json!({
            "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {},
            "spec": {"maxReplicas": 3, CPU_TARGET: 50}, "status": {},
        });
        let stored = v1.to_stored(old.clone());
        assert_eq!(stored["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
        assert_eq!(v1.to_served(stored), old);
    }
}
