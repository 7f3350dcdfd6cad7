//! One number for all that servers share: the same on servers that have converged, whatever order they learnt it in.
use super::members;
use crdt::{Policy, policy};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fmt::Write;

/// Bytes of the hash that are shown: enough that two states don't meet by chance.
const SHOWN: usize = 8;
/// Heartbeats never rest: with them no two servers would tell the same for long.
const HEARTBEATS: &[u8] = b"/registry/leases/kube-node-lease/";

/// What all keys and values come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    pub hash: String,
    pub keys: usize,
}

/// Digests keys in their order, with their values. What means something on one server only, and heartbeats, are left out.
pub fn of<'a>(entries: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Digest {
    let (mut hasher, mut keys) = (Sha256::new(), 0);
    for (key, value) in entries.filter(|(key, _)| is_shared(key)) {
        let value = shared(key, value);
        // Lengths, or bytes could move from a key to its value unnoticed.
        for part in [key, &value] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        keys += 1;
    }
    let hash = hasher.finalize().iter().take(SHOWN).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    Digest { hash, keys }
}

fn is_shared(key: &[u8]) -> bool {
    policy(key) != Policy::Local && !key.starts_with(HEARTBEATS)
}

/// The part of a value that servers share. JSON comes in one order of fields: that of a merged object is nobody's.
fn shared(key: &[u8], value: &[u8]) -> Vec<u8> {
    match serde_json::from_slice::<Value>(value) {
        // What a server sees of another never leaves it.
        Ok(object) if key.starts_with(members::PREFIX.as_bytes()) => json!([object["metadata"]["uid"], object["spec"]]),
        Ok(object) => object,
        Err(_) => return value.to_vec(),
    }
    .to_string()
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(entries: &[(&str, &str)]) -> Digest {
        of(entries.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())))
    }

    #[test]
    fn order_of_fields_and_what_is_local_do_not_count_and_all_else_does() {
        let pod = "/registry/pods/default/p";
        let base = digest(&[(pod, r#"{"a":1,"b":[1,2]}"#)]);
        assert_eq!(base.keys, 1);
        assert_eq!(base, digest(&[(pod, r#"{"b":[1,2],"a":1}"#)]));
        assert_eq!(base, digest(&[(pod, r#"{"a":1,"b":[1,2]}"#), ("/registry/ranges/serviceips", "x")]));
        assert_eq!(base, digest(&[("/registry/leases/kube-node-lease/n", "{}"), (pod, r#"{"a":1,"b":[1,2]}"#)]));
        assert_ne!(base, digest(&[(pod, r#"{"a":1,"b":[2,1]}"#)]));
        assert_ne!(base, digest(&[("/registry/pods/default/q", r#"{"a":1,"b":[1,2]}"#)]));
        assert_ne!(digest(&[("/mine", "a")]), digest(&[("/mine", "b")]), "opaque bytes");
    }

    #[test]
    fn a_servers_view_of_another_is_its_own() {
        let server =
            |status: &str| format!(r#"{{"metadata":{{"uid":"u"}},"spec":{{"number":2}},"status":"{status}"}}"#);
        let key = "/registry/eyot.dev/servers/b";
        assert_eq!(digest(&[(key, &server("Linked"))]), digest(&[(key, &server("Lost"))]));
    }
}
