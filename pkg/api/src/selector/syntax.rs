//! What a label key and a label value may look like, and the texts that say why one doesn't
//! (`k8s.io/apimachinery/pkg/api/validate/content`).

/// Bytes of the name part of a key, and of a value.
const NAME_MAX: usize = 63;
/// Bytes of the prefix of a key.
const PREFIX_MAX: usize = 253;

const NAME_RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
     alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
     '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
     used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
     or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// Why this is no label key (also called a qualified name); empty when it is one.
pub fn key_errors(key: &str) -> Vec<String> {
    let parts: Vec<&str> = key.split('/').collect();
    match parts[..] {
        [name] => name_errors(name),
        [prefix, name] => {
            let mut errors = prefix_errors(prefix);
            errors.extend(name_errors(name));
            errors
        }
        _ => vec![format!(
            "a valid label key {NAME_RULE} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        )],
    }
}

/// Why this is no label value; empty when it is one.
pub fn value_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > NAME_MAX {
        errors.push(too_long(NAME_MAX));
    }
    if !value.is_empty() && !is_name(value) {
        errors.push(VALUE_RULE.into());
    }
    errors
}

/// Is this a lower-case DNS subdomain (RFC 1123), its length aside?
pub fn is_subdomain(text: &str) -> bool {
    text.split('.').all(|label| {
        let bytes = label.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        !bytes.is_empty() && bytes.iter().all(inner) && bytes[0] != b'-' && bytes[bytes.len() - 1] != b'-'
    })
}

fn name_errors(name: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if name.is_empty() {
        errors.push("name part must be non-empty".into());
    } else if name.len() > NAME_MAX {
        errors.push(format!("name part {}", too_long(NAME_MAX)));
    }
    if !is_name(name) {
        errors.push(format!("name part {NAME_RULE}"));
    }
    errors
}

fn prefix_errors(prefix: &str) -> Vec<String> {
    if prefix.is_empty() {
        return vec!["prefix part must be non-empty".into()];
    }
    let mut errors = Vec::new();
    if prefix.len() > PREFIX_MAX {
        errors.push(format!("prefix part {}", too_long(PREFIX_MAX)));
    }
    if !is_subdomain(prefix) {
        errors.push(format!("prefix part {SUBDOMAIN_RULE}"));
    }
    errors
}

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    match bytes {
        [] => false,
        [first, ..] => {
            first.is_ascii_alphanumeric() && bytes[bytes.len() - 1].is_ascii_alphanumeric() && bytes.iter().all(inner)
        }
    }
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        for good in ["a", "a-b_c.D", "example.com/name", "kubernetes.io/os"] {
            assert_eq!(key_errors(good), Vec::<String>::new(), "{good}");
        }
        for bad in ["", "-a", "a.", "a b", "/a", "a/", "A.com/x", "a/b/c", "ex..com/a"] {
            assert!(!key_errors(bad).is_empty(), "{bad}");
        }
        assert_eq!(key_errors(&"a".repeat(64)), ["name part must be no more than 63 bytes"]);
    }

    #[test]
    fn values() {
        assert!(value_errors("").is_empty());
        assert!(value_errors("v1.2_x").is_empty());
        assert_eq!(value_errors("a/b"), [VALUE_RULE]);
        assert_eq!(value_errors(&"a".repeat(64)), ["must be no more than 63 bytes"]);
    }
}
