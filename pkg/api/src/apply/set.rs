//! Sets of fields in the form of `fieldsV1`: a tree whose keys are path elements (`f:` a field, `k:` the keys of
//! a list element, `v:` a set's value, `i:` an index). An element is a member when it is empty or holds `.`.
use serde_json::{Map, Value};

type Node = Map<String, Value>;

/// Marks an inner node as a member itself.
const SELF: &str = ".";

/// What no manager ever owns: the server sets it.
const SERVER_FIELDS: [&str; 10] = [
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
    SELF,
];

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Set(Node);

impl Set {
    /// Reads `fieldsV1`; what is no tree of objects is dropped.
    pub fn from_json(fields: Value) -> Self {
        match fields {
            Value::Object(mut root) => {
                root.remove(SELF);
                root.retain(|_, child| normalise(child));
                Self(canonical_keys(root))
            }
            _ => Self::default(),
        }
    }

    pub fn into_json(self) -> Value {
        Value::Object(self.0)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn insert(&mut self, path: &[String]) {
        let [parents @ .., last] = path else { return };
        let mut node = &mut self.0;
        for element in parents {
            let fresh = !node.contains_key(element);
            let child = node.entry(element.clone()).or_insert_with(|| Value::Object(Node::new()));
            let Value::Object(child) = child else { return };
            if !fresh && child.is_empty() {
                child.insert(SELF.into(), Value::Object(Node::new()));
            }
            node = child;
        }
        match node.get_mut(last) {
            None => {
                node.insert(last.clone(), Value::Object(Node::new()));
            }
            Some(Value::Object(child)) => mark(child, true),
            Some(_) => {}
        }
    }

    pub fn union(&mut self, other: &Self) {
        union_children(&mut self.0, &other.0);
    }

    pub fn subtract(&mut self, other: &Self) {
        subtract_children(&mut self.0, &other.0);
    }

    pub fn intersection(&self, other: &Self) -> Self {
        Self(intersect_children(&self.0, &other.0))
    }

    /// Upstream's text of every member, `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        collect(&self.0, &mut String::new(), &mut paths);
        paths
    }

    /// Does the set hold this path's text? For the few paths of a conflict.
    pub fn has_text(&self, path: &str) -> bool {
        self.paths().iter().any(|p| p == path)
    }

    pub fn root(&self) -> &Node {
        &self.0
    }

    pub fn root_mut(&mut self) -> &mut Node {
        &mut self.0
    }

    pub fn strip_server_fields(&mut self) {
        for key in ["f:apiVersion", "f:kind"] {
            self.0.remove(key);
        }
        let Some(Value::Object(metadata)) = self.0.get_mut("f:metadata") else { return };
        for key in SERVER_FIELDS {
            metadata.remove(format!("f:{key}").as_str());
        }
        metadata.remove(SELF);
        if metadata.is_empty() {
            self.0.remove("f:metadata");
        }
    }
}

/// The subtree below an element and whether the element itself is a member.
pub(super) fn look<'n>(node: &'n Node, element: &str) -> Option<(&'n Node, bool)> {
    let child = node.get(element)?.as_object()?;
    Some((child, is_member(child)))
}

pub(super) fn is_member(node: &Node) -> bool {
    node.is_empty() || node.contains_key(SELF)
}

/// Makes a node a member or not; it must be one if it has no children.
pub(super) fn mark(node: &mut Node, member: bool) {
    node.remove(SELF);
    if member && !node.is_empty() {
        node.insert(SELF.into(), Value::Object(Node::new()));
    }
}

/// Is there a member below this node?
pub(super) fn has_children(node: &Node) -> bool {
    node.len() > usize::from(node.contains_key(SELF))
}

fn normalise(child: &mut Value) -> bool {
    let Value::Object(node) = child else { return false };
    node.retain(|key, child| key == SELF || normalise(child));
    if node.keys().any(|key| needs_canonical(key)) {
        *node = canonical_keys(std::mem::take(node));
    }
    true
}

/// Other writers escape or space the JSON within `k:` and `v:` differently; ours is serde_json's.
fn needs_canonical(key: &str) -> bool {
    (key.starts_with("k:") || key.starts_with("v:")) && key.contains(['\\', ' '])
}

fn canonical_keys(node: Node) -> Node {
    node.into_iter().map(|(key, child)| (canonical_key(key), child)).collect()
}

fn canonical_key(key: String) -> String {
    if !needs_canonical(&key) {
        return key;
    }
    match serde_json::from_str::<Value>(&key[2..]) {
        Ok(value) => format!("{}{value}", &key[..2]),
        Err(_) => key,
    }
}

fn union_children(a: &mut Node, b: &Node) {
    for (key, theirs) in b.iter().filter(|(key, _)| *key != SELF) {
        let Some(theirs) = theirs.as_object() else { continue };
        match a.get_mut(key) {
            Some(Value::Object(ours)) => {
                let member = is_member(ours) || is_member(theirs);
                union_children(ours, theirs);
                mark(ours, member);
            }
            _ => {
                a.insert(key.clone(), Value::Object(theirs.clone()));
            }
        }
    }
}

fn subtract_children(a: &mut Node, b: &Node) {
    for (key, theirs) in b.iter().filter(|(key, _)| *key != SELF) {
        let (Some(Value::Object(ours)), Some(theirs)) = (a.get_mut(key), theirs.as_object()) else { continue };
        let member = is_member(ours) && !is_member(theirs);
        subtract_children(ours, theirs);
        mark(ours, member);
        if !member && ours.is_empty() {
            a.remove(key);
        }
    }
}

fn intersect_children(a: &Node, b: &Node) -> Node {
    let mut out = Node::new();
    for (key, theirs) in b.iter().filter(|(key, _)| *key != SELF) {
        let (Some(ours), Some(theirs)) = (a.get(key).and_then(Value::as_object), theirs.as_object()) else { continue };
        let member = is_member(ours) && is_member(theirs);
        let mut shared = intersect_children(ours, theirs);
        if member || !shared.is_empty() {
            mark(&mut shared, member);
            out.insert(key.clone(), Value::Object(shared));
        }
    }
    out
}

/// Members of a node first, then what is below: upstream's order.
fn collect(node: &Node, path: &mut String, paths: &mut Vec<String>) {
    let children =
        || node.iter().filter(|(key, _)| *key != SELF).filter_map(|(key, child)| Some((key, child.as_object()?)));
    for (key, _) in children().filter(|(_, child)| is_member(child)) {
        paths.push(format!("{path}{}", element_text(key)));
    }
    for (key, child) in children() {
        let len = path.len();
        path.push_str(&element_text(key));
        collect(child, path, paths);
        path.truncate(len);
    }
}

fn element_text(element: &str) -> String {
    let (kind, rest) = element.split_at(element.len().min(2));
    match kind {
        "k:" => match serde_json::from_str::<Node>(rest) {
            Ok(keys) => {
                let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                format!("[{}]", keys.join(","))
            }
            Err(_) => format!("[{rest}]"),
        },
        "v:" => format!("[={rest}]"),
        "i:" => format!("[{rest}]"),
        _ => format!(".{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(value: Value) -> Set {
        Set::from_json(value)
    }

    fn path(elements: &[&str]) -> Vec<String> {
        elements.iter().map(|e| (*e).to_owned()).collect()
    }

    #[test]
    fn inserting() {
        let mut s = Set::default();
        s.insert(&path(&["f:a", "f:b"]));
        assert_eq!(s, set(json!({"f:a": {"f:b": {}}})));
        s.insert(&path(&["f:a"]));
        assert_eq!(s, set(json!({"f:a": {".": {}, "f:b": {}}})));
        s.insert(&path(&["f:a", "f:b", "f:c"]));
        assert_eq!(s, set(json!({"f:a": {".": {}, "f:b": {".": {}, "f:c": {}}}})));
        s.insert(&[]);
        assert_eq!(s.paths(), [".a", ".a.b", ".a.b.c"]);
    }

    #[test]
    fn algebra() {
        let a = || set(json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}, "f:d": {}}));
        let b = || set(json!({"f:a": {"f:b": {}}, "f:d": {"f:e": {}}}));
        let mut difference = a();
        difference.subtract(&b());
        assert_eq!(difference, set(json!({"f:a": {".": {}, "f:c": {}}, "f:d": {}})));
        difference.subtract(&set(json!({"f:a": {".": {}, "f:c": {}}})));
        assert_eq!(difference, set(json!({"f:d": {}})));
        let mut union = a();
        union.union(&b());
        assert_eq!(union, set(json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}, "f:d": {".": {}, "f:e": {}}})));
        assert_eq!(a().intersection(&b()), set(json!({"f:a": {"f:b": {}}})));
        assert!(b().intersection(&set(json!({"f:a": {}}))).is_empty());
    }

    #[test]
    fn texts() {
        let s = set(json!({"f:l": {"k:{\"name\":\"a\",\"port\":80}": {"f:x": {}}, "v:\"s\"": {}, "i:3": {}}}));
        assert_eq!(s.paths(), [".l[3]", ".l[=\"s\"]", ".l[name=\"a\",port=80].x"]);
        let spaced = set(json!({"f:l": {"k:{\"name\": \"\\u003ca\"}": {}}}));
        assert_eq!(spaced, set(json!({"f:l": {"k:{\"name\":\"<a\"}": {}}})));
    }

    #[test]
    fn server_fields_are_nobodys() {
        let mut s = set(json!({"f:apiVersion": {}, "f:kind": {}, "f:metadata": {".": {}, "f:name": {}, "f:uid": {}}}));
        s.strip_server_fields();
        assert!(s.is_empty());
    }
}
