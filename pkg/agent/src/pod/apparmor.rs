//! AppArmor profiles: which one a container runs under (`securityContext.appArmorProfile`, and the annotations that
//! came before it). Pure.
use super::config::spec;
use crate::cri::{SecurityProfile, security_profile::ProfileType};
use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod};

/// The annotation of a container's profile, until the field came.
const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Whether any container is to be confined.
pub fn is_wanted(pod: &Pod) -> bool {
    let spec = spec(pod);
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let whole = spec.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    whole.is_some_and(|profile| profile.type_ != "Unconfined")
        || all
            .any(|container| profile(pod, container).is_some_and(|p| p.profile_type != ProfileType::Unconfined as i32))
}

/// A container's own profile, the pod's, or what its annotation says; `None`: the runtime's own choice.
pub fn profile(pod: &Pod, container: &Container) -> Option<SecurityProfile> {
    let own = container.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    let whole = || spec(pod).security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    own.or_else(whole).map(of_field).or_else(|| {
        let annotations = pod.metadata.annotations.as_ref()?;
        of_annotation(annotations.get(&format!("{ANNOTATION}{}", container.name))?)
    })
}

fn of_field(profile: &AppArmorProfile) -> SecurityProfile {
    let file = profile.localhost_profile.clone().unwrap_or_default();
    match profile.type_.as_str() {
        "Localhost" => named(ProfileType::Localhost, file),
        "RuntimeDefault" => named(ProfileType::RuntimeDefault, String::new()),
        _ => named(ProfileType::Unconfined, String::new()),
    }
}

fn of_annotation(text: &str) -> Option<SecurityProfile> {
    match text.split_once('/') {
        Some(("localhost", name)) => Some(named(ProfileType::Localhost, name.to_owned())),
        Some(("runtime", "default")) => Some(named(ProfileType::RuntimeDefault, String::new())),
        _ if text == "unconfined" => Some(named(ProfileType::Unconfined, String::new())),
        _ => None,
    }
}

fn named(kind: ProfileType, localhost_ref: String) -> SecurityProfile {
    SecurityProfile { profile_type: kind.into(), localhost_ref }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_containers_own_profile_counts_first() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "annotations": {format!("{ANNOTATION}b"): "localhost/old"}},
            "spec": {"containers": [
                {"name": "a", "securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "mine"}}},
                {"name": "b"}]}}))
        .expect("a pod");
        let of =
            |pod: &Pod, n: usize| profile(pod, &spec(pod).containers[n]).map(|p| (p.profile_type, p.localhost_ref));
        let localhost = ProfileType::Localhost as i32;
        assert_eq!(of(&pod, 0), Some((localhost, "mine".into())));
        assert_eq!(of(&pod, 1), Some((localhost, "old".into())));
        assert!(is_wanted(&pod));
        let mut whole = pod.clone();
        let context = json!({"appArmorProfile": {"type": "RuntimeDefault"}});
        whole.spec.as_mut().expect("spec").security_context = serde_json::from_value(context).expect("context");
        assert_eq!(of(&whole, 1), Some((ProfileType::RuntimeDefault as i32, String::new())));
        let plain: Pod =
            serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [{"name": "a"}]}})).expect("a pod");
        assert!(of(&plain, 0).is_none() && !is_wanted(&plain));
    }
}
