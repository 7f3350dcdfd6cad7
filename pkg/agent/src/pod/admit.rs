//! What this node refuses to run, although the scheduler put it here. Pure.
use super::config::spec;
use k8s_openapi::api::core::v1::Pod;

/// Why a pod ends without having run: reason and message of its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: &'static str,
    pub message: String,
}

/// Kernel parameters that are a pod's own and can't hurt others (Kubernetes documentation, "Using sysctls").
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// The first reason to refuse a pod.
pub fn refusal(pod: &Pod) -> Option<Refusal> {
    let sysctls = spec(pod).security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    let unsafe_one = sysctls.map(|sysctl| &sysctl.name).find(|name| !is_safe(name))?;
    let message = format!("forbidden sysctl: {unsafe_one:?} not allowlisted");
    Some(Refusal { reason: "SysctlForbidden", message })
}

/// A name may be written with dots or slashes.
fn is_safe(name: &str) -> bool {
    SAFE_SYSCTLS.contains(&name.replace('/', ".").as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unsafe_sysctls_are_refused() {
        let of = |name: &str| {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [],
                "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}}))
            .unwrap();
            refusal(&pod).map(|refusal| refusal.reason)
        };
        assert_eq!((of("kernel.shm_rmid_forced"), of("net/ipv4/tcp_rmem")), (None, None));
        assert_eq!(of("kernel.msgmax"), Some("SysctlForbidden"));
    }
}
