//! Table output: kubectl's columns a kind, as `k8s.io/kubernetes/pkg/printers/internalversion` prints them.
//! Column definitions are data (`columns.json`); cells are a function a kind.

mod cluster;
mod custom;
mod network;
mod pod;
mod policy;
mod storage;
mod text;
mod workloads;

pub use custom::CustomPrinter;
pub use text::human_duration;

use crate::GroupVersionKind;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::LazyLock;

/// A column's definition as in `meta.k8s.io/v1 Table`.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: String,
    /// `string`, `integer`, `number`, `boolean`, `date`.
    pub ty: String,
    pub format: String,
    pub description: String,
    /// 0 is always shown; more only with `-o wide`.
    pub priority: i32,
}

/// How one kind prints: its columns, and a row's cells from an object at `now` (Unix seconds).
pub trait Printer: Send + Sync {
    fn columns(&self) -> &[Column];
    fn cells(&self, object: &Value, now: i64) -> Vec<Value>;
    /// The row's `conditions`; a finished pod has one.
    fn conditions(&self, object: &Value) -> Vec<Value> {
        let _ = object;
        Vec::new()
    }
}

/// The cells of one object. The columns' order is that of `columns.json`.
type Cells = fn(&Value, i64) -> Vec<Value>;

/// The printer of a built-in kind; kinds without their own get Name and Created At.
pub fn printer(kind: &GroupVersionKind) -> Box<dyn Printer> {
    let columns = COLUMNS.get(&format!("{} {}", kind.group_version(), kind.kind)).unwrap_or(&DEFAULT);
    let is_default = columns.len() == 2 && columns[1].name == "Created At";
    let own = cells(&kind.group, &kind.kind).filter(|_| !is_default && !std::ptr::eq(columns, &*DEFAULT));
    let is_pod = kind.group.is_empty() && kind.kind == "Pod";
    match own {
        Some(cells) => Box::new(BuiltIn { columns, cells, is_pod }),
        None => Box::new(BuiltIn { columns: &DEFAULT, cells: default_cells, is_pod }),
    }
}

struct BuiltIn {
    columns: &'static [Column],
    cells: Cells,
    is_pod: bool,
}

impl Printer for BuiltIn {
    fn columns(&self) -> &[Column] {
        self.columns
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        (self.cells)(object, now)
    }

    fn conditions(&self, object: &Value) -> Vec<Value> {
        if self.is_pod { pod::conditions(object) } else { Vec::new() }
    }
}

fn default_cells(object: &Value, _: i64) -> Vec<Value> {
    vec![object["metadata"]["name"].clone(), object["metadata"]["creationTimestamp"].clone()]
}

fn cells(group: &str, kind: &str) -> Option<Cells> {
    let found: Cells = match (group, kind) {
        ("", "Pod") => pod::pod,
        ("", "PodTemplate") => workloads::pod_template,
        ("", "ReplicationController") => workloads::replication_controller,
        ("apps", "ReplicaSet") => workloads::replica_set,
        ("apps", "Deployment") => workloads::deployment,
        ("apps", "StatefulSet") => workloads::stateful_set,
        ("apps", "DaemonSet") => workloads::daemon_set,
        ("apps", "ControllerRevision") => workloads::controller_revision,
        ("batch", "Job") => workloads::job,
        ("batch", "CronJob") => workloads::cron_job,
        ("autoscaling", "HorizontalPodAutoscaler") => workloads::horizontal_pod_autoscaler,
        ("policy", "PodDisruptionBudget") => workloads::pod_disruption_budget,
        ("", "Service") => network::service,
        ("", "Endpoints") => network::endpoints,
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slice,
        ("networking.k8s.io", "Ingress") => network::ingress,
        ("networking.k8s.io", "IngressClass") => network::ingress_class,
        ("networking.k8s.io", "NetworkPolicy") => network::network_policy,
        ("networking.k8s.io", "ServiceCIDR") => network::service_cidr,
        ("networking.k8s.io", "IPAddress") => network::ip_address,
        ("", "Node") => cluster::node,
        ("", "Namespace") => cluster::namespace,
        ("", "ConfigMap") => cluster::config_map,
        ("", "Secret") => cluster::secret,
        ("", "ServiceAccount") => cluster::name_and_age,
        ("" | "events.k8s.io", "Event") => cluster::event,
        ("", "ComponentStatus") => cluster::component_status,
        ("", "ResourceQuota") => cluster::resource_quota,
        ("coordination.k8s.io", "Lease") => cluster::lease,
        ("scheduling.k8s.io", "PriorityClass") => cluster::priority_class,
        ("node.k8s.io", "RuntimeClass") => cluster::runtime_class,
        ("apiregistration.k8s.io", "APIService") => cluster::api_service,
        ("", "PersistentVolume") => storage::persistent_volume,
        ("", "PersistentVolumeClaim") => storage::persistent_volume_claim,
        ("storage.k8s.io", "StorageClass") => storage::storage_class,
        ("storage.k8s.io", "VolumeAttachment") => storage::volume_attachment,
        ("storage.k8s.io", "VolumeAttributesClass") => storage::volume_attributes_class,
        ("storage.k8s.io", "CSIDriver") => storage::csi_driver,
        ("storage.k8s.io", "CSINode") => storage::csi_node,
        ("resource.k8s.io", "DeviceClass" | "ResourceClaimTemplate") => cluster::name_and_age,
        ("resource.k8s.io", "ResourceClaim") => storage::resource_claim,
        ("resource.k8s.io", "ResourceSlice") => storage::resource_slice,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => policy::role_binding,
        ("certificates.k8s.io", "CertificateSigningRequest") => policy::signing_request,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => policy::flow_schema,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => policy::priority_level,
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => {
            policy::webhooks
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy") => policy::policy,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding") => {
            policy::policy_binding
        }
        ("autoscaling", "Scale") => workloads::scale,
        _ => return None,
    };
    Some(found)
}

/// `columns.json`: descriptions once each, and the columns of every kind by `apiVersion Kind`.
#[derive(Deserialize)]
struct Data {
    descriptions: Vec<String>,
    kinds: HashMap<String, Vec<Row>>,
}

/// Name, type, format, priority, and the number of the description.
type Row = (String, String, String, i32, usize);

static COLUMNS: LazyLock<HashMap<String, Vec<Column>>> = LazyLock::new(|| {
    let data: Data = serde_json::from_str(include_str!("columns.json")).expect("the file is part of the program");
    let column = |(name, ty, format, priority, description): Row| Column {
        name,
        ty,
        format,
        priority,
        description: data.descriptions[description].clone(),
    };
    data.kinds.into_iter().map(|(kind, columns)| (kind, columns.into_iter().map(column).collect())).collect()
});

static DEFAULT: LazyLock<Vec<Column>> = LazyLock::new(|| COLUMNS["v1 LimitRange"].clone());

#[cfg(test)]
mod tests;
