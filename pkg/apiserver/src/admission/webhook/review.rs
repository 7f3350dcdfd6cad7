//! AdmissionReview: what a webhook is asked, and what its answer means
//! (`k8s.io/apiserver/pkg/admission/plugin/webhook/request`).
use crate::User;
use crate::admission::Operation;
use api::{GroupVersionKind, GroupVersionResource, Status};
use base64::Engine;
use serde_json::{Value, json};

/// What a review says of the request. `kind` and `resource` are in the version that the webhook asked for.
pub struct Question<'a> {
    pub uid: &'a str,
    pub kind: &'a GroupVersionKind,
    pub resource: &'a GroupVersionResource,
    pub request_kind: &'a GroupVersionKind,
    pub request_resource: &'a GroupVersionResource,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub operation: Operation,
    pub user: &'a User,
    pub object: Option<&'a Value>,
    pub old: Option<&'a Value>,
    pub options: &'a Value,
    pub dry_run: bool,
}

/// An answer that is well formed.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub allowed: bool,
    /// The webhook's own `status`, of a refusal.
    pub result: Value,
    /// A JSON patch; none or empty changes nothing.
    pub patch: Option<Vec<u8>>,
    pub warnings: Vec<String>,
    pub audit: Vec<(String, String)>,
}

fn kind(kind: &GroupVersionKind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn resource(resource: &GroupVersionResource) -> Value {
    json!({"group": resource.group, "version": resource.version, "resource": resource.resource})
}

/// Who asks, as reviews and policies see them.
pub fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.clone().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

impl Question<'_> {
    /// The `request` of the review; policies see it as a variable, without objects.
    pub fn request(&self) -> Value {
        let mut request = json!({
            "uid": self.uid,
            "kind": kind(self.kind),
            "resource": resource(self.resource),
            "requestKind": kind(self.request_kind),
            "requestResource": resource(self.request_resource),
            "operation": self.operation.as_str(),
            "userInfo": user_info(self.user),
            "object": self.object,
            "oldObject": self.old,
            "dryRun": self.dry_run,
            "options": self.options,
        });
        let texts = [
            ("subResource", self.subresource),
            ("requestSubResource", self.subresource),
            ("namespace", self.namespace),
            ("name", self.name),
        ];
        for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            request[field] = text.into();
        }
        request
    }

    pub fn review(&self, version: &str) -> Value {
        let api_version = format!("admission.k8s.io/{version}");
        json!({"kind": "AdmissionReview", "apiVersion": api_version, "request": self.request()})
    }
}

/// Reads the answer to the review `uid` of `version` (`VerifyAdmissionResponse`).
///
/// # Errors
/// What is wrong with it.
pub fn answer(review: &Value, uid: &str, version: &str, mutating: bool) -> Result<Answer, String> {
    let response = &review["response"];
    if !response.is_object() {
        return Err("webhook response was absent".into());
    }
    // v1beta1 checked neither, and named no patch type.
    let strict = version == "v1";
    if strict {
        let got = response["uid"].as_str().unwrap_or_default();
        if got != uid {
            return Err(format!("expected response.uid={uid:?}, got {got:?}"));
        }
        let text = |field: &str| review[field].as_str().unwrap_or_default();
        if (text("apiVersion"), text("kind")) != ("admission.k8s.io/v1", "AdmissionReview") {
            let wanted = "admission.k8s.io/v1, Kind=AdmissionReview";
            return Err(format!(
                "expected webhook response of {wanted}, got {}, Kind={}",
                text("apiVersion"),
                text("kind")
            ));
        }
    }
    let patch = response["patch"].as_str().filter(|patch| !patch.is_empty());
    let patch_type = response.get("patchType").filter(|ty| !ty.is_null());
    check_patch(patch.is_some(), patch_type, strict, mutating)?;
    let decode = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).map_err(|e| e.to_string());
    let texts =
        |value: &Value| value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let audit = response["auditAnnotations"].as_object().into_iter().flatten();
    Ok(Answer {
        allowed: response["allowed"] == true,
        result: response["status"].clone(),
        patch: patch.filter(|_| mutating).map(decode).transpose()?,
        warnings: texts(&response["warnings"]),
        audit: audit.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect(),
    })
}

fn check_patch(patch: bool, ty: Option<&Value>, strict: bool, mutating: bool) -> Result<(), String> {
    let wrong = match (strict, mutating, patch, ty) {
        (false, ..) => return Ok(()),
        (_, true, true, None) => "webhook returned response.patch but not response.patchType".into(),
        (_, true, false, Some(_)) => "webhook returned response.patchType but not response.patch".into(),
        (_, true, true, Some(ty)) if ty != "JSONPatch" => format!("unsupported patch type {ty}"),
        (_, false, true, _) => "validating webhook may not return response.patch".into(),
        (_, false, _, Some(_)) => "validating webhook may not return response.patchType".into(),
        _ => return Ok(()),
    };
    Err(wrong)
}

/// The answer to the client whose request a webhook refused (`ToStatusErr`).
pub fn refusal(webhook: &str, result: &Value) -> Status {
    let text = |field: &str| result[field].as_str().filter(|text| !text.is_empty());
    let denied = format!("admission webhook {webhook:?} denied the request");
    let message = match text("message").or(text("reason")) {
        Some(why) => format!("{denied}: {why}"),
        None => format!("{denied} without explanation"),
    };
    let code = result["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| *code >= 400);
    let mut status = Status::failure(code.unwrap_or(400), text("reason").unwrap_or_default(), message);
    status.details = serde_json::from_value(result["details"].clone()).ok();
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(response: Value) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }

    #[test]
    fn answers_are_checked_as_upstream_does() {
        let read = |response: Value, mutating: bool| answer(&review(response), "u", "v1", mutating);
        assert!(read(json!({"uid": "u", "allowed": true}), true).unwrap().allowed);
        assert_eq!(read(Value::Null, true).unwrap_err(), "webhook response was absent");
        assert_eq!(read(json!({"uid": "v"}), true).unwrap_err(), "expected response.uid=\"u\", got \"v\"");
        let patched = json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": "JSONPatch"});
        assert_eq!(read(patched.clone(), true).unwrap().patch.unwrap(), b"[]");
        assert!(read(patched, false).unwrap_err().contains("may not return response.patch"));
        assert!(read(json!({"uid": "u", "patch": "W10="}), true).unwrap_err().contains("but not response.patchType"));
        let old = json!({"response": {"allowed": true, "patch": "W10="}});
        assert!(answer(&old, "u", "v1beta1", true).unwrap().patch.is_some());
    }

    #[test]
    fn a_refusal_names_the_webhook() {
        let status = refusal("a.b.c", &json!({"message": "no", "code": 403, "reason": "Forbidden"}));
        assert_eq!(status.message, "admission webhook \"a.b.c\" denied the request: no");
        assert_eq!((status.code, &*status.reason), (403, "Forbidden"));
        let silent = refusal("a", &Value::Null);
        assert_eq!(
            (silent.code, &*silent.message),
            (400, "admission webhook \"a\" denied the request without explanation")
        );
        assert_eq!(refusal("a", &json!({"code": 200})).code, 400);
    }
}
