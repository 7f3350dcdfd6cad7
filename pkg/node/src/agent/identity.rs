//! Who this node is: keys that it made and that never leave it, the certificates that a server signed for them, and what
//! it was told of its cluster. All lies in the agent's directory, so that later starts need no server.
use super::connect::Settings;
use crate::config::{self, Backend, Cluster};
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
    /// The password of the cluster, where this start was given it.
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
    /// Nothing was asked.
    #[error("this node has no token")]
    NoToken,
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

    /// The token of nodes, as it was when this node got its certificates.
    fn token(&self) -> PathBuf {
        self.0.join("token")
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
        if let (Some(password), Some(root_pem)) = (&admission.agent_token, self.root()?) {
            let token = Token { ca_hash: None, user: token::NODE.into(), password: password.clone() };
            files::write(&self.token(), format!("{}\n", token.render(&root_pem)).as_bytes(), 0o600)?;
        }
        // Whoever admits it again may stand elsewhere: this node does not.
        let before = self.kept()?.filter(|kept| kept.name == wanted.name && wanted.site.is_none());
        admission
            .certificates
            .try_map(|file, chain| files::write(&self.tls(&format!("{file}.crt")), chain.as_bytes(), 0o600))?;
        let membership = Membership {
            name: wanted.name.clone(),
            addresses: wanted.addresses.clone(),
            site: before.and_then(|kept| kept.site).or_else(|| admission.site.clone()),
            cluster: admission.cluster.clone(),
        };
        self.keep_membership(&membership)?;
        Ok(membership)
    }

    fn keep_membership(&self, membership: &Membership) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(membership)? + "\n";
        Ok(files::write(&self.membership(), text.as_bytes(), 0o600)?)
    }

    /// Whether it is another than what was kept.
    fn keep_backend(&self, backend: Backend) -> anyhow::Result<bool> {
        let Some(mut kept) = self.kept()?.filter(|kept| kept.cluster.flannel_backend != backend) else {
            return Ok(false);
        };
        kept.cluster.flannel_backend = backend;
        self.keep_membership(&kept).map(|()| true)
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

    /// Who judges certificates.
    pub fn judge(&self) -> Arc<Trust> {
        self.trust.clone()
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

    /// The next start goes by what servers were told by then.
    ///
    /// # Errors
    /// It can't be kept.
    pub fn keep_backend(&self, backend: Backend) -> anyhow::Result<()> {
        if Dir(self.dir.clone()).keep_backend(backend)? {
            tracing::info!(%backend, "the cluster's --flannel-backend is another now; this node's is so from its next start");
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
        let request = Dir(self.dir.clone()).request(wanted)?;
        match ask(address, self.node.load_full(), None, &request).await {
            Ok(admission) => Ok(self.take(wanted, &admission)?),
            // Its certificates may have ended, or who signed them has left the cluster.
            Err(refusal) => match self.rejoin(wanted, address).await {
                Err(Refusal::NoToken) => Err(refusal),
                done => done,
            },
        }
    }

    /// Joins anew by a token, with the same keys and the same secret: for a node whose certificates nobody takes any more. It
    /// stays who it is, since its secret says so.
    ///
    /// # Errors
    /// The server gives no certificates.
    pub async fn rejoin(&self, wanted: &Wanted, address: &str) -> Result<(), Refusal> {
        let (mut last, dir) = (Refusal::NoToken, Dir(self.dir.clone()));
        for password in self.passwords()? {
            let tls = tls::client_of_servers(self.others()?, None).map_err(anyhow::Error::from)?;
            match ask(address, Arc::new(tls), Some(&password), &dir.request(wanted)?).await {
                Ok(admission) => return Ok(self.take(wanted, &admission)?),
                Err(refusal) => last = refusal,
            }
        }
        Err(last)
    }

    /// What this start was given, then what is kept.
    fn passwords(&self) -> anyhow::Result<Vec<String>> {
        let kept = files::read_if_there(&Dir(self.dir.clone()).token())?;
        let kept = kept.map(|text| Token::parse(&text)).transpose()?.map(|token| token.password);
        Ok(self.password.iter().cloned().chain(kept.filter(|kept| self.password.as_ref() != Some(kept))).collect())
    }

    /// Who is shown a token: members, but not the one that signed this node's certificates. While these last it takes them if it
    /// is honest, and it may have been removed because it was stolen.
    fn others(&self) -> anyhow::Result<Arc<Trust>> {
        let dir = Dir(self.dir.clone());
        let chain = dir.pairs()?.node.chain_pem;
        if pki::has_ended(&chain) {
            return Ok(self.trust.clone());
        }
        let signer = one_by_one(&chain).nth(1).map(str::trim).context("its certificate says not who signed it")?;
        let root_pem = dir.root()?.context("the root certificate is gone")?;
        let members =
            files::read_if_there(&dir.authorities())?.context("it was never told of the cluster's members")?;
        let trust = Trust::of_root(&root_pem)?;
        trust.set(one_by_one(&members).filter(|pem| pem.trim() != signer));
        Ok(Arc::new(trust))
    }

    fn take(&self, wanted: &Wanted, admission: &Admission) -> anyhow::Result<()> {
        let dir = Dir(self.dir.clone());
        dir.keep(wanted, admission)?;
        self.reload(&dir.pairs()?)
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

/// Whether an error says that a server does not take the certificate that it was shown (RFC 8446, 6.2).
pub fn is_refusal(error: &anyhow::Error) -> bool {
    use rustls::AlertDescription as Alert;
    let inner = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        io.and_then(|inner| inner.downcast_ref::<rustls::Error>()).or_else(|| cause.downcast_ref()).cloned()
    };
    error.chain().filter_map(inner).any(|error| {
        matches!(
            error,
            rustls::Error::AlertReceived(
                Alert::UnknownCA
                    | Alert::BadCertificate
                    | Alert::CertificateUnknown
                    | Alert::CertificateRevoked
                    | Alert::CertificateExpired
                    | Alert::AccessDenied
            )
        )
    })
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
            Err(refusal @ (Refusal::Refused(_) | Refusal::NoToken)) => anyhow::bail!("{refusal}"),
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
    fn a_certificate_that_is_not_taken_is_told_from_other_trouble() {
        let io = |error: rustls::Error| std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        let alert = |alert| anyhow::Error::from(io(rustls::Error::AlertReceived(alert))).context("asking");
        assert!(is_refusal(&alert(rustls::AlertDescription::UnknownCA)));
        assert!(is_refusal(&alert(rustls::AlertDescription::CertificateExpired)));
        assert!(!is_refusal(&alert(rustls::AlertDescription::InternalError)));
        assert!(!is_refusal(&anyhow::anyhow!("no connection")));
        assert!(!is_refusal(&io(rustls::Error::NoCertificatesPresented).into()));
    }

    /// A node with certificates of `signer`, which was told of these members.
    fn admitted(dir: &Path, root_pem: &str, signer: &pki::Authority, members: &[&pki::Authority]) -> Identity {
        let dir = Dir::of(dir);
        let asked = dir.request(&wanted()).unwrap();
        files::write(&dir.tls("root-ca.crt"), root_pem.as_bytes(), 0o600).unwrap();
        let sign = |request: &String| signer.certify(&pki::Subject::user("system:node:n", &["system:nodes"]), request);
        let admission = Admission {
            cluster: serde_json::from_value(serde_json::json!({"clusterCidr": "10.42.0.0/16",
                "serviceCidr": "10.43.0.0/16", "dns": "10.43.0.10", "domain": "cluster.local"}))
            .unwrap(),
            site: Some("here".into()),
            certificates: asked.requests.try_map(|_, request| sign(request)).unwrap(),
            servers: Vec::new(),
            agent_token: Some("kept".into()),
        };
        dir.keep(&wanted(), &admission).unwrap();
        let again = dir.keep(&wanted(), &Admission { site: Some("there".into()), ..admission }).unwrap();
        assert_eq!(again.site.as_deref(), Some("here"), "it has not moved");
        let identity = Identity::load(&dir, Some("given".into())).unwrap().unwrap();
        let members: Vec<_> = members.iter().map(|member| member.intermediate_pem().to_owned()).collect();
        identity.trust(&members).unwrap();
        identity
    }

    #[test]
    fn a_token_is_shown_to_members_and_not_to_who_signed() {
        use rustls::client::danger::ServerCertVerifier;
        let (node, first, second) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let a = pki::Authority::open(first.path()).unwrap();
        let keys = pki::prepare(second.path(), a.root_pem()).unwrap();
        pki::install(second.path(), &a.admit(&keys.authority_request, "b").unwrap()).unwrap();
        let b = pki::Authority::open(second.path()).unwrap();
        let identity = admitted(node.path(), a.root_pem(), &b, &[&a, &b]);
        assert_eq!(identity.passwords().unwrap(), ["given", "kept"]);
        let others = identity.others().unwrap();
        let shown = |by: &pki::Authority| {
            let subject = pki::Subject { dns_names: vec!["it".into()], ..pki::Subject::user("it", &[]) };
            let chain = tls::certificates(&by.sign(&subject).unwrap().chain_pem).unwrap();
            let (name, now) = ("it".try_into().unwrap(), rustls::pki_types::UnixTime::now());
            others.verify_server_cert(&chain[0], &chain[1..], &name, &[], now).is_ok()
        };
        assert!(shown(&a) && !shown(&b));
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
    fn the_clusters_backend_is_kept_for_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Dir(dir.path().to_owned());
        let backend = || dir.kept().unwrap().map(|kept| kept.cluster.flannel_backend);
        assert!(!dir.keep_backend(Backend::HostGw).unwrap(), "it has not joined");
        let cluster = serde_json::json!({"clusterCidr": "10.42.0.0/16", "serviceCidr": "10.43.0.0/16",
            "dns": "10.43.0.10", "domain": "cluster.local"});
        let kept = serde_json::json!({"name": "n", "addresses": [], "site": null, "cluster": cluster});
        std::fs::write(dir.0.join("cluster.json"), kept.to_string()).unwrap();
        assert_eq!(backend(), Some(Backend::Vxlan), "a node that joined before there was a choice");
        assert!(!dir.keep_backend(Backend::Vxlan).unwrap());
        assert!(dir.keep_backend(Backend::HostGw).unwrap());
        assert_eq!(backend(), Some(Backend::HostGw));
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
