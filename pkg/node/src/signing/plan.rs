//! What to do with one request. Pure.
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

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
    Sign {
        seconds: i64,
    },
    /// The signer does not sign such; the request fails with this text.
    Refuse(String),
    /// It is of no use any more.
    Delete,
}

pub fn decide(request: &CertificateSigningRequest, now: Timestamp) -> Decision {
    let has = |kind: &str| condition(request, kind).is_some();
    let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    if is_stale(request, now) {
        return Decision::Delete;
    }
    if !has("Approved") || has("Denied") || has("Failed") || certificate.is_some_and(|pem| !pem.0.is_empty()) {
        return Decision::Nothing;
    }
    let usages = request.spec.usages.as_deref().unwrap_or_default();
    let checked = match &*request.spec.signer_name {
        CLIENT => only(usages, "client auth", "client certificate"),
        KUBELET_CLIENT => node(request).and_then(|()| only(usages, "client auth", "client certificate")),
        KUBELET_SERVING => node(request).and_then(|()| only(usages, "server auth", "serving certificate")),
        LEGACY => Ok(()),
        _ => return Decision::Nothing,
    };
    let asked = request.spec.expiration_seconds.map_or(LIFE_SECONDS, i64::from);
    match checked {
        Ok(()) => Decision::Sign { seconds: asked.clamp(LEAST_SECONDS, LIFE_SECONDS) },
        Err(why) => Decision::Refuse(why),
    }
}

fn condition<'r>(
    request: &'r CertificateSigningRequest,
    kind: &str,
) -> Option<&'r k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition> {
    let conditions = request.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// The usages must be the signer's one purpose, beside those that any key has.
fn only(usages: &[String], purpose: &str, what: &str) -> Result<(), String> {
    let other = usages
        .iter()
        .find(|usage| !matches!(usage.as_str(), "digital signature" | "key encipherment") && usage.as_str() != purpose);
    if let Some(other) = other {
        return Err(format!("invalid usage for {what}: {other}"));
    }
    match usages.iter().any(|usage| usage == purpose) {
        true => Ok(()),
        false => Err(format!("missing required usage for {what}: {purpose}")),
    }
}

/// Certificates of nodes are for nodes: who asks is one, or bootstraps one with a client certificate's signer.
fn node(request: &CertificateSigningRequest) -> Result<(), String> {
    let user = request.spec.username.as_deref().unwrap_or_default();
    match user.starts_with("system:node:") || request.spec.signer_name == KUBELET_CLIENT {
        true => Ok(()),
        false => Err(format!("{user:?} is no node")),
    }
}

fn is_stale(request: &CertificateSigningRequest, now: Timestamp) -> bool {
    let created = request.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let older = |time: Option<Timestamp>, than| time.is_some_and(|time| now.duration_since(time) > than);
    let decided = ["Failed", "Denied", "Approved"].iter().find_map(|kind| condition(request, kind));
    match decided {
        None => older(created, PENDING),
        Some(condition) => {
            let unsigned = condition.type_ == "Approved"
                && request.status.as_ref().and_then(|status| status.certificate.as_ref()).is_none();
            let at = condition.last_update_time.as_ref().map(|time| time.0).or(created);
            older(at, if unsigned { PENDING } else { DECIDED })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2026-01-02T00:00:00Z";

    fn decided(signer: &str, usages: &[&str], conditions: Value, created: &str) -> Decision {
        let request = json!({
            "metadata": {"name": "r", "creationTimestamp": created},
            "spec": {"request": "", "signerName": signer, "usages": usages, "username": "bob", "expirationSeconds": 700},
            "status": {"conditions": conditions},
        });
        decide(&serde_json::from_value(request).unwrap(), NOW.parse().unwrap())
    }

    #[test]
    fn only_what_is_approved_and_fits_its_signer_is_signed() {
        let approved = || json!([{"type": "Approved", "status": "True", "lastUpdateTime": NOW}]);
        let client = ["digital signature", "client auth"];
        assert_eq!(decided(CLIENT, &client, approved(), NOW), Decision::Sign { seconds: 700 });
        assert_eq!(decided(CLIENT, &client, json!([]), NOW), Decision::Nothing);
        assert_eq!(decided("example.com/mine", &client, approved(), NOW), Decision::Nothing);
        let refused = |signer: &str, usages: &[&str]| match decided(signer, usages, approved(), NOW) {
            Decision::Refuse(why) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(CLIENT, &["server auth"]), "invalid usage for client certificate: server auth");
        assert_eq!(refused(CLIENT, &[]), "missing required usage for client certificate: client auth");
        assert_eq!(refused(KUBELET_SERVING, &["server auth"]), "\"bob\" is no node");
    }

    #[test]
    fn what_nobody_needs_goes() {
        let denied = json!([{"type": "Denied", "status": "True", "lastUpdateTime": "2026-01-01T22:59:00Z"}]);
        assert_eq!(decided(CLIENT, &[], denied, NOW), Decision::Delete);
        assert_eq!(decided(CLIENT, &[], json!([]), "2025-12-31T23:59:00Z"), Decision::Delete);
        assert_eq!(decided(CLIENT, &[], json!([]), "2026-01-01T00:01:00Z"), Decision::Nothing);
    }
}
