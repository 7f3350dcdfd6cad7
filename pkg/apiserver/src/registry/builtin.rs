//! The built-in resources as a table: names, scope, verbs, subresources, selectable fields and storage places
//! as Kubernetes v1.36 serves them.
use super::strategy::{self, Strategy};
use super::{Conversion, Resource, Served, Subresource};
use api::schema::Schemas;
use api::{GroupVersion, GroupVersionKind, GroupVersionResource};
use std::sync::Arc;

/// Everything that a stored resource can do.
pub const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const NO_COLLECTION_DELETE: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const UPDATABLE: &[&str] = &["get", "patch", "update"];
const CREATE: &[&str] = &["create"];
const CONNECT: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

/// A line of the table.
struct Row {
    resource: &'static str,
    kind: &'static str,
    namespaced: bool,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    verbs: &'static [&'static str],
    subresources: &'static [Sub],
    fields: &'static [&'static str],
    /// Where it differs from the resource's name.
    storage: Option<&'static str>,
    strategy: Strategy,
}

#[derive(Clone, Copy)]
struct Sub {
    name: &'static str,
    /// Group, version and kind of the body, where not the resource's own.
    body: Option<(&'static str, &'static str, &'static str)>,
    verbs: &'static [&'static str],
}

const fn own(name: &'static str) -> Sub {
    Sub { name, body: None, verbs: UPDATABLE }
}

const fn other(name: &'static str, group: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Sub {
    Sub { name, body: Some((group, "v1", kind)), verbs }
}

const STATUS: Sub = own("status");
const SCALE: Sub = Sub { name: "scale", body: Some(("autoscaling", "v1", "Scale")), verbs: UPDATABLE };
const WITH_STATUS: &[Sub] = &[STATUS];
const WITH_SCALE: &[Sub] = &[SCALE, STATUS];

const POD_SUBRESOURCES: &[Sub] = &[
    other("attach", "", "PodAttachOptions", CONNECT),
    other("binding", "", "Binding", CREATE),
    own("ephemeralcontainers"),
    other("eviction", "policy", "Eviction", CREATE),
    other("exec", "", "PodExecOptions", CONNECT),
    Sub { name: "log", body: None, verbs: &["get"] },
    other("portforward", "", "PodPortForwardOptions", CONNECT),
    other("proxy", "", "PodProxyOptions", PROXY),
    own("resize"),
    STATUS,
];
const NAMESPACE_SUBRESOURCES: &[Sub] = &[Sub { name: "finalize", body: None, verbs: &["update"] }, STATUS];
const NODE_SUBRESOURCES: &[Sub] = &[other("proxy", "", "NodeProxyOptions", PROXY), STATUS];
const SERVICE_SUBRESOURCES: &[Sub] = &[other("proxy", "", "ServiceProxyOptions", PROXY), STATUS];
const ACCOUNT_SUBRESOURCES: &[Sub] = &[other("token", "authentication.k8s.io", "TokenRequest", CREATE)];
const CSR_SUBRESOURCES: &[Sub] = &[own("approval"), STATUS];

const POD_FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
];
const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

const fn namespaced(resource: &'static str, kind: &'static str, strategy: Strategy) -> Row {
    Row {
        resource,
        kind,
        namespaced: true,
        short: &[],
        categories: &[],
        verbs: ALL_VERBS,
        subresources: &[],
        fields: &[],
        storage: None,
        strategy,
    }
}

const fn cluster(resource: &'static str, kind: &'static str, strategy: Strategy) -> Row {
    Row { namespaced: false, ..namespaced(resource, kind, strategy) }
}

impl Row {
    const fn short(self, short: &'static [&'static str]) -> Self {
        Self { short, ..self }
    }
    const fn in_all(self) -> Self {
        Self { categories: &["all"], ..self }
    }
    const fn extension(self) -> Self {
        Self { categories: &["api-extensions"], ..self }
    }
    const fn sub(self, subresources: &'static [Sub]) -> Self {
        Self { subresources, ..self }
    }
    const fn fields(self, fields: &'static [&'static str]) -> Self {
        Self { fields, ..self }
    }
    const fn stored_at(self, storage: &'static str) -> Self {
        Self { storage: Some(storage), ..self }
    }
    const fn verbs(self, verbs: &'static [&'static str]) -> Self {
        Self { verbs, ..self }
    }
}

const PLAIN: Strategy = Strategy::PLAIN;

#[rustfmt::skip]
const CORE: &[Row] = &[
    namespaced("configmaps", "ConfigMap", PLAIN).short(&["cm"]),
    namespaced("endpoints", "Endpoints", Strategy { create_on_update: true, ..PLAIN }).short(&["ep"]).stored_at("services/endpoints"),
    namespaced("events", "Event", strategy::EVENT).short(&["ev"]).fields(EVENT_FIELDS),
    namespaced("limitranges", "LimitRange", Strategy { create_on_update: true, ..PLAIN }).short(&["limits"]),
    cluster("namespaces", "Namespace", strategy::NAMESPACE).short(&["ns"]).sub(NAMESPACE_SUBRESOURCES).fields(&["status.phase"]).verbs(NO_COLLECTION_DELETE),
    cluster("nodes", "Node", strategy::NODE).short(&["no"]).sub(NODE_SUBRESOURCES).fields(&["spec.unschedulable"]).stored_at("minions"),
    namespaced("persistentvolumeclaims", "PersistentVolumeClaim", strategy::CLAIM).short(&["pvc"]).sub(WITH_STATUS),
    cluster("persistentvolumes", "PersistentVolume", strategy::VOLUME).short(&["pv"]).sub(WITH_STATUS),
    namespaced("pods", "Pod", strategy::POD).short(&["po"]).in_all().sub(POD_SUBRESOURCES).fields(POD_FIELDS),
    namespaced("podtemplates", "PodTemplate", Strategy { returns_deleted: true, ..Strategy::WHOLE }),
    namespaced("replicationcontrollers", "ReplicationController", Strategy { orphans: true, ..Strategy::SPEC }).short(&["rc"]).in_all().sub(WITH_SCALE).fields(&["status.replicas"]).stored_at("controllers"),
    namespaced("resourcequotas", "ResourceQuota", Strategy { returns_deleted: true, ..PLAIN }).short(&["quota"]).sub(WITH_STATUS),
    namespaced("secrets", "Secret", strategy::SECRET).fields(&["type"]),
    namespaced("serviceaccounts", "ServiceAccount", strategy::SERVICE_ACCOUNT).short(&["sa"]).sub(ACCOUNT_SUBRESOURCES),
    namespaced("services", "Service", strategy::SERVICE).short(&["svc"]).in_all().sub(SERVICE_SUBRESOURCES).fields(&["spec.clusterIP", "spec.type"]).stored_at("services/specs"),
];

#[rustfmt::skip]
const APPS: &[Row] = &[
    namespaced("controllerrevisions", "ControllerRevision", PLAIN),
    namespaced("daemonsets", "DaemonSet", strategy::DAEMON_SET).short(&["ds"]).in_all().sub(WITH_STATUS),
    namespaced("deployments", "Deployment", strategy::DEPLOYMENT).short(&["deploy"]).in_all().sub(WITH_SCALE),
    namespaced("replicasets", "ReplicaSet", Strategy::SPEC).short(&["rs"]).in_all().sub(WITH_SCALE).fields(&["status.replicas"]),
    namespaced("statefulsets", "StatefulSet", Strategy::SPEC).short(&["sts"]).in_all().sub(WITH_SCALE),
];

#[rustfmt::skip]
const BATCH: &[Row] = &[
    namespaced("cronjobs", "CronJob", Strategy::SPEC).short(&["cj"]).in_all().sub(WITH_STATUS),
    namespaced("jobs", "Job", strategy::JOB).in_all().sub(WITH_STATUS).fields(&["status.successful"]),
];

const VERSIONED: Strategy = Strategy { unconditional_update: false, ..Strategy::SPEC };

/// Group, version, rows. Cohabiting resources (events, autoscalers) have a line a version.
#[rustfmt::skip]
const TABLE: &[(&str, &str, &[Row])] = &[
    ("", "v1", CORE),
    ("apps", "v1", APPS),
    ("batch", "v1", BATCH),
    ("events.k8s.io", "v1", &[
        namespaced("events", "Event", strategy::EVENT).short(&["ev"]).fields(EVENT_FIELDS),
    ]),
    ("autoscaling", "v1", &[
        namespaced("horizontalpodautoscalers", "HorizontalPodAutoscaler", PLAIN).short(&["hpa"]).in_all().sub(WITH_STATUS),
    ]),
    ("autoscaling", "v2", &[
        namespaced("horizontalpodautoscalers", "HorizontalPodAutoscaler", PLAIN).short(&["hpa"]).in_all().sub(WITH_STATUS),
    ]),
    ("certificates.k8s.io", "v1", &[
        cluster("certificatesigningrequests", "CertificateSigningRequest", strategy::SIGNING_REQUEST).short(&["csr"]).sub(CSR_SUBRESOURCES).fields(&["spec.signerName"]),
    ]),
    ("networking.k8s.io", "v1", &[
        cluster("ingressclasses", "IngressClass", Strategy::SPEC),
        namespaced("ingresses", "Ingress", Strategy::SPEC).short(&["ing"]).sub(WITH_STATUS).stored_at("ingress"),
        cluster("ipaddresses", "IPAddress", PLAIN).short(&["ip"]),
        namespaced("networkpolicies", "NetworkPolicy", Strategy::SPEC).short(&["netpol"]),
        cluster("servicecidrs", "ServiceCIDR", PLAIN).sub(WITH_STATUS),
    ]),
    ("policy", "v1", &[
        namespaced("poddisruptionbudgets", "PodDisruptionBudget", VERSIONED).short(&["pdb"]).sub(WITH_STATUS),
    ]),
    ("rbac.authorization.k8s.io", "v1", &[
        cluster("clusterrolebindings", "ClusterRoleBinding", Strategy { create_on_update: true, ..PLAIN }),
        cluster("clusterroles", "ClusterRole", Strategy { create_on_update: true, ..PLAIN }),
        namespaced("rolebindings", "RoleBinding", Strategy { create_on_update: true, ..PLAIN }),
        namespaced("roles", "Role", Strategy { create_on_update: true, ..PLAIN }),
    ]),
    ("storage.k8s.io", "v1", &[
        cluster("csidrivers", "CSIDriver", Strategy { unconditional_update: false, returns_deleted: true, ..PLAIN }),
        cluster("csinodes", "CSINode", Strategy { unconditional_update: false, returns_deleted: true, ..PLAIN }),
        namespaced("csistoragecapacities", "CSIStorageCapacity", Strategy { unconditional_update: false, ..PLAIN }),
        cluster("storageclasses", "StorageClass", Strategy { returns_deleted: true, ..PLAIN }).short(&["sc"]),
        cluster("volumeattachments", "VolumeAttachment", Strategy { unconditional_update: false, returns_deleted: true, ..PLAIN }).sub(WITH_STATUS),
        cluster("volumeattributesclasses", "VolumeAttributesClass", Strategy { returns_deleted: true, ..PLAIN }).short(&["vac"]),
    ]),
    ("admissionregistration.k8s.io", "v1", &[
        cluster("mutatingadmissionpolicies", "MutatingAdmissionPolicy", VERSIONED).extension(),
        cluster("mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", VERSIONED).extension(),
        cluster("mutatingwebhookconfigurations", "MutatingWebhookConfiguration", Strategy { unconditional_update: false, ..Strategy::WHOLE }).extension(),
        cluster("validatingadmissionpolicies", "ValidatingAdmissionPolicy", VERSIONED).extension().sub(WITH_STATUS),
        cluster("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", VERSIONED).extension(),
        cluster("validatingwebhookconfigurations", "ValidatingWebhookConfiguration", Strategy { unconditional_update: false, ..Strategy::WHOLE }).extension(),
    ]),
    ("apiextensions.k8s.io", "v1", &[
        cluster("customresourcedefinitions", "CustomResourceDefinition", strategy::CUSTOM_DEFINITION).short(&["crd", "crds"]).extension().sub(WITH_STATUS).stored_at("apiextensions.k8s.io/customresourcedefinitions"),
    ]),
    ("apiregistration.k8s.io", "v1", &[
        cluster("apiservices", "APIService", PLAIN).extension().sub(WITH_STATUS).stored_at("apiregistration.k8s.io/apiservices"),
    ]),
    ("scheduling.k8s.io", "v1", &[
        cluster("priorityclasses", "PriorityClass", Strategy::WHOLE).short(&["pc"]),
    ]),
    ("coordination.k8s.io", "v1", &[
        namespaced("leases", "Lease", strategy::LEASE),
    ]),
    ("node.k8s.io", "v1", &[
        cluster("runtimeclasses", "RuntimeClass", Strategy { create_on_update: true, unconditional_update: false, ..PLAIN }),
    ]),
    ("discovery.k8s.io", "v1", &[
        namespaced("endpointslices", "EndpointSlice", Strategy::WHOLE),
    ]),
    ("resource.k8s.io", "v1", &[
        cluster("deviceclasses", "DeviceClass", Strategy { returns_deleted: true, ..Strategy::SPEC }),
        namespaced("resourceclaims", "ResourceClaim", Strategy { returns_deleted: true, ..PLAIN }).sub(WITH_STATUS),
        namespaced("resourceclaimtemplates", "ResourceClaimTemplate", Strategy { returns_deleted: true, ..PLAIN }),
        cluster("resourceslices", "ResourceSlice", Strategy { returns_deleted: true, ..Strategy::SPEC }).fields(&["spec.nodeName", "spec.driver"]),
    ]),
    ("flowcontrol.apiserver.k8s.io", "v1", &[
        cluster("flowschemas", "FlowSchema", Strategy::SPEC).sub(WITH_STATUS),
        cluster("prioritylevelconfigurations", "PriorityLevelConfiguration", Strategy::SPEC).sub(WITH_STATUS),
    ]),
];

/// All built-in resources, decoded by `schemas`.
pub fn served(schemas: &Arc<Schemas>) -> Served {
    let mut served = Served::new();
    for (group, version, rows) in TABLE {
        for row in *rows {
            let resource = row.resource(group, version, schemas);
            served.insert(resource.gvr.clone(), Arc::new(resource));
        }
    }
    served
}

impl Row {
    fn resource(&self, group: &str, version: &str, schemas: &Arc<Schemas>) -> Resource {
        let (conversion, storage_version) = stored_as(group, version, self.resource);
        Resource {
            gvr: GroupVersionResource::new(group, version, self.resource),
            kind: self.kind.into(),
            list_kind: format!("{}List", self.kind),
            singular: self.kind.to_lowercase(),
            short_names: owned(self.short),
            categories: owned(self.categories),
            namespaced: self.namespaced,
            verbs: self.verbs.to_vec(),
            subresources: self.subresources.iter().map(|s| s.of(group, version, self.kind)).collect(),
            selectable_fields: owned(self.fields),
            key_prefix: format!("/registry/{}", self.storage.unwrap_or(self.resource)),
            schemas: schemas.clone(),
            custom: None,
            strategy: self.strategy,
            storage_version,
            conversion,
        }
    }
}

impl Sub {
    fn of(&self, group: &str, version: &str, kind: &str) -> Subresource {
        let (group, version, kind) = self.body.unwrap_or((group, version, kind));
        Subresource {
            name: self.name.into(),
            kind: GroupVersionKind::new(group, version, kind),
            verbs: self.verbs.to_vec(),
        }
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&t| t.into()).collect()
}

/// The version that a resource is stored in, and how that becomes the served one.
fn stored_as(group: &str, version: &str, resource: &str) -> (Conversion, GroupVersion) {
    match (group, resource) {
        ("events.k8s.io", "events") => (Conversion::Events, GroupVersion::new("", "v1")),
        ("autoscaling", _) if version == "v1" => (Conversion::Autoscaler, GroupVersion::new("autoscaling", "v2")),
        _ => (Conversion::Identity, GroupVersion::new(group, version)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Served {
        served(&Arc::default())
    }

    fn get(group: &str, version: &str, resource: &str) -> Arc<Resource> {
        all().get(&GroupVersionResource::new(group, version, resource)).unwrap().clone()
    }

    #[test]
    fn keys_are_those_of_kube_apiserver() {
        assert_eq!(get("", "v1", "services").key("a", "b"), "/registry/services/specs/a/b");
        assert_eq!(get("", "v1", "endpoints").key("a", "b"), "/registry/services/endpoints/a/b");
        assert_eq!(get("", "v1", "nodes").key("", "b"), "/registry/minions/b");
        assert_eq!(get("", "v1", "replicationcontrollers").key("a", "b"), "/registry/controllers/a/b");
        assert_eq!(get("networking.k8s.io", "v1", "ingresses").key("a", "b"), "/registry/ingress/a/b");
        assert_eq!(
            get("apiextensions.k8s.io", "v1", "customresourcedefinitions").key("", "b"),
            "/registry/apiextensions.k8s.io/customresourcedefinitions/b"
        );
    }

    #[test]
    fn events_of_both_groups_share_their_storage() {
        assert_eq!(get("events.k8s.io", "v1", "events").key_prefix, get("", "v1", "events").key_prefix);
    }

    #[test]
    fn names_follow_the_kind() {
        let pods = get("", "v1", "pods");
        assert_eq!((&*pods.singular, &*pods.list_kind), ("pod", "PodList"));
        assert_eq!(pods.subresource("binding").unwrap().kind, GroupVersionKind::new("", "v1", "Binding"));
        assert_eq!(pods.subresource("status").unwrap().kind, pods.gvk());
    }
}
