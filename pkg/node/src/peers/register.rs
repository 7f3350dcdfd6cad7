//! `servers.eyot.dev` as it is written: through the API; or, in a server that runs none, into the store itself.
use super::members::PREFIX;
use client::kube::api::{Api as KubeApi, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use client::kube::{self, Client};
use serde_json::{Value, json};
use std::sync::Arc;
use store::{Backend, Compare, Op, Revision, Store, Txn};

const DEFINITION: &str = include_str!("../../../../embedded/crds/servers.yaml");
/// Where the kind is defined.
const DEFINITIONS: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/";
const MANAGER: &str = "eyot";
/// A write that others came before is tried again so often.
const TRIES: usize = 8;

/// Where Server objects are written.
#[derive(Clone)]
pub enum Register {
    Api(Client),
    Store(Arc<Store>),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is an object of that name already.
    #[error("a server of that name is a member already")]
    Taken,
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("the object at {0} can't be read")]
    Unreadable(String),
    #[error("{0} does not exist")]
    Missing(String),
    #[error("others write {0} all the time")]
    Contended(String),
}

impl Error {
    /// What was to be changed is not there (yet).
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Missing(_) => true,
            Self::Api(kube::Error::Api(status)) => status.code == 404,
            _ => false,
        }
    }
}

/// The client of Server objects.
pub fn servers(client: Client) -> KubeApi<DynamicObject> {
    let kind = GroupVersionKind::gvk("eyot.dev", "v1alpha1", "Server");
    KubeApi::all_with(client, &ApiResource::from_gvk_with_plural(&kind, "servers"))
}

fn definition() -> Value {
    serde_saphyr::from_str(DEFINITION).expect("it was tested")
}

impl Register {
    /// Makes the object of a server that joins.
    ///
    /// # Errors
    /// [`Error::Taken`], or it can't be written.
    pub async fn create(&self, object: &Value) -> Result<(), Error> {
        match self {
            Self::Api(client) => {
                let object: DynamicObject = serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
                let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
                match servers(client.clone()).create(&params, &object).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => Err(Error::Taken),
                    made => Ok(made.map(drop)?),
                }
            }
            Self::Store(store) => {
                change(store, &key(object), |old| match old {
                    Some(_) => Err(Error::Taken),
                    None => Ok(born(object)),
                })
                .await
            }
        }
    }

    /// Sees to it that the kind exists, and that `own` has all of its spec that is given.
    ///
    /// # Errors
    /// It can't be written.
    pub async fn introduce(&self, own: &Value) -> Result<(), Error> {
        match self {
            Self::Api(client) => {
                let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
                let resource = ApiResource::from_gvk_with_plural(&kind, "customresourcedefinitions");
                let definitions: KubeApi<DynamicObject> = KubeApi::all_with(client.clone(), &resource);
                let params = PatchParams::apply(MANAGER).force();
                definitions.patch("servers.eyot.dev", &params, &Patch::Apply(&definition())).await?;
                let name = own["metadata"]["name"].as_str().unwrap_or_default();
                Ok(servers(client.clone()).patch(name, &params, &Patch::Apply(own)).await.map(drop)?)
            }
            Self::Store(store) => {
                // An API server on this store has its own way with what is there.
                let kind = format!("{DEFINITIONS}servers.eyot.dev");
                change(store, &kind, |old| Ok(old.unwrap_or_else(|| born(&definition())))).await?;
                let spec = json!({"spec": own["spec"]});
                change(store, &key(own), |old| Ok(old.map_or_else(|| born(own), |old| merged(&old, &spec)))).await
            }
        }
    }

    /// Changes one object by a merge patch.
    ///
    /// # Errors
    /// It is not there, or can't be written.
    pub async fn patch(&self, name: &str, patch: &Value) -> Result<(), Error> {
        match self {
            Self::Api(client) => {
                let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
                Ok(servers(client.clone()).patch(name, &params, &Patch::Merge(patch)).await.map(drop)?)
            }
            Self::Store(store) => {
                let key = format!("{PREFIX}{name}");
                change(store, &key, |old| match old {
                    Some(old) => Ok(merged(&old, patch)),
                    None => Err(Error::Missing(key.clone())),
                })
                .await
            }
        }
    }

    /// Writes what this server sees of a member.
    ///
    /// # Errors
    /// It is not there, or can't be written.
    pub async fn show(&self, name: &str, status: &Value) -> Result<(), Error> {
        let patch = json!({"status": status});
        match self {
            Self::Api(client) => {
                let (servers, params) = (servers(client.clone()), PatchParams::default());
                Ok(servers.patch_status(name, &params, &Patch::Merge(patch)).await.map(drop)?)
            }
            Self::Store(_) => self.patch(name, &patch).await,
        }
    }
}

fn key(object: &Value) -> String {
    format!("{PREFIX}{}", object["metadata"]["name"].as_str().unwrap_or_default())
}

/// An object with what the API gives it at birth.
fn born(object: &Value) -> Value {
    let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default();
    let birth = json!({"uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": now.to_string(), "generation": 1});
    merged(object, &json!({"metadata": birth}))
}

/// The object after a merge patch; another spec is another generation.
fn merged(object: &Value, patch: &Value) -> Value {
    let mut new = api::patch::merge_patch(object, patch);
    if new["spec"] != object["spec"] {
        new["metadata"]["generation"] = json!(object["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
    }
    new
}

/// Reads, changes and writes one object, if nobody else did meanwhile; else again.
async fn change(
    store: &Arc<Store>,
    key: &str,
    change: impl Fn(Option<Value>) -> Result<Value, Error>,
) -> Result<(), Error> {
    for _ in 0..TRIES {
        let old = store.get(key.as_bytes(), None).await?;
        let revision = old.as_ref().map_or(Revision::ZERO, |old| old.mod_revision);
        let read = |old: &store::Entry| serde_json::from_slice(&old.value).map_err(|_| Error::Unreadable(key.into()));
        let old: Option<Value> = old.as_deref().map(read).transpose()?;
        let new = change(old.clone())?;
        if old.as_ref() == Some(&new) {
            return Ok(());
        }
        let key = bytes::Bytes::copy_from_slice(key.as_bytes());
        let put = Op::Put { key: key.clone(), value: new.to_string().into(), lease: None };
        let compare = vec![Compare::ModRevision { key, revision }];
        if store.txn(Txn { compare, then: vec![put], otherwise: Vec::new() }).await?.succeeded {
            return Ok(());
        }
    }
    Err(Error::Contended(key.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_one() {
        let definition = definition();
        assert_eq!(definition["metadata"]["name"], "servers.eyot.dev");
        let fields =
            definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
                .as_object()
                .unwrap();
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["lag", "lastContactTime", "link", "version", "watermarkTime"]);
        assert!(fields.values().all(|field| field["type"] == "string" && field.get("description").is_some()));
    }

    async fn store() -> (tempfile::TempDir, Register) {
        let dir = tempfile::tempdir().unwrap();
        let registry = apiserver::registry::Registry::builtin(::api::schema::Schemas::builtin());
        let summarize = apiserver::registry::summarize::Summarizer::new(Arc::new(registry));
        let options = store::Options {
            dir: dir.path().join("store"),
            server: 1,
            summarize: Arc::new(summarize),
            keep: store::KEEP,
        };
        let store = tokio::task::spawn_blocking(move || Store::open(options)).await.unwrap().unwrap();
        (dir, Register::Store(store))
    }

    fn own(address: &str) -> Value {
        json!({"apiVersion": "eyot.dev/v1alpha1", "kind": "Server", "metadata": {"name": "a"},
               "spec": {"number": 1, "address": address}})
    }

    #[tokio::test]
    async fn without_an_api_objects_are_born_and_changed_as_the_api_does() {
        let (_dir, register) = store().await;
        let Register::Store(store) = &register else { unreachable!() };
        let read = async || -> Value {
            let entry = store.get(key(&own("")).as_bytes(), None).await.unwrap().unwrap();
            serde_json::from_slice(&entry.value).unwrap()
        };
        register.introduce(&own("x:1")).await.unwrap();
        let first = read().await;
        assert!(first["metadata"]["uid"].is_string() && first["metadata"]["creationTimestamp"].is_string());
        assert!(matches!(register.create(&own("x:1")).await, Err(Error::Taken)));
        register.show("a", &json!({"link": "Self"})).await.unwrap();
        register.patch("a", &json!({"spec": {"numbers": ["2-9"]}})).await.unwrap();
        let before = store.current_revision();
        register.introduce(&own("x:1")).await.unwrap();
        assert_eq!(store.current_revision(), before, "what says so already is not written");
        register.introduce(&own("y:1")).await.unwrap();
        let last = read().await;
        assert_eq!(last["metadata"]["uid"], first["metadata"]["uid"], "one life");
        assert_eq!(last["metadata"]["generation"], 3);
        assert_eq!(last["spec"], json!({"number": 1, "address": "y:1", "numbers": ["2-9"]}));
        assert_eq!(last["status"]["link"], "Self");
        assert!(matches!(register.patch("b", &json!({})).await, Err(Error::Missing(_))));
        store.close().await.unwrap();
    }
}
