//! What is derived for peers says what was written, goes on after a restart, and does not grow with history.
mod support;

use crdt::{Actor, Document};
use eyot_store::{Backend, Content, Numbered, Op, Replica, Revision, Store, Txn};
use serde_json::{Value, json};
use std::time::Duration;
use support::open;

const KEY: &str = "/registry/configmaps/default/c";

fn config(uid: &str, n: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "uid": uid}, "data": {"n": n.to_string()}})
}

async fn write(store: &Store, op: Op) -> Revision {
    store.txn(Txn { then: vec![op], ..Txn::default() }).await.unwrap().revision
}

async fn put(store: &Store, key: &str, value: &Value) -> Revision {
    write(store, Op::Put { key: key.to_owned().into(), value: value.to_string().into(), lease: None }).await
}

/// Waits until a revision is derived, then all rows of a key.
async fn rows(store: &Store, key: &str, at: Revision) -> Vec<Numbered> {
    for _ in 0..1000 {
        if store.derived() >= at.get() {
            return store.changes_of(key.as_bytes()).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("revision {at} was not derived in ten seconds");
}

fn read(rows: &[Numbered]) -> Option<Value> {
    Document::load(Actor([1; 16]), rows.iter().map(|row| &row.bytes[..])).unwrap().view().value
}

#[tokio::test]
async fn changes_say_what_was_written_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, KEY, &config("u1", 1)).await;
    let second = put(&store, KEY, &config("u1", 2)).await;
    let before = rows(&store, KEY, second).await;
    assert_eq!(read(&before), Some(config("u1", 2)));
    put(&store, KEY, &config("u1", 3)).await;
    let actor = store.actor();
    store.close().await.unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.actor(), actor);
    let last = put(&store, KEY, &config("u1", 4)).await;
    let after = rows(&store, KEY, last).await;
    assert_eq!(read(&after), Some(config("u1", 4)));
    let newer = store.changes_since(before.last().unwrap().number, 100).await.unwrap();
    assert!(!newer.is_empty() && newer.iter().all(|row| row.number > before.last().unwrap().number));
}

#[tokio::test]
async fn history_is_folded() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut last = Revision::ZERO;
    for n in 0..300 {
        last = put(&store, KEY, &config("u1", n)).await;
    }
    let rows = rows(&store, KEY, last).await;
    assert!(rows.len() <= 65, "{} rows", rows.len());
    assert_eq!(read(&rows), Some(config("u1", 299)));
}

#[tokio::test]
async fn each_life_has_its_own_document_and_tombstone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let born = put(&store, KEY, &config("u1", 1)).await;
    rows(&store, KEY, born).await;
    write(&store, Op::Delete { key: KEY.into() }).await;
    let again = put(&store, KEY, &config("u2", 2)).await;
    let rows = rows(&store, KEY, again).await;
    let lives: Vec<_> = rows.iter().map(|row| (row.life.as_str(), row.content)).collect();
    assert_eq!(lives, [("u1", Content::Tombstone), ("u2", Content::Change)]);
    assert_eq!(read(&rows[1..]), Some(config("u2", 2)));
}

#[tokio::test]
async fn heartbeats_are_registers_and_bookkeeping_stays_here() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (beat, local) = ("/registry/leases/kube-node-lease/n", "/registry/ranges/serviceips");
    put(&store, local, &json!({"a": 1})).await;
    put(&store, beat, &json!({"n": 1})).await;
    let last = put(&store, beat, &json!({"n": 2})).await;
    let beats = rows(&store, beat, last).await;
    assert_eq!(beats.len(), 1);
    assert_eq!((beats[0].content, &beats[0].bytes[..]), (Content::Register, &br#"{"n":2}"#[..]));
    assert!(rows(&store, local, last).await.is_empty());
}
