//! Admitting nodes: certificates for the keys that they made, and names that stay theirs.
//!
//! As in k3s, a Secret in `kube-system` keeps a digest of the secret that a node made when it first joined. Whoever comes
//! with another one gets no certificate of that name; deleting the Node gives the name free.
use super::message::{Admission, Identities, Request as Asked};
use super::{Extension, answer, node_of};
use crate::agent::servers::Server;
use crate::peers::{JOIN_USER, NODE_JOIN_USER};
use crate::pki::Subject;
use api::Status;
use api::validate::names;
use apiserver::User;
use apiserver::body::{self, Body, RequestBody};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response};
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::time::Duration;

/// What a node that asks for certificates says is no longer.
const REQUEST_BYTES: usize = 64 << 10;
/// May do everything.
const MASTERS: &str = "system:masters";
const NAMESPACE: &str = "kube-system";
/// The type of the Secrets that keep names.
const TYPE: &str = "eyot.dev/node-password";
/// In such a Secret: SHA-256 of the node's secret, which is random and long.
const DIGEST: &str = "digest";
/// A node that was admitted has so long to register before its name is free again.
const REGISTER: Duration = Duration::from_secs(600);
/// Addresses of one node.
const ADDRESSES: usize = 8;
/// Annotation of a node's Secret: the addresses that it was admitted with.
const ADDRESSES_KEPT: &str = "eyot.dev/node-addresses";

/// What is known of a name.
struct Kept {
    digest: Vec<u8>,
    age: Duration,
}

/// A name that may be given, before it is.
struct Claim {
    /// The Secret that keeps it.
    name: String,
    stored: Option<Secret>,
    verdict: Verdict,
}

impl Claim {
    /// Addresses that the node was admitted with before.
    fn addresses(&self) -> &str {
        let theirs = self.stored.as_ref().filter(|_| self.verdict == Verdict::Theirs);
        theirs.and_then(|secret| secret.annotations().get(ADDRESSES_KEPT)).map_or("", String::as_str)
    }
}

/// What to do with a name that is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is nobody's: from now on it is theirs.
    Take,
    /// It was somebody's who never came, or whose Node was deleted.
    Replace,
    /// It is theirs.
    Theirs,
    /// It is another's.
    Taken,
}

/// `known` is whether they have a certificate of this name.
fn judge(kept: Option<&Kept>, is_there: bool, digest: &[u8], known: bool) -> Verdict {
    match kept {
        Some(kept) if kept.digest == digest => Verdict::Theirs,
        Some(kept) if !is_there && kept.age >= REGISTER => Verdict::Replace,
        None if !is_there || known => Verdict::Take,
        _ => Verdict::Taken,
    }
}

impl Extension {
    /// # Errors
    /// Why this caller gets no certificates.
    pub(super) async fn admit(&self, user: &User, request: Request<RequestBody>) -> Result<Response<Body>, Status> {
        let caller = node_of(user);
        let trusted = user.name == JOIN_USER || user.in_group(MASTERS);
        if !trusted && user.name != NODE_JOIN_USER && caller.is_none() {
            return Err(super::forbidden(user, "join nodes"));
        }
        let bytes = body::read(request.into_body(), REQUEST_BYTES).await?;
        let asked: Asked = serde_json::from_slice(&bytes)
            .map_err(|error| Status::bad_request(format!("the request to join can't be read: {error}")))?;
        if caller.is_some_and(|caller| caller != asked.name) {
            return Err(super::forbidden(user, &format!("ask for certificates of node {}", asked.name)));
        }
        check_name(&asked.name)?;
        let _one_by_one = self.admitting.lock().await;
        let site = self.site_of(asked.site.as_deref())?;
        self.check_addresses(&asked)?;
        let claim = self.claim(&asked, caller.is_some()).await?;
        if !trusted {
            self.check_strangers(&asked, claim.addresses()).await?;
        }
        self.keep_name(&asked, claim).await?;
        let certificates = self.certify(&asked)?;
        tracing::info!(node = asked.name, "admitted a node");
        answer(&Admission {
            cluster: self.cluster.clone(),
            site,
            certificates,
            servers: self.servers(),
            agent_token: self.token.load().as_deref().cloned(),
        })
    }

    /// The site that a node belongs to; none: there is one alone.
    fn site_of(&self, wanted: Option<&str>) -> Result<Option<String>, Status> {
        let view = self.ownership.borrow();
        let Some(wanted) = wanted else { return Ok(view.marked.then(|| self.site.clone())) };
        if wanted == self.site || view.is_member(wanted) {
            return Ok(Some(wanted.to_owned()));
        }
        let sites: Vec<&str> = view.others.keys().map(|site| &**site).chain([&*self.site]).collect();
        Err(Status::bad_request(format!("no server stands at site {wanted:?}; there are: {}", sites.join(", "))))
    }

    fn check_addresses(&self, asked: &Asked) -> Result<(), Status> {
        if asked.addresses.is_empty() || asked.addresses.len() > ADDRESSES {
            return Err(Status::bad_request(format!("a node has 1 to {ADDRESSES} addresses")));
        }
        if let Some(wrong) = asked.addresses.iter().find(|address| !self.can_be_a_nodes(**address)) {
            return Err(Status::bad_request(format!("a node is not reached at {wrong}: give the right --node-ip")));
        }
        Ok(())
    }

    /// Who does not have the server's token may not get a certificate for an address at which another is, or a name of a
    /// server: they would speak for that. What they were admitted with stays (`kept`): several nodes may share a machine.
    async fn check_strangers(&self, asked: &Asked, kept: &str) -> Result<(), Status> {
        if kept.is_empty() && self.is_a_servers(&asked.name) {
            return Err(taken(format!("{:?} is a server's name: give another with --node-name", asked.name)));
        }
        let nodes = Api::<Node>::all(self.client()?.clone()).list(&ListParams::default()).await;
        let nodes = nodes.map_err(Status::internal)?.items;
        let new = asked.addresses.iter().map(ToString::to_string);
        for text in new.filter(|text| kept.split(',').all(|kept| kept != text)) {
            let holder = nodes.iter().find(|node| node.name_any() != asked.name && has_address(node, &text));
            let server = || self.servers().into_iter().find(|server| host(&server.address) == text);
            let who = holder.map(ResourceExt::name_any).or_else(|| server()?.name);
            if let Some(who) = who {
                return Err(taken(format!(
                    "the address {text} is that of {who}: give another with --node-ip, or join with the server's token"
                )));
            }
        }
        Ok(())
    }

    fn is_a_servers(&self, name: &str) -> bool {
        let is = |server: &Server| server.name.as_deref() == Some(name) || host(&server.address) == name;
        self.names.iter().any(|known| known == name) || self.servers().iter().any(is)
    }

    fn can_be_a_nodes(&self, address: IpAddr) -> bool {
        let service = matches!(address, IpAddr::V4(ip) if self.cluster.service_cidr.contains(&ip));
        !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || service)
    }

    /// Whether the name may be the asking node's; `known`: it has a certificate that says so.
    async fn claim(&self, asked: &Asked, known: bool) -> Result<Claim, Status> {
        let client = self.client()?;
        let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
        let name = format!("{}.node-password.eyot", asked.name);
        let stored = secrets.get_opt(&name).await.map_err(Status::internal)?;
        let node = Api::<Node>::all(client.clone()).get_metadata_opt(&asked.name).await.map_err(Status::internal)?;
        let is_there = node.is_some() || self.own_node.as_ref() == Some(&asked.name);
        let digest = Sha256::digest(asked.secret.as_bytes());
        let verdict = judge(stored.as_ref().map(kept).as_ref(), is_there, &digest, known);
        if verdict == Verdict::Taken {
            return Err(taken(format!(
                "node {0:?} is another machine: give this one another --node-name, or free the name with kubectl \
                 delete node {0} secret/{name} -n {NAMESPACE}",
                asked.name
            )));
        }
        Ok(Claim { name, stored, verdict })
    }

    /// Makes the Secret by which the name is the asking node's from now on.
    async fn keep_name(&self, asked: &Asked, Claim { name, verdict, .. }: Claim) -> Result<(), Status> {
        let secrets: Api<Secret> = Api::namespaced(self.client()?.clone(), NAMESPACE);
        match verdict {
            Verdict::Replace => drop(secrets.delete(&name, &Default::default()).await.map_err(Status::internal)?),
            Verdict::Take => {}
            Verdict::Theirs | Verdict::Taken => return Ok(()),
        }
        let digest = Sha256::digest(asked.secret.as_bytes());
        let addresses: Vec<String> = asked.addresses.iter().map(ToString::to_string).collect();
        let metadata =
            json!({"name": name, "namespace": NAMESPACE, "annotations": {ADDRESSES_KEPT: addresses.join(",")}});
        let secret: Value = json!({"metadata": metadata, "type": TYPE,
            "immutable": true, "data": {DIGEST: STANDARD.encode(digest)}});
        let secret: Secret = serde_json::from_value(secret).map_err(Status::internal)?;
        secrets.create(&PostParams::default(), &secret).await.map(drop).map_err(Status::internal)
    }

    fn certify(&self, asked: &Asked) -> Result<Identities<String>, Status> {
        let name = &asked.name;
        let kubelet = format!("system:node:{name}");
        let serving = Subject {
            dns_names: vec![name.clone()],
            addresses: asked.addresses.clone(),
            ..Subject::user(&kubelet, &["system:nodes"])
        };
        let subjects = Identities {
            node: Subject::user(&kubelet, &["system:nodes"]),
            serving,
            network: Subject::user(&format!("eyot:net:{name}"), &["eyot:net"]),
            storage: Subject::user(&format!("eyot:local-path:{name}"), &["eyot:local-path"]),
        };
        let sign = |subject: &Subject, request: &str| {
            self.authority.certify(subject, request).map_err(|error| Status::bad_request(error.to_string()))
        };
        Ok(Identities {
            node: sign(&subjects.node, &asked.requests.node)?,
            serving: sign(&subjects.serving, &asked.requests.serving)?,
            network: sign(&subjects.network, &asked.requests.network)?,
            storage: sign(&subjects.storage, &asked.requests.storage)?,
        })
    }
}

fn has_address(node: &Node, text: &str) -> bool {
    let all = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    all.iter().any(|address| address.type_ == "InternalIP" && address.address == text)
}

fn host(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']'])
}

fn taken(message: String) -> Status {
    Status::failure(409, "Conflict", message)
}

fn kept(secret: &Secret) -> Kept {
    let digest = secret.data.as_ref().and_then(|data| data.get(DIGEST)).map(|bytes| bytes.0.clone());
    let made = secret.metadata.creation_timestamp.as_ref().map_or(jiff::Timestamp::UNIX_EPOCH, |time| time.0);
    let age = jiff::Timestamp::now().duration_since(made).try_into().unwrap_or_default();
    Kept { digest: digest.unwrap_or_default(), age }
}

/// A node's name is a DNS subdomain, and none of the names that servers prove themselves by.
fn check_name(name: &str) -> Result<(), Status> {
    let well = names::dns_subdomain(name).is_empty();
    let ours = name == "localhost" || name == "kubernetes" || name.starts_with("kubernetes.");
    match well && !ours {
        true => Ok(()),
        false => Err(Status::bad_request(format!("{name:?} can't be a node's name: give another with --node-name"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_with_whom_it_was_given_to() {
        let kept = |age_s: u64| Kept { digest: vec![1], age: Duration::from_secs(age_s) };
        let old = REGISTER.as_secs();
        assert_eq!(judge(None, false, &[1], false), Verdict::Take);
        assert_eq!(judge(None, true, &[1], false), Verdict::Taken, "a server's own node");
        assert_eq!(
            judge(None, true, &[1], true),
            Verdict::Take,
            "its Secret was deleted; its certificate says who it is"
        );
        assert_eq!(judge(Some(&kept(0)), true, &[1], false), Verdict::Theirs);
        assert_eq!(judge(Some(&kept(old)), true, &[2], false), Verdict::Taken);
        assert_eq!(judge(Some(&kept(old)), true, &[2], true), Verdict::Taken, "two with one certificate");
        assert_eq!(judge(Some(&kept(0)), false, &[2], false), Verdict::Taken, "it is about to register");
        assert_eq!(judge(Some(&kept(old)), false, &[2], false), Verdict::Replace, "its Node was deleted");
    }

    #[test]
    fn no_node_is_called_like_a_server() {
        assert!(check_name("shed-2.example").is_ok());
        for wrong in ["", "A", "-a", "kubernetes", "kubernetes.default.svc", "localhost", "a_b"] {
            assert!(check_name(wrong).unwrap_err().message.contains("--node-name"), "{wrong}");
        }
    }

    #[test]
    fn hosts_of_addresses() {
        assert_eq!((host("10.0.0.1:6443"), host("[fd00::1]:6443"), host("a")), ("10.0.0.1", "fd00::1", "a"));
    }
}
