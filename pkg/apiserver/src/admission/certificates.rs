//! Who may approve and sign requests for certificates, beside who may write to them: that takes the verbs `approve` and
//! `sign` on the request's signer. And no client certificate makes an administrator
//! (`plugin/pkg/admission/certificates`).
use super::Operation;
use super::node_restriction::Write;
use crate::User;
use crate::authz::{Attributes, Authorizer, Decision};
use crate::request::MASTERS;
use base64::Engine;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

const GROUP: &str = "certificates.k8s.io";
const RESOURCE: &str = "certificatesigningrequests";
/// The signer of certificates that the API itself accepts.
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// Whom a signing request is for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Empty if it has none.
    pub common_name: String,
    pub organizations: Vec<String>,
}

impl Subject {
    /// # Errors
    /// What is wrong with the request in `spec.request` of this object, PEM in base64.
    pub fn of(request: &Value) -> Result<Self, String> {
        use x509_parser::prelude::{FromDer, X509CertificationRequest};
        let text = request["spec"]["request"].as_str().unwrap_or_default();
        let pem = base64::engine::general_purpose::STANDARD.decode(text).map_err(|error| error.to_string())?;
        let der = CertificateSigningRequestDer::from_pem_slice(&pem).map_err(|error| error.to_string())?;
        let (_, parsed) = X509CertificationRequest::from_der(&der).map_err(|error| error.to_string())?;
        let subject = &parsed.certification_request_info.subject;
        let text = |name: &x509_parser::x509::AttributeTypeAndValue<'_>| name.as_str().unwrap_or_default().to_owned();
        Ok(Self {
            common_name: subject.iter_common_name().last().map(text).unwrap_or_default(),
            organizations: subject.iter_organization().map(text).collect(),
        })
    }
}

/// # Errors
/// Why the write is forbidden.
pub fn check(authorizer: &Authorizer, user: &User, write: &Write<'_>) -> Result<(), String> {
    if (write.group, write.resource) != (GROUP, RESOURCE) {
        return Ok(());
    }
    if let (Operation::Create, "", Some(request)) = (write.operation, write.subresource, write.new) {
        return no_administrators(request);
    }
    let (Operation::Update, Some(old)) = (write.operation, write.old) else { return Ok(()) };
    let verb = match write.subresource {
        "approval" => "approve",
        "status" if is_signed(write.new, old) => "sign",
        _ => return Ok(()),
    };
    // Of the request before: what it asks for does not change on this way.
    let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
    match may(authorizer, user, verb, signer) {
        true => Ok(()),
        false => Err(format!("user not permitted to {verb} requests with signerName {signer:?}")),
    }
}

fn no_administrators(request: &Value) -> Result<(), String> {
    if request["spec"]["signerName"] != CLIENT {
        return Ok(());
    }
    let subject = Subject::of(request).map_err(|why| format!("failed to parse CSR: {why}"))?;
    match subject.organizations.iter().any(|group| group == MASTERS) {
        true => Err(format!("use of {CLIENT} signer with {MASTERS} group is not allowed")),
        false => Ok(()),
    }
}

/// Does a signer speak: with a certificate, or with a condition?
fn is_signed(new: Option<&Value>, old: &Value) -> bool {
    let is_empty = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
    new.is_some_and(|new| {
        let (new, old) = (&new["status"], &old["status"]);
        let (conditions, before) = (&new["conditions"], &old["conditions"]);
        new["certificate"] != old["certificate"]
            || (conditions != before && !(is_empty(conditions) && is_empty(before)))
    })
}

/// By the signer's name, or by its domain.
fn may(authorizer: &Authorizer, user: &User, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    [signer.to_owned(), format!("{domain}/*")].into_iter().any(|name| {
        let wanted = Attributes::Resource {
            verb: verb.into(),
            group: GROUP.into(),
            resource: "signers".into(),
            subresource: "".into(),
            namespace: "".into(),
            name: name.into(),
        };
        matches!(authorizer.authorize(user, &wanted), Decision::Allow { .. })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn write<'a>(operation: Operation, subresource: &'a str, new: &'a Value, old: Option<&'a Value>) -> Write<'a> {
        let new = Some(new);
        Write { operation, group: GROUP, resource: RESOURCE, subresource, namespace: "", name: "r", new, old }
    }

    #[test]
    fn approving_and_signing_take_a_right_to_the_signer() {
        let authorizer = Authorizer::default();
        let old = json!({"spec": {"signerName": "example.com/mine"}});
        let labelled = json!({"metadata": {"labels": {"a": "b"}}, "spec": old["spec"], "status": {"conditions": []}});
        let signed = json!({"spec": old["spec"], "status": {"certificate": "x"}});
        let failed = json!({"spec": old["spec"], "status": {"conditions": [{"type": "Failed"}]}});
        let judge = |user: &User, subresource, new| {
            check(&authorizer, user, &write(Operation::Update, subresource, new, Some(&old)))
        };
        let (admin, bob) = (User::new("admin", &[MASTERS]), User::new("bob", &[]));
        let refused =
            |verb: &str| Err(format!("user not permitted to {verb} requests with signerName \"example.com/mine\""));
        assert_eq!(judge(&bob, "approval", &failed), refused("approve"));
        assert_eq!(judge(&admin, "approval", &failed), Ok(()));
        for new in [&signed, &failed] {
            assert_eq!(judge(&bob, "status", new), refused("sign"));
            assert_eq!(judge(&admin, "status", new), Ok(()));
        }
        assert_eq!(judge(&bob, "status", &labelled), Ok(()));
        assert_eq!(judge(&bob, "", &signed), Ok(()), "which changes nothing of the status");
    }

    #[test]
    fn nobody_becomes_administrator_by_a_certificate() {
        let request = |signer: &str, group: &str| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, "bob");
            params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
            let pem = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
            let request = base64::engine::general_purpose::STANDARD.encode(pem);
            json!({"spec": {"signerName": signer, "request": request}})
        };
        let judge = |request: &Value| {
            let user = User::new("admin", &[MASTERS]);
            check(&Authorizer::default(), &user, &write(Operation::Create, "", request, None))
        };
        let text = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
        assert_eq!(judge(&request(CLIENT, MASTERS)), Err(text.into()));
        assert_eq!(judge(&request(CLIENT, "developers")), Ok(()));
        assert_eq!(judge(&request("example.com/mine", MASTERS)), Ok(()));
    }
}
