//! Probes and lifecycle hooks: what is called, and how often.
use super::super::field::{Errors, Path, Tree};
use super::super::{names, pod_port};
use serde_json::Value;

const COUNTS: &[&str] =
    &["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];

pub fn probe(errors: &mut Errors, path: &Path<'_>, probe: &Value, name: &str, grace: Option<i64>) {
    handler(errors, path, probe, grace);
    errors.none_negative(path, probe, COUNTS);
    let own_grace = probe.int("terminationGracePeriodSeconds");
    if let Some(seconds) = own_grace.filter(|seconds| *seconds <= 0) {
        errors.invalid(&path.child("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
    if name == "readinessProbe" {
        if let Some(seconds) = own_grace {
            let text = "must not be set for readinessProbes";
            errors.invalid(&path.child("terminationGracePeriodSeconds"), seconds, text);
        }
    } else if let Some(count) = probe.int("successThreshold").filter(|count| *count != 1) {
        errors.invalid(&path.child("successThreshold"), count, "must be 1");
    }
}

/// Exactly one way to act.
pub fn handler(errors: &mut Errors, path: &Path<'_>, of: &Value, grace: Option<i64>) {
    let mut found = false;
    for name in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        if !of.has(name) {
            continue;
        }
        if found {
            errors.forbidden(&path.child(name), "may not specify more than 1 handler type");
        } else {
            found = true;
            action(errors, &path.child(name), &of[name], name, grace);
        }
    }
    if !found {
        errors.required(path, "must specify a handler type");
    }
}

fn action(errors: &mut Errors, path: &Path<'_>, of: &Value, name: &str, grace: Option<i64>) {
    match name {
        "exec" if of.count("command") == 0 => errors.required(&path.child("command"), ""),
        "exec" => {}
        "httpGet" => http_get(errors, path, of),
        "sleep" => sleep(errors, path, of.int("seconds").unwrap_or(0), grace),
        _ => pod_port::number_or_name(errors, &path.child("port"), &of["port"]),
    }
}

fn http_get(errors: &mut Errors, path: &Path<'_>, of: &Value) {
    if of.text("path").is_empty() {
        errors.required(&path.child("path"), "");
    }
    pod_port::number_or_name(errors, &path.child("port"), &of["port"]);
    if !["HTTP", "HTTPS"].contains(&of.text("scheme")) {
        errors.unsupported(&path.child("scheme"), of.text("scheme"), &["HTTP", "HTTPS"]);
    }
    for header in of.list("httpHeaders") {
        let name = header.text("name");
        errors.each(&path.child("httpHeaders"), name, names::http_header_name(name));
    }
}

fn sleep(errors: &mut Errors, path: &Path<'_>, seconds: i64, grace: Option<i64>) {
    if let Some(grace) = grace.filter(|grace| !(0..=*grace).contains(&seconds)) {
        let text = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.invalid(path, seconds, text);
    }
}
