//! Who this node is: keys that it made and that never leave it, the certificates that a server signed for them, and what
//! it was told of its cluster. All lies in the agent's directory, so that later starts need no server.
use super::connect::Settings;
use crate::config::{self, Cluster};
use crate::nodes::message::{Admission, Identities, JOIN, Request};
use crate::pki::{self, Pair};
use crate::tls::{self, Serving};
use crate::token::{self, Token};
use crate::trust::Trust;
use crate::{dial, files};
use anyhow::{Context, ensure};
use arc_swap::ArcSwap;
use hyper::StatusCode;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Before a server that is not there is asked again: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// The port of servers that are given without one.
const PORT: u16 = 6443;

/// What a node keeps of its admission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Membership {
    pub name: String,
    /// What its certificate says.
    pub addresses: Vec<IpAddr>,
    pub site: Option<String>,
    pub cluster: Cluster,
}

/// A node's identities, as they are now.
pub struct Identity {
    dir: PathBuf,
    pub membership: Membership,
    trust: Arc<Trust>,
    /// The password of the cluster, where this start was given it: for a node whose certificates nobody takes any more.
    password: Option<String>,
    node: Settings,
    network: Settings,
    storage: Settings,
    serving: Arc<Serving>,
}

/// Why a server gave no certificates.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It may later.
    #[error("{0:#}")]
    Away(anyhow::Error),
    /// It won't: somebody has to do something.
    #[error("{0}")]
    Refused(String),
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self::Away(error)
    }
}

/// Who a node wants to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub site: Option<String>,
}

/// Where the agent keeps what it is.
#[derive(Clone, Debug)]
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn of(data_dir: &Path) -> Self {
        Self(data_dir.join("agent"))
    }

    pub fn servers(&self) -> PathBuf {
        self.0.join("servers.json")
    }

    /// The CAs of the members, in PEM, as they were told last.
    fn authorities(&self) -> PathBuf {
        self.tls("members-ca.crt")
    }

    fn membership(&self) -> PathBuf {
        self.0.join("cluster.json")
    }

    fn tls(&self, file: &str) -> PathBuf {
        self.0.join("tls").join(file)
    }

    fn root(&self) -> anyhow::Result<Option<String>> {
        Ok(files::read_if_there(&self.tls("root-ca.crt"))?)
    }

    /// The node's secret, made on first use.
    fn secret(&self) -> anyhow::Result<String> {
        let path = self.0.join("node-secret");
        if let Some(kept) = files::read_if_there(&path)? {
            return Ok(kept.trim().to_owned());
        }
        let secret = token::random_password()?;
        files::private_dir(&self.0)?;
        files::write(&path, format!("{secret}\n").as_bytes(), 0o600)?;
        Ok(secret)
    }

    /// Signing requests of all identities, by keys that are made now or were before.
    fn requests(&self) -> anyhow::Result<Identities<String>> {
        files::private_dir(&self.0.join("tls"))?;
        let names = Identities { node: (), serving: (), network: (), storage: () };
        Ok(names.try_map(|file, ()| pki::request(&self.tls(&format!("{file}.key"))))?)
    }

    fn request(&self, wanted: &Wanted) -> anyhow::Result<Request> {
        Ok(Request {
            name: wanted.name.clone(),
            secret: self.secret()?,
            addresses: wanted.addresses.clone(),
            site: wanted.site.clone(),
            requests: self.requests()?,
        })
    }

    /// Keeps an admission. The membership comes last: it says that all else is there.
    fn keep(&self, wanted: &Wanted, admission: &Admission) -> anyhow::Result<Membership> {
        admission
            .certificates
            .try_map(|file, chain| files::write(&self.tls(&format!("{file}.crt")), chain.as_bytes(), 0o600))?;
        let membership = Membership {
            name: wanted.name.clone(),
            addresses: wanted.addresses.clone(),
            site: admission.site.clone(),
            cluster: admission.cluster.clone(),
        };
        let text = serde_json::to_string_pretty(&membership)? + "\n";
        files::write(&self.membership(), text.as_bytes(), 0o600)?;
        Ok(membership)
    }

    fn kept(&self) -> anyhow::Result<Option<Membership>> {
        let path = self.membership();
        let Some(text) = files::read_if_there(&path)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).with_context(|| path.display().to_string())
    }

    fn pairs(&self) -> anyhow::Result<Identities<Pair>> {
        let names = Identities { node: (), serving: (), network: (), storage: () };
        names.try_map(|file, ()| {
            let chain_pem = files::read(&self.tls(&format!("{file}.crt")))?;
            Ok(Pair { chain_pem, key_pem: files::read(&self.tls(&format!("{file}.key")))? })
        })
    }
}

impl Identity {
    /// What is kept, if this node has joined.
    ///
    /// # Errors
    /// Files that can't be read or used.
    pub fn load(dir: &Dir, password: Option<String>) -> anyhow::Result<Option<Self>> {
        let (Some(membership), Some(root_pem)) = (dir.kept()?, dir.root()?) else { return Ok(None) };
        let pairs = dir.pairs()?;
        let trust = Arc::new(Trust::of_root(&root_pem)?);
        if let Some(kept) = files::read_if_there(&dir.authorities())? {
            trust.set(one_by_one(&kept));
        }
        let client = |pair: &Pair| Ok::<_, tls::Error>(Arc::new(ArcSwap::from_pointee(settings(&trust, pair)?)));
        let (node, network, storage) = (client(&pairs.node)?, client(&pairs.network)?, client(&pairs.storage)?);
        let serving = Arc::new(Serving::new(&pairs.serving)?);
        Ok(Some(Self { dir: dir.0.clone(), membership, trust, password, node, network, storage, serving }))
    }

    pub fn node(&self) -> Settings {
        self.node.clone()
    }

    pub fn network(&self) -> Settings {
        self.network.clone()
    }

    pub fn storage(&self) -> Settings {
        self.storage.clone()
    }

    /// What serves the kubelet's API, to those whose certificates hold.
    pub fn serving(&self) -> rustls::ServerConfig {
        tls::renewable(self.trust.clone(), self.serving.clone())
    }

    /// From now on servers are those whose CA is among these, in PEM, and so are they after a restart. None: the server can't
    /// tell, and nothing changes.
    ///
    /// # Errors
    /// They can't be kept.
    pub fn trust(&self, authorities: &[String]) -> anyhow::Result<()> {
        if authorities.is_empty() {
            return Ok(());
        }
        // What follows the first of each are those between it and the root, perhaps of members that were removed.
        let firsts: Vec<&str> = authorities.iter().filter_map(|pem| one_by_one(pem).next()).collect();
        self.trust.set(firsts.iter().copied());
        let path = Dir(self.dir.clone()).authorities();
        let all: String = firsts.iter().map(|pem| format!("{}\n", pem.trim())).collect();
        if files::read_if_there(&path)?.as_ref() != Some(&all) {
            files::write(&path, all.as_bytes(), 0o600)?;
        }
        Ok(())
    }

    /// Returns when somebody came whose certificate leads to the root, and who is none of the members that are known.
    pub async fn stranger(&self) {
        self.trust.stranger().await;
    }

    /// What another server than the one that is spoken to answers this node.
    ///
    /// # Errors
    /// None, or that it won't.
    pub async fn ask_also(&self, address: &str, path: &str) -> anyhow::Result<String> {
        let (status, text) = dial::ask(address, self.node.load_full(), ("GET", path), None, String::new()).await?;
        ensure!(status == StatusCode::OK, "it answered {status}");
        Ok(text)
    }

    /// Whether certificates must be renewed: they are old, or the node is reached elsewhere by now.
    ///
    /// # Errors
    /// They can't be read.
    pub fn is_due(&self, wanted: &Wanted) -> anyhow::Result<bool> {
        let dir = Dir(self.dir.clone());
        let moved = dir.kept()?.is_none_or(|kept| kept.addresses != wanted.addresses);
        let mut old = false;
        dir.pairs()?.try_map(|_, pair| {
            old |= pki::is_due(&pair.chain_pem);
            Ok::<_, std::convert::Infallible>(())
        })?;
        Ok(moved || old)
    }

    /// Asks one server for new certificates of the same keys, and uses them from now on.
    ///
    /// # Errors
    /// It gives none.
    pub async fn renew(&self, wanted: &Wanted, address: &str) -> Result<(), Refusal> {
        let dir = Dir(self.dir.clone());
        let asked = ask(address, self.node.load_full(), None, &dir.request(wanted)?).await;
        let admission = match (asked, &self.password) {
            // Its certificates may have ended, or who signed them has left the cluster.
            (Err(_), Some(password)) => {
                let tls = tls::client_of_servers(self.trust.clone(), None).map_err(anyhow::Error::from)?;
                ask(address, Arc::new(tls), Some(password), &dir.request(wanted)?).await?
            }
            (asked, _) => asked?,
        };
        dir.keep(wanted, &admission)?;
        Ok(self.reload(&dir.pairs()?)?)
    }

    fn reload(&self, pairs: &Identities<Pair>) -> anyhow::Result<()> {
        let all = [(&self.node, &pairs.node), (&self.network, &pairs.network), (&self.storage, &pairs.storage)];
        for (settings_of, pair) in all {
            settings_of.store(Arc::new(settings(&self.trust, pair)?));
        }
        Ok(self.serving.replace(&pairs.serving)?)
    }
}

fn settings(trust: &Arc<Trust>, pair: &Pair) -> tls::Result<ClientConfig> {
    tls::client_of_servers(trust.clone(), Some(pair))
}

/// The certificates of a PEM text as texts of their own.
fn one_by_one(pem: &str) -> impl Iterator<Item = &str> {
    pem.split_inclusive("-----END CERTIFICATE-----").filter(|text| text.contains("BEGIN CERTIFICATE"))
}

/// `HOST:PORT` of a URL as users write it.
///
/// # Errors
/// It is none.
pub fn address(url: &str) -> anyhow::Result<String> {
    let rest = url.strip_prefix("https://").map(|rest| rest.trim_end_matches('/'));
    let host = rest.filter(|rest| !rest.is_empty() && !rest.contains('/'));
    let host = host.with_context(|| format!("--server {url:?}: write it as https://HOST:PORT"))?;
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) && !host.ends_with(']');
    Ok(if has_port { host.to_owned() } else { format!("{host}:{PORT}") })
}

/// This node's identity: as kept, or got now from the server that is named, which is waited for.
///
/// # Errors
/// A server refuses, or the settings can't be right; one line that says what to do.
pub async fn ensure(config: &config::Agent, wanted: &Wanted) -> anyhow::Result<Identity> {
    let dir = Dir::of(&config.data_dir);
    let token = config.token.as_deref().map(Token::parse).transpose()?;
    let password = token.as_ref().map(|token| token.password.clone());
    let kept = dir.kept()?;
    if let Some(root_pem) = dir.root()?.filter(|_| kept.is_some())
        && let Some(pinned) = token.as_ref().and_then(|token| token.ca_hash.as_ref())
    {
        ensure!(
            token::ca_hash(&root_pem) == *pinned,
            "this node belongs to another cluster than the token; `eyot cleanup` and an empty {} let it join a new one",
            dir.0.display()
        );
    }
    if let Some(kept) = kept.filter(|kept| kept.name == wanted.name) {
        let site = kept.site.filter(|site| wanted.site.as_ref().is_some_and(|wanted| wanted != site));
        if let Some(site) = site {
            tracing::warn!(site, "this node has joined at that site; a Node's label eyot.dev/site says where it is");
        }
        return Identity::load(&dir, password)?.context("its certificates are gone");
    }
    let server = config.server.as_deref().context("a node joins with --server https://HOST:PORT and --token")?;
    let token = token.context("joining needs --token: `eyot token show --agent` on a server prints it")?;
    join(&dir, wanted, &address(server)?, &token).await.with_context(|| format!("joining {server}"))?;
    Identity::load(&dir, password)?.context("its certificates are gone")
}

async fn join(dir: &Dir, wanted: &Wanted, address: &str, token: &Token) -> anyhow::Result<()> {
    let (mut pause, mut told) = (RETRY.0, String::new());
    loop {
        match try_join(dir, wanted, address, token).await {
            Ok(admission) => {
                let membership = dir.keep(wanted, &admission)?;
                tracing::info!(node = membership.name, site = membership.site, "joined");
                return Ok(());
            }
            Err(Refusal::Refused(why)) => anyhow::bail!("{why}"),
            Err(Refusal::Away(error)) => {
                let why = format!("{error:#}");
                if why != told {
                    tracing::warn!(server = address, why, "no server answers; trying again until one does");
                    told = why;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }
}

async fn try_join(dir: &Dir, wanted: &Wanted, address: &str, token: &Token) -> Result<Admission, Refusal> {
    let root_pem = root(address, token).await?;
    let request = dir.request(wanted)?;
    files::write(&dir.tls("root-ca.crt"), root_pem.as_bytes(), 0o600).map_err(anyhow::Error::from)?;
    let trust = Arc::new(Trust::of_root(&root_pem).map_err(anyhow::Error::from)?);
    let tls = tls::client_of_servers(trust, None).map_err(anyhow::Error::from)?;
    ask(address, Arc::new(tls), Some(&token.password), &request).await
}

/// The root certificate of the cluster, if it is the one that the token was made for.
async fn root(address: &str, token: &Token) -> Result<String, Refusal> {
    let pinned = token.ca_hash.as_ref().ok_or_else(|| {
        Refusal::Refused(
            "the token must be whole (K10…::node:…), so that it says which cluster is meant: `eyot token show --agent` \
             on a server prints it"
                .into(),
        )
    })?;
    let tls = apiserver::connect::unverified_client();
    let (status, root_pem) = dial::ask(address, tls, ("GET", "/cacerts"), None, String::new()).await?;
    if status != StatusCode::OK {
        return Err(Refusal::Away(anyhow::anyhow!("it answered {status} where its certificates should be")));
    }
    match token::ca_hash(&root_pem) == *pinned {
        true => Ok(root_pem),
        false => Err(Refusal::Refused(
            "the server there is of another cluster than the token: its root certificate differs".into(),
        )),
    }
}

async fn ask(
    address: &str,
    tls: Arc<ClientConfig>,
    password: Option<&str>,
    request: &Request,
) -> Result<Admission, Refusal> {
    let content = serde_json::to_string(request).map_err(anyhow::Error::from)?;
    let (status, text) = dial::ask(address, tls, ("POST", JOIN), password, content).await?;
    let why = || crate::join::reason(&text);
    match status {
        StatusCode::OK => serde_json::from_str(&text)
            .map_err(|error| Refusal::Refused(format!("its answer is none that this version knows: {error}"))),
        StatusCode::UNAUTHORIZED if password.is_some() => Err(Refusal::Refused(
            "it does not know the token's password: `eyot token show --agent` on a server prints the right one".into(),
        )),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST | StatusCode::CONFLICT => {
            Err(Refusal::Refused(why()))
        }
        StatusCode::NOT_FOUND => Err(Refusal::Refused("it admits no nodes: it is of an older version".into())),
        status => Err(Refusal::Away(anyhow::anyhow!("it answered {status}: {}", why()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path, server: Option<&str>, token: Option<&str>) -> config::Agent {
        config::Agent {
            data_dir: dir.to_owned(),
            instance: "x".into(),
            server: server.map(Into::into),
            token: token.map(Into::into),
            site: None,
            node: crate::config::Node::for_tests(),
        }
    }

    fn wanted() -> Wanted {
        Wanted { name: "n".into(), addresses: Vec::new(), site: None }
    }

    #[test]
    fn certificates_are_told_apart() {
        let pem = |text: &str| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        let both = pem("a") + &pem("b");
        assert_eq!(one_by_one(&both).map(str::trim).collect::<Vec<_>>(), [pem("a").trim(), pem("b").trim()]);
        assert_eq!(one_by_one("").count(), 0);
    }

    #[test]
    fn a_server_is_written_as_a_url() {
        assert_eq!(address("https://a.example").unwrap(), "a.example:6443");
        assert_eq!(address("https://10.0.0.1:7000/").unwrap(), "10.0.0.1:7000");
        assert_eq!(address("https://[fd00::1]").unwrap(), "[fd00::1]:6443");
        for wrong in ["a.example", "http://a", "https://", "https://a/b"] {
            assert!(address(wrong).unwrap_err().to_string().contains("https://HOST:PORT"), "{wrong}");
        }
    }

    #[tokio::test]
    async fn what_is_missing_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let why = async |server, token| ensure(&config(dir.path(), server, token), &wanted()).await.err().unwrap();
        assert!(why(None, None).await.to_string().contains("--server"));
        assert!(why(Some("https://127.0.0.1:1"), None).await.to_string().contains("--token"));
        let bare = format!("{:#}", why(Some("https://127.0.0.1:1"), Some("bare")).await);
        assert!(bare.contains("must be whole"), "{bare}");
        let half = why(Some("https://127.0.0.1:1"), Some("K10x")).await.to_string();
        assert!(half.contains("K10"), "{half}");
    }

    #[tokio::test]
    async fn a_node_of_another_cluster_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        files::private_dir(&dir.path().join("agent/tls")).unwrap();
        std::fs::write(dir.path().join("agent/tls/root-ca.crt"), "ONE").unwrap();
        let cluster = serde_json::json!({"clusterCidr": "10.42.0.0/16", "serviceCidr": "10.43.0.0/16",
            "dns": "10.43.0.10", "domain": "cluster.local"});
        let kept = serde_json::json!({"name": "n", "addresses": [], "site": null, "cluster": cluster});
        std::fs::write(dir.path().join("agent/cluster.json"), kept.to_string()).unwrap();
        let token = format!("K10{}::server:x", token::ca_hash("TWO"));
        let error = ensure(&config(dir.path(), None, Some(&token)), &wanted()).await.err().unwrap();
        assert!(error.to_string().contains("another cluster"), "{error}");
    }

    #[test]
    fn keys_and_the_secret_are_made_once_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let dir = Dir::of(dir.path());
        let (first, again) = (dir.request(&wanted()).unwrap(), dir.request(&wanted()).unwrap());
        assert_eq!(first.secret, again.secret);
        for file in ["node-secret", "tls/client-node.key", "tls/serving.key", "tls/client-network.key"] {
            let mode = std::fs::metadata(dir.0.join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        assert!(!serde_json::to_string(&first).unwrap().contains("PRIVATE"), "keys never travel");
    }
}
