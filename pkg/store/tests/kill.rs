//! A writer is killed again and again at moments that nobody chose; what it said was written must be there.
mod support;

use eyot_store::{Backend, Op, Range, Revision, Store, Txn, WatchFrom, WatchItem};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use support::open;

const KILLS: u32 = 100;
const WRITERS: u32 = 8;
/// Says to this very test binary: be the writer.
const ROLE: &str = "EYOT_STORE_KILL_DIR";

/// Writes without end, each writer its own key, and prints what was acknowledged.
#[tokio::main]
async fn write_until_killed(dir: &Path) {
    let store = open(dir);
    let one = |writer: u32, store: Arc<Store>| async move {
        let key = format!("/{writer}");
        let from = store.get(key.as_bytes(), None).await.unwrap();
        let mut n: u64 = from.map_or(0, |entry| std::str::from_utf8(&entry.value).unwrap().parse().unwrap());
        loop {
            n += 1;
            let op = Op::Put { key: key.clone().into(), value: n.to_string().into(), lease: None };
            let done = store.txn(Txn { then: vec![op], ..Txn::default() }).await.unwrap();
            writeln!(std::io::stdout().lock(), "ack {writer} {n} {}", done.revision).unwrap();
        }
    };
    futures::future::join_all((0..WRITERS).map(|writer| tokio::spawn(one(writer, store.clone())))).await;
}

/// What the writer acknowledged before it was killed: number and revision, by key.
fn run_and_kill(dir: &Path, after: Duration) -> BTreeMap<u32, (u64, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "no_acknowledged_write_is_lost", "--nocapture"])
        .env(ROLE, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut acked = BTreeMap::new();
        for line in out.lines().map_while(Result::ok) {
            let words: Vec<&str> = line.split(' ').collect();
            if let ["ack", writer, n, revision] = words[..] {
                acked.insert(writer.parse().unwrap(), (n.parse().unwrap(), revision.parse().unwrap()));
            }
        }
        acked
    });
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

async fn check(dir: &Path, acked: &BTreeMap<u32, (u64, u64)>) {
    let store = open(dir);
    for (writer, (n, revision)) in acked {
        let entry = store.get(format!("/{writer}").as_bytes(), None).await.unwrap().expect("acknowledged, yet gone");
        let stored: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
        assert!(stored >= *n, "writer {writer} was told that {n} is written; {stored} is there");
        let at = Revision::from_u64(*revision);
        let then = store.get(format!("/{writer}").as_bytes(), Some(at)).await.unwrap().unwrap();
        assert_eq!(then.value, n.to_string(), "the past must not change");
    }
    if let Some((_, first)) = acked.values().min_by_key(|(_, revision)| *revision) {
        let mut watch = store.watch(Range::prefix("/"), WatchFrom::After(Revision::from_u64(*first))).await.unwrap();
        watch.request_progress();
        let mut last = *first;
        while let Some(Ok(WatchItem::Changes(changes))) = watch.next().await {
            for change in changes {
                assert!(change.revision.get() > last, "a watch must be ordered and unique");
                last = change.revision.get();
            }
        }
        assert_eq!(last, store.current_revision().get());
    }
    store.close().await.unwrap();
}

#[test]
fn no_acknowledged_write_is_lost() {
    if let Some(dir) = std::env::var_os(ROLE) {
        return write_until_killed(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(seed);
    let mut total = 0;
    for _ in 0..KILLS {
        let after = Duration::from_millis(rand::Rng::random_range(&mut random, 20..200));
        let acked = run_and_kill(dir.path(), after);
        total += acked.len();
        runtime.block_on(check(dir.path(), &acked));
    }
    assert!(total > 0, "the writer never wrote");
}
