//! RFC 6902 and RFC 7386.
use super::Error;
use crate::go_json;
use json_patch::{PatchErrorKind, PatchOperation};
use serde_json::Value;

/// Upstream's bound on one JSON patch.
const MAX_OPERATIONS: usize = 10_000;

/// RFC 6902. A missing path or failed test is upstream's text for it.
pub fn json_patch(live: &Value, patch: &[u8]) -> Result<Value, Error> {
    let malformed = |why: String| Error::Malformed(format!("error decoding patch: {why}"));
    let tree: Value = serde_json::from_slice(patch)
        .map_err(|e| malformed(go_json::syntax_error(patch).unwrap_or_else(|| e.to_string())))?;
    if !tree.is_array() {
        let kind = go_json::kind_name(&tree);
        return Err(malformed(format!("json: cannot unmarshal {kind} into Go value of type []handlers.jsonPatchOp")));
    }
    // An operation that is none is found when it is to be applied.
    let operations: Vec<PatchOperation> =
        serde_json::from_value(tree).map_err(|e| Error::Unprocessable(format!("error decoding patch: {e}")))?;
    if operations.len() > MAX_OPERATIONS {
        return Err(Error::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut out = live.clone();
    for operation in operations {
        // One at a time, so that an error can look at the document as the operation found it.
        let one = std::slice::from_ref(&operation);
        json_patch::patch(&mut out, one).map_err(|e| Error::Unprocessable(describe(&operation, &e.kind, &out)))?;
    }
    Ok(out)
}

/// RFC 7386.
pub fn merge_patch(live: &Value, patch: &Value) -> Value {
    let mut out = live.clone();
    json_patch::merge(&mut out, patch);
    out
}

fn describe(operation: &PatchOperation, error: &PatchErrorKind, document: &Value) -> String {
    let path = operation.path().as_str();
    match (operation, error) {
        (PatchOperation::Test(_), PatchErrorKind::TestFailed) => format!("testing value {path} failed: test failed"),
        (PatchOperation::Test(_), _) if parent(document, path).is_some() => {
            format!("testing value {path} failed: test failed")
        }
        (PatchOperation::Test(_), _) => {
            format!("test operation does not apply: is missing path: {path}: missing value")
        }
        (PatchOperation::Replace(_), _) if parent(document, path).is_some() => {
            format!("replace operation does not apply: doc is missing key: {path}: missing value")
        }
        (PatchOperation::Replace(_), _) => {
            format!("replace operation does not apply: doc is missing path: {path}: missing value")
        }
        (PatchOperation::Remove(_), _) => remove(document, path),
        (PatchOperation::Add(_), _) => match parent(document, path) {
            Some(Value::Array(_)) => {
                format!(
                    "error in add for path: '{path}': Unable to access invalid index: {}: invalid index referenced",
                    last(path)
                )
            }
            _ => format!("add operation does not apply: doc is missing path: \"{path}\": missing value"),
        },
        (PatchOperation::Move(m), PatchErrorKind::InvalidFromPointer) => {
            format!("move operation does not apply: doc is missing from path: {}: missing value", m.from)
        }
        (PatchOperation::Copy(c), PatchErrorKind::InvalidFromPointer) => {
            format!("copy operation does not apply: doc is missing from path: {}: missing value", c.from)
        }
        (PatchOperation::Move(_), PatchErrorKind::CannotMoveInsideItself) => {
            format!("error in move for path: '{path}': {error}")
        }
        (PatchOperation::Move(_), _) => {
            format!("move operation does not apply: doc is missing destination path: {path}: missing value")
        }
        (PatchOperation::Copy(_), _) => {
            format!("copy operation does not apply: doc is missing destination path: {path}: missing value")
        }
    }
}

fn remove(document: &Value, path: &str) -> String {
    let key = last(path);
    match parent(document, path) {
        Some(Value::Array(_)) => {
            format!(
                "error in remove for path: '{path}': Unable to access invalid index: {key}: invalid index referenced"
            )
        }
        Some(_) => {
            format!("error in remove for path: '{path}': Unable to remove nonexistent key: {key}: missing value")
        }
        None => format!("remove operation does not apply: doc is missing path: \"{path}\": missing value"),
    }
}

/// What holds the value at `path`, if there is an object or array there.
fn parent<'a>(document: &'a Value, path: &str) -> Option<&'a Value> {
    let parent = document.pointer(path.rsplit_once('/').map_or("", |(parent, _)| parent))?;
    (parent.is_object() || parent.is_array()).then_some(parent)
}

fn last(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(patch: Value) -> Result<Value, Error> {
        json_patch(&json!({"a": {"b": 1}, "l": [1, 2]}), patch.to_string().as_bytes())
    }

    #[test]
    fn operations() {
        let patch = json!([
            {"op": "test", "path": "/a/b", "value": 1}, {"op": "replace", "path": "/a/b", "value": 2},
            {"op": "add", "path": "/l/-", "value": 3}, {"op": "remove", "path": "/l/0"},
            {"op": "copy", "from": "/a", "path": "/c"}, {"op": "move", "from": "/a/b", "path": "/m"}]);
        assert_eq!(patched(patch), Ok(json!({"a": {}, "c": {"b": 2}, "m": 2, "l": [2, 3]})));
    }

    #[test]
    fn errors_as_upstream() {
        let text = |patch: Value| patched(json!([patch])).unwrap_err().to_string();
        assert_eq!(text(json!({"op": "test", "path": "/a/b", "value": 2})), "testing value /a/b failed: test failed");
        assert_eq!(
            text(json!({"op": "remove", "path": "/a/x"})),
            "error in remove for path: '/a/x': Unable to remove nonexistent key: x: missing value"
        );
        assert_eq!(
            text(json!({"op": "replace", "path": "/x/y", "value": 1})),
            "replace operation does not apply: doc is missing path: /x/y: missing value"
        );
        assert_eq!(
            text(json!({"op": "replace", "path": "/a/y", "value": 1})),
            "replace operation does not apply: doc is missing key: /a/y: missing value"
        );
        assert_eq!(
            text(json!({"op": "add", "path": "/x/y", "value": 1})),
            "add operation does not apply: doc is missing path: \"/x/y\": missing value"
        );
        assert!(matches!(patched(json!({})), Err(Error::Malformed(_))));
        let many = Value::Array(vec![json!({"op": "test", "path": "/a/b", "value": 1}); MAX_OPERATIONS + 1]);
        assert!(matches!(patched(many), Err(Error::TooLarge(_))));
    }

    #[test]
    fn merging() {
        let live = json!({"a": {"b": 1, "c": 2}, "l": [1]});
        assert_eq!(merge_patch(&live, &json!({"a": {"b": null}, "l": [2]})), json!({"a": {"c": 2}, "l": [2]}));
    }
}
