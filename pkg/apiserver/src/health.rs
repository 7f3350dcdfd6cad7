//! `/healthz`, `/livez`, `/readyz`: each check by itself, or all together
//! (`k8s.io/apiserver/pkg/server/healthz`).
use crate::body::{self, Body};
use crate::front::Front;
use http::{Response, StatusCode};
use std::fmt::Write;

/// The checks, in the order in which they print. `etcd` keeps upstream's name for the store, for those who ask
/// for it or exclude it.
pub const CHECKS: [&str; 6] = [
    "ping",
    "log",
    "etcd",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/bootstrap-controller",
];
/// Fails once shutdown has begun, so that nobody new comes; only readiness knows it.
const SHUTDOWN: &str = "shutdown";

/// Answers `/ENDPOINT` (empty `check`) or `/ENDPOINT/CHECK`; none: there is no such check.
pub async fn serve(front: &Front, endpoint: &str, check: &str, query: &[(String, String)]) -> Option<Response<Body>> {
    let excluded = |name: &str| query.iter().any(|(key, value)| key == "exclude" && value == name);
    let mut names: Vec<&str> = CHECKS.to_vec();
    if endpoint == "readyz" {
        names.push(SHUTDOWN);
    }
    if !check.is_empty() {
        names.retain(|name| *name == check);
        names.first()?;
    }
    let (mut text, mut failed) = (String::new(), Vec::new());
    for name in names {
        if excluded(name) {
            let _ = writeln!(text, "[+]{name} excluded: ok");
        } else if passes(front, name).await {
            let _ = writeln!(text, "[+]{name} ok");
        } else {
            let _ = writeln!(text, "[-]{name} failed: reason withheld");
            failed.push(name);
        }
    }
    let verbose = query.iter().any(|(key, _)| key == "verbose");
    Some(if !failed.is_empty() {
        let _ = writeln!(text, "{endpoint} check failed");
        body::content(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", text)
    } else if verbose && check.is_empty() {
        let _ = writeln!(text, "{endpoint} check passed");
        body::content(StatusCode::OK, "text/plain; charset=utf-8", text)
    } else {
        body::content(StatusCode::OK, "text/plain; charset=utf-8", "ok")
    })
}

/// What was made at birth is there before the first request is served, so its checks only name themselves.
async fn passes(front: &Front, check: &str) -> bool {
    match check {
        "etcd" => front.backend.get(b"/registry/health", None).await.is_ok(),
        SHUTDOWN => !front.shutdown.is_cancelled(),
        _ => true,
    }
}
