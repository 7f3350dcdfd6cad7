//! Containers: init, regular and ephemeral.
use super::super::field::{Errors, Path, Tree};
use super::super::{names, pod_port};
use super::volume::{self, Volumes};
use super::{MAX_ID, env, probe, resources, seccomp};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICIES: &[&str] = &["File", "FallbackToLogsOnError"];
const PROBES: &[&str] = &["livenessProbe", "readinessProbe", "startupProbe"];

pub fn containers(errors: &mut Errors, path: &Path<'_>, spec: &Value, volumes: &Volumes<'_>) {
    let grace = spec.int("terminationGracePeriodSeconds");
    let mut names = BTreeSet::new();
    regular(errors, &path.child("containers"), spec, volumes, grace, &mut names);
    init(errors, &path.child("initContainers"), spec, volumes, grace, &mut names);
    ephemeral(errors, &path.child("ephemeralContainers"), spec, volumes, &mut names);
}

type Names<'a> = BTreeSet<&'a str>;

fn regular<'a>(
    errors: &mut Errors,
    path: &Path<'_>,
    spec: &'a Value,
    volumes: &Volumes<'_>,
    grace: Option<i64>,
    names: &mut Names<'a>,
) {
    let list = spec.list("containers");
    if list.is_empty() {
        return errors.required(path, "");
    }
    for (i, container) in list.iter().enumerate() {
        let at = path.index(i);
        common(errors, &at, container, volumes);
        if !names.insert(container.text("name")) {
            errors.duplicate(&at.child("name"), container.text("name"));
        }
        lifecycle_and_probes(errors, &at, container, grace);
    }
    host_ports(errors, path, list);
}

fn init<'a>(
    errors: &mut Errors,
    path: &Path<'_>,
    spec: &'a Value,
    volumes: &Volumes<'_>,
    grace: Option<i64>,
    names: &mut Names<'a>,
) {
    for (i, container) in spec.list("initContainers").iter().enumerate() {
        let (at, name) = (path.index(i), container.text("name"));
        common(errors, &at, container, volumes);
        errors.maybe_one_of(
            &at.child("restartPolicy"),
            container.text("restartPolicy"),
            &["Always", "Never", "OnFailure"],
        );
        if !name.is_empty() && !names.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        host_ports(errors, path, std::slice::from_ref(container));
        if container.text("restartPolicy") == "Always" {
            lifecycle_and_probes(errors, &at, container, grace);
            continue;
        }
        for field in ["lifecycle"].iter().chain(PROBES).filter(|field| container.has(field)) {
            errors.forbidden(&at.child(field), "may not be set for init containers without restartPolicy=Always");
        }
    }
}

/// What an ephemeral container can't have: it joins a running pod and is never restarted.
const NOT_EPHEMERAL: &[&str] =
    &["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resources", "resizePolicy"];

fn ephemeral<'a>(errors: &mut Errors, path: &Path<'_>, spec: &'a Value, volumes: &Volumes<'_>, names: &mut Names<'a>) {
    let others = |name: &str| {
        let lists = spec.list("containers").iter().chain(spec.list("initContainers"));
        lists.into_iter().any(|container| container.text("name") == name)
    };
    for (i, container) in spec.list("ephemeralContainers").iter().enumerate() {
        let (at, name) = (path.index(i), container.text("name"));
        common(errors, &at, container, volumes);
        if !name.is_empty() && !names.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        let target = container.text("targetContainerName");
        if !target.is_empty() && !others(target) {
            errors.not_found(&at.child("targetContainerName"), target);
        }
        for field in NOT_EPHEMERAL.iter().filter(|field| container.has(field) && container[**field] != json!({})) {
            errors.forbidden(&at.child(field), "cannot be set for an Ephemeral Container");
        }
        for (j, mount) in container.list("volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"].iter().filter(|field| !mount.text(field).is_empty()) {
                let mounts = at.child("volumeMounts");
                let at = mounts.index(j);
                errors.forbidden(&at.child(field), "cannot be set for an Ephemeral Container");
            }
        }
    }
}

fn lifecycle_and_probes(errors: &mut Errors, at: &Path<'_>, container: &Value, grace: Option<i64>) {
    let (lifecycle, path) = (&container["lifecycle"], at.child("lifecycle"));
    for hook in ["postStart", "preStop"].iter().filter(|hook| lifecycle.has(hook)) {
        probe::handler(errors, &path.child(hook), &lifecycle[*hook], grace);
    }
    for name in PROBES.iter().filter(|name| container.has(name)) {
        probe::probe(errors, &at.child(name), &container[*name], name, grace);
    }
}

fn common(errors: &mut Errors, at: &Path<'_>, container: &Value, volumes: &Volumes<'_>) {
    match container.text("name") {
        "" => errors.required(&at.child("name"), ""),
        name => errors.each(&at.child("name"), name, names::dns_label(name)),
    }
    if container.text("image").is_empty() {
        errors.required(&at.child("image"), "");
    }
    let policy = container.text("terminationMessagePolicy");
    errors.one_of(&at.child("terminationMessagePolicy"), policy, MESSAGE_POLICIES);
    ports(errors, &at.child("ports"), container);
    env::env(errors, &at.child("env"), container);
    env::env_from(errors, &at.child("envFrom"), container);
    volume::mounts(errors, &at.child("volumeMounts"), container, volumes);
    volume::devices(errors, &at.child("volumeDevices"), container, volumes);
    errors.one_of(&at.child("imagePullPolicy"), container.text("imagePullPolicy"), PULL_POLICIES);
    resources::requirements(errors, &at.child("resources"), &container["resources"]);
    security_context(errors, &at.child("securityContext"), &container["securityContext"]);
}

fn ports(errors: &mut Errors, path: &Path<'_>, container: &Value) {
    let mut seen = BTreeSet::new();
    for (i, port) in container.list("ports").iter().enumerate() {
        let (at, name) = (path.index(i), port.text("name"));
        if !name.is_empty() {
            let wrong = names::port_name(name);
            if wrong.is_empty() && !seen.insert(name) {
                errors.duplicate(&at.child("name"), name);
            }
            errors.each(&at.child("name"), name, wrong);
        }
        match port.int("containerPort").unwrap_or(0) {
            0 => errors.required(&at.child("containerPort"), ""),
            number => pod_port::number(errors, &at.child("containerPort"), number),
        }
        if let Some(number) = port.int("hostPort").filter(|number| *number != 0) {
            pod_port::number(errors, &at.child("hostPort"), number);
        }
        errors.one_of(&at.child("protocol"), port.text("protocol"), PROTOCOLS);
    }
}

/// The same host port twice can never run.
fn host_ports(errors: &mut Errors, path: &Path<'_>, containers: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        let at = path.index(i);
        for (j, port) in container.list("ports").iter().enumerate() {
            let Some(number) = port.int("hostPort").filter(|number| *number != 0) else { continue };
            let key = format!("{}/{}/{number}", port.text("protocol"), port.text("hostIP"));
            if !seen.insert(key.clone()) {
                let ports = at.child("ports");
                let at = ports.index(j);
                errors.duplicate(&at.child("hostPort"), key);
            }
        }
    }
}

fn security_context(errors: &mut Errors, path: &Path<'_>, context: &Value) {
    for name in ["runAsUser", "runAsGroup"] {
        if let Some(id) = context.int(name) {
            errors.in_range(&path.child(name), id, 0, MAX_ID);
        }
    }
    errors.maybe_one_of(&path.child("procMount"), context.text("procMount"), &["Default", "Unmasked"]);
    seccomp(errors, &path.child("seccompProfile"), context);
    if context["allowPrivilegeEscalation"] != Value::Bool(false) {
        return;
    }
    if context.flag("privileged") {
        let text = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.invalid_as(path, "core.SecurityContext", context, text);
    }
    if context["capabilities"].texts("add").any(|capability| capability == "CAP_SYS_ADMIN") {
        let text = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
        errors.invalid_as(path, "core.SecurityContext", context, text);
    }
}
