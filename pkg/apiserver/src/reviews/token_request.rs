//! Tokens of service accounts: `serviceaccounts/NAME/token`
//! (`pkg/registry/core/serviceaccount/storage/token.go`).
use super::{Review, seconds, strings};
use crate::authn::service_account::{Bound, Grant};
use api::validate::{FieldError, Reason};
use api::{GroupKind, Status};
use serde_json::{Value, json};

const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;

impl Review<'_> {
    /// The request with its status filled in.
    pub(super) async fn token_request(&self, mut object: Value) -> Result<Value, Status> {
        let (namespace, name) = (&self.info.namespace, &self.info.name);
        let spec = object["spec"].clone();
        let seconds_wanted = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
        check_duration(seconds_wanted)?;
        let account = self.stored("serviceaccounts", "serviceaccounts", namespace, name).await?;
        let mut grant = Grant {
            namespace: namespace.clone(),
            account: bound(&account),
            audiences: strings(&spec["audiences"]),
            seconds: seconds_wanted,
            ..Grant::default()
        };
        self.bind(&spec["boundObjectRef"], &mut grant).await?;
        let accounts = self.front.authenticator.service_accounts();
        if grant.audiences.is_empty() {
            grant.audiences = accounts.audiences().to_vec();
        }
        let (token, expires) = accounts.issue(&grant, uuid::Uuid::new_v4(), self.now.as_second());
        let expires = jiff::Timestamp::from_second(expires).map_err(Status::internal)?;
        object["metadata"] = json!({"name": name, "namespace": namespace, "creationTimestamp": seconds(self.now)});
        object["spec"]["audiences"] = json!(grant.audiences);
        object["spec"]["expirationSeconds"] = json!(seconds_wanted);
        object["status"] = json!({"token": token, "expirationTimestamp": seconds(expires)});
        Ok(object)
    }

    /// Ties the token to the life of an object.
    async fn bind(&self, reference: &Value, grant: &mut Grant) -> Result<(), Status> {
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        let node = self.user.name.strip_prefix(crate::authz::NODE_PREFIX);
        if !reference.is_object() {
            return match node {
                Some(_) => Err(self.refused("node requested token not bound to a pod")),
                None => Ok(()),
            };
        }
        match (text("apiVersion"), text("kind")) {
            ("v1", "Pod") => {
                let pod = self.referred("pods", "pods", &grant.namespace, reference).await?;
                if pod["spec"]["serviceAccountName"].as_str().unwrap_or_default() != self.info.name {
                    return Err(Status::bad_request(format!(
                        "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                        self.info.name
                    )));
                }
                let on = pod["spec"]["nodeName"].as_str().unwrap_or_default();
                if node.is_some_and(|node| node != on) {
                    return Err(self.refused("node requested token bound to a pod scheduled on a different node"));
                }
                grant.pod = Some(bound(&pod));
                if !on.is_empty() {
                    let found = self.stored("nodes", "minions", "", on).await;
                    grant.node = found.ok().map(|node| bound(&node));
                }
            }
            ("v1", "Secret") if node.is_none() => {
                grant.secret = Some(bound(&self.referred("secrets", "secrets", &grant.namespace, reference).await?));
            }
            ("v1", "Node") if node.is_none() => {
                grant.node = Some(bound(&self.referred("nodes", "minions", "", reference).await?));
            }
            (version, kind) => {
                return Err(Status::bad_request(format!("cannot bind token to object of type {version}, Kind={kind}")));
            }
        }
        Ok(())
    }

    /// The object that a reference names; a uid must be the stored one.
    async fn referred(&self, resource: &str, stem: &str, namespace: &str, reference: &Value) -> Result<Value, Status> {
        let name = reference["name"].as_str().unwrap_or_default();
        let object = self.stored(resource, stem, namespace, name).await?;
        let (wanted, found) = (reference["uid"].as_str().unwrap_or_default(), &bound(&object).uid);
        if !wanted.is_empty() && wanted != found {
            return Err(Status::conflict(
                "",
                resource,
                name,
                &format!(
                    "the UID in the bound object reference ({wanted}) does not match the UID in record. The object \
                     might have been deleted and then recreated"
                ),
            ));
        }
        Ok(object)
    }

    async fn stored(&self, resource: &str, stem: &str, namespace: &str, name: &str) -> Result<Value, Status> {
        let slash = if namespace.is_empty() { "" } else { "/" };
        let key = format!("/registry/{stem}/{namespace}{slash}{name}");
        let entry = self.front.backend.get(key.as_bytes(), None).await.map_err(Status::internal)?;
        let entry = entry.ok_or_else(|| Status::not_found("", resource, name))?;
        serde_json::from_slice(&entry.value).map_err(Status::internal)
    }

    fn refused(&self, why: &str) -> Status {
        Status::forbidden("", "serviceaccounts", &self.info.name, why)
    }
}

fn bound(object: &Value) -> Bound {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    Bound { name: text("name"), uid: text("uid") }
}

fn check_duration(seconds: i64) -> Result<(), Status> {
    let detail = match seconds {
        ..MIN_SECONDS => "may not specify a duration less than 10 minutes",
        MIN_SECONDS..=MAX_SECONDS => return Ok(()),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let error = FieldError {
        field: "spec.expirationSeconds".into(),
        reason: Reason::Invalid,
        value: Some(seconds.into()),
        detail: detail.into(),
    };
    let kind = GroupKind { group: "authentication.k8s.io".into(), kind: "TokenRequest".into() };
    Err(Status::invalid(&kind, "", &[error]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_bounded() {
        assert!(check_duration(600).is_ok() && check_duration(1 << 32).is_ok());
        assert_eq!(
            check_duration(599).unwrap_err().message,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 599: may not \
             specify a duration less than 10 minutes"
        );
        assert!(check_duration((1 << 32) + 1).is_err());
    }
}
