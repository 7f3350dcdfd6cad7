//! Transactions of any shape: compares of every field, ranges, nested branches; and watches from within history.
mod support;

use eyot_store::{
    Backend, Compare, Error, Field, LeaseId, Op, OpResult, Range, Relation, Revision, Store, Txn, TxnResult, Watch,
    WatchFrom, WatchItem,
};
use std::time::Duration;
use support::open;

fn put(key: &'static str, value: &'static str) -> Op {
    Op::Put { key: key.into(), value: value.into(), lease: None }
}

async fn run(store: &Store, then: Vec<Op>) -> TxnResult {
    store.txn(Txn { then, ..Txn::default() }).await.unwrap()
}

async fn value(store: &Store, key: &str) -> Option<String> {
    let entry = store.get(key.as_bytes(), None).await.unwrap();
    entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
}

async fn holds(store: &Store, range: Range, field: Field, is: Relation) -> bool {
    store.txn(Txn { compare: vec![Compare::Each { range, field, is }], ..Txn::default() }).await.unwrap().succeeded
}

#[tokio::test]
async fn every_field_compares_as_etcd_says() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let born = run(&store, vec![put("/a", "1")]).await.revision;
    run(&store, vec![put("/a", "2"), put("/b", "2")]).await;
    let a = || Range::key("/a");
    assert!(holds(&store, a(), Field::Version(2), Relation::Equal).await);
    assert!(holds(&store, a(), Field::CreateRevision(born.get() as i64), Relation::Equal).await);
    assert!(holds(&store, a(), Field::ModRevision(born.get() as i64), Relation::Greater).await);
    assert!(holds(&store, a(), Field::Value("3".into()), Relation::Less).await);
    assert!(holds(&store, a(), Field::Lease(0), Relation::Equal).await);
    assert!(holds(&store, Range::prefix("/"), Field::Value("2".into()), Relation::Equal).await);
    assert!(!holds(&store, Range::prefix("/"), Field::Version(2), Relation::Equal).await);
    let none = || Range::key("/none");
    assert!(holds(&store, none(), Field::Version(0), Relation::Equal).await);
    assert!(holds(&store, none(), Field::ModRevision(-1), Relation::Greater).await);
    assert!(!holds(&store, none(), Field::Value("".into()), Relation::Equal).await, "nothing has no value");
    assert!(!holds(&store, none(), Field::Value("".into()), Relation::NotEqual).await);
}

#[tokio::test]
async fn operations_see_those_before_them_and_ranges_go_at_one_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    run(&store, vec![put("/a/1", "x"), put("/a/2", "x"), put("/b", "x")]).await;
    let list = || Op::List { range: Range::prefix("/a/"), limit: 1 };
    let done =
        run(&store, vec![list(), put("/a/0", "new"), list(), Op::DeleteRange { range: Range::key("/a/2") }, list()])
            .await;
    let pages: Vec<_> = done
        .results
        .iter()
        .filter_map(|result| match result {
            OpResult::List(page) => Some((page.entries[0].key.clone(), page.count, page.more)),
            _ => None,
        })
        .collect();
    assert_eq!(pages, [("/a/1".into(), 2, true), ("/a/0".into(), 3, true), ("/a/0".into(), 2, true)]);
    let done = run(&store, vec![Op::DeleteRange { range: Range::prefix("/a/") }]).await;
    assert!(matches!(&done.results[0], OpResult::DeleteRange { previous } if previous.len() == 2));
    let left = store.list(&Range::prefix("/"), None, 0).await.unwrap();
    assert_eq!((left.count, left.revision), (1, done.revision));
}

#[tokio::test]
async fn compares_of_nested_transactions_are_judged_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    run(&store, vec![put("/a", "old")]).await;
    let old =
        || vec![Compare::Each { range: Range::key("/a"), field: Field::Value("old".into()), is: Relation::Equal }];
    let nested = Txn { compare: old(), then: vec![put("/b", "then")], otherwise: vec![put("/b", "else")] };
    let done = run(&store, vec![put("/a", "new"), Op::Txn(nested)]).await;
    assert!(matches!(&done.results[1], OpResult::Txn { succeeded: true, results } if results.len() == 1));
    assert_eq!(value(&store, "/b").await.as_deref(), Some("then"));
    let entry = store.get(b"/b", None).await.unwrap().unwrap();
    assert_eq!((entry.mod_revision, entry.index), (done.revision, 1));
}

#[tokio::test]
async fn a_transaction_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let before = run(&store, vec![put("/a", "1")]).await.revision;
    let fail =
        async |last: Op| store.txn(Txn { then: vec![put("/b", "x"), last], ..Txn::default() }).await.unwrap_err();
    let orphan = Op::Put { key: "/c".into(), value: "x".into(), lease: Some(LeaseId(404)) };
    assert!(matches!(fail(orphan).await, Error::LeaseNotFound(LeaseId(404))));
    assert!(matches!(fail(put("/b", "y")).await, Error::DuplicateKey { .. }));
    assert!(matches!(fail(Op::DeleteRange { range: Range::prefix("/") }).await, Error::DuplicateKey { .. }));
    let nobody = Op::Amend { key: "/none".into(), value: None, lease: None };
    assert!(matches!(fail(nobody).await, Error::KeyNotFound { .. }));
    assert_eq!(store.current_revision(), before);
    assert_eq!(value(&store, "/b").await, None);
    let after = run(&store, vec![put("/d", "x")]).await.revision;
    store.close().await.unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!((store.current_revision(), value(&store, "/b").await), (after, None));
}

#[tokio::test]
async fn amending_keeps_what_is_not_given() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let lease = store.lease_grant(None, Duration::from_secs(600)).await.unwrap().id;
    run(&store, vec![Op::Put { key: "/a".into(), value: "1".into(), lease: Some(lease) }]).await;
    run(&store, vec![Op::Amend { key: "/a".into(), value: Some("2".into()), lease: None }]).await;
    let entry = store.get(b"/a", None).await.unwrap().unwrap();
    assert_eq!((&entry.value[..], entry.lease, entry.version), (&b"2"[..], Some(lease), 2));
    run(&store, vec![Op::Amend { key: "/a".into(), value: None, lease: Some(None) }]).await;
    let entry = store.get(b"/a", None).await.unwrap().unwrap();
    assert_eq!((&entry.value[..], entry.lease), (&b"2"[..], None));
    assert!(store.lease(lease).await.unwrap().keys.is_empty());
}

/// Bytes that are no text are keys and values as any others, also after reopening.
#[tokio::test]
async fn keys_and_values_are_any_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let key: &[u8] = &[0, 0xff, b'/', 0xfe];
    let op = Op::Put { key: key.to_vec().into(), value: vec![0xff, 0].into(), lease: None };
    run(&store, vec![op]).await;
    store.close().await.unwrap();
    drop(store);
    let store = open(dir.path());
    let everything = Range { start: Default::default(), end: Default::default() };
    let page = store.list(&everything, None, 0).await.unwrap();
    assert_eq!((&page.entries[0].key[..], &page.entries[0].value[..]), (key, &[0xff, 0][..]));
}

async fn first(watch: &mut dyn Watch) -> (Revision, bool) {
    loop {
        match watch.next().await.unwrap().unwrap() {
            WatchItem::Changes(changes) => return (changes[0].revision, changes[0].previous.is_some()),
            WatchItem::Progress(_) => {}
        }
    }
}

#[tokio::test]
async fn a_watch_may_begin_at_a_revision_itself_or_at_the_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let one = run(&store, vec![put("/a", "1"), put("/b", "1")]).await.revision;
    let two = run(&store, vec![put("/a", "2")]).await.revision;
    let at = async |from| store.watch(Range::prefix("/"), from).await.unwrap();
    assert_eq!(first(&mut *at(WatchFrom::At(one)).await).await, (one, false));
    assert_eq!(first(&mut *at(WatchFrom::At(two)).await).await, (two, true));
    assert_eq!(first(&mut *at(WatchFrom::At(Revision::from_u64(1))).await).await, (one, false));
}

#[tokio::test]
async fn a_watch_from_the_log_may_begin_at_a_revision_itself() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let one = run(&store, vec![put("/a", "1"), put("/b", "1")]).await.revision;
    let two = run(&store, vec![put("/a", "2")]).await.revision;
    store.close().await.unwrap();
    drop(store);
    // After reopening nothing recent is in memory.
    let store = open(dir.path());
    for (from, found) in [(one, one), (two, two), (Revision::from_u64(1), one)] {
        let mut watch = store.watch(Range::prefix("/"), WatchFrom::At(from)).await.unwrap();
        assert_eq!(first(&mut *watch).await.0, found);
    }
    store.compact(two).await.unwrap();
    store.compacted(two).await.unwrap();
    let mut watch = store.watch(Range::prefix("/"), WatchFrom::At(two)).await.unwrap();
    assert_eq!(first(&mut *watch).await.0, two);
    let gone = |from| store.watch(Range::prefix("/"), WatchFrom::At(from));
    assert!(matches!(gone(one).await, Err(Error::Compacted { .. })));
    assert!(gone(Revision::from_u64(1)).await.is_err());
}

#[tokio::test]
async fn an_empty_store_has_a_revision_below_all_that_follow() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let empty = store.current_revision();
    assert!(!empty.is_zero() && empty.server() == 3);
    let mut watch = store.watch(Range::prefix("/"), WatchFrom::After(empty)).await.unwrap();
    let written = run(&store, vec![put("/a", "1")]).await.revision;
    assert!(written > empty);
    assert_eq!(first(&mut *watch).await.0, written);
}
