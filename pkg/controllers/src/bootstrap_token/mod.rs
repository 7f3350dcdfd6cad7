//! Deletes bootstrap tokens that have expired.
use crate::action::{self, Told};
use crate::error::Error;
use crate::execute::Run;
use crate::runner::{Reconciler, Watches, key_of};
use crate::secret_view::{BOOTSTRAP_TOKEN, SecretView};
use client::Reflector;
use client::informers::Key;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

const NAMESPACE: &str = "kube-system";

pub(crate) struct TokenCleaner {
    pub(crate) secrets: Reflector<SecretView>,
}

fn is_token(secret: &SecretView) -> bool {
    secret.metadata.namespace.as_deref() == Some(NAMESPACE) && secret.type_ == BOOTSTRAP_TOKEN
}

/// How long the token is still good; `None` for ever. What can't be read has expired.
fn time_left(secret: &SecretView, now: Timestamp) -> Option<SignedDuration> {
    let expiration = secret.data.get("expiration")?;
    let text = String::from_utf8_lossy(&expiration.0);
    let at: Option<Timestamp> = text.trim().parse().ok();
    Some(at.map_or(SignedDuration::ZERO, |at| at.duration_since(now)))
}

impl Reconciler for TokenCleaner {
    const NAME: &'static str = "token-cleaner";
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches) {
        watches.primary::<SecretView>();
        watches.on::<SecretView>(|change| if is_token(change.new) { vec![key_of(change.new)] } else { Vec::new() });
    }

    async fn reconcile(&self, (namespace, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(secret) = self.secrets.get(&namespace, &name).filter(|secret| is_token(secret)) else { return Ok(()) };
        match time_left(&secret, Timestamp::now()) {
            None => Ok(()),
            Some(left) if left.is_positive() => {
                run.again(Duration::try_from(left).unwrap_or_default());
                Ok(())
            }
            Some(_) => run.all(vec![action::delete(&*secret, Told::nothing())]).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tokens_expire_and_what_has_no_date_stays() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let left = |expiration: Option<&str>| {
            let data = expiration.map(|text| k8s_openapi::ByteString(text.into()));
            let data = data.into_iter().map(|text| ("expiration".to_owned(), text)).collect();
            time_left(&SecretView { data, ..SecretView::default() }, now).map(|left| left.as_secs())
        };
        assert_eq!(left(None), None);
        assert_eq!(left(Some("2026-01-01T01:00:00Z")), Some(3600));
        assert_eq!(left(Some("2025-12-31T23:59:00Z")), Some(-60));
        assert_eq!(left(Some("soon")), Some(0), "unreadable is expired");
    }

    #[test]
    fn only_tokens_of_the_system_namespace_count() {
        let secret = |namespace: &str, type_: &str| -> SecretView {
            serde_json::from_value(json!({"metadata": {"namespace": namespace}, "type": type_})).unwrap()
        };
        assert!(is_token(&secret("kube-system", BOOTSTRAP_TOKEN)));
        assert!(!is_token(&secret("default", BOOTSTRAP_TOKEN)));
        assert!(!is_token(&secret("kube-system", "Opaque")));
    }
}
