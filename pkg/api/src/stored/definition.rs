//! CustomResourceDefinitions, which upstream stores as `v1beta1`: what all versions of a resource share stands beside them
//! there, and in each of them in `v1` (`k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1/conversion.go`).
use serde_json::{Map, Value, json};

/// How such an object in JSON begins, as upstream's encoder writes it.
pub const OLD: &[u8] = br#"{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1beta1""#;
const VERSIONS: [&str; 2] = ["apiextensions.k8s.io/v1beta1", "apiextensions.k8s.io/v1"];

/// A definition in the version that is stored here; any other object as it is.
pub fn current(mut object: Value) -> Value {
    let [old, new] = VERSIONS;
    if object["kind"] == "CustomResourceDefinition" && object["apiVersion"] == old {
        object["apiVersion"] = new.into();
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
            convert(spec);
        }
    }
    object
}

fn convert(spec: &mut Map<String, Value>) {
    let name = spec.remove("version").unwrap_or_default();
    let versions = spec.entry("versions").or_insert_with(|| json!([]));
    if versions.as_array().is_none_or(Vec::is_empty) {
        *versions = json!([{"name": name, "served": true, "storage": true}]);
    }
    for (shared, own) in [
        ("subresources", "subresources"),
        ("validation", "schema"),
        ("additionalPrinterColumns", "additionalPrinterColumns"),
        ("selectableFields", "selectableFields"),
    ] {
        let Some(value) = spec.remove(shared) else { continue };
        for version in spec["versions"].as_array_mut().into_iter().flatten() {
            version[own] = value.clone();
        }
    }
    spec["versions"].as_array_mut().into_iter().flatten().for_each(columns);
    // Nobody said: the older version's default.
    if spec.get("preserveUnknownFields").is_none_or(Value::is_null) {
        spec.insert("preserveUnknownFields".into(), true.into());
    }
    if spec["preserveUnknownFields"] == false {
        spec.remove("preserveUnknownFields");
    }
    if let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut) {
        webhook(conversion);
    }
}

/// The path of a column had a name of its own.
fn columns(version: &mut Value) {
    for column in version["additionalPrinterColumns"].as_array_mut().into_iter().flatten() {
        if let Some(path) = column.as_object_mut().and_then(|column| column.remove("JSONPath")) {
            column["jsonPath"] = path;
        }
    }
    // Indexing has made it where it was missing.
    if let Some(version) = version.as_object_mut()
        && version.get("additionalPrinterColumns").is_some_and(Value::is_null)
    {
        version.remove("additionalPrinterColumns");
    }
}

fn webhook(conversion: &mut Map<String, Value>) {
    let (client, reviews) = (conversion.remove("webhookClientConfig"), conversion.remove("conversionReviewVersions"));
    let mut webhook = Map::new();
    webhook.extend(client.map(|client| ("clientConfig".to_owned(), client)));
    webhook.extend(reviews.map(|reviews| ("conversionReviewVersions".to_owned(), reviews)));
    if !webhook.is_empty() {
        conversion.insert("webhook".into(), webhook.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(spec: Value) -> Value {
        let old = json!({"apiVersion": VERSIONS[0], "kind": "CustomResourceDefinition", "spec": spec});
        let mut new = current(old);
        assert_eq!(new["apiVersion"], VERSIONS[1]);
        new["spec"].take()
    }

    #[test]
    fn what_versions_share_stands_in_each() {
        let shared = json!({
            "version": "v1", "versions": [{"name": "v1", "served": true}, {"name": "v2", "storage": true}],
            "validation": {"openAPIV3Schema": {"type": "object"}},
            "subresources": {"status": {}},
            "additionalPrinterColumns": [{"name": "A", "JSONPath": ".a"}],
            "preserveUnknownFields": false,
        });
        let of = |name: &str, flag: &str| {
            json!({"name": name, flag: true, "schema": {"openAPIV3Schema": {"type": "object"}},
                "subresources": {"status": {}}, "additionalPrinterColumns": [{"name": "A", "jsonPath": ".a"}]})
        };
        assert_eq!(spec(shared), json!({"versions": [of("v1", "served"), of("v2", "storage")]}));
        let own =
            json!({"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {}}}], "preserveUnknownFields": false});
        assert_eq!(spec(own.clone()), json!({"versions": own["versions"]}));
    }

    #[test]
    fn the_oldest_have_one_version_and_keep_what_they_do_not_know() {
        let wanted =
            json!({"versions": [{"name": "v1", "served": true, "storage": true}], "preserveUnknownFields": true});
        assert_eq!(spec(json!({"version": "v1"})), wanted);
    }

    #[test]
    fn a_webhook_is_one_thing() {
        let old = json!({"strategy": "Webhook", "webhookClientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v1"]});
        let new = json!({"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v1"]}});
        assert_eq!(spec(json!({"versions": [{}], "conversion": old}))["conversion"], new);
        let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "spec": {"version": "v1"}});
        assert_eq!(current(other.clone()), other);
    }
}
