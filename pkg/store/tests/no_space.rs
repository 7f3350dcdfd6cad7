//! A full disk refuses writes, clearly; reads go on, and writes succeed again when there is space.
mod support;

use eyot_store::{Backend, Error, Op, Revision, Store, Txn};
use std::process::Command;
use support::open;

/// A small file system of its own, gone when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(dir.path()).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the small file system stays mounted");
    }
}

async fn write(store: &Store, n: usize) -> Result<Revision, Error> {
    let op = Op::Put { key: format!("/{n}").into(), value: vec![b'x'; 64 << 10].into(), lease: None };
    store.txn(Txn { then: vec![op], ..Txn::default() }).await.map(|done| done.revision)
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_space() {
    let Some(small) = Small::mount() else {
        println!("skipped: mounting a tmpfs needs privileges");
        return;
    };
    let store = open(&small.0.path().join("store"));
    let ballast = small.0.path().join("ballast");
    // More than the write-ahead log, which is moved to the database when there is space again.
    std::fs::write(&ballast, vec![0; 6 << 20]).unwrap();
    let mut written = 0;
    let error = loop {
        match write(&store, written).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "the disk never filled");
    };
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    let last = format!("/{}", written - 1);
    assert_eq!(store.get(last.as_bytes(), None).await.unwrap().unwrap().value.len(), 64 << 10);
    assert!(store.get(format!("/{written}").as_bytes(), None).await.unwrap().is_none());
    std::fs::remove_file(&ballast).unwrap();
    let after = write(&store, written).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = open(&small.0.path().join("store"));
    assert_eq!(store.current_revision(), after);
    store.close().await.unwrap();
}
