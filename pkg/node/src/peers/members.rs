//! Who belongs to the cluster, out of `servers.eyot.dev` objects as they lie in the store: links must be kept before
//! there is an API.
use crate::site::Site;
use bytes::Bytes;
use crdt::{Actor, HybridClock, Vector};
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use store::{Backend, Range, Replica, Store, WatchFrom};
use sync::Member;
use tokio::sync::watch;

/// Where the objects lie.
pub const PREFIX: &str = "/registry/eyot.dev/servers/";
/// A server that has not been heard of for so long is no longer waited for: it gets whole documents when it comes back.
const ABSENT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Who is absent is judged again this often.
const JUDGE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

/// The part of a Server's spec that links need.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    pub number: u16,
    pub site: String,
    pub address: Option<String>,
    pub incarnation: Option<String>,
}

/// Members as they are now, and what keeps them so.
pub async fn follow(
    store: Arc<Store>,
    site: Site,
) -> anyhow::Result<(watch::Receiver<Vec<Member>>, impl Future<Output = ()>)> {
    let (sender, receiver) = watch::channel(read(&store, &site).await?);
    let task = async move {
        loop {
            if let Err(error) = follow_once(&store, &site, &sender).await {
                tracing::debug!(%error, "following the cluster's servers; trying again");
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    Ok((receiver, task))
}

async fn follow_once(store: &Arc<Store>, site: &Site, sender: &watch::Sender<Vec<Member>>) -> store::Result<()> {
    let mut watch = store.watch(Range::prefix(PREFIX), WatchFrom::Now).await?;
    loop {
        let members = read(store, site).await?;
        sender.send_if_modified(|known| std::mem::replace(known, members.clone()) != members);
        if let Ok(item) = tokio::time::timeout(JUDGE, watch.next()).await {
            item.transpose()?;
        }
    }
}

async fn read(store: &Arc<Store>, site: &Site) -> store::Result<Vec<Member>> {
    let page = store.list(&Range::prefix(PREFIX), None, 0).await?;
    let vector = store.vector();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let mut members: Vec<Member> =
        page.entries.iter().filter_map(|entry| member(&entry.value, &vector, now_ms)).collect();
    // Before the objects are there: this server, and whoever admitted it.
    let own = Member {
        number: site.number,
        name: site.name.clone(),
        site: site.site.clone(),
        address: None,
        actor: Some(store.actor()),
        absent: false,
    };
    match members.iter_mut().find(|member| member.number == site.number) {
        Some(member) => member.actor = own.actor,
        None => members.push(own),
    }
    if let Some(by) = site.admitted_by.as_ref().filter(|by| members.iter().all(|member| member.number != by.number)) {
        members.push(Member {
            number: by.number,
            name: by.name.clone(),
            site: by.site.clone(),
            address: Some(by.address.clone()),
            actor: None,
            absent: false,
        });
    }
    Ok(members)
}

fn member(object: &Bytes, vector: &Vector, now_ms: u64) -> Option<Member> {
    let object: Object = serde_json::from_slice(object).ok()?;
    let actor = object.spec.incarnation.as_deref().and_then(actor);
    let heard_ms = actor.map(|actor| HybridClock::ms(vector.get(actor)));
    let absent = heard_ms.is_some_and(|heard| heard > 0 && now_ms.saturating_sub(heard) > ABSENT.as_millis() as u64);
    Some(Member {
        number: object.spec.number,
        name: object.metadata.name,
        site: object.spec.site,
        address: object.spec.address,
        actor,
        absent,
    })
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
    fn who_was_not_heard_for_a_week_is_absent() {
        let text = Actor([1; 16]).to_string();
        let object = Bytes::from(format!(
            r#"{{"metadata":{{"name":"a"}},"spec":{{"number":2,"site":"s","incarnation":"{text}"}}}}"#
        ));
        let vector: Vector = [Stamp { time: HybridClock::at(1000), actor: Actor([1; 16]) }].into_iter().collect();
        let week = ABSENT.as_millis() as u64;
        assert!(!member(&object, &vector, 1000 + week).unwrap().absent);
        assert!(member(&object, &vector, 1001 + week).unwrap().absent);
        assert!(!member(&object, &Vector::default(), week * 9).unwrap().absent, "one that never spoke is new");
    }
}
