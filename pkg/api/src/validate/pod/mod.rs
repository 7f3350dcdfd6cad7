//! PodSpec, wherever it stands: in a pod or in a workload's template (`pkg/apis/core/validation` upstream).
mod container;
mod env;
mod probe;
pub mod resources;
mod scheduling;
mod update;
mod volume;

use super::field::{Errors, Path, Tree};
use super::{ip, meta, names};
use serde_json::Value;
use std::collections::BTreeSet;

pub use scheduling::{preemption_policy, taints};
pub use update::{Change, update};

const MAX_ID: i64 = i32::MAX as i64;
const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const DNS_POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// A whole pod.
pub fn pod(errors: &mut Errors, object: &Value) {
    let path = Path::field("spec");
    let spec = &object["spec"];
    pod_spec(errors, &path, spec, true);
    for list in ["containers", "initContainers"] {
        for (i, container) in spec.list(list).iter().enumerate() {
            let image = container.text("image");
            if image.trim() != image {
                let list = path.child(list);
                let at = list.index(i);
                errors.invalid(&at.child("image"), image, "must not have leading or trailing whitespace");
            }
        }
    }
}

/// What only a new pod may not have.
pub fn create(errors: &mut Errors, object: &Value) {
    let path = Path::field("spec");
    let spec = &object["spec"];
    if spec.count("ephemeralContainers") > 0 {
        errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    if !spec.text("nodeName").is_empty() && spec.count("schedulingGates") > 0 {
        errors.forbidden(&path.child("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
}

/// A workload's pod template; `restart` are the policies that it may have.
pub fn template(errors: &mut Errors, path: &Path<'_>, template: &Value) {
    meta::template(errors, path, &template["metadata"]);
    let spec = &template["spec"];
    pod_spec(errors, &path.child("spec"), spec, false);
    if spec.count("ephemeralContainers") > 0 {
        let at = path.child("spec");
        errors.forbidden(&at.child("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// The template of a workload whose pods run for ever.
pub fn always_template(errors: &mut Errors, path: &Path<'_>, value: &Value, kind: &str) {
    template(errors, path, value);
    let (spec, at) = (&value["spec"], path.child("spec"));
    if spec.text("restartPolicy") != "Always" {
        errors.unsupported(&at.child("restartPolicy"), spec.text("restartPolicy"), &["Always"]);
    }
    if spec.has("activeDeadlineSeconds") {
        let text = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden(&at.child("activeDeadlineSeconds"), text);
    }
}

fn pod_spec(errors: &mut Errors, path: &Path<'_>, spec: &Value, is_pod: bool) {
    if !spec.has("terminationGracePeriodSeconds") {
        errors.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let volumes = volume::volumes(errors, &path.child("volumes"), spec);
    container::containers(errors, path, spec, &volumes);
    if spec.flag("hostNetwork") {
        host_network(errors, &path.child("containers"), spec, is_pod);
    }
    errors.one_of(&path.child("restartPolicy"), spec.text("restartPolicy"), RESTART_POLICIES);
    errors.one_of(&path.child("dnsPolicy"), spec.text("dnsPolicy"), DNS_POLICIES);
    meta::labels(errors, &path.child("nodeSelector"), spec, "nodeSelector");
    security_context(errors, &path.child("securityContext"), spec);
    scheduling::affinity(errors, &path.child("affinity"), &spec["affinity"]);
    dns_config(errors, &path.child("dnsConfig"), spec);
    gates(errors, path, spec);
    scheduling::topology_spread(errors, &path.child("topologySpreadConstraints"), spec);
    pod_names(errors, path, spec);
    if let Some(deadline) = spec.int("activeDeadlineSeconds") {
        errors.in_range(&path.child("activeDeadlineSeconds"), deadline, 1, MAX_ID);
    }
    scheduling::tolerations(errors, &path.child("tolerations"), spec);
    host_aliases(errors, &path.child("hostAliases"), spec);
    if spec.has("preemptionPolicy") {
        preemption_policy(errors, &path.child("preemptionPolicy"), spec.text("preemptionPolicy"));
    }
    resources::quantities(errors, &path.child("overhead"), spec, "overhead");
}

fn pod_names(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let mut check = |name: &str, rule: fn(&str) -> Vec<String>| {
        let value = spec.text(name);
        if !value.is_empty() {
            errors.each(&path.child(name), value, rule(value));
        }
    };
    check("serviceAccountName", names::dns_subdomain);
    check("nodeName", names::dns_subdomain);
    check("hostname", names::dns_label);
    check("subdomain", names::dns_label);
    check("priorityClassName", names::dns_subdomain);
    check("runtimeClassName", names::dns_subdomain);
}

fn host_network(errors: &mut Errors, path: &Path<'_>, spec: &Value, is_pod: bool) {
    for (i, container) in spec.list("containers").iter().enumerate() {
        let at = path.index(i);
        for (j, port) in container.list("ports").iter().enumerate() {
            let (host, own) = (port.int("hostPort").unwrap_or(0), port.int("containerPort").unwrap_or(0));
            if (is_pod || host != 0) && host != own {
                let ports = at.child("ports");
                let at = ports.index(j);
                errors.invalid(&at.child("hostPort"), host, "must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
}

fn dns_config(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let config = &spec["dnsConfig"];
    if spec.text("dnsPolicy") == "None" {
        if !spec.has("dnsConfig") {
            return errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if config.count("nameservers") == 0 {
            let text = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return errors.required(&path.child("nameservers"), text);
        }
    }
    let (servers, searches) = (path.child("nameservers"), path.child("searches"));
    if config.count("nameservers") > MAX_NAMESERVERS {
        let all = config["nameservers"].clone();
        errors.invalid(&servers, all, format!("must not have more than {MAX_NAMESERVERS} nameservers"));
    }
    for (i, server) in config.texts("nameservers").enumerate() {
        ip::address(errors, &servers.index(i), server);
    }
    let chars = config.texts("searches").map(|search| search.len() + 1).sum::<usize>().saturating_sub(1);
    if config.count("searches") > MAX_SEARCHES {
        let all = config["searches"].clone();
        errors.invalid(&searches, all, format!("must not have more than {MAX_SEARCHES} search paths"));
    }
    if chars > MAX_SEARCH_CHARS {
        let text =
            format!("must not have more than {MAX_SEARCH_CHARS} characters (including spaces) in the search list");
        errors.invalid(&searches, config["searches"].clone(), text);
    }
    for (i, search) in config.texts("searches").enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        errors.each(&searches.index(i), search, names::search_domain(search));
    }
    for (i, option) in config.list("options").iter().enumerate() {
        if option.text("name").is_empty() {
            errors.required(&path.child("options").index(i), "must not be empty");
        }
    }
}

fn gates(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let readiness = path.child("readinessGates");
    for (i, gate) in spec.list("readinessGates").iter().enumerate() {
        let condition = gate.text("conditionType");
        errors.each(&readiness.index(i).child("conditionType"), condition, names::qualified_name(condition));
    }
    let mut seen = BTreeSet::new();
    let scheduling = path.child("schedulingGates");
    for (i, gate) in spec.list("schedulingGates").iter().enumerate() {
        let (at, name) = (scheduling.index(i), gate.text("name"));
        errors.each(&at, name, names::qualified_name(name));
        if !seen.insert(name) {
            errors.duplicate(&at, name);
        }
    }
}

fn host_aliases(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    for (i, alias) in spec.list("hostAliases").iter().enumerate() {
        let at = path.index(i);
        ip::address(errors, &at.child("ip"), alias.text("ip"));
        let hosts = at.child("hostnames");
        for (j, host) in alias.texts("hostnames").enumerate() {
            errors.each(&hosts.index(j), host, names::dns_subdomain(host));
        }
    }
}

fn security_context(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let context = &spec["securityContext"];
    for name in ["fsGroup", "runAsUser", "runAsGroup"] {
        if let Some(id) = context.int(name) {
            errors.in_range(&path.child(name), id, 0, MAX_ID);
        }
    }
    let groups = path.child("supplementalGroups");
    for (i, id) in context.list("supplementalGroups").iter().enumerate() {
        errors.in_range(&groups.index(i), id.as_i64().unwrap_or_default(), 0, MAX_ID);
    }
    if spec.flag("shareProcessNamespace") && spec.flag("hostPID") {
        let text = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.child("shareProcessNamespace"), true, text);
    }
    sysctls(errors, &path.child("sysctls"), spec);
    let policy = context.text("fsGroupChangePolicy");
    errors.maybe_one_of(&path.child("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    let policy = context.text("supplementalGroupsPolicy");
    errors.maybe_one_of(&path.child("supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    seccomp(errors, &path.child("seccompProfile"), context);
}

fn sysctls(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let mut seen = BTreeSet::new();
    for (i, sysctl) in spec["securityContext"].list("sysctls").iter().enumerate() {
        let (at, name) = (path.index(i), sysctl.text("name"));
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else if !is_sysctl(name) {
            errors.invalid(&at.child("name"), name, NO_SYSCTL);
        } else if !seen.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        if spec.flag("hostNetwork") && name.starts_with("net.") {
            errors.invalid(&at.child("name"), name, "may not be specified when 'hostNetwork' is true");
        }
    }
}

const SYSCTL_BYTES: usize = 253;
const NO_SYSCTL: &str = "must have at most 253 characters and match regex \
                         ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// A kernel parameter's name, its parts divided by dots or slashes (sysctl.d(5)).
fn is_sysctl(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part = |part: &str| {
        part.starts_with(plain) && part.ends_with(plain) && part.chars().all(|c| plain(c) || "-_".contains(c))
    };
    name.len() <= SYSCTL_BYTES && name.split(['.', '/']).all(part)
}

pub(super) fn seccomp(errors: &mut Errors, path: &Path<'_>, context: &Value) {
    let profile = &context["seccompProfile"];
    if profile.is_null() {
        return;
    }
    let kind = profile.text("type");
    match kind {
        "" => errors.required(&path.child("type"), "type is required when seccompProfile is set"),
        _ if !["Localhost", "RuntimeDefault", "Unconfined"].contains(&kind) => {
            errors.unsupported(&path.child("type"), kind, &["Localhost", "RuntimeDefault", "Unconfined"]);
        }
        _ => {}
    }
    match (kind == "Localhost", profile.has("localhostProfile")) {
        (true, false) => {
            errors.required(&path.child("localhostProfile"), "must be set when seccomp type is Localhost");
        }
        (true, true) => {
            volume::descending_path(errors, &path.child("localhostProfile"), profile.text("localhostProfile"));
        }
        (false, true) => {
            let text = "can only be set when seccomp type is Localhost";
            errors.invalid(&path.child("localhostProfile"), profile.clone(), text);
        }
        (false, false) => {}
    }
}
