//! Who belongs to the cluster, out of `servers.eyot.dev` objects as they lie in the store: links must be kept before
//! there is an API.
use super::sites::{self, Known};
use crate::site::Site;
use crate::trust::Trust;
use bytes::Bytes;
use crdt::{Actor, HybridClock, Vector};
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use store::{Backend, Range, Replica, Store, WatchFrom};
use sync::Member;
use tokio::sync::watch;

/// Where the objects lie.
pub const PREFIX: &str = "/registry/eyot.dev/servers/";
/// Who is absent is judged again this often.
const JUDGE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

/// The part of a Server's spec that is read before there is an API.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    pub number: u16,
    pub site: String,
    pub address: Option<String>,
    pub incarnation: Option<String>,
    #[serde(rename = "serviceIPs", default)]
    pub service_ips: Vec<String>,
    #[serde(default)]
    pub node_ports: Vec<String>,
    #[serde(rename = "podCIDRs", default)]
    pub pod_cidrs: Vec<String>,
    #[serde(default)]
    pub service_account_keys: Vec<String>,
    #[serde(default)]
    pub authority: String,
    /// Numbers that it gives to servers that it admits; none: it has told of none.
    pub numbers: Option<Vec<String>>,
}

/// What this server knows of itself before there are objects.
#[derive(Clone)]
pub struct Own {
    pub site: Site,
    /// A server that was not heard of for so long is not waited for: when it comes back it may have to take over a store.
    absent_after: Duration,
    /// The certificate of its intermediate CA.
    authority: String,
    /// It has had everything of the server that admitted it: from then on the objects alone say who is a member.
    pub met: Arc<AtomicBool>,
}

impl Own {
    pub fn new(site: Site, absent_after: Duration, authority: &str) -> Self {
        let met = Arc::new(AtomicBool::new(site.synced));
        Self { site, absent_after, authority: authority.to_owned(), met }
    }
}

/// Members as they are now, with what concerns their sites, and what keeps both so. Their certificates hold as long.
pub async fn follow(
    store: Arc<Store>,
    own: Own,
    trust: Arc<Trust>,
) -> anyhow::Result<(Following, impl Future<Output = ()>)> {
    let known = read(&store, &own).await?;
    trust.set(known.iter().map(|known| &*known.authority));
    let sender = watch::Sender::new(known.iter().map(|known| known.member.clone()).collect());
    let all = watch::Sender::new(known);
    let following = Following { members: sender.subscribe(), known: all.subscribe() };
    let task = async move {
        loop {
            if let Err(error) = follow_once(&store, &own, &trust, &sender, &all).await {
                tracing::debug!(%error, "following the cluster's servers; trying again");
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    Ok((following, task))
}

/// What [`follow`] keeps up to date.
pub struct Following {
    pub members: watch::Receiver<Vec<Member>>,
    pub known: watch::Receiver<Vec<Known>>,
}

async fn follow_once(
    store: &Arc<Store>,
    own: &Own,
    trust: &Trust,
    sender: &watch::Sender<Vec<Member>>,
    all: &watch::Sender<Vec<Known>>,
) -> store::Result<()> {
    let mut watch = store.watch(Range::prefix(PREFIX), WatchFrom::Now).await?;
    loop {
        let known = read(store, own).await?;
        trust.set(known.iter().map(|known| &*known.authority));
        let members: Vec<Member> = known.iter().map(|known| known.member.clone()).collect();
        all.send_replace(known);
        sender.send_if_modified(|known| std::mem::replace(known, members.clone()) != members);
        if let Ok(item) = tokio::time::timeout(JUDGE, watch.next()).await {
            item.transpose()?;
        }
    }
}

/// Who belongs to the cluster at this moment.
///
/// # Errors
/// The store can't be read.
pub async fn read(store: &Arc<Store>, own: &Own) -> store::Result<Vec<Known>> {
    let site = &own.site;
    let page = store.list(&Range::prefix(PREFIX), None, 0).await?;
    let vector = store.vector();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(own.absent_after);
    let mut members: Vec<Known> =
        page.entries.iter().filter_map(|entry| member(&entry.value, &vector, since)).collect();
    // Before the objects are there: this server, and whoever admitted it.
    match members.iter_mut().find(|known| known.member.number == site.number) {
        Some(known) => known.member.actor = Some(store.actor()),
        None => members.push(Known {
            authority: own.authority.clone(),
            ..sites::bare(Member {
                number: site.number,
                name: site.name.clone(),
                site: site.site.clone(),
                address: None,
                actor: Some(store.actor()),
                absent: false,
            })
        }),
    }
    let Some(by) = site.admitted_by.as_ref().filter(|_| !own.met.load(Ordering::Relaxed)) else { return Ok(members) };
    match members.iter_mut().find(|known| known.member.number == by.number) {
        Some(known) => known.authority = by.authority.clone(),
        None => members.push(Known {
            authority: by.authority.clone(),
            ..sites::bare(Member {
                number: by.number,
                name: by.name.clone(),
                site: by.site.clone(),
                address: Some(by.address.clone()),
                actor: None,
                absent: false,
            })
        }),
    }
    Ok(members)
}

/// A member out of its object; absent, if it was heard of at some time but not `since` then (since 1970).
fn member(object: &Bytes, vector: &Vector, since: Duration) -> Option<Known> {
    let object: Object = serde_json::from_slice(object).ok()?;
    let actor = object.spec.incarnation.as_deref().and_then(actor);
    let heard_ms = actor.map(|actor| HybridClock::ms(vector.get(actor)));
    let absent = heard_ms.is_some_and(|heard| heard > 0 && u128::from(heard) < since.as_millis());
    let member = Member {
        number: object.spec.number,
        name: object.metadata.name,
        site: object.spec.site.clone(),
        address: object.spec.address.clone(),
        actor,
        absent,
    };
    Some(sites::known(member, &object.spec, &object.metadata.annotations))
}

/// An incarnation as an object has it: hex.
pub fn actor(text: &str) -> Option<Actor> {
    let bytes: Option<Vec<u8>> =
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect();
    bytes?.try_into().ok().map(Actor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crdt::Stamp;

    #[test]
    fn an_incarnation_reads_back() {
        let made = Actor(std::array::from_fn(|at| at as u8 * 16));
        assert_eq!(actor(&made.to_string()), Some(made));
        assert_eq!(actor("0g"), None);
        assert_eq!(actor("00"), None);
    }

    #[test]
    fn who_was_not_heard_for_long_is_absent() {
        let text = Actor([1; 16]).to_string();
        let object = Bytes::from(format!(
            r#"{{"metadata":{{"name":"a"}},"spec":{{"number":2,"site":"s","incarnation":"{text}"}}}}"#
        ));
        let vector: Vector = [Stamp { time: HybridClock::at(1000), actor: Actor([1; 16]) }].into_iter().collect();
        let absent =
            |vector: &Vector, since| member(&object, vector, Duration::from_millis(since)).unwrap().member.absent;
        assert!(!absent(&vector, 1000));
        assert!(absent(&vector, 1001));
        assert!(!absent(&Vector::default(), 9000), "one that never spoke is new");
    }
}
