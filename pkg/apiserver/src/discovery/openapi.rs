//! `/openapi/v2` and `/openapi/v3`: the documents of [`api::openapi`], with entity tags and what caches may keep.
use crate::aggregation::Remotes;
use crate::body::{self, Body};
use crate::registry::{Resource, Served};
use api::openapi::{self, Document, Documents};
use arc_swap::ArcSwapOption;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use std::sync::Arc;

/// What a v2 document in protobuf calls itself in an answer: client-go asks with an `@`, which media types may not
/// have.
const V2_PROTO_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const JSON: &str = "application/json";

/// Keeps the documents of the newest registry.
#[derive(Default)]
pub struct OpenApi {
    cached: ArcSwapOption<(Arc<Served>, Documents)>,
}

impl OpenApi {
    /// Answers `/openapi/…`, of which `parts` are the pieces; none: no such document.
    pub(crate) fn serve(
        &self,
        parts: &[&str],
        query: Option<&str>,
        headers: &HeaderMap,
        served: &Arc<Served>,
        remotes: &Remotes,
    ) -> Option<Response<Body>> {
        let cached = self.documents(served);
        let documents = &cached.1;
        match parts {
            ["openapi", "v2"]
                if accepts(headers, header::ACCEPT, openapi::V2_PROTO)
                    || accepts(headers, header::ACCEPT, V2_PROTO_ANSWER) =>
            {
                Some(answer(&documents.v2_proto(), V2_PROTO_ANSWER, headers))
            }
            ["openapi", "v2"] => Some(answer(&documents.v2(), JSON, headers)),
            ["openapi", "v3"] => Some(body::json(StatusCode::OK, index(documents.index(), remotes).to_string())),
            ["openapi", "v3", path @ ..] => {
                let document = documents.v3(&path.join("/"))?;
                let mut response = answer(&document, JSON, headers);
                if query.is_some_and(|query| query == format!("hash={}", document.hash)) {
                    let forever = HeaderValue::from_static("public, immutable, max-age=31536000");
                    response.headers_mut().insert(header::CACHE_CONTROL, forever);
                }
                Some(response)
            }
            _ => None,
        }
    }

    fn documents(&self, served: &Arc<Served>) -> Arc<(Arc<Served>, Documents)> {
        if let Some(cached) = self.cached.load_full().filter(|cached| Arc::ptr_eq(&cached.0, served)) {
            return cached;
        }
        let virtuals = super::virtuals::resources().iter().filter(|resource| !served.contains_key(&resource.gvr));
        let resources = served.values().chain(virtuals).map(|resource| describe(resource));
        let cached = Arc::new((served.clone(), Documents::new(resources)));
        self.cached.store(Some(cached.clone()));
        cached
    }
}

/// The index with the documents of other servers, which are asked of them.
fn index(mut index: Value, remotes: &Remotes) -> Value {
    for remote in remotes.all() {
        if let Some(url) = &remote.openapi {
            index["paths"][format!("apis/{}/{}", remote.group, remote.version)] = json!({"serverRelativeURL": url});
        }
    }
    index
}

fn describe(resource: &Resource) -> openapi::Resource {
    let subresources = resource.subresources.iter().map(|sub| openapi::Subresource {
        name: sub.name.clone(),
        kind: sub.kind.clone(),
        verbs: sub.verbs.clone(),
    });
    openapi::Resource {
        gvk: resource.gvk(),
        list_kind: resource.list_kind.clone(),
        plural: resource.gvr.resource.clone(),
        namespaced: resource.namespaced,
        verbs: resource.verbs.clone(),
        subresources: subresources.collect(),
        schemas: resource.schemas.clone(),
        custom: resource.custom.as_ref().map(|custom| custom.schema.clone()),
        selectable_fields: if resource.custom.is_some() { resource.selectable_fields.clone() } else { Vec::new() },
    }
}

fn accepts(headers: &HeaderMap, name: header::HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.split(';').next().unwrap_or_default().trim() == wanted)
}

fn answer(document: &Document, media_type: &'static str, headers: &HeaderMap) -> Response<Body> {
    let tag = format!("\"{}\"", document.hash);
    let same = headers.get(header::IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == tag.as_bytes());
    let mut response = if same {
        body::content(StatusCode::NOT_MODIFIED, media_type, "")
    } else if accepts(headers, header::ACCEPT_ENCODING, "gzip") {
        let mut response = body::content(StatusCode::OK, media_type, document.gzip.clone());
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        body::content(StatusCode::OK, media_type, document.plain())
    };
    let answer = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        answer.insert(header::ETAG, tag);
    }
    answer.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_come_with_tags() {
        let openapi = OpenApi::default();
        let served: Arc<Served> = Arc::default();
        let mut headers = HeaderMap::new();
        let get = |path: &str, headers: &HeaderMap| {
            let parts: Vec<&str> = path.split('/').collect();
            openapi.serve(&parts, None, headers, &served, &Remotes::default())
        };
        let first = get("openapi/v3/apis/authorization.k8s.io/v1", &headers).expect("virtual resources are described");
        assert_eq!(first.status(), StatusCode::OK);
        assert!(!first.headers().contains_key(header::CONTENT_ENCODING));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let zipped = get("openapi/v3/apis/authorization.k8s.io/v1", &headers).unwrap();
        assert_eq!(zipped.headers()[header::CONTENT_ENCODING], "gzip");
        headers.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        let same = get("openapi/v3/apis/authorization.k8s.io/v1", &headers).unwrap();
        assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
        assert!(get("openapi/v3/apis/none/v1", &headers).is_none());
    }
}
