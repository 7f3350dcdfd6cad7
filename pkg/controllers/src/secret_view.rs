//! Secrets as controllers need them: tokens with their content, all others by their metadata alone. A cache of whole
//! Secrets would hold everything that a cluster keeps secret.
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Types whose content is kept.
pub const BOOTSTRAP_TOKEN: &str = "bootstrap.kubernetes.io/token";
pub const ACCOUNT_TOKEN: &str = "kubernetes.io/service-account-token";

/// A Secret without what no controller may read.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(from = "Secret")]
pub struct SecretView {
    pub metadata: ObjectMeta,
    #[serde(rename = "type")]
    pub type_: String,
    /// Empty unless the Secret is a token.
    #[serde(skip_serializing)]
    pub data: BTreeMap<String, ByteString>,
}

impl From<Secret> for SecretView {
    fn from(secret: Secret) -> Self {
        let type_ = secret.type_.unwrap_or_default();
        let is_token = type_ == BOOTSTRAP_TOKEN || type_ == ACCOUNT_TOKEN;
        let data = secret.data.filter(|_| is_token).unwrap_or_default();
        Self { metadata: secret.metadata, type_, data }
    }
}

/// Without the content: it must not reach a log.
impl std::fmt::Debug for SecretView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretView")
            .field("name", &self.metadata.name)
            .field("type", &self.type_)
            .finish_non_exhaustive()
    }
}

impl Resource for SecretView {
    type DynamicType = ();
    type Scope = kube::core::NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Secret".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "secrets".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_tokens_keep_their_content_and_none_is_shown() {
        let view = |type_: &str| -> SecretView {
            serde_json::from_value(json!({"metadata": {"name": "s"}, "type": type_, "data": {"token": "aGlkZGVu"}}))
                .unwrap()
        };
        assert!(view("Opaque").data.is_empty());
        assert_eq!(view(ACCOUNT_TOKEN).data["token"].0, b"hidden");
        assert!(!format!("{:?}", view(BOOTSTRAP_TOKEN)).contains("aGlkZGVu"));
    }
}
