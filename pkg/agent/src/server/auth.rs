//! Who asks, and whether they may: client certificates or tokens, then a SubjectAccessReview on the node
//! (Kubernetes documentation, "Kubelet authentication/authorization").
use http::{HeaderMap, Method, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use x509_parser::prelude::{FromDer, X509Certificate};

/// How long answers of the API server hold (the kubelet's defaults).
const TOKEN_TTL: Duration = Duration::from_secs(120);
const ALLOWED_TTL: Duration = Duration::from_secs(300);
const DENIED_TTL: Duration = Duration::from_secs(30);
/// Answers remembered.
const ENTRIES: usize = 1024;

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    pub name: String,
    pub groups: Vec<String>,
}

/// The subject of a verified client certificate: CN is the user, O its groups.
pub fn of_certificate(der: &[u8]) -> Option<Caller> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
    let name = subject.iter_common_name().find_map(text)?;
    let groups = subject.iter_organization().filter_map(text).chain(["system:authenticated".to_owned()]);
    Some(Caller { name, groups: groups.collect() })
}

/// The verb of a request (the kubelet's mapping).
fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// The subresource of `nodes` that a path stands for.
fn subresource(path: &str) -> &'static str {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        "stats" => "stats",
        "metrics" => "metrics",
        "logs" => "log",
        "healthz" => "healthz",
        "configz" => "configz",
        "pods" | "runningpods" => "pods",
        _ => "proxy",
    }
}

/// Tokens are remembered by their SHA-256 alone.
type TokenDigest = [u8; 32];

/// Asks the API server, and remembers its answers for a while.
pub struct Auth {
    client: kube::Client,
    node: String,
    tokens: Mutex<HashMap<TokenDigest, (Instant, Option<Caller>)>>,
    decisions: Mutex<HashMap<String, (Instant, bool)>>,
}

impl Auth {
    pub fn new(client: kube::Client, node: String) -> Self {
        Self { client, node, tokens: Mutex::default(), decisions: Mutex::default() }
    }

    /// The bearer of a token, if the API server knows it.
    pub async fn bearer(&self, headers: &HeaderMap) -> Option<Caller> {
        let token = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?.trim();
        let key: TokenDigest = Sha256::digest(token).into();
        let known = self.tokens.lock().get(&key).filter(|(at, _)| at.elapsed() < TOKEN_TTL).cloned();
        if let Some((_, caller)) = known {
            return caller;
        }
        let review =
            TokenReview { spec: TokenReviewSpec { token: token.to_owned(), audiences: None }, ..Default::default() };
        let answer = Api::<TokenReview>::all(self.client.clone()).create(&PostParams::default(), &review).await.ok()?;
        let status = answer.status.filter(|status| status.authenticated == Some(true));
        let user = status.and_then(|status| status.user);
        let caller = user
            .map(|user| Caller { name: user.username.unwrap_or_default(), groups: user.groups.unwrap_or_default() });
        let mut tokens = self.tokens.lock();
        make_room(&mut tokens, |(at, _)| at.elapsed() < TOKEN_TTL);
        tokens.insert(key, (Instant::now(), caller.clone()));
        caller
    }

    /// Whether `caller` may do this.
    pub async fn allows(&self, caller: &Caller, method: &Method, path: &str) -> Result<bool, kube::Error> {
        let mut all = vec![subresource(path)];
        // Finer permissions are tried first; `proxy` allows all.
        if all[0] != "proxy" {
            all.push("proxy");
        }
        for subresource in all {
            if self.review(caller, verb(method), subresource).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn review(&self, caller: &Caller, verb: &str, subresource: &str) -> Result<bool, kube::Error> {
        let key = format!("{verb} {subresource} {} {}", caller.name, caller.groups.join(","));
        let fresh = |at: &Instant, allowed: bool| at.elapsed() < if allowed { ALLOWED_TTL } else { DENIED_TTL };
        let known = self.decisions.lock().get(&key).filter(|(at, allowed)| fresh(at, *allowed)).map(|(_, a)| *a);
        if let Some(allowed) = known {
            return Ok(allowed);
        }
        let attributes = ResourceAttributes {
            verb: Some(verb.to_owned()),
            version: Some("v1".to_owned()),
            resource: Some("nodes".to_owned()),
            subresource: Some(subresource.to_owned()),
            name: Some(self.node.clone()),
            ..Default::default()
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(caller.name.clone()),
                groups: Some(caller.groups.clone()),
                resource_attributes: Some(attributes),
                ..Default::default()
            },
            ..Default::default()
        };
        let api = Api::<SubjectAccessReview>::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        let mut decisions = self.decisions.lock();
        make_room(&mut decisions, |(at, allowed)| fresh(at, *allowed));
        decisions.insert(key, (Instant::now(), allowed));
        Ok(allowed)
    }
}

fn make_room<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, keep: impl Fn(&V) -> bool) {
    if map.len() >= ENTRIES {
        map.retain(|_, value| keep(value));
    }
    if map.len() >= ENTRIES {
        map.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stand_for_subresources() {
        let of = |path: &str| subresource(path);
        assert_eq!((of("/stats/summary"), of("/metrics/resource"), of("/pods")), ("stats", "metrics", "pods"));
        assert_eq!((of("/exec/ns/p/c"), of("/containerLogs/ns/p/c"), of("/")), ("proxy", "proxy", "proxy"));
        assert_eq!((verb(&Method::GET), verb(&Method::POST)), ("get", "create"));
    }

    #[test]
    fn tables_stay_bounded() {
        let mut map: HashMap<usize, bool> = (0..ENTRIES).map(|n| (n, true)).collect();
        make_room(&mut map, |keep| *keep);
        assert!(map.is_empty(), "nothing has expired, so all must go");
    }
}
