//! The schema of a custom resource: that its shape can be read off without its conditions, that lists, maps and
//! extensions go together, and that its rules compile
//! (`k8s.io/apiextensions-apiserver/pkg/apiserver/schema` and `pkg/apis/apiextensions/validation`).
mod completeness;
mod conditions;
mod costs;
mod lists;
mod paths;
mod rules;
mod shape;
mod support;

use super::field::{Errors, Path, Tree};
pub use costs::is_estimate;
pub use paths::find;
use serde_json::Value;

/// Schemas nest no deeper than this; a deeper one is refused.
const MAX_DEPTH: usize = 64;
/// What may stand at the root where `status` is a subresource: its own schema is cut out then.
const AT_ROOT_WITH_STATUS: &[&str] = &[
    "description",
    "type",
    "format",
    "title",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "required",
    "items",
    "properties",
    "externalDocs",
    "example",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];

/// The whole schema of a version. `status`: whether that is a subresource.
pub fn schema(errors: &mut Errors, path: &Path<'_>, schema: &Value, status: bool) {
    if status {
        at_root(errors, path, schema);
    }
    if schema.flag("nullable") {
        errors.forbidden(&path.child("nullable"), "nullable cannot be true at the root");
    }
    let mut found = Errors::default();
    shape::node(&mut found, path, schema, shape::Level::Root, 0);
    if !found.0.iter().any(|error| error.detail.contains("nested deeper")) {
        completeness::node(&mut found, schema, path, path, schema);
        // Upstream sorts these, because its maps have no order.
        found.0.sort_by_cached_key(ToString::to_string);
        support::node(&mut found, path, schema, &support::Place::root());
        if found.0.is_empty() {
            rules::all(&mut found, path, schema);
        }
    }
    errors.0.append(&mut found.0);
}

const ONLY_AT_ROOT: &str = "only [Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum \
                            MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items \
                            Properties ExternalDocs Example XPreserveUnknownFields XValidations] fields are allowed at \
                            the root of the schema if the status subresource is enabled";

fn at_root(errors: &mut Errors, path: &Path<'_>, schema: &Value) {
    let given = schema.as_object().into_iter().flatten();
    let mut filled = given.filter(|(_, value)| !value.is_null() && **value != false);
    if filled.any(|(name, _)| !AT_ROOT_WITH_STATUS.contains(&name.as_str())) {
        errors.invalid_as(path, "apiextensions.JSONSchemaProps", schema, ONLY_AT_ROOT);
    }
}
