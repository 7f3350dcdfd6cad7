//! Upgraded connections: joining two of them until both directions have ended.
use crate::body::{self, Body};
use crate::front::Front;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;

/// How long a client may take to follow its own upgrade.
const UPGRADE: Duration = Duration::from_secs(30);
/// Bytes on their way in each direction.
const BUFFER_BYTES: usize = 32 * 1024;

/// The protocol that a request wants to switch to, in lower case.
pub fn wanted(headers: &HeaderMap) -> Option<String> {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let upgrades =
        connection.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(header::UPGRADE)?.to_str().ok()?;
    upgrades.then(|| protocol.to_ascii_lowercase())
}

/// Takes the client's side of an upgrade out of its request.
pub fn client<B>(request: &mut Request<B>) -> OnUpgrade {
    hyper::upgrade::on(request)
}

/// Waits for an upgrade, within its bound.
pub async fn ready(upgrade: OnUpgrade) -> Option<TokioIo<hyper::upgrade::Upgraded>> {
    match tokio::time::timeout(UPGRADE, upgrade).await {
        Ok(Ok(upgraded)) => Some(TokioIo::new(upgraded)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "an upgrade did not happen");
            None
        }
        Err(_) => None,
    }
}

/// `101 Switching Protocols`.
pub fn switching(protocol: &str) -> Response<Body> {
    let mut response = Response::new(body::full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(protocol) = HeaderValue::from_str(protocol) {
        headers.insert(header::UPGRADE, protocol);
    }
    response
}

/// Carries bytes both ways in a task of its own, until both ends are done or the server stops.
pub(crate) fn join(front: &Arc<Front>, client: OnUpgrade, server: OnUpgrade) {
    let stopping = front.shutdown.clone();
    front.tasks.spawn(async move {
        let carry = async {
            let (Some(mut client), Some(mut server)) = tokio::join!(ready(client), ready(server)) else { return };
            let carried =
                tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_BYTES, BUFFER_BYTES).await;
            if let Err(error) = carried {
                tracing::debug!(%error, "an upgraded connection ended");
            }
        };
        stopping.run_until_cancelled(carry).await;
    });
}
