//! ResourceQuota: what a namespace may take, charged in the very transaction that takes it
//! (`k8s.io/apiserver/pkg/admission/plugin/resourcequota`).
//!
//! Upstream charges before it writes and repairs what failed later; here an object and its charge are stored
//! together or not at all, and so are a deletion and its release.
use super::Attributes;
use super::Operation;
use crate::engine::{Result, from_store};
use api::quantity::Quantity;
use api::quota::{Amounts, Counted, read, show, write};
use serde_json::Value;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use store::{Compare, Entry, Op, Range, Txn};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// Namespaces that are charged at once, at most; two may share a turn.
const TURNS: usize = 64;

/// Charging takes turns in a namespace, so that writers there don't lose races against one another for ever.
pub struct Turns([Arc<Mutex<()>>; TURNS]);

impl Default for Turns {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Arc::default()))
    }
}

impl Turns {
    async fn take(&self, namespace: &str) -> OwnedMutexGuard<()> {
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        self.0[hasher.finish() as usize % TURNS].clone().lock_owned().await
    }
}

/// What a transaction must do besides its own write.
#[derive(Default)]
pub(crate) struct Charge {
    quotas: Vec<(Arc<Entry>, Vec<u8>)>,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Charge {
    /// Adds the charge to a transaction, which then fails if a quota changed meanwhile.
    pub fn join(&self, txn: &mut Txn) {
        for (entry, value) in &self.quotas {
            txn.compare.push(Compare::ModRevision { key: entry.key.clone(), revision: entry.mod_revision });
            txn.then.push(Op::Put { key: entry.key.clone(), value: value.clone().into(), lease: entry.lease });
        }
    }
}

/// A change of what a namespace holds, as quotas see it.
struct Change<'a> {
    counted: &'a Counted,
    /// Whether more use is checked; else only less use counts.
    checked: bool,
    new: Option<&'a Value>,
    old: Option<&'a Value>,
    now: jiff::Timestamp,
}

/// The charge for a write, or for a removal without `new`.
///
/// # Errors
/// 403 for what a quota does not allow.
pub(crate) async fn charge(
    turns: &Turns,
    attributes: &Attributes<'_>,
    new: Option<&Value>,
    old: Option<&Value>,
) -> Result<Charge> {
    let (call, gvr) = (attributes.call, &attributes.resource().gvr);
    let prefix = format!("/registry/resourcequotas/{}/", call.namespace());
    let range = Range::prefix(prefix);
    let list = async || call.backend().list(&range, None, 0).await.map_err(from_store);
    // Events are not counted: they would hold up what they tell about.
    if call.namespace().is_empty() || gvr.resource == "events" || list().await?.entries.is_empty() {
        return Ok(Charge::default());
    }
    let turn = turns.take(call.namespace()).await;
    let counted = Counted::of(&gvr.group, &gvr.resource);
    let change = Change {
        checked: is_checked(attributes, &counted, new, old),
        counted: &counted,
        new,
        old,
        now: (call.engine.clock())(),
    };
    let mut quotas = Vec::new();
    for entry in list().await?.entries {
        let Some(mut quota) = super::cache::object(&entry) else { continue };
        let own = gvr.resource == "resourcequotas"
            && quota["metadata"]["uid"] == new.or(old).unwrap_or(&Value::Null)["metadata"]["uid"];
        let used = change.used(&quota).map_err(|why| attributes.forbidden(new.or(old), &why))?;
        if let Some(used) = used.filter(|_| !own) {
            quota["status"]["used"] = write(&used);
            quotas.push((entry, serde_json::to_vec(&quota).expect("a tree is JSON")));
        }
    }
    Ok(Charge { quotas, _turn: Some(turn) })
}

/// Which writes upstream's evaluators handle.
fn is_checked(attributes: &Attributes<'_>, counted: &Counted, new: Option<&Value>, old: Option<&Value>) -> bool {
    let deadline = |pod: Option<&Value>| pod.map(|p| p["spec"]["activeDeadlineSeconds"].is_null());
    match (attributes.operation, counted, attributes.subresource()) {
        (Operation::Create, _, "") => true,
        (Operation::Update, Counted::Pods, "resize") => true,
        (Operation::Update, Counted::Pods, "") => deadline(new) != deadline(old),
        (Operation::Update, Counted::Services | Counted::Claims, "") => true,
        (Operation::Update, Counted::Claims, "status") => true,
        _ => false,
    }
}

impl Change<'_> {
    /// The quota's use after the change; none where that is as before.
    fn used(&self, quota: &Value) -> std::result::Result<Option<Amounts>, String> {
        let (hard, before) = (read(&quota["status"]["hard"]), read(&quota["status"]["used"]));
        let tracked: Vec<&str> = hard.keys().map(String::as_str).filter(|name| self.counted.tracks(name)).collect();
        if tracked.is_empty() {
            return Ok(None);
        }
        let counts = |object: Option<&Value>| object.is_some_and(|object| self.counted.in_scopes(quota, object));
        if self.checked && counts(self.new) {
            self.require(quota, &tracked, &before)?;
        }
        let take = |object: Option<&Value>| match object.filter(|_| counts(object)) {
            Some(object) => self.counted.usage(object, self.now),
            None => Amounts::new(),
        };
        let (more, less) = (take(self.new), take(self.old));
        let amount = |amounts: &Amounts, name: &str| amounts.get(name).copied().unwrap_or_default();
        let mut delta = Amounts::new();
        for name in &tracked {
            let change = amount(&more, name).sub(&amount(&less, name));
            if change.is_negative() || (self.checked && !change.is_zero()) {
                delta.insert((*name).to_owned(), change);
            }
        }
        if delta.is_empty() {
            return Ok(None);
        }
        self.within(quota, &hard, &before, &delta)?;
        let mut used = before;
        for (name, change) in delta {
            let sum = amount(&used, &name).add(&change);
            used.insert(name, if sum.is_negative() { Quantity::ZERO } else { sum });
        }
        Ok(Some(used))
    }

    /// What must be known and said before anything is counted.
    fn require(&self, quota: &Value, tracked: &[&str], used: &Amounts) -> std::result::Result<(), String> {
        let name = quota["metadata"]["name"].as_str().unwrap_or_default();
        if let Some(missing) = self.new.and_then(|new| self.counted.missing(tracked, new)) {
            return Err(format!("failed quota: {name}: {missing}"));
        }
        if tracked.iter().any(|resource| !used.contains_key(*resource)) {
            return Err(format!("status unknown for quota: {name}, resources: {}", tracked.join(",")));
        }
        Ok(())
    }

    fn within(
        &self,
        quota: &Value,
        hard: &Amounts,
        used: &Amounts,
        delta: &Amounts,
    ) -> std::result::Result<(), String> {
        let exceeds = |(name, change): &(&String, &Quantity)| {
            let used = used.get(*name).copied().unwrap_or_default();
            !change.is_negative() && used.add(change) > hard.get(*name).copied().unwrap_or_default()
        };
        let over: Vec<&String> = delta.iter().filter(exceeds).map(|(name, _)| name).collect();
        if over.is_empty() {
            return Ok(());
        }
        let only = |amounts: &Amounts| {
            let some = over.iter().filter_map(|name| Some(((*name).clone(), *amounts.get(*name)?)));
            show(&some.collect())
        };
        let name = quota["metadata"]["name"].as_str().unwrap_or_default();
        Err(format!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            only(delta),
            only(used),
            only(hard)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Verb;
    use crate::engine::testing::{Bench, info};
    use serde_json::json;

    async fn bench(hard: Value, used: Value) -> Bench {
        let bench = Bench::new();
        bench.store("/registry/namespaces/ns", json!({"metadata": {"name": "ns"}})).await;
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}});
        bench.store("/registry/resourcequotas/ns/q", quota).await;
        bench
    }

    async fn used(bench: &Bench) -> Value {
        bench.json(info(Verb::Get, "resourcequotas", "ns", "q"), Value::Null).await.1["status"]["used"].clone()
    }

    async fn create(bench: &Bench, name: &str) -> (u16, Value) {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        bench.json(info(Verb::Create, "configmaps", "ns", ""), map).await
    }

    #[tokio::test]
    async fn an_object_and_its_charge_come_and_go_together() {
        let bench = bench(json!({"configmaps": "2"}), json!({"configmaps": "0"})).await;
        assert_eq!(create(&bench, "a").await.0, 201);
        assert_eq!(create(&bench, "a").await.0, 409, "what is refused is not charged");
        assert_eq!(create(&bench, "b").await.0, 201);
        let (code, status) = create(&bench, "c").await;
        let message = json!(
            "configmaps \"c\" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=2, limited: configmaps=2"
        );
        assert_eq!((code, &status["message"]), (403, &message));
        bench.json(info(Verb::Delete, "configmaps", "ns", "a"), Value::Null).await;
        assert_eq!(used(&bench).await, json!({"configmaps": "1"}));
        assert_eq!(create(&bench, "c").await.0, 201);
    }

    #[tokio::test]
    async fn what_is_not_yet_counted_is_not_guessed() {
        let bench = bench(json!({"configmaps": "2"}), json!({})).await;
        let (code, status) = create(&bench, "a").await;
        let message = "configmaps \"a\" is forbidden: status unknown for quota: q, resources: configmaps";
        assert_eq!((code, status["message"].as_str().unwrap()), (403, message));
    }

    #[tokio::test]
    async fn many_at_once_never_exceed() {
        let bench = bench(json!({"count/configmaps": "7"}), json!({"count/configmaps": "0"})).await;
        let names: Vec<String> = (0..20).map(|i| format!("m{i}")).collect();
        let codes = futures::future::join_all(names.iter().map(|name| create(&bench, name))).await;
        assert_eq!(codes.iter().filter(|(code, _)| *code == 201).count(), 7);
        assert_eq!(used(&bench).await, json!({"count/configmaps": "7"}));
    }

    #[tokio::test]
    async fn a_service_is_charged_for_what_it_becomes() {
        let hard = json!({"services.nodeports": "1"});
        let bench = bench(hard, json!({"services.nodeports": "0"})).await;
        let service = |ty: &str, ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"type": ty, "ports": ports}});
        let (code, _) =
            bench.json(info(Verb::Create, "services", "ns", ""), service("ClusterIP", json!([{"port": 1}]))).await;
        assert_eq!((code, used(&bench).await), (201, json!({"services.nodeports": "0"})));
        let update = |body: Value| bench.json(info(Verb::Update, "services", "ns", "s"), body);
        let two = json!([{"name": "a", "port": 1}, {"name": "b", "port": 2}]);
        assert_eq!(update(service("NodePort", two)).await.0, 403);
        assert_eq!(update(service("NodePort", json!([{"port": 1}]))).await.0, 200);
        assert_eq!(used(&bench).await, json!({"services.nodeports": "1"}));
        assert_eq!(update(service("ClusterIP", json!([{"port": 1}]))).await.0, 200);
        assert_eq!(used(&bench).await, json!({"services.nodeports": "0"}));
    }
}
