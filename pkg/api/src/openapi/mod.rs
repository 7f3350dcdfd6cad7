//! OpenAPI v2 and v3 documents, from the same schemas that decode (`k8s.io/kube-openapi` prescribes their form).
//!
//! kubectl reads them to learn whether the server validates fields, how lists merge, and what `explain` prints.
//! Documents are built when they are first asked for and kept compressed; their hashes come from what they are
//! built from, so the index of all documents builds none of them.
mod definition;
mod descriptions;
mod paths;
mod proto;

use crate::schema::Schemas;
use crate::{GroupVersion, GroupVersionKind};
use bytes::Bytes;
use definition::{Dialect, Renderer};
use descriptions::Descriptions;
use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

/// The media type of the v2 document in protobuf, which client-go asks for.
pub const V2_PROTO: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// What the documents call themselves.
const TITLE: &str = "Kubernetes";
const VERSION: &str = "1.36";

/// One served resource, as much of it as a document tells.
#[derive(Clone, Debug)]
pub struct Resource {
    pub gvk: GroupVersionKind,
    pub list_kind: String,
    pub plural: String,
    pub namespaced: bool,
    /// `get`, `list`, `create`, …
    pub verbs: Vec<&'static str>,
    pub subresources: Vec<Subresource>,
    pub schemas: Arc<Schemas>,
    /// The `openAPIV3Schema` of a custom resource's version, which is published as it was written.
    pub custom: Option<Arc<Value>>,
    /// Of a custom resource, the JSON paths of its field selectors.
    pub selectable_fields: Vec<String>,
}

/// `pods/status`, `deployments/scale`; a verb `create` is a POST.
#[derive(Clone, Debug)]
pub struct Subresource {
    pub name: String,
    /// The kind of its body.
    pub kind: GroupVersionKind,
    pub verbs: Vec<&'static str>,
}

/// A document as it is sent.
#[derive(Clone, Debug)]
pub struct Document {
    /// The body, compressed; to be sent with `Content-Encoding: gzip`.
    pub gzip: Bytes,
    /// Changes with the document; the entity tag without quotes, and the `hash` parameter of the index.
    pub hash: String,
}

impl Document {
    /// The body for a client that takes no gzip.
    pub fn plain(&self) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(&self.gzip[..]).read_to_end(&mut out).expect("we compressed it ourselves");
        out
    }
}

/// The documents of one set of served resources. Make a new one when the set changes.
pub struct Documents {
    groups: BTreeMap<GroupVersion, Vec<Resource>>,
    hashes: OnceLock<BTreeMap<GroupVersion, String>>,
    built: Mutex<BTreeMap<String, Document>>,
}

impl Documents {
    pub fn new(resources: impl IntoIterator<Item = Resource>) -> Self {
        let mut groups: BTreeMap<GroupVersion, Vec<Resource>> = BTreeMap::new();
        for resource in resources {
            groups.entry(resource.gvk.group_version()).or_default().push(resource);
        }
        Self { groups, hashes: OnceLock::new(), built: Mutex::default() }
    }

    /// `/openapi/v3`: where each document is, by `api/v1` or `apis/GROUP/VERSION`.
    pub fn index(&self) -> Value {
        let paths: serde_json::Map<String, Value> = self
            .hashes()
            .iter()
            .map(|(version, hash)| {
                let path = root(version).trim_start_matches('/').to_owned();
                let url = format!("/openapi/v3/{path}?hash={hash}");
                (path, json!({ "serverRelativeURL": url }))
            })
            .collect();
        json!({ "paths": paths })
    }

    /// `/openapi/v3/PATH` with a path of the index, without slashes around it; none: nothing is served there.
    pub fn v3(&self, path: &str) -> Option<Document> {
        let (version, resources) = self.groups.iter().find(|(version, _)| root(version).trim_matches('/') == path)?;
        Some(self.kept(path, self.hashes()[version].clone(), || v3_document(resources)))
    }

    /// `/openapi/v2` in JSON.
    pub fn v2(&self) -> Document {
        self.kept("v2", self.v2_hash(), || v2_document(&self.groups))
    }

    /// `/openapi/v2` in protobuf, [`V2_PROTO`].
    pub fn v2_proto(&self) -> Document {
        self.kept("v2+proto", self.v2_hash(), || proto::document(&self.groups))
    }

    /// Builds under the lock: two clients that ask at once cost one build.
    fn kept(&self, name: &str, hash: String, build: impl FnOnce() -> Vec<u8>) -> Document {
        let mut built = self.built.lock();
        let document = built.entry(name.to_owned()).or_insert_with(|| Document { gzip: compress(&build()), hash });
        document.clone()
    }

    fn hashes(&self) -> &BTreeMap<GroupVersion, String> {
        self.hashes.get_or_init(|| {
            let mut schemas = Digests::default();
            self.groups.iter().map(|(version, of)| (version.clone(), schemas.hash(of))).collect()
        })
    }

    fn v2_hash(&self) -> String {
        let mut hasher = Sha256::new();
        self.hashes().values().for_each(|hash| hasher.update(hash));
        hex(hasher)
    }
}

/// `/api/v1`, `/apis/apps/v1`.
fn root(version: &GroupVersion) -> String {
    if version.group.is_empty() { format!("/api/{version}") } else { format!("/apis/{version}") }
}

fn compress(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("memory takes all writes").into()
}

/// Hashes of the schemas, each computed once: most resources share one set.
#[derive(Default)]
struct Digests(BTreeMap<usize, String>);

impl Digests {
    fn hash(&mut self, resources: &[Resource]) -> String {
        let mut hasher = Sha256::new();
        for r in resources {
            let facts = (
                &r.gvk,
                &r.list_kind,
                &r.plural,
                r.namespaced,
                &r.verbs,
                &r.subresources,
                &r.custom,
                &r.selectable_fields,
            );
            write_debug(&mut hasher, &facts);
            hasher.update(self.of(&r.schemas));
        }
        hex(hasher)
    }

    fn of(&mut self, schemas: &Arc<Schemas>) -> &str {
        self.0.entry(Arc::as_ptr(schemas) as usize).or_insert_with(|| {
            let mut hasher = Sha256::new();
            write_debug(&mut hasher, schemas);
            hex(hasher)
        })
    }
}

fn write_debug(hasher: &mut Sha256, value: &dyn fmt::Debug) {
    struct Sink<'a>(&'a mut Sha256);
    impl fmt::Write for Sink<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.update(text);
            Ok(())
        }
    }
    fmt::write(&mut Sink(hasher), format_args!("{value:?}")).expect("a hasher takes all writes");
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// A JSON object whose values are made one at a time, so that a document is never a tree in memory.
struct Each<F>(F);

impl<F, I> Serialize for Each<F>
where
    F: Fn() -> I,
    I: Iterator<Item = (String, Value)>,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map((self.0)())
    }
}

#[derive(Serialize)]
struct V3<P, S> {
    openapi: &'static str,
    info: Value,
    paths: P,
    components: Components<S>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Components<S> {
    schemas: S,
    security_schemes: Value,
}

fn v3_document(resources: &[Resource]) -> Vec<u8> {
    let texts = Descriptions::load();
    let definitions = closure(resources.iter(), Dialect::V3, &texts);
    let document = V3 {
        openapi: "3.0.0",
        info: info(),
        paths: Each(|| paths::paths(resources, Dialect::V3)),
        components: Components {
            schemas: Each(|| definitions.iter().map(|(name, make)| (name.clone(), make(Dialect::V3)))),
            security_schemes: json!({ "BearerToken": bearer() }),
        },
    };
    serde_json::to_vec(&document).expect("a document is JSON")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct V2<P, S> {
    swagger: &'static str,
    info: Value,
    paths: P,
    definitions: S,
    security_definitions: Value,
    security: Value,
}

fn v2_document(groups: &BTreeMap<GroupVersion, Vec<Resource>>) -> Vec<u8> {
    let texts = Descriptions::load();
    let definitions = closure(groups.values().flatten(), Dialect::V2, &texts);
    let document = V2 {
        swagger: "2.0",
        info: info(),
        paths: Each(|| groups.values().flat_map(|of| paths::paths(of, Dialect::V2))),
        definitions: Each(|| definitions.iter().map(|(name, make)| (name.clone(), make(Dialect::V2)))),
        security_definitions: json!({ "BearerToken": bearer() }),
        security: json!([{ "BearerToken": [] }]),
    };
    serde_json::to_vec(&document).expect("a document is JSON")
}

fn info() -> Value {
    json!({ "title": TITLE, "version": VERSION })
}

fn bearer() -> Value {
    json!({ "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header" })
}

type Make<'a> = Box<dyn Fn(Dialect) -> Value + 'a>;

/// Every definition that the resources need, by name, each with the function that renders it.
fn closure<'a>(
    resources: impl Iterator<Item = &'a Resource>,
    dialect: Dialect,
    texts: &'a Descriptions,
) -> BTreeMap<String, Make<'a>> {
    let mut out: BTreeMap<String, Make<'a>> = BTreeMap::new();
    let mut wanted: BTreeSet<String> = definition::COMMON.iter().map(|name| (*name).to_owned()).collect();
    for resource in resources {
        if let Some(schema) = &resource.custom {
            let name = definition::custom_name(&resource.gvk);
            out.insert(name, Box::new(move |dialect| definition::custom(resource, schema, dialect, texts)));
            let list = definition::custom_list_name(resource);
            out.insert(list, Box::new(move |dialect| definition::custom_list(resource, dialect, texts)));
        }
        let list = GroupVersionKind { kind: resource.list_kind.clone(), ..resource.gvk.clone() };
        let kinds = [&resource.gvk, &list].into_iter().chain(resource.subresources.iter().map(|s| &s.kind));
        wanted.extend(kinds.filter_map(definition::name_of));
    }
    while let Some(name) = wanted.pop_first() {
        if out.contains_key(&name) {
            continue;
        }
        let (make, references): (Make<'a>, _) = match Schemas::builtin().get(&name) {
            Some(found) => {
                let mut renderer = Renderer::new(dialect, texts);
                renderer.definition(found);
                (Box::new(move |dialect| Renderer::new(dialect, texts).definition(found)), renderer.references)
            }
            None => match definition::scalar(&name) {
                Some(make) => {
                    let text = texts.of(&name, "").map(str::to_owned);
                    (Box::new(move |dialect| definition::described(make(dialect), text.as_deref())), BTreeSet::new())
                }
                None => continue,
            },
        };
        wanted.extend(references.into_iter().filter(|name| !out.contains_key(name)));
        out.insert(name, make);
    }
    out
}

#[cfg(test)]
mod tests;
