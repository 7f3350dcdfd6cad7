//! Ports by number or name, in probes and Services.
use super::field::{Errors, Path};
use super::names;
use serde_json::Value;

pub fn number(errors: &mut Errors, path: &Path<'_>, number: i64) {
    for message in names::port_number(number) {
        errors.invalid(path, number, message);
    }
}

/// A number, or the name of a container's port.
pub fn number_or_name(errors: &mut Errors, path: &Path<'_>, port: &Value) {
    match port {
        Value::String(name) => errors.each(path, name, names::port_name(name)),
        other => number(errors, path, other.as_i64().unwrap_or(0)),
    }
}
