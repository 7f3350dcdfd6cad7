//! Bootstrap tokens: `ID.SECRET`, kept as Secrets in kube-system, with which new nodes introduce themselves
//! (`plugin/pkg/auth/authenticator/token/bootstrap`).
use crate::request::{AUTHENTICATED, User};
use base64::Engine;
use serde_json::Value;
use store::Backend;

const SECRETS: &str = "/registry/secrets/kube-system/bootstrap-token-";
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;

/// Id and secret of what looks like such a token.
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    (id.len() == ID_LENGTH && secret.len() == SECRET_LENGTH && plain(id) && plain(secret)).then_some((id, secret))
}

/// Whom a token stands for; none: it does not hold.
///
/// # Errors
/// The store's.
pub async fn authenticate(backend: &dyn Backend, token: &str, now: i64) -> store::Result<Option<User>> {
    let Some((id, secret)) = parse(token) else { return Ok(None) };
    let entry = backend.get(format!("{SECRETS}{id}").as_bytes(), None).await?;
    let stored = entry.and_then(|entry| serde_json::from_slice::<Value>(&entry.value).ok());
    Ok(stored.and_then(|stored| user(&stored, id, secret, now)))
}

/// The user of a stored token at `now` (Unix seconds). Pure.
fn user(stored: &Value, id: &str, secret: &str, now: i64) -> Option<User> {
    let data = |key: &str| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(stored["data"][key].as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    };
    let deleted = stored["metadata"]["deletionTimestamp"].is_string();
    if stored["type"] != SECRET_TYPE || deleted || data("token-id")? != id {
        return None;
    }
    // Compared by digest, so that the time it takes tells nothing of the secret.
    if super::digest(&data("token-secret")?) != super::digest(secret) {
        return None;
    }
    let expired = match data("expiration") {
        Some(text) => text.parse::<jiff::Timestamp>().map_or(true, |at| at.as_second() <= now),
        None => false,
    };
    if expired || data("usage-bootstrap-authentication")? != "true" {
        return None;
    }
    let extra = data("auth-extra-groups").unwrap_or_default();
    let extra: Vec<&str> = extra.split(',').map(str::trim).filter(|group| !group.is_empty()).collect();
    if extra.iter().any(|group| !group.strip_prefix(GROUP).is_some_and(|rest| rest.starts_with(':'))) {
        return None;
    }
    let groups = [GROUP].into_iter().chain(extra).chain([AUTHENTICATED]).map(str::to_owned).collect();
    Some(User { name: format!("system:bootstrap:{id}"), groups, ..User::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: i64 = 1_767_312_000;

    fn stored(change: impl FnOnce(&mut Value)) -> Value {
        let text = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let mut stored = json!({"type": SECRET_TYPE, "metadata": {"name": "bootstrap-token-abcdef"}, "data": {
            "token-id": text("abcdef"), "token-secret": text("0123456789abcdef"),
            "expiration": text("2026-01-02T00:00:01Z"), "usage-bootstrap-authentication": text("true"),
            "auth-extra-groups": text("system:bootstrappers:nodes")}});
        change(&mut stored);
        stored
    }

    fn judge(stored: &Value, secret: &str, now: i64) -> Option<User> {
        user(stored, "abcdef", secret, now)
    }

    #[test]
    fn a_token_holds_until_it_expires() {
        let bob = judge(&stored(|_| {}), "0123456789abcdef", NOW).unwrap();
        assert_eq!(bob.name, "system:bootstrap:abcdef");
        assert_eq!(bob.groups, ["system:bootstrappers", "system:bootstrappers:nodes", AUTHENTICATED]);
        assert_eq!(judge(&stored(|_| {}), "0123456789abcdee", NOW), None);
        assert_eq!(judge(&stored(|_| {}), "0123456789abcdef", NOW + 1), None);
    }

    #[test]
    fn what_is_odd_does_not_hold() {
        let text = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let holds = |stored: &Value| judge(stored, "0123456789abcdef", NOW).is_some();
        assert!(!holds(&stored(|s| s["type"] = "Opaque".into())));
        assert!(!holds(&stored(|s| s["metadata"]["deletionTimestamp"] = "t".into())));
        assert!(!holds(&stored(|s| s["data"]["expiration"] = text("soon").into())));
        assert!(!holds(&stored(|s| s["data"]["auth-extra-groups"] = text("system:masters").into())));
        assert!(!holds(&stored(|s| s["data"]["usage-bootstrap-authentication"] = text("false").into())));
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        assert_eq!(parse("abcdef.0123456789abcdeF"), None);
    }
}
