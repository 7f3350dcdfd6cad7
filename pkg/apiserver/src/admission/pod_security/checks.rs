//! The Pod Security Standards as pure checks, in each of their versions
//! (`k8s.io/pod-security-admission/policy`).
use serde_json::Value;
use std::collections::BTreeSet;

/// How much a namespace allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Privileged, Self::Baseline, Self::Restricted].into_iter().find(|level| level.as_str() == text)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// Which version of the standards: the minor of a Kubernetes 1 release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u32);

impl Version {
    pub const LATEST: Self = Self(u32::MAX);

    /// `latest` or `v1.N`.
    pub fn parse(text: &str) -> Option<Self> {
        let minor = |text: &str| text.strip_prefix("v1.")?.parse().ok().map(Self);
        if text == "latest" { Some(Self::LATEST) } else { minor(text) }
    }
}

/// Where capabilities, seccomp and privileges of Windows pods stopped to be asked for.
const WINDOWS_EXEMPT: Version = Version(25);
/// Where pods in a user namespace of their own were let do more.
const USER_NAMESPACES: Version = Version(35);

/// What a check has against a pod: in short, and in which of its parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    pub reason: String,
    pub detail: String,
}

type Check = fn(&Pod<'_>) -> Option<Violation>;

/// Each with the version that it came with.
const BASELINE: &[(&str, u32, Check)] = &[
    ("appArmorProfile", 0, app_armor),
    ("capabilities_baseline", 0, capabilities_baseline),
    ("hostNamespaces", 0, host_namespaces),
    ("hostPathVolumes", 0, host_paths),
    ("hostPorts", 0, host_ports),
    ("hostProbesAndHostLifecycle", 34, probe_hosts),
    ("privileged", 0, privileged),
    ("procMount", 0, proc_mount_baseline),
    ("seLinuxOptions", 0, selinux),
    ("seccompProfile_baseline", 0, seccomp_baseline),
    ("sysctls", 0, sysctls),
    ("windowsHostProcess", 0, host_process),
];
/// Each with the baseline check that it takes the place of, and the version that it came with.
const RESTRICTED: &[(&str, u32, Check)] = &[
    ("", 8, escalation),
    ("capabilities_baseline", 22, capabilities_restricted),
    ("procMount", 35, proc_mount),
    ("hostPathVolumes", 0, volumes),
    ("", 0, non_root),
    ("", 23, user),
    ("seccompProfile_baseline", 19, seccomp_restricted),
];

/// What a pod of this template does that the level forbids, baseline first.
pub fn evaluate(level: Level, version: Version, metadata: &Value, spec: &Value) -> Vec<Violation> {
    let pod = Pod { version, metadata, spec };
    let of = |wanted: Level, checks: &'static [(&str, u32, Check)]| {
        checks.iter().filter(move |(_, since, _)| level >= wanted && pod.since(*since))
    };
    let restricted = || of(Level::Restricted, RESTRICTED);
    let overridden = |name: &str| restricted().any(|(of, ..)| *of == name);
    let checks = of(Level::Baseline, BASELINE).filter(|(name, ..)| !overridden(name)).chain(restricted());
    checks.filter_map(|(.., check)| check(&pod)).collect()
}

#[derive(Clone, Copy)]
struct Pod<'a> {
    version: Version,
    metadata: &'a Value,
    spec: &'a Value,
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |name| list(&spec[name]))
    }

    /// Names of the containers that `bad` says so of.
    fn which(&self, mut bad: impl FnMut(&Value) -> bool) -> Vec<String> {
        self.containers().filter(|container| bad(container)).map(|c| text(&c["name"]).to_owned()).collect()
    }

    fn context(&self) -> &'a Value {
        &self.spec["securityContext"]
    }

    /// Whether the standards are of this minor or later.
    fn since(&self, minor: u32) -> bool {
        self.version >= Version(minor)
    }

    /// It is for Windows, whose pods need not say some things.
    fn windows(&self) -> bool {
        self.version >= WINDOWS_EXEMPT && self.spec["os"]["name"] == "windows"
    }

    /// Its root is nobody on the host.
    fn in_user_namespace(&self) -> bool {
        self.version >= USER_NAMESPACES && self.spec["hostUsers"] == false
    }
}

fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| format!("{:?}", item.as_ref())).collect::<Vec<_>>().join(", ")
}

fn plural(one: &str, count: usize) -> String {
    if count == 1 { one.to_owned() } else { format!("{one}s") }
}

fn containers(names: &[String]) -> String {
    format!("{} {}", plural("container", names.len()), quoted(names))
}

fn violation(reason: impl Into<String>, detail: impl Into<String>) -> Option<Violation> {
    Some(Violation { reason: reason.into(), detail: detail.into() })
}

/// The pod itself, where `pod`, and containers.
fn setters(pod: bool, names: &[String]) -> Option<String> {
    let all: Vec<String> =
        pod.then(|| "pod".to_owned()).into_iter().chain((!names.is_empty()).then(|| containers(names))).collect();
    (!all.is_empty()).then(|| all.join(" and "))
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let names = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|name| pod.spec[*name] == true);
    let names: Vec<String> = names.map(|name| format!("{name}=true")).collect();
    if names.is_empty() { None } else { violation("host namespaces", names.join(", ")) }
}

fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let bad = pod.which(|c| c["securityContext"]["privileged"] == true);
    let detail = || format!("{} must not set securityContext.privileged=true", containers(&bad));
    if bad.is_empty() { None } else { violation("privileged", detail()) }
}

fn host_process(pod: &Pod<'_>) -> Option<Violation> {
    let set = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    let bad = pod.which(|c| set(&c["securityContext"]));
    let who = setters(set(pod.context()), &bad)?;
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn added(container: &Value) -> impl Iterator<Item = &str> {
    list(&container["securityContext"]["capabilities"]["add"]).iter().map(text)
}

fn capabilities_baseline(pod: &Pod<'_>) -> Option<Violation> {
    const ALLOWED: &[&str] = &[
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let mut found = BTreeSet::new();
    let bad = pod.which(|c| {
        let forbidden: Vec<String> = added(c).filter(|cap| !ALLOWED.contains(cap)).map(str::to_owned).collect();
        found.extend(forbidden.iter().cloned());
        !forbidden.is_empty()
    });
    let detail =
        || format!("{} must not include {} in securityContext.capabilities.add", containers(&bad), quoted(&found));
    if bad.is_empty() { None } else { violation("non-default capabilities", detail()) }
}

fn capabilities_restricted(pod: &Pod<'_>) -> Option<Violation> {
    if pod.windows() {
        return None;
    }
    let keeps = pod.which(|c| !list(&c["securityContext"]["capabilities"]["drop"]).iter().any(|cap| cap == "ALL"));
    let mut found = BTreeSet::new();
    let adds = pod.which(|c| {
        let forbidden: Vec<String> = added(c).filter(|cap| *cap != "NET_BIND_SERVICE").map(str::to_owned).collect();
        found.extend(forbidden.iter().cloned());
        !forbidden.is_empty()
    });
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeps)));
    }
    if !adds.is_empty() {
        let found = quoted(&found);
        details.push(format!("{} must not include {found} in securityContext.capabilities.add", containers(&adds)));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

fn host_paths(pod: &Pod<'_>) -> Option<Violation> {
    let bad: Vec<&str> =
        list(&pod.spec["volumes"]).iter().filter(|v| v.get("hostPath").is_some()).map(|v| text(&v["name"])).collect();
    let detail = || format!("{} {}", plural("volume", bad.len()), quoted(&bad));
    if bad.is_empty() { None } else { violation("hostPath volumes", detail()) }
}

fn volumes(pod: &Pod<'_>) -> Option<Violation> {
    const ALLOWED: &[&str] = &[
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let (mut names, mut types) = (Vec::new(), BTreeSet::new());
    for volume in list(&pod.spec["volumes"]) {
        if ALLOWED.iter().any(|ty| volume.get(ty).is_some()) {
            continue;
        }
        names.push(text(&volume["name"]));
        let ty = volume.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).find(|key| *key != "name");
        types.insert(ty.unwrap_or("unknown"));
    }
    let detail = || {
        let uses = if names.len() == 1 { "uses" } else { "use" };
        let what = plural("restricted volume type", types.len());
        format!("{} {} {uses} {what} {}", plural("volume", names.len()), quoted(&names), quoted(&types))
    };
    if names.is_empty() { None } else { violation("restricted volume types", detail()) }
}

fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let bad = pod.which(|c| {
        let used = list(&c["ports"]).iter().filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0);
        let used: Vec<String> = used.map(|port| port.to_string()).collect();
        ports.extend(used.iter().cloned());
        !used.is_empty()
    });
    let uses = if bad.len() == 1 { "uses" } else { "use" };
    let shown = Vec::from_iter(ports.iter().map(String::as_str)).join(", ");
    let detail = || format!("{} {uses} {} {shown}", containers(&bad), plural("hostPort", ports.len()));
    if bad.is_empty() { None } else { violation("hostPort", detail()) }
}

fn probe_hosts(pod: &Pod<'_>) -> Option<Violation> {
    let mut hosts = BTreeSet::new();
    let mut bad = pod.which(|c| {
        let lifecycle = &c["lifecycle"];
        let handlers = [
            &c["livenessProbe"],
            &c["readinessProbe"],
            &c["startupProbe"],
            &lifecycle["postStart"],
            &lifecycle["preStop"],
        ];
        let of = |handler: &Value| {
            [text(&handler["httpGet"]["host"]).to_owned(), text(&handler["tcpSocket"]["host"]).to_owned()]
        };
        let found: Vec<String> = handlers.into_iter().flat_map(of).filter(|host| !host.is_empty()).collect();
        hosts.extend(found.iter().cloned());
        !found.is_empty()
    });
    bad.sort();
    let uses = if bad.len() == 1 { "uses" } else { "use" };
    let what = plural("probe or lifecycle host", hosts.len());
    let detail = || format!("{} {uses} {what} {}", containers(&bad), quoted(&hosts));
    if bad.is_empty() { None } else { violation("probe or lifecycle host", detail()) }
}

fn proc_mount_baseline(pod: &Pod<'_>) -> Option<Violation> {
    if pod.in_user_namespace() { None } else { proc_mount(pod) }
}

fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let mut found = BTreeSet::new();
    let bad = pod.which(|c| {
        let mount = text(&c["securityContext"]["procMount"]).to_owned();
        let bad = !mount.is_empty() && mount != "Default";
        if bad {
            found.insert(mount);
        }
        bad
    });
    let detail = || format!("{} must not set securityContext.procMount to {}", containers(&bad), quoted(&found));
    if bad.is_empty() { None } else { violation("procMount", detail()) }
}

fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    const CONTAINERS: &str = "container.apparmor.security.beta.kubernetes.io/";
    let mut values = BTreeSet::new();
    let mut bad = |context: &Value| {
        let Some(profile) = context.get("appArmorProfile").filter(|p| p.is_object()) else { return false };
        let ty = text(&profile["type"]);
        let bad = !matches!(ty, "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(ty.to_owned());
        }
        bad
    };
    let whole = bad(pod.context());
    let names = pod.which(|c| bad(&c["securityContext"]));
    let annotations = pod.metadata["annotations"].as_object().into_iter().flatten();
    let allowed = |value: &str| value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
    let forbidden = annotations.filter(|(key, value)| key.starts_with(CONTAINERS) && !allowed(text(value)));
    let mut forbidden: Vec<String> = forbidden.map(|(key, value)| format!("{key}={:?}", text(value))).collect();
    forbidden.sort();
    let own = setters(whole, &names).into_iter();
    let noted = (!forbidden.is_empty()).then(|| plural("annotation", forbidden.len()));
    let who: Vec<String> = own.chain(noted).collect();
    let values: Vec<String> = values.into_iter().chain(forbidden).collect();
    let detail = || format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(&values));
    if who.is_empty() { None } else { violation(plural("forbidden AppArmor profile", values.len()), detail()) }
}

fn selinux(pod: &Pod<'_>) -> Option<Violation> {
    const TYPES: &[(&str, u32)] =
        &[("", 0), ("container_t", 0), ("container_init_t", 0), ("container_kvm_t", 0), ("container_engine_t", 31)];
    let allowed = |ty: &str| TYPES.iter().any(|(name, since)| *name == ty && pod.since(*since));
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut bad = |context: &Value| {
        let options = &context["seLinuxOptions"];
        let ty = text(&options["type"]);
        let mut bad = !allowed(ty);
        if bad {
            types.insert(ty.to_owned());
        }
        for (field, set) in [("user", &mut user), ("role", &mut role)] {
            if !text(&options[field]).is_empty() {
                (*set, bad) = (true, true);
            }
        }
        bad
    };
    let whole = bad(pod.context());
    let names = pod.which(|c| bad(&c["securityContext"]));
    let who = setters(whole, &names)?;
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", types.len()), quoted(&types)));
    }
    data.extend(user.then(|| "user may not be set".to_owned()));
    data.extend(role.then(|| "role may not be set".to_owned()));
    violation("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {}", data.join("; ")))
}

/// The profile's type, where there is one, and whether it is allowed.
fn seccomp(context: &Value) -> Option<(String, bool)> {
    let profile = context.get("seccompProfile").filter(|profile| profile.is_object())?;
    let ty = text(&profile["type"]);
    Some((ty.to_owned(), matches!(ty, "Localhost" | "RuntimeDefault")))
}

/// Before pods had a field for it, annotations named the profile.
fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    let annotations = &pod.metadata["annotations"];
    let allowed =
        |value: &str| matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
    let of = |c: &Value| format!("container.seccomp.security.alpha.kubernetes.io/{}", text(&c["name"]));
    let keys = std::iter::once(POD.to_owned()).chain(pod.containers().map(of));
    let bad = keys.filter_map(|key| {
        let value = annotations[&key].as_str().filter(|value| !allowed(value))?;
        Some(format!("{key}={value:?}"))
    });
    let bad: BTreeSet<String> = bad.collect();
    let shown = || Vec::from_iter(bad.iter().map(String::as_str)).join(", ");
    let detail = || format!("forbidden {} {}", plural("annotation", bad.len()), shown());
    if bad.is_empty() { None } else { violation("seccompProfile", detail()) }
}

fn seccomp_baseline(pod: &Pod<'_>) -> Option<Violation> {
    const FIELDS_SINCE: u32 = 19;
    if !pod.since(FIELDS_SINCE) {
        return seccomp_annotations(pod);
    }
    let mut values = BTreeSet::new();
    let mut bad = |context: &Value| match seccomp(context) {
        Some((ty, false)) => {
            values.insert(ty);
            true
        }
        _ => false,
    };
    let whole = bad(pod.context());
    let names = pod.which(|c| bad(&c["securityContext"]));
    let who = setters(whole, &names)?;
    violation(
        "seccompProfile",
        format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&values)),
    )
}

fn seccomp_restricted(pod: &Pod<'_>) -> Option<Violation> {
    if pod.windows() {
        return None;
    }
    if let Some(found) = seccomp_baseline(pod) {
        return Some(found);
    }
    let set = matches!(seccomp(pod.context()), Some((_, true)));
    let without = pod.which(|c| !set && seccomp(&c["securityContext"]).is_none());
    let text = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    let detail = || format!("pod or {} {text}", containers(&without));
    if without.is_empty() { None } else { violation("seccompProfile", detail()) }
}

fn sysctls(pod: &Pod<'_>) -> Option<Violation> {
    const ALLOWED: &[(&str, u32)] = &[
        ("kernel.shm_rmid_forced", 0),
        ("net.ipv4.ip_local_port_range", 0),
        ("net.ipv4.tcp_syncookies", 0),
        ("net.ipv4.ping_group_range", 0),
        ("net.ipv4.ip_unprivileged_port_start", 0),
        ("net.ipv4.ip_local_reserved_ports", 27),
        ("net.ipv4.tcp_keepalive_time", 29),
        ("net.ipv4.tcp_fin_timeout", 29),
        ("net.ipv4.tcp_keepalive_intvl", 29),
        ("net.ipv4.tcp_keepalive_probes", 29),
        ("net.ipv4.tcp_rmem", 32),
        ("net.ipv4.tcp_wmem", 32),
    ];
    let allowed = |wanted: &str| ALLOWED.iter().any(|(name, since)| *name == wanted && pod.since(*since));
    let names = list(&pod.context()["sysctls"]).iter().map(|sysctl| text(&sysctl["name"]));
    let bad: Vec<&str> = names.filter(|name| !allowed(name)).collect();
    if bad.is_empty() { None } else { violation("forbidden sysctls", bad.join(", ")) }
}

fn escalation(pod: &Pod<'_>) -> Option<Violation> {
    if pod.windows() {
        return None;
    }
    let bad = pod.which(|c| c["securityContext"]["allowPrivilegeEscalation"] != false);
    let detail = || format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&bad));
    if bad.is_empty() { None } else { violation("allowPrivilegeEscalation != false", detail()) }
}

fn non_root(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    if pod.in_user_namespace() {
        return None;
    }
    let whole = pod.context()["runAsNonRoot"].as_bool();
    let explicit = pod.which(|c| c["securityContext"]["runAsNonRoot"] == false);
    if let Some(who) = setters(whole == Some(false), &explicit) {
        return violation(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = pod.which(|c| whole != Some(true) && !c["securityContext"]["runAsNonRoot"].is_boolean());
    let detail = || format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent));
    if silent.is_empty() { None } else { violation(REASON, detail()) }
}

fn user(pod: &Pod<'_>) -> Option<Violation> {
    if pod.in_user_namespace() {
        return None;
    }
    let bad = pod.which(|c| c["securityContext"]["runAsUser"] == 0);
    let who = setters(pod.context()["runAsUser"] == 0, &bad)?;
    violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reasons(level: Level, spec: Value) -> Vec<String> {
        evaluate(level, Version::LATEST, &Value::Null, &spec).into_iter().map(|v| v.reason).collect()
    }

    #[test]
    fn a_plain_pod_is_baseline_and_a_careful_one_restricted() {
        let plain = json!({"containers": [{"name": "a"}]});
        assert!(reasons(Level::Baseline, plain.clone()).is_empty());
        assert_eq!(
            reasons(Level::Restricted, plain),
            [
                "allowPrivilegeEscalation != false",
                "unrestricted capabilities",
                "runAsNonRoot != true",
                "seccompProfile"
            ]
        );
        let careful = json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        });
        assert!(reasons(Level::Restricted, careful).is_empty());
    }

    #[test]
    fn an_older_version_asks_for_what_it_knew() {
        let at = |version: &str, level: Level, spec: &Value| -> Vec<String> {
            let version = Version::parse(version).unwrap();
            evaluate(level, version, &Value::Null, spec).into_iter().map(|v| v.reason).collect()
        };
        let plain = json!({"containers": [{"name": "a"}]});
        assert_eq!(at("v1.7", Level::Restricted, &plain), ["runAsNonRoot != true"]);
        assert_eq!(
            at("v1.19", Level::Restricted, &plain),
            ["allowPrivilegeEscalation != false", "runAsNonRoot != true", "seccompProfile"]
        );
        let sysctl = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
        assert_eq!(at("v1.31", Level::Baseline, &sysctl), ["forbidden sysctls"]);
        assert!(at("v1.32", Level::Baseline, &sysctl).is_empty());
        let probe = json!({"containers": [{"name": "a", "livenessProbe": {"tcpSocket": {"host": "1.2.3.4"}}}]});
        assert!(at("v1.33", Level::Baseline, &probe).is_empty());
        assert_eq!(at("latest", Level::Baseline, &probe), ["probe or lifecycle host"]);
        let (windows, apart) = (json!({"os": {"name": "windows"}}), json!({"hostUsers": false}));
        let with = |extra: &Value| api::patch::merge_patch(&plain, extra);
        assert_eq!(at("v1.24", Level::Restricted, &with(&windows)).len(), 4);
        assert_eq!(at("v1.25", Level::Restricted, &with(&windows)), ["runAsNonRoot != true"]);
        assert!(at("v1.34", Level::Restricted, &with(&apart)).contains(&"runAsNonRoot != true".to_owned()));
        assert!(!at("v1.35", Level::Restricted, &with(&apart)).contains(&"runAsNonRoot != true".to_owned()));
        assert_eq!(Version::parse("1.2"), None);
    }

    #[test]
    fn each_baseline_rule_is_told_with_who_breaks_it() {
        let spec = json!({
            "hostNetwork": true, "hostPID": true,
            "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            "securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}], "seLinuxOptions": {"user": "u"}},
            "containers": [
                {"name": "a", "ports": [{"hostPort": 80}], "securityContext": {"privileged": true}},
                {"name": "b", "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}, "procMount": "Unmasked"}}],
        });
        let found = evaluate(Level::Baseline, Version::LATEST, &Value::Null, &spec);
        let details: Vec<&str> = found.iter().map(|v| v.detail.as_str()).collect();
        assert_eq!(
            details,
            [
                "container \"b\" must not include \"NET_ADMIN\" in securityContext.capabilities.add",
                "hostNetwork=true, hostPID=true",
                "volume \"v\"",
                "container \"a\" uses hostPort 80",
                "container \"a\" must not set securityContext.privileged=true",
                "container \"b\" must not set securityContext.procMount to \"Unmasked\"",
                "pod set forbidden securityContext.seLinuxOptions: user may not be set",
                "kernel.msgmax",
            ]
        );
        assert!(reasons(Level::Privileged, spec).is_empty());
    }
}
