//! Snapshots by the clock, the oldest of which go.
use super::{prune, save};
use anyhow::Context;
use api::schedule::Schedule;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What snapshots are called that are taken by the clock.
const NAME: &str = "scheduled";
/// The clock is looked at so often at least: it may be set.
const LOOK: Duration = Duration::from_secs(60 * 60);

/// When snapshots are taken, and how many are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Scheduled {
    pub at: Schedule,
    pub retention: usize,
    pub dir: PathBuf,
}

impl Scheduled {
    /// By a schedule in cron's form; none when that is empty.
    ///
    /// # Errors
    /// What is no schedule.
    pub fn parse(schedule: &str, retention: usize, dir: PathBuf) -> anyhow::Result<Option<Self>> {
        if schedule.trim().is_empty() {
            return Ok(None);
        }
        let at = Schedule::parse(schedule).with_context(|| format!("the schedule of snapshots, {schedule:?}"))?;
        Ok(Some(Self { at, retention: retention.max(1), dir }))
    }
}

/// Takes snapshots of the store in `data_dir` until shutdown.
pub async fn run(data_dir: PathBuf, scheduled: Scheduled, shutdown: CancellationToken) {
    let zone = TimeZone::system();
    let mut last = Timestamp::now();
    while let Some(next) = scheduled.at.next(last, &zone) {
        while let Some(wait) = until(next, Timestamp::now()) {
            if shutdown.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
        }
        // What was missed while the machine slept is not made good many times.
        last = next.max(Timestamp::now());
        let (data_dir, scheduled) = (data_dir.clone(), scheduled.clone());
        let taken = tokio::task::spawn_blocking(move || take(&data_dir, &scheduled)).await;
        match taken {
            Ok(Ok(path)) => tracing::info!(path = %path.display(), "a snapshot was taken"),
            Ok(Err(error)) => tracing::error!("a snapshot was not taken: {error:#}"),
            Err(error) => tracing::error!(%error, "a snapshot was not taken"),
        }
    }
}

/// How long to sleep before looking again; none: the time has come.
fn until(next: Timestamp, now: Timestamp) -> Option<Duration> {
    let left = Duration::try_from(next.duration_since(now)).ok()?;
    (!left.is_zero()).then(|| left.min(LOOK))
}

fn take(data_dir: &Path, scheduled: &Scheduled) -> anyhow::Result<PathBuf> {
    let path = save(data_dir, &scheduled.dir, NAME)?;
    prune(&scheduled.dir, NAME, scheduled.retention)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::list;

    #[test]
    fn waits_are_short_enough_for_a_clock_that_is_set() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(until(at(100), at(40)), Some(Duration::from_secs(60)));
        assert_eq!(until(at(100_000), at(0)), Some(LOOK));
        assert_eq!((until(at(100), at(100)), until(at(100), at(900))), (None, None));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn they_are_taken_and_the_oldest_go() {
        let place = tempfile::tempdir().unwrap();
        let (data_dir, dir) = (place.path().to_owned(), place.path().join("kept"));
        let options = store::Options {
            dir: data_dir.join("server/store"),
            server: 1,
            summarize: std::sync::Arc::new(Nothing),
            keep: store::KEEP,
        };
        let store = store::Store::open(options).unwrap();
        let scheduled = Scheduled { at: Schedule::parse("@every 1s").unwrap(), retention: 2, dir: dir.clone() };
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(run(data_dir, scheduled, shutdown.clone()));
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 4 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = list(&dir).unwrap_or_default();
            assert!(now.len() <= 3, "two, and the one that is just taken");
            seen.extend(now.into_iter().map(|taken| taken.time));
        }
        shutdown.cancel();
        running.await.unwrap();
        store.close().await.unwrap();
        assert_eq!(list(&dir).unwrap().len(), 2);
    }

    struct Nothing;

    impl api::summary::Summarize for Nothing {
        fn summarize(&self, _: &[u8], _: &[u8]) -> api::summary::Summary {
            api::summary::Summary::default()
        }
    }
}
