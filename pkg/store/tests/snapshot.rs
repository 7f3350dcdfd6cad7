//! Snapshots: consistent while writing goes on, refused when damaged, and the end of all older revisions.
mod support;

use eyot_store::{Backend, Error, Op, Range, Revision, Store, Txn, WatchFrom, snapshot};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use support::open;

async fn put(store: &Store, keys: &[&'static str], value: String) -> Revision {
    let op = |key: &&'static str| Op::Put { key: (*key).into(), value: value.clone().into(), lease: None };
    store.txn(Txn { then: keys.iter().map(op).collect(), ..Txn::default() }).await.unwrap().revision
}

async fn value(store: &Store, key: &str) -> Option<String> {
    let entry = store.get(key.as_bytes(), None).await.unwrap();
    entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_together_is_saved_together() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to, file) = (dir.path().join("store"), dir.path().join("other"), dir.path().join("s.db"));
    let store = open(&from);
    put(&store, &["/a", "/b"], "0".into()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                put(&store, &["/a", "/b"], n.to_string()).await;
            }
        }
    });
    for _ in 0..3 {
        snapshot::save(&from, &file).unwrap();
        snapshot::restore(&file, &to, now_ms()).unwrap();
        let restored = open(&to);
        assert_eq!(value(&restored, "/a").await, value(&restored, "/b").await);
        assert!(value(&restored, "/a").await.is_some());
        restored.close().await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    assert!(!dir.path().join("s.part").exists());
}

#[tokio::test]
async fn after_a_restore_older_revisions_are_gone_and_newer_ones_follow() {
    let dir = tempfile::tempdir().unwrap();
    let (from, file) = (dir.path().join("store"), dir.path().join("s.db"));
    let store = open(&from);
    put(&store, &["/kept"], "1".into()).await;
    let leased = store.lease_grant(None, Duration::from_secs(600)).await.unwrap().id;
    snapshot::save(&from, &file).unwrap();
    let lost = put(&store, &["/lost"], "1".into()).await;
    assert!(matches!(snapshot::restore(&file, &from, now_ms()), Err(Error::InUse { .. })));
    store.close().await.unwrap();
    drop(store);
    let replaced = snapshot::restore(&file, &from, now_ms() + 1).unwrap().unwrap();
    let store = open(&from);
    assert_eq!((value(&store, "/kept").await.as_deref(), value(&store, "/lost").await), (Some("1"), None));
    assert_eq!(store.leases().await.unwrap(), [leased]);
    let stale = store.watch(Range::prefix("/"), WatchFrom::After(lost)).await;
    assert!(matches!(stale, Err(Error::Compacted { .. })), "a watch must not go on across a restore");
    assert!(put(&store, &["/new"], "1".into()).await > lost);
    assert_eq!(value(&open(&replaced), "/lost").await.as_deref(), Some("1"), "what was replaced is kept");
}

#[tokio::test]
async fn damaged_files_are_refused_and_nothing_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let (from, file) = (dir.path().join("store"), dir.path().join("s.db"));
    let store = open(&from);
    put(&store, &["/a"], "precious".into()).await;
    snapshot::save(&from, &file).unwrap();
    store.close().await.unwrap();
    drop(store);
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&flipped[..], &whole[..whole.len() - 1], &whole[..4096], b"short", b""] {
        std::fs::write(&file, damaged).unwrap();
        assert!(matches!(snapshot::restore(&file, &from, now_ms()), Err(Error::Corrupt { .. })));
    }
    assert_eq!(value(&open(&from), "/a").await.as_deref(), Some("precious"));
    assert!(matches!(snapshot::save(&dir.path().join("none"), &file), Err(Error::Io { .. })));
}
