//! What was, at any revision that is not compacted, against a plain model: keys that change, end and begin anew. The seed is
//! printed, and `EYOT_PAST_SEED` replays it.
mod support;

use eyot_store::{Backend, Error, Op, Range, Revision, Store, Txn};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use support::open;

const WRITES: usize = 600;
const KEYS: usize = 12;

type Shown = BTreeMap<String, Vec<u8>>;

fn range(random: &mut StdRng) -> Range {
    match random.random_range(0..3) {
        0 => Range { start: "/".into(), end: Default::default() },
        1 => Range::prefix(format!("/{}", random.random_range(0..2))),
        _ => Range::key(format!("/{:02}", random.random_range(0..KEYS))),
    }
}

async fn write(store: &Store, random: &mut StdRng, now: &mut Shown) -> Revision {
    let mut txn = Txn::default();
    for n in 0..KEYS {
        let key = format!("/{n:02}");
        match random.random_range(0..20) {
            0 if now.remove(&key).is_some() => txn.then.push(Op::Delete { key: key.into() }),
            1 | 2 => {
                let value = vec![random.random(); random.random_range(0..9000)];
                now.insert(key.clone(), value.clone());
                txn.then.push(Op::Put { key: key.into(), value: value.into(), lease: None });
            }
            _ => {}
        }
    }
    store.txn(txn).await.unwrap().revision
}

/// Compares what the store says was at a revision to what was noted then.
async fn look(store: &Store, random: &mut StdRng, at: Revision, then: &Shown) {
    let (range, limit) = (range(random), random.random_range(0..6));
    let wanted: Vec<_> = then.iter().filter(|(key, _)| range.contains(key.as_bytes())).collect();
    let page = store.list(&range, Some(at), limit).await.unwrap();
    let shown = if limit == 0 { wanted.len() } else { limit.min(wanted.len()) };
    assert_eq!((page.count, page.entries.len()), (wanted.len() as u64, shown), "{range:?} at {at}");
    assert_eq!(page.more, shown < wanted.len());
    for (entry, (key, value)) in page.entries.iter().zip(wanted) {
        assert!(entry.key == key.as_bytes() && entry.value == value && entry.mod_revision <= at, "{key} at {at}");
    }
    let key = format!("/{:02}", random.random_range(0..KEYS));
    let found = store.get(key.as_bytes(), Some(at)).await.unwrap();
    assert_eq!(found.map(|entry| entry.value.to_vec()), then.get(&key).cloned(), "{key} at {at}");
}

#[tokio::test]
async fn every_revision_is_shown_as_it_was() {
    let seed = std::env::var("EYOT_PAST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("EYOT_PAST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let (mut now, mut noted) = (Shown::new(), Vec::new());
    for n in 1..=WRITES {
        let revision = write(&store, &mut random, &mut now).await;
        if noted.last().is_none_or(|(last, _)| *last != revision) {
            noted.push((revision, now.clone()));
        }
        if n % 200 == 0 {
            let oldest = random.random_range(0..noted.len());
            let (compacted, last) = (noted[oldest].0, noted[oldest.saturating_sub(1)].0);
            store.compact(compacted).await.unwrap();
            store.compacted(compacted).await.unwrap();
            assert!(oldest == 0 || matches!(store.get(b"/00", Some(last)).await, Err(Error::Compacted { .. })));
            noted.drain(..oldest);
            store.close().await.unwrap();
            drop(store);
            store = open(dir.path());
        }
        if n % 20 == 0 {
            for (at, then) in &noted {
                look(&store, &mut random, *at, then).await;
            }
        }
    }
    store.close().await.unwrap();
}
