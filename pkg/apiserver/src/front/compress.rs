//! Large answers, compressed for clients that ask for it; as upstream, only what is read and whole.
use crate::body::{self, Body};
use crate::limits;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use std::io::Write;

/// The client takes gzip.
pub fn accepted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.split(';').next().unwrap_or_default().trim() == "gzip")
}

/// Compresses where it is worth the time.
pub async fn compress(response: Response<Body>) -> Response<Body> {
    let large = response.body().size_hint().exact().is_some_and(|size| size >= limits::COMPRESS_FROM_BYTES as u64);
    if !large || response.status() != StatusCode::OK || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, whole) = response.into_parts();
    let Ok(whole) = whole.collect().await else { return Response::from_parts(parts, body::full("")) };
    let plain = whole.to_bytes();
    let copy = plain.clone();
    // Milliseconds a megabyte: not on a thread that others wait for.
    let zipped = tokio::task::spawn_blocking(move || {
        let mut encoder = GzEncoder::new(Vec::with_capacity(copy.len() / 4), Compression::fast());
        encoder.write_all(&copy).and_then(|()| encoder.finish())
    });
    let bytes = match zipped.await {
        Ok(Ok(zipped)) => {
            parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
            parts.headers.remove(header::CONTENT_LENGTH);
            zipped.into()
        }
        _ => plain,
    };
    Response::from_parts(parts, body::full(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[tokio::test]
    async fn only_large_answers_shrink() {
        let large = "x".repeat(limits::COMPRESS_FROM_BYTES);
        let zipped = compress(Response::new(body::full(large.clone()))).await;
        assert_eq!(zipped.headers()[header::CONTENT_ENCODING], "gzip");
        let bytes = zipped.into_body().collect().await.unwrap().to_bytes();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, large);
        let small = compress(Response::new(body::full("x"))).await;
        assert!(!small.headers().contains_key(header::CONTENT_ENCODING));
    }
}
