//! The promises of `Backend`, on a real database.
mod support;

use eyot_store::{Backend, Compare, Error, Op, OpResult, Range, Revision, Store, Txn, Watch, WatchFrom, WatchItem};
use std::sync::Arc;
use std::time::Duration;
use support::{open, try_open};

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.to_owned().into(), value: value.to_owned().into(), lease: None }
}

async fn write(store: &Store, op: Op) -> Revision {
    store.txn(Txn { then: vec![op], ..Txn::default() }).await.unwrap().revision
}

async fn changes(watch: &mut dyn Watch, count: usize) -> Vec<(String, Revision, bool)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("a change is on its way");
        if let WatchItem::Changes(changes) = next.unwrap().unwrap() {
            seen.extend(
                changes.iter().map(|c| (String::from_utf8_lossy(&c.key).into_owned(), c.revision, c.entry.is_some())),
            );
        }
    }
    seen
}

#[tokio::test]
async fn a_write_is_read_back_now_then_and_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = write(&store, put("/a", "1")).await;
    let second = write(&store, put("/a", "2")).await;
    assert!(first < second && second.server() == 3);
    assert_eq!(store.get(b"/a", None).await.unwrap().unwrap().value, "2");
    assert_eq!(store.get(b"/a", Some(first)).await.unwrap().unwrap().value, "1");
    store.close().await.unwrap();
    drop(store);
    let store = open(dir.path());
    let entry = store.get(b"/a", None).await.unwrap().unwrap();
    assert_eq!((entry.create_revision, entry.mod_revision, entry.version), (first, second, 2));
    assert_eq!(store.current_revision(), second);
    assert!(write(&store, put("/b", "3")).await > second);
}

#[tokio::test]
async fn compares_guard_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let create = |value: &str| Txn {
        compare: vec![Compare::ModRevision { key: "/a".into(), revision: Revision::ZERO }],
        then: vec![put("/a", value)],
        otherwise: vec![Op::Get { key: "/a".into() }],
    };
    assert!(store.txn(create("1")).await.unwrap().succeeded);
    let lost = store.txn(create("2")).await.unwrap();
    assert!(!lost.succeeded);
    assert!(matches!(&lost.results[0], OpResult::Get { entry: Some(entry) } if entry.value == "1"));
    let twice = Txn { then: vec![put("/b", "1"), put("/b", "2")], ..Txn::default() };
    assert!(matches!(store.txn(twice).await, Err(Error::DuplicateKey { .. })));
}

#[tokio::test]
async fn only_one_of_many_creates_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let tries = (0..50).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            let compare = vec![Compare::ModRevision { key: "/a".into(), revision: Revision::ZERO }];
            let txn = Txn { compare, then: vec![put("/a", &n.to_string())], otherwise: vec![] };
            store.txn(txn).await.unwrap().succeeded
        })
    });
    let won = futures::future::join_all(tries).await.into_iter().filter(|won| *won.as_ref().unwrap()).count();
    assert_eq!(won, 1);
}

#[tokio::test]
async fn lists_show_one_revision_and_count_past_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..5 {
        write(&store, put(&format!("/p/{n}"), "x")).await;
    }
    write(&store, put("/q/0", "x")).await;
    let range = Range::prefix("/p/");
    let then = store.list(&range, None, 2).await.unwrap();
    assert_eq!((then.entries.len(), then.count, then.more), (2, 5, true));
    write(&store, Op::Delete { key: "/p/0".into() }).await;
    let now = store.list(&range, None, 0).await.unwrap();
    assert_eq!((now.entries.len(), now.count, now.more), (4, 4, false));
    let past = store.list(&range, Some(then.revision), 0).await.unwrap();
    assert_eq!(past.entries.len(), 5);
}

/// A value further on that can't be read proves that a page of the past reads no more than it shows.
#[tokio::test]
async fn a_page_of_the_past_reads_only_its_own_values() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..4 {
        write(&store, put(&format!("/p/{n}"), "x")).await;
    }
    write(&store, Op::Delete { key: "/p/0".into() }).await;
    let then = store.current_revision();
    for n in [1, 2, 3, 9] {
        write(&store, put(&format!("/p/{n}"), "y")).await;
    }
    let database = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    let damage = "UPDATE log SET crc = crc + 1 WHERE key = CAST('/p/3' AS BLOB) AND version = 1";
    assert_eq!(database.execute(damage, []).unwrap(), 1);
    let range = Range::prefix("/p/");
    let page = store.list(&range, Some(then), 2).await.unwrap();
    let keys: Vec<_> = page.entries.iter().map(|entry| entry.key.clone()).collect();
    assert_eq!(keys, ["/p/1", "/p/2"]);
    assert_eq!((page.count, page.more), (3, true));
    assert!(matches!(store.list(&range, Some(then), 3).await, Err(Error::Corrupt { .. })));
}

#[tokio::test]
async fn revisions_of_others_and_of_the_future_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mine = write(&store, put("/a", "1")).await;
    let foreign = Revision::new(mine.clock() - 1, 4);
    assert!(matches!(store.get(b"/a", Some(foreign)).await, Err(Error::Foreign { server: 4, .. })));
    let future = Revision::from_u64(mine.get() + 1);
    assert!(matches!(store.get(b"/a", Some(future)).await, Err(Error::Future { .. })));
    assert!(matches!(store.watch(Range::prefix("/"), WatchFrom::After(foreign)).await, Err(Error::Foreign { .. })));
}

#[tokio::test]
async fn a_watch_sees_everything_once_in_order_from_disk_and_live() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let start = write(&store, put("/w/0", "x")).await;
    for n in 1..700 {
        write(&store, put(&format!("/w/{}", n % 7), "x")).await;
    }
    store.close().await.unwrap();
    drop(store);
    // After reopening nothing recent is in memory: the watch must read the log.
    let store = open(dir.path());
    let mut watch = store.watch(Range::prefix("/w/"), WatchFrom::After(start)).await.unwrap();
    write(&store, Op::Delete { key: "/w/3".into() }).await;
    write(&store, put("/other", "x")).await;
    let seen = changes(&mut *watch, 700).await;
    assert!(seen.windows(2).all(|pair| pair[0].1 < pair[1].1));
    assert_eq!(seen.last().map(|last| (last.0.as_str(), last.2)), Some(("/w/3", false)));
    watch.request_progress();
    assert!(matches!(watch.next().await, Some(Ok(WatchItem::Progress(at))) if at == store.current_revision()));
}

#[tokio::test]
async fn a_transaction_is_one_revision_and_arrives_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watch = store.watch(Range::prefix("/"), WatchFrom::Now).await.unwrap();
    store.txn(Txn { then: vec![put("/a", "1"), put("/b", "2")], ..Txn::default() }).await.unwrap();
    match watch.next().await.unwrap().unwrap() {
        WatchItem::Changes(changes) => {
            assert_eq!(changes.len(), 2);
            assert_eq!((changes[0].revision, changes[0].index, changes[1].index), (changes[1].revision, 0, 1));
        }
        WatchItem::Progress(_) => panic!("changes were expected"),
    }
}

#[tokio::test]
async fn a_watcher_that_sleeps_is_cut_off_not_fed_from_memory() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watch = store.watch(Range::prefix("/"), WatchFrom::Now).await.unwrap();
    for _ in 0..9 {
        let writes = (0..1000).map(|n| put(&format!("/{n}"), "x")).collect();
        store.txn(Txn { then: writes, ..Txn::default() }).await.unwrap();
    }
    assert!(matches!(watch.next().await, Some(Err(Error::Compacted { .. }))));
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn compaction_forgets_the_past_and_keeps_the_present() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let old = write(&store, put("/a", "1")).await;
    let gone = write(&store, put("/gone", "1")).await;
    write(&store, Op::Delete { key: "/gone".into() }).await;
    let new = write(&store, put("/a", "2")).await;
    store.compact(new).await.unwrap();
    assert!(matches!(store.get(b"/a", Some(old)).await, Err(Error::Compacted { .. })));
    assert!(matches!(store.watch(Range::prefix("/"), WatchFrom::After(gone)).await, Err(Error::Compacted { .. })));
    assert_eq!(store.get(b"/a", Some(new)).await.unwrap().unwrap().value, "2");
    assert!(matches!(store.compact(new).await, Err(Error::Compacted { .. })));
    let database = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    let rows = || database.query_row("SELECT count(*) FROM log", [], |row| row.get::<_, i64>(0)).unwrap();
    for _ in 0..100 {
        if rows() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(rows(), 1, "only the current value is left");
    store.close().await.unwrap();
    drop(store);
    assert_eq!(open(dir.path()).get(b"/a", None).await.unwrap().unwrap().value, "2");
}

#[tokio::test]
async fn a_lease_that_ends_deletes_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let lease = store.lease_grant(None, Duration::from_millis(300)).await.unwrap();
    let leased = Op::Put { key: "/l".into(), value: "x".into(), lease: Some(lease.id) };
    write(&store, leased).await;
    write(&store, put("/stays", "x")).await;
    let mut watch = store.watch(Range::prefix("/"), WatchFrom::Now).await.unwrap();
    assert_eq!(changes(&mut *watch, 1).await[0].0, "/l");
    assert!(store.get(b"/l", None).await.unwrap().is_none());
    assert!(store.get(b"/stays", None).await.unwrap().is_some());
    assert!(matches!(store.lease(lease.id).await, Err(Error::LeaseNotFound(_))));
}

#[tokio::test]
async fn damage_is_said_and_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    write(&store, put("/a", "precious")).await;
    store.close().await.unwrap();
    drop(store);
    let database = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    database.execute("UPDATE log SET value = CAST('Precious' AS BLOB)", []).unwrap();
    drop(database);
    assert!(matches!(try_open(dir.path()), Err(Error::Corrupt { .. })));
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path());
    assert!(matches!(try_open(dir.path()), Err(Error::InUse { .. })));
}

#[tokio::test]
async fn the_largest_transaction_is_read_whole_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let start = write(&store, put("/a", "x")).await;
    let then = (0..1024).map(|n| put(&format!("/{n}"), "x")).collect();
    store.txn(Txn { then, ..Txn::default() }).await.unwrap();
    write(&store, put("/b", "x")).await;
    store.close().await.unwrap();
    drop(store);
    let store = open(dir.path());
    let mut watch = store.watch(Range::prefix("/"), WatchFrom::After(start)).await.unwrap();
    assert_eq!(changes(&mut *watch, 1025).await.len(), 1025);
}

#[tokio::test]
async fn watches_of_one_key_one_resource_and_everything_see_what_is_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let ranges = [Range::key("/registry/pods/a/p"), Range::prefix("/registry/pods/"), Range::prefix("/")];
    let mut watches = Vec::new();
    for range in ranges {
        watches.push(store.watch(range, WatchFrom::Now).await.unwrap());
    }
    let then = ["/registry/pods/a/p", "/registry/pods/a/q", "/registry/nodes/n"].map(|key| put(key, "x")).into();
    store.txn(Txn { then, ..Txn::default() }).await.unwrap();
    for (watch, count) in watches.iter_mut().zip([1, 2, 3]) {
        match watch.next().await.unwrap().unwrap() {
            WatchItem::Changes(changes) => assert_eq!(changes.len(), count),
            WatchItem::Progress(_) => panic!("changes were expected"),
        }
    }
}

/// The store is told to close while it gathers writes for a batch: they are answered, and it closes.
#[tokio::test]
async fn it_closes_right_behind_a_crowd_of_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let writes: Vec<_> = (0..32)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { write(&store, put(&format!("/{n}"), "x")).await })
        })
        .collect();
    tokio::task::yield_now().await;
    tokio::time::timeout(Duration::from_secs(30), store.close()).await.expect("it closes").unwrap();
    for write in writes {
        write.await.expect("what was asked before is written");
    }
}
