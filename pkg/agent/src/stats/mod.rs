//! What the node, its pods and their containers use: sampled from the kernel's groups, told in the formats that
//! others scrape.
//!
//! `sample` reads, `rate` compares two samples, `disk` and `volumes` look at files, `summary`, `resource` and `cadvisor` write.
mod cadvisor;
pub mod disk;
mod network;
mod rate;
mod resource;
mod sample;
mod summary;
pub mod volumes;

pub use cadvisor::cadvisor;
pub use resource::resource;
pub use sample::{Container, PodSample, Sample};
pub use summary::summary;

use crate::context::Context;
use client::Reflector;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the groups are read: what rates are taken over, as metrics-server's resolution.
const EVERY: Duration = Duration::from_secs(15);
/// A sample this young answers a request.
const FRESH: Duration = Duration::from_secs(2);
/// The shortest time that a rate is taken over.
const SHORTEST: Duration = Duration::from_secs(5);
/// Samples kept: two that are far enough apart, and the newest.
const KEPT: usize = 3;

/// The samples that were taken last, oldest first.
#[derive(Default)]
pub struct Stats {
    kept: Mutex<VecDeque<Arc<Sample>>>,
    pub volumes: volumes::Cache,
}

/// The newest sample, and an older one to take rates against.
pub struct Pair {
    pub new: Arc<Sample>,
    pub old: Option<Arc<Sample>>,
}

impl Stats {
    /// Samples until shutdown.
    pub async fn run(context: Arc<Context>, pods: Reflector<Pod>, shutdown: CancellationToken) {
        let work = async {
            let mut tick = tokio::time::interval(EVERY);
            loop {
                tick.tick().await;
                context.stats.take(&context, &pods).await;
            }
        };
        shutdown.run_until_cancelled(Box::pin(work)).await;
    }

    /// What is used now.
    pub async fn now(&self, context: &Context, pods: &Reflector<Pod>) -> Pair {
        let young = self.kept.lock().back().filter(|sample| sample.at.elapsed() < FRESH).cloned();
        let new = match young {
            Some(sample) => sample,
            None => self.take(context, pods).await,
        };
        let kept = self.kept.lock();
        let old = kept.iter().rev().find(|old| new.at.saturating_duration_since(old.at) >= SHORTEST);
        Pair { old: old.cloned(), new }
    }

    async fn take(&self, context: &Context, pods: &Reflector<Pod>) -> Arc<Sample> {
        let sample = Arc::new(sample::take(context, pods).await);
        let mut kept = self.kept.lock();
        // Samples on request come in between: the one before must stay old enough.
        let crowded = |kept: &VecDeque<Arc<Sample>>| {
            kept.len() >= 2 && sample.at.saturating_duration_since(kept[kept.len() - 2].at) < SHORTEST
        };
        if crowded(&kept) {
            kept.pop_back();
        }
        kept.push_back(sample.clone());
        while kept.len() > KEPT {
            kept.pop_front();
        }
        sample
    }
}
