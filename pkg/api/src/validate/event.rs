//! Events of both groups; `events.k8s.io` is the stricter one (`pkg/apis/core/validation/events.go`).
use super::field::{Errors, Path, Tree};
use super::names;
use crate::GroupVersionKind;
use serde_json::Value;

const SHORT_MAX_CHARS: usize = 128;
const NOTE_MAX_CHARS: usize = 1024;

/// An event is where its object is; those of cluster-wide objects are in `default`.
pub fn event(errors: &mut Errors, kind: &GroupVersionKind, object: &Value) {
    let core = kind.group.is_empty();
    let involved = if core { &object["involvedObject"] } else { &object["regarding"] };
    let (namespace, involved) = (object["metadata"].text("namespace"), involved.text("namespace"));
    let timed = object.has("eventTime");
    let fits = match (involved, timed) {
        ("", false) => matches!(namespace, "" | "default"),
        ("", true) => matches!(namespace, "default" | "kube-system"),
        (involved, false) => involved == namespace,
        (_, true) => true,
    };
    if !fits {
        let path = Path::field("involvedObject");
        errors.invalid(&path.child("namespace"), involved, "does not match event.namespace");
    }
    if timed {
        reported(errors, core, object);
    }
}

/// What an event that has a time must tell of itself.
fn reported(errors: &mut Errors, core: bool, object: &Value) {
    let (name, controller) = match core {
        true => ("reportingComponent", object.text("reportingComponent")),
        false => ("reportingController", object.text("reportingController")),
    };
    if controller.is_empty() {
        errors.required(&Path::field(name), "");
    }
    errors.each(&Path::field(name), controller, names::qualified_name(controller));
    for name in ["reportingInstance", "action", "reason"] {
        if object.text(name).is_empty() {
            errors.required(&Path::field(name), "");
        }
        limited(errors, name, object.text(name), SHORT_MAX_CHARS);
    }
    limited(errors, "message", object.text(if core { "message" } else { "note" }), NOTE_MAX_CHARS);
}

fn limited(errors: &mut Errors, name: &str, text: &str, limit: usize) {
    if text.len() > limit {
        errors.invalid(&Path::field(name), "", format!("can have at most {limit} characters"));
    }
}

/// A new event of `events.k8s.io/v1` is of the new kind.
pub fn create(errors: &mut Errors, object: &Value) {
    if object.has("series") {
        let series = &object["series"];
        if series.int("count").unwrap_or(0) < 2 {
            errors.invalid(&Path::field("series.count"), "", "should be at least 2");
        }
        if !series.has("lastObservedTime") {
            errors.required(&Path::field("series.lastObservedTime"), "");
        }
    }
    if !object.has("eventTime") {
        errors.required(&Path::field("eventTime"), "");
    }
    let ty = object.text("type");
    if !["Normal", "Warning"].contains(&ty) {
        errors.invalid(&Path::field("type"), "", format!("has invalid value: {ty}"));
    }
    let source = &object["deprecatedSource"];
    for (name, set) in [
        ("firstTimestamp", object.has("deprecatedFirstTimestamp")),
        ("lastTimestamp", object.has("deprecatedLastTimestamp")),
        ("count", object.int("deprecatedCount").is_some_and(|count| count != 0)),
        ("source", !source.text("component").is_empty() || !source.text("host").is_empty()),
    ] {
        if set {
            errors.invalid(&Path::field(name), "", "needs to be unset");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(group: &str, object: &Value) -> Vec<String> {
        let mut errors = Errors::default();
        event(&mut errors, &GroupVersionKind::new(group, "v1", "Event"), object);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_event_is_where_its_object_is() {
        let of = |namespace: &str, involved: &str| {
            found("", &json!({"metadata": {"namespace": namespace}, "involvedObject": {"namespace": involved}}))
        };
        assert_eq!(of("a", "a"), [""; 0]);
        assert_eq!(of("default", ""), [""; 0]);
        assert_eq!(of("a", "b"), ["involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"]);
        assert_eq!(of("a", "").len(), 1);
    }

    #[test]
    fn an_event_with_a_time_says_who_reports_it() {
        let object = json!({"metadata": {"namespace": "a"}, "regarding": {"namespace": "a"}, "eventTime": "t",
            "reportingController": "c", "reportingInstance": "i", "action": "x", "reason": "r"});
        assert_eq!(found("events.k8s.io", &object), [""; 0]);
        let mut bare = object;
        bare["action"] = "".into();
        assert_eq!(found("events.k8s.io", &bare), ["action: Required value"]);
    }

    #[test]
    fn a_new_event_of_the_new_group_has_a_time_and_no_count() {
        let mut errors = Errors::default();
        create(&mut errors, &json!({"type": "Odd", "deprecatedCount": 1}));
        let fields: Vec<&str> = errors.0.iter().map(|error| &*error.field).collect();
        assert_eq!(fields, ["eventTime", "type", "count"]);
    }
}
