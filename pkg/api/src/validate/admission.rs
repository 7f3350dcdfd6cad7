//! Webhook configurations and admission policies (`pkg/apis/admissionregistration/validation`).
use super::field::{Errors, Path, Tree};
use super::names;
use super::selector::label_selector;
use crate::cel::{Environment, ObjectType, Type};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const REVIEWS: &[&str] = &["v1", "v1beta1"];
const TIMEOUT_SECONDS: std::ops::RangeInclusive<i64> = 1..=30;
/// Match conditions of one webhook or policy, at most.
const CONDITIONS: usize = 64;

pub fn webhooks(errors: &mut Errors, object: &Value) {
    let path = Path::field("webhooks");
    let mut seen = BTreeSet::new();
    for (i, hook) in object.list("webhooks").iter().enumerate() {
        let at = path.index(i);
        webhook(errors, &at, hook);
        let name = hook.text("name");
        if !name.is_empty() && !seen.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
    }
}

fn webhook(errors: &mut Errors, at: &Path<'_>, hook: &Value) {
    full_name(errors, &at.child("name"), hook.text("name"));
    for (i, of) in hook.list("rules").iter().enumerate() {
        rule(errors, &at.child("rules").index(i), of);
    }
    errors.maybe_one_of(&at.child("failurePolicy"), hook.text("failurePolicy"), &["Fail", "Ignore"]);
    errors.maybe_one_of(&at.child("matchPolicy"), hook.text("matchPolicy"), &["Equivalent", "Exact"]);
    let effects = &["None", "NoneOnDryRun"];
    match hook.text("sideEffects") {
        "" => errors.required(&at.child("sideEffects"), format!("must specify one of {}", effects.join(", "))),
        given => errors.maybe_one_of(&at.child("sideEffects"), given, effects),
    }
    if let Some(seconds) = hook.int("timeoutSeconds").filter(|seconds| !TIMEOUT_SECONDS.contains(seconds)) {
        let text = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(&at.child("timeoutSeconds"), seconds, text);
    }
    errors.maybe_one_of(&at.child("reinvocationPolicy"), hook.text("reinvocationPolicy"), &["IfNeeded", "Never"]);
    selectors(errors, at, hook);
    client_config(errors, &at.child("clientConfig"), &hook["clientConfig"]);
    conditions(errors, &at.child("matchConditions"), hook, &environment(false, &[]));
    review_versions(errors, &at.child("admissionReviewVersions"), hook);
}

fn selectors(errors: &mut Errors, at: &Path<'_>, of: &Value) {
    for name in ["namespaceSelector", "objectSelector"] {
        if of.has(name) {
            label_selector(errors, &at.child(name), &of[name]);
        }
    }
}

fn full_name(errors: &mut Errors, at: &Path<'_>, name: &str) {
    if name.is_empty() {
        return errors.required(at, "");
    }
    let wrong = names::dns_subdomain(name);
    if !wrong.is_empty() {
        return errors.each(at, name, wrong);
    }
    if name.split('.').count() < 3 {
        errors.invalid(at, name, "should be a domain with at least three segments separated by dots");
    }
}

pub(super) fn client_config(errors: &mut Errors, at: &Path<'_>, config: &Value) {
    match (config.has("url"), config.has("service")) {
        (true, false) => url(errors, &at.child("url"), config.text("url")),
        (false, true) => service(errors, &at.child("service"), &config["service"]),
        _ => errors.required(at, "exactly one of url or service is required"),
    }
}

fn url(errors: &mut Errors, at: &Path<'_>, text: &str) {
    const FORM: &str = "; desired format: https://host[/path]";
    let Ok(url) = url::Url::parse(text) else {
        return errors.required(at, format!("url must be a valid URL{FORM}"));
    };
    if url.scheme() != "https" {
        errors.invalid(at, url.scheme(), format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        errors.invalid(at, url.host_str().unwrap_or_default(), format!("host must be specified{FORM}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let password = url.password().map_or_else(String::new, |password| format!(":{password}"));
        let user = format!("{}{password}", url.username());
        errors.invalid(at, user, "user information is not permitted in the URL");
    }
    if let Some(fragment) = url.fragment() {
        errors.invalid(at, fragment, "fragments are not permitted in the URL");
    }
    if let Some(query) = url.query() {
        errors.invalid(at, query, "query parameters are not permitted in the URL");
    }
}

fn service(errors: &mut Errors, at: &Path<'_>, service: &Value) {
    // Upstream mistakes the two for each other.
    for (given, reported) in [("namespace", "name"), ("name", "namespace")] {
        if service.text(given).is_empty() {
            errors.required(&at.child(reported), "");
        }
    }
    if let Some(port) = service.int("port").filter(|port| !names::port_number(*port).is_empty()) {
        errors.invalid(&at.child("port"), port, "port is not valid: must be between 1 and 65535, inclusive");
    }
    url_path(errors, &at.child("path"), service.text("path"));
}

fn url_path(errors: &mut Errors, at: &Path<'_>, path: &str) {
    if path.is_empty() || path == "/" {
        return;
    }
    if path == "//" {
        return errors.invalid(at, path, "segment[0] may not be empty");
    }
    if !path.starts_with('/') {
        errors.invalid(at, path, "must start with a '/'");
    }
    let rest = path.get(1..).unwrap_or_default();
    for (i, segment) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if segment.is_empty() {
            errors.invalid(at, path, format!("segment[{i}] may not be empty"));
            continue;
        }
        for failure in names::dns_subdomain(segment) {
            errors.invalid(at, path, format!("segment[{i}]: {failure}"));
        }
    }
}

fn review_versions(errors: &mut Errors, at: &Path<'_>, hook: &Value) {
    let given: Vec<&str> = hook.texts("admissionReviewVersions").collect();
    if given.is_empty() {
        return errors.required(at, format!("must specify one of {}", REVIEWS.join(", ")));
    }
    listed_versions(errors, at, &given, REVIEWS);
}

/// Review versions, each once, one of them known.
pub(super) fn listed_versions(errors: &mut Errors, at: &Path<'_>, given: &[&str], known: &[&str]) {
    let mut seen = BTreeSet::new();
    for (i, version) in given.iter().enumerate() {
        if !seen.insert(*version) {
            errors.invalid(&at.index(i), *version, "duplicate version");
            continue;
        }
        errors.each(&at.index(i), version, names::dns1035_label(version));
    }
    if !given.iter().any(|version| known.contains(version)) {
        errors.invalid(at, given.to_vec(), format!("must include at least one of {}", known.join(", ")));
    }
}

/// One rule; webhooks may name subresources in any combination that makes sense, as policies may.
fn rule(errors: &mut Errors, at: &Path<'_>, rule: &Value) {
    let alone = |errors: &mut Errors, field: &str, what: &str| {
        let items: Vec<&str> = rule.texts(field).collect();
        if items.is_empty() {
            errors.required(&at.child(field), "");
        } else if items.len() > 1 && items.contains(&"*") {
            errors.invalid(&at.child(field), items, format!("if '*' is present, must not specify other {what}"));
        }
    };
    alone(errors, "operations", "operations");
    for (i, operation) in rule.texts("operations").enumerate() {
        errors.one_of(&at.child("operations").index(i), operation, OPERATIONS);
    }
    alone(errors, "apiGroups", "API groups");
    alone(errors, "apiVersions", "API versions");
    for (i, _) in rule.texts("apiVersions").enumerate().filter(|(_, version)| version.is_empty()) {
        errors.required(&at.child("apiVersions").index(i), "");
    }
    resources(errors, &at.child("resources"), rule);
    errors.maybe_one_of(&at.child("scope"), rule.text("scope"), &["*", "Cluster", "Namespaced"]);
}

fn resources(errors: &mut Errors, at: &Path<'_>, rule: &Value) {
    let given: Vec<&str> = rule.texts("resources").collect();
    if given.is_empty() {
        errors.required(at, "");
    }
    let (mut all_subs, mut of_all) = (BTreeSet::new(), BTreeSet::new());
    for (i, text) in given.iter().enumerate() {
        if text.is_empty() {
            errors.required(&at.index(i), "");
        }
        let Some((resource, sub)) = text.split_once('/') else { continue };
        if all_subs.contains(resource) {
            let why = format!("if '{resource}/*' is present, must not specify {text}");
            errors.invalid(&at.index(i), *text, why);
        }
        if of_all.contains(sub) {
            errors.invalid(&at.index(i), *text, format!("if '*/{sub}' is present, must not specify {text}"));
        }
        if sub == "*" {
            all_subs.insert(resource);
        }
        if resource == "*" {
            of_all.insert(sub);
        }
    }
    if given.len() > 1 && given.contains(&"*/*") {
        errors.invalid(at, given.clone(), "if '*/*' is present, must not specify other resources");
    }
    // Upstream looks at the last such name only.
    if given.contains(&"*") && given.iter().rfind(|text| !text.contains('/')).is_some_and(|text| *text != "*") {
        let why = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(at, given, why);
    }
}

/// What expressions may name; the API server's own environment has the same names.
fn environment(params: bool, variables: &[(&str, Type)]) -> Environment {
    let names = ["object", "oldObject", "request", "namespaceObject"];
    let base = names.iter().fold(Environment::new().with_authorizer(), |all, name| all.variable(name, Type::Dyn));
    let base = if params { base.variable("params", Type::Dyn) } else { base };
    if variables.is_empty() {
        return base;
    }
    base.variable("variables", Type::Object(Arc::new(ObjectType::new("variables", variables))))
}

/// An expression that must compile and, where `result` says one, yield that type.
fn expression(errors: &mut Errors, at: &Path<'_>, source: &str, all: &Environment, result: &[Type]) -> Type {
    if source.trim().is_empty() {
        errors.required(at, "");
        return Type::Dyn;
    }
    match all.compile(source) {
        Err(error) => {
            errors.invalid(at, source, format!("compilation failed: {error}"));
            Type::Dyn
        }
        Ok(program) => {
            let ty = program.result_type().clone();
            if !result.is_empty() && !result.contains(&ty) {
                let wanted = result.iter().map(ToString::to_string).collect::<Vec<_>>();
                let wanted =
                    if let [one] = wanted.as_slice() { one.clone() } else { format!("one of [{}]", wanted.join(" ")) };
                let got = if ty == Type::Dyn { String::new() } else { format!(" but got {ty}") };
                errors.invalid(at, source, format!("must evaluate to {wanted}{got}"));
            }
            ty
        }
    }
}

fn conditions(errors: &mut Errors, at: &Path<'_>, of: &Value, all: &Environment) {
    let given = of.list("matchConditions");
    if given.len() > CONDITIONS {
        errors.too_many(at, given.len(), CONDITIONS);
    }
    let mut seen = BTreeSet::new();
    for (i, condition) in given.iter().enumerate() {
        let (at, name) = (at.index(i), condition.text("name"));
        expression(errors, &at.child("expression"), condition.text("expression"), all, &[Type::Bool]);
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else {
            errors.each(&at.child("name"), name, names::qualified_name(name));
        }
        if !name.is_empty() && !seen.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
    }
}

/// A ValidatingAdmissionPolicy, or a MutatingAdmissionPolicy where `mutates`.
pub fn policy(errors: &mut Errors, object: &Value, mutates: bool) {
    let (root, spec) = (Path::field("spec"), &object["spec"]);
    errors.maybe_one_of(&root.child("failurePolicy"), spec.text("failurePolicy"), &["Fail", "Ignore"]);
    let params = spec.has("paramKind");
    if params {
        param_kind(errors, &root.child("paramKind"), &spec["paramKind"]);
    }
    let constraints = root.child("matchConstraints");
    if !spec.has("matchConstraints") {
        errors.required(&constraints, "");
    } else {
        match_resources(errors, &constraints, &spec["matchConstraints"]);
        if spec["matchConstraints"].count("resourceRules") == 0 {
            errors.required(&constraints.child("resourceRules"), "");
        }
    }
    conditions(errors, &root.child("matchConditions"), spec, &environment(params, &[]));
    let mut variables: Vec<(&str, Type)> = Vec::new();
    for (i, variable) in spec.list("variables").iter().enumerate() {
        let list = root.child("variables");
        let (at, name) = (list.index(i), variable.text("name"));
        if name.is_empty() {
            errors.required(&at.child("name"), "name is not specified");
        } else if crate::cel::escape(name).as_deref() != Some(name) {
            errors.invalid(&at.child("name"), name, "name is not a valid CEL identifier");
        } else if variables.iter().any(|(known, _)| *known == name) {
            errors.duplicate(&at.child("name"), name);
        }
        let all = environment(params, &variables);
        let ty = expression(errors, &at.child("expression"), variable.text("expression"), &all, &[]);
        variables.push((name, ty));
    }
    let all = environment(params, &variables);
    if mutates { mutations(errors, &root, spec, &all) } else { validations(errors, &root, spec, &all) }
}

fn param_kind(errors: &mut Errors, at: &Path<'_>, kind: &Value) {
    for name in ["apiVersion", "kind"] {
        if kind.text(name).is_empty() {
            errors.required(&at.child(name), "");
        }
    }
}

fn match_resources(errors: &mut Errors, at: &Path<'_>, of: &Value) {
    errors.maybe_one_of(&at.child("matchPolicy"), of.text("matchPolicy"), &["Equivalent", "Exact"]);
    selectors(errors, at, of);
    for name in ["resourceRules", "excludeResourceRules"] {
        for (i, of) in of.list(name).iter().enumerate() {
            rule(errors, &at.child(name).index(i), of);
        }
    }
}

fn validations(errors: &mut Errors, root: &Path<'_>, spec: &Value, all: &Environment) {
    const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
    if spec.count("validations") == 0 && spec.count("auditAnnotations") == 0 {
        let why = "validations or auditAnnotations must contain at least one item";
        errors.required(&root.child("validations"), why);
        errors.required(&root.child("auditAnnotations"), why);
    }
    for (i, validation) in spec.list("validations").iter().enumerate() {
        let list = root.child("validations");
        let at = list.index(i);
        expression(errors, &at.child("expression"), validation.text("expression"), all, &[Type::Bool]);
        if validation.has("messageExpression") && !validation.text("messageExpression").is_empty() {
            let source = validation.text("messageExpression");
            expression(errors, &at.child("messageExpression"), source, all, &[Type::String]);
        }
        if validation.text("message").contains('\n') {
            errors.invalid(&at.child("message"), validation.text("message"), "message must not contain line breaks");
        }
        errors.maybe_one_of(&at.child("reason"), validation.text("reason"), REASONS);
    }
    for (i, annotation) in spec.list("auditAnnotations").iter().enumerate() {
        let list = root.child("auditAnnotations");
        let at = list.index(i);
        errors.each(&at.child("key"), annotation.text("key"), names::qualified_name(annotation.text("key")));
        let source = annotation.text("valueExpression");
        expression(errors, &at.child("valueExpression"), source, all, &[Type::String, Type::Null, Type::Dyn]);
    }
}

fn mutations(errors: &mut Errors, root: &Path<'_>, spec: &Value, all: &Environment) {
    let list = root.child("mutations");
    if spec.count("mutations") == 0 {
        errors.required(&list, "mutations must contain at least one item");
    }
    for (i, mutation) in spec.list("mutations").iter().enumerate() {
        let at = list.index(i);
        let (field, other) = match mutation.text("patchType") {
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
            given => {
                errors.one_of(&at.child("patchType"), given, &["ApplyConfiguration", "JSONPatch"]);
                continue;
            }
        };
        if mutation.has(other) {
            let shown = format!("{{{other}}}");
            let why = format!("must not be specified when patchType is {}", mutation.text("patchType"));
            errors.invalid(&at.child(other), shown, why);
        }
        match mutation.has(field) {
            true => {
                _ = expression(
                    errors,
                    &at.child(field).child("expression"),
                    mutation[field].text("expression"),
                    all,
                    &[],
                )
            }
            false => {
                let why = format!("must be specified when patchType is {}", mutation.text("patchType"));
                errors.required(&at.child(field), why);
            }
        }
    }
    match spec.text("reinvocationPolicy") {
        "" => errors.required(&root.child("reinvocationPolicy"), ""),
        given => errors.one_of(&root.child("reinvocationPolicy"), given, &["IfNeeded", "Never"]),
    }
}

/// A binding of either sort; those of mutating policies have no actions.
pub fn binding(errors: &mut Errors, object: &Value, mutates: bool) {
    let (root, spec) = (Path::field("spec"), &object["spec"]);
    if spec.text("policyName").is_empty() {
        errors.required(&root.child("policyName"), "");
    } else {
        errors.each(&root.child("policyName"), spec.text("policyName"), names::dns_subdomain(spec.text("policyName")));
    }
    if spec.has("paramRef") {
        param_ref(errors, &root.child("paramRef"), &spec["paramRef"]);
    }
    match_resources(errors, &root.child("matchResources"), &spec["matchResources"]);
    if mutates {
        return;
    }
    let at = root.child("validationActions");
    let actions: Vec<&str> = spec.texts("validationActions").collect();
    if actions.is_empty() {
        errors.required(&at, "at least one validation action is required");
    }
    for (i, action) in actions.iter().enumerate() {
        errors.one_of(&at.index(i), action, &["Audit", "Deny", "Warn"]);
        if actions[..i].contains(action) {
            errors.duplicate(&at.index(i), *action);
        }
    }
    if actions.contains(&"Deny") && actions.contains(&"Warn") {
        errors.invalid(&at, actions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)");
    }
}

fn param_ref(errors: &mut Errors, at: &Path<'_>, reference: &Value) {
    match (reference.text("name"), reference.has("selector")) {
        ("", false) => errors.required(at, "one of name or selector must be specified"),
        ("", true) => label_selector(errors, &at.child("selector"), &reference["selector"]),
        (name, true) => {
            errors.forbidden(&at.child("name"), format!("name and selector are mutually exclusive: {name}"))
        }
        (name, false) => errors.each(&at.child("name"), name, names::path_segment(name)),
    }
    match reference.text("parameterNotFoundAction") {
        "" => errors.required(&at.child("parameterNotFoundAction"), ""),
        given => errors.one_of(&at.child("parameterNotFoundAction"), given, &["Allow", "Deny"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(check: impl FnOnce(&mut Errors)) -> Vec<String> {
        let mut errors = Errors::default();
        check(&mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    fn hook(change: Value) -> Value {
        let mut hook = json!({
            "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 10,
            "clientConfig": {"service": {"namespace": "n", "name": "s", "port": 443, "path": "/x"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        });
        hook.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({"webhooks": [hook]})
    }

    #[test]
    fn webhooks_are_checked_field_by_field() {
        let wrong = |change: Value| texts(|errors| webhooks(errors, &hook(change)));
        assert!(wrong(json!({})).is_empty(), "{:?}", wrong(json!({})));
        assert!(wrong(json!({"name": "short"}))[0].contains("at least three segments"));
        assert!(wrong(json!({"sideEffects": "Some"}))[0].starts_with("webhooks[0].sideEffects: Unsupported value"));
        assert!(wrong(json!({"timeoutSeconds": 31}))[0].contains("between 1 and 30"));
        assert!(wrong(json!({"clientConfig": {}}))[0].contains("exactly one of url or service is required"));
        assert!(wrong(json!({"clientConfig": {"url": "http://x"}}))[0].contains("'https' is the only allowed"));
        let bad = wrong(json!({"matchConditions": [{"name": "x", "expression": "... [] bad"}]}));
        assert!(
            bad[0].starts_with("webhooks[0].matchConditions[0].expression: Invalid value: ")
                && bad[0].contains("compilation failed"),
            "{bad:?}"
        );
        assert!(
            wrong(json!({"matchConditions": [{"name": "x", "expression": "1 + 1"}]}))[0]
                .ends_with("must evaluate to bool but got int")
        );
    }

    #[test]
    fn policies_and_bindings_are_checked() {
        let rules = json!({"resourceRules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}]});
        let valid = json!({"spec": {"matchConstraints": rules, "variables": [{"name": "a", "expression": "1"}],
            "validations": [{"expression": "variables.a == 1", "messageExpression": "'x'"}]}});
        assert!(texts(|errors| policy(errors, &valid, false)).is_empty());
        let mut bad = valid.clone();
        bad["spec"]["validations"][0]["expression"] = "variables.b == 1".into();
        assert!(texts(|errors| policy(errors, &bad, false))[0].contains("compilation failed"));
        assert_eq!(texts(|errors| policy(errors, &json!({"spec": {}}), true)).len(), 3);
        let both = json!({"spec": {"policyName": "p", "validationActions": ["Deny", "Warn"]}});
        assert!(texts(|errors| binding(errors, &both, false))[0].contains("must not contain both Deny and Warn"));
    }
}
