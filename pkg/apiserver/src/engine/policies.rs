//! Follows ValidatingAdmissionPolicies and tells them in their status where their expressions do not fit the types
//! of what they are for (`pkg/controller/validatingadmissionpolicystatus`).
use super::Engine;
use super::write::guarded;
use crate::admission::type_warnings;
use serde_json::{Value, json};
use std::time::Duration;
use store::{Entry, Op, Range, WatchFrom};
use tokio_util::sync::CancellationToken;

const POLICIES: &str = "/registry/validatingadmissionpolicies/";
/// How long to wait before following again after an error.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until shutdown.
pub async fn run(engine: &Engine, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        match shutdown.run_until_cancelled(follow(engine)).await {
            None | Some(Err(store::Error::Closed)) => return,
            Some(result) => tracing::debug!(?result, "following admission policies again"),
        }
        shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await;
    }
}

async fn follow(engine: &Engine) -> store::Result<()> {
    let range = Range::prefix(POLICIES.as_bytes());
    let mut watch = engine.backend.watch(range.clone(), WatchFrom::Now).await?;
    loop {
        for entry in engine.backend.list(&range, None, 0).await?.entries {
            check(engine, &entry).await?;
        }
        match watch.next().await {
            Some(item) => drop(item?),
            None => return Ok(()),
        }
    }
}

/// A write that lost a race is made good by the change that won: it wakes the follower.
async fn check(engine: &Engine, entry: &Entry) -> store::Result<()> {
    let Ok(policy) = serde_json::from_slice::<Value>(&entry.value) else { return Ok(()) };
    let Some(new) = checked(&policy, || type_warnings(&engine.registry, &policy)) else { return Ok(()) };
    let value = serde_json::to_vec(&new).expect("a tree is JSON").into();
    let put = Op::Put { key: entry.key.clone(), value, lease: entry.lease };
    engine.backend.txn(guarded(entry, put)).await.map(drop)
}

/// The policy with its warnings; none where they are of its generation already.
fn checked(policy: &Value, warnings: impl FnOnce() -> Vec<Value>) -> Option<Value> {
    let generation = policy["metadata"]["generation"].as_i64()?;
    let status = &policy["status"];
    if status["observedGeneration"] == generation && status["typeChecking"].is_object() {
        return None;
    }
    let warnings = warnings();
    let mut new = policy.clone();
    if !new["status"].is_object() {
        new["status"] = json!({});
    }
    new["status"]["observedGeneration"] = generation.into();
    new["status"]["typeChecking"] =
        if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_checked_once_a_generation() {
        let policy = json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 1, "conditions": []}});
        let new = checked(&policy, || vec![json!({"fieldRef": "x"})]).unwrap();
        assert_eq!(new["status"]["typeChecking"]["expressionWarnings"][0]["fieldRef"], "x");
        assert_eq!((&new["status"]["observedGeneration"], &new["status"]["conditions"]), (&json!(2), &json!([])));
        assert_eq!(checked(&new, || panic!("nothing changed")), None);
    }
}
