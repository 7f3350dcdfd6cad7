//! Which keys merge field by field, which merge whole, and which never leave their server.

/// How a key's values are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// A document: fields merge one by one.
    Document,
    /// A register: the last writer wins. For heartbeats, whose history would outgrow their use, and for bytes
    /// that are no Kubernetes object.
    Register,
    /// Means something on this server only.
    Local,
}

/// Keys that kube-apiserver keeps for its own bookkeeping, and what says how this very server is reached: clients at a
/// site reach the server of that site.
const LOCAL: [&[u8]; 7] = [
    b"compact_rev_key",
    b"/registry/masterleases/",
    b"/registry/ranges/",
    b"/registry/services/specs/default/kubernetes",
    b"/registry/services/endpoints/default/kubernetes",
    b"/registry/endpointslices/default/kubernetes",
    b"/registry/configmaps/kube-system/extension-apiserver-authentication",
];
/// Objects that are replaced often and never edited by two.
const REGISTERS: [&[u8]; 2] = [b"/registry/events/", b"/registry/leases/kube-node-lease/"];

/// The policy of a key, by its resource alone: all servers must come to the same answer.
pub fn policy(key: &[u8]) -> Policy {
    if LOCAL.iter().any(|prefix| key.starts_with(prefix)) {
        return Policy::Local;
    }
    let opaque = !key.starts_with(b"/registry/");
    match opaque || REGISTERS.iter().any(|prefix| key.starts_with(prefix)) {
        true => Policy::Register,
        false => Policy::Document,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_are_registers_and_leader_leases_are_not() {
        assert_eq!(policy(b"/registry/leases/kube-node-lease/n1"), Policy::Register);
        assert_eq!(policy(b"/registry/leases/kube-system/kube-scheduler"), Policy::Document);
        assert_eq!(policy(b"/registry/events/default/e"), Policy::Register);
        assert_eq!(policy(b"/registry/pods/default/p"), Policy::Document);
        assert_eq!(policy(b"/registry/ranges/serviceips"), Policy::Local);
        assert_eq!(policy(b"/mine"), Policy::Register);
    }
}
