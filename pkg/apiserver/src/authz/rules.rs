//! RBAC's rules as pure functions: does a rule allow a request, does one set of rules cover another.
//! Behaviour is that of `rbac.authorization.k8s.io/v1` (`pkg/apis/rbac/v1/evaluation_helpers.go`).
use super::Attributes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A PolicyRule.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

const ALL: &str = "*";

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == wanted)
}

fn has_or_all(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == ALL || item == wanted)
}

impl Rule {
    /// What a member of `system:masters` holds.
    pub fn everything() -> Self {
        let all = || vec![ALL.to_owned()];
        Self { verbs: all(), api_groups: all(), resources: all(), resource_names: Vec::new(), non_resource_urls: all() }
    }

    /// Reads `rules` of a role; what is no rule is left out.
    pub fn list(rules: &Value) -> Vec<Self> {
        let items = rules.as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(|rule| Self::deserialize(rule).ok()).collect()
    }

    pub fn allows(&self, wanted: &Attributes<'_>) -> bool {
        match wanted {
            Attributes::NonResource { verb, path } => {
                has_or_all(&self.verbs, verb) && self.non_resource_urls.iter().any(|url| url_covers(url, path))
            }
            Attributes::Resource { verb, group, resource, subresource, name, .. } => {
                has_or_all(&self.verbs, verb)
                    && has_or_all(&self.api_groups, group)
                    && self.matches_resource(resource, subresource)
                    && (self.resource_names.is_empty() || has(&self.resource_names, name))
            }
        }
    }

    fn matches_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|rule| match rule.split_once('/') {
            None => rule == ALL || (subresource.is_empty() && rule == resource),
            Some((of, sub)) => !subresource.is_empty() && sub == subresource && (of == ALL || of == resource),
        })
    }

    /// `{APIGroups:["apps"], Resources:["deployments"], Verbs:["get"]}`, as upstream's messages have it.
    pub fn compact(&self) -> String {
        let lists = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let texts: Vec<String> = lists
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, list)| format!("{name}:{}", quoted(list)))
            .collect();
        format!("{{{}}}", texts.join(", "))
    }

    /// The rules of one verb, group, resource and name each that together say the same.
    fn atoms(&self) -> Vec<Self> {
        let one = |text: &String| vec![text.clone()];
        let mut atoms = Vec::new();
        for verb in &self.verbs {
            for group in &self.api_groups {
                for resource in &self.resources {
                    let atom =
                        Self { verbs: one(verb), api_groups: one(group), resources: one(resource), ..Self::default() };
                    match self.resource_names.is_empty() {
                        true => atoms.push(atom),
                        false => atoms.extend(
                            self.resource_names.iter().map(|name| Self { resource_names: one(name), ..atom.clone() }),
                        ),
                    }
                }
            }
            let urls = self.non_resource_urls.iter();
            atoms.extend(urls.map(|url| Self { verbs: one(verb), non_resource_urls: one(url), ..Self::default() }));
        }
        atoms
    }

    /// Whether this rule allows all that an atom does.
    fn covers(&self, atom: &Self) -> bool {
        let all = |mine: &[String], theirs: &[String]| theirs.iter().all(|item| has_or_all(mine, item));
        all(&self.verbs, &atom.verbs)
            && all(&self.api_groups, &atom.api_groups)
            && atom.resources.iter().all(|resource| self.covers_resource(resource))
            && atom.non_resource_urls.iter().all(|url| self.non_resource_urls.iter().any(|own| url_covers(own, url)))
            && (self.resource_names.is_empty()
                || (!atom.resource_names.is_empty()
                    && atom.resource_names.iter().all(|n| has(&self.resource_names, n))))
    }

    fn covers_resource(&self, resource: &str) -> bool {
        has_or_all(&self.resources, resource)
            || resource.split_once('/').is_some_and(|(_, sub)| has(&self.resources, &format!("*/{sub}")))
    }
}

/// `["a" "b"]`, as Go prints a list of quoted strings.
pub fn quoted(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", items.join(" "))
}

/// Whether a rule's URL, which may end in `*`, takes in another.
fn url_covers(rule: &str, url: &str) -> bool {
    rule == url || (rule.ends_with('*') && url.starts_with(rule.trim_end_matches('*')))
}

/// What of `wanted` is not covered by `held`, atom by atom, joined again where only the verb differs.
pub fn missing<'a>(held: impl Iterator<Item = &'a Rule> + Clone, wanted: &[Rule]) -> Vec<Rule> {
    let atoms = wanted.iter().flat_map(Rule::atoms);
    let mut missing: Vec<Rule> = Vec::new();
    for atom in atoms.filter(|atom| !held.clone().any(|rule| rule.covers(atom))) {
        let same = |rule: &&mut Rule| {
            Rule { verbs: Vec::new(), ..(*rule).clone() } == Rule { verbs: Vec::new(), ..atom.clone() }
        };
        match missing.iter_mut().find(same) {
            Some(rule) if has(&rule.verbs, &atom.verbs[0]) => {}
            Some(rule) => rule.verbs.extend(atom.verbs),
            None => missing.push(atom),
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(value: Value) -> Rule {
        Rule::deserialize(value).unwrap()
    }

    fn wanted(text: &'static str) -> Attributes<'static> {
        // verb group resource[/subresource] name
        let parts: Vec<&str> = text.split(' ').collect();
        let (resource, subresource) = parts[2].split_once('/').unwrap_or((parts[2], ""));
        let or = |s: &'static str| if s == "-" { "" } else { s };
        Attributes::Resource {
            verb: parts[0].into(),
            group: or(parts[1]).into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: "default".into(),
            name: or(parts[3]).into(),
        }
    }

    #[test]
    fn rules_allow_what_they_name() {
        let pods = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/log", "*/scale"]});
        let named = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "resourceNames": ["a"]});
        let table = [
            (&pods, "get - pods x", true),
            (&pods, "list - pods -", false),
            (&pods, "get apps pods x", false),
            (&pods, "get - pods/log x", true),
            (&pods, "get - pods/exec x", false),
            (&pods, "get - deployments/scale x", true),
            (&pods, "get - scale x", false),
            (&named, "delete x things/status a", true),
            (&named, "delete x things b", false),
            (&named, "list x things -", false),
        ];
        for (json, text, want) in table {
            assert_eq!(rule(json.clone()).allows(&wanted(text)), want, "{json} {text}");
        }
    }

    #[test]
    fn urls_match_exactly_or_by_prefix() {
        let rule = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/openapi/*"]}));
        let get = |path: &'static str| rule.allows(&Attributes::NonResource { verb: "get".into(), path: path.into() });
        assert!(get("/healthz") && get("/openapi/v2") && get("/openapi/"));
        assert!(!get("/healthz/etcd") && !get("/openapi"));
    }

    #[test]
    fn what_is_not_held_is_told() {
        let held = [rule(json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "*/status"]}))];
        let want =
            [rule(json!({"verbs": ["get", "watch", "delete"], "apiGroups": ["", "apps"], "resources": ["pods"]}))];
        let texts: Vec<String> = missing(held.iter(), &want).iter().map(Rule::compact).collect();
        let expected = [
            r#"{APIGroups:["apps"], Resources:["pods"], Verbs:["get" "watch" "delete"]}"#,
            r#"{APIGroups:[""], Resources:["pods"], Verbs:["watch" "delete"]}"#,
        ];
        assert_eq!(texts, expected);
        let status =
            [rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["nodes/status"], "resourceNames": ["a"]}))];
        assert!(missing(held.iter(), &status).is_empty());
        assert!(missing([Rule::everything()].iter(), &want).is_empty());
        let names = [rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]}))];
        assert_eq!(missing(names.iter(), &held).len(), 2, "a rule of one name does not cover a rule of all");
    }
}
