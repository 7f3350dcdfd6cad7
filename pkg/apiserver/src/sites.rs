//! What the engine knows of other sites: whose objects are whose, which numbers are ours to give away, and how a request
//! gets to the server of another site.
use crate::Body;
use crate::engine::Request;
use api::home::Ownership;
use http::Response;
use std::sync::Arc;
use tokio::sync::watch;

/// Hands a request to another site's server.
#[async_trait::async_trait]
pub trait HomeProxy: Send + Sync {
    /// The answer of `site`'s server to the same request by the same user. That server is told that the request was handed
    /// on (`Request::forwarded`), so that it hands it to nobody else.
    ///
    /// # Errors
    /// When that server could not be asked. The request may or may not have been carried out there.
    async fn forward(&self, site: &str, request: Request) -> Result<Response<Body>, Unreachable>;
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
    pub proxy: Option<Arc<dyn HomeProxy>>,
}

impl Default for Sites {
    fn default() -> Self {
        Self { ownership: watch::channel(Ownership::default()).1, proxy: None }
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
