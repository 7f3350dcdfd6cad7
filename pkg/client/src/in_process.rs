//! The same API without a socket: requests go through authorization and admission like everybody's.
use http::{Request, Response};
use kube::client::Body;
use tower::{BoxError, Service};

/// A client over an in-process router. `service` has bound the caller's identity already.
pub fn in_process<S, B>(service: S) -> kube::Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    kube::Client::new(service, "default")
}
