//! Secrets of type `kubernetes.io/service-account-token`: long-lived tokens that somebody asked for by making the Secret.
//!
//! The token comes from TokenRequest, bound to its Secret: deleting the Secret revokes it, and it is checked as any
//! other token is. It is good for as long as the API grants any.
use crate::action::{self, Action, Told};
use crate::error::Error;
use crate::execute::Run;
use crate::runner::{Reconciler, Watches, key_of};
use crate::secret_view::{ACCOUNT_TOKEN, SecretView};
use client::Reflector;
use client::informers::Key;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// The longest life that a TokenRequest may ask for, 136 years.
const LIFE_S: i64 = 1 << 32;

pub(crate) struct AccountTokens {
    pub(crate) secrets: Reflector<SecretView>,
    pub(crate) accounts: Reflector<ServiceAccount>,
    pub(crate) root_ca_pem: String,
}

/// The account that a Secret is for, if it is for one.
fn account_of(secret: &SecretView) -> Option<&str> {
    let named = secret.annotations().get(ACCOUNT_NAME).filter(|name| !name.is_empty());
    named.filter(|_| secret.type_ == ACCOUNT_TOKEN).map(String::as_str)
}

/// Whether the Secret was made for an earlier life of the account.
fn is_anothers(secret: &SecretView, account: &ServiceAccount) -> bool {
    let uid = secret.annotations().get(ACCOUNT_UID).filter(|uid| !uid.is_empty());
    uid.is_some_and(|uid| account.metadata.uid.as_ref() != Some(uid))
}

/// What the Secret should hold besides its token.
fn content(secret: &SecretView, root_ca_pem: &str) -> BTreeMap<&'static str, ByteString> {
    let namespace = secret.namespace().unwrap_or_default();
    let certificate = Some(("ca.crt", root_ca_pem)).filter(|(_, pem)| !pem.is_empty());
    let all = certificate.into_iter().chain([("namespace", namespace.as_str())]);
    all.map(|(key, text)| (key, ByteString(text.as_bytes().to_vec()))).collect()
}

fn needs_token(secret: &SecretView) -> bool {
    secret.data.get("token").is_none_or(|token| token.0.is_empty())
}

/// Fills in what is missing.
fn plan(secret: &SecretView, account: &ServiceAccount, root_ca_pem: &str, token: Option<&str>) -> Option<Action> {
    let mut data = content(secret, root_ca_pem);
    data.retain(|key, wanted| secret.data.get(*key) != Some(wanted));
    data.extend(token.map(|token| ("token", ByteString(token.as_bytes().to_vec()))));
    let uid = account.uid().unwrap_or_default();
    if data.is_empty() && secret.annotations().get(ACCOUNT_UID) == Some(&uid) {
        return None;
    }
    let metadata = json!({"uid": secret.uid(), "resourceVersion": secret.resource_version(),
        "annotations": {ACCOUNT_UID: uid}});
    Some(action::patch(secret, json!({"metadata": metadata, "data": data})))
}

impl AccountTokens {
    async fn account(&self, run: &Run, namespace: &str, name: &str) -> Result<Option<ServiceAccount>, Error> {
        if let Some(known) = self.accounts.get(namespace, name) {
            return Ok(Some((*known).clone()));
        }
        // The cache may be behind: only the API's own word deletes a Secret.
        let api: Api<ServiceAccount> = Api::namespaced(run.client().clone(), namespace);
        let what = format!("ServiceAccount {namespace}/{name}");
        api.get_opt(name).await.map_err(|source| Error::Api { verb: "get", what, source })
    }
}

/// A token of the account that lives as long as the Secret.
async fn request(run: &Run, secret: &SecretView, namespace: &str, account: &str) -> Result<String, Error> {
    let failed = |source| Error::Api { verb: "create", what: format!("token of {namespace}/{account}"), source };
    let bound = json!({"apiVersion": "v1", "kind": "Secret", "name": secret.name_any(), "uid": secret.uid()});
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [], "expirationSeconds": LIFE_S, "boundObjectRef": bound}});
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let request = http::Request::builder().method("POST").uri(path).header("content-type", "application/json");
    let request = request.body(body.to_string().into_bytes()).map_err(|error| failed(kube::Error::HttpError(error)))?;
    let answer: Value = run.client().request(request).await.map_err(failed)?;
    let token = answer["status"]["token"].as_str().map(str::to_owned);
    token.ok_or_else(|| Error::Refused(format!("the token of {namespace}/{account} is missing in the answer")))
}

impl Reconciler for AccountTokens {
    const NAME: &'static str = "token-controller";

    fn watch(&self, watches: &mut Watches) {
        watches.primary::<SecretView>();
        watches.on::<SecretView>(|change| match account_of(change.new).is_some() && !change.deleted {
            true => vec![key_of(change.new)],
            false => Vec::new(),
        });
        let secrets = self.secrets.clone();
        watches.on::<ServiceAccount>(move |change| {
            let (namespace, name) = key_of(change.new);
            let tokens = secrets.select(&namespace, |secret| account_of(secret) == Some(&name));
            tokens.iter().map(|secret| key_of(&**secret)).collect()
        });
    }

    async fn reconcile(&self, (namespace, name): Key, run: &mut Run) -> Result<(), Error> {
        let secret = self.secrets.get(&namespace, &name).filter(|s| s.metadata.deletion_timestamp.is_none());
        let Some(secret) = secret else { return Ok(()) };
        let Some(account_name) = account_of(&secret) else { return Ok(()) };
        let account = self.account(run, &namespace, account_name).await?;
        let Some(account) = account.filter(|account| !is_anothers(&secret, account)) else {
            return run.all(vec![action::delete(&*secret, Told::nothing())]).await;
        };
        let token = match needs_token(&secret) {
            true => Some(request(run, &secret, &namespace, account_name).await?),
            false => None,
        };
        let patch = plan(&secret, &account, &self.root_ca_pem, token.as_deref());
        run.all(patch.into_iter().collect()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(type_: &str, annotations: Value, data: Value) -> SecretView {
        let metadata = json!({"name": "s", "namespace": "ns", "uid": "u", "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata, "type": type_, "data": data})).unwrap()
    }

    fn account(uid: &str) -> ServiceAccount {
        serde_json::from_value(json!({"metadata": {"name": "robot", "namespace": "ns", "uid": uid}})).unwrap()
    }

    #[test]
    fn a_new_secret_is_filled_and_then_left_alone() {
        let new = secret(ACCOUNT_TOKEN, json!({ACCOUNT_NAME: "robot"}), json!({}));
        assert!(needs_token(&new));
        let Some(Action::Patch { patch: action::Patch::Merge(patch), .. }) =
            plan(&new, &account("1"), "pem", Some("t"))
        else {
            panic!("it is empty")
        };
        assert_eq!(patch["data"], json!({"ca.crt": "cGVt", "namespace": "bnM=", "token": "dA=="}));
        assert_eq!(patch["metadata"]["annotations"], json!({ACCOUNT_UID: "1"}));
        let full = secret(ACCOUNT_TOKEN, json!({ACCOUNT_NAME: "robot", ACCOUNT_UID: "1"}), patch["data"].clone());
        assert!(!needs_token(&full));
        assert_eq!(plan(&full, &account("1"), "pem", None), None);
        assert!(plan(&full, &account("1"), "new pem", None).is_some(), "the certificate follows");
    }

    #[test]
    fn tokens_belong_to_one_life_of_one_account() {
        let bound = secret(ACCOUNT_TOKEN, json!({ACCOUNT_NAME: "robot", ACCOUNT_UID: "1"}), json!({}));
        assert_eq!(account_of(&bound), Some("robot"));
        assert!(!is_anothers(&bound, &account("1")));
        assert!(is_anothers(&bound, &account("2")));
        assert_eq!(account_of(&secret("Opaque", json!({ACCOUNT_NAME: "robot"}), json!({}))), None);
    }
}
