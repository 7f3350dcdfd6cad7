//! Bodies: whole, or streamed; and reading a request's within its bound.
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio_util::sync::CancellationToken;

/// The body of every answer.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

/// Any error of a body that somebody else produces.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request as the front takes it, from the network or from this process.
pub type RequestBody = Body;

/// A body that is there already.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Boxes a request's body.
pub fn request<B>(body: B) -> RequestBody
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(std::io::Error::other).boxed_unsync()
}

/// Reads a body of at most `limit_bytes`.
///
/// # Errors
/// 413 when it is longer, 400 when it does not arrive.
pub async fn read(body: RequestBody, limit_bytes: usize) -> Result<Bytes, api::Status> {
    let (mut whole, mut seen) = (BytesMut::new(), 0);
    let mut body = body;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| api::Status::bad_request(format!("error reading the request's body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        seen += data.len();
        if seen <= limit_bytes && whole.is_empty() && body.is_end_stream() {
            // The usual case: one frame, not copied.
            return Ok(data);
        }
        if seen <= limit_bytes {
            whole.extend_from_slice(&data);
        } else {
            // A client that is still sending would not see an answer before the stream is reset: it may go on a
            // little, for nothing.
            whole.clear();
        }
        if seen > limit_bytes + DISCARDED_BYTES {
            break;
        }
    }
    if seen > limit_bytes {
        return Err(api::Status::too_large(format!("Request entity too large: limit is {limit_bytes}")));
    }
    Ok(whole.freeze())
}

/// The body, which ends in good order once `stopping` is cancelled.
pub fn until(body: Body, stopping: CancellationToken) -> Body {
    let frames = http_body_util::BodyStream::new(body).take_until(stopping.cancelled_owned());
    http_body_util::StreamBody::new(frames).boxed_unsync()
}

/// What is read of a body beyond its limit and thrown away.
const DISCARDED_BYTES: usize = 32 * 1024 * 1024;

/// A JSON answer.
pub fn json(code: StatusCode, bytes: impl Into<Bytes>) -> Response<Body> {
    content(code, "application/json", bytes)
}

/// An answer of some media type.
pub fn content(code: StatusCode, media_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media_type));
    response
}

/// A Status as an answer, with `Retry-After` where its details say so.
pub fn status(status: &api::Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, status.to_json());
    if let Some(seconds) = status.details.as_ref().map(|d| d.retry_after_seconds).filter(|&s| s > 0) {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}
