//! `/containerLogs`: what `kubectl logs` reads.
use super::Server;
use super::body::{Answer, streamed, text};
use super::routes::Query;
use crate::cri::{ContainerState, ContainerStatusRequest, request};
use crate::logs::{self, Options};
use crate::pod::config::log_directory;
use crate::worker::find;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Chunks read ahead of a slow listener.
const AHEAD: usize = 8;

pub async fn answer(server: &Arc<Server>, namespace: &str, pod: &str, container: &str, query: &Query) -> Answer {
    match open(server, namespace, pod, container, query).await {
        Ok(answer) => answer,
        Err(refusal) => *refusal,
    }
}

fn bad(status: StatusCode, message: String) -> Box<Answer> {
    Box::new(text(status, message))
}

async fn open(
    server: &Arc<Server>,
    namespace: &str,
    name: &str,
    container: &str,
    query: &Query,
) -> Result<Answer, Box<Answer>> {
    let options = options(query).map_err(|message| bad(StatusCode::BAD_REQUEST, message))?;
    let pod = server.pod(namespace, name)?;
    if find(&pod, container).is_none() {
        return Err(bad(StatusCode::NOT_FOUND, format!("container \"{container}\" not found in pod \"{name}\"")));
    }
    let current = server.containers(&pod).await?.remove(container);
    let waiting = || {
        let message = format!("container \"{container}\" in pod \"{name}\" is waiting to start: ContainerCreating");
        bad(StatusCode::BAD_REQUEST, message)
    };
    let current = current.ok_or_else(waiting)?;
    let restarts = current.annotations.get(crate::cri::label::RESTART_COUNT);
    let mut restarts: u32 = restarts.and_then(|text| text.parse().ok()).unwrap_or(0);
    let missing = || {
        let message = format!("previous terminated container \"{container}\" in pod \"{name}\" not found");
        bad(StatusCode::BAD_REQUEST, message)
    };
    let previous = query.is_set("previous");
    if previous {
        restarts = restarts.checked_sub(1).ok_or_else(missing)?;
    }
    let dir: PathBuf = log_directory(&pod, &server.context.settings).join(container);
    let path = dir.join(format!("{restarts}.log"));
    if previous && !path.exists() {
        return Err(missing());
    }
    let (sender, receiver) = mpsc::channel(AHEAD);
    let (server, id) = (server.clone(), current.id);
    let tracker = server.context.tracker.clone();
    tracker.spawn(async move {
        let ended = || {
            let (server, id) = (server.clone(), id.clone());
            async move { previous || has_ended(&server, &id).await }
        };
        logs::follow(path, options, sender, ended).await;
    });
    Ok(streamed(receiver))
}

async fn has_ended(server: &Server, id: &str) -> bool {
    let ask = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    match server.context.cri.runtime().container_status(request(ask)).await {
        Ok(answer) => answer.into_inner().status.is_none_or(|s| s.state() == ContainerState::ContainerExited),
        Err(status) => status.code() == tonic::Code::NotFound,
    }
}

fn options(query: &Query) -> Result<Options, String> {
    let number = |name: &str| -> Result<Option<i64>, String> {
        let Some(text) = query.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| format!("{name}: invalid value {text:?}"))
    };
    let since_time = query.get("sinceTime").filter(|text| !text.is_empty());
    let since_time = since_time.map(|text| text.parse::<Timestamp>().map_err(|error| format!("sinceTime: {error}")));
    let seconds = number("sinceSeconds")?.map(|seconds| Timestamp::now() - SignedDuration::from_secs(seconds));
    let stream = match query.get("stream") {
        Some("Stdout") => Some("stdout".to_owned()),
        Some("Stderr") => Some("stderr".to_owned()),
        _ => None,
    };
    Ok(Options {
        tail_lines: number("tailLines")?.and_then(|n| usize::try_from(n).ok()),
        since: since_time.transpose()?.or(seconds),
        timestamps: query.is_set("timestamps"),
        follow: query.is_set("follow"),
        limit_bytes: number("limitBytes")?.and_then(|n| usize::try_from(n).ok()),
        stream,
    })
}
