//! Graceful node shutdown: before the machine goes down its pods end, the least important first, and the API hears of it
//! (Kubernetes documentation, "Node Shutdowns"). `groups` is pure.
use super::pressure::Eviction;
use super::reference;
use crate::context::Context;
use crate::pod::admit::{CRITICAL, Refusal};
use crate::pod::config::spec;
use crate::pod::status::has_ended;
use crate::statics::full_name;
use client::Reflector;
use k8s_openapi::api::core::v1::Pod;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How often the pods that are to end are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// The texts of upstream's node shutdown manager.
const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// Time that pods of a priority get: from this one on, up to the next (`shutdownGracePeriodByPodPriority`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracePeriod {
    pub priority: i32,
    pub period: Duration,
}

impl GracePeriod {
    /// What `shutdownGracePeriod` and its part `shutdownGracePeriodCriticalPods` stand for; nothing where the whole is
    /// zero.
    pub fn of(whole: Duration, critical: Duration) -> Vec<Self> {
        if whole.is_zero() || critical > whole {
            return Vec::new();
        }
        vec![Self { priority: 0, period: whole - critical }, Self { priority: CRITICAL, period: critical }]
    }
}

/// Somebody who waits until the pods have ended.
pub type Request = oneshot::Sender<()>;

/// Serves requests until nobody can make one any more.
pub async fn run(
    context: Arc<Context>,
    pods: Reflector<Pod>,
    evictions: mpsc::Sender<Eviction>,
    mut requests: mpsc::Receiver<Request>,
) {
    while let Some(request) = requests.recv().await {
        if !context.options.shutdown_grace_periods.is_empty() {
            end_all(&context, &pods, &evictions).await;
        }
        // Nobody waits any more: as good.
        let _ = request.send(());
    }
}

async fn end_all(context: &Arc<Context>, pods: &Reflector<Pod>, evictions: &mpsc::Sender<Eviction>) {
    context.going_down.store(true, Ordering::Release);
    context.status_due.notify_one();
    context.recorder.normal(&reference(context), "NodeShutdown", "Shutdown manager detected shutdown event");
    let here = context.pods_here(pods).into_iter().filter(|pod| !has_ended(pod)).collect();
    for (period, group) in groups(&context.options.shutdown_grace_periods, here) {
        tracing::info!(pods = group.len(), seconds = period.as_secs(), "pods end: the node is shutting down");
        for pod in &group {
            let _ = evictions.send((pod.metadata.uid.clone().unwrap_or_default(), refusal(pod, period))).await;
        }
        let all_ended = async {
            while !group.iter().all(|pod| is_known_to_have_ended(pods, pod)) {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(period, all_ended).await.is_err() {
            tracing::warn!(seconds = period.as_secs(), "pods did not end in their time");
        }
    }
}

fn refusal(pod: &Pod, period: Duration) -> Refusal {
    let own = spec(pod).termination_grace_period_seconds.unwrap_or(30).max(0).unsigned_abs();
    let grace = Duration::from_secs(own).min(period);
    Refusal { reason: REASON, message: MESSAGE.to_owned(), disruption: true, grace, ..Refusal::default() }
}

/// Pods by the period of their priority, the lowest first; those below all periods get the lowest.
fn groups(periods: &[GracePeriod], pods: Vec<Arc<Pod>>) -> Vec<(Duration, Vec<Arc<Pod>>)> {
    let mut periods = periods.to_vec();
    periods.sort_by_key(|period| period.priority);
    let mut groups: Vec<(Duration, Vec<Arc<Pod>>)> = periods.iter().map(|p| (p.period, Vec::new())).collect();
    for pod in pods {
        let priority = spec(&pod).priority.unwrap_or(0);
        let above = periods.partition_point(|period| period.priority <= priority);
        if let Some((_, group)) = groups.get_mut(above.saturating_sub(1)) {
            group.push(pod);
        }
    }
    groups.retain(|(_, group)| !group.is_empty());
    groups
}

/// Whether the API says so: of a static pod, its mirror.
fn is_known_to_have_ended(pods: &Reflector<Pod>, pod: &Pod) -> bool {
    let (namespace, name) = full_name(pod);
    pods.get(&namespace, &name).is_none_or(|now| has_ended(&now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, priority: i32) -> Arc<Pod> {
        let spec = json!({"priority": priority, "containers": [], "terminationGracePeriodSeconds": 7});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("a pod"))
    }

    #[test]
    fn the_least_important_end_first_each_in_the_time_of_their_priority() {
        let seconds = Duration::from_secs;
        let periods = GracePeriod::of(seconds(30), seconds(10));
        let all = vec![pod("critical", CRITICAL + 1), pod("plain", 0), pod("low", -5), pod("high", 1000)];
        let named = |groups: Vec<(Duration, Vec<Arc<Pod>>)>| -> Vec<(u64, Vec<String>)> {
            let names = |pods: Vec<Arc<Pod>>| pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
            groups.into_iter().map(|(period, pods)| (period.as_secs(), names(pods))).collect()
        };
        let words = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        let got = named(groups(&periods, all));
        assert_eq!(got, [(20, words(&["plain", "low", "high"])), (10, words(&["critical"]))]);
        assert!(groups(&[], vec![pod("plain", 0)]).is_empty());
        assert!(GracePeriod::of(seconds(0), seconds(0)).is_empty());
        assert_eq!(refusal(&pod("p", 0), seconds(20)).grace, seconds(7));
        assert_eq!(refusal(&pod("p", 0), seconds(3)).grace, seconds(3));
    }
}
