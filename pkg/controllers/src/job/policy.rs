//! `spec.podFailurePolicy` and `spec.successPolicy`: what a pod's end means, and when enough has succeeded.
use super::indexes::Indexes;
use k8s_openapi::api::batch::v1::{PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, SuccessPolicy};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use kube::ResourceExt;

/// What a failed pod means for its Job.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Failure {
    /// It counts towards the backoff limit.
    Counts,
    /// It doesn't count.
    Ignored,
    /// It counts, and its index is not tried again.
    FailsIndex,
    /// It counts, and the Job fails with this message.
    FailsJob(String),
}

/// The first rule that matches decides; a failure that none matches counts.
pub(super) fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Failure {
    let rules = policy.into_iter().flat_map(|policy| policy.rules.iter().enumerate());
    let status = pod.status.clone().unwrap_or_default();
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    for (n, rule) in rules {
        let why = match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (Some(codes), _) => exit_that_matches(&status, codes).map(|(container, code)| {
                format!("Container {container} for pod {namespace}/{name} failed with exit code {code}")
            }),
            (None, Some(patterns)) => {
                let conditions = status.conditions.iter().flatten();
                let mut matching = conditions.filter(|c| {
                    patterns.iter().any(|p| p.type_ == c.type_ && p.status.as_deref().unwrap_or("True") == c.status)
                });
                matching.next().map(|c| format!("Pod {namespace}/{name} has condition {}", c.type_))
            }
            (None, None) => None,
        };
        let Some(why) = why else { continue };
        return match &*rule.action {
            "Ignore" => Failure::Ignored,
            "FailIndex" => Failure::FailsIndex,
            "FailJob" => Failure::FailsJob(format!("{why} matching FailJob rule at index {n}")),
            _ => Failure::Counts,
        };
    }
    Failure::Counts
}

fn exit_that_matches(status: &PodStatus, wanted: &PodFailurePolicyOnExitCodesRequirement) -> Option<(String, i32)> {
    let containers = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let code = |status: &ContainerStatus| Some(status.state.as_ref()?.terminated.as_ref()?.exit_code);
    let matches = |code: i32| match &*wanted.operator {
        "In" => wanted.values.contains(&code),
        "NotIn" => !wanted.values.contains(&code),
        _ => false,
    };
    let named = containers.filter(|status| wanted.container_name.as_ref().is_none_or(|name| *name == status.name));
    let mut ended = named.filter_map(|status| Some((status.name.clone(), code(status)?)));
    ended.find(|(_, code)| *code != 0 && matches(*code))
}

/// The message of the rule that is met, if one is.
pub(super) fn met(policy: Option<&SuccessPolicy>, completions: i32, succeeded: &Indexes) -> Option<String> {
    let mut rules = policy?.rules.iter();
    let met = rules.position(|rule| match (&rule.succeeded_indexes, rule.succeeded_count) {
        (Some(wanted), count) => {
            let wanted = Indexes::parse(wanted, completions);
            let have = wanted.overlap(succeeded);
            !wanted.is_empty() && (have == wanted.len() || count.is_some_and(|count| have >= count))
        }
        (None, Some(count)) => succeeded.len() >= count,
        (None, None) => false,
    })?;
    (!succeeded.is_empty()).then(|| format!("Matched rules at index {met}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn failed(code: i32, condition: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "status": {"phase": "Failed",
            "conditions": [{"type": condition, "status": "True"}],
            "containerStatuses": [{"name": "c", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                "state": {"terminated": {"exitCode": code}}}]}}))
        .unwrap()
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [3]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 2]}},
        ]}))
        .unwrap();
        let judge = |code, condition| super::judge(Some(&policy), &failed(code, condition));
        assert_eq!(judge(3, "DisruptionTarget"), Failure::Ignored);
        let message = "Container c for pod ns/p failed with exit code 3 matching FailJob rule at index 1";
        assert_eq!(judge(3, "Other"), Failure::FailsJob(message.into()));
        assert_eq!(judge(9, "Other"), Failure::FailsIndex);
        assert_eq!(judge(1, "Other"), Failure::Counts);
        assert_eq!(judge(0, "Other"), Failure::Counts, "a success is no failure");
        assert_eq!(super::judge(None, &failed(3, "Other")), Failure::Counts);
    }

    #[test]
    fn success_rules_ask_for_indexes_or_a_number_of_them() {
        let met = |rules: Value, succeeded: &str| {
            let policy: SuccessPolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
            super::met(Some(&policy), 10, &Indexes::parse(succeeded, 10))
        };
        let rules = json!([{"succeededIndexes": "0-2"}, {"succeededCount": 5}]);
        assert_eq!(met(rules.clone(), "0,1"), None);
        assert_eq!(met(rules.clone(), "0-2").as_deref(), Some("Matched rules at index 0"));
        assert_eq!(met(rules, "1-5").as_deref(), Some("Matched rules at index 1"));
        let rules = json!([{"succeededIndexes": "0-4", "succeededCount": 2}]);
        assert_eq!(met(rules.clone(), "4-9"), None);
        assert_eq!(met(rules, "3-9").as_deref(), Some("Matched rules at index 0"));
        assert_eq!(super::met(None, 10, &Indexes::parse("0-9", 10)), None);
    }
}
