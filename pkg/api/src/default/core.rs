//! core/v1.
use super::{Object, child, empty, fill, fill_text, text};
use serde_json::{Map, Value, json};

/// 0644, the mode of files from ConfigMaps and Secrets.
const FILE_MODE: u32 = 0o644;

pub fn set(name: &str, object: &mut Object) {
    match name {
        "PodSpec" => pod_spec(object),
        "Container" | "EphemeralContainer" => container(object),
        "Probe" => probe(object),
        "HTTPGetAction" => http_get(object),
        "GRPCAction" => fill(object, "service", ""),
        "Volume" => volume(object),
        "ConfigMapVolumeSource" | "SecretVolumeSource" | "DownwardAPIVolumeSource" | "ProjectedVolumeSource" => {
            fill(object, "defaultMode", FILE_MODE);
        }
        "ServiceAccountTokenProjection" => fill(object, "expirationSeconds", 3600),
        "HostPathVolumeSource" => fill(object, "type", ""),
        "ObjectFieldSelector" => fill_text(object, "apiVersion", "v1"),
        "ServiceSpec" => service(object),
        "Secret" => fill_text(object, "type", "Opaque"),
        "PersistentVolume" => phase_pending(object),
        "PersistentVolumeSpec" => {
            fill_text(object, "persistentVolumeReclaimPolicy", "Retain");
            fill(object, "volumeMode", "Filesystem");
        }
        "PersistentVolumeClaim" => phase_pending(object),
        "PersistentVolumeClaimSpec" => fill(object, "volumeMode", "Filesystem"),
        "NodeStatus" => allocatable(object),
        "NodeSpec" => pod_networks(object),
        "LimitRangeItem" => limit_range_item(object),
        "ReplicationController" => labels_of_template(object),
        "EndpointPort" => fill_text(object, "protocol", "TCP"),
        "ReplicationControllerSpec" => replication_controller(object),
        "Namespace" => namespace(object),
        _ => {}
    }
}

/// What only a pod itself gets, not a template: requests from limits, and service links.
pub fn pod(object: &mut Object) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    fill(spec, "enableServiceLinks", true);
    for list in ["containers", "initContainers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            requests_from_limits(container);
        }
    }
}

fn requests_from_limits(container: &mut Object) {
    let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    if limits.is_empty() {
        return;
    }
    if let Some(requests) = child(resources, "requests") {
        limits.into_iter().for_each(|(name, limit)| fill(requests, &name, limit));
    }
}

fn pod_spec(spec: &mut Object) {
    fill_text(spec, "dnsPolicy", "ClusterFirst");
    fill_text(spec, "restartPolicy", "Always");
    fill(spec, "securityContext", empty());
    fill(spec, "terminationGracePeriodSeconds", 30);
    // At once, but with a chance to hear of it: upstream reads a negative time as the shortest.
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        spec.insert("terminationGracePeriodSeconds".into(), 1.into());
    }
    fill_text(spec, "schedulerName", "default-scheduler");
    // The deprecated name and the new one always say the same.
    match (text(spec, "serviceAccountName").to_owned(), text(spec, "serviceAccount").to_owned()) {
        (new, _) if !new.is_empty() => drop(spec.insert("serviceAccount".into(), new.into())),
        (_, old) if !old.is_empty() => drop(spec.insert("serviceAccountName".into(), old.into())),
        _ => {}
    }
    if spec.get("hostNetwork") == Some(&true.into()) {
        host_network_ports(spec);
    }
}

/// On the host's network a container's port is the host's.
fn host_network_ports(spec: &mut Object) {
    for list in ["containers", "initContainers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        let ports = containers.filter_map(|container| container.get_mut("ports")?.as_array_mut()).flatten();
        for port in ports.filter_map(Value::as_object_mut) {
            if let Some(number) = port.get("containerPort").cloned() {
                fill(port, "hostPort", number);
            }
        }
    }
}

fn container(container: &mut Object) {
    if text(container, "imagePullPolicy").is_empty() {
        let policy = if is_latest(text(container, "image")) { "Always" } else { "IfNotPresent" };
        container.insert("imagePullPolicy".into(), policy.into());
    }
    fill_text(container, "terminationMessagePath", "/dev/termination-log");
    fill_text(container, "terminationMessagePolicy", "File");
    fill(container, "resources", empty());
}

/// Whether an image reference has the tag `latest`, or neither tag nor digest.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let name = image.rsplit('/').next().unwrap_or_default();
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn probe(probe: &mut Object) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe.get(field).is_none_or(|value| *value == 0) {
            probe.insert(field.into(), value.into());
        }
    }
}

fn http_get(action: &mut Object) {
    fill_text(action, "path", "/");
    fill_text(action, "scheme", "HTTP");
}

fn volume(volume: &mut Object) {
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".into(), empty());
    }
}

/// A controller without labels has its template's.
fn labels_of_template(controller: &mut Object) {
    let labels = controller.get("spec").and_then(|spec| spec["template"]["metadata"].get("labels")).cloned();
    if let (Some(labels), Some(meta)) = (labels, child(controller, "metadata")) {
        fill(meta, "labels", labels);
    }
}

fn service(spec: &mut Object) {
    fill_text(spec, "sessionAffinity", "None");
    fill_text(spec, "type", "ClusterIP");
    match text(spec, "sessionAffinity") {
        "None" => drop(spec.remove("sessionAffinityConfig")),
        _ => {
            if let Some(client) = child(spec, "sessionAffinityConfig").and_then(|config| child(config, "clientIP")) {
                fill(client, "timeoutSeconds", 10800);
            }
        }
    }
    let kind = text(spec, "type").to_owned();
    let external_ips = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    if kind == "NodePort" || kind == "LoadBalancer" || (kind == "ClusterIP" && external_ips) {
        fill_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind != "ExternalName" {
        fill(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        fill(spec, "allocateLoadBalancerNodePorts", true);
    }
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten();
    ports.filter_map(Value::as_object_mut).for_each(service_port);
}

fn service_port(port: &mut Object) {
    fill_text(port, "protocol", "TCP");
    let unset = port.get("targetPort").is_none_or(|target| *target == 0 || *target == "");
    if let (true, Some(number)) = (unset, port.get("port").cloned()) {
        port.insert("targetPort".into(), number);
    }
}

fn phase_pending(object: &mut Object) {
    if let Some(status) = child(object, "status") {
        fill_text(status, "phase", "Pending");
    }
}

/// The first network is told under its old name, too.
fn pod_networks(spec: &mut Object) {
    match (text(spec, "podCIDR").to_owned(), spec.get("podCIDRs").and_then(|all| all[0].as_str()).map(str::to_owned)) {
        (one, None) if !one.is_empty() => drop(spec.insert("podCIDRs".into(), json!([one]))),
        (_, Some(first)) => fill_text(spec, "podCIDR", &first),
        _ => {}
    }
}

fn allocatable(status: &mut Object) {
    if let Some(capacity) = status.get("capacity").cloned() {
        fill(status, "allocatable", capacity);
    }
}

/// A limit's own defaults follow from its bounds.
fn limit_range_item(item: &mut Object) {
    if text(item, "type") != "Container" {
        return;
    }
    let read = |item: &Object, field: &str| item.get(field).and_then(Value::as_object).cloned().unwrap_or_default();
    let merge = |base: Map<String, Value>, over: Map<String, Value>| {
        let mut all = base;
        all.extend(over);
        all
    };
    let default = merge(read(item, "max"), read(item, "default"));
    let requests = merge(merge(read(item, "min"), default.clone()), read(item, "defaultRequest"));
    if !default.is_empty() {
        item.insert("default".into(), default.into());
    }
    if !requests.is_empty() {
        item.insert("defaultRequest".into(), requests.into());
    }
}

fn replication_controller(spec: &mut Object) {
    fill(spec, "replicas", 1);
    let labels = spec.get("template").and_then(|template| template.pointer("/metadata/labels")).cloned();
    if let (Some(labels), None) = (labels, spec.get("selector")) {
        spec.insert("selector".into(), labels);
    }
}

fn namespace(object: &mut Object) {
    let Some(metadata) = child(object, "metadata") else { return };
    let name = text(metadata, "name").to_owned();
    if name.is_empty() {
        return;
    }
    if let Some(labels) = child(metadata, "labels") {
        labels.insert("kubernetes.io/metadata.name".into(), json!(name));
    }
}
