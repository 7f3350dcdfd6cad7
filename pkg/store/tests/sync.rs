//! A disk that takes its time, or fails, when asked to make writes durable: between the store and the C library's
//! `fsync` stands a small library of ours, loaded before it.
mod support;

use eyot_store::{Backend, Op, Store, Txn};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::open;

/// Says to this very test binary: be the store in this directory.
const ROLE: &str = "EYOT_STORE_SYNC_DIR";
const DELAY: Duration = Duration::from_millis(200);
const WRITERS: usize = 64;

/// While the file `slow` is there, syncing takes 200 ms; while `broken` is, it fails.
const LIBRARY: &str = r#"
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
static int sync_with(long number, int file) {
    if (chdir(getenv("EYOT_STORE_SYNC_DIR")) == 0 && access("slow", F_OK) == 0) usleep(200000);
    if (access("broken", F_OK) == 0) { errno = EIO; return -1; }
    return syscall(number, file);
}
int fsync(int file) { return sync_with(SYS_fsync, file); }
int fdatasync(int file) { return sync_with(SYS_fdatasync, file); }
"#;

async fn put(store: &Store, n: usize) -> Result<(), eyot_store::Error> {
    let op = Op::Put { key: format!("/{n}").into(), value: "x".into(), lease: None };
    store.txn(Txn { then: vec![op], ..Txn::default() }).await.map(drop)
}

async fn slow(store: &Arc<Store>, dir: &Path) {
    put(store, 0).await.unwrap();
    std::fs::write(dir.join("slow"), "").unwrap();
    let begun = Instant::now();
    let writes: Vec<_> = (1..=WRITERS)
        .map(|n| {
            tokio::spawn({
                let store = store.clone();
                async move {
                    put(&store, n).await.unwrap();
                    begun.elapsed()
                }
            })
        })
        .collect();
    tokio::time::sleep(DELAY / 4).await;
    let reading = Instant::now();
    assert!(store.get(b"/0", None).await.unwrap().is_some());
    assert!(reading.elapsed() < DELAY / 2, "a read waited for the disk");
    let mut last = Duration::ZERO;
    for write in writes {
        let took = write.await.unwrap();
        assert!(took >= DELAY, "acknowledged before it was durable");
        last = last.max(took);
    }
    assert!(last < DELAY * WRITERS as u32 / 4, "writers that wait share one sync: {last:?}");
    std::fs::remove_file(dir.join("slow")).unwrap();
}

async fn broken(store: &Store, dir: &Path) {
    std::fs::write(dir.join("broken"), "").unwrap();
    for n in 100..110 {
        assert!(put(store, n).await.is_err(), "acknowledged, yet not durable");
        assert!(store.get(format!("/{n}").as_bytes(), None).await.unwrap().is_none(), "shown, yet not durable");
    }
    assert!(store.get(b"/0", None).await.unwrap().is_some());
    std::fs::remove_file(dir.join("broken")).unwrap();
    put(store, 200).await.unwrap();
}

#[tokio::main]
async fn be_the_store(dir: &Path) {
    let store = open(&dir.join("store"));
    slow(&store, dir).await;
    broken(&store, dir).await;
    // As if the power went: nobody closes anything.
    std::process::exit(0);
}

#[test]
fn writes_wait_for_a_slow_disk_and_fail_with_a_broken_one() {
    if let Some(dir) = std::env::var_os(ROLE) {
        return be_the_store(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let (source, library) = (dir.path().join("sync.c"), dir.path().join("sync.so"));
    std::fs::write(&source, LIBRARY).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(built.success());
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writes_wait_for_a_slow_disk_and_fail_with_a_broken_one", "--nocapture"])
        .env(ROLE, dir.path())
        .env("LD_PRELOAD", &library)
        .status()
        .unwrap();
    assert!(done.success());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = open(&dir.path().join("store"));
        for n in (0..=WRITERS).chain([200]) {
            assert!(store.get(format!("/{n}").as_bytes(), None).await.unwrap().is_some(), "/{n} was acknowledged");
        }
        assert!(store.get(b"/100", None).await.unwrap().is_none());
        store.close().await.unwrap();
    });
}
