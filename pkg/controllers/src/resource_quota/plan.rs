//! Pure: which collections a quota counts, and what they add up to.
use api::quota::{Amounts, Counted, counted_resource, read, write};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Group and plural of a collection.
pub type Collection = (String, String);

/// What was found in one collection of the namespace.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// The objects themselves: what they ask for counts.
    Objects(Vec<Value>),
    /// Their number alone counts.
    Number(i64),
}

/// Kinds that count for more than their number.
const MEASURED: [&str; 3] = ["pods", "services", "persistentvolumeclaims"];

/// The collections that the quota's amounts are about; true: the objects themselves are wanted.
pub fn collections(hard: &Amounts) -> BTreeMap<Collection, bool> {
    let mut wanted = BTreeMap::new();
    for name in hard.keys() {
        let measured = MEASURED.iter().find(|resource| Counted::of("", resource).tracks(name));
        match (measured, counted_resource(name)) {
            (Some(resource), _) => _ = wanted.insert((String::new(), (*resource).to_owned()), true),
            (None, Some((group, resource))) => _ = wanted.insert((group.to_owned(), resource.to_owned()), false),
            (None, None) => {}
        }
    }
    wanted
}

/// The quota's status for what was found.
pub fn status(quota: &Value, found: &BTreeMap<Collection, Found>, now: Timestamp) -> Value {
    let hard = read(&quota["spec"]["hard"]);
    let mut used: Amounts = hard.keys().map(|name| (name.clone(), Default::default())).collect();
    for ((group, resource), found) in found {
        let counted = Counted::of(group, resource);
        let number = |n: i64| api::quantity::Quantity::new(n, api::quantity::Format::DecimalSi);
        let takes: Vec<Amounts> = match found {
            Found::Objects(objects) => {
                let inside = objects.iter().filter(|object| counted.in_scopes(quota, object));
                inside.map(|object| counted.usage(object, now)).collect()
            }
            Found::Number(n) if counted.in_scopes(quota, &Value::Null) => {
                let one = counted.usage(&Value::Null, now);
                vec![one.into_keys().map(|name| (name, number(*n))).collect()]
            }
            Found::Number(_) => Vec::new(),
        };
        for (name, amount) in takes.into_iter().flatten() {
            if let Some(sum) = used.get_mut(&name) {
                *sum = sum.add(&amount);
            }
        }
    }
    json!({"hard": write(&hard), "used": write(&used)})
}

/// Whether the status speaks of what the spec asks for.
pub fn is_current(quota: &Value) -> bool {
    let (hard, status) = (read(&quota["spec"]["hard"]), &quota["status"]);
    let used = read(&status["used"]);
    hard == read(&status["hard"]) && hard.keys().all(|name| used.contains_key(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_counts_what_it_limits() {
        let quota = json!({"spec": {"hard": {
            "pods": "5", "requests.cpu": "1", "services.nodeports": "2", "count/replicasets.apps": "9", "secrets": "3"}}});
        let wanted = collections(&read(&quota["spec"]["hard"]));
        let names: Vec<(&str, bool)> =
            wanted.iter().map(|((_, resource), whole)| (resource.as_str(), *whole)).collect();
        assert_eq!(names, [("pods", true), ("secrets", false), ("services", true), ("replicasets", false)]);
        let pod = |cpu: &str| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
        let at = |group: &str, resource: &str| (group.to_owned(), resource.to_owned());
        let done = json!({"status": {"phase": "Succeeded"}});
        let found = BTreeMap::from([
            (at("", "pods"), Found::Objects(vec![pod("100m"), pod("200m"), done])),
            (at("", "secrets"), Found::Number(2)),
            (at("apps", "replicasets"), Found::Number(4)),
        ]);
        let status = status(&quota, &found, Timestamp::UNIX_EPOCH);
        assert_eq!(
            status["used"],
            json!({"pods": "2", "requests.cpu": "300m", "services.nodeports": "0", "count/replicasets.apps": "4", "secrets": "2"})
        );
        let mut whole = quota.clone();
        assert!(!is_current(&whole));
        whole["status"] = status;
        assert!(is_current(&whole));
    }

    #[test]
    fn scopes_choose_what_counts() {
        let quota = json!({"spec": {"hard": {"pods": "5", "configmaps": "1"}, "scopes": ["BestEffort"]}});
        let best = json!({"spec": {"containers": [{"name": "c"}]}});
        let other = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}});
        let found = BTreeMap::from([
            ((String::new(), "pods".to_owned()), Found::Objects(vec![best, other])),
            ((String::new(), "configmaps".to_owned()), Found::Number(3)),
        ]);
        let status = status(&quota, &found, Timestamp::UNIX_EPOCH);
        assert_eq!(status["used"], json!({"pods": "1", "configmaps": "0"}));
    }
}
