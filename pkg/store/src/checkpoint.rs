//! Moves the write-ahead log to the database beside the writer, which would else stand still for it: a thread copies
//! what there is, then the writer the little that it wrote meanwhile, so that the write-ahead log begins anew.
use crate::Result;
use crate::log::explain;
use crate::store::spawn;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, MAIN_DB};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Pages in the write-ahead log when they are moved to the database: 4 MiB, which a disk must have beside the database.
pub const CHECKPOINT_PAGES: u32 = 512;
/// Pages at which the writer moves them itself, should the thread not get on: 16 MiB.
const LIMIT_PAGES: u32 = 2048;

/// The thread has nothing to do.
const IDLE: u8 = 0;
/// The thread moves what there is.
const MOVING: u8 = 1;
/// It has moved what there was when it began.
const MOVED: u8 = 2;

/// What the writer's connection does after each commit.
pub struct Checkpoint {
    phase: Arc<AtomicU8>,
    wake: SyncSender<()>,
}

impl Checkpoint {
    /// Starts the thread for the database at `path`; it ends when the checkpoint is dropped.
    pub fn spawn(path: &Path) -> Result<(Self, JoinHandle<()>)> {
        let connection =
            Connection::open(path).and_then(|db| db.pragma_update(None, "synchronous", "FULL").map(|()| db));
        let connection = connection.map_err(|error| explain(path, error))?;
        let phase = Arc::new(AtomicU8::new(IDLE));
        let (wake, woken) = sync_channel(1);
        let moved = phase.clone();
        let thread = spawn("store-checkpoint", path, move || move_pages(&connection, &woken, &moved))?;
        Ok((Self { phase, wake }, thread))
    }

    /// After a commit, with `pages` in the write-ahead log. What fails is tried again after the next.
    pub fn committed(&self, wal: &mut Wal, pages: u32) {
        if pages < CHECKPOINT_PAGES {
            return;
        }
        let phase = self.phase.load(Ordering::Acquire);
        if phase == MOVED || pages >= LIMIT_PAGES {
            match wal.checkpoint() {
                Ok(()) => self.phase.store(IDLE, Ordering::Release),
                Err(error) => tracing::debug!(%error, pages, "the write-ahead log is not moved to the database yet"),
            }
        } else if phase == IDLE {
            self.phase.store(MOVING, Ordering::Release);
            // One wake is enough, and without the thread the limit holds.
            let _ = self.wake.try_send(());
        }
    }
}

/// Works until the writer is gone.
fn move_pages(connection: &Connection, woken: &Receiver<()>, phase: &AtomicU8) {
    while woken.recv().is_ok() {
        if let Err(error) = connection.wal_checkpoint_v2(Some(MAIN_DB), Default::default()) {
            tracing::debug!(%error, "moving the write-ahead log to the database");
        }
        phase.store(MOVED, Ordering::Release);
    }
}
