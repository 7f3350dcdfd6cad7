//! CertificateSigningRequests (`pkg/apis/certificates/validation`). The request's contents and signature are judged
//! by whoever signs it; here it must be a request at all.
use super::field::{Errors, Path, Tree};
use super::names;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::collections::BTreeSet;

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const LEAST_SECONDS: i64 = 600;

pub fn request(errors: &mut Errors, object: &Value) {
    let (path, spec) = (Path::field("spec"), &object["spec"]);
    if !is_request(spec.text("request")) {
        errors.invalid(&path.child("request"), spec.text("request"), "PEM block type must be CERTIFICATE REQUEST");
    }
    usages(errors, &path.child("usages"), spec);
    signer(errors, &path.child("signerName"), spec.text("signerName"));
    if let Some(seconds) = spec.int("expirationSeconds").filter(|seconds| *seconds < LEAST_SECONDS) {
        let text = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(&path.child("expirationSeconds"), seconds, text);
    }
    conditions(errors, &Path::field("status").child("conditions"), &object["status"]);
}

/// Whether base64 text holds PEM of a request.
fn is_request(text: &str) -> bool {
    let pem = STANDARD.decode(text).unwrap_or_default();
    let pem = String::from_utf8_lossy(&pem);
    let body = pem.split_once("-----BEGIN CERTIFICATE REQUEST-----").and_then(|(_, rest)| rest.split_once("-----END"));
    body.is_some_and(|(body, _)| {
        let joined: String = body.split_whitespace().collect();
        !joined.is_empty() && STANDARD.decode(joined).is_ok()
    })
}

fn usages(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    if spec.count("usages") == 0 {
        errors.required(path, "");
    }
    for (i, usage) in spec.texts("usages").enumerate().filter(|(_, usage)| !USAGES.contains(usage)) {
        errors.unsupported(&path.index(i), usage, USAGES);
    }
    let mut seen = BTreeSet::new();
    for (i, usage) in spec.texts("usages").enumerate() {
        if !seen.insert(usage) {
            errors.duplicate(&path.index(i), usage);
        }
    }
}

fn signer(errors: &mut Errors, path: &Path<'_>, name: &str) {
    if name == "kubernetes.io/legacy-unknown" {
        return errors.invalid(path, name, "the legacy signerName is not allowed via this API version");
    }
    if name.is_empty() {
        return errors.required(path, "");
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [domain, rest] = parts[..] else {
        let text = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(path, name, text);
    };
    let labels = |errors: &mut Errors, part: &str, rule: fn(&str) -> Vec<String>| {
        for label in part.split('.') {
            let messages = rule(label).into_iter().map(|text| format!("validating label {label:?}: {text}")).collect();
            errors.each(path, part, messages);
        }
    };
    labels(errors, domain, names::dns_label);
    if !domain.contains('.') {
        errors.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    labels(errors, rest, names::dns_subdomain);
}

fn conditions(errors: &mut Errors, path: &Path<'_>, status: &Value) {
    let mut seen = BTreeSet::new();
    for (i, condition) in status.list("conditions").iter().enumerate() {
        let (at, ty) = (path.index(i), condition.text("type"));
        if ty.is_empty() {
            errors.required(&at.child("type"), "");
        }
        let decided = matches!(ty, "Approved" | "Denied" | "Failed");
        let allowed: &[&str] = if decided { &["True"] } else { &["False", "True", "Unknown"] };
        errors.one_of(&at.child("status"), condition.text("status"), allowed);
        let other = match ty {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if seen.contains(other) {
            errors.invalid(path, ty, "Approved and Denied conditions are mutually exclusive");
        }
        if !seen.insert(ty) {
            errors.duplicate(&at.child("type"), ty);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(object: Value) -> Vec<String> {
        let mut errors = Errors::default();
        request(&mut errors, &object);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_request_is_a_request_for_something_from_somebody() {
        let pem = STANDARD.encode("-----BEGIN CERTIFICATE REQUEST-----\nYQ==\n-----END CERTIFICATE REQUEST-----\n");
        let spec = json!({"request": pem, "usages": ["client auth"], "signerName": "example.com/s"});
        assert_eq!(found(json!({"spec": spec})), [""; 0]);
        assert_eq!(
            found(json!({"spec": {"request": "aGVsbG8="}})),
            [
                "spec.request: Invalid value: \"aGVsbG8=\": PEM block type must be CERTIFICATE REQUEST",
                "spec.usages: Required value",
                "spec.signerName: Required value"
            ]
        );
        let both = json!([{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]);
        let text =
            "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive";
        assert_eq!(found(json!({"spec": spec, "status": {"conditions": both}})), [text]);
    }
}
