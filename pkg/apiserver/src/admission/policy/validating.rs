//! ValidatingAdmissionPolicy: refuses, warns or notes, as its bindings say.
use super::definition::{Binding, Policy, Validation};
use super::{Matched, Policies, denied, params};
use crate::admission::Attributes;
use crate::admission::expressions::{Scene, compose, policy_budget};
use crate::engine::Result;
use api::cel::{Budget, Value as Cel, Variables};
use serde_json::Value;

const SORT: &str = "ValidatingAdmissionPolicy";
/// The longest message that an expression may make (`MaxEvaluatedMessageExpressionSizeBytes`).
const MESSAGE_BYTES: usize = 5 * 1024;

/// Why a policy is against a request.
struct Objection {
    message: String,
    reason: String,
}

impl Objection {
    fn new(message: String) -> Self {
        Self { message, reason: "Invalid".into() }
    }
}

impl Policies {
    /// Asks the validating policies that match.
    ///
    /// # Errors
    /// The first objection whose binding denies.
    pub async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<()> {
        let mut refusal = None;
        for matched in self.validating.matching(attributes, object, old).await? {
            let scene = Scene::new(attributes, &matched.resource, object, old).await?;
            for binding in &matched.bindings {
                for objection in objections(attributes, &matched, binding, &scene).await {
                    let first = report(attributes, object, &matched.policy, binding, &objection);
                    refusal = refusal.or(first);
                }
            }
        }
        refusal.map_or(Ok(()), Err)
    }
}

/// Does with an objection what the binding says.
fn report(
    attributes: &Attributes<'_>,
    object: Option<&Value>,
    policy: &Policy,
    binding: &Binding,
    objection: &Objection,
) -> Option<Box<api::Status>> {
    let (name, message) = (&policy.name, &objection.message);
    if binding.warns {
        attributes.warn(format!("Validation failed for {SORT} '{name}' with binding '{}': {message}", binding.name));
    }
    if binding.audits {
        tracing::info!(policy = name, binding = binding.name, message, "audit: a validation failed");
    }
    binding.denies.then(|| denied(attributes, object, SORT, policy, binding, message, &objection.reason))
}

async fn objections(
    attributes: &Attributes<'_>,
    matched: &Matched,
    binding: &Binding,
    scene: &Scene,
) -> Vec<Objection> {
    let policy = &*matched.policy;
    match params::collect(attributes, policy, binding).await {
        Ok(params) => params.iter().flat_map(|params| evaluate(policy, scene, params.as_ref())).collect(),
        Err(_) if policy.fails_open => Vec::new(),
        Err(error) => vec![Objection::new(format!("failed to configure binding: {error}"))],
    }
}

/// What the policy has against the scene with these params.
fn evaluate(policy: &Policy, scene: &Scene, params: Option<&Value>) -> Vec<Objection> {
    let failed = |error: String| (!policy.fails_open).then(|| Objection::new(error));
    let variables = scene.variables(params);
    match policy.conditions.hold(&variables) {
        Ok(true) => {}
        Ok(false) => return Vec::new(),
        Err(error) => return failed(error).into_iter().collect(),
    }
    let mut budget = policy_budget();
    let variables = compose(&policy.variables, variables, &mut budget);
    let mut objections = Vec::new();
    for validation in &policy.validations {
        match validation.expression.evaluate(&variables, &mut budget) {
            Ok(Cel::Bool(true)) => {}
            Ok(_) => objections.push(Objection {
                message: validation.explain(&variables, &mut budget),
                reason: validation.reason.clone(),
            }),
            Err(error) => objections.extend(failed(error)),
        }
    }
    for (key, expression) in &policy.audit {
        match expression.evaluate(&variables, &mut budget) {
            Ok(value) => {
                if let Some(value) = value.as_str().map(str::trim).filter(|value| !value.is_empty()) {
                    tracing::info!(policy = policy.name, key, value, "audit annotation");
                }
            }
            Err(error) => objections.extend(failed(error)),
        }
    }
    objections
}

impl Validation {
    /// The message of its expression, its own, or the expression that does not hold.
    fn explain(&self, variables: &Variables<'_>, budget: &mut Budget) -> String {
        let said = self.message_expression.as_ref().and_then(|expression| {
            let value = expression.evaluate(variables, budget).ok()?;
            let text = value.as_str()?.trim().to_owned();
            (!text.is_empty() && text.len() <= MESSAGE_BYTES && !text.contains('\n')).then_some(text)
        });
        let own = Some(self.message.trim().to_owned()).filter(|message| !message.is_empty());
        said.or(own).unwrap_or_else(|| format!("failed expression: {}", self.expression.source.trim()))
    }
}
