//! What to do with one request. Pure.
use super::subject::Subject;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// What a certificate lives when the request does not say, and at most: upstream's `--cluster-signing-duration`.
const LIFE_SECONDS: i64 = 365 * 24 * 3600;
/// No shorter life is accepted by the API.
const LEAST_SECONDS: i64 = 600;
/// How long requests are kept that nobody decided on, and that are decided (`cleaner.go`).
const PENDING: SignedDuration = SignedDuration::from_hours(24);
const DECIDED: SignedDuration = SignedDuration::from_hours(1);

#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    Nothing,
    /// Approved for who may `create` one of these subresources of requests; the first that is granted says why.
    ApproveFor(Vec<Grant>),
    Sign {
        seconds: i64,
    },
    /// The signer does not sign such; the request fails with this text.
    Refuse(String),
    /// It is of no use any more.
    Delete,
}

/// A right that makes approving needless (`approver/sarapprove.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Of `certificatesigningrequests`.
    pub subresource: &'static str,
    /// What the approval says.
    pub message: &'static str,
}

/// A node renews its own certificate.
pub const SELF: Grant = Grant {
    subresource: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
/// Somebody asks for a node's certificate: a machine with a bootstrap token.
pub const ANY: Grant = Grant {
    subresource: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};

pub fn decide(request: &CertificateSigningRequest, now: Timestamp) -> Decision {
    let has = |kind: &str| condition(request, kind).is_some();
    if is_stale(request, now) {
        return Decision::Delete;
    }
    if has("Denied") || has("Failed") || issued(request).is_some() {
        return Decision::Nothing;
    }
    if !has("Approved") {
        return to_approve(request);
    }
    let asked = request.spec.expiration_seconds.map_or(LIFE_SECONDS, i64::from);
    match check(request) {
        Some(Ok(())) => Decision::Sign { seconds: asked.clamp(LEAST_SECONDS, LIFE_SECONDS) },
        Some(Err(why)) => Decision::Refuse(why),
        None => Decision::Nothing,
    }
}

fn usages(request: &CertificateSigningRequest) -> &[String] {
    request.spec.usages.as_deref().unwrap_or_default()
}

/// Client certificates of nodes alone are approved without anybody.
fn to_approve(request: &CertificateSigningRequest) -> Decision {
    let subject = Subject::of(&request.spec.request.0).ok();
    let node = |subject: &Subject| subject.check_node_client(usages(request)).is_ok();
    let Some(subject) = subject.filter(|subject| request.spec.signer_name == KUBELET_CLIENT && node(subject)) else {
        return Decision::Nothing;
    };
    match request.spec.username.as_deref() == Some(&*subject.common_name) {
        true => Decision::ApproveFor(vec![SELF, ANY]),
        false => Decision::ApproveFor(vec![ANY]),
    }
}

/// What its signer says to it; none for signers of others.
fn check(request: &CertificateSigningRequest) -> Option<Result<(), String>> {
    let subject = || Subject::of(&request.spec.request.0);
    let usages = usages(request);
    Some(match &*request.spec.signer_name {
        CLIENT => check_client(usages),
        KUBELET_CLIENT => subject().and_then(|subject| subject.check_node_client(usages)),
        KUBELET_SERVING => subject().and_then(|subject| subject.check_node_serving(usages)),
        LEGACY => Ok(()),
        _ => return None,
    })
}

/// The certificate, once there is one.
fn issued(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    Some(&*certificate.0).filter(|pem| !pem.is_empty())
}

fn condition<'r>(
    request: &'r CertificateSigningRequest,
    kind: &str,
) -> Option<&'r k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition> {
    let conditions = request.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// A client's certificate is for that alone, beside what any key can do.
fn check_client(usages: &[String]) -> Result<(), String> {
    let fits = |usage: &&String| matches!(usage.as_str(), "digital signature" | "key encipherment" | "client auth");
    if let Some(other) = usages.iter().find(|usage| !fits(usage)) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    match usages.iter().any(|usage| usage == "client auth") {
        true => Ok(()),
        false => Err("missing required usage for client certificate: client auth".into()),
    }
}

fn is_stale(request: &CertificateSigningRequest, now: Timestamp) -> bool {
    let older = |time: Option<&Time>, than| time.is_some_and(|time| now.duration_since(time.0) > than);
    let conditions = request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let issued = issued(request);
    if conditions.is_empty() {
        return older(request.metadata.creation_timestamp.as_ref(), PENDING);
    }
    conditions.iter().any(|condition| {
        let since = condition.last_update_time.as_ref();
        match (condition.type_.as_str(), issued) {
            ("Denied" | "Failed", _) => older(since, DECIDED),
            ("Approved", Some(pem)) => older(since, DECIDED) || has_expired(pem, now),
            ("Approved", None) => older(since, PENDING),
            _ => false,
        }
    })
}

fn has_expired(certificate_pem: &[u8], now: Timestamp) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(certificate_pem) else { return false };
    let end = pem.parse_x509().map(|certificate| certificate.validity().not_after.timestamp());
    end.is_ok_and(|end| now.as_second() > end)
}

#[cfg(test)]
mod tests {
    use super::super::subject::tests::request as pem;
    use super::*;
    use base64::Engine;
    use serde_json::{Value, json};

    const NOW: &str = "2026-01-02T00:00:00Z";
    const NODE: [&str; 2] = ["digital signature", "client auth"];

    fn request(signer: &str, usages: &[&str], pem: &str, status: Value, created: &str) -> CertificateSigningRequest {
        let text = base64::engine::general_purpose::STANDARD.encode(pem);
        let request = json!({
            "metadata": {"name": "r", "creationTimestamp": created},
            "spec": {"request": text, "signerName": signer, "usages": usages, "username": "bob", "expirationSeconds": 700},
            "status": status,
        });
        serde_json::from_value(request).unwrap()
    }

    fn decided(request: &CertificateSigningRequest) -> Decision {
        decide(request, NOW.parse().unwrap())
    }

    fn approved() -> Value {
        json!({"conditions": [{"type": "Approved", "status": "True", "lastUpdateTime": NOW}]})
    }

    #[test]
    fn only_what_is_approved_and_fits_its_signer_is_signed() {
        let of = |signer: &str, usages: &[&str], status| decided(&request(signer, usages, "", status, NOW));
        assert_eq!(of(CLIENT, &NODE, approved()), Decision::Sign { seconds: 700 });
        assert_eq!(of(CLIENT, &NODE, json!({})), Decision::Nothing);
        assert_eq!(of("example.com/mine", &NODE, approved()), Decision::Nothing);
        let refused =
            |signer: &str, usages: &[&str], pem: &str| match decided(&request(signer, usages, pem, approved(), NOW)) {
                Decision::Refuse(why) => why,
                other => panic!("{other:?}"),
            };
        assert_eq!(refused(CLIENT, &["server auth"], ""), "invalid usage for client certificate: server auth");
        assert_eq!(refused(CLIENT, &[], ""), "missing required usage for client certificate: client auth");
        let stranger = pem("bob", &["developers"], Vec::new());
        assert_eq!(refused(KUBELET_SERVING, &["server auth"], &stranger), "subject organization is not system:nodes");
    }

    #[test]
    fn nodes_clients_are_approved_for_who_may() {
        let of = |user: &str, signer: &str, usages: &[&str], pem: &str| {
            let mut request = request(signer, usages, pem, json!({}), NOW);
            request.spec.username = Some(user.into());
            decided(&request)
        };
        let node = pem("system:node:n1", &["system:nodes"], Vec::new());
        let machine = "system:bootstrap:abcdef";
        assert_eq!(of(machine, KUBELET_CLIENT, &NODE, &node), Decision::ApproveFor(vec![ANY]));
        assert_eq!(of("system:node:n1", KUBELET_CLIENT, &NODE, &node), Decision::ApproveFor(vec![SELF, ANY]));
        assert_eq!(of("system:node:n2", KUBELET_CLIENT, &NODE, &node), Decision::ApproveFor(vec![ANY]));
        assert_eq!(of(machine, CLIENT, &NODE, &node), Decision::Nothing);
        assert_eq!(of(machine, KUBELET_CLIENT, &["digital signature", "server auth"], &node), Decision::Nothing);
        let other = pem("system:node:n1", &["system:nodes", "system:masters"], Vec::new());
        assert_eq!(of(machine, KUBELET_CLIENT, &NODE, &other), Decision::Nothing);
        let mut denied = request(KUBELET_CLIENT, &NODE, &node, json!({}), NOW);
        denied.status = serde_json::from_value(json!({"conditions": [{"type": "Denied", "status": "True"}]})).unwrap();
        assert_eq!(decided(&denied), Decision::Nothing);
    }

    #[test]
    fn what_nobody_needs_goes() {
        let of = |status: Value, created: &str| decided(&request("example.com/mine", &[], "", status, created));
        let since =
            |kind: &str, time: &str| json!({"conditions": [{"type": kind, "status": "True", "lastUpdateTime": time}]});
        assert_eq!(of(since("Denied", "2026-01-01T22:59:00Z"), NOW), Decision::Delete);
        assert_eq!(of(since("Failed", "2026-01-01T22:59:00Z"), NOW), Decision::Delete);
        assert_eq!(of(json!({}), "2025-12-31T23:59:00Z"), Decision::Delete);
        assert_eq!(of(json!({}), "2026-01-01T00:01:00Z"), Decision::Nothing);
        assert_eq!(of(since("Approved", "2026-01-01T22:59:00Z"), NOW), Decision::Nothing, "it may still be signed");
        assert_eq!(of(since("Approved", "2025-12-31T23:59:00Z"), NOW), Decision::Delete);
        let signed = |time: &str, pem: &str| {
            let mut status = since("Approved", time);
            status["certificate"] = base64::engine::general_purpose::STANDARD.encode(pem).into();
            of(status, NOW)
        };
        assert_eq!(signed("2026-01-01T22:59:00Z", "x"), Decision::Delete);
        assert_eq!(signed("2026-01-01T23:01:00Z", "x"), Decision::Nothing);
        let until = |year| {
            let mut params = rcgen::CertificateParams::default();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
        };
        assert_eq!(signed(NOW, &until(2026)), Decision::Delete, "expired");
        assert_eq!(signed(NOW, &until(2027)), Decision::Nothing);
    }
}
