//! Which member is asked: one until it fails, then the next.
use super::connect::{Address, NotConnected, channel};
use crate::pb;
use parking_lot::Mutex;
use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// How long one member may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long members are asked again before the caller is told that none answers.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(100);
/// The log hears of members that do not answer this often at most.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// As much as etcd's own client takes: a page of large objects.
const MESSAGE_LIMIT_BYTES: usize = i32::MAX as usize;

/// When a question may be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It changes nothing, or the same however often it is asked.
    Always,
    /// Only while it was not sent: of what was sent, nobody knows whether it was done.
    Unsent,
}

pub struct Members {
    channels: Vec<(Address, Channel)>,
    /// When it was last told that one does not answer.
    told: Mutex<Option<Instant>>,
    /// Counts members that were left; the remainder is the one that is asked.
    turn: AtomicUsize,
}

impl Members {
    pub fn new(members: Vec<Address>, tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        assert!(!members.is_empty(), "an etcd has members");
        let open = |member: Address| {
            let channel = channel(&member, tls.clone());
            (member, channel)
        };
        let channels = members.into_iter().map(open).collect();
        Self { channels, told: Mutex::default(), turn: AtomicUsize::new(0) }
    }

    /// The member whose turn it is, with the turn.
    pub fn current(&self) -> (usize, Channel) {
        let turn = self.turn.load(Ordering::Acquire);
        (turn, self.channels[turn % self.channels.len()].1.clone())
    }

    /// Goes on to the next member, unless somebody did so already.
    pub fn leave(&self, turn: usize, why: &Status) {
        let left = self.turn.compare_exchange(turn, turn + 1, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if left && self.tells_again() {
            let member = |turn: usize| &self.channels[turn % self.channels.len()].0;
            tracing::warn!(member = %member(turn), next = %member(turn + 1), why = why.message(), "etcd does not answer");
        }
    }

    /// While nobody answers, everybody who asks finds out again and again.
    fn tells_again(&self) -> bool {
        let mut told = self.told.lock();
        let again = told.is_none_or(|told| told.elapsed() > TELL_EVERY);
        if again {
            *told = Some(Instant::now());
        }
        again
    }

    /// Asks until a member answers.
    pub async fn ask<T, F>(&self, repeat: Repeat, question: impl Fn(Channel) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let begun = Instant::now();
        loop {
            let (turn, channel) = self.current();
            let answer = tokio::time::timeout(ANSWER, question(channel)).await;
            let failed = match answer {
                Ok(Err(status)) if is_away(&status) => status,
                Ok(answer) => return answer,
                Err(_) => Status::unavailable(format!("no answer within {} s", ANSWER.as_secs())),
            };
            self.leave(turn, &failed);
            let again = repeat == Repeat::Always || was_not_sent(&failed);
            if !again || begun.elapsed() > PATIENCE {
                return Err(failed);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Whether another member, or the same one later, may answer better.
pub fn is_away(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Internal => true,
        // What the transport says, and not etcd.
        Code::Unknown => status.source().is_some(),
        _ => false,
    }
}

fn was_not_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<NotConnected>() {
            return true;
        }
        source = error.source();
    }
    false
}

pub fn kv(channel: Channel) -> pb::kv_client::KvClient<Channel> {
    pb::kv_client::KvClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT_BYTES)
}

pub fn lease(channel: Channel) -> pb::lease_client::LeaseClient<Channel> {
    pb::lease_client::LeaseClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT_BYTES)
}

pub fn watch(channel: Channel) -> pb::watch_client::WatchClient<Channel> {
    pb::watch_client::WatchClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(ports: &[u16]) -> Members {
        Members::new(ports.iter().map(|port| format!("http://127.0.0.1:{port}").parse().unwrap()).collect(), None)
    }

    /// A port where nobody listens.
    fn closed() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn what_was_not_sent_goes_to_the_next_member() {
        let members = members(&[closed(), closed()]);
        let asked = std::cell::Cell::new(0);
        let asked = &asked;
        let question = |channel| async move {
            asked.set(asked.get() + 1);
            if asked.get() == 3 {
                return Ok(asked.get());
            }
            let failed = kv(channel).range(pb::RangeRequest::default()).await.unwrap_err();
            assert!(was_not_sent(&failed), "{failed:?}");
            Err(failed)
        };
        assert_eq!(members.ask(Repeat::Unsent, question).await.unwrap(), 3);
        assert_eq!(members.current().0, 2);
    }

    #[tokio::test]
    async fn what_was_sent_is_not_sent_again_unless_it_may_be() {
        let members = members(&[closed(), closed()]);
        let asked = std::cell::Cell::new(0);
        let question = |_| async {
            asked.set(asked.get() + 1);
            if asked.get() == 3 { Ok(()) } else { Err(Status::unavailable("etcdserver: leader changed")) }
        };
        assert!(members.ask(Repeat::Unsent, &question).await.is_err());
        assert_eq!((asked.get(), members.current().0), (1, 1), "but the next question goes elsewhere");
        members.ask(Repeat::Always, &question).await.unwrap();
        assert_eq!(asked.get(), 3);
    }

    #[tokio::test]
    async fn what_etcd_says_is_an_answer() {
        let members = members(&[closed(), closed()]);
        let said =
            async |_| Err::<(), _>(Status::out_of_range("etcdserver: mvcc: required revision has been compacted"));
        assert!(members.ask(Repeat::Always, said).await.is_err());
        assert_eq!(members.current().0, 0);
    }
}
