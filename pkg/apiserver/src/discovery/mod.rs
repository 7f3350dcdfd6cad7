//! Which groups, versions and resources are served: the legacy documents one by one, and the aggregated one
//! (`apidiscovery.k8s.io/v2`) with an ETag. Both follow the registry as custom resources come and go.

mod aggregated;
mod groups;
mod legacy;
pub mod openapi;
pub mod virtuals;

use crate::aggregation::Remotes;
use crate::body::{self, Body};
use crate::registry::Served;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
pub(crate) use groups::priority as version_rank;
use http::{HeaderMap, Response, StatusCode, header};
use std::sync::Arc;

/// Answers discovery and keeps the aggregated document of the newest registry.
pub struct Discovery {
    /// `IP:PORT` that clients outside the cluster are told.
    server_address: String,
    cached: ArcSwapOption<Cached>,
}

struct Cached {
    /// What it was made from, for comparing by identity.
    of: (Arc<Served>, Arc<Remotes>),
    groups: Document,
    core: Document,
}

struct Document {
    etag: header::HeaderValue,
    bytes: Bytes,
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

impl Discovery {
    pub fn new(server_address: String) -> Self {
        Self { server_address, cached: ArcSwapOption::empty() }
    }

    /// Answers `/api…` and `/apis…`, of which `parts` are the pieces.
    pub(crate) fn serve(
        &self,
        parts: &[&str],
        headers: &HeaderMap,
        served: &Arc<Served>,
        remotes: &Arc<Remotes>,
    ) -> Option<Response<Body>> {
        if let ["api"] | ["apis"] = parts
            && wants_aggregated(headers)
        {
            let cached = self.aggregated(served, remotes);
            let document = if parts[0] == "api" { &cached.core } else { &cached.groups };
            return Some(with_etag(document, headers));
        }
        let groups = groups::all(served, remotes);
        let document = match *parts {
            ["api"] => legacy::core_versions(&self.server_address),
            ["api", version] => legacy::resources(&groups, "", version)?,
            ["apis"] => legacy::group_list(&groups),
            ["apis", group] if !group.is_empty() => legacy::group(&groups, group)?,
            ["apis", group, version] if !group.is_empty() => legacy::resources(&groups, group, version)?,
            _ => return None,
        };
        Some(body::json(StatusCode::OK, document.to_string()))
    }

    /// `IP:PORT` that clients outside the cluster are told.
    pub fn server_address(&self) -> &str {
        &self.server_address
    }

    /// Whether any resource of the group is served.
    pub fn serves(&self, group: &str, served: &Served) -> bool {
        let first = api::GroupVersionResource::new(group, "", "");
        served.range(first..).next().is_some_and(|(gvr, _)| gvr.group == group)
            || virtuals::resources().iter().any(|resource| resource.gvr.group == group)
    }

    /// Paths of all groups and versions, for `/`.
    pub(crate) fn paths(&self, served: &Served, remotes: &Remotes) -> Vec<String> {
        let mut paths = vec!["/api".to_owned(), "/apis".to_owned()];
        for group in groups::all(served, remotes) {
            let prefix = if group.name.is_empty() { "/api".to_owned() } else { format!("/apis/{}", group.name) };
            paths.extend(group.versions.iter().map(|version| format!("{prefix}/{}", version.name)));
            if !group.name.is_empty() {
                paths.push(prefix);
            }
        }
        paths
    }

    fn aggregated(&self, served: &Arc<Served>, remotes: &Arc<Remotes>) -> Arc<Cached> {
        let same = |cached: &Arc<Cached>| Arc::ptr_eq(&cached.of.0, served) && Arc::ptr_eq(&cached.of.1, remotes);
        if let Some(cached) = self.cached.load_full().filter(same) {
            return cached;
        }
        let all = groups::all(served, remotes);
        let (core, groups): (Vec<_>, Vec<_>) = all.into_iter().partition(|group| group.name.is_empty());
        let of = (served.clone(), remotes.clone());
        let cached = Arc::new(Cached { of, groups: document(&groups), core: document(&core) });
        self.cached.store(Some(cached.clone()));
        cached
    }
}

fn document(groups: &[groups::Group]) -> Document {
    use sha2::Digest;
    let bytes: Bytes = aggregated::list(groups).to_string().into();
    let digest: String = sha2::Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02X}")).collect();
    let etag = header::HeaderValue::try_from(format!("\"{digest}\"")).expect("hexadecimal is a valid header");
    Document { etag, bytes }
}

/// The client accepts v2 of the aggregated document, in whatever place.
fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|media| {
        let has = |wanted: &str| media.split(';').any(|part| part.trim() == wanted);
        has("g=apidiscovery.k8s.io") && has("v=v2") && has("as=APIGroupDiscoveryList")
    })
}

fn with_etag(document: &Document, headers: &HeaderMap) -> Response<Body> {
    let same = headers.get(header::IF_NONE_MATCH).is_some_and(|etag| etag == document.etag);
    let (code, bytes) =
        if same { (StatusCode::NOT_MODIFIED, Bytes::new()) } else { (StatusCode::OK, document.bytes.clone()) };
    let mut response = body::content(code, AGGREGATED, bytes);
    response.headers_mut().insert(header::ETAG, document.etag.clone());
    response.headers_mut().insert(header::VARY, header::HeaderValue::from_static("Accept"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Resource, Subresource};
    use api::{GroupVersionKind, GroupVersionResource};
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    fn served() -> Arc<Served> {
        let resource = |group: &str, version: &str, name: &str, kind: &str| Resource {
            gvr: GroupVersionResource::new(group, version, name),
            kind: kind.into(),
            list_kind: format!("{kind}List"),
            singular: kind.to_lowercase(),
            short_names: vec!["x".into()],
            categories: vec![],
            namespaced: true,
            verbs: vec!["get", "list"],
            subresources: vec![Subresource {
                name: "scale".into(),
                kind: GroupVersionKind::new("autoscaling", "v1", "Scale"),
                verbs: vec!["get"],
            }],
            selectable_fields: vec![],
            key_prefix: String::new(),
            schemas: Arc::default(),
            custom: None,
            strategy: crate::registry::Strategy::PLAIN,
            storage_version: api::GroupVersion::new(group, version),
            conversion: crate::registry::Conversion::Identity,
        };
        let all = [
            resource("", "v1", "pods", "Pod"),
            resource("autoscaling", "v1", "hpas", "Hpa"),
            resource("autoscaling", "v2", "hpas", "Hpa"),
            resource("apps", "v1", "deployments", "Deployment"),
        ];
        Arc::new(all.into_iter().map(|resource| (resource.gvr.clone(), Arc::new(resource))).collect())
    }

    async fn get(discovery: &Discovery, path: &str, headers: &HeaderMap) -> (StatusCode, Value) {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let response = discovery.serve(&parts, headers, &served(), &Arc::default()).expect(path);
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    #[tokio::test]
    async fn legacy_documents() {
        let discovery = Discovery::new("10.0.0.1:6443".into());
        let none = HeaderMap::new();
        let (_, group) = get(&discovery, "/apis/autoscaling", &none).await;
        assert_eq!(group["preferredVersion"], json!({"groupVersion": "autoscaling/v2", "version": "v2"}));
        let (_, list) = get(&discovery, "/apis/apps/v1", &none).await;
        let scale = json!({"name": "deployments/scale", "singularName": "", "namespaced": true, "kind": "Scale",
            "group": "autoscaling", "version": "v1", "verbs": ["get"]});
        assert_eq!(list["resources"][1], scale);
        let (_, groups) = get(&discovery, "/apis", &none).await;
        let names: Vec<&str> =
            groups["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
        assert_eq!(names[0], "apps", "upstream's order, not the alphabet's");
        assert!(names.contains(&"authorization.k8s.io"));
        assert!(discovery.serve(&["apis", "nothing"], &none, &served(), &Arc::default()).is_none());
        assert!(discovery.serve(&["api", "v2"], &none, &served(), &Arc::default()).is_none());
    }

    #[tokio::test]
    async fn the_aggregated_document_has_an_etag() {
        let discovery = Discovery::new(String::new());
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, format!("{AGGREGATED},application/json").parse().unwrap());
        let (served, remotes) = (served(), Arc::default());
        let first = discovery.serve(&["apis"], &headers, &served, &remotes).unwrap();
        headers.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        let second = discovery.serve(&["apis"], &headers, &served, &remotes).unwrap();
        assert_eq!((first.status(), second.status()), (StatusCode::OK, StatusCode::NOT_MODIFIED));
        headers.remove(header::IF_NONE_MATCH);
        let (_, core) = get(&discovery, "/api", &headers).await;
        let resources = core["items"][0]["versions"][0]["resources"].as_array().unwrap();
        let pods = resources.iter().find(|resource| resource["resource"] == "pods").unwrap();
        assert_eq!(pods["subresources"][0]["subresource"], "scale");
        assert_eq!(resources[0]["resource"], "bindings", "what is not stored is listed too");
    }
}
