//! What a node keeps up to date of itself while it runs: the list of servers and how near they are, and its certificates.
use super::connect::{self, Api};
use super::identity::{Identity, Refusal, Wanted, is_refusal};
use super::servers::Servers;
use crate::nodes::message::{MEMBER, SERVERS, Servers as Answer};
use ::api::home::Ownership;
use futures::StreamExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often the cluster's servers are asked for, and the way to each is measured.
const LOOK: Duration = Duration::from_secs(30);
/// The same while nobody has answered yet.
const LOOK_LOST: Duration = Duration::from_secs(2);
/// How often certificates are looked at.
const RENEW: Duration = Duration::from_secs(60 * 60);
/// The same when they are due and no server gave new ones.
const RENEW_RETRY: Duration = Duration::from_secs(60);
/// How often it is tried to join anew, where no server gave certificates.
const REJOIN_RETRY: Duration = Duration::from_secs(15);
/// Servers that are asked one by one whether they take this node's certificates, where the API does not answer.
const ASKED: usize = 8;
/// Servers measured at once.
const MEASURED: usize = 8;

pub struct Service {
    pub servers: Arc<Servers>,
    /// The node's own first: it asks for the list.
    pub apis: [Api; 3],
    pub identity: Arc<Identity>,
    /// What the network is told of sites out of reach.
    pub ownership: watch::Sender<Ownership>,
    pub wanted: Wanted,
    /// When joining anew failed last.
    pub failed: parking_lot::Mutex<Option<Instant>>,
}

impl Service {
    /// Runs until it is dropped.
    pub async fn run(self) {
        tokio::join!(self.follow(), self.renew());
    }

    async fn follow(&self) {
        let client = self.apis[0].client();
        let mut alone = false;
        loop {
            let learned = self.learn(&client).await;
            tell(&mut alone, learned.as_ref().err());
            let learned = learned.is_ok();
            if learned {
                self.measure().await;
                self.move_nearer().await;
            }
            tokio::time::sleep(LOOK_LOST).await;
            if learned {
                // A stranger may be a server that joined just now.
                let _ = tokio::time::timeout(LOOK - LOOK_LOST, self.identity.stranger()).await;
            }
        }
    }

    async fn learn(&self, client: &kube::Client) -> Result<(), kube::Error> {
        let request = http::Request::get(SERVERS).body(Vec::new()).map_err(kube::Error::HttpError)?;
        let answer = match client.request::<Answer>(request).await {
            Ok(answer) => answer,
            Err(error) => self.ask_any().await.ok_or(error)?,
        };
        // The one that answers may have been removed, and would be the last to hear of it.
        match self.second_opinion(answer.number).await {
            Some(other) => {
                self.take(other);
                self.leave().await;
            }
            None => self.take(answer),
        }
        Ok(())
    }

    fn take(&self, answer: Answer) {
        self.servers.learn(answer.servers);
        if let Err(error) = self.identity.trust(&answer.authorities) {
            tracing::warn!(error = format!("{error:#}"), "the members' certificates are not kept");
        }
        if let Some(backend) = answer.flannel_backend
            && let Err(error) = self.identity.keep_backend(backend)
        {
            tracing::warn!(error = format!("{error:#}"), "the way to other nodes' pods is not kept");
        }
        let view = answer.sites.map(|sites| sites.view()).unwrap_or_default();
        self.ownership.send_if_modified(|old| std::mem::replace(old, view.clone()) != view);
    }

    /// What another server says, if that knows that the one which is spoken to was removed.
    async fn second_opinion(&self, number: Option<u16>) -> Option<Answer> {
        let (number, present) = (number?, self.apis[0].present().await?);
        let path = format!("{SERVERS}?{MEMBER}{number}");
        for server in self.servers.all().into_iter().filter(|server| server.address != present) {
            match self.ask(&server.address, &path).await {
                Ok(text) => {
                    let answer = serde_json::from_str::<Answer>(&text).ok();
                    // The given address may lead to the same server.
                    let answer = answer.filter(|answer| answer.number != Some(number))?;
                    return Some(answer).filter(|answer| answer.removed);
                }
                Err(error) => {
                    tracing::debug!(server = server.address, error = format!("{error:#}"), "no second opinion")
                }
            }
        }
        None
    }

    /// What a server answers, after joining anew there if it does not take this node's certificates any more.
    async fn ask(&self, address: &str, path: &str) -> anyhow::Result<String> {
        match self.identity.ask_also(address, path).await {
            Err(error) if is_refusal(&error) && self.rejoin(address).await => {
                self.identity.ask_also(address, path).await
            }
            answer => answer,
        }
    }

    /// What any of the nearest servers answers, where the one that is spoken to does not.
    async fn ask_any(&self) -> Option<Answer> {
        for address in self.servers.order().into_iter().take(ASKED) {
            if let Ok(text) = self.ask(&address, SERVERS).await {
                return serde_json::from_str(&text).ok();
            }
        }
        None
    }

    /// Whoever signed this node's certificates was removed: others give it new ones, by the token. Pods do not notice.
    async fn rejoin(&self, address: &str) -> bool {
        if self.failed.lock().is_some_and(|failed| failed.elapsed() < REJOIN_RETRY) {
            return false;
        }
        match self.identity.rejoin(&self.wanted, address).await {
            Ok(()) => {
                tracing::warn!(server = address, "this node's certificates held no longer: joined anew by the token");
                self.reconnect().await;
                true
            }
            Err(why) => {
                tracing::warn!(server = address, %why, "this node's certificates hold no longer, and it can't join anew");
                *self.failed.lock() = Some(Instant::now());
                false
            }
        }
    }

    async fn reconnect(&self) {
        for api in &self.apis {
            api.reconnect().await;
        }
    }

    /// Nothing goes to the server that was spoken to any more.
    async fn leave(&self) {
        tracing::warn!("the server that this node spoke to is none of the cluster's any more; going to another");
        self.servers.leave_present();
        self.reconnect().await;
    }

    /// Measures the way to every server: those that don't answer are not tried first when one is needed.
    async fn measure(&self) {
        let all = self.servers.all();
        let measured = all.into_iter().map(|server| async move {
            match connect::distance(&server.address).await {
                Ok(took) => self.servers.answered(&server.address, took),
                Err(_) => self.servers.failed(&server.address),
            }
        });
        futures::stream::iter(measured).buffer_unordered(MEASURED).collect::<Vec<()>>().await;
    }

    /// New requests of all go to a better server where there is one; what is under way ends where it is.
    async fn move_nearer(&self) {
        let Some(present) = self.apis[0].present().await else { return };
        if self.servers.has_better(&present) {
            tracing::info!(from = present, "moving to a nearer server");
            self.servers.leave_present();
            self.reconnect().await;
        }
    }

    async fn renew(&self) {
        loop {
            let due = self.identity.is_due(&self.wanted).unwrap_or(true);
            let done = !due || self.renew_once().await;
            tokio::time::sleep(if done { RENEW } else { RENEW_RETRY }).await;
        }
    }

    async fn renew_once(&self) -> bool {
        for server in self.servers.all() {
            match self.identity.renew(&self.wanted, &server.address).await {
                Ok(()) => {
                    tracing::info!(server = server.address, "new certificates");
                    self.reconnect().await;
                    return true;
                }
                Err(why @ (Refusal::Refused(_) | Refusal::NoToken)) => {
                    tracing::warn!(server = server.address, %why, "no new certificates for this node");
                }
                Err(Refusal::Away(error)) => {
                    tracing::debug!(server = server.address, error = format!("{error:#}"), "not renewed");
                }
            }
        }
        false
    }
}

/// One line when the last server is lost, and one when there is one again.
fn tell(alone: &mut bool, error: Option<&kube::Error>) {
    match error {
        Some(error) if !*alone => tracing::warn!(%error, "the node goes on by itself"),
        None if *alone => tracing::info!("a server answers again"),
        _ => {}
    }
    *alone = error.is_some();
}
