//! Joining a cluster, from both sides. Whoever joins trusts the root whose hash its token carries, makes its own keys,
//! and gets numbers and certificates for them from a member, any. No key ever travels.
use crate::config::Server;
use crate::dial;
use crate::files;
use crate::pki;
use crate::site::{Contact, Site};
use crate::token::{self, Token};
use anyhow::{Context, bail, ensure};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where joining is asked for.
pub const PATH: &str = "/v1-eyot/join";

/// What is said of a token that admits no servers.
pub const FOR_NODES: &str =
    "this token admits nodes and no servers: `eyot token show` on a server prints the one that does";

/// How long a member that is still starting is waited for, and how often it is asked meanwhile.
const STARTING: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(500);

/// What a server that wants to join says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    pub name: String,
    pub site: String,
    /// Where others can dial it, as `HOST:PORT`.
    pub address: Option<String>,
    /// A signing request of its intermediate CA, in PEM.
    pub authority_request: String,
    /// The public key of its service account tokens, in PEM.
    pub service_account_key: String,
}

/// What it is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Admission {
    pub number: u16,
    pub cluster_id: uuid::Uuid,
    /// The certificate of its intermediate CA, and those between it and the root, in PEM.
    pub authority: String,
    pub cluster_cidr: crate::config::Ipv4Net,
    pub service_cidr: crate::config::Ipv4Net,
    pub cluster_domain: String,
    #[serde(default)]
    pub flannel_backend: crate::config::Backend,
    /// The server that admits.
    pub by: Contact,
}

/// Joins on the first start; afterwards what was told then holds. Adapts the settings that all servers share.
///
/// # Errors
/// What kept it from joining, and what to do.
pub async fn ensure_joined(config: &mut Server, name: &str) -> anyhow::Result<()> {
    let Some(url) = config.join.clone() else { return Ok(()) };
    let kept = config.data_dir.join("server/admission.json");
    if Site::load(&config.data_dir)?.is_none() {
        ensure!(
            !config.store_dir().exists(),
            "{} holds a cluster of its own: a server joins with an empty data directory",
            config.data_dir.display()
        );
        let admission = join(config, &url, name).await.with_context(|| format!("joining {url}"))?;
        files::write(&kept, serde_json::to_string_pretty(&admission)?.as_bytes(), 0o600)?;
        let site = Site {
            number: admission.number,
            name: name.to_owned(),
            site: config.site.clone().unwrap_or_else(|| name.to_owned()),
            admitted_by: Some(admission.by.clone()),
            synced: false,
            several: true,
        };
        site.save(&config.data_dir)?;
        tracing::info!(number = site.number, by = admission.by.name, "joined");
    }
    if let Some(text) = files::read_if_there(&kept)? {
        let admission: Admission = serde_json::from_str(&text).with_context(|| kept.display().to_string())?;
        config.cluster_cidr = admission.cluster_cidr;
        config.service_cidr = admission.service_cidr;
        config.cluster_domain = admission.cluster_domain;
        config.flannel_backend = config.flannel_backend.or(Some(admission.flannel_backend));
    }
    Ok(())
}

async fn join(config: &Server, url: &str, name: &str) -> anyhow::Result<Admission> {
    let address = url.strip_prefix("https://").map(|rest| rest.trim_end_matches('/'));
    let address = address.context("write the server as https://HOST:PORT")?;
    let address = if address.contains(':') { address.to_owned() } else { format!("{address}:6443") };
    let token =
        config.token.as_deref().context("joining needs --token: `eyot token show` on the other server prints it")?;
    let token = Token::parse(token)?;
    ensure!(!token.is_for_nodes(), FOR_NODES);
    let root_pem = root(&address, &token).await?;
    let dir = config.tls_dir();
    let keys = pki::prepare(&dir, &root_pem)?;
    let host = config.advertise_address.or(config.node.node_ip).unwrap_or_else(crate::host::primary_address);
    let request = Request {
        name: name.to_owned(),
        site: config.site.clone().unwrap_or_else(|| name.to_owned()),
        address: Some(std::net::SocketAddr::new(host, config.https_listen_port).to_string()),
        authority_request: keys.authority_request,
        service_account_key: keys.service_account_key,
    };
    let tls = Arc::new(crate::tls::client(&root_pem, None)?);
    let content = serde_json::to_string(&request)?;
    let ask = || dial::ask(&address, tls.clone(), ("POST", PATH), Some(&token.password), content.clone());
    let mut answer = ask().await?;
    let began = Instant::now();
    while answer.0 == StatusCode::SERVICE_UNAVAILABLE && began.elapsed() < STARTING {
        tokio::time::sleep(RETRY).await;
        answer = ask().await?;
    }
    let (status, text) = answer;
    if status != StatusCode::OK {
        bail!("it refused: {}", reason(&text));
    }
    let admission: Admission = serde_json::from_str(&text).context("its answer is none that this version knows")?;
    pki::install(&dir, &admission.authority)?;
    files::write(&config.data_dir.join("server/cluster-id"), format!("{}\n", admission.cluster_id).as_bytes(), 0o600)?;
    let kept = Token { ca_hash: Some(token::ca_hash(&root_pem)), ..token };
    files::write(&config.token_file(), format!("{}\n", kept.render(&root_pem)).as_bytes(), 0o600)?;
    Ok(admission)
}

/// The message of a Status, or the text itself.
pub(crate) fn reason(text: &str) -> String {
    let status: Option<api::Status> = serde_json::from_str(text).ok();
    status.map_or_else(|| text.trim().to_owned(), |status| status.message)
}

/// The root certificate of the cluster, if it is the one that the token was made for.
async fn root(address: &str, token: &Token) -> anyhow::Result<String> {
    let Some(pinned) = &token.ca_hash else {
        bail!(
            "the token must be whole (K10…::server:…), so that it says which cluster is meant: `eyot token show` prints it"
        );
    };
    let tls = apiserver::connect::unverified_client();
    let (status, root_pem) = dial::ask(address, tls, ("GET", "/cacerts"), None, String::new()).await?;
    ensure!(status == StatusCode::OK, "it answered {status} where its certificates should be");
    ensure!(
        token::ca_hash(&root_pem) == *pinned,
        "the server there is of another cluster than the token: its root certificate differs"
    );
    Ok(root_pem)
}
