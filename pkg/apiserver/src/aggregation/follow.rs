//! The owned task of the aggregation layer: registers what is served here, checks who serves the rest, and
//! publishes it to the front.
use super::availability::{self, Available, Reference};
use super::local::{self, Action, PREFIX};
use super::remote::{Remote, Remotes};
use crate::connect::relay::{Destination, Scheme, relay};
use crate::front::Front;
use crate::request::{MASTERS, User};
use crate::{body, bootstrap};
use api::home::Claim;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::{Compare, Entry, Op, Range, Txn, Watch, WatchFrom};
use tokio_util::sync::CancellationToken;

/// How often everything is checked anew when nothing changes.
const RESYNC: Duration = Duration::from_secs(30);
/// How often while an extension server does not answer, and after errors.
const RETRY: Duration = Duration::from_secs(1);
/// Until a check counts as failed.
const CHECK: Duration = Duration::from_secs(5);
/// Changes of Services and endpoints come in bursts: what comes within this time is looked at once.
const SETTLE: Duration = Duration::from_millis(20);
/// What is read of an extension server's discovery or OpenAPI index.
const DOCUMENT_BYTES: usize = 4 << 20;

const SERVICES: &str = "/registry/services/specs/";
/// The label that names a slice's Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const SLICES: &str = "/registry/endpointslices/";

/// Runs until shutdown.
pub(crate) async fn run(front: Arc<Front>, shutdown: CancellationToken) {
    let mut starting = true;
    let follow = async {
        loop {
            match Follower::follow(&front, &mut starting).await {
                Err(store::Error::Closed) => return,
                result => tracing::debug!(?result, "following APIServices again"),
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    shutdown.run_until_cancelled(follow).await;
}

/// What wakes the follower.
struct Watches(Vec<Box<dyn Watch>>);

impl Watches {
    async fn new(front: &Front) -> store::Result<Self> {
        Ok(Self(vec![front.backend.watch(Range::prefix(PREFIX), WatchFrom::Now).await?]))
    }

    /// Services and their endpoints matter only while some extension server is registered.
    async fn follow_backends(&mut self, front: &Front, wanted: bool) -> store::Result<()> {
        if !wanted {
            self.0.truncate(1);
        } else if self.0.len() == 1 {
            for prefix in [SERVICES, SLICES] {
                self.0.push(front.backend.watch(Range::prefix(prefix), WatchFrom::Now).await?);
            }
        }
        Ok(())
    }

    async fn changed(&mut self) -> store::Result<()> {
        let next = self.0.iter_mut().map(|watch| watch.next());
        let (item, ..) = futures::future::select_all(next).await;
        item.unwrap_or(Err(store::Error::Closed)).map(drop)
    }
}

struct Follower<'a> {
    front: &'a Arc<Front>,
}

impl Follower<'_> {
    async fn follow(front: &Arc<Front>, starting: &mut bool) -> store::Result<()> {
        let mut watches = Watches::new(front).await?;
        let mut registry = front.registry.changes();
        loop {
            let remotes = Follower { front }.reconcile(*starting).await?;
            *starting = false;
            watches.follow_backends(front, remotes > 0).await?;
            let healthy = front.remotes().all().all(|remote| remote.available.status);
            let again = if healthy { RESYNC } else { RETRY };
            tokio::select! {
                changed = watches.changed() => changed?,
                // The registry lives as long as the front.
                _ = registry.changed() => {}
                () = tokio::time::sleep(again) => {}
            }
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// Brings APIServices and the front's view in line with what is there. Returns how many are served elsewhere.
    async fn reconcile(&self, starting: bool) -> store::Result<usize> {
        let stored = self.stored().await?;
        let values: BTreeMap<String, Value> =
            stored.iter().map(|(name, (_, value))| (name.clone(), value.clone())).collect();
        for action in local::plan(&self.front.registry.served(), &values, starting) {
            self.execute(action, &stored).await?;
        }
        let checks =
            stored.iter().filter_map(|(name, (_, value))| Some(self.check(name, value, Reference::of(value)?)));
        let (names, remotes): (Vec<_>, Vec<_>) = futures::future::try_join_all(checks).await?.into_iter().unzip();
        let available: BTreeMap<_, _> =
            names.into_iter().zip(remotes.iter().map(|one| one.available.clone())).collect();
        // Whoever reads that a server is available must get through to it.
        self.front.set_remotes(Remotes::new(remotes));
        for (name, (entry, value)) in &stored {
            let available = available.get(name.as_str()).cloned().unwrap_or_else(Available::local);
            self.report(entry, value, &available).await?;
        }
        Ok(available.len())
    }

    async fn stored(&self) -> store::Result<BTreeMap<String, (Arc<Entry>, Value)>> {
        let page = self.front.backend.list(&Range::prefix(PREFIX), None, 0).await?;
        let read = |entry: Arc<Entry>| {
            let name = std::str::from_utf8(&entry.key).ok()?.strip_prefix(PREFIX)?.to_owned();
            let value = serde_json::from_slice(&entry.value).ok()?;
            Some((name, (entry, value)))
        };
        Ok(page.entries.into_iter().filter_map(read).collect())
    }

    async fn execute(&self, action: Action, stored: &BTreeMap<String, (Arc<Entry>, Value)>) -> store::Result<()> {
        let txn = match action {
            Action::Create(name) => {
                let wanted = local::wanted(&self.front.registry.served());
                let Some((group, version, custom)) = wanted.get(&name) else { return Ok(()) };
                let object = local::object(group, version, *custom);
                let value = bootstrap::newborn(&self.front.cluster_id, &object, jiff::Timestamp::now());
                bootstrap::put(&object.key, &value, store::Revision::ZERO)
            }
            Action::Delete(name) => {
                let Some((entry, _)) = stored.get(&name) else { return Ok(()) };
                guarded(entry, Op::Delete { key: entry.key.clone() })
            }
        };
        // Who was faster has done it, or wakes us again.
        self.front.backend.txn(txn).await.map(drop)
    }

    /// Asks one extension server whether it answers.
    async fn check<'s>(
        &self,
        name: &'s str,
        service: &Value,
        reference: Reference,
    ) -> store::Result<(&'s str, Remote)> {
        let text = |field: &str| service["spec"][field].as_str().unwrap_or_default().to_owned();
        let number = |field: &str| service["spec"][field].as_i64().unwrap_or_default();
        let (group, version) = (text("group"), text("version"));
        let before = self.front.remotes().get(&group, &version).cloned();
        let mut remote = Remote {
            group_priority: number("groupPriorityMinimum"),
            version_priority: number("versionPriority"),
            available: Available::passed(),
            tls: None,
            addresses: Vec::new(),
            resources: before.as_ref().map(|before| before.resources.clone()).unwrap_or_default(),
            openapi: before.and_then(|before| before.openapi.clone()),
            reference,
            group,
            version,
        };
        if let Err(why) = self.reach(&mut remote, service).await? {
            remote.available = why;
        }
        Ok((name, remote))
    }

    async fn reach(&self, remote: &mut Remote, service: &Value) -> store::Result<Result<(), Available>> {
        let Reference { namespace, name, .. } = &remote.reference;
        let backend = &self.front.backend;
        let key = format!("{SERVICES}{namespace}/{name}");
        let found = backend.get(key.as_bytes(), None).await?;
        let found = found.and_then(|entry| serde_json::from_slice::<Value>(&entry.value).ok());
        let slices = backend.list(&Range::prefix(format!("{SLICES}{namespace}/")), None, 0).await?;
        let of_service = |entry: &&Arc<Entry>| {
            entry.summary.labels.iter().any(|(key, value)| &**key == SERVICE_NAME && **value == **name)
        };
        let slices: Vec<Value> =
            slices.entries.iter().filter(of_service).filter_map(|e| serde_json::from_slice(&e.value).ok()).collect();
        match availability::addresses(&remote.reference, found.as_ref(), &slices) {
            Ok(addresses) => remote.addresses = addresses,
            Err(why) => return Ok(Err(why)),
        }
        let failed = |why: String| Available::no("FailedDiscoveryCheck", why);
        match self.front.proxy_identity.client(service, &remote.reference) {
            Ok(tls) => remote.tls = Some(tls),
            Err(error) => return Ok(Err(failed(error.to_string()))),
        }
        let path = format!("/apis/{}/{}", remote.group, remote.version);
        let resources = match self.ask(remote, &path).await {
            Ok(resources) => resources,
            Err(why) => return Ok(Err(failed(why))),
        };
        remote.resources = Arc::new(resources);
        // A server without OpenAPI v3 is served all the same.
        let index = self.ask(remote, "/openapi/v3").await.unwrap_or_default();
        let document = &index["paths"][path.trim_start_matches('/')]["serverRelativeURL"];
        remote.openapi = document.as_str().map(str::to_owned);
        Ok(Ok(()))
    }

    /// A document of the extension server, asked for as the aggregator itself.
    async fn ask(&self, remote: &Remote, path: &str) -> Result<Value, String> {
        let to = remote.addresses.first().cloned().ok_or("no endpoints")?;
        let tls = remote.tls.clone().ok_or("no TLS settings")?;
        let url = format!("https://{}{path}", to.address);
        let missing = |why: &dyn std::fmt::Display| format!("failing or missing response from {url}: {why}");
        let mut request = Request::get(path).header(header::ACCEPT, "application/json");
        if let Some(headers) = request.headers_mut() {
            super::forward::speak_for(
                headers,
                &User { name: "system:kube-aggregator".into(), groups: vec![MASTERS.into()], ..User::default() },
            );
        }
        let request = request.body(body::full("")).map_err(|error| missing(&error))?;
        let ask = async {
            let to = Destination { to, scheme: Scheme::Tls(tls.config, tls.name) };
            let response = relay(self.front, to, request).await.map_err(|status| missing(&status.message))?;
            if response.status() != StatusCode::OK {
                return Err(missing(&format!("bad status from {url}: {}", response.status().as_u16())));
            }
            let whole = http_body_util::Limited::new(response.into_body(), DOCUMENT_BYTES).collect().await;
            let bytes = whole.map_err(|error| missing(&error))?.to_bytes();
            serde_json::from_slice(&bytes).map_err(|error| missing(&error))
        };
        tokio::time::timeout(CHECK, ask).await.unwrap_or_else(|_| Err(format!("timed out waiting for {url}")))
    }

    /// Writes the condition where it differs.
    async fn report(&self, entry: &Entry, service: &Value, available: &Available) -> store::Result<()> {
        // Servers may differ in what they reach: what its home sees is written.
        if !self.front.engine.sites().view().is_home(&Claim::of("APIService", service)) {
            return Ok(());
        }
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let Some(mut new) = available.apply(service, &now) else { return Ok(()) };
        own_status(service, &mut new, &now);
        let value = serde_json::to_vec(&new).expect("a tree is JSON").into();
        let put = Op::Put { key: entry.key.clone(), value, lease: None };
        // A lost race wakes us again.
        self.front.backend.txn(guarded(entry, put)).await.map(drop)
    }
}

fn guarded(entry: &Entry, op: Op) -> Txn {
    let compare = Compare::ModRevision { key: entry.key.clone(), revision: entry.mod_revision };
    Txn { compare: vec![compare], then: vec![op], otherwise: Vec::new() }
}

/// Records who wrote the condition, as for every other write.
fn own_status(old: &Value, new: &mut Value, now: &str) {
    let schemas = api::schema::Schemas::builtin();
    let gvk = api::GroupVersionKind::new("apiregistration.k8s.io", "v1", "APIService");
    let Some(definition) = schemas.for_kind(&gvk) else { return };
    let writer = api::apply::Writer {
        manager: bootstrap::MANAGER,
        api_version: "apiregistration.k8s.io/v1",
        subresource: "status",
        now,
    };
    api::apply::update(Some(old), new, &writer, &definition.ty, schemas);
}
