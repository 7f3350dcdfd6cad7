//! What one store tells another: everything, once, whatever happens between.
mod support;

use bytes::Bytes;
use crdt::{Actor, HybridClock, Vector};
use eyot_store::bare::Bare;
use eyot_store::{Backend, Begin, Error, Op, Options, Range, Replica, Store, Txn};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::{Nothing, open};

const LIMIT: usize = 1 << 20;

/// Two servers in two directories, on one clock.
struct Pair {
    dirs: [tempfile::TempDir; 2],
    clock: Arc<AtomicU64>,
}

impl Pair {
    fn new() -> Self {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        Self { dirs, clock: Arc::new(AtomicU64::new(1_000_000)) }
    }

    fn open(&self, which: usize) -> Bare {
        let clock = self.clock.clone();
        bare(self.dirs[which].path(), which as u16 + 1, Arc::new(move || clock.load(Ordering::Relaxed)))
    }
}

fn bare(dir: &Path, server: u16, now_ms: Arc<dyn Fn() -> u64 + Send + Sync>) -> Bare {
    let keep = Duration::from_secs(300);
    Bare::open(&Options { dir: dir.into(), server, summarize: Arc::new(Nothing), keep }, Actor(rand::random()), now_ms)
        .unwrap()
}

fn key(n: usize) -> Bytes {
    format!("/registry/configmaps/default/c{n}").into()
}

fn config(n: usize, value: &str) -> Bytes {
    let uid = format!("u{n}");
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{n}"), "uid": uid}, "data": {"v": value}});
    object.to_string().into()
}

fn put(n: usize, value: &str) -> Op {
    Op::Put { key: key(n), value: config(n, value), lease: None }
}

fn run(store: &mut Bare, then: Vec<Op>) {
    store.txn(Txn { then, ..Txn::default() }).unwrap();
    while !store.derive().unwrap() {}
}

/// Everything that `from` has and `to` lacks. Returns how many rows that were.
fn send(from: &Bare, to: &mut Bare) -> usize {
    let Begin::After(after) = from.begin(&to.vector()).unwrap() else { panic!("changes are no longer kept") };
    let (rows, _) = from.changes(after, &to.vector(), LIMIT).unwrap().unwrap();
    to.receive(&rows).unwrap();
    rows.len()
}

fn all(store: &Bare) -> Vec<(Bytes, serde_json::Value)> {
    let entries = store.list(&Range::prefix("/"));
    entries.iter().map(|entry| (entry.key.clone(), serde_json::from_slice(&entry.value).unwrap())).collect()
}

#[test]
fn what_one_writes_the_other_has_and_does_not_tell_back() {
    let pair = Pair::new();
    let (mut one, mut two) = (pair.open(0), pair.open(1));
    run(&mut one, vec![put(1, "a"), put(2, "b")]);
    run(&mut one, vec![put(1, "c")]);
    run(&mut one, vec![Op::Delete { key: key(2) }]);
    assert_eq!(send(&one, &mut two), 4);
    assert_eq!(all(&two), all(&one));
    assert_eq!(two.get(&key(1)).unwrap().value, one.get(&key(1)).unwrap().value);
    while !two.derive().unwrap() {}
    assert_eq!(send(&two, &mut one), 0, "an echo");
    assert_eq!(send(&one, &mut two), 0, "a repetition");
}

#[test]
fn ends_are_remembered_when_their_documents_are_forgotten() {
    let pair = Pair::new();
    let (mut one, mut two) = (pair.open(0), pair.open(1));
    run(&mut one, vec![put(1, "a"), put(2, "b")]);
    send(&one, &mut two);
    assert!(!two.has_ended("u1").unwrap() && !one.has_ended("u1").unwrap());
    run(&mut one, vec![Op::Delete { key: key(1) }]);
    send(&one, &mut two);
    for store in [&mut one, &mut two] {
        let latest = store.vector().latest();
        while store.stable(latest).unwrap() {}
        let page = store.documents().unwrap().page(None, LIMIT).unwrap();
        assert!(page.documents.iter().all(|(known, _)| *known != key(1)), "it is kept");
    }
    drop((one, two));
    for which in 0..2 {
        let store = pair.open(which);
        assert!(store.has_ended("u1").unwrap(), "on server {which}, after a restart");
        assert!(!store.has_ended("u2").unwrap() && !store.has_ended("never").unwrap());
    }
}

#[test]
fn a_transaction_arrives_whole() {
    let pair = Pair::new();
    let (mut one, mut two) = (pair.open(0), pair.open(1));
    run(&mut one, (0..100).map(|n| put(n, "x")).collect());
    let (rows, _) = one.changes(0, &Vector::default(), 1).unwrap().unwrap();
    assert_eq!(rows.len(), 100);
    two.receive(&rows).unwrap();
    let entries = two.list(&Range::prefix("/"));
    assert!(entries.iter().all(|entry| entry.mod_revision == entries[0].mod_revision));
}

#[test]
fn a_crash_before_documents_are_kept_loses_and_repeats_nothing() {
    let pair = Pair::new();
    let (mut one, mut two) = (pair.open(0), pair.open(1));
    run(&mut one, vec![put(1, "a")]);
    let kept = tempfile::tempdir().unwrap();
    let changes = |dir: &Path| dir.join("changes.db");
    drop(two);
    std::fs::copy(changes(pair.dirs[1].path()), changes(kept.path())).unwrap();
    two = pair.open(1);
    send(&one, &mut two);
    drop(two);
    // As if the merged row had been written, and the process had died before its document was.
    std::fs::copy(changes(kept.path()), changes(pair.dirs[1].path())).unwrap();
    let mut two = pair.open(1);
    assert_eq!(all(&two), all(&one));
    while !two.derive().unwrap() {}
    assert_eq!(two.begin(&one.vector()).unwrap(), Begin::After(0), "another's write is told as its own");
    assert_eq!(send(&one, &mut two), 1);
    assert_eq!(all(&two), all(&one));
}

#[test]
fn a_third_server_hears_of_it_through_the_second() {
    let (pair, other) = (Pair::new(), Pair::new());
    let (mut one, mut two, mut three) = (pair.open(0), pair.open(1), other.open(0));
    run(&mut one, vec![put(1, "a")]);
    send(&one, &mut two);
    run(&mut two, vec![put(1, "b")]);
    assert_eq!(send(&two, &mut three), 2);
    assert_eq!(all(&three), all(&two));
    assert!(three.vector().includes(&one.vector()));
}

#[test]
fn who_was_away_too_long_gets_whole_documents_and_keeps_its_own_writes() {
    let pair = Pair::new();
    let (mut one, mut two) = (pair.open(0), pair.open(1));
    run(&mut one, (0..50).map(|n| put(n, "x")).collect());
    send(&one, &mut two);
    run(&mut two, vec![put(100, "mine")]);
    run(&mut one, vec![put(1, "y")]);
    run(&mut one, vec![Op::Delete { key: key(2) }]);
    pair.clock.fetch_add(1000, Ordering::Relaxed);
    one.tick().unwrap();
    while one.stable(one.vector().latest()).unwrap() {}
    assert_eq!(one.begin(&two.vector()).unwrap(), Begin::Snapshot);
    let documents = one.documents().unwrap();
    let (seen, mut after) = (documents.seen().clone(), None);
    // Written after the snapshot began: none of it is in there.
    run(&mut one, vec![put(49, "later")]);
    while !one.derive().unwrap() {}
    let whole = loop {
        let page = documents.page(after.as_deref(), 500).unwrap();
        two.join(&page, &seen).unwrap();
        assert!(!two.is_whole(), "what is written now is told when all is in");
        after = page.up_to;
        if after.is_none() {
            break page.whole;
        }
    };
    assert_eq!(two.get(&key(49)).unwrap().value, config(49, "x"));
    two = {
        drop(two);
        pair.open(1)
    };
    assert!(!two.is_whole(), "not even a restart makes it forget");
    two.complete(&seen, whole.as_ref()).unwrap();
    assert!(two.is_whole());
    assert_eq!(one.begin(&two.vector()).unwrap(), Begin::After(one.sequence() - 1));
    assert_eq!(send(&one, &mut two), 1);
    send(&two, &mut one);
    assert_eq!(all(&one), all(&two));
    assert!(two.get(&key(100)).is_some() && two.get(&key(1)).is_some_and(|entry| entry.value == config(1, "y")));
}

#[test]
fn a_clock_far_ahead_is_refused() {
    let pair = Pair::new();
    let mut two = pair.open(1);
    let ahead = Pair::new();
    ahead.clock.store(1_000_000 + 11 * 60 * 1000, Ordering::Relaxed);
    let mut one = ahead.open(0);
    run(&mut one, vec![put(1, "a")]);
    let (rows, _) = one.changes(0, &Vector::default(), LIMIT).unwrap().unwrap();
    let refused = two.receive(&rows).unwrap_err();
    assert!(matches!(refused, Error::Ahead { ahead_ms, .. } if ahead_ms > 600_000), "{refused}");
    assert!(all(&two).is_empty() && two.vector().is_empty());
    let whole = one.documents().unwrap();
    let refused = two.join(&whole.page(None, LIMIT).unwrap(), whole.seen()).unwrap_err();
    assert!(matches!(refused, Error::Ahead { .. }), "{refused}");
    let refused = two.complete(whole.seen(), None).unwrap_err();
    assert!(matches!(refused, Error::Ahead { .. }), "{refused}");
    run(&mut two, vec![put(2, "b")]);
    assert!(two.revision().clock() < HybridClock::at(1_000_000 + 60_000), "the wrong clock spread");
}

#[test]
fn writes_here_are_later_than_what_was_seen_also_after_a_restart() {
    let pair = Pair::new();
    let (mut one, mut two) = (pair.open(0), pair.open(1));
    run(&mut one, vec![put(1, "a")]);
    pair.clock.store(500_000, Ordering::Relaxed);
    send(&one, &mut two);
    drop(two);
    let mut two = pair.open(1);
    run(&mut two, vec![put(1, "b")]);
    assert!(two.revision().clock() > HybridClock::at(1_000_000));
    send(&two, &mut one);
    assert_eq!(all(&one), vec![(key(1), serde_json::from_slice(&config(1, "b")).unwrap())]);
}

#[test]
fn a_thousand_edits_leave_one_document_and_no_changes_once_all_have_them() {
    let pair = Pair::new();
    let mut one = pair.open(0);
    for n in 0..1000 {
        run(&mut one, vec![put(1, &n.to_string())]);
    }
    assert_eq!(one.changes(0, &Vector::default(), LIMIT).unwrap().unwrap().0.len(), 1000);
    while one.stable(one.vector().latest()).unwrap() {}
    assert!(one.changes(0, &one.vector(), LIMIT).unwrap().unwrap().0.is_empty());
    assert_eq!(one.changes(0, &Vector::default(), LIMIT).unwrap(), None, "forgotten changes are passed over");
    let page = one.documents().unwrap().page(None, LIMIT).unwrap();
    assert_eq!(page.documents.len(), 1);
    assert!(page.documents[0].1.len() < 1000, "{} bytes", page.documents[0].1.len());
    assert_eq!(one.sizes().unwrap().unpruned, 0);
    run(&mut one, vec![put(1, "again"), put(2, "new")]);
    assert_eq!(one.sizes().unwrap().unpruned, 2, "what changed is looked at again");
    let before = one.vector().latest();
    run(&mut one, vec![put(2, "newer")]);
    while one.stable(before).unwrap() {}
    assert_eq!(one.sizes().unwrap().unpruned, 1, "and what is too young later");
}

#[test]
fn what_may_be_forgotten_is_looked_for_everywhere_also_when_that_moves_on_meanwhile() {
    let pair = Pair::new();
    let mut one = pair.open(0);
    let all = |data: &str| (0..500).map(|n| put(n, data)).collect::<Vec<_>>();
    run(&mut one, all("a"));
    let first = one.vector().latest();
    assert!(one.stable(first).unwrap(), "there are more pages");
    run(&mut one, all("b"));
    while one.stable(one.vector().latest()).unwrap() {}
    assert_eq!(one.sizes().unwrap().unpruned, 0);
    let latest = one.vector().latest();
    run(&mut one, vec![put(1, "c")]);
    assert!(!one.stable(latest).unwrap(), "nothing has moved");
    assert_eq!(one.sizes().unwrap().unpruned, 1);
}

async fn write(store: &Store, op: Op) {
    store.txn(Txn { then: vec![op], ..Txn::default() }).await.unwrap();
}

async fn settled(store: &Store) -> Vector {
    store.tick().await.unwrap();
    store.vector()
}

#[tokio::test]
async fn two_running_stores_converge_while_both_are_written() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let stores = [open(dirs[0].path()), open(dirs[1].path())];
    // What was there before is told, too.
    write(&stores[0], put(6, "early")).await;
    for store in &stores {
        store.enable().await.unwrap();
    }
    for n in 0..200 {
        write(&stores[n % 2], put(n % 7, &n.to_string())).await;
        if n % 20 == 0 {
            exchange(&stores).await;
        }
    }
    exchange(&stores).await;
    let lists = [list(&stores[0]).await, list(&stores[1]).await];
    assert_eq!(lists[0], lists[1]);
    assert_eq!(lists[0].len(), 7);
    for store in stores {
        store.close().await.unwrap();
    }
}

async fn exchange(stores: &[Arc<Store>; 2]) {
    for (from, to) in [(0, 1), (1, 0), (0, 1)] {
        let (from, to) = (&stores[from], &stores[to]);
        settled(from).await;
        let Begin::After(after) = from.begin(to.vector()).await.unwrap() else { panic!("no longer kept") };
        let (rows, _) = from.changes(after, to.vector(), LIMIT).await.unwrap().unwrap();
        to.receive(0, rows).await.unwrap();
    }
}

async fn list(store: &Store) -> Vec<Bytes> {
    let page = store.list(&Range::prefix("/"), None, 0).await.unwrap();
    page.entries.iter().map(|entry| entry.value.clone()).collect()
}

#[test]
fn the_same_from_two_peers_at_once_is_taken_in_once_and_told_on_once() {
    let pair = Pair::new();
    let (mut one, mut two) = (pair.open(0), pair.open(1));
    run(&mut one, vec![put(1, "a"), put(2, "b")]);
    run(&mut one, vec![put(1, "c")]);
    let (rows, _) = one.changes(0, &Vector::default(), LIMIT).unwrap().unwrap();
    let twice: Vec<_> = rows[..2].iter().chain(&rows).cloned().collect();
    two.receive(&twice).unwrap();
    assert_eq!(all(&two), all(&one));
    assert_eq!(two.changes(0, &Vector::default(), LIMIT).unwrap().unwrap().0, rows);
}

#[test]
fn who_took_a_snapshot_tells_those_who_lack_no_write_nothing() {
    let pair = Pair::new();
    let (mut one, mut two) = (pair.open(0), pair.open(1));
    let third = tempfile::tempdir().unwrap();
    let clock = pair.clock.clone();
    let mut three = bare(third.path(), 3, Arc::new(move || clock.load(Ordering::Relaxed)));
    run(&mut one, vec![put(1, "a"), put(2, "b")]);
    send(&one, &mut two);
    pair.clock.fetch_add(1000, Ordering::Relaxed);
    one.tick().unwrap();
    let documents = one.documents().unwrap();
    let page = documents.page(None, LIMIT).unwrap();
    three.join(&page, documents.seen()).unwrap();
    three.complete(documents.seen(), page.whole.as_ref()).unwrap();
    assert!(!two.vector().includes(&three.vector()), "it has not heard that nothing was written since");
    assert!(matches!(three.begin(&two.vector()).unwrap(), Begin::After(_)));
    assert_eq!(three.begin(&Vector::default()).unwrap(), Begin::Snapshot);
    // What the other had as changes it still tells as changes.
    two.join(&page, documents.seen()).unwrap();
    two.complete(documents.seen(), page.whole.as_ref()).unwrap();
    assert!(matches!(two.begin(&Vector::default()).unwrap(), Begin::After(_)));
}

#[test]
fn what_is_kept_for_others_is_bounded_in_bytes() {
    let pair = Pair::new();
    let (mut one, mut two) = (pair.open(0), pair.open(1));
    run(&mut one, vec![put(1, "a")]);
    send(&one, &mut two);
    let text = "x".repeat(1000);
    (0..50).for_each(|n| run(&mut one, vec![put(n, &text)]));
    while one.keep_changes(u32::MAX, 10_500).unwrap() {}
    assert_eq!(one.sizes().unwrap().changes, 9, "of 1.1 KB each");
    assert_eq!(one.begin(&two.vector()).unwrap(), Begin::Snapshot);
    drop(one);
    one = pair.open(0);
    while one.keep_changes(u32::MAX, 5_000).unwrap() {}
    assert_eq!(one.sizes().unwrap().changes, 4, "counted again after a start");
}
