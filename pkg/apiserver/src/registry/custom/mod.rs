//! Custom resources: from a CustomResourceDefinition to the descriptors by which the engine serves it.

pub mod conversion;
pub mod defaults;
pub mod names;
pub mod schema;
mod types;
pub mod validate;

use super::builtin::ALL_VERBS;
use super::{Conversion, Custom, Resource, Scale, Strategy, Subresource};
use api::schema::{Definition, Schemas};
use api::{GroupVersion, GroupVersionKind, GroupVersionResource};
use conversion::Converter;
use serde_json::Value;
use std::sync::Arc;

const UPDATABLE: &[&str] = &["get", "patch", "update"];

/// A resource for each served version of a definition that was stored at a revision.
pub fn resources(definition: &Value, revision: store::Revision) -> Vec<Resource> {
    let spec = &definition["spec"];
    let versions = || spec["versions"].as_array().into_iter().flatten();
    let storage = versions().find(|v| v["storage"] == true).map_or("", |v| text(&v["name"]));
    let several =
        versions().count() > 1 || definition["status"]["storedVersions"].as_array().is_some_and(|s| s.len() > 1);
    let changed = definition["metadata"]["generation"].as_i64().is_some_and(|generation| generation > 1);
    let versions_of = Versions {
        storage,
        several,
        converter: Converter::parse(&spec["conversion"]).map(Arc::new),
        reshaped: if changed { revision } else { store::Revision::ZERO },
    };
    versions().filter(|v| v["served"] == true).map(|v| resource(spec, v, &versions_of)).collect()
}

/// What the versions of a definition share.
struct Versions<'a> {
    storage: &'a str,
    several: bool,
    converter: Option<Arc<Converter>>,
    reshaped: store::Revision,
}

impl Versions<'_> {
    fn conversion(&self) -> Conversion {
        match (self.several, &self.converter) {
            (false, _) => Conversion::Identity,
            (true, None) => Conversion::Rewrite,
            (true, Some(_)) => Conversion::Webhook,
        }
    }
}

fn resource(spec: &Value, version: &Value, versions: &Versions<'_>) -> Resource {
    let (group, name, names) = (text(&spec["group"]), text(&version["name"]), &spec["names"]);
    let (plural, kind) = (text(&names["plural"]), text(&names["kind"]));
    let or = |given: &Value, default: String| if text(given).is_empty() { default } else { text(given).into() };
    let gvk = GroupVersionKind::new(group, name, kind);
    let raw = &version["schema"]["openAPIV3Schema"];
    let fields = version["selectableFields"].as_array().into_iter().flatten();
    Resource {
        gvr: GroupVersionResource::new(group, name, plural),
        kind: kind.into(),
        list_kind: or(&names["listKind"], format!("{kind}List")),
        singular: or(&names["singular"], kind.to_lowercase()),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        verbs: ALL_VERBS.to_vec(),
        subresources: subresources(version, &gvk),
        selectable_fields: fields.map(|f| text(&f["jsonPath"]).trim_start_matches('.').into()).collect(),
        key_prefix: format!("/registry/{group}/{plural}"),
        schemas: Arc::new(schemas(&gvk, raw)),
        custom: Some(Arc::new(Custom {
            schema: Arc::new(raw.clone()),
            columns: version["additionalPrinterColumns"].as_array().cloned().unwrap_or_default(),
            scale: scale(&version["subresources"]["scale"]),
            patterns: validate::patterns(raw),
            rules: api::cel::rules::Rules::compile(raw),
            has_defaults: schema::has_defaults(raw),
            reshaped: versions.reshaped,
            deprecation: deprecation(spec, version),
            converter: versions.converter.clone().filter(|_| versions.several),
        })),
        strategy: Strategy::PLAIN,
        storage_version: GroupVersion::new(group, versions.storage),
        conversion: versions.conversion(),
    }
}

/// What users of a deprecated version are told (`defaultDeprecationWarning` where the definition says nothing).
fn deprecation(spec: &Value, version: &Value) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    if let Some(said) = version["deprecationWarning"].as_str() {
        return Some(said.into());
    }
    let (group, kind) = (text(&spec["group"]), text(&spec["names"]["kind"]));
    let rank = |version: &Value| crate::discovery::version_rank(text(&version["name"]));
    let better = |other: &&Value| other["served"] == true && other["deprecated"] != true && rank(other) > rank(version);
    let best = spec["versions"].as_array().into_iter().flatten().filter(better).max_by_key(|other| rank(other));
    let instead = best.map_or(String::new(), |best| format!("; use {group}/{} {kind}", text(&best["name"])));
    Some(format!("{group}/{} {kind} is deprecated{instead}", text(&version["name"])))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|v| text(v).into()).collect()
}

fn subresources(version: &Value, gvk: &GroupVersionKind) -> Vec<Subresource> {
    let given = &version["subresources"];
    let mut all = Vec::new();
    if given["scale"].is_object() {
        let kind = GroupVersionKind::new("autoscaling", "v1", "Scale");
        all.push(Subresource { name: "scale".into(), kind, verbs: UPDATABLE.to_vec() });
    }
    if given["status"].is_object() {
        all.push(Subresource { name: "status".into(), kind: gvk.clone(), verbs: UPDATABLE.to_vec() });
    }
    all
}

fn scale(given: &Value) -> Option<Scale> {
    let pointer = |path: &str| path.replace('.', "/");
    Some(Scale {
        spec_replicas: pointer(given["specReplicasPath"].as_str()?),
        status_replicas: pointer(given["statusReplicasPath"].as_str()?),
        label_selector: given["labelSelectorPath"].as_str().map(pointer),
    })
}

/// The root type with its metadata, and the built-in types that it leans on.
fn schemas(gvk: &GroupVersionKind, raw: &Value) -> Schemas {
    let name: Arc<str> = format!("{}/{}.{}", gvk.group, gvk.version, gvk.kind).into();
    let root = Definition { name, ty: types::root(raw), kinds: vec![gvk.clone()] };
    Schemas::new(types::metadata().into_iter().chain(std::iter::once(root)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn definition() -> Value {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "things.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced",
                "names": {"plural": "things", "kind": "Thing", "shortNames": ["th"]},
                "versions": [{
                    "name": "v1", "served": true, "storage": true,
                    "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
                    "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                        "spec": {"type": "object", "required": ["name"], "properties": {
                            "name": {"type": "string", "pattern": "^[a-z]+$"},
                            "size": {"type": "integer", "minimum": 1, "default": 2},
                            "mode": {"type": "string", "enum": ["a", "b"]},
                            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                                "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"x-kubernetes-int-or-string": true}}}},
                        }},
                        "status": {"type": "object", "properties": {"size": {"type": "integer"}}},
                    }}},
                }],
            },
        })
    }

    #[test]
    fn a_definition_becomes_a_resource() {
        let thing = &resources(&definition(), store::Revision::ZERO)[0];
        assert_eq!(thing.key("n", "x"), "/registry/example.com/things/n/x");
        assert_eq!((&*thing.singular, &*thing.list_kind), ("thing", "ThingList"));
        assert!(thing.has_status() && thing.subresource("scale").is_some());
        assert_eq!(thing.custom.as_ref().unwrap().scale.as_ref().unwrap().spec_replicas, "/spec/size");
    }

    #[test]
    fn a_deprecated_version_says_so_and_what_to_use() {
        let version = |name: &str, more: Value| {
            let mut version = json!({"name": name, "served": true, "schema": {"openAPIV3Schema": {"type": "object"}}});
            version.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            version
        };
        let mut definition = definition();
        definition["spec"]["versions"] = json!([
            version("v1", json!({"storage": true})),
            version("v2", json!({})),
            version("v3alpha1", json!({"deprecated": true})),
            version("v1beta1", json!({"deprecated": true, "deprecationWarning": "no more"})),
            version("v3", json!({"deprecated": true})),
        ]);
        let said: Vec<Option<String>> = resources(&definition, store::Revision::ZERO)
            .iter()
            .map(|resource| resource.custom.as_ref().unwrap().deprecation.clone())
            .collect();
        let said: Vec<Option<&str>> = said.iter().map(Option::as_deref).collect();
        let alpha = "example.com/v3alpha1 Thing is deprecated; use example.com/v2 Thing";
        assert_eq!(said, [None, None, Some(alpha), Some("no more"), Some("example.com/v3 Thing is deprecated")]);
    }

    #[test]
    fn what_was_wrong_before_does_not_stand_in_the_way() {
        let thing = &resources(&definition(), store::Revision::ZERO)[0];
        let object = |size: i64, mode: &str| {
            json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a", "namespace": "n"},
                "spec": {"name": "a", "size": size, "mode": mode}})
        };
        let count = |new: &Value, old: Option<&Value>| thing.validate("", new, old).len();
        assert_eq!(count(&object(0, "a"), None), 1);
        assert_eq!(count(&object(0, "b"), Some(&object(0, "a"))), 0);
        assert_eq!(count(&object(-1, "b"), Some(&object(0, "a"))), 1);
    }

    #[test]
    fn unknown_fields_go_where_the_schema_does_not_keep_them() {
        let thing = &resources(&definition(), store::Revision::ZERO)[0];
        let object = json!({
            "apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "x"},
            "spec": {"name": "n", "junk": 1, "free": {"any": {"thing": 1}}, "list": [{"k": "a", "v": 1, "w": 2}]},
        });
        let mode = api::decode::FieldValidation::Warn;
        let decoded = api::decode::check(object, thing.ty(), &thing.schemas, mode).unwrap();
        assert_eq!(
            decoded.value["spec"],
            json!({"name": "n", "free": {"any": {"thing": 1}}, "list": [{"k": "a", "v": 1}]})
        );
        assert_eq!(decoded.warnings, ["unknown field \"spec.junk\"", "unknown field \"spec.list[0].w\""]);
    }
}
