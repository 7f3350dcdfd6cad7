//! Validation of built-in kinds, with upstream's field paths and texts.
//!
//! Runs on defaulted objects, after decoding: types are right, and what is missing is missing. A kind's checks
//! stand in the file of its area; types that many kinds share (PodSpec, selectors, metadata) have their own.
//! Upstream's functions of the same purpose are in `k8s.io/kubernetes/pkg/apis/*/validation`.
mod admission;
mod apps;
mod autoscaling;
mod batch;
mod certificates;
mod classes;
mod cluster;
mod config;
mod definition;
mod error;
mod event;
pub mod field;
mod ip;
mod meta;
pub mod names;
mod network;
mod pod;
mod pod_port;
mod policy;
mod quota;
mod rbac;
mod selector;
mod service;
pub mod shown;
mod storage;
mod structural;

pub use definition::{Approval, approval_of};
pub use error::{FieldError, Reason};
pub use meta::NameRule;

use crate::GroupVersionKind;
use field::{Errors, Path, Tree};
use pod::Change;
use serde_json::Value;

/// Checks a defaulted object of a built-in kind: alone for a create, against `old` for an update (immutable
/// fields, and ratcheting: what was invalid before and is unchanged passes).
pub fn validate(kind: &GroupVersionKind, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    validate_subresource(kind, "", new, old)
}

/// The same for a change that came through a subresource, which may open what is otherwise immutable
/// (`binding`, `ephemeralcontainers`, `resize`).
pub fn validate_subresource(
    kind: &GroupVersionKind,
    subresource: &str,
    new: &Value,
    old: Option<&Value>,
) -> Vec<FieldError> {
    let mut errors = Errors::default();
    if let ("apiextensions.k8s.io", "status", Some(old)) = (&*kind.group, subresource, old) {
        // Upstream looks at nothing else: administrators take versions off the list of the stored ones.
        meta::metadata_update(&mut errors, new, old);
        definition::accepted_names(&mut errors, new);
        return errors.0;
    }
    whole(&mut errors, kind, new);
    let Some(old) = old else {
        create(&mut errors, kind, new);
        return errors.0;
    };
    meta::once_more(&mut errors, new);
    meta::standard_finalizers(&mut errors, new);
    ratchet(&mut errors, || {
        let mut before = Errors::default();
        whole(&mut before, kind, old);
        before
    });
    meta::metadata_update(&mut errors, new, old);
    let found = errors.0.len();
    changed(&mut errors, kind, subresource, new, old);
    if kind.group.is_empty() && matches!(&*kind.kind, "ConfigMap" | "Secret") {
        // Here upstream looks at what changed before it looks at the whole.
        errors.0.rotate_left(found);
    }
    errors.0
}

/// Metadata alone, for custom resources.
pub fn validate_metadata(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    meta::metadata(&mut errors, new, NameRule::Subdomain);
    if let Some(old) = old {
        ratchet(&mut errors, || {
            let mut before = Errors::default();
            meta::metadata(&mut before, old, NameRule::Subdomain);
            before
        });
        meta::metadata_update(&mut errors, new, old);
    }
    errors.0
}

/// The labels and annotations of a `metadata` alone.
pub fn validate_labels(meta: &Value) -> Vec<FieldError> {
    let (mut errors, path) = (Errors::default(), Path::field("metadata"));
    meta::labels(&mut errors, &path.child("labels"), meta, "labels");
    meta::annotations(&mut errors, &path.child("annotations"), meta);
    errors.0
}

/// What names of this kind look like.
pub fn name_rule(kind: &GroupVersionKind) -> NameRule {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Namespace" | "Service") | ("apps", "StatefulSet") => NameRule::Label,
        ("rbac.authorization.k8s.io", _) | ("apiregistration.k8s.io", "APIService") => NameRule::PathSegment,
        ("networking.k8s.io", "IPAddress") | ("certificates.k8s.io", _) => NameRule::Any,
        _ => NameRule::Subdomain,
    }
}

/// Errors that the stored object had too, word for word, are no fault of this change.
fn ratchet(errors: &mut Errors, before: impl FnOnce() -> Errors) {
    if !errors.0.is_empty() {
        let before = before();
        errors.0.retain(|error| !before.0.contains(error));
    }
}

/// What must hold of an object at any time.
fn whole(errors: &mut Errors, kind: &GroupVersionKind, object: &Value) {
    meta::metadata(errors, object, name_rule(kind));
    meta::standard_finalizers(errors, object);
    let spec = Path::field("spec");
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => pod::pod(errors, object),
        ("", "PodTemplate") => pod::template(errors, &Path::field("template"), &object["template"]),
        ("", "Service") => service::service(errors, object),
        ("", "Endpoints") => network::endpoints(errors, object),
        ("", "ConfigMap") => config::config_map(errors, object),
        ("", "Secret") => config::secret(errors, object),
        ("", "ReplicationController") => apps::replication_controller(errors, &spec, &object["spec"]),
        ("", "Node") => cluster::node(errors, object),
        ("", "Namespace") => cluster::namespace(errors, object),
        ("", "PersistentVolume") => storage::volume(errors, object),
        ("", "PersistentVolumeClaim") => storage::claim(errors, &spec, &object["spec"]),
        ("" | "events.k8s.io", "Event") => event::event(errors, kind, object),
        ("", "ResourceQuota") => quota::resource_quota(errors, object),
        ("", "LimitRange") => quota::limit_range(errors, object),
        ("apps", "Deployment") => apps::deployment(errors, &spec, &object["spec"]),
        ("apps", "ReplicaSet") => apps::replica_set(errors, &spec, &object["spec"]),
        ("apps", "StatefulSet") => apps::stateful_set(errors, &spec, &object["spec"]),
        ("apps", "DaemonSet") => apps::daemon_set(errors, &spec, &object["spec"]),
        ("apps", "ControllerRevision") => {
            errors.none_negative(&Path::root(), object, &["revision"]);
            if !object.has("data") {
                errors.required(&Path::field("data"), "data is mandatory");
            }
        }
        ("batch", "Job") => batch::job(errors, object),
        ("batch", "CronJob") => batch::cron_job(errors, &spec, &object["spec"]),
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slice(errors, object),
        ("networking.k8s.io", "NetworkPolicy") => network::network_policy(errors, &spec, &object["spec"]),
        ("networking.k8s.io", "Ingress") => network::ingress(errors, &spec, &object["spec"]),
        ("networking.k8s.io", "IngressClass") => classes::ingress_class(errors, &spec, &object["spec"]),
        ("networking.k8s.io", "ServiceCIDR") => classes::service_cidr(errors, &spec, &object["spec"]),
        ("node.k8s.io", "RuntimeClass") => classes::runtime_class(errors, object),
        ("storage.k8s.io", "CSIDriver") => classes::csi_driver(errors, &spec, &object["spec"]),
        ("storage.k8s.io", "CSINode") => classes::csi_node(errors, &spec, &object["spec"]),
        ("storage.k8s.io", "VolumeAttachment") => classes::volume_attachment(errors, &spec, &object["spec"]),
        ("storage.k8s.io", "VolumeAttributesClass") => storage::attributes_class(errors, object),
        ("apiregistration.k8s.io", "APIService") => classes::api_service(errors, object),
        ("certificates.k8s.io", "CertificateSigningRequest") => certificates::request(errors, object),
        ("storage.k8s.io", "CSIStorageCapacity") => classes::csi_storage_capacity(errors, object),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => classes::flow_schema(errors, &spec, &object["spec"]),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => {
            classes::priority_level(errors, &spec, &object["spec"]);
        }
        ("networking.k8s.io", "IPAddress") => network::ip_address(errors, object),
        ("rbac.authorization.k8s.io", kind) => rbac::rbac(errors, kind, object),
        ("coordination.k8s.io", "Lease") => cluster::lease(errors, &spec, &object["spec"]),
        ("scheduling.k8s.io", "PriorityClass") => cluster::priority_class(errors, object),
        ("storage.k8s.io", "StorageClass") => storage::class(errors, object),
        ("policy", "PodDisruptionBudget") => policy::disruption_budget(errors, &spec, &object["spec"]),
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaling::autoscaler(errors, &spec, &object["spec"]),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => definition::definition(errors, object),
        ("admissionregistration.k8s.io", kind) => admission_kind(errors, kind, object),
        ("autoscaling", "Scale") => errors.none_negative(&spec, &object["spec"], &["replicas"]),
        _ => {}
    }
}

fn admission_kind(errors: &mut Errors, kind: &str, object: &Value) {
    match kind {
        "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => admission::webhooks(errors, object),
        "ValidatingAdmissionPolicy" => admission::policy(errors, object, false),
        "MutatingAdmissionPolicy" => admission::policy(errors, object, true),
        "ValidatingAdmissionPolicyBinding" => admission::binding(errors, object, false),
        "MutatingAdmissionPolicyBinding" => admission::binding(errors, object, true),
        _ => {}
    }
}

/// What only a new object may not have.
fn create(errors: &mut Errors, kind: &GroupVersionKind, object: &Value) {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => pod::create(errors, object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => definition::definition_create(errors, object),
        ("events.k8s.io", "Event") => event::create(errors, object),
        ("batch", "CronJob") => batch::cron_job_name(errors, object),
        _ => {}
    }
}

/// What may not change.
fn changed(errors: &mut Errors, kind: &GroupVersionKind, subresource: &str, new: &Value, old: &Value) {
    let (spec, root) = (Path::field("spec"), Path::root());
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => {
            let change = match subresource {
                "binding" => Change::Binding,
                "ephemeralcontainers" => Change::EphemeralContainers,
                "resize" => Change::Resize,
                _ => Change::Plain,
            };
            pod::update(errors, new, old, change);
        }
        ("", "Service") if subresource == "status" => service::status(errors, new),
        ("", "Service") => service::update(errors, new, old),
        ("", "ConfigMap") => config::frozen(errors, new, old, &["data", "binaryData"]),
        ("", "Secret") => {
            errors.immutable(&Path::field("type"), &new["type"], &old["type"]);
            config::frozen(errors, new, old, &["data"]);
        }
        ("", "Node") => cluster::node_update(errors, new, old),
        ("", "PersistentVolume") => storage::volume_update(errors, new, old),
        ("", "PersistentVolumeClaim") => storage::claim_update(errors, new, old),
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet") => {
            errors.all_immutable(&spec, &new["spec"], &old["spec"], &["selector"]);
        }
        ("apps", "StatefulSet") => apps::stateful_set_update(errors, new, old),
        ("apps", "ControllerRevision") => errors.all_immutable(&root, new, old, &["data"]),
        ("batch", "Job") => batch::job_update(errors, &spec, &new["spec"], &old["spec"]),
        ("discovery.k8s.io", "EndpointSlice") => errors.all_immutable(&root, new, old, &["addressType"]),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => rbac::update(errors, new, old),
        ("scheduling.k8s.io", "PriorityClass") => cluster::priority_class_update(errors, new, old),
        ("storage.k8s.io", "StorageClass") => {
            let fixed = ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"];
            errors.all_immutable(&root, new, old, &fixed);
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => definition::definition_update(errors, new, old),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
