//! Two real stores on real links: one that was away until the other had forgotten what it lacks takes over its store.
use async_trait::async_trait;
use bytes::Bytes;
use eyot_sync::{Dialer, Handle, Member, Service, Wire};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::{Backend, KEEP, Op, Options, Range, Replica, Store, Txn};
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;

const PIPE_BYTES: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(60);
/// More than one message, and than one step, of each kind.
const OBJECTS: usize = 700;

struct Nothing;

impl api::summary::Summarize for Nothing {
    fn summarize(&self, _: &[u8], _: &[u8]) -> api::summary::Summary {
        api::summary::Summary::default()
    }
}

/// Leads to the other server, whoever is dialled; not while the cable is out.
#[derive(Default)]
struct Cable {
    other: OnceCell<Handle>,
    cut: watch::Sender<bool>,
}

#[async_trait]
impl Dialer for Cable {
    async fn dial(&self, _: &Member) -> std::io::Result<Box<dyn Wire>> {
        match self.other.get().filter(|_| !*self.cut.borrow()) {
            None => Err(std::io::ErrorKind::ConnectionRefused.into()),
            Some(other) => {
                let (mut near, ours) = tokio::io::duplex(PIPE_BYTES);
                let (mut far, theirs) = tokio::io::duplex(PIPE_BYTES);
                let mut cut = self.cut.subscribe();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.wait_for(|cut| *cut) => {}
                    }
                });
                other.accept(Box::new(theirs), None);
                Ok(Box::new(ours))
            }
        }
    }
}

struct Server {
    number: u16,
    store: Arc<Store>,
    handle: Handle,
    cable: Arc<Cable>,
    members: watch::Sender<Vec<Member>>,
}

impl Server {
    fn start(dir: &Path, number: u16, shutdown: &CancellationToken) -> Self {
        let dir = dir.join(number.to_string());
        let options = Options { dir, server: number, summarize: Arc::new(Nothing), keep: KEEP };
        let (store, cable) = (Store::open(options).unwrap(), Arc::new(Cable::default()));
        let members = watch::Sender::new(Vec::new());
        let options = eyot_sync::Options {
            replica: store.clone(),
            cluster: [7; 16],
            number,
            name: number.to_string(),
            version: "test".into(),
            members: members.subscribe(),
            dialer: cable.clone(),
        };
        let service = Service::new(options, shutdown.clone());
        let handle = service.handle();
        tokio::spawn(service.run());
        Self { number, store, handle, cable, members }
    }

    fn member(&self, absent: bool) -> Member {
        Member {
            number: self.number,
            name: self.number.to_string(),
            site: "s".into(),
            address: Some("there".into()),
            actor: Some(self.store.actor()),
            absent,
        }
    }

    async fn run(&self, ops: Vec<Op>) {
        for then in ops.chunks(50) {
            self.store.txn(Txn { then: then.to_vec(), ..Txn::default() }).await.unwrap();
        }
    }

    async fn all(&self) -> BTreeMap<Bytes, serde_json::Value> {
        let page = self.store.list(&Range::prefix("/"), None, 0).await.unwrap();
        let read = |value: &[u8]| serde_json::from_slice(value).unwrap();
        page.entries.iter().map(|entry| (entry.key.clone(), read(&entry.value))).collect()
    }
}

fn know_each_other(servers: [&Server; 2], absent: bool) {
    for (me, other) in [(servers[0], servers[1]), (servers[1], servers[0])] {
        me.members.send_replace(vec![me.member(false), other.member(absent)]);
    }
}

fn cable_is_out(servers: [&Server; 2], out: bool) {
    for server in servers {
        server.cable.cut.send_replace(out);
    }
}

async fn equal(servers: [&Server; 2]) {
    let begun = Instant::now();
    while servers[0].all().await != servers[1].all().await {
        assert!(begun.elapsed() < PATIENCE, "they do not become equal");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn key(name: &str) -> Bytes {
    format!("/registry/configmaps/default/{name}").into()
}

fn put(name: &str, data: &str) -> Op {
    let value = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"default","uid":"u-{name}"}},"data":{data}}}"#
    );
    Op::Put { key: key(name), value: value.into(), lease: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_too_long_takes_over_a_store_and_keeps_its_writes() {
    let (dir, shutdown) = (tempfile::tempdir().unwrap(), CancellationToken::new());
    let one = Server::start(dir.path(), 1, &shutdown);
    let two = Server::start(dir.path(), 2, &shutdown);
    assert!(one.cable.other.set(two.handle.clone()).is_ok() && two.cable.other.set(one.handle.clone()).is_ok());
    one.run((0..OBJECTS).map(|n| put(&format!("o{n}"), r#"{"a":"0"}"#)).collect()).await;
    know_each_other([&one, &two], false);
    equal([&one, &two]).await;

    cable_is_out([&one, &two], true);
    know_each_other([&one, &two], true);
    one.run(vec![Op::Delete { key: key("o1") }, put("o2", r#"{"a":"one"}"#), put("by-one", r#"{"a":"1"}"#)]).await;
    two.run(vec![put("o1", r#"{"a":"two"}"#), put("o2", r#"{"a":"0","b":"two"}"#), put("by-two", r#"{"a":"2"}"#)])
        .await;
    two.run(vec![Op::Delete { key: key("o3") }]).await;
    for server in [&one, &two] {
        server.store.tick().await.unwrap();
        while server.store.stable(server.store.vector().get(server.store.actor())).await.unwrap() {}
    }
    let before = [one.store.actor(), two.store.actor()];

    cable_is_out([&one, &two], false);
    let mut epoch = two.store.epoch();
    tokio::time::timeout(PATIENCE, epoch.changed()).await.expect("the higher number takes over").unwrap();
    know_each_other([&one, &two], false);
    equal([&one, &two]).await;
    assert_eq!(one.store.actor(), before[0]);
    assert_ne!(two.store.actor(), before[1], "what it said before counts for nothing");
    let all = one.all().await;
    assert_eq!(all[&key("o2")]["data"], serde_json::json!({"a": "one", "b": "two"}));
    assert!(all.contains_key(&key("by-one")) && all.contains_key(&key("by-two")));
    assert!(!all.contains_key(&key("o1")) && !all.contains_key(&key("o3")));
    let lost = two.store.conflicts(0, 10).await.unwrap();
    assert!(lost.iter().any(|record| record.key == key("o1")), "{lost:?}");
    // And they go on as before.
    two.run(vec![put("after", r#"{"a":"2"}"#)]).await;
    one.run(vec![put("after-too", r#"{"a":"1"}"#)]).await;
    equal([&one, &two]).await;
    assert!(one.all().await.contains_key(&key("after")));
    shutdown.cancel();
}
