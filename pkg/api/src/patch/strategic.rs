//! Strategic merge patch: a merge patch that knows which lists are maps by key and which are sets, and carries
//! directives for what a merge can't say (`k8s.io/apimachinery/pkg/util/strategicpatch`).
use super::Error;
use crate::schema::{Schemas, Type};
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const ELEMENT_ORDER: &str = "$setElementOrder";

type Object = Map<String, Value>;

/// Kubernetes' strategic merge, with `$patch`, `$deleteFromPrimitiveList`, `$setElementOrder` and `$retainKeys`.
pub fn strategic_merge(live: &Value, patch: &Value, ty: &Type, schemas: &Schemas) -> Result<Value, Error> {
    let Value::Object(patch) = patch else {
        let kind = crate::go_json::kind_name(patch);
        let text = format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}");
        return Err(Error::Malformed(text));
    };
    let live = live.as_object().cloned().unwrap_or_default();
    Ok(Value::Object(Merge { schemas }.object(live, patch.clone(), ty)?))
}

struct Merge<'a> {
    schemas: &'a Schemas,
}

/// How a list merges.
struct ListMeta<'a> {
    item: &'a Type,
    /// `None`: replaced whole. Empty: a set of scalars.
    key: Option<&'a str>,
}

impl<'a> Merge<'a> {
    fn object(&self, mut live: Object, mut patch: Object, ty: &Type) -> Result<Object, Error> {
        if let Some(directive) = patch.remove(DIRECTIVE) {
            return match directive.as_str() {
                Some("replace") => Ok(patch),
                Some("delete") => Ok(Object::new()),
                _ => Err(unknown_directive(&directive, patch)),
            };
        }
        retain_keys(&mut live, &mut patch)?;
        self.ordered_lists(&mut live, &mut patch, ty)?;
        for (key, value) in patch {
            match key.strip_prefix(DELETE_FROM) {
                Some(key) => delete_from(&mut live, list_name(key, "primitive list")?, &value)?,
                None => self.field(&mut live, key, value, ty)?,
            }
        }
        Ok(live)
    }

    fn field(&self, live: &mut Object, key: String, patch: Value, ty: &Type) -> Result<(), Error> {
        if patch.is_null() {
            live.remove(&key);
            return Ok(());
        }
        let merged = match (live.get_mut(&key).map(Value::take), patch) {
            (Some(Value::Object(old)), Value::Object(patch)) => {
                Value::Object(self.object(old, patch, self.field_type(ty, &key))?)
            }
            (Some(Value::Array(old)), Value::Array(patch)) => {
                Value::Array(self.list(old, patch, &self.list_meta(ty, &key))?)
            }
            (_, patch) => match without_directives(patch) {
                Some(value) => value,
                None => {
                    live.remove(&key);
                    return Ok(());
                }
            },
        };
        live.insert(key, merged);
        Ok(())
    }

    fn field_type<'t>(&self, ty: &'t Type, key: &str) -> &'t Type
    where
        'a: 't,
    {
        match self.schemas.resolve(ty) {
            Type::Struct(s) => s.fields.get(key).map_or(&Type::Any, |field| &field.ty),
            Type::Map(value) | Type::AtomicMap(value) => value,
            _ => &Type::Any,
        }
    }

    fn list_meta<'t>(&self, ty: &'t Type, key: &str) -> ListMeta<'t>
    where
        'a: 't,
    {
        match self.schemas.resolve(self.field_type(ty, key)) {
            Type::List(list) => ListMeta { item: &list.item, key: list.patch_merge_key.as_deref() },
            _ => ListMeta { item: &Type::Any, key: None },
        }
    }

    /// The lists that come with `$setElementOrder`: merged here, then put into the order that was asked for.
    fn ordered_lists(&self, live: &mut Object, patch: &mut Object, ty: &Type) -> Result<(), Error> {
        let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(ELEMENT_ORDER)).cloned().collect();
        for directive in directives {
            let name = list_name(&directive[ELEMENT_ORDER.len()..], "setElementOrder list")?.to_owned();
            let Some(Value::Array(order)) = patch.remove(&directive) else {
                return Err(bad_format("setElementOrder list"));
            };
            let added = take_list(patch, &name)?;
            let old = take_list(live, &name)?;
            let meta = self.list_meta(ty, &name);
            if let Some(merged) = self.ordered_list(old, added, &order, &meta)? {
                live.insert(name, Value::Array(merged));
            }
        }
        Ok(())
    }

    fn ordered_list(
        &self,
        old: Option<Vec<Value>>,
        added: Option<Vec<Value>>,
        order: &[Value],
        meta: &ListMeta<'_>,
    ) -> Result<Option<Vec<Value>>, Error> {
        let key = meta.key.unwrap_or_default();
        check_order(added.as_deref().unwrap_or_default(), order, key)?;
        let server_order = old.clone().unwrap_or_default();
        let merged = match (old, added) {
            (None, None) => return Ok(None),
            (Some(old), None) => old,
            (None, Some(added)) => added.into_iter().filter_map(without_directives).collect(),
            (Some(old), Some(added)) => self.list(old, added, meta)?,
        };
        arrange(merged, order, &server_order, key).map(Some)
    }

    fn list(&self, old: Vec<Value>, patch: Vec<Value>, meta: &ListMeta<'_>) -> Result<Vec<Value>, Error> {
        let Some(key) = meta.key else { return Ok(patch) };
        match element_type(&old, &patch)? {
            None => Ok(old),
            Some("map") if key.is_empty() => Err(Error::Malformed("cannot merge lists without merge key".into())),
            Some("map") => self.list_of_maps(old, patch, key, meta.item),
            Some(_) => {
                let mut merged: Vec<Value> = Vec::with_capacity(old.len() + patch.len());
                for value in old.iter().chain(&patch) {
                    if !merged.contains(value) {
                        merged.push(value.clone());
                    }
                }
                arrange(merged, &patch, &old, "")
            }
        }
    }

    fn list_of_maps(&self, old: Vec<Value>, patch: Vec<Value>, key: &str, item: &Type) -> Result<Vec<Value>, Error> {
        let (mut merged, patch) = apply_element_directives(old, patch, key)?;
        let server_order = merged.clone();
        for element in &patch {
            let value = merge_key(element, key)?;
            match merged.iter_mut().find(|e| e.get(key) == Some(value)) {
                Some(Value::Object(found)) => {
                    let Value::Object(patch) = element.clone() else { continue };
                    *found = self.object(std::mem::take(found), patch, item)?;
                }
                // What is new brings its own content; directives that it may carry have nothing to act on.
                _ => merged.extend(without_directives(element.clone())),
            }
        }
        arrange(merged, &patch, &server_order, key)
    }
}

fn bad_format(what: &str) -> Error {
    Error::Malformed(format!("invalid patch format of {what}"))
}

fn unknown_directive(directive: &Value, mut patch: Object) -> Error {
    patch.insert(DIRECTIVE.into(), directive.clone());
    Error::Malformed(format!("unknown patch type: {} in map: {}", go_text(directive), go_text(&Value::Object(patch))))
}

/// The list's name in `$directive/name`.
fn list_name<'a>(rest: &'a str, what: &str) -> Result<&'a str, Error> {
    rest.strip_prefix('/').ok_or_else(|| bad_format(what))
}

fn take_list(object: &mut Object, name: &str) -> Result<Option<Vec<Value>>, Error> {
    match object.get(name) {
        None => Ok(None),
        Some(Value::Array(_)) => match object.remove(name) {
            Some(Value::Array(list)) => Ok(Some(list)),
            _ => Ok(None),
        },
        // A patch may null the list and still order it: the null is handled with the other fields.
        Some(Value::Null) => Ok(None),
        Some(_) => Err(bad_format("setElementOrder list")),
    }
}

/// Drops the live fields that `$retainKeys` does not list; what the patch sets must be listed.
fn retain_keys(live: &mut Object, patch: &mut Object) -> Result<(), Error> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let keys = directive.as_array().ok_or_else(|| bad_format("retainKeys"))?;
    let listed = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    let sets =
        |key: &str, value: &Value| !value.is_null() && !key.starts_with(DELETE_FROM) && !key.starts_with(ELEMENT_ORDER);
    if patch.iter().any(|(key, value)| sets(key, value) && !listed(key)) {
        return Err(bad_format("retainKeys"));
    }
    live.retain(|key, _| listed(key));
    Ok(())
}

fn delete_from(live: &mut Object, name: &str, gone: &Value) -> Result<(), Error> {
    let gone = gone.as_array().ok_or_else(|| bad_format("primitive list"))?;
    if let Some(Value::Array(list)) = live.get_mut(name) {
        list.retain(|value| !gone.contains(value));
    }
    Ok(())
}

/// Acts on the elements that carry `$patch`, and returns the live list and the patch without them.
fn apply_element_directives(
    mut live: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    for element in patch {
        match element.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
            None => plain.push(element),
            Some("replace") => replace = true,
            Some("delete") => {
                let gone = merge_key(&element, key)?;
                live.retain(|e| e.get(key) != Some(gone));
            }
            Some("merge") => {
                return Err(Error::Malformed("merging lists cannot yet be specified in the patch".into()));
            }
            Some(_) => {
                let directive = element[DIRECTIVE].clone();
                return Err(unknown_directive(&directive, element.as_object().cloned().unwrap_or_default()));
            }
        }
    }
    if replace { Ok((plain, Vec::new())) } else { Ok((live, plain)) }
}

fn merge_key<'v>(element: &'v Value, key: &str) -> Result<&'v Value, Error> {
    let missing = || format!("map: {} does not contain declared merge key: {key}", go_text(element));
    element.get(key).ok_or_else(|| Error::Failed(missing()))
}

/// The patch's elements must stand in the order that `$setElementOrder` gives, and be in it.
fn check_order(patch: &[Value], order: &[Value], key: &str) -> Result<(), Error> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut places = order.iter();
    for element in patch.iter().filter(|e| e.get(DIRECTIVE).is_none()) {
        if !key.is_empty() {
            merge_key(element, key)?;
        }
        if !places.any(|place| same(place, element, key)) {
            return Err(Error::Malformed(format!(
                "The order in patch list:\n{}\n doesn't match {ELEMENT_ORDER} list:\n{}\n",
                go_text(&Value::from(patch)),
                go_text(&Value::from(order))
            )));
        }
    }
    Ok(())
}

/// Are these the same element of a set, or of a map by `key`?
fn same(a: &Value, b: &Value, key: &str) -> bool {
    if key.is_empty() { a == b } else { matches!((a.get(key), b.get(key)), (Some(a), Some(b)) if a == b) }
}

fn position(order: &[Value], element: &Value, key: &str) -> Option<usize> {
    order.iter().position(|e| same(e, element, key))
}

/// Puts the elements named in `order` into that order, the others into the server's, and weaves the two: an
/// element of the server goes before one of the patch only where the live list had them so.
fn arrange(merged: Vec<Value>, order: &[Value], server_order: &[Value], key: &str) -> Result<Vec<Value>, Error> {
    if !key.is_empty() {
        for element in &merged {
            merge_key(element, key)?;
        }
    }
    let (mut ours, mut others): (Vec<_>, Vec<_>) =
        merged.into_iter().partition(|element| position(order, element, key).is_some());
    ours.sort_by_key(|element| position(order, element, key));
    others.sort_by_key(|element| position(server_order, element, key).unwrap_or(usize::MAX));

    let mut out = Vec::with_capacity(ours.len() + others.len());
    let mut others = others.into_iter().peekable();
    for element in ours {
        let here = position(server_order, &element, key);
        while let Some(other) = others.next_if(
            |other| matches!((position(server_order, other, key), here), (Some(other), Some(here)) if other < here),
        ) {
            out.push(other);
        }
        out.push(element);
    }
    out.extend(others);
    Ok(out)
}

/// The one type of all elements, absent for two empty lists.
fn element_type(old: &[Value], patch: &[Value]) -> Result<Option<&'static str>, Error> {
    let mut types = old.iter().chain(patch).map(go_type);
    let Some(first) = types.next() else { return Ok(None) };
    if first == "list" {
        return Err(Error::Unprocessable("lists of lists are not supported".into()));
    }
    if types.all(|ty| ty == first) {
        return Ok(Some(first));
    }
    let shown = format!("[{} {}]", go_text(&Value::from(old)), go_text(&Value::from(patch)));
    Err(Error::Malformed(format!("list element types are not identical: {shown}")))
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "map",
    }
}

/// A value as Go's `%v` prints it, which upstream's texts contain.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let fields: Vec<String> = fields.iter().map(|(k, v)| format!("{k}:{}", go_text(v))).collect();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

/// A patch value where there is nothing to merge with: nulls and directives vanish, as does an object that is
/// itself a directive.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(fields) if fields.contains_key(DIRECTIVE) => None,
        Value::Object(fields) => {
            let keep = fields.into_iter().filter(|(k, v)| !v.is_null() && !is_directive(k));
            Some(Value::Object(keep.filter_map(|(k, v)| Some((k, without_directives(v)?))).collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

fn is_directive(key: &str) -> bool {
    key == RETAIN_KEYS
        || [DELETE_FROM, ELEMENT_ORDER].iter().any(|d| key.strip_prefix(d).is_some_and(|rest| rest.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Field, List, ListKind, StringFormat, Struct};
    use serde_json::json;

    fn list(item: Type, key: Option<&str>) -> Type {
        Type::List(Box::new(List {
            item,
            kind: ListKind::Atomic,
            patch_merge_key: key.map(Into::into),
            retain_keys: false,
        }))
    }

    fn object<const N: usize>(fields: [(&str, Type); N]) -> Type {
        let field = Field::optional;
        let fields = fields.map(|(name, ty)| (name.into(), field(ty))).into();
        Type::Struct(Box::new(Struct { fields, ..Struct::default() }))
    }

    /// A pod in miniature.
    fn merge(live: Value, patch: Value) -> Result<Value, Error> {
        let text = || Type::String(StringFormat::Plain);
        let port = object([("containerPort", Type::Integer { bits: 32 }), ("name", text())]);
        let container = object([
            ("name", text()),
            ("image", text()),
            ("args", list(text(), None)),
            ("ports", list(port, Some("containerPort"))),
        ]);
        let ty = object([
            ("containers", list(container, Some("name"))),
            ("finalizers", list(text(), Some(""))),
            ("args", list(text(), None)),
            ("labels", Type::Map(Box::new(text()))),
            ("strategy", object([("type", text()), ("rollingUpdate", Type::Any)])),
        ]);
        strategic_merge(&live, &patch, &ty, &Schemas::default())
    }

    fn merged(live: Value, patch: Value) -> Value {
        merge(live, patch).unwrap()
    }

    #[test]
    fn maps_and_scalars() {
        let live = json!({"labels": {"a": "1", "b": "2"}, "args": ["x"], "n": 1});
        let patch = json!({"labels": {"a": "3", "b": null, "c": "4", "d": null}, "args": ["y"], "n": 2, "z": null});
        assert_eq!(merged(live, patch), json!({"labels": {"a": "3", "c": "4"}, "args": ["y"], "n": 2}));
    }

    #[test]
    fn directives_of_maps() {
        let live = || json!({"labels": {"a": "1"}});
        assert_eq!(merged(live(), json!({"labels": {"$patch": "replace", "b": "2"}})), json!({"labels": {"b": "2"}}));
        assert_eq!(merged(live(), json!({"labels": {"$patch": "delete"}})), json!({"labels": {}}));
        let error = merge(live(), json!({"labels": {"$patch": "merge", "b": "2"}})).unwrap_err();
        assert_eq!(error.to_string(), "unknown patch type: merge in map: map[$patch:merge b:2]");
    }

    #[test]
    fn lists_by_key() {
        let live =
            || json!({"containers": [{"name": "a", "image": "1", "ports": [{"containerPort": 80}]}, {"name": "b"}]});
        let patch =
            json!({"containers": [{"name": "c"}, {"name": "a", "image": "2", "ports": [{"containerPort": 81}]}]});
        assert_eq!(
            merged(live(), patch),
            json!({"containers": [
                {"name": "c"},
                {"name": "a", "image": "2", "ports": [{"containerPort": 81}, {"containerPort": 80}]},
                {"name": "b"}]})
        );
        let patch = json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "x", "$patch": "delete"}]});
        assert_eq!(merged(live(), patch), json!({"containers": [{"name": "b"}]}));
        let patch = json!({"containers": [{"$patch": "replace"}, {"name": "z"}]});
        assert_eq!(merged(live(), patch), json!({"containers": [{"name": "z"}]}));
        let error = merge(live(), json!({"containers": [{"image": "x"}]})).unwrap_err();
        assert_eq!(error.to_string(), "map: map[image:x] does not contain declared merge key: name");
    }

    #[test]
    fn sets_of_scalars() {
        let live = || json!({"finalizers": ["a", "b", "c"]});
        assert_eq!(merged(live(), json!({"finalizers": ["d", "b"]})), json!({"finalizers": ["d", "a", "b", "c"]}));
        assert_eq!(
            merged(live(), json!({"$deleteFromPrimitiveList/finalizers": ["b", "x"]})),
            json!({"finalizers": ["a", "c"]})
        );
        let patch = json!({"$setElementOrder/finalizers": ["c", "a"], "$deleteFromPrimitiveList/finalizers": ["b"]});
        assert_eq!(merged(live(), patch), json!({"finalizers": ["c", "a"]}));
    }

    #[test]
    fn element_order() {
        let live = || json!({"containers": [{"name": "a"}, {"name": "s"}, {"name": "b"}]});
        let patch = json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "n"}, {"name": "a"}],
            "containers": [{"name": "n", "image": "1"}, {"name": "a", "image": "2"}]});
        assert_eq!(
            merged(live(), patch),
            json!({"containers": [{"name": "s"}, {"name": "b"}, {"name": "n", "image": "1"}, {"name": "a", "image": "2"}]})
        );
        let wrong = json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "n"}]});
        assert!(merge(live(), wrong).unwrap_err().to_string().starts_with("The order in patch list:\n[map[name:n]]\n"));
        let bad = merge(live(), json!({"$setElementOrder/containers": "x"})).unwrap_err();
        assert_eq!(bad.to_string(), "invalid patch format of setElementOrder list");
        // Ordering alone, and of a list that is not there.
        let patch = json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "$setElementOrder/args": []});
        assert_eq!(merged(live(), patch), json!({"containers": [{"name": "s"}, {"name": "b"}, {"name": "a"}]}));
    }

    #[test]
    fn retained_keys() {
        let live = || json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}});
        let patch = json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}});
        assert_eq!(merged(live(), patch), json!({"strategy": {"type": "Recreate"}}));
        let error = merge(live(), json!({"strategy": {"$retainKeys": ["x"], "type": "Recreate"}})).unwrap_err();
        assert_eq!(error.to_string(), "invalid patch format of retainKeys");
    }

    #[test]
    fn what_is_new_loses_directives() {
        let patch = json!({"containers": [{"name": "a", "args": null, "$setElementOrder/ports": [], "$patch": "delete"},
            {"name": "b", "image": null, "$retainKeys": ["name"]}], "labels": {"$patch": "delete"}});
        assert_eq!(merged(json!({}), patch), json!({"containers": [{"name": "b"}]}));
    }

    #[test]
    fn mixed_lists() {
        let error = merge(json!({"finalizers": ["a"]}), json!({"finalizers": [1]})).unwrap_err();
        assert_eq!(error.to_string(), "list element types are not identical: [[a] [1]]");
        let error = merge(json!({"finalizers": [["a"]]}), json!({"finalizers": [["b"]]})).unwrap_err();
        assert_eq!(error, Error::Unprocessable("lists of lists are not supported".into()));
    }
}
