//! Which requests a webhook or a policy is for: its rules and selectors
//! (`k8s.io/apiserver/pkg/admission/plugin/webhook/predicates`).
use super::{Attributes, Operation};
use crate::engine::Result;
use crate::registry::Resource;
use api::Status;
use api::selector::LabelSelector;
use serde_json::Value;
use std::sync::Arc;

/// `RuleWithOperations`, of policies with names.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: Scope,
    /// Empty: all.
    names: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Scope {
    #[default]
    All,
    Namespaced,
    Cluster,
}

/// What rules look at.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub operation: Operation,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn one_of(items: &[String], wanted: &str) -> bool {
    items.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    pub fn parse(rule: &Value) -> Self {
        let scope = match rule["scope"].as_str() {
            Some("Namespaced") => Scope::Namespaced,
            Some("Cluster") => Scope::Cluster,
            _ => Scope::All,
        };
        Self {
            operations: texts(&rule["operations"]),
            groups: texts(&rule["apiGroups"]),
            versions: texts(&rule["apiVersions"]),
            resources: texts(&rule["resources"]),
            scope,
            names: texts(&rule["resourceNames"]),
        }
    }

    /// A list of them.
    pub fn parse_all(rules: &Value) -> Vec<Self> {
        rules.as_array().into_iter().flatten().map(Self::parse).collect()
    }

    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let namespaces = subject.group.is_empty() && subject.resource == "namespaces";
        let in_scope = match self.scope {
            Scope::All => true,
            Scope::Namespaced => !namespaces && !subject.namespace.is_empty(),
            Scope::Cluster => namespaces || subject.namespace.is_empty(),
        };
        let resource = |rule: &String| {
            let (resource, sub) = rule.split_once('/').unwrap_or((rule, ""));
            (resource == "*" || resource == subject.resource) && (sub == "*" || sub == subject.subresource)
        };
        in_scope
            && one_of(&self.operations, subject.operation.as_str())
            && one_of(&self.groups, subject.group)
            && one_of(&self.versions, subject.version)
            && self.resources.iter().any(resource)
            && (self.names.is_empty() || self.names.iter().any(|name| name == subject.name))
    }
}

/// Rules and selectors of one webhook, policy or binding.
#[derive(Clone, Debug)]
pub struct Matcher {
    pub rules: Vec<Rule>,
    /// Never matched, whatever `rules` say.
    pub excluded: Vec<Rule>,
    /// `matchPolicy: Equivalent`: other versions of a resource count, too.
    pub equivalent: bool,
    /// The error is of a selector that can't be read.
    pub namespaces: std::result::Result<LabelSelector, String>,
    pub objects: std::result::Result<LabelSelector, String>,
}

impl Matcher {
    /// Reads the fields that webhooks and `MatchResources` share; the rules are at `rules`.
    pub fn parse(value: &Value, rules: &str) -> Self {
        let selector = |field: &str| match &value[field] {
            Value::Null => Ok(LabelSelector::everything()),
            selector => LabelSelector::from_json(selector).map_err(|error| error.to_string()),
        };
        Self {
            rules: Rule::parse_all(&value[rules]),
            excluded: Rule::parse_all(&value["excludeResourceRules"]),
            equivalent: value["matchPolicy"] != "Exact",
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }

    /// The resource in whose version the request is matched, or none.
    ///
    /// # Errors
    /// 404 where the namespace is gone whose labels decide; 500 for selectors that can't be read.
    pub async fn matches(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<Option<Arc<Resource>>> {
        let objects = self.objects.as_ref().map_err(Status::internal)?;
        let of = |object: Option<&Value>| object.is_some_and(|o| objects.matches(labels(o)));
        if !objects.is_everything() && !of(object) && !of(old) {
            return Ok(None);
        }
        let Some(resource) = self.resource(attributes) else { return Ok(None) };
        Ok(self.matches_namespace(attributes, object).await?.then_some(resource))
    }

    /// By rules alone: the request's own resource, or an equivalent one.
    pub fn resource(&self, attributes: &Attributes<'_>) -> Option<Arc<Resource>> {
        let own = attributes.resource();
        let matches = |rule: &Rule, resource: &Arc<Resource>| {
            rule.matches(&Subject {
                operation: attributes.operation,
                group: &resource.gvr.group,
                version: &resource.gvr.version,
                resource: &resource.gvr.resource,
                subresource: attributes.subresource(),
                namespace: attributes.namespace(),
                name: &attributes.name,
            })
        };
        if self.excluded.iter().any(|rule| matches(rule, own)) {
            return None;
        }
        if self.rules.iter().any(|rule| matches(rule, own)) {
            return Some(own.clone());
        }
        if !self.equivalent {
            return None;
        }
        let others = equivalents(attributes);
        if self.excluded.iter().any(|rule| others.iter().any(|other| matches(rule, other))) {
            return None;
        }
        // Earlier rules first, as upstream does.
        self.rules.iter().find_map(|rule| others.iter().find(|other| matches(rule, other)).cloned())
    }

    /// Cluster-scoped objects are in no namespace, so no selector of namespaces leaves them out.
    async fn matches_namespace(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<bool> {
        let selector = self.namespaces.as_ref().map_err(Status::internal)?;
        let of_namespaces = attributes.resource().gvr.resource == "namespaces";
        if selector.is_everything() || (attributes.namespace().is_empty() && !of_namespaces) {
            return Ok(true);
        }
        let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
        if of_namespaces && attributes.subresource().is_empty() && writes {
            return Ok(object.is_some_and(|o| selector.matches(labels(o))));
        }
        let namespace = attributes.stored_namespace().await?;
        let namespace = namespace.ok_or_else(|| Status::not_found("", "namespaces", attributes.namespace()))?;
        Ok(selector.matches(&namespace.summary))
    }
}

fn labels(object: &Value) -> &Value {
    &object["metadata"]["labels"]
}

/// The same resource under other groups and versions.
fn equivalents(attributes: &Attributes<'_>) -> Vec<Arc<Resource>> {
    let own = attributes.resource();
    let served = attributes.call.engine.registry().served();
    served.values().filter(|r| r.key_prefix == own.key_prefix && r.gvr != own.gvr).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PODS: Subject<'static> = Subject {
        operation: Operation::Create,
        group: "",
        version: "v1",
        resource: "pods",
        subresource: "",
        namespace: "a",
        name: "p",
    };

    fn rule(change: Value) -> Rule {
        let mut rule =
            json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        rule.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        Rule::parse(&rule)
    }

    #[test]
    fn each_part_of_a_rule_counts() {
        assert!(rule(json!({})).matches(&PODS));
        assert!(
            rule(json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}))
                .matches(&PODS)
        );
        for change in [
            json!({"operations": ["UPDATE"]}),
            json!({"apiGroups": ["apps"]}),
            json!({"apiVersions": ["v2"]}),
            json!({"resources": ["pods/status", "services"]}),
            json!({"scope": "Cluster"}),
            json!({"resourceNames": ["q"]}),
        ] {
            assert!(!rule(change.clone()).matches(&PODS), "{change}");
        }
        let attach = Subject { subresource: "attach", operation: Operation::Connect, ..PODS };
        let connect = |resources: Value| rule(json!({"operations": ["CONNECT"], "resources": resources}));
        assert!(connect(json!(["pods/attach"])).matches(&attach));
        assert!(connect(json!(["pods/*"])).matches(&attach));
        assert!(connect(json!(["*/*"])).matches(&attach));
        assert!(!connect(json!(["*"])).matches(&attach));
        assert!(connect(json!(["*/*"])).matches(&Subject { subresource: "", ..attach }));
    }

    #[test]
    fn a_namespace_itself_is_cluster_scoped() {
        let namespaces = Subject { resource: "namespaces", namespace: "a", ..PODS };
        assert!(rule(json!({"resources": ["namespaces"], "scope": "Cluster"})).matches(&namespaces));
        assert!(!rule(json!({"resources": ["namespaces"], "scope": "Namespaced"})).matches(&namespaces));
    }
}
