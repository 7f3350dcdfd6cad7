//! Short names for contents, in the alphabet that Kubernetes uses in generated names.
use serde::Serialize;
use serde_json::Value;

/// No vowels, no look-alikes.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A hash of `content` as Kubernetes writes `pod-template-hash` and `controller-revision-hash`: up to ten characters.
/// The values are our own, as upstream's follow from Go's memory layout; sets made by either are recognised by their
/// template, not by their hash.
pub fn of<T: Serialize>(content: &T, collisions: Option<i32>) -> String {
    let mut hash = Fnv::new();
    // Through a Value: its maps are sorted, so that equal contents are equal bytes.
    let content: Value = serde_json::to_value(content).expect("typed objects are JSON");
    hash.add(content.to_string().as_bytes());
    if let Some(collisions) = collisions {
        hash.add(&collisions.to_le_bytes());
    }
    encode(&hash.0.to_string())
}

/// Upstream's SafeEncodeString.
pub fn encode(text: &str) -> String {
    text.bytes().map(|byte| ALPHABET[usize::from(byte) % ALPHABET.len()] as char).collect()
}

/// FNV-1a with 32 bits.
pub struct Fnv(pub u32);

impl Fnv {
    pub fn new() -> Self {
        Self(0x811c_9dc5)
    }

    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }
}

impl Default for Fnv {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_upstreams() {
        // "2166136261" is FNV's offset; each digit moves through the alphabet as in apimachinery's SafeEncodeString.
        assert_eq!(encode("0123456789"), "456789bcdf");
        let mut hash = Fnv::new();
        hash.add(b"foobar");
        assert_eq!(hash.0, 0xbf9c_f968, "the published FNV-1a test vector");
        let (a, b) = (of(&"a", None), of(&"a", Some(1)));
        assert_ne!(a, b, "a collision count changes the name");
        assert!(a.len() <= 10 && a.bytes().all(|byte| ALPHABET.contains(&byte)));
    }
}
