//! Admission: what the cluster as a whole says to a write, after who may do it and before it is stored.
//!
//! `plugins (in upstream's order) -> policies -> webhooks` change an object, together once more where a webhook's change asks
//! for it; then, when the object is complete and valid, `plugins -> policies -> webhooks` may refuse it, and quotas
//! are charged as it is stored. Each plugin is pure
//! over the object and the few others that are looked up for it.

mod attributes;
mod authorizer;
mod cache;
mod certificates;
mod expressions;
pub(crate) mod home;
mod limit_ranger;
mod lookup;
mod namespaces;
mod node_restriction;
mod nodes;
mod pod_security;
mod policy;
mod priority;
mod quota;
mod rules;
mod runtime_class;
mod service_account;
mod storage;
mod tolerations;
pub(crate) mod webhook;

use crate::engine::{Call, Result};
use api::Status;
pub(crate) use attributes::Attributes;
pub use attributes::Operation;
pub(crate) use namespaces::namespace_is_there;
use policy::Policies;
pub(crate) use policy::type_warnings;
pub(crate) use quota::Charge;
use serde_json::Value;
use webhook::{Rounds, Webhooks};

/// Everything that has a say.
#[derive(Default)]
pub struct Admission {
    policies: Policies,
    webhooks: Webhooks,
    turns: quota::Turns,
}

impl Admission {
    /// Changes `object`, where there is one, as plugins and webhooks want it.
    ///
    /// # Errors
    /// The first that refuses.
    pub(crate) async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        mut object: Option<&mut Value>,
        old: Option<&Value>,
    ) -> Result<()> {
        let mut rounds: [Rounds; 2] = Default::default();
        self.round(attributes, &mut object, old, &mut rounds).await?;
        if rounds.iter().any(|rounds| rounds.again) {
            rounds.iter_mut().for_each(Rounds::begin_second);
            self.round(attributes, &mut object, old, &mut rounds).await?;
        }
        Ok(())
    }

    async fn round(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Option<&mut Value>,
        old: Option<&Value>,
        [of_policies, of_webhooks]: &mut [Rounds; 2],
    ) -> Result<()> {
        if let Some(object) = object.as_deref_mut() {
            plugins(attributes, object, old).await?;
        }
        self.policies.mutate(attributes, object, old, of_policies).await?;
        self.webhooks.mutate(attributes, object, old, of_webhooks).await
    }

    /// Asks everybody about a complete and valid object, or about a delete or connection without one.
    ///
    /// # Errors
    /// The first that refuses.
    pub(crate) async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<()> {
        check(attributes, object, old)?;
        if let Some(object) = object {
            check_of_node(attributes, object).await?;
            limit_ranger::validate(attributes, object, old).await?;
            pod_security::validate(attributes, object, old).await?;
        }
        self.policies.validate(attributes, object, old).await?;
        self.webhooks.validate(attributes, object, old).await
    }

    /// What quotas charge for a write that is about to be stored, or release for a removal without `object`.
    ///
    /// # Errors
    /// 403 for what a quota does not allow.
    pub(crate) async fn charge(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<Charge> {
        quota::charge(&self.turns, attributes, object, old).await
    }

    /// Both for what is not stored: a delete, a connection, or the body of a subresource with a kind of its own.
    ///
    /// # Errors
    /// The first that refuses.
    pub(crate) async fn admit(
        &self,
        attributes: &Attributes<'_>,
        mut object: Option<&mut Value>,
        old: Option<&Value>,
    ) -> Result<()> {
        self.mutate(attributes, object.as_deref_mut(), old).await?;
        self.validate(attributes, object.as_deref(), old).await
    }
}

/// The plugins that change objects.
async fn plugins(attributes: &Attributes<'_>, new: &mut Value, old: Option<&Value>) -> Result<()> {
    limit_ranger::mutate(attributes, new, old).await?;
    match (attributes.operation, old) {
        (Operation::Create, _) => home::place(attributes, new).await?,
        (Operation::Update, Some(old)) => home::keep(attributes, new, old)?,
        _ => {}
    }
    match attributes.operation {
        Operation::Create if attributes.is("", "pods") => create_pod(attributes, new).await,
        Operation::Update if attributes.is("", "pods") => {
            tolerations::tolerate(new);
            priority::keep(new, old.unwrap_or(&Value::Null));
            Ok(())
        }
        Operation::Create if attributes.is("", "persistentvolumes") => {
            storage::protect(new, storage::VOLUME);
            Ok(())
        }
        Operation::Create if attributes.is("storage.k8s.io", "volumeattributesclasses") => {
            storage::protect(new, storage::ATTRIBUTES_CLASS);
            Ok(())
        }
        Operation::Create if attributes.is("", "persistentvolumeclaims") => {
            storage::protect(new, storage::CLAIM);
            let open = storage::lacks_class(new);
            let class = if open { lookup::default_storage_class(attributes.call).await? } else { None };
            if let Some(class) = class {
                new["spec"]["storageClassName"] = class.into();
            }
            Ok(())
        }
        Operation::Create if attributes.is("", "nodes") => {
            nodes::taint(new);
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn create_pod(attributes: &Attributes<'_>, pod: &mut Value) -> Result<()> {
    let call: &Call<'_> = attributes.call;
    if service_account::is_mirror(pod) {
        service_account::check_mirror(pod).map_err(|why| attributes.forbidden(Some(pod), &why))?;
    } else {
        let wanted = service_account::wanted(pod);
        let account = lookup::service_account(call, &wanted).await?.ok_or_else(|| {
            let place = format!("{}/{wanted}", call.namespace());
            let why = format!("error looking up service account {place}: serviceaccount \"{wanted}\" not found");
            attributes.forbidden(Some(pod), &why)
        })?;
        let volume = crate::engine::generate_name(service_account::VOLUME_PREFIX);
        service_account::mount(pod, &account, &volume);
        service_account::check_secrets(pod, &account).map_err(|why| attributes.forbidden(Some(pod), &why))?;
    }
    tolerations::tolerate(pod);
    let class = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let class = lookup::priority_class(call, &class)
        .await?
        .ok_or_else(|| attributes.forbidden(Some(pod), &format!("no PriorityClass with name {class} was found")))?;
    priority::resolve(pod, class.as_ref()).map_err(|why| attributes.forbidden(Some(pod), &why))?;
    let class = match runtime_class::wanted(pod) {
        Some(name) => {
            let missing =
                || attributes.forbidden(Some(pod), &format!("pod rejected: RuntimeClass \"{name}\" not found"));
            Some(lookup::runtime_class(call, name).await?.ok_or_else(missing)?)
        }
        None => None,
    };
    runtime_class::resolve(pod, class.as_ref()).map_err(|why| attributes.forbidden(Some(pod), &why))
}

/// What a node does with a pod, where another object decides.
async fn check_of_node(attributes: &Attributes<'_>, object: &Value) -> Result<()> {
    let call = attributes.call;
    let pods = attributes.resource().gvr.resource == "pods" && attributes.resource().gvr.group.is_empty();
    let node = node_restriction::node_of_user(&call.request.user);
    let Some(node) = node.filter(|_| pods && attributes.operation == Operation::Create) else { return Ok(()) };
    let judged = match attributes.subresource() {
        "" => {
            let stored = lookup::object(call, &format!("/registry/minions/{node}")).await?;
            let stored = stored.ok_or_else(|| Status::not_found("", "nodes", node))?;
            node_restriction::owns(node, object, &stored)
        }
        "eviction" => {
            let key = format!("/registry/pods/{}/{}", call.namespace(), attributes.name);
            let pod = lookup::object(call, &key).await?;
            let pod = pod.ok_or_else(|| Status::not_found("", "pods", &attributes.name))?;
            node_restriction::evicts(node, &pod)
        }
        _ => Ok(()),
    };
    judged.map_err(|why| attributes.forbidden(Some(object), &why))
}

/// The plugins that only look.
pub(crate) fn check(attributes: &Attributes<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<()> {
    let call = attributes.call;
    namespaces::protect(call, attributes.operation, old)?;
    if let (Some(guard), Some(new)) = (&call.request.escalation, new) {
        guard.check(new, old)?;
    }
    let object = new.or(old).unwrap_or(&Value::Null);
    let write = node_restriction::Write {
        operation: attributes.operation,
        group: &call.resource.gvr.group,
        resource: &call.resource.gvr.resource,
        subresource: attributes.subresource(),
        namespace: call.namespace(),
        name: object["metadata"]["name"].as_str().unwrap_or_default(),
        new,
        old,
    };
    node_restriction::check(&call.request.user, &write).map_err(|why| attributes.forbidden(Some(object), &why))?;
    let (authorizer, user) = (call.engine.authorizer(), &call.request.user);
    certificates::check(authorizer, user, &write).map_err(|why| attributes.forbidden(Some(object), &why))
}
