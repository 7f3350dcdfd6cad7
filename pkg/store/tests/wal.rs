//! The write-ahead log grows while somebody reads for long, and gives the disk back afterwards.
mod support;

use eyot_store::{Backend, Op, Store, Txn};
use support::open;

const KEPT_BYTES: u64 = 16 << 20;
const VALUE_BYTES: usize = 64 << 10;

async fn write(store: &Store, times: usize) {
    for n in 0..times {
        let op = Op::Put { key: format!("/{}", n % 8).into(), value: vec![b'x'; VALUE_BYTES].into(), lease: None };
        store.txn(Txn { then: vec![op], ..Txn::default() }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_read_leaves_no_large_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log_bytes = || std::fs::metadata(dir.path().join("store.db-wal")).unwrap().len();
    write(&store, 1).await;
    let reader = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM log;").unwrap();
    write(&store, KEPT_BYTES as usize / VALUE_BYTES * 2).await;
    assert!(log_bytes() > KEPT_BYTES, "the reader holds the log");
    reader.execute_batch("COMMIT").unwrap();
    for _ in 0..100 {
        write(&store, 20).await;
        if log_bytes() <= KEPT_BYTES {
            return store.close().await.unwrap();
        }
    }
    panic!("{} bytes of log are kept", log_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_without_pause_keeps_the_log_short() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut longest = 0;
    for _ in 0..20 {
        write(&store, 50).await;
        longest = longest.max(std::fs::metadata(dir.path().join("store.db-wal")).unwrap().len());
    }
    // The writer moves it itself there; one batch may come on top.
    assert!(longest <= KEPT_BYTES + (1 << 20), "{longest} bytes of log");
    store.close().await.unwrap();
}
