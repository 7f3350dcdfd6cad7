//! Aggregated ClusterRoles: their rules are those of the roles that their selectors match
//! (`pkg/controller/clusterroleaggregation`). What should be is pure; the follower writes what differs.
use super::index::{Kind, Objects};
use serde_json::Value;
use store::{Backend, Compare, Op, Txn};

/// A ClusterRole whose rules are not what its parts say.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub name: String,
    pub rules: Vec<Value>,
}

/// What to write, given all roles. Parts come in the order of their names, each rule once, so that two servers
/// write the same.
pub fn plan(objects: &Objects) -> Vec<Change> {
    let roles = objects.iter().filter(|((kind, namespace, _), _)| *kind == Kind::Role && namespace.is_empty());
    let aggregated = roles.clone().filter(|(_, role)| role["aggregationRule"].is_object());
    let changes = aggregated.filter_map(|((_, _, name), role)| {
        let selectors = list(&role["aggregationRule"]["clusterRoleSelectors"]);
        let mut rules: Vec<Value> = Vec::new();
        for ((_, _, part), of) in roles.clone() {
            let matches =
                part != name && selectors.iter().any(|selector| selected(selector, &of["metadata"]["labels"]));
            for rule in list(&of["rules"]).iter().filter(|_| matches) {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
        (rules != list(&role["rules"])).then(|| Change { name: name.clone(), rules })
    });
    changes.collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A label selector on labels as they are in an object.
fn selected(selector: &Value, labels: &Value) -> bool {
    let exact = selector["matchLabels"].as_object().into_iter().flatten();
    let label = |key: &str| labels[key].as_str();
    let expressions = list(&selector["matchExpressions"]);
    exact.into_iter().all(|(key, value)| label(key) == value.as_str())
        && expressions.iter().all(|expression| {
            let value = label(expression["key"].as_str().unwrap_or_default());
            let among = list(&expression["values"]).iter().any(|one| value.is_some() && one.as_str() == value);
            match expression["operator"].as_str().unwrap_or_default() {
                "In" => among,
                "NotIn" => !among,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Writes the changes. What somebody else changes meanwhile is planned again when that change comes in.
///
/// # Errors
/// The store's own.
pub async fn execute(backend: &dyn Backend, changes: Vec<Change>) -> store::Result<()> {
    for change in changes {
        let key = bytes::Bytes::from(format!("/registry/clusterroles/{}", change.name));
        let Some(entry) = backend.get(&key, None).await? else { continue };
        let Ok(mut role) = serde_json::from_slice::<Value>(&entry.value) else { continue };
        role["rules"] = change.rules.into();
        let compare = vec![Compare::ModRevision { key: key.clone(), revision: entry.mod_revision }];
        let put = Op::Put { key, value: role.to_string().into(), lease: None };
        backend.txn(Txn { compare, then: vec![put], otherwise: Vec::new() }).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_follow_the_parts() {
        let at = |name: &str| (Kind::Role, String::new(), name.to_owned());
        let part = |label: &str, rule: &str| json!({"metadata": {"labels": {"to": label}}, "rules": [rule, "shared"]});
        let mut objects = Objects::from([
            (
                at("all"),
                json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "x"}},
                {"matchExpressions": [{"key": "to", "operator": "In", "values": ["z"]}]}]}}),
            ),
            (at("b"), part("x", "2")),
            (at("a"), part("x", "1")),
            (at("c"), part("y", "3")),
            (at("d"), part("z", "4")),
        ]);
        let rules = vec![json!("1"), json!("shared"), json!("2"), json!("4")];
        assert_eq!(plan(&objects), [Change { name: "all".into(), rules: rules.clone() }]);
        objects.get_mut(&at("all")).unwrap()["rules"] = json!(rules);
        assert_eq!(plan(&objects), [], "what is right is left alone");
    }

    #[test]
    fn selectors_are_label_selectors() {
        let labels = json!({"a": "1"});
        let expression = |operator: &str, key: &str| json!({"matchExpressions": [{"key": key, "operator": operator, "values": ["1"]}]});
        for (operator, key, want) in [
            ("In", "a", true),
            ("In", "b", false),
            ("NotIn", "a", false),
            ("NotIn", "b", true),
            ("Exists", "a", true),
            ("DoesNotExist", "a", false),
            ("DoesNotExist", "b", true),
        ] {
            assert_eq!(selected(&expression(operator, key), &labels), want, "{operator} {key}");
        }
        assert!(selected(&json!({}), &labels));
    }
}
