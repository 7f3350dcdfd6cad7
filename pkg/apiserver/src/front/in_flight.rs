//! How many requests are served at once. Long-running ones do not count; components of this process do, and
//! wait like everybody.
use crate::limits;
use api::Status;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Two pools: reading and changing requests.
pub struct InFlight {
    reading: Arc<Semaphore>,
    mutating: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Default for InFlight {
    fn default() -> Self {
        Self::new(limits::READING_IN_FLIGHT, limits::MUTATING_IN_FLIGHT)
    }
}

impl InFlight {
    pub fn new(reading: usize, mutating: usize) -> Self {
        let pool = |permits| Arc::new(Semaphore::new(permits));
        Self { reading: pool(reading), mutating: pool(mutating), waiting: AtomicUsize::new(0) }
    }

    /// A place to be served in, held until dropped.
    ///
    /// # Errors
    /// 429 when there is none within [`limits::IN_FLIGHT_WAIT`], or too many wait already.
    pub async fn enter(&self, mutating: bool) -> Result<OwnedSemaphorePermit, Status> {
        let pool = if mutating { &self.mutating } else { &self.reading };
        if let Ok(permit) = pool.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let refused = || {
            let message = "too many requests, please try again later";
            Status::too_many_requests(message, limits::RETRY_AFTER_SECONDS)
        };
        let _waiter = Waiter::new(&self.waiting).ok_or_else(refused)?;
        match tokio::time::timeout(limits::IN_FLIGHT_WAIT, pool.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(refused()),
        }
    }
}

/// Counts a waiting request for as long as it waits, however it ends.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn new(count: &'a AtomicUsize) -> Option<Self> {
        let waiter = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < limits::IN_FLIGHT_WAITING).then_some(waiter)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pools_are_apart_and_bounded() {
        let in_flight = InFlight::new(1, 1);
        let reading = in_flight.enter(false).await.unwrap();
        let _mutating = in_flight.enter(true).await.unwrap();
        let refused = in_flight.enter(false).await.unwrap_err();
        assert_eq!((refused.code, refused.details.unwrap().retry_after_seconds), (429, 1));
        drop(reading);
        drop(in_flight.enter(false).await.unwrap());
        assert_eq!(in_flight.waiting.load(Ordering::Relaxed), 0);
    }
}
