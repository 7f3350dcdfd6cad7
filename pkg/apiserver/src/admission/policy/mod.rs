//! Admission policies: what the cluster asks of objects, in expressions that are kept in objects themselves
//! (`k8s.io/apiserver/pkg/admission/plugin/policy`).
mod definition;
mod mutating;
mod params;
#[cfg(test)]
mod tests;
mod type_check;
mod validating;

use super::Attributes;
use super::cache::Cached;
use crate::engine::Result;
use crate::registry::Resource;
use definition::{Binding, Policy};
use serde_json::Value;
use std::sync::Arc;
pub(crate) use type_check::warnings as type_warnings;

/// The stored policies and bindings.
pub struct Policies {
    validating: Sort,
    mutating: Sort,
}

/// Policies and bindings of one sort.
struct Sort {
    policies: Cached<Policy>,
    bindings: Cached<Binding>,
}

impl Default for Policies {
    fn default() -> Self {
        let sort = |policies, bindings| Sort {
            policies: Cached::new(policies, definition::policy),
            bindings: Cached::new(bindings, definition::binding),
        };
        Self {
            validating: sort("/registry/validatingadmissionpolicies/", "/registry/validatingadmissionpolicybindings/"),
            mutating: sort("/registry/mutatingadmissionpolicies/", "/registry/mutatingadmissionpolicybindings/"),
        }
    }
}

/// A policy that is for this request, with the bindings that are.
struct Matched {
    policy: Arc<Policy>,
    /// In whose version the policy wants the objects.
    resource: Arc<Resource>,
    bindings: Vec<Arc<Binding>>,
}

/// Policies are no matter of policies: nobody could repair them. Reviews change nothing.
fn exempt(attributes: &Attributes<'_>) -> bool {
    matches!(
        &*attributes.resource().gvr.group,
        "admissionregistration.k8s.io" | "authentication.k8s.io" | "authorization.k8s.io"
    )
}

impl Sort {
    async fn matching(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<Vec<Matched>> {
        if exempt(attributes) {
            return Ok(Vec::new());
        }
        let backend = attributes.call.backend();
        let bindings = self.bindings.get(backend).await?;
        if bindings.is_empty() {
            return Ok(Vec::new());
        }
        let mut matched = Vec::new();
        for policy in &*self.policies.get(backend).await? {
            let Some(resource) = policy.matcher.matches(attributes, object, old).await? else { continue };
            let mut own = Vec::new();
            for binding in bindings.iter().filter(|binding| binding.policy == policy.name) {
                if binding.matcher.matches(attributes, object, old).await?.is_some() {
                    own.push(binding.clone());
                }
            }
            if !own.is_empty() {
                matched.push(Matched { policy: policy.clone(), resource, bindings: own });
            }
        }
        Ok(matched)
    }
}

/// The refusal of a policy.
fn denied(
    attributes: &Attributes<'_>,
    object: Option<&Value>,
    sort: &str,
    policy: &Policy,
    binding: &Binding,
    message: &str,
    reason: &str,
) -> Box<api::Status> {
    let (policy, binding) = (&policy.name, &binding.name);
    let text = format!("{sort} '{policy}' with binding '{binding}' denied request: {message}");
    let mut status = attributes.forbidden(object, &text);
    status.code = match reason {
        "Unauthorized" => 401,
        "Forbidden" => 403,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    status.reason = reason.to_owned();
    status.add_cause("", &text, "");
    status
}
