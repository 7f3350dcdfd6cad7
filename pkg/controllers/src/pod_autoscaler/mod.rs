//! Horizontal pod autoscaling: every few seconds the use of a target's pods is compared with what it should be, and the
//! target is scaled, by `usage` (how many replicas) and `behavior` (how fast).
//!
//! `metrics` reads the three metrics APIs.

mod behavior;
mod metrics;
mod status;
mod usage;

use crate::action::{Action, Note, Patch, Target, Told, merge_diff};
use crate::error::Error;
use crate::execute::Run;
use crate::runner::{Reconciler, Watches};
use api::quantity::Quantity as Exact;
use api::selector::LabelSelector;
use behavior::{History, Limits};
use client::Reflector;
use client::informers::Key;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, ExternalMetricSource, HPAScalingRules, HorizontalPodAutoscaler,
    HorizontalPodAutoscalerSpec, MetricSpec, MetricTarget, ObjectMetricSource, PodsMetricSource,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, PatchParams};
use kube::{Resource, ResourceExt};
use metrics::Source;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use usage::{Metric, Proposal, Samples, Tolerances, Whole};

/// How often each target is looked at; upstream's default.
const PERIOD: Duration = Duration::from_secs(15);
/// A metric this near to its target is on it; upstream's default.
const TOLERANCE: f64 = 0.1;

pub(crate) struct PodAutoscalers {
    pub(crate) autoscalers: Reflector<HorizontalPodAutoscaler>,
    pub(crate) pods: Reflector<Pod>,
    /// What was proposed and done, by autoscaler; gone with it.
    pub(crate) histories: Mutex<HashMap<Key, History>>,
}

/// What stops an autoscaler for this time: a condition and an Event say so.
struct Stop {
    condition: &'static str,
    reason: &'static str,
    message: String,
    event: &'static str,
    /// The Event's own words, where they differ.
    told: String,
}

impl Stop {
    fn scale(error: &impl ToString) -> Self {
        let told = error.to_string();
        let message = format!("the HPA controller was unable to get the target's current scale: {told}");
        Self { condition: "AbleToScale", reason: "FailedGetScale", message, event: "FailedGetScale", told }
    }

    fn metric(reason: &'static str, why: &str) -> Self {
        let message = format!("the HPA was unable to compute the replica count: {why}");
        Self { condition: "ScalingActive", reason, message, event: reason, told: why.to_owned() }
    }
}

/// The outcome of all metrics together.
struct Computed {
    replicas: i32,
    /// The metric that asks for most.
    by: String,
    shown: Vec<Value>,
    failed: Option<Stop>,
}

impl Reconciler for PodAutoscalers {
    const NAME: &'static str = "horizontal-pod-autoscaler";

    fn watch(&self, watches: &mut Watches) {
        watches.own::<HorizontalPodAutoscaler>();
    }

    async fn reconcile(&self, key: Key, run: &mut Run) -> Result<(), Error> {
        let Some(autoscaler) = self.autoscalers.get(&key.0, &key.1) else {
            self.histories.lock().remove(&key);
            return Ok(());
        };
        run.again(PERIOD);
        let now = Timestamp::now();
        let old = autoscaler.status.as_ref().map_or_else(|| json!({}), |status| json!(status));
        let mut new = old.clone();
        new["observedGeneration"] = json!(autoscaler.metadata.generation);
        let mut notes = Vec::new();
        if let Err(stop) = self.scale(&autoscaler, &key, run.client(), &mut new, &mut notes, now).await {
            status::condition(&mut new, stop.condition, false, stop.reason, &stop.message, now);
            notes.push(note(&autoscaler, true, stop.event, stop.told));
        }
        let mut actions: Vec<Action> = notes.into_iter().map(Action::Tell).collect();
        actions.extend(merge_diff(&old, &new).map(|diff| Action::Patch {
            target: Target::of(&*autoscaler),
            patch: Patch::Merge(json!({"metadata": {"uid": autoscaler.metadata.uid}, "status": diff})),
            subresource: Some("status"),
            told: Told::nothing(),
        }));
        run.all(actions).await
    }
}

impl PodAutoscalers {
    async fn scale(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        key: &Key,
        client: &kube::Client,
        status: &mut Value,
        notes: &mut Vec<Note>,
        now: Timestamp,
    ) -> Result<(), Stop> {
        let spec = &autoscaler.spec;
        let target = target(client, &spec.scale_target_ref, &key.0).await.map_err(|error| Stop::scale(&error))?;
        let name = &spec.scale_target_ref.name;
        let scale = target.get_scale(name).await.map_err(|error| Stop::scale(&message(&error)))?;
        let text = "the HPA controller was able to get the target's current scale";
        status::condition(status, "AbleToScale", true, "SucceededGetScale", text, now);
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
        self.histories.lock().entry(key.clone()).or_default().begin(current, now);
        status["currentReplicas"] = current.into();
        let (wanted, why) = self.wanted(autoscaler, key, client, &scale, status, notes, now).await?;
        status["desiredReplicas"] = wanted.into();
        if wanted == current {
            return Ok(());
        }
        let patch = kube::api::Patch::Merge(json!({"spec": {"replicas": wanted}}));
        if let Err(error) = target.patch_scale(name, &PatchParams::default(), &patch).await {
            let error = message(&error);
            return Err(Stop {
                condition: "AbleToScale",
                reason: "FailedUpdateScale",
                message: format!("the HPA controller was unable to update the target scale: {error}"),
                event: "FailedRescale",
                told: format!("New size: {wanted}; reason: {why}; error: {error}"),
            });
        }
        self.histories.lock().entry(key.clone()).or_default().scaled(current, wanted, now);
        let text = format!("the HPA controller was able to update the target scale to {wanted}");
        status::condition(status, "AbleToScale", true, "SucceededRescale", &text, now);
        status["lastScaleTime"] = json!(Time(now));
        notes.push(note(autoscaler, false, "SuccessfulRescale", format!("New size: {wanted}; reason: {why}")));
        Ok(())
    }

    /// How many replicas there shall be, and why.
    #[expect(clippy::too_many_arguments, reason = "one step of `scale`, split off for its length")]
    async fn wanted(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        key: &Key,
        client: &kube::Client,
        scale: &Scale,
        status: &mut Value,
        notes: &mut Vec<Note>,
        now: Timestamp,
    ) -> Result<(i32, String), Stop> {
        let spec = &autoscaler.spec;
        let (min, max) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
        if current == 0 {
            let text = "scaling is disabled since the replica count of the target is zero";
            status::condition(status, "ScalingActive", false, "ScalingDisabled", text, now);
            return Ok((0, String::new()));
        }
        if current > max {
            return Ok((max, "Current number of replicas above Spec.MaxReplicas".to_owned()));
        }
        if current < min {
            return Ok((min, "Current number of replicas below Spec.MinReplicas".to_owned()));
        }
        let computed = self.compute(spec, &key.0, client, scale, now).await?;
        status["currentMetrics"] = json!(computed.shown);
        let all_failed = computed.shown.is_empty();
        if let Some(stop) = computed.failed {
            if all_failed || computed.replicas < current {
                return Err(stop);
            }
            // The others suffice to go up.
            notes.push(note(autoscaler, true, stop.event, stop.told));
        }
        let text = format!("the HPA was able to successfully calculate a replica count from {}", computed.by);
        status::condition(status, "ScalingActive", true, "ValidMetricFound", &text, now);
        let limits = Limits { min, max, behavior: spec.behavior.as_ref() };
        let mut histories = self.histories.lock();
        let history = histories.entry(key.clone()).or_default();
        let decision = behavior::decide(history, current, computed.replicas, &limits, now);
        status::said(status, "AbleToScale", &decision.able_to_scale, now);
        status::said(status, "ScalingLimited", &decision.scaling_limited, now);
        let why = match computed.replicas > current {
            true => format!("{} above target", computed.by),
            false => "All metrics below target".to_owned(),
        };
        Ok((decision.replicas, why))
    }

    /// The highest that any metric asks for.
    async fn compute(
        &self,
        spec: &HorizontalPodAutoscalerSpec,
        namespace: &str,
        client: &kube::Client,
        scale: &Scale,
        now: Timestamp,
    ) -> Result<Computed, Stop> {
        let text = scale.status.as_ref().and_then(|status| status.selector.as_deref()).unwrap_or_default();
        if text.is_empty() {
            return Err(invalid_selector(
                "the HPA target's scale is missing a selector",
                "SelectorRequired",
                "selector is required",
            ));
        }
        let selector = LabelSelector::parse(text).map_err(|error| {
            let why = format!("couldn't convert selector into a corresponding internal selector object: {error}");
            invalid_selector(&why, "InvalidSelector", &why)
        })?;
        let pods = self.pods.select(namespace, |pod| selector.matches(pod.labels()));
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
        let running = scale.status.as_ref().map_or(current, |status| status.replicas);
        let source = Source { client, namespace, selector: text };
        let seen = Seen { source, pods: &pods, current, running, tolerances: tolerances(spec), now };
        let mut computed = Computed { replicas: 0, by: String::new(), shown: Vec::new(), failed: None };
        for metric in spec.metrics.iter().flatten() {
            match seen.one(metric).await {
                Err(stop) => computed.failed = computed.failed.or(Some(stop)),
                Ok(One { replicas, by, shown }) => {
                    computed.shown.push(shown);
                    if computed.by.is_empty() || replicas > computed.replicas {
                        (computed.replicas, computed.by) = (replicas, by);
                    }
                }
            }
        }
        Ok(computed)
    }
}

/// What metrics are measured against.
struct Seen<'a> {
    source: Source<'a>,
    pods: &'a [Arc<Pod>],
    /// Replicas that are asked for, and that there are.
    current: i32,
    running: i32,
    tolerances: Tolerances,
    now: Timestamp,
}

/// What one metric asks for, its name, and its place in the status.
struct One {
    replicas: i32,
    by: String,
    shown: Value,
}

impl Seen<'_> {
    async fn one(&self, metric: &MetricSpec) -> Result<One, Stop> {
        if let Some(source) = &metric.resource {
            return self.of_resource(&source.name, None, &source.target).await;
        }
        if let Some(source) = &metric.container_resource {
            return self.of_resource(&source.name, Some(&source.container), &source.target).await;
        }
        if let Some(source) = &metric.pods {
            let one = self.of_pods(source).await;
            return one.map_err(|why| stop("FailedGetPodsMetric", "failed to get pods metric value", &why));
        }
        if let Some(source) = &metric.object {
            let one = self.of_object(source).await;
            return one.map_err(|why| stop("FailedGetObjectMetric", "failed to get object metric value", &why));
        }
        if let Some(source) = &metric.external {
            let what = format!("failed to get {} external metric value", source.metric.name);
            return self.external(source).await.map_err(|why| stop("FailedGetExternalMetric", &what, &why));
        }
        Err(Stop::metric("InvalidMetricSourceType", &format!("unknown metric source type {:?}", metric.type_)))
    }

    async fn of_resource(&self, resource: &str, container: Option<&str>, target: &MetricTarget) -> Result<One, Stop> {
        let kind = if container.is_some() { "container resource" } else { "resource" };
        let reason = if container.is_some() { "FailedGetContainerResourceMetric" } else { "FailedGetResourceMetric" };
        let failed = |why: String| stop(reason, &format!("failed to get {resource} utilization"), &why);
        let metric = Metric { resource, container, target: goal(target).map_err(failed)? };
        let samples = self.source.resource(&metric).await.map_err(failed)?;
        let proposal = self.propose(&metric, samples).map_err(failed)?;
        let by = match proposal.utilization {
            Some(_) => format!("{resource} {kind} utilization (percentage of request)"),
            None => format!("{resource} {kind}"),
        };
        Ok(One { replicas: proposal.replicas, by, shown: status::metric(&metric, &proposal) })
    }

    fn propose(&self, metric: &Metric<'_>, samples: Samples) -> Result<Proposal, String> {
        usage::propose(metric, self.pods, samples, self.current, self.tolerances, self.now)
    }

    async fn of_pods(&self, source: &PodsMetricSource) -> Result<One, String> {
        let metric = Metric { resource: "", container: None, target: goal(&source.target)? };
        let proposal = self.propose(&metric, self.source.of_pods(&source.metric).await?)?;
        let current = status::whole(proposal.average_milli, Whole::Average(0));
        let shown = json!({"type": "Pods", "pods": {"metric": source.metric, "current": current}});
        Ok(One { replicas: proposal.replicas, by: format!("pods metric {}", source.metric.name), shown })
    }

    async fn of_object(&self, source: &ObjectMetricSource) -> Result<One, String> {
        let target = whole(&source.target)?;
        let milli = self.source.of_object(&source.described_object, &source.metric).await?;
        let (replicas, shown) = self.whole(milli, target)?;
        let shown = json!({"type": "Object", "object": {"metric": source.metric, "current": shown,
            "describedObject": source.described_object}});
        Ok(One { replicas, by: format!("{} metric {}", source.described_object.kind, source.metric.name), shown })
    }

    async fn external(&self, source: &ExternalMetricSource) -> Result<One, String> {
        let target = whole(&source.target)?;
        let (replicas, shown) = self.whole(self.source.external(&source.metric).await?, target)?;
        let shown = json!({"type": "External", "external": {"metric": source.metric, "current": shown}});
        Ok(One { replicas, by: format!("external metric {}", source.metric.name), shown })
    }

    fn whole(&self, milli: i64, target: Whole) -> Result<(i32, Value), String> {
        let counts = (self.current, self.running);
        let (replicas, shown) = usage::propose_whole(milli, target, self.pods, counts, self.tolerances)?;
        Ok((replicas, status::whole(shown, target)))
    }
}

fn stop(reason: &'static str, what: &str, why: &str) -> Stop {
    Stop::metric(reason, &format!("{what}: {why}"))
}

fn whole(target: &MetricTarget) -> Result<Whole, String> {
    let milli = |quantity: &Option<Quantity>| Some(Exact::parse(&quantity.as_ref()?.0).ok()?.milli_value());
    match (milli(&target.average_value), milli(&target.value)) {
        (Some(average), _) => Ok(Whole::Average(average)),
        (None, Some(value)) => Ok(Whole::Value(value)),
        (None, None) => {
            Err("invalid metric source: neither a value target nor an average value target was set".to_owned())
        }
    }
}

fn goal(target: &MetricTarget) -> Result<usage::Target, String> {
    let average = target.average_value.as_ref().and_then(|quantity| Exact::parse(&quantity.0).ok());
    match (average, target.average_utilization) {
        (Some(average), _) => Ok(usage::Target::Average(average.milli_value())),
        (None, Some(percent)) => Ok(usage::Target::Utilization(percent)),
        (None, None) => {
            Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".to_owned())
        }
    }
}

fn tolerances(spec: &HorizontalPodAutoscalerSpec) -> Tolerances {
    let of = |rules: Option<&HPAScalingRules>| {
        let given: Option<&Quantity> = rules.and_then(|rules| rules.tolerance.as_ref());
        given.and_then(|quantity| Exact::parse(&quantity.0).ok()).map_or(TOLERANCE, |exact| exact.to_f64())
    };
    let behavior = spec.behavior.as_ref();
    Tolerances {
        up: of(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
        down: of(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
    }
}

/// The target's API, found by its kind.
async fn target(
    client: &kube::Client,
    reference: &CrossVersionObjectReference,
    namespace: &str,
) -> Result<Api<DynamicObject>, String> {
    Ok(Api::namespaced_with(client.clone(), namespace, &resource_of(client, reference).await?))
}

/// How the API names the kind of an object.
async fn resource_of(client: &kube::Client, reference: &CrossVersionObjectReference) -> Result<ApiResource, String> {
    let version = reference.api_version.as_deref().unwrap_or("v1");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = GroupVersionKind::gvk(group, version, &reference.kind);
    kube::discovery::pinned_kind(client, &kind).await.map(|(resource, _)| resource).map_err(|error| message(&error))
}

fn invalid_selector(message: &str, event: &'static str, told: &str) -> Stop {
    let (message, told) = (message.to_owned(), told.to_owned());
    Stop { condition: "ScalingActive", reason: "InvalidSelector", message, event, told }
}

/// What the API answered.
fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn note(autoscaler: &HorizontalPodAutoscaler, warning: bool, reason: &'static str, message: String) -> Note {
    Note { about: autoscaler.object_ref(&()), warning, reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read() {
        let target = |json: Value| serde_json::from_value::<MetricTarget>(json).unwrap();
        let percent = target(json!({"type": "Utilization", "averageUtilization": 50}));
        assert_eq!(goal(&percent), Ok(usage::Target::Utilization(50)));
        assert!(whole(&percent).is_err());
        let average = target(json!({"type": "AverageValue", "averageValue": "1Ki"}));
        assert_eq!(goal(&average), Ok(usage::Target::Average(1_024_000)));
        assert_eq!(whole(&average), Ok(Whole::Average(1_024_000)));
        assert_eq!(whole(&target(json!({"type": "Value", "value": "3"}))), Ok(Whole::Value(3_000)));
    }
}
