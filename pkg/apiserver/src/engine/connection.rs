//! What a connection asks for as an object: the options that upstream reads out of its query
//! (`PodExecOptions` and its siblings), which is what admission sees of it.
use crate::RequestInfo;
use api::GroupVersionKind;
use serde_json::{Value, json};

/// The options' object of `kind`.
pub fn options(info: &RequestInfo, kind: &GroupVersionKind) -> Value {
    let mut options = json!({"kind": kind.kind, "apiVersion": kind.group_version().to_string()});
    let all = |name: &str| {
        info.query.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    match &*info.subresource {
        "exec" | "attach" => {
            for name in ["stdin", "stdout", "stderr", "tty"] {
                if super::params::flag(info, name) == Some(true) {
                    options[name] = true.into();
                }
            }
            if let Some(container) = info.param("container").filter(|name| !name.is_empty()) {
                options["container"] = container.into();
            }
            if info.subresource == "exec" {
                options["command"] = json!(all("command"));
            }
        }
        "portforward" => {
            let ports: Vec<u16> =
                all("ports").iter().flat_map(|p| p.split(',')).filter_map(|p| p.parse().ok()).collect();
            if !ports.is_empty() {
                options["ports"] = json!(ports);
            }
        }
        _ if !info.path.is_empty() => options["path"] = format!("/{}", info.path).into(),
        _ => {}
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Verb;
    use crate::engine::testing;

    #[test]
    fn a_query_becomes_options() {
        let mut info = testing::info(Verb::Create, "pods", "n", "p");
        info.subresource = "exec".into();
        let query = [("command", "sh"), ("command", "-c"), ("stdin", "true"), ("tty", "false"), ("container", "c")];
        info.query = query.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        let kind = GroupVersionKind::new("", "v1", "PodExecOptions");
        let wanted = json!({"kind": "PodExecOptions", "apiVersion": "v1", "stdin": true, "container": "c", "command": ["sh", "-c"]});
        assert_eq!(options(&info, &kind), wanted);
    }
}
