//! MutatingAdmissionPolicy: changes objects by merged configurations or JSON patches.
use super::definition::{Mutation, Policy};
use super::{Matched, Policies, denied, params};
use crate::admission::Attributes;
use crate::admission::expressions::{Scene, compose, policy_budget};
use crate::admission::webhook::Rounds;
use crate::engine::Result;
use crate::registry::Resource;
use serde_json::{Value, json};

const SORT: &str = "MutatingAdmissionPolicy";

impl Policies {
    /// Lets the mutating policies that match change the object.
    ///
    /// # Errors
    /// What a policy that does not fail open could not do.
    pub async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Option<&mut Value>,
        old: Option<&Value>,
        rounds: &mut Rounds,
    ) -> Result<()> {
        let Some(object) = object.as_deref_mut() else { return Ok(()) };
        rounds.resume(Some(object));
        for matched in self.mutating.matching(attributes, Some(object), old).await? {
            for index in 0..matched.bindings.len() {
                run(attributes, &matched, index, object, old, rounds).await?;
            }
        }
        rounds.leave(Some(object));
        Ok(())
    }
}

/// One policy with one of its bindings.
async fn run(
    attributes: &Attributes<'_>,
    matched: &Matched,
    index: usize,
    object: &mut Value,
    old: Option<&Value>,
    rounds: &mut Rounds,
) -> Result<()> {
    let (policy, binding) = (&*matched.policy, &matched.bindings[index]);
    let fail = |object: &Value, error: String| {
        tracing::debug!(policy = policy.name, binding = binding.name, error, "a mutating policy failed");
        let refusal = || denied(attributes, Some(object), SORT, policy, binding, &error, "Invalid");
        if policy.fails_open { Ok(()) } else { Err(refusal()) }
    };
    let params = match params::collect(attributes, policy, binding).await {
        Ok(params) => params,
        Err(error) => return fail(object, format!("failed to configure binding: {error}")),
    };
    for (place, params) in params.iter().enumerate() {
        let id = format!("{}/{}/{place}", policy.name, binding.name);
        if rounds.skips(&id) {
            continue;
        }
        let mut scene = Scene::new(attributes, &matched.resource, Some(object), old).await?;
        let before = object.clone();
        match policy.conditions.hold(&scene.variables(params.as_ref())) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                fail(object, error)?;
                continue;
            }
        }
        for mutation in &policy.mutations {
            let changed = change(policy, mutation, &scene, params.as_ref(), &matched.resource);
            let taken = match changed {
                Ok(new) => attributes.taken(&matched.resource, new).await.map_err(|status| status.message),
                Err(error) => Err(error),
            };
            match taken {
                Ok(new) => {
                    scene.set_object(attributes.shown(&matched.resource, &new).await?);
                    *object = new;
                }
                Err(error) => fail(object, error)?,
            }
        }
        if before != *object {
            rounds.changed();
        }
        if policy.reinvoked {
            rounds.remember(id);
        }
    }
    Ok(())
}

/// The object after one mutation, in the policy's version.
fn change(
    policy: &Policy,
    mutation: &Mutation,
    scene: &Scene,
    params: Option<&Value>,
    resource: &Resource,
) -> std::result::Result<Value, String> {
    let mut budget = policy_budget();
    let variables = compose(&policy.variables, scene.variables(params), &mut budget);
    match mutation {
        Mutation::Apply(expression) => {
            let patch = expression.evaluate(&variables, &mut budget)?.to_json();
            if !patch.is_object() {
                return Err("unsupported return type from ApplyConfiguration expression".into());
            }
            api::apply::merge_unowned(scene.object(), &patch, resource.ty(), &resource.schemas)
                .map_err(|error| format!("error applying patch: {error}"))
        }
        Mutation::JsonPatch(expression) => {
            let operations = expression.evaluate(&variables, &mut budget)?.to_json();
            let patch = json!(operations.as_array().ok_or("JSONPatch expressions must return a list")?).to_string();
            api::patch::json_patch(scene.object(), patch.as_bytes()).map_err(|error| format!("JSON Patch: {error}"))
        }
    }
}
