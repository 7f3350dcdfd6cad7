//! ConfigMaps and Secrets that pods refer to: fetched when needed, remembered for a while, and kept beside the pod's
//! checkpoint so that pods start when no server answers. `follow` watches those in volumes.
mod follow;

pub use follow::Listener;

use crate::files;
use kube::{Api, Resource};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::HashMap;
use std::fmt::Debug;
use std::path::Path;
use std::time::{Duration, Instant};

/// An object that was fetched this long ago may serve the start of another container.
const FRESH: Duration = Duration::from_secs(1);
/// Objects remembered; past it those not used lately go.
const ENTRIES: usize = 1024;
/// A server that takes longer counts as away.
const TIMEOUT: Duration = Duration::from_secs(5);

/// `(kind, namespace, name)`.
type Key = (String, String, String);

/// The node's view of ConfigMaps and Secrets.
pub struct Objects {
    client: kube::Client,
    known: Mutex<HashMap<Key, Known>>,
    followed: Mutex<follow::Followed>,
}

/// An object as last seen; `None`: there was none.
#[derive(Clone)]
struct Known {
    at: Instant,
    object: Option<Value>,
    /// A watch keeps it up to date.
    live: bool,
}

impl Known {
    fn is_fresh(&self) -> bool {
        self.live || self.at.elapsed() < FRESH
    }
}

/// A kind that pods refer to by name.
pub trait Referred:
    Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
}
impl<K> Referred for K where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
{
}

impl Objects {
    pub fn new(client: kube::Client) -> Self {
        Self { client, known: Mutex::default(), followed: Mutex::default() }
    }

    /// The object, `None` when there is none. While no server answers: as last seen by this pod.
    pub async fn get<K: Referred>(
        &self,
        checkpoint: &Path,
        namespace: &str,
        name: &str,
    ) -> Result<Option<K>, kube::Error> {
        let kind = K::kind(&()).into_owned();
        let key = (kind, namespace.to_owned(), name.to_owned());
        let remembered = self.known.lock().get(&key).filter(|known| known.is_fresh()).map(|known| known.object.clone());
        if let Some(object) = remembered {
            save(checkpoint, &key, object.as_ref());
            return Ok(object.and_then(|object| serde_json::from_value(object).ok()));
        }
        match self.fetch::<K>(namespace, name).await {
            Ok(object) => {
                let value = object.as_ref().and_then(|object| serde_json::to_value(object).ok());
                save(checkpoint, &key, value.as_ref());
                self.remember(key, value);
                Ok(object)
            }
            Err(error) => match load(checkpoint, &key) {
                Some(object) => Ok(Some(object)),
                None => Err(error),
            },
        }
    }

    async fn fetch<K: Referred>(&self, namespace: &str, name: &str) -> Result<Option<K>, kube::Error> {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        match tokio::time::timeout(TIMEOUT, api.get_opt(name)).await {
            Ok(answer) => answer,
            Err(_) => Err(kube::Error::Service("the API server does not answer in time".into())),
        }
    }

    fn remember(&self, key: Key, value: Option<Value>) {
        let mut known = self.known.lock();
        if known.len() >= ENTRIES {
            known.retain(|_, known| known.is_fresh());
        }
        // What a watch has said meanwhile is newer.
        if known.get(&key).is_none_or(|known| !known.live) {
            known.insert(key, Known { at: Instant::now(), object: value, live: false });
        }
    }
}

fn file_name((kind, _, name): &Key) -> String {
    format!("{kind}.{name}.json")
}

fn save(checkpoint: &Path, key: &Key, object: Option<&Value>) {
    let file = checkpoint.join(file_name(key));
    let saved = match object {
        Some(object) => files::write_private(&file, object.to_string().as_bytes()),
        None => files::remove_file(&file),
    };
    if let Err(error) = saved {
        tracing::warn!(file = %file.display(), %error, "checkpoint not written");
    }
}

fn load<K: DeserializeOwned>(checkpoint: &Path, key: &Key) -> Option<K> {
    serde_json::from_slice(&std::fs::read(checkpoint.join(file_name(key))).ok()?).ok()
}
