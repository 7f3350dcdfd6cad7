//! Conversion of custom resources by their definition's webhook
//! (`k8s.io/apiextensions-apiserver/pkg/apiserver/conversion/webhook_converter.go`).
//!
//! `pending -> review -> POST -> answer -> merge`: all but the POST is pure. Only labels and annotations of an
//! object's metadata are the webhook's to change.
use crate::endpoints::Reach;
use crate::webhook::{Client, Place};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a webhook may take (client-go's default for webhooks).
const TIMEOUT: Duration = Duration::from_secs(30);
/// Objects in one review; a longer list takes several.
const BATCH_OBJECTS: usize = 500;
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];

/// Asks one definition's webhook. The errors it keeps are those of a configuration that can't be used.
#[derive(Debug)]
pub struct Converter {
    review_version: Result<&'static str, String>,
    client: Result<Client, String>,
}

impl Converter {
    /// Reads `spec.conversion`; none for other strategies than `Webhook`.
    pub fn parse(conversion: &Value) -> Option<Self> {
        if conversion["strategy"] != "Webhook" {
            return None;
        }
        let webhook = &conversion["webhook"];
        let given = webhook["conversionReviewVersions"].as_array().into_iter().flatten();
        let known = |given: &Value| REVIEW_VERSIONS.iter().find(|known| *given == **known).copied();
        let review_version = given.filter_map(known).next().ok_or("no supported conversion review versions".to_owned());
        let config = &webhook["clientConfig"];
        let ca_bundle = config["caBundle"].as_str().unwrap_or_default();
        let client = Place::parse(config).and_then(|place| Client::new(place, ca_bundle));
        Some(Self { review_version, client })
    }

    /// `objects` in the version `wanted` (`example.com/v2`). Those that are in it already stay as they are.
    ///
    /// # Errors
    /// What went wrong, in upstream's words.
    pub async fn convert(&self, reach: &Reach, mut objects: Vec<Value>, wanted: &str) -> Result<Vec<Value>, String> {
        for batch in pending(&objects, wanted).chunks(BATCH_OBJECTS) {
            let originals: Vec<&Value> = batch.iter().map(|&at| &objects[at]).collect();
            let subject = format!("conversion webhook for {}", kind_of(originals[0]));
            let failed = |why: String| format!("{subject} failed: {why}");
            let version = self.review_version.as_ref().map_err(Clone::clone)?;
            let client = self.client.as_ref().map_err(|why| failed(why.clone()))?;
            let uid = uuid::Uuid::new_v4().to_string();
            let body = serde_json::to_vec(&review(version, &uid, &originals, wanted)).expect("a tree is JSON");
            let said = client.post(reach, body.into(), TIMEOUT).await.map_err(|error| failed(error.to_string()))?;
            let converted = answer(said, &uid, version).map_err(failed)?;
            let converted = merge_all(&subject, &originals, converted, wanted)?;
            for (&at, new) in batch.iter().zip(converted) {
                objects[at] = new;
            }
        }
        Ok(objects)
    }
}

/// The places of the objects that are not in the wanted version.
fn pending(objects: &[Value], wanted: &str) -> Vec<usize> {
    let other = |(_, object): &(usize, &Value)| object["apiVersion"] != wanted;
    objects.iter().enumerate().filter(other).map(|(at, _)| at).collect()
}

/// `example.com/v1, Kind=Thing`, as Go prints it.
fn kind_of(object: &Value) -> String {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    format!("{}, Kind={}", text("apiVersion"), text("kind"))
}

fn review(version: &str, uid: &str, objects: &[&Value], wanted: &str) -> Value {
    json!({
        "kind": "ConversionReview",
        "apiVersion": format!("apiextensions.k8s.io/{version}"),
        "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects},
    })
}

/// The converted objects of a review's answer.
fn answer(mut said: Value, uid: &str, version: &str) -> Result<Vec<Value>, String> {
    let expected = format!("apiextensions.k8s.io/{version}, Kind=ConversionReview");
    if version == "v1" && kind_of(&said) != expected {
        return Err(format!("expected webhook response of {expected}, got {}", kind_of(&said)));
    }
    let response = &mut said["response"];
    if !response.is_object() {
        return Err("no response provided".into());
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let given = text(&response["uid"]);
    if version == "v1" && given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    let (status, message) = (text(&response["result"]["status"]), text(&response["result"]["message"]));
    match status.as_str() {
        "Success" => Ok(response["convertedObjects"].as_array_mut().map(std::mem::take).unwrap_or_default()),
        _ if !message.is_empty() => Err(message),
        other => Err(format!("response.result.status was '{other}', not 'Success'")),
    }
}

fn merge_all(subject: &str, originals: &[&Value], converted: Vec<Value>, wanted: &str) -> Result<Vec<Value>, String> {
    if converted.len() != originals.len() {
        return Err(format!("{subject} returned {} objects, expected {}", converted.len(), originals.len()));
    }
    let merge = |(at, (original, new)): (usize, (&&Value, Value))| {
        merge(original, new, wanted).map_err(|why| match why {
            Invalid::Object(why) => format!("{subject} returned invalid converted object at index {at}: {why}"),
            Invalid::Metadata(why) => format!("{subject} returned invalid metadata in object at index {at}: {why}"),
        })
    };
    originals.iter().zip(converted).enumerate().map(merge).collect()
}

/// What is wrong with a converted object.
#[derive(Debug, PartialEq)]
enum Invalid {
    Object(String),
    Metadata(String),
}

/// The converted object with the metadata that is not the webhook's to change.
fn merge(original: &Value, mut new: Value, wanted: &str) -> Result<Value, Invalid> {
    let text = |object: &Value, field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let invalid = |what: &str, expected: &str, received: &str| {
        Err(Invalid::Object(format!("invalid {what} (expected {expected}, received {received})")))
    };
    let (version, kind) = (text(&new, "apiVersion"), text(&new, "kind"));
    if version != wanted {
        return invalid("groupVersion", wanted, &version);
    }
    if kind != text(original, "kind") {
        return invalid("kind", &text(original, "kind"), &kind);
    }
    for (field, name) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (expected, given) = (text(&original["metadata"], field), text(&new["metadata"], field));
        if expected != given {
            return Err(Invalid::Object(format!("must have the same {name}: {expected} != {given}")));
        }
    }
    let metadata = metadata(original, &new).map_err(Invalid::Metadata)?;
    new["metadata"] = metadata;
    Ok(new)
}

/// The original's metadata with the converted object's labels and annotations.
fn metadata(original: &Value, new: &Value) -> Result<Value, String> {
    let given = match new.get("metadata") {
        None => return Err("missing metadata in converted object".into()),
        Some(given) if !given.is_object() => return Err("invalid metadata in converted object".into()),
        Some(given) => given,
    };
    let mut all = original["metadata"].as_object().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        let Some(map) = given.get(field).filter(|map| !map.is_null()) else {
            all.remove(field);
            continue;
        };
        let fields = map.as_object().ok_or_else(|| format!("invalid metadata.{field} in converted object"))?;
        if let Some((key, _)) = fields.iter().find(|(_, value)| !value.is_string()) {
            return Err(format!("metadata.{field}[{key}] must be a string in converted object"));
        }
        if all.get(field) != Some(map) {
            check(field, map)?;
        }
        all.insert(field.into(), map.clone());
    }
    Ok(all.into())
}

fn check(field: &str, map: &Value) -> Result<(), String> {
    match api::validate::validate_labels(&json!({field: map})).as_slice() {
        [] => Ok(()),
        [one] => Err(one.to_string()),
        many => Err(format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(version: &str) -> Value {
        json!({
            "apiVersion": format!("example.com/{version}"), "kind": "Thing",
            "metadata": {"name": "a", "namespace": "n", "uid": "u", "labels": {"x": "y"}, "finalizers": ["a.b/c"]},
        })
    }

    #[test]
    fn what_is_in_the_wanted_version_is_not_asked_for() {
        assert_eq!(pending(&[object("v1"), object("v2"), object("v1")], "example.com/v2"), [0, 2]);
    }

    #[test]
    fn an_answer_is_for_its_question() {
        let said = |change: Value| {
            let base = json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
                "response": {"uid": "1", "result": {"status": "Success"}, "convertedObjects": [{"a": 1}]},
            });
            answer(api::patch::merge_patch(&base, &change), "1", "v1")
        };
        assert_eq!(said(json!({})), Ok(vec![json!({"a": 1})]));
        let wrong = |change: Value| said(change).unwrap_err();
        assert_eq!(wrong(json!({"response": {"uid": "2"}})), "expected response.uid=\"1\", got \"2\"");
        assert_eq!(wrong(json!({"response": null})), "no response provided");
        assert_eq!(wrong(json!({"response": {"result": {"status": "Failed", "message": "no"}}})), "no");
        assert_eq!(
            wrong(json!({"response": {"result": {"status": null}}})),
            "response.result.status was '', not 'Success'"
        );
        assert_eq!(
            wrong(json!({"kind": "Other"})),
            "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got apiextensions.k8s.io/v1, \
             Kind=Other"
        );
    }

    #[test]
    fn only_labels_and_annotations_are_the_webhooks() {
        let change =
            |change: Value| merge(&object("v1"), api::patch::merge_patch(&object("v2"), &change), "example.com/v2");
        let new =
            change(json!({"host": "h", "metadata": {"finalizers": null, "labels": {"x": null, "z": "1"}}})).unwrap();
        assert_eq!(new["metadata"]["finalizers"], json!(["a.b/c"]));
        assert_eq!((&new["metadata"]["labels"], &new["host"]), (&json!({"z": "1"}), &json!("h")));
        assert_eq!(change(json!({"metadata": {"labels": null}})).unwrap()["metadata"].get("labels"), None);
        let wrong = |change_of: Value| match change(change_of).unwrap_err() {
            Invalid::Object(why) | Invalid::Metadata(why) => why,
        };
        assert_eq!(wrong(json!({"metadata": {"uid": "v"}})), "must have the same UID: u != v");
        assert_eq!(
            wrong(json!({"apiVersion": "example.com/v3"})),
            "invalid groupVersion (expected example.com/v2, received example.com/v3)"
        );
        assert!(wrong(json!({"metadata": {"labels": {"x": "?"}}})).starts_with("metadata.labels: Invalid value"));
    }

    #[test]
    fn each_object_is_merged_with_its_own() {
        let (first, second) = (object("v1"), object("v1"));
        let subject = "conversion webhook for example.com/v1, Kind=Thing";
        let short = merge_all(subject, &[&first, &second], vec![object("v2")], "example.com/v2");
        assert_eq!(
            short.unwrap_err(),
            "conversion webhook for example.com/v1, Kind=Thing returned 1 objects, expected 2"
        );
        let mut bad = object("v2");
        bad["kind"] = "Other".into();
        let wrong = merge_all(subject, &[&first, &second], vec![object("v2"), bad], "example.com/v2").unwrap_err();
        assert!(
            wrong.ends_with("converted object at index 1: invalid kind (expected Thing, received Other)"),
            "{wrong}"
        );
    }
}
