//! Bits that flip and files that end early in what a server knows for and of its peers: it says so, or begins a document
//! anew, and never tells a peer or a client what nobody wrote. The log beside it is whole, and so are its writes.
//! The seed is printed, and `EYOT_DAMAGE_SEED` replays it.
use api::summary::{Summarize, Summary};
use bytes::Bytes;
use crdt::{Actor, Vector};
use eyot_store::bare::Bare;
use eyot_store::{Begin, Op, Options, Range, Txn};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const FLIPS: usize = 150;
const CUTS: usize = 40;
const DATABASE: &str = "changes.db";
const WAL: &str = "changes.db-wal";
const LIMIT: usize = 1 << 20;

struct Nothing;

impl Summarize for Nothing {
    fn summarize(&self, _: &[u8], _: &[u8]) -> Summary {
        Summary::default()
    }
}

fn open(dir: &Path, number: u16) -> eyot_store::Result<Bare> {
    let options =
        Options { dir: dir.into(), server: number, summarize: Arc::new(Nothing), keep: Duration::from_secs(300) };
    Bare::open(&options, Actor([number as u8; 16]), Arc::new(|| 1_000_000))
}

fn write(store: &mut Bare, n: usize, word: &str) {
    let key = Bytes::from(format!("/registry/configmaps/default/m{}", n % 12));
    let value = format!(
        r#"{{"apiVersion":"v1","data":{{"word":"{word}"}},"kind":"ConfigMap","metadata":{{"name":"m","uid":"u{}"}}}}"#,
        n % 12
    );
    let op = Op::Put { key, value: value.into(), lease: None };
    store.txn(Txn { then: vec![op], ..Txn::default() }).unwrap();
    while !store.derive().unwrap() {}
}

/// Every value that was ever written.
type Written = BTreeSet<Bytes>;

fn values(store: &Bare) -> Written {
    store.list(&Range::prefix("/")).iter().map(|entry| entry.value.clone()).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        if !file.file_name().to_string_lossy().ends_with("-shm") {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

/// Gives all to a server that has nothing; the values that are there then, or none when the damage was told.
fn told_to_another(store: &Bare, dir: &Path) -> Option<Written> {
    let mut other = open(dir, 9).unwrap();
    match store.begin(&Vector::default()).ok()? {
        Begin::After(after) => {
            let (rows, _) = store.changes(after, &Vector::default(), LIMIT).ok()??;
            other.receive(&rows).ok()?;
        }
        Begin::Snapshot => {
            let documents = store.documents().ok()?;
            other.join(&documents.page(None, LIMIT).ok()?, documents.seen()).ok()?;
        }
    }
    Some(values(&other))
}

/// Damages one file and looks. True: it was told.
fn told(dir: &Path, file: &str, own: &Written, written: &Written, damage: impl FnOnce(&mut Vec<u8>)) -> bool {
    let (damaged, peer) = (dir.join("damaged"), dir.join("peer"));
    for old in [&damaged, &peer] {
        drop(std::fs::remove_dir_all(old));
    }
    copy(&dir.join("whole"), &damaged);
    let mut bytes = std::fs::read(damaged.join(file)).unwrap();
    damage(&mut bytes);
    std::fs::write(damaged.join(file), bytes).unwrap();
    let Ok(mut store) = open(&damaged, 1) else { return true };
    assert_eq!(values(&store), *own, "what clients are served");
    while let Ok(false) = store.derive() {}
    match told_to_another(&store, &peer) {
        None => true,
        Some(found) => {
            assert!(found.is_subset(written), "a peer was told what nobody wrote");
            false
        }
    }
}

fn damage(file: &str, crash: bool) {
    let seed = std::env::var("EYOT_DAMAGE_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("EYOT_DAMAGE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let (live, whole) = (dir.path().join("live"), dir.path().join("whole"));
    let mut store = open(&live, 1).unwrap();
    let mut written = Written::new();
    for n in 0..60 {
        write(&mut store, n, &format!("w{n}"));
        written.extend(values(&store));
    }
    let own = values(&store);
    if crash {
        copy(&live, &whole);
    }
    drop(store);
    if !crash {
        copy(&live, &whole);
    }
    let length = std::fs::metadata(whole.join(file)).unwrap().len() as usize;
    assert!(!told(dir.path(), file, &own, &written, |_| ()), "nothing is damaged");
    let mut found = 0;
    for _ in 0..FLIPS {
        let (byte, bit) = (random.random_range(0..length), random.random_range(0..8));
        println!("byte {byte} of {length}, bit {bit}");
        found += usize::from(told(dir.path(), file, &own, &written, |bytes| bytes[byte] ^= 1 << bit));
    }
    for _ in 0..CUTS {
        let left = random.random_range(0..length);
        println!("cut to {left} of {length}");
        found += usize::from(told(dir.path(), file, &own, &written, |bytes| bytes.truncate(left)));
    }
    println!("{found} of {} were told; after the others nothing was served or told that nobody wrote", FLIPS + CUTS);
    // The log is whole: what is missing behind a bad frame is derived again.
    assert!(found > 0 || crash);
}

#[test]
fn damaged_documents_and_changes_are_told_or_harmless() {
    damage(DATABASE, false);
}

#[test]
fn a_damaged_write_ahead_log_of_changes_is_told_or_harmless() {
    damage(WAL, true);
}
