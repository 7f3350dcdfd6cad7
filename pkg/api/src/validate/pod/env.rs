//! Environment variables and where they come from.
use super::super::field::{Errors, Path, Tree};
use super::super::names;
use serde_json::Value;

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// What a downward API volume may show: the labels and annotations as a whole, too.
pub const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Every field that the downward API knows, for telling a field that does not exist from one not allowed here.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "spec.host",
    "spec.restartPolicy",
    "spec.schedulerName",
    "status.phase",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SIZES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

pub fn env(errors: &mut Errors, path: &Path<'_>, container: &Value) {
    for (i, var) in container.list("env").iter().enumerate() {
        let at = path.index(i);
        match var.text("name") {
            "" => errors.required(&at.child("name"), ""),
            name => errors.each(&at.child("name"), name, names::env_name(name)),
        }
        if var.has("valueFrom") {
            value_from(errors, &at.child("valueFrom"), var);
        }
    }
}

fn value_from(errors: &mut Errors, path: &Path<'_>, var: &Value) {
    let from = &var["valueFrom"];
    let mut count = 0;
    for name in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        if !from.has(name) {
            continue;
        }
        count += 1;
        let (at, source) = (path.child(name), &from[name]);
        match name {
            "fieldRef" => field_ref(errors, &at, source, ENV_FIELDS),
            "resourceFieldRef" => resource_ref(errors, &at, source, false),
            "fileKeyRef" => file_key(errors, &at, source),
            _ => key_ref(errors, &at, source),
        }
    }
    if count == 0 {
        let text =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.invalid(path, "", text);
    } else if !var.text("value").is_empty() {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if count > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
}

pub fn field_ref(errors: &mut Errors, path: &Path<'_>, of: &Value, allowed: &[&str]) {
    if of.text("apiVersion").is_empty() {
        return errors.required(&path.child("apiVersion"), "");
    }
    let field = of.text("fieldPath");
    if field.is_empty() {
        return errors.required(&path.child("fieldPath"), "");
    }
    let subscript = field.strip_suffix("']").and_then(|field| field.split_once("['"));
    match subscript {
        Some(("metadata.annotations", key)) => {
            errors.each(path, &key.to_lowercase(), names::qualified_name(&key.to_lowercase()))
        }
        Some(("metadata.labels", key)) => errors.each(path, key, names::qualified_name(key)),
        _ if !ENV_FIELDS.contains(&field) && !KNOWN_FIELDS.contains(&field) => {
            let text = format!("error converting fieldPath: field label not supported: {field}");
            errors.invalid(&path.child("fieldPath"), field, text);
        }
        _ if !allowed.contains(&field) => errors.unsupported(&path.child("fieldPath"), field, allowed),
        _ => {}
    }
}

pub fn resource_ref(errors: &mut Errors, path: &Path<'_>, of: &Value, needs_container: bool) {
    let resource = of.text("resource");
    let huge = ["limits.hugepages-", "requests.hugepages-"].iter().any(|prefix| resource.starts_with(prefix));
    if needs_container && of.text("containerName").is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !RESOURCES.contains(&resource) && !huge {
        errors.unsupported(&path.child("resource"), resource, RESOURCES);
    }
    divisor(errors, &path.child("divisor"), resource, of.text("divisor"));
}

fn divisor(errors: &mut Errors, path: &Path<'_>, resource: &str, divisor: &str) {
    if divisor.is_empty() || divisor == "0" {
        return;
    }
    let kind = resource.split_once('.').map_or("", |(_, kind)| kind);
    let (allowed, what): (&[&str], _) = match kind {
        "cpu" => (&["1m", "1"], "cpu"),
        "memory" => (SIZES, "memory"),
        "ephemeral-storage" => (SIZES, "local ephemeral storage"),
        _ if kind.starts_with("hugepages-") => (SIZES, "hugepages"),
        _ => return,
    };
    if !allowed.contains(&divisor) {
        let list = if kind == "cpu" { "1m and 1".to_owned() } else { SIZES.join(", ") };
        errors.invalid(path, resource, format!("only divisor's values {list} are supported with the {what} resource"));
    }
}

fn key_ref(errors: &mut Errors, path: &Path<'_>, of: &Value) {
    let name = of.text("name");
    errors.each(&path.child("name"), name, names::dns_subdomain(name));
    match of.text("key") {
        "" => errors.required(&path.child("key"), ""),
        key => errors.each(&path.child("key"), key, names::config_key(key)),
    }
}

fn file_key(errors: &mut Errors, path: &Path<'_>, of: &Value) {
    for name in ["volumeName", "path", "key"].iter().filter(|name| of.text(name).is_empty()) {
        errors.required(&path.child(name), "");
    }
}

pub fn env_from(errors: &mut Errors, path: &Path<'_>, container: &Value) {
    for (i, from) in container.list("envFrom").iter().enumerate() {
        let at = path.index(i);
        let prefix = from.text("prefix");
        if !prefix.is_empty() {
            errors.each(&at.child("prefix"), prefix, names::env_name(prefix));
        }
        let mut count = 0;
        for name in ["configMapRef", "secretRef"].iter().filter(|name| from.has(name)) {
            count += 1;
            let source = at.child(name);
            match from[*name].text("name") {
                "" => errors.required(&source.child("name"), ""),
                name => {
                    let wrong = names::dns_subdomain(&names::mask_trailing_dash(name));
                    errors.each(&source.child("name"), name, wrong);
                }
            }
        }
        match count {
            0 => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}
