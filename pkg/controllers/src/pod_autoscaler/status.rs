//! The autoscaler's status, as JSON that grows from the old one.
use super::behavior::Said;
use super::usage::{Metric, Proposal, Whole};
use api::quantity::{Format, Quantity};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

/// Sets a condition; its time moves with its status only.
pub fn condition(status: &mut Value, type_: &str, value: bool, reason: &str, message: &str, now: Timestamp) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    let at = conditions.iter().position(|condition| condition["type"] == type_).unwrap_or_else(|| {
        conditions.push(json!({"type": type_}));
        conditions.len() - 1
    });
    let condition = &mut conditions[at];
    let value = if value { "True" } else { "False" };
    if condition["status"] != value {
        condition["lastTransitionTime"] = json!(Time(now));
    }
    condition["status"] = value.into();
    condition["reason"] = reason.into();
    condition["message"] = message.into();
}

pub fn said(status: &mut Value, type_: &str, said: &Said, now: Timestamp) {
    condition(status, type_, said.status, said.reason, said.message, now);
}

/// A metric as `status.currentMetrics` shows it.
pub fn metric(metric: &Metric<'_>, proposal: &Proposal) -> Value {
    let format = if metric.resource == "memory" { Format::BinarySi } else { Format::DecimalSi };
    let average = Quantity::from_milli(proposal.average_milli, format).to_string();
    let mut current = json!({"averageValue": average});
    if let Some(utilization) = proposal.utilization {
        current["averageUtilization"] = utilization.into();
    }
    let name = metric.resource;
    match metric.container {
        None => json!({"type": "Resource", "resource": {"name": name, "current": current}}),
        Some(container) => json!({"type": "ContainerResource",
            "containerResource": {"name": name, "container": container, "current": current}}),
    }
}

/// A figure of the whole target, as `status.currentMetrics` shows it.
pub fn whole(milli: i64, target: Whole) -> Value {
    let value = Quantity::from_milli(milli, Format::DecimalSi).to_string();
    match target {
        Whole::Value(_) => json!({"value": value}),
        Whole::Average(_) => json!({"averageValue": value}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conditions_time_is_that_of_its_status() {
        let time = |second| Timestamp::from_second(second).unwrap();
        let mut status = json!({});
        condition(&mut status, "ScalingActive", true, "ValidMetricFound", "a", time(0));
        condition(&mut status, "ScalingActive", true, "ValidMetricFound", "b", time(60));
        assert_eq!(status["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:00Z");
        assert_eq!(status["conditions"][0]["message"], "b");
        condition(&mut status, "ScalingActive", false, "x", "c", time(60));
        assert_eq!(status["conditions"][0]["lastTransitionTime"], "1970-01-01T00:01:00Z");
    }
}
