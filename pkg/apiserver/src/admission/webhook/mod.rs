//! Admission webhooks: programs outside that change or refuse writes
//! (`k8s.io/apiserver/pkg/admission/plugin/webhook`).
//!
//! Mutating webhooks are called one after the other, in the order of their configurations' names; those that want
//! it once more when a later one changed the object. Validating webhooks are called at once.
mod hook;
#[cfg(test)]
#[path = "tests.rs"]
mod over_tls;
mod review;

pub use hook::Hook;
pub(crate) use review::Question;

use super::Attributes;
use super::cache::Cached;
use super::expressions::Scene;
use crate::engine::Result;
use crate::registry::Resource;
use api::Status;
use futures::future::join_all;
use review::Answer;
use serde_json::Value;
use std::collections::HashSet;
use std::sync::Arc;

/// The stored configurations.
pub struct Webhooks {
    mutating: Cached<Hook>,
    validating: Cached<Hook>,
}

impl Default for Webhooks {
    fn default() -> Self {
        Self {
            mutating: Cached::new("/registry/mutatingwebhookconfigurations/", hook::parse),
            validating: Cached::new("/registry/validatingwebhookconfigurations/", hook::parse),
        }
    }
}

/// Why a webhook's word stops a request.
enum Failure {
    /// It could not be asked; what then happens is its failure policy's to say.
    Call(String),
    /// It said no, or what it said can't be done.
    Refused(Box<Status>),
}

/// What mutating webhooks (or policies) did so far to one request.
#[derive(Default)]
pub struct Rounds {
    /// Whether everything that mutates is to run once more.
    pub again: bool,
    /// Were called, and want to be called again.
    called: HashSet<String>,
    /// Of those, the ones that something changed after.
    due: HashSet<String>,
    second: bool,
    /// The object as the last round left it.
    left: Option<Value>,
}

impl Rounds {
    /// The object changed: who was called before and wants it is called again.
    pub fn changed(&mut self) {
        self.due.extend(self.called.drain());
        self.again = true;
    }

    /// Begins the second and last round.
    pub fn begin_second(&mut self) {
        (self.second, self.again) = (true, false);
    }

    /// Others may have changed the object since webhooks saw it last.
    pub fn resume(&mut self, object: Option<&Value>) {
        if self.second && self.left.as_ref() != object {
            self.changed();
        }
    }

    /// The object as this round leaves it.
    pub fn leave(&mut self, object: Option<&Value>) {
        self.left = object.cloned();
    }

    /// In the second round only those come that are due.
    pub fn skips(&self, id: &str) -> bool {
        self.second && !self.due.contains(id)
    }

    /// It was called, and wants to be called again.
    pub fn remember(&mut self, id: String) {
        self.called.insert(id);
    }
}

/// Configurations of admission itself are not for webhooks to stop: nobody could repair them.
fn exempt(attributes: &Attributes<'_>) -> bool {
    attributes.resource().gvr.group == "admissionregistration.k8s.io"
}

impl Webhooks {
    /// Calls the mutating webhooks that match; what they want of the object is done.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Option<&mut Value>,
        old: Option<&Value>,
        rounds: &mut Rounds,
    ) -> Result<()> {
        if exempt(attributes) {
            return Ok(());
        }
        rounds.resume(object.as_deref());
        for hook in &*self.mutating.get(attributes.call.backend()).await? {
            let Some(resource) = hook.matcher.matches(attributes, object.as_deref(), old).await? else { continue };
            if rounds.skips(&hook.id) || !hook.wants(attributes, &resource, object.as_deref(), old).await? {
                continue;
            }
            match hook.mutate(attributes, &resource, object, old).await {
                Ok(true) => rounds.changed(),
                Ok(false) => {}
                Err(failure) => hook.fail(failure)?,
            }
            if hook.reinvoked {
                rounds.remember(hook.id.clone());
            }
        }
        rounds.leave(object.as_deref());
        Ok(())
    }

    /// Asks the validating webhooks that match.
    ///
    /// # Errors
    /// A refusal.
    pub async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<()> {
        if exempt(attributes) {
            return Ok(());
        }
        let mut matching = Vec::new();
        let hooks = self.validating.get(attributes.call.backend()).await?;
        for hook in &*hooks {
            if let Some(resource) = hook.matcher.matches(attributes, object, old).await?
                && hook.wants(attributes, &resource, object, old).await?
            {
                matching.push((hook, resource));
            }
        }
        let asked = matching.iter().map(|(hook, resource)| async move {
            let answer =
                hook.ask(attributes, resource, object, old, false).await.and_then(|a| hook.consent(attributes, a));
            answer.map(drop).or_else(|failure| hook.fail(failure))
        });
        join_all(asked).await.into_iter().collect()
    }
}

impl Hook {
    /// Whether its match conditions hold.
    async fn wants(
        &self,
        attributes: &Attributes<'_>,
        resource: &Resource,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<bool> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let scene = Scene::new(attributes, resource, object, old).await?;
        match self.conditions.hold(&scene.variables(None)) {
            Ok(hold) => Ok(hold),
            Err(_) if self.fails_open => Ok(false),
            Err(error) => Err(attributes.forbidden(object.or(old), &error)),
        }
    }

    /// What a failure means for the request.
    fn fail(&self, failure: Failure) -> Result<()> {
        match failure {
            Failure::Refused(status) => Err(status),
            Failure::Call(why) if self.fails_open => {
                tracing::warn!(webhook = self.name, why, "calling a webhook failed; its policy is to go on");
                Ok(())
            }
            Failure::Call(why) => {
                Err(Status::internal(format!("failed calling webhook {:?}: {why}", self.name)).into())
            }
        }
    }

    /// Asks and does what is wanted. Returns whether the object changed.
    async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        resource: &Arc<Resource>,
        object: &mut Option<&mut Value>,
        old: Option<&Value>,
    ) -> std::result::Result<bool, Failure> {
        let answer = self.ask(attributes, resource, object.as_deref(), old, true).await?;
        let answer = self.consent(attributes, answer)?;
        let Some(patch) = answer.patch.filter(|patch| patch.as_slice() != b"[]") else { return Ok(false) };
        let Some(object) = object.as_deref_mut() else {
            let why = "attempted to modify the object, which is not supported for this operation";
            return Err(refused(Status::internal(format!("admission webhook {:?} {why}", self.name))));
        };
        let shown = attributes.shown(resource, object).await.map_err(Failure::Refused)?;
        let patched = api::patch::json_patch(&shown, &patch).map_err(|error| refused(Status::internal(error)))?;
        let new = attributes.taken(resource, patched).await.map_err(Failure::Refused)?;
        let changed = new != *object;
        *object = new;
        Ok(changed)
    }

    async fn ask(
        &self,
        attributes: &Attributes<'_>,
        resource: &Arc<Resource>,
        object: Option<&Value>,
        old: Option<&Value>,
        mutating: bool,
    ) -> std::result::Result<Answer, Failure> {
        if attributes.dry_run && !self.dry_runs {
            let why = format!("admission webhook {:?} does not support dry run", self.name);
            return Err(refused(Status::bad_request(why)));
        }
        let version = self.version.ok_or_else(|| {
            let why = "webhook does not accept known AdmissionReview versions (v1, v1beta1)";
            Failure::Call(format!("could not create admission objects: {why}"))
        })?;
        let unreachable = |why: &String| Failure::Call(format!("could not get REST client: {why}"));
        let client = self.client.as_ref().map_err(unreachable)?;
        let uid = uuid::Uuid::new_v4().to_string();
        let review = attributes.question(&uid, resource, object, old, |question| question.review(version));
        let review = review.await.map_err(Failure::Refused)?;
        let body = serde_json::to_vec(&review).expect("a tree is JSON").into();
        let answer = client.post(attributes.call.engine.reach(), body, self.timeout).await;
        let answer = answer.map_err(|error| Failure::Call(format!("failed to call webhook: {error}")))?;
        let invalid = |why| Failure::Call(format!("received invalid webhook response: {why}"));
        review::answer(&answer, &uid, version, mutating).map_err(invalid)
    }

    /// Hands on what the webhook had to say; a refusal becomes an error.
    fn consent(&self, attributes: &Attributes<'_>, answer: Answer) -> std::result::Result<Answer, Failure> {
        for (key, value) in &answer.audit {
            tracing::debug!(webhook = self.name, key, value, "audit annotation");
        }
        answer.warnings.iter().for_each(|warning| attributes.warn(warning.clone()));
        if answer.allowed { Ok(answer) } else { Err(refused(review::refusal(&self.name, &answer.result))) }
    }
}

fn refused(status: Status) -> Failure {
    Failure::Refused(status.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_came_before_a_change_is_called_again() {
        let mut rounds = Rounds::default();
        rounds.called.insert("first".into());
        rounds.changed();
        rounds.called.insert("second".into());
        assert!(rounds.again);
        rounds.left = Some(json!({}));
        rounds.begin_second();
        rounds.resume(Some(&json!({})));
        assert!(rounds.due.contains("first") && !rounds.due.contains("second") && !rounds.again);
        rounds.resume(Some(&json!({"changed": true})));
        assert!(rounds.due.contains("second"), "a plugin's change calls for all of them");
    }
}
