//! ConfigMaps and Secrets.
use super::field::{Errors, Path, Tree};
use super::names;
use crate::go_json;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// All data of one object together.
const MAX_BYTES: usize = 1024 * 1024;
const REDACTED: &str = "<secret contents redacted>";

/// The size of a base64 text once decoded.
fn decoded_len(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

fn keys(errors: &mut Errors, object: &Value, name: &str) {
    let path = Path::field(name);
    for (key, _) in object.entries(name) {
        errors.each(&path.key(key), key, names::config_key(key));
    }
}

fn sizes(object: &Value, name: &str, size: impl Fn(&str) -> usize) -> usize {
    object.entries(name).filter_map(|(_, value)| value.as_str()).map(size).sum()
}

pub fn config_map(errors: &mut Errors, object: &Value) {
    let path = Path::field("data");
    keys(errors, object, "data");
    for (key, _) in object.entries("data").filter(|(key, _)| object["binaryData"].has(key)) {
        errors.invalid(&path.key(key), key, "duplicate of key present in binaryData");
    }
    keys(errors, object, "binaryData");
    let total = sizes(object, "data", str::len) + sizes(object, "binaryData", decoded_len);
    if total > MAX_BYTES {
        errors.too_long(&Path::field(""), MAX_BYTES);
    }
}

pub fn secret(errors: &mut Errors, object: &Value) {
    let path = Path::field("data");
    keys(errors, object, "data");
    if sizes(object, "data", decoded_len) > MAX_BYTES {
        errors.too_long(&path, MAX_BYTES);
    }
    let has = |key: &str| object["data"].has(key);
    match object.text("type") {
        "kubernetes.io/service-account-token" => {
            let account = "kubernetes.io/service-account.name";
            if object["metadata"]["annotations"].text(account).is_empty() {
                let annotations = Path::field("metadata");
                errors.required(&annotations.child("annotations").key(account), "");
            }
        }
        "kubernetes.io/dockercfg" => docker(errors, object, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => docker(errors, object, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            errors.required(&path.key("username"), "");
            errors.required(&path.key("password"), "");
        }
        "kubernetes.io/ssh-auth" if object["data"].text("ssh-privatekey").is_empty() => {
            errors.required(&path.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"].iter().filter(|key| !has(key)) {
                errors.required(&path.key(key), "");
            }
        }
        _ => {}
    }
}

/// Registry credentials are a JSON object.
fn docker(errors: &mut Errors, object: &Value, key: &str) {
    let path = Path::field("data");
    let Some(text) = object["data"].get(key).and_then(Value::as_str) else {
        return errors.required(&path.key(key), "");
    };
    let bytes = STANDARD.decode(text).unwrap_or_default();
    let wrong = go_json::syntax_error(&bytes).or_else(|| match serde_json::from_slice(&bytes) {
        Ok(Value::Object(_) | Value::Null) | Err(_) => None,
        Ok(other) => {
            let kind = go_json::kind_name(&other);
            Some(format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"))
        }
    });
    if let Some(text) = wrong {
        errors.invalid(&path.key(key), REDACTED, text);
    }
}

/// `immutable: true` can't be taken back.
pub fn frozen(errors: &mut Errors, new: &Value, old: &Value, data: &[&str]) {
    if !old.flag("immutable") {
        return;
    }
    let text = "field is immutable when `immutable` is set";
    if !new.flag("immutable") {
        errors.forbidden(&Path::field("immutable"), text);
    }
    for name in data.iter().filter(|name| !super::field::same(&new[**name], &old[**name])) {
        errors.forbidden(&Path::field(name), text);
    }
}
