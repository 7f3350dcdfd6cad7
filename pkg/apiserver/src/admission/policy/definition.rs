//! Policies and their bindings, ready to be matched and evaluated.
use crate::admission::cache;
use crate::admission::expressions::{Conditions, Expression, environment};
use crate::admission::rules::{Matcher, Rule};
use api::GroupVersion;
use serde_json::{Value, json};
use std::sync::Arc;
use store::Entry;

/// What a policy's objects of configuration are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamKind {
    pub version: GroupVersion,
    pub kind: String,
}

/// One validation of a policy.
pub struct Validation {
    pub expression: Expression,
    pub message: String,
    pub message_expression: Option<Expression>,
    /// `Invalid` unless it says otherwise.
    pub reason: String,
}

/// One mutation of a policy.
pub enum Mutation {
    /// An `Object{...}` that is merged in as apply does.
    Apply(Expression),
    /// A list of `JSONPatch{...}`.
    JsonPatch(Expression),
}

/// A ValidatingAdmissionPolicy or MutatingAdmissionPolicy.
pub struct Policy {
    pub name: String,
    pub matcher: Matcher,
    pub params: Option<ParamKind>,
    /// `failurePolicy: Ignore`.
    pub fails_open: bool,
    pub conditions: Conditions,
    pub variables: Vec<(String, Expression)>,
    pub validations: Vec<Validation>,
    /// Keys and values of audit annotations.
    pub audit: Vec<(String, Expression)>,
    pub mutations: Vec<Mutation>,
    /// `reinvocationPolicy: IfNeeded`.
    pub reinvoked: bool,
}

/// The policy of a stored object.
pub fn policy(entry: &Entry) -> Vec<Arc<Policy>> {
    cache::object(entry).map(|object| Arc::new(Policy::new(&object))).into_iter().collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Policy {
    fn new(object: &Value) -> Self {
        let spec = &object["spec"];
        let params = spec["paramKind"].as_object().map(|of| ParamKind {
            version: GroupVersion::parse(of.get("apiVersion").and_then(Value::as_str).unwrap_or_default()),
            kind: of.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned(),
        });
        let has_params = params.is_some();
        let (mut variables, mut types) = (Vec::new(), Vec::new());
        for variable in list(&spec["variables"]) {
            let expression = Expression::new(&environment(has_params, &types), &variable["expression"]);
            types.push((text(&variable["name"]), expression.result_type()));
            variables.push((text(&variable["name"]), expression));
        }
        let all = environment(has_params, &types);
        let validation = |validation: &Value| Validation {
            expression: Expression::new(&all, &validation["expression"]),
            message: text(&validation["message"]),
            message_expression: validation["messageExpression"]
                .as_str()
                .filter(|source| !source.is_empty())
                .map(|_| Expression::new(&all, &validation["messageExpression"])),
            reason: validation["reason"].as_str().unwrap_or("Invalid").to_owned(),
        };
        let audit = |of: &Value| (text(&of["key"]), Expression::new(&all, &of["valueExpression"]));
        let mutation = |of: &Value| match of["patchType"].as_str() {
            Some("JSONPatch") => Mutation::JsonPatch(Expression::new(&all, &of["jsonPatch"]["expression"])),
            _ => Mutation::Apply(Expression::new(&all, &of["applyConfiguration"]["expression"])),
        };
        Self {
            name: text(&object["metadata"]["name"]),
            matcher: Matcher::parse(&spec["matchConstraints"], "resourceRules"),
            params,
            fails_open: spec["failurePolicy"] == "Ignore",
            conditions: Conditions::parse(&spec["matchConditions"], &environment(has_params, &[])),
            validations: list(&spec["validations"]).iter().map(validation).collect(),
            audit: list(&spec["auditAnnotations"]).iter().map(audit).collect(),
            mutations: list(&spec["mutations"]).iter().map(mutation).collect(),
            variables,
            reinvoked: spec["reinvocationPolicy"] == "IfNeeded",
        }
    }
}

/// A binding of either sort.
pub struct Binding {
    pub name: String,
    pub policy: String,
    /// Null: none.
    pub param_ref: Value,
    pub matcher: Matcher,
    pub denies: bool,
    pub warns: bool,
    pub audits: bool,
}

/// The binding of a stored object.
pub fn binding(entry: &Entry) -> Vec<Arc<Binding>> {
    cache::object(entry).map(|object| Arc::new(Binding::new(&object))).into_iter().collect()
}

impl Binding {
    fn new(object: &Value) -> Self {
        let spec = &object["spec"];
        let mut matcher = Matcher::parse(&spec["matchResources"], "resourceRules");
        if matcher.rules.is_empty() {
            // It narrows its policy by selectors alone, if at all.
            let all = json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]});
            matcher.rules.push(Rule::parse(&all));
        }
        let does = |action: &str| list(&spec["validationActions"]).iter().any(|a| a == action);
        Self {
            name: text(&object["metadata"]["name"]),
            policy: text(&spec["policyName"]),
            param_ref: spec["paramRef"].clone(),
            matcher,
            denies: does("Deny"),
            warns: does("Warn"),
            audits: does("Audit"),
        }
    }
}
