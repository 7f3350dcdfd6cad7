//! Bits that flip and files that end early, anywhere in a store: it either says so or serves exactly what was written.
//! The seed is printed, and `EYOT_DAMAGE_SEED` replays it.
mod support;

use eyot_store::{Backend, Error, Op, Range, Revision, Store, Txn, WatchFrom, WatchItem};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::Path;
use std::time::Duration;
use support::{open, try_open};

const FLIPS: usize = 150;
const CUTS: usize = 30;
const DATABASE: &str = "store.db";
const WAL: &str = "store.db-wal";

/// All that a store shows, in words.
type Shown = Vec<String>;

/// Little enough that SQLite has not moved it all from the write-ahead log to the database.
async fn fill(store: &Store, random: &mut StdRng) {
    let lease = store.lease_grant(None, Duration::from_secs(86_400)).await.unwrap().id;
    for n in 0..150 {
        let key = format!("/registry/things/{}", random.random_range(0..40));
        let value = vec![random.random(); random.random_range(0..3000)];
        let lease = random.random_bool(0.2).then_some(lease);
        let op = match n % 5 {
            0 => Op::Delete { key: key.into() },
            _ => Op::Put { key: key.into(), value: value.into(), lease },
        };
        store.txn(Txn { then: vec![op], ..Txn::default() }).await.unwrap();
        if n == 50 {
            let compacted = store.current_revision();
            store.compact(compacted).await.unwrap();
            store.compacted(compacted).await.unwrap();
        }
    }
}

/// The store as it is and as it was, or the error that kept something from being shown.
async fn shown(store: &Store) -> Result<Shown, Error> {
    let (everything, compacted) = (Range::prefix("/"), store.compacted_revision());
    let mut shown = vec![format!("{} {compacted}", store.current_revision())];
    shown.extend(store.list(&everything, None, 0).await?.entries.iter().map(|entry| format!("{entry:?}")));
    let mut watch = store.watch(everything.clone(), WatchFrom::After(compacted)).await?;
    let mut revisions: Vec<Revision> = vec![compacted];
    watch.request_progress();
    while let Some(item) = watch.next().await {
        let WatchItem::Changes(changes) = item? else { break };
        shown.extend(changes.iter().map(|change| format!("{change:?}")));
        revisions.extend(changes.iter().map(|change| change.revision));
    }
    for at in revisions.iter().step_by(7) {
        let page = store.list(&everything, Some(*at), 0).await?;
        shown.extend(page.entries.iter().map(|entry| format!("{at}: {entry:?}")));
    }
    for id in store.leases().await? {
        let lease = store.lease(id).await?;
        shown.push(format!("{id:?} {:?} {:?}", lease.granted_ttl, lease.keys));
    }
    Ok(shown)
}

/// A store as a crash leaves it, or as an orderly end does, and what it shows.
async fn make(dir: &Path, random: &mut StdRng, crash: bool) -> Shown {
    let live = dir.join("live");
    let store = open(&live);
    fill(&store, random).await;
    let shown = shown(&store).await.unwrap();
    // What was derived tells how far the log has been, also when its very end is gone.
    while eyot_store::Replica::derived(&*store) < store.current_revision() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if crash {
        copy(&live, &dir.join("whole"));
    }
    store.close().await.unwrap();
    drop(store);
    if !crash {
        copy(&live, &dir.join("whole"));
    }
    shown
}

fn copy(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        // Another process' shared memory is gone after a crash.
        if !file.file_name().to_string_lossy().ends_with("-shm") {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

/// Damages one file of the store and looks. True: the damage was told.
async fn told(dir: &Path, file: &str, wanted: &Shown, damage: impl FnOnce(&mut Vec<u8>)) -> bool {
    let damaged = dir.join("damaged");
    copy(&dir.join("whole"), &damaged);
    let mut bytes = std::fs::read(damaged.join(file)).unwrap();
    damage(&mut bytes);
    std::fs::write(damaged.join(file), bytes).unwrap();
    let Ok(store) = try_open(&damaged) else { return true };
    let found = shown(&store).await;
    store.close().await.unwrap();
    let Ok(found) = found else { return true };
    for (found, wanted) in found.iter().zip(wanted) {
        assert_eq!(found, wanted, "served as if it had been written");
    }
    assert_eq!(found.len(), wanted.len());
    false
}

async fn damage(file: &str, crash: bool) {
    let seed = std::env::var("EYOT_DAMAGE_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("EYOT_DAMAGE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let wanted = make(dir.path(), &mut random, crash).await;
    let length = std::fs::metadata(dir.path().join("whole").join(file)).unwrap().len() as usize;
    assert!(!told(dir.path(), file, &wanted, |_| ()).await, "nothing is damaged");
    let mut flips = 0;
    for _ in 0..FLIPS {
        let (byte, bit) = (random.random_range(0..length), random.random_range(0..8));
        println!("byte {byte} of {length}, bit {bit}");
        flips += usize::from(told(dir.path(), file, &wanted, |bytes| bytes[byte] ^= 1 << bit).await);
    }
    let mut cuts = 0;
    for _ in 0..CUTS {
        let left = random.random_range(0..length);
        println!("cut to {left} of {length}");
        cuts += usize::from(told(dir.path(), file, &wanted, |bytes| bytes.truncate(left)).await);
    }
    println!("{flips} of {FLIPS} flips and {cuts} of {CUTS} cuts were told; the others changed nothing that is shown");
    assert!(flips > 0 && cuts == CUTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_told_or_harmless() {
    damage(DATABASE, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_write_ahead_log_is_told_or_harmless() {
    damage(WAL, true).await;
}
