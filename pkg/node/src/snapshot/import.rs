//! A cluster that moves in: what a real etcd's snapshot holds, as a store of ours. Objects keep their names, uids and
//! history of ownership; protobuf becomes JSON.
use crate::server::FIRST_SERVER;
use anyhow::{Context, bail};
use api::stored::{self, Stored};
use apiserver::registry::Registry;
use apiserver::registry::summarize::Summarizer;
use bytes::Bytes;
use etcd::snapshot::Content;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::{Backend, LeaseId, Op, Store, Txn};

/// Written at once.
const BATCH: usize = 500;
/// Keys that a refusal names.
const NAMED: usize = 3;
/// Where Kubernetes keeps the networks of Services.
const SERVICE_CIDRS: &[u8] = b"/registry/servicecidrs/";

/// What is not taken over: prefixes of keys, and why.
const LEFT: [(&str, &str); 9] = [
    ("compact_rev_key", COMPACTION),
    ("/registry/masterleases/", API_SERVERS),
    ("/registry/leases/kube-system/apiserver-", API_SERVERS),
    ("/registry/ranges/", "maps of Services' addresses and ports, which are made from the Services"),
    ("/registry/leases/kube-node-lease/", "heartbeats of nodes"),
    ("/registry/leases/kube-system/kube-controller-manager", LEADERS),
    ("/registry/leases/kube-system/kube-scheduler", LEADERS),
    ("/registry/leases/kube-system/cloud-controller-manager", LEADERS),
    ("/bootstrap/", "k3s's own certificates"),
];
const COMPACTION: &str = "compaction's mark";
const API_SERVERS: &str = "what API servers say of themselves";
const LEADERS: &str = "leader elections of upstream's components";

/// What was taken over.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// etcd's revision that the snapshot shows.
    pub revision: i64,
    pub keys: usize,
    /// Of those, objects that were protobuf.
    pub decoded: usize,
    /// Keys that were not taken over, by the reason.
    pub left: BTreeMap<&'static str, usize>,
    /// The networks of the cluster's Services: the server must be told the same.
    pub service_cidrs: BTreeSet<String>,
    /// Kinds and versions that this server does not serve, with the number of such objects: they are kept, unseen.
    pub unserved: BTreeMap<String, usize>,
}

/// A key as it will be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    key: Bytes,
    value: Bytes,
    lease: i64,
}

/// Makes a store of what the snapshot holds beside the store in `dir`.
pub fn stage(file: &Path, dir: &Path) -> anyhow::Result<(PathBuf, Imported)> {
    let content = etcd::snapshot::content(file)?;
    let (kept, imported) = plan(&content).with_context(|| file.display().to_string())?;
    let staging = store::snapshot::staging(dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let filled = runtime.block_on(fill(&staging, kept, &content));
    filled.inspect_err(|_| drop(std::fs::remove_dir_all(&staging)))?;
    Ok((staging, imported))
}

/// What will be stored. Everything is judged before anything is written.
fn plan(content: &Content) -> anyhow::Result<(Vec<Kept>, Imported)> {
    let registry = Registry::builtin(api::schema::Schemas::builtin());
    let mut imported = Imported { revision: content.revision, ..Imported::default() };
    let (mut kept, mut encrypted, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
    for entry in content.entries.values() {
        let key = String::from_utf8_lossy(&entry.key).into_owned();
        if let Some((_, why)) = LEFT.iter().find(|(prefix, _)| key.starts_with(prefix)) {
            *imported.left.entry(why).or_default() += 1;
            continue;
        }
        let value = match stored::read(&entry.value) {
            Ok(Stored::Plain) => entry.value.clone(),
            Ok(Stored::Encrypted) => {
                encrypted.push(key);
                continue;
            }
            Ok(Stored::Read(object)) => {
                imported.decoded += 1;
                object.to_string().into()
            }
            Err(error) => {
                unreadable.push(format!("{key} ({error})"));
                continue;
            }
        };
        imported.note(&registry, &entry.key, &value);
        kept.push(Kept { key: entry.key.clone(), value, lease: entry.lease });
    }
    refuse(
        &encrypted,
        "values are encrypted: decrypt them in the old cluster first (put `identity` first in its \
                        EncryptionConfiguration, then `kubectl get secrets -A -o json | kubectl replace -f -`)",
    )?;
    refuse(&unreadable, "values can't be read")?;
    imported.keys = kept.len();
    Ok((kept, imported))
}

fn refuse(keys: &[String], why: &str) -> anyhow::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let more = if keys.len() > NAMED { ", ..." } else { "" };
    bail!("{} {why}: {}{more}", keys.len(), keys[..keys.len().min(NAMED)].join(", "))
}

impl Imported {
    /// Looks at what the server's owner should know of.
    fn note(&mut self, registry: &Registry, key: &[u8], value: &[u8]) {
        #[derive(Default, serde::Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Head {
            api_version: String,
            kind: String,
        }
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct ServiceCidr {
            spec: Networks,
        }
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct Networks {
            cidrs: Vec<String>,
        }
        let Some(resource) = registry.by_key(key) else { return };
        let Head { api_version, kind } = serde_json::from_slice(value).unwrap_or_default();
        if resource.custom.is_none() && api_version != resource.storage_version.to_string() {
            *self.unserved.entry(format!("{api_version} {kind}")).or_default() += 1;
        }
        if key.starts_with(SERVICE_CIDRS) {
            let network: ServiceCidr = serde_json::from_slice(value).unwrap_or_default();
            self.service_cidrs.extend(network.spec.cidrs);
        }
    }
}

async fn fill(staging: &Path, kept: Vec<Kept>, content: &Content) -> anyhow::Result<()> {
    let registry = Arc::new(Registry::builtin(api::schema::Schemas::builtin()));
    let store = Store::open(store::Options {
        dir: staging.to_owned(),
        server: FIRST_SERVER,
        summarize: Arc::new(Summarizer::new(registry)),
        keep: store::KEEP,
    })?;
    let used: HashSet<i64> = kept.iter().map(|entry| entry.lease).collect();
    for (id, left) in content.leases.iter().filter(|(id, _)| used.contains(id)) {
        store.lease_grant(Some(LeaseId(*id)), *left).await?;
    }
    for batch in kept.chunks(BATCH) {
        let put = |Kept { key, value, lease }: &Kept| Op::Put {
            key: key.clone(),
            value: value.clone(),
            lease: content.leases.contains_key(lease).then_some(LeaseId(*lease)),
        };
        store.txn(Txn { then: batch.iter().map(put).collect(), ..Txn::default() }).await?;
    }
    Ok(store.close().await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etcd::proto::mvccpb::KeyValue;
    use serde_json::{Value, json};

    fn content(entries: &[(&'static str, Vec<u8>)]) -> Content {
        let entry = |(key, value): &(&'static str, Vec<u8>)| {
            let entry = KeyValue { key: (*key).into(), value: value.clone().into(), ..KeyValue::default() };
            (Bytes::from_static(key.as_bytes()), entry)
        };
        Content { revision: 9, entries: entries.iter().map(entry).collect(), leases: BTreeMap::new() }
    }

    /// A ConfigMap with a uid, as kube-apiserver stores it.
    fn config_map() -> Vec<u8> {
        let field = |number: u8, content: &[u8]| [&[number << 3 | 2, content.len() as u8], content].concat();
        let meta = [field(1, b"v1"), field(2, b"ConfigMap")].concat();
        let object = field(1, &[field(1, b"a"), field(5, b"u-1")].concat());
        [api::protobuf::MAGIC, &field(1, &meta), &field(2, &object)].concat()
    }

    #[test]
    fn what_moves_in_and_what_does_not() {
        let network =
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "spec": {"cidrs": ["10.9.0.0/16"]}});
        let old = json!({"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget"}).to_string().into_bytes();
        let (kept, imported) = plan(&content(&[
            ("/registry/configmaps/n/a", config_map()),
            ("/registry/servicecidrs/kubernetes", network.to_string().into_bytes()),
            ("/registry/poddisruptionbudgets/n/b", old),
            ("/registry/masterleases/10.0.0.1", b"k8s\0".to_vec()),
            ("compact_rev_key", b"7".to_vec()),
            ("/other", vec![0xff]),
        ]))
        .unwrap();
        assert_eq!((imported.keys, imported.decoded, imported.revision), (4, 1, 9));
        assert_eq!(imported.left.values().sum::<usize>(), 2);
        assert_eq!(imported.service_cidrs, BTreeSet::from(["10.9.0.0/16".to_owned()]));
        assert_eq!(imported.unserved, BTreeMap::from([("policy/v1beta1 PodDisruptionBudget".to_owned(), 1)]));
        let object: Value = serde_json::from_slice(&kept[1].value).unwrap();
        assert_eq!((&kept[1].key[..], &object["metadata"]["uid"]), (&b"/registry/configmaps/n/a"[..], &json!("u-1")));
    }

    #[test]
    fn encrypted_and_unknown_values_are_refused_by_name() {
        let secret = ("/registry/secrets/n/s", b"k8s:enc:aescbc:v1:key1:x".to_vec());
        let error = plan(&content(&[("/registry/configmaps/n/a", config_map()), secret])).unwrap_err().to_string();
        assert!(error.contains("1 values are encrypted") && error.contains("/registry/secrets/n/s"), "{error}");
        let damaged = ("/registry/pods/n/p", b"k8s\0\x0a".to_vec());
        let error = plan(&content(&[damaged])).unwrap_err().to_string();
        assert!(error.contains("/registry/pods/n/p"), "{error}");
    }
}
