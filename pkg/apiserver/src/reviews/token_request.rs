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
        let owners = object["metadata"]["managedFields"].take();
        object["metadata"] = json!({
            "name": name, "namespace": namespace, "creationTimestamp": seconds(self.now),
            "uid": uuid::Uuid::new_v4().to_string(),
        });
        if owners.is_array() {
            object["metadata"]["managedFields"] = owners;
        }
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
                if node.is_some() {
                    check_of_node(reference, &grant.audiences, &pod).map_err(|why| self.refused(&why))?;
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

/// A node asks for tokens of a pod that it knows, for whom the pod's volumes name (NodeRestriction). What a CSI
/// driver asks tokens for is its own affair.
fn check_of_node(reference: &Value, audiences: &[String], pod: &Value) -> Result<(), String> {
    if reference["uid"].as_str().is_none_or(str::is_empty) {
        return Err("node requested token with a pod binding without a uid".into());
    }
    let audience = match audiences {
        [] => "",
        [one] => one,
        _ => return Err("node may only request 0 or 1 audiences".into()),
    };
    let volumes = || pod["spec"]["volumes"].as_array().into_iter().flatten();
    let sources = volumes().flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
    let mut tokens = sources.filter_map(|source| source.get("serviceAccountToken"));
    let asks_driver =
        |volume: &Value| ["csi", "persistentVolumeClaim", "ephemeral"].iter().any(|of| volume.get(of).is_some());
    if tokens.any(|token| token["audience"].as_str().unwrap_or_default() == audience) || volumes().any(asks_driver) {
        return Ok(());
    }
    let why = "not found in pod spec volume, the node is not authorized to request tokens for this audience";
    Err(format!("audience {audience:?} {why}"))
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
    fn a_node_asks_for_what_the_pods_volumes_name() {
        let token = |audience: &str| json!({"serviceAccountToken": {"audience": audience, "path": "t"}});
        let pod = json!({"spec": {"volumes": [{"name": "v", "projected": {"sources": [token("vault")]}}]}});
        let reference = json!({"uid": "u"});
        let ask = |audiences: &[&str]| {
            let audiences: Vec<String> = audiences.iter().map(|&a| a.to_owned()).collect();
            check_of_node(&reference, &audiences, &pod)
        };
        assert_eq!(ask(&["vault"]), Ok(()));
        assert!(ask(&["bank"]).unwrap_err().starts_with("audience \"bank\" not found in pod spec volume"));
        assert!(ask(&[]).is_err() && ask(&["vault", "bank"]).is_err());
        assert!(check_of_node(&json!({}), &["vault".to_owned()], &pod).unwrap_err().contains("without a uid"));
    }

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
