//! Values in error texts as upstream prints them: its internal types have no JSON tags, so their fields bear Go's
//! names and order, and what is absent shows as Go's zero value. The table is generated (`schemas/golang`).
use serde_json::{Map, Value};
use similar::TextDiff;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Type name -> fields: Go's name, JSON name, kind (see `schemas/golang/main.go`).
type Table = BTreeMap<String, Vec<[String; 3]>>;

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../schemas/shown.json")).expect("the generated file is JSON")
});

/// Lines around a change.
const CONTEXT: usize = 3;

/// `value` as an internal `ty` (`core.PodSpec`), on one line.
pub fn shown(ty: &str, value: &Value) -> String {
    let mut out = Out { text: String::new(), indent: None };
    structure(&mut out, ty, value);
    out.text
}

/// Any JSON value as Go's encoder writes it: with `<`, `>` and `&` escaped.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Object(_) | Value::Array(_) => escape(&value.to_string()),
        scalar => scalar.to_string(),
    }
}

fn escape(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// What changed from `old` to `new`, as a unified diff of their indented JSON.
pub fn difference(ty: &str, old: &Value, new: &Value) -> String {
    let pretty = |value| {
        let mut out = Out { text: String::new(), indent: Some(0) };
        structure(&mut out, ty, value);
        out.text + "\n"
    };
    let (old, new) = (pretty(old), pretty(new));
    TextDiff::from_lines(&old, &new).unified_diff().context_radius(CONTEXT).to_string()
}

/// JSON text in the making; with an indent it has a line a value.
struct Out {
    text: String,
    indent: Option<usize>,
}

impl Out {
    fn line(&mut self) {
        if let Some(depth) = self.indent {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n(' ', depth));
        }
    }

    /// `open`, what `inside` writes, `close`; nothing but the two where it is empty.
    fn block(&mut self, open: char, close: char, empty: bool, inside: impl FnOnce(&mut Self)) {
        self.text.push(open);
        if !empty {
            self.indent = self.indent.map(|depth| depth + 1);
            inside(self);
            self.indent = self.indent.map(|depth| depth - 1);
            self.line();
        }
        self.text.push(close);
    }

    fn next(&mut self, first: &mut bool) {
        if !std::mem::take(first) {
            self.text.push(',');
        }
        self.line();
    }

    fn key(&mut self, name: &str) {
        self.text.push_str(&Value::from(name).to_string());
        self.text.push_str(if self.indent.is_some() { ": " } else { ":" });
    }
}

fn structure(out: &mut Out, ty: &str, value: &Value) {
    let empty = TABLE.get(ty).is_none_or(Vec::is_empty);
    out.block('{', '}', empty, |out| fields(out, ty, value, &mut true));
}

fn fields(out: &mut Out, ty: &str, value: &Value, first: &mut bool) {
    for [name, key, kind] in TABLE.get(ty).into_iter().flatten() {
        if kind == "+~" {
            metadata(out, &value[key], first);
            continue;
        }
        if let Some(embedded) = kind.strip_prefix('+') {
            fields(out, embedded, value, first);
            continue;
        }
        out.next(first);
        out.key(name);
        field(out, kind, value.get(key).unwrap_or(&Value::Null));
    }
}

/// An object's metadata, which has JSON tags and leaves out what is empty, in its own order.
fn metadata(out: &mut Out, value: &Value, first: &mut bool) {
    for name in ["name", "generateName", "namespace", "labels", "annotations", "ownerReferences", "finalizers"] {
        if let Some(value) = value.get(name) {
            out.next(first);
            out.key(name);
            json(out, value);
        }
    }
}

fn field(out: &mut Out, kind: &str, value: &Value) {
    let (mark, ty) =
        ["[]", "{}", "*", "="].iter().find_map(|m| Some((*m, kind.strip_prefix(m)?))).unwrap_or(("", kind));
    match (mark, value) {
        ("", Value::Null) => out.text.push_str(kind),
        ("=", Value::Null) => typed(out, ty, &Value::Object(Map::new())),
        (_, Value::Null) => out.text.push_str("null"),
        ("[]", Value::Array(items)) => out.block('[', ']', items.is_empty(), |out| {
            let mut first = true;
            for item in items {
                out.next(&mut first);
                typed(out, ty, item);
            }
        }),
        ("{}", Value::Object(entries)) => out.block('{', '}', entries.is_empty(), |out| {
            let mut first = true;
            for (key, item) in entries {
                out.next(&mut first);
                out.key(key);
                typed(out, ty, item);
            }
        }),
        ("*" | "=", value) => typed(out, ty, value),
        (_, value) => json(out, value),
    }
}

fn typed(out: &mut Out, ty: &str, value: &Value) {
    if ty == "~" { json(out, value) } else { structure(out, ty, value) }
}

fn json(out: &mut Out, value: &Value) {
    match value {
        Value::Object(entries) => out.block('{', '}', entries.is_empty(), |out| {
            let mut first = true;
            for (key, item) in entries {
                out.next(&mut first);
                out.key(key);
                json(out, item);
            }
        }),
        Value::Array(items) => out.block('[', ']', items.is_empty(), |out| {
            let mut first = true;
            for item in items {
                out.next(&mut first);
                json(out, item);
            }
        }),
        scalar => {
            let text = escape(&scalar.to_string());
            out.text.push_str(&text);
        }
    }
}

/// A served PodSpec with its parts where the internal type has them: what concerns the host's namespaces is in the
/// security context.
pub fn internal_pod_spec(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let Some(fields) = spec.as_object_mut() else { return spec };
    for name in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"] {
        if let Some(value) = fields.remove(name) {
            let context = fields.entry("securityContext").or_insert_with(|| Value::Object(Map::new()));
            context[name] = value;
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn internal_types_show_what_is_absent() {
        let role = json!({"apiGroup": "g", "kind": "Role", "name": "r"});
        assert_eq!(shown("rbac.RoleRef", &role), r#"{"APIGroup":"g","Kind":"Role","Name":"r"}"#);
        let budget = json!({"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}});
        assert_eq!(
            shown("policy.PodDisruptionBudgetSpec", &budget),
            r#"{"MinAvailable":1,"Selector":{"matchLabels":{"a":"b"}},"MaxUnavailable":null,"UnhealthyPodEvictionPolicy":null}"#
        );
        let policy = json!({"rules": [{"succeededCount": 1}]});
        let text = r#"{"Rules":[{"SucceededIndexes":null,"SucceededCount":1}]}"#;
        assert_eq!(shown("batch.SuccessPolicy", &policy), text);
    }

    #[test]
    fn a_change_is_a_unified_diff() {
        let claim = |size| json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}});
        let text = difference("core.PersistentVolumeClaimSpec", &claim("1Gi"), &claim("2Gi"));
        let expected = "@@ -6,7 +6,7 @@\n  \"Resources\": {\n   \"Limits\": null,\n   \"Requests\": {\n-   \"storage\": \"1Gi\"\n\
                        +   \"storage\": \"2Gi\"\n   }\n  },\n  \"VolumeName\": \"\",\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_html_minds_is_escaped_in_values_with_parts() {
        assert_eq!(plain(&json!({"a": "b > c"})), r#"{"a":"b \u003e c"}"#);
        assert_eq!(plain(&json!("b > c")), r#""b > c""#);
    }
}
