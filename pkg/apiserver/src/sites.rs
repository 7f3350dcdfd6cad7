//! What the engine knows of other sites: whose objects are whose, which numbers are ours to give away, how a request
//! gets to the server of another site, and how far this server is in what others had.
use crate::Body;
use crate::engine::Request;
use api::home::Ownership;
use api::slice::Share;
use http::Response;
use std::sync::Arc;
use store::Revision;
use tokio::sync::watch;

/// Marks a request (`http::Request::extensions`) that a server of another site handed on; nothing that comes over the
/// network has it.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded;

/// Hands a request to another site's server.
#[async_trait::async_trait]
pub trait HomeProxy: Send + Sync {
    /// The answer of `site`'s acting server (of our own site's, where this one is passive) to the same request ([`Request::to_http`]) by the same user. That server serves it with
    /// [`Forwarded`] among its extensions, so that it hands it on to nobody else.
    ///
    /// # Errors
    /// When that server could not be asked. The request may or may not have been carried out there.
    async fn forward(&self, site: &str, request: Request) -> Result<Response<Body>, Unreachable>;
}

/// How far this server is in what other servers had.
pub trait Watermarks: Send + Sync {
    /// Whether everything is here that the server which made this revision had by then. None: it is no server of the cluster,
    /// or has been away for so long that nobody waits for it.
    fn passed(&self, revision: Revision) -> Option<bool>;
}

/// No server of the site answered.
#[derive(Clone, Debug, thiserror::Error)]
#[error("site {site} is out of reach: {reason}")]
pub struct Unreachable {
    pub site: String,
    pub reason: String,
}

/// The default is a server alone.
#[derive(Clone)]
pub struct Sites {
    /// Kept up to date by whoever follows the other servers.
    pub ownership: watch::Receiver<Ownership>,
    /// The numbers that this server gives to Services by itself.
    pub shares: watch::Receiver<Share>,
    pub proxy: Option<Arc<dyn HomeProxy>>,
    /// None: there are no other servers.
    pub watermarks: Option<Arc<dyn Watermarks>>,
}

impl Default for Sites {
    fn default() -> Self {
        Self {
            ownership: watch::channel(Ownership::default()).1,
            shares: watch::channel(Share::default()).1,
            proxy: None,
            watermarks: None,
        }
    }
}

impl Sites {
    /// Asks the present view something. Not to be held across waiting.
    pub fn view(&self) -> watch::Ref<'_, Ownership> {
        self.ownership.borrow()
    }

    /// Whether objects have homes at all.
    pub fn marked(&self) -> bool {
        self.view().marked
    }
}
