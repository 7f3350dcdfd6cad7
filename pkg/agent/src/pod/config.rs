//! A pod's spec as CRI's configurations. Pure.
use super::resources::{self, Qos};
use crate::cri::{
    Capability, ContainerConfig, ContainerMetadata, DnsConfig, ImageSpec, Int64Value, KeyValue, LinuxContainerConfig,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxMetadata, SecurityProfile, label, security_profile::ProfileType,
};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, SeccompProfile, SecurityContext};
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};

/// What the node adds to every pod.
#[derive(Clone, Debug)]
pub struct Settings {
    pub instance: String,
    pub cluster_dns: String,
    pub cluster_domain: String,
    /// The host's resolver settings, for `dnsPolicy: Default`.
    pub host_dns: Resolver,
    pub node_memory_bytes: i64,
    /// The lowest `oom_score_adj` that this process may set.
    pub oom_floor: i64,
    /// Where containers' logs go: `<log_dir>/<namespace>_<name>_<uid>/<container>/<n>.log`.
    pub log_dir: std::path::PathBuf,
    /// Where seccomp profiles of type Localhost are looked for.
    pub seccomp_dir: std::path::PathBuf,
    pub host_name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads a resolv.conf.
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let rest = |words: std::str::SplitWhitespace<'_>| words.map(str::to_owned).collect::<Vec<_>>();
            match words.next() {
                Some("nameserver") => resolver.servers.extend(words.next().map(str::to_owned)),
                Some("search") => resolver.searches = rest(words),
                Some("options") => resolver.options = rest(words),
                _ => {}
            }
        }
        resolver
    }
}

pub fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().expect("the API accepts no pod without a spec")
}

pub fn text(value: Option<&String>) -> &str {
    value.map_or("", String::as_str)
}

fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    let metadata = &pod.metadata;
    let own = [
        (label::POD_NAME, text(metadata.name.as_ref())),
        (label::POD_NAMESPACE, text(metadata.namespace.as_ref())),
        (label::POD_UID, text(metadata.uid.as_ref())),
    ];
    let mut labels: HashMap<String, String> = metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    labels
}

/// The host name inside: the pod's own, cut to what the kernel takes.
pub fn hostname(pod: &Pod, settings: &Settings) -> String {
    let spec = spec(pod);
    if spec.host_network == Some(true) {
        return settings.host_name.clone();
    }
    let name = spec.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(text(pod.metadata.name.as_ref()));
    let short = if spec.set_hostname_as_fqdn == Some(true) { domain(pod, settings) } else { None };
    match short {
        Some(domain) => format!("{name}.{domain}"),
        None => name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned(),
    }
}

/// `subdomain.namespace.svc.cluster.local`, for pods that name a subdomain.
pub fn domain(pod: &Pod, settings: &Settings) -> Option<String> {
    let subdomain = spec(pod).subdomain.as_deref().filter(|name| !name.is_empty())?;
    let namespace = text(pod.metadata.namespace.as_ref());
    Some(format!("{subdomain}.{namespace}.svc.{}", settings.cluster_domain))
}

pub fn log_directory(pod: &Pod, settings: &Settings) -> std::path::PathBuf {
    let metadata = &pod.metadata;
    let [namespace, name, uid] = [&metadata.namespace, &metadata.name, &metadata.uid].map(|part| text(part.as_ref()));
    settings.log_dir.join(format!("{namespace}_{name}_{uid}"))
}

pub fn sandbox(pod: &Pod, settings: &Settings, attempt: u32) -> PodSandboxConfig {
    let spec = spec(pod);
    let metadata = &pod.metadata;
    let qos = Qos::of(spec);
    let context = spec.security_context.clone().unwrap_or_default();
    let privileged = spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(is_privileged);
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: text(metadata.name.as_ref()).into(),
            uid: text(metadata.uid.as_ref()).into(),
            namespace: text(metadata.namespace.as_ref()).into(),
            attempt,
        }),
        hostname: if spec.host_network == Some(true) { String::new() } else { hostname(pod, settings) },
        log_directory: log_directory(pod, settings).to_string_lossy().into_owned(),
        dns_config: Some(dns(pod, settings)),
        // Host ports are the Service table's business, not CNI's.
        port_mappings: Vec::new(),
        labels: pod_labels(pod),
        annotations: metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: resources::cgroup_parent(&settings.instance, pod, qos),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(spec)),
                run_as_user: context.run_as_user.map(|value| Int64Value { value }),
                run_as_group: context
                    .run_as_group
                    .filter(|_| context.run_as_user.is_some())
                    .map(|value| Int64Value { value }),
                supplemental_groups: supplemental_groups(spec),
                privileged,
                seccomp: Some(seccomp(None, settings)),
                ..Default::default()
            }),
            sysctls: context
                .sysctls
                .iter()
                .flatten()
                .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
                .collect(),
        }),
    }
}

fn namespaces(spec: &PodSpec) -> NamespaceOption {
    let mode = |host: Option<bool>, own: NamespaceMode| if host == Some(true) { NamespaceMode::Node } else { own };
    let pid = if spec.share_process_namespace == Some(true) { NamespaceMode::Pod } else { NamespaceMode::Container };
    NamespaceOption {
        network: mode(spec.host_network, NamespaceMode::Pod).into(),
        pid: mode(spec.host_pid, pid).into(),
        ipc: mode(spec.host_ipc, NamespaceMode::Pod).into(),
        target_id: String::new(),
    }
}

fn supplemental_groups(spec: &PodSpec) -> Vec<i64> {
    let context = spec.security_context.as_ref();
    let given = context.and_then(|context| context.supplemental_groups.clone()).unwrap_or_default();
    given.into_iter().chain(context.and_then(|context| context.fs_group)).collect()
}

/// resolv.conf by `dnsPolicy` and `dnsConfig`.
pub fn dns(pod: &Pod, settings: &Settings) -> DnsConfig {
    let spec = spec(pod);
    let on_host = spec.host_network == Some(true);
    let cluster = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirst" => !on_host,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut resolver = match (cluster, spec.dns_policy.as_deref()) {
        (_, Some("None")) => Resolver::default(),
        (true, _) => cluster_resolver(pod, settings),
        (false, _) => settings.host_dns.clone(),
    };
    if let Some(config) = &spec.dns_config {
        resolver.servers.extend(config.nameservers.clone().unwrap_or_default());
        resolver.searches.extend(config.searches.clone().unwrap_or_default());
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            resolver.options.retain(|old| old.split(':').next() != Some(&name));
            resolver.options.push(option.value.as_ref().map_or(name.clone(), |value| format!("{name}:{value}")));
        }
    }
    let mut seen = std::collections::HashSet::new();
    resolver.servers.retain(|server| seen.insert(server.clone()));
    resolver.searches.retain(|search| seen.insert(search.clone()));
    DnsConfig { servers: resolver.servers, searches: resolver.searches, options: resolver.options }
}

fn cluster_resolver(pod: &Pod, settings: &Settings) -> Resolver {
    let (namespace, domain) = (text(pod.metadata.namespace.as_ref()), &settings.cluster_domain);
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    searches.extend(settings.host_dns.searches.clone());
    Resolver { servers: vec![settings.cluster_dns.clone()], searches, options: vec!["ndots:5".into()] }
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context| context.privileged) == Some(true)
}

/// What a container's start needs beyond its spec.
pub struct Start<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub restart_count: u32,
    pub env: &'a [(String, String)],
    pub mounts: Vec<Mount>,
    /// What the runtime calls the image.
    pub image: &'a str,
    /// The image's own user, where it is a number, and its name.
    pub image_user: (Option<i64>, &'a str),
    /// The file that becomes `terminationMessagePath`.
    pub termination_file: &'a str,
    /// A container whose process namespace is joined (ephemeral containers).
    pub target_id: Option<String>,
}

/// The container's configuration, or the text of a `CreateContainerConfigError`.
pub fn container(start: &Start<'_>, settings: &Settings) -> Result<ContainerConfig, String> {
    let Start { pod, container, .. } = *start;
    let known: BTreeMap<String, String> = start.env.iter().cloned().collect();
    let expand = |words: &Option<Vec<String>>| -> Vec<String> {
        words.iter().flatten().map(|word| super::env::expand(word, &known)).collect()
    };
    let qos = Qos::of(spec(pod));
    let mut resources = resources::container(container, qos, settings.node_memory_bytes, settings.oom_floor);
    if spec(pod).containers.is_empty() {
        resources.oom_score_adj = settings.oom_floor.max(0);
    }
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: start.restart_count }),
        image: Some(ImageSpec {
            image: start.image.to_owned(),
            user_specified_image: text(container.image.as_ref()).into(),
            ..Default::default()
        }),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: text(container.working_dir.as_ref()).into(),
        envs: start
            .env
            .iter()
            .map(|(key, value)| KeyValue { key: key.clone(), value: value.clone().into_bytes() })
            .collect(),
        mounts: start.mounts.clone(),
        devices: Vec::new(),
        labels: container_labels(pod, container),
        annotations: annotations(start),
        log_path: format!("{}/{}.log", container.name, start.restart_count),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources),
            security_context: Some(security(start, settings)?),
        }),
    })
}

fn container_labels(pod: &Pod, container: &Container) -> HashMap<String, String> {
    let metadata = &pod.metadata;
    HashMap::from(
        [
            (label::POD_NAME, text(metadata.name.as_ref())),
            (label::POD_NAMESPACE, text(metadata.namespace.as_ref())),
            (label::POD_UID, text(metadata.uid.as_ref())),
            (label::CONTAINER_NAME, container.name.as_str()),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    )
}

fn annotations(start: &Start<'_>) -> HashMap<String, String> {
    let path = start.container.termination_message_path.clone().unwrap_or_default();
    HashMap::from([
        (label::RESTART_COUNT.to_owned(), start.restart_count.to_string()),
        (label::HASH.to_owned(), hash(start.container)),
        (label::IMAGE.to_owned(), text(start.container.image.as_ref()).to_owned()),
        (label::TERMINATION_PATH.to_owned(), path),
        (label::TERMINATION_FILE.to_owned(), start.termination_file.to_owned()),
    ])
}

/// What tools that read CRI take for the container's definition; see [`label::IMAGE`] for what restarts one.
pub fn hash(container: &Container) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    (&container.name, &container.image).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn security(start: &Start<'_>, settings: &Settings) -> Result<LinuxContainerSecurityContext, String> {
    let spec = spec(start.pod);
    let own = start.container.security_context.clone().unwrap_or_default();
    let pod = spec.security_context.clone().unwrap_or_default();
    let user = own.run_as_user.or(pod.run_as_user);
    non_root(start, &own, own.run_as_non_root.or(pod.run_as_non_root), user)?;
    let privileged = own.privileged == Some(true);
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let masked = !privileged && own.proc_mount.as_deref() != Some("Unmasked");
    let paths = |paths: &[&str]| if masked { paths.iter().map(ToString::to_string).collect() } else { Vec::new() };
    let profile = own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref());
    let mut namespace_options = namespaces(spec);
    if let Some(target) = &start.target_id {
        namespace_options.pid = NamespaceMode::Target.into();
        namespace_options.target_id = target.clone();
    }
    let id = |value| Int64Value { value };
    Ok(LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
        }),
        privileged,
        namespace_options: Some(namespace_options),
        run_as_user: user.or(start.image_user.0.filter(|_| start.image_user.1.is_empty())).map(id),
        run_as_username: if user.is_none() { start.image_user.1.into() } else { String::new() },
        run_as_group: own.run_as_group.or(pod.run_as_group).map(id),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: supplemental_groups(spec),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(if privileged { unconfined() } else { seccomp(profile, settings) }),
        apparmor: super::apparmor::profile(start.pod, start.container),
    })
}

/// What a container must not see or change of /proc and /sys (containerd's defaults).
const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn non_root(start: &Start<'_>, own: &SecurityContext, wanted: Option<bool>, user: Option<i64>) -> Result<(), String> {
    if wanted != Some(true) || own.run_as_user.is_some_and(|user| user != 0) {
        return Ok(());
    }
    let name = text(start.pod.metadata.name.as_ref());
    match (user.or(start.image_user.0), start.image_user.1) {
        (Some(0), _) if user == Some(0) => Err(format!(
            "container's runAsUser breaks non-root policy (pod: \"{name}\", container: {})",
            start.container.name
        )),
        (None | Some(0), "" | "root" | "0") => Err(format!(
            "container has runAsNonRoot and image will run as root (pod: \"{name}\", container: {})",
            start.container.name
        )),
        (None, user) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root"
        )),
        _ => Ok(()),
    }
}

fn unconfined() -> SecurityProfile {
    SecurityProfile { profile_type: ProfileType::Unconfined.into(), localhost_ref: String::new() }
}

fn seccomp(profile: Option<&SeccompProfile>, settings: &Settings) -> SecurityProfile {
    match profile.map(|profile| (profile.type_.as_str(), &profile.localhost_profile)) {
        Some(("RuntimeDefault", _)) => {
            SecurityProfile { profile_type: ProfileType::RuntimeDefault.into(), localhost_ref: String::new() }
        }
        Some(("Localhost", Some(file))) => SecurityProfile {
            profile_type: ProfileType::Localhost.into(),
            localhost_ref: settings.seccomp_dir.join(file).to_string_lossy().into_owned(),
        },
        _ => unconfined(),
    }
}

/// The managed /etc/hosts of a pod.
pub fn hosts_file(pod: &Pod, settings: &Settings, ips: &[String], host: Option<&str>) -> String {
    let mut out = match host {
        Some(host) => format!("# Kubernetes-managed hosts file (host network).\n{host}"),
        None => {
            let mut out = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                           fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
                .to_owned();
            let name = hostname(pod, settings);
            for ip in ips {
                match domain(pod, settings) {
                    Some(domain) => out += &format!("{ip}\t{name}.{domain}\t{name}\n"),
                    None => out += &format!("{ip}\t{name}\n"),
                }
            }
            out
        }
    };
    let aliases = spec(pod).host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        out += "\n# Entries added by HostAliases.\n";
    }
    for alias in aliases {
        out += &format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings() -> Settings {
        Settings {
            instance: "eyot".into(),
            cluster_dns: "10.43.0.10".into(),
            cluster_domain: "cluster.local".into(),
            host_dns: Resolver::parse("nameserver 192.0.2.1\nsearch example.org\noptions edns0\n"),
            node_memory_bytes: 1 << 30,
            oom_floor: 0,
            log_dir: "/var/log/pods".into(),
            seccomp_dir: "/s".into(),
            host_name: "host".into(),
        }
    }

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
    }

    #[test]
    fn names_are_resolved_by_policy() {
        let of = |policy: &str, more: serde_json::Value| {
            let mut spec = json!({"dnsPolicy": policy, "containers": []});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            dns(&pod(spec), &settings())
        };
        let first = of("ClusterFirst", json!({}));
        assert_eq!(first.servers, ["10.43.0.10"]);
        assert_eq!(first.searches, ["n.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org"]);
        assert_eq!(of("ClusterFirst", json!({"hostNetwork": true})).servers, ["192.0.2.1"]);
        assert_eq!(of("ClusterFirstWithHostNet", json!({"hostNetwork": true})).servers, ["10.43.0.10"]);
        let own = json!({"dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}]}});
        assert_eq!(of("None", own.clone()).servers, ["1.1.1.1"]);
        assert_eq!(of("ClusterFirst", own).options, ["ndots:2"]);
    }

    #[test]
    fn non_root_is_checked_against_the_image() {
        let pod = pod(json!({"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "c"}]}));
        let start = |image_user| Start {
            pod: &pod,
            container: &spec(&pod).containers[0],
            restart_count: 0,
            env: &[],
            mounts: vec![],
            image: "x",
            image_user,
            termination_file: "",
            target_id: None,
        };
        assert!(container(&start((Some(0), "")), &settings()).unwrap_err().contains("image will run as root"));
        assert!(container(&start((None, "web")), &settings()).unwrap_err().contains("non-numeric user (web)"));
        assert!(container(&start((Some(7), "")), &settings()).is_ok());
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let pod = pod(json!({"hostname": "web-0", "subdomain": "web", "containers": [],
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let text = hosts_file(&pod, &settings(), &["10.42.0.5".into()], None);
        assert!(text.contains("10.42.0.5\tweb-0.web.n.svc.cluster.local\tweb-0\n"), "{text}");
        assert!(text.contains("1.2.3.4\ta\tb\n"), "{text}");
    }
}
