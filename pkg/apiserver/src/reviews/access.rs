//! May this user do that? The reviews of `authorization.k8s.io/v1`.
use super::{Review, strings};
use crate::authz::{Attributes, Decision};
use crate::request::User;
use api::validate::{FieldError, Reason};
use api::{GroupKind, Status};
use serde_json::{Value, json};

impl Review<'_> {
    /// The status of a (Self|Local)SubjectAccessReview.
    pub(super) fn access(&self, kind: &str, object: &Value) -> Result<Value, Status> {
        let spec = &object["spec"];
        validate(kind, &self.info.namespace, spec)?;
        let user = if kind == "SelfSubjectAccessReview" { self.user.clone() } else { subject(spec) };
        let (allowed, reason) = match self.front.authorizer.authorize(&user, &attributes(spec)) {
            Decision::Allow { reason } => (true, reason),
            Decision::NoOpinion { reason } => (false, reason),
        };
        let mut status = json!({"allowed": allowed});
        if !reason.is_empty() {
            status["reason"] = reason.into();
        }
        Ok(status)
    }

    /// The status of a SelfSubjectRulesReview.
    pub(super) fn rules(&self, spec: &Value) -> Result<Value, Status> {
        let namespace = spec["namespace"].as_str().unwrap_or_default();
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        let (rules, errors) = self.front.authorizer.rules_for(self.user, namespace);
        let (mut resources, mut urls) = (Vec::new(), Vec::new());
        for rule in rules {
            if !rule.resources.is_empty() {
                let mut entry = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
                if !rule.resource_names.is_empty() {
                    entry["resourceNames"] = json!(rule.resource_names);
                }
                resources.push(entry);
            }
            if !rule.non_resource_urls.is_empty() {
                urls.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
            }
        }
        let mut status = json!({"resourceRules": resources, "nonResourceRules": urls, "incomplete": false});
        if !errors.is_empty() {
            status["evaluationError"] = errors.join(", ").into();
        }
        Ok(status)
    }
}

fn subject(spec: &Value) -> User {
    let extra = spec["extra"].as_object().into_iter().flatten();
    User {
        name: spec["user"].as_str().unwrap_or_default().into(),
        uid: spec["uid"].as_str().unwrap_or_default().into(),
        groups: strings(&spec["groups"]),
        extra: extra.map(|(key, values)| (key.clone(), strings(values))).collect(),
    }
}

fn attributes(spec: &Value) -> Attributes<'_> {
    fn text<'a>(object: &'a Value, field: &str) -> std::borrow::Cow<'a, str> {
        object[field].as_str().unwrap_or_default().into()
    }
    let (resource, url) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if resource.is_object() {
        Attributes::Resource {
            verb: text(resource, "verb"),
            group: text(resource, "group"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            namespace: text(resource, "namespace"),
            name: text(resource, "name"),
        }
    } else {
        Attributes::NonResource { verb: text(url, "verb"), path: text(url, "path") }
    }
}

/// `pkg/apis/authorization/validation`.
fn validate(kind: &str, path_namespace: &str, spec: &Value) -> Result<(), Status> {
    let mut errors = Vec::new();
    let (resource, url) = (spec["resourceAttributes"].is_object(), spec["nonResourceAttributes"].is_object());
    if resource && url {
        let detail = "cannot be specified in combination with resourceAttributes";
        let shown = api::validate::shown::shown("authorization.NonResourceAttributes", &spec["nonResourceAttributes"]);
        errors.push(FieldError {
            field: "spec.nonResourceAttributes".into(),
            reason: Reason::Invalid,
            value: None,
            detail: format!("{shown}: {detail}"),
        });
    }
    let mut wrong = |field: &str, value: Value, detail: &str| {
        let reason = Reason::Invalid;
        errors.push(FieldError { field: field.into(), reason, value: Some(value), detail: detail.into() });
    };
    if !resource && !url {
        let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        wrong("spec.resourceAttributes", Value::Null, detail);
    }
    let anybody = spec["user"].as_str().is_some_and(|user| !user.is_empty()) || !strings(&spec["groups"]).is_empty();
    if kind != "SelfSubjectAccessReview" && !anybody {
        wrong("spec.user", "".into(), "at least one of user or group must be specified");
    }
    if kind == "LocalSubjectAccessReview" {
        let namespace = spec["resourceAttributes"]["namespace"].as_str().unwrap_or_default();
        if namespace != path_namespace {
            wrong("spec.resourceAttributes.namespace", namespace.into(), "must match metadata.namespace");
        }
        if url {
            let value = spec["nonResourceAttributes"].clone();
            wrong("spec.nonResourceAttributes", value, "disallowed on this kind of request");
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    // Upstream leaves the kind out here.
    let kind = GroupKind { group: "authorization.k8s.io".into(), kind: String::new() };
    Err(Status::invalid(&kind, "", &errors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_asks_one_question_about_somebody() {
        let resource = json!({"resourceAttributes": {"namespace": "a", "verb": "get", "resource": "pods"}});
        assert!(validate("SelfSubjectAccessReview", "", &resource).is_ok());
        let error = validate("SubjectAccessReview", "", &resource).unwrap_err();
        assert!(error.message.contains("at least one of user or group must be specified"), "{error}");
        let mut of_user = resource;
        of_user["user"] = "x".into();
        assert!(validate("SubjectAccessReview", "", &of_user).is_ok());
        assert!(validate("LocalSubjectAccessReview", "a", &of_user).is_ok());
        assert_eq!(validate("LocalSubjectAccessReview", "b", &of_user).unwrap_err().code, 422);
        assert_eq!(validate("SelfSubjectAccessReview", "", &json!({})).unwrap_err().code, 422);
    }
}
