//! One watch: a task that follows the store and hands on what it finds to the stream's actor.
use std::sync::Arc;
use store::{Backend, Change, Error, Range, Result, Revision, Watch, WatchFrom, WatchItem};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// What a watch tells its stream.
pub enum News {
    Changes(Vec<Arc<Change>>),
    /// Everything up to this revision was told.
    Progress(Revision),
    /// The rest of what was asked for is gone; the watch ended.
    Compacted,
    /// The store closed or failed; the watch ended.
    Failed(Error),
}

pub struct Follow {
    pub serial: u64,
    pub backend: Arc<dyn Backend>,
    pub range: Range,
    /// Everything up to here is told.
    pub seen: Revision,
    pub news: mpsc::Sender<(u64, News)>,
    /// Notified when the stream wants to know how far this is.
    pub asked: Arc<Notify>,
    pub cancel: CancellationToken,
}

impl Follow {
    /// Follows until cancelled or the watch ends.
    pub async fn run(mut self, watch: Box<dyn Watch>) {
        let cancel = self.cancel.clone();
        cancel.run_until_cancelled(self.follow(watch)).await;
    }

    async fn follow(&mut self, mut watch: Box<dyn Watch>) {
        // One question at a time: each interrupts a read of the log, which then begins again.
        let mut asking = false;
        loop {
            let item = tokio::select! {
                () = self.asked.notified(), if !asking => {
                    asking = true;
                    watch.request_progress();
                    continue;
                }
                item = watch.next() => item,
            };
            let news = match item {
                Some(Ok(WatchItem::Changes(changes))) => {
                    self.seen = changes.last().map_or(self.seen, |change| change.revision);
                    News::Changes(changes)
                }
                Some(Ok(WatchItem::Progress(revision))) => {
                    asking = false;
                    self.seen = self.seen.max(revision);
                    News::Progress(revision)
                }
                Some(Err(error)) => match self.again(error).await {
                    Ok(resumed) => {
                        watch = resumed;
                        asking = false;
                        self.asked.notify_one();
                        continue;
                    }
                    Err(Error::Compacted { .. } | Error::Foreign { .. }) => News::Compacted,
                    Err(error) => News::Failed(error),
                },
                None => return,
            };
            if self.news.send((self.serial, news)).await.is_err() {
                return;
            }
        }
    }

    /// A client that reads slowly is not cut off while the log still has what it misses: etcd's clients expect that.
    async fn again(&self, error: Error) -> Result<Box<dyn Watch>> {
        match error {
            Error::Compacted { .. } => self.backend.watch(self.range.clone(), WatchFrom::After(self.seen)).await,
            other => Err(other),
        }
    }
}
