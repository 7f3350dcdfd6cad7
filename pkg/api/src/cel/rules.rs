//! The validation rules of a custom resource's schema, `x-kubernetes-validations`
//! (`k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel`): compiled once a schema, evaluated once a write.
use super::bounds::Bounds;
use super::{Budget, Environment, Error, PER_CALL_LIMIT, Program, Type, Value, Variables, cost, declared};
use crate::validate::{FieldError, Reason};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;

/// What the rules of one object may cost together (`RuntimeCELCostBudget`).
const OBJECT_BUDGET: u64 = 10_000_000;

/// The rules of a whole schema.
#[derive(Clone, Debug, Default)]
pub struct Rules(Option<Node>);

/// Rules at one place of the schema, and below it.
#[derive(Clone, Debug)]
struct Node {
    ty: Type,
    /// The schema's `type`.
    type_name: String,
    rules: Vec<Rule>,
    properties: BTreeMap<String, Node>,
    additional: Option<Box<Node>>,
    items: Option<Box<Node>>,
    /// The keys by which an item finds what it was before; none: it can't.
    keys: Option<Vec<String>>,
}

#[derive(Clone, Debug)]
struct Rule {
    program: Result<Program, String>,
    /// What it says of itself in errors.
    shown: String,
    message: String,
    message_expression: Option<Program>,
    reason: Reason,
    field_path: String,
    transition: bool,
    optional_old_self: bool,
}

impl Rules {
    /// Rules that don't compile report so when they are evaluated.
    pub fn compile(schema: &Json) -> Self {
        Self(Node::compile(schema, "selfType", true))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// What of `new` its rules refuse. Rules about changes need an `old`; a value that did not change is taken as
    /// it is, whatever it breaks.
    pub fn validate(&self, new: &Json, old: Option<&Json>) -> Vec<FieldError> {
        let mut run = Run { errors: Vec::new(), left: OBJECT_BUDGET };
        if let Some(root) = &self.0 {
            run.node(root, "", new, old);
        }
        run.errors
    }
}

/// Why a rule or its `messageExpression` is none, as `(field, text)`.
pub fn check(schema: &Json, name: &str, root: bool, rule: &Json) -> Option<(&'static str, String)> {
    let ty = declared(schema, name, root)?;
    let given = |key: &str| rule[key].as_str().unwrap_or_default();
    let environment = environment(&ty, rule["optionalOldSelf"] == true);
    let wrong = |source: &str, wanted: Type, text: &str| match environment.compile(source) {
        Err(error) => Some(format!("compilation failed: {error}")),
        Ok(program) if *program.result_type() != wanted && *program.result_type() != Type::Dyn => Some(text.into()),
        Ok(_) => None,
    };
    if let Some(text) = wrong(given("rule"), Type::Bool, "cel expression must evaluate to a bool") {
        return Some(("rule", text));
    }
    let expression = given("messageExpression");
    let text = "messageExpression must evaluate to a string";
    let text = (!expression.is_empty()).then(|| wrong(expression, Type::String, text)).flatten()?;
    Some(("messageExpression", text.replacen("compilation failed", "messageExpression compilation failed", 1)))
}

/// Whether a rule that compiles asks for what a value was before.
pub fn is_transition(schema: &Json, root: bool, rule: &Json) -> bool {
    let Some(ty) = declared(schema, "selfType", root) else { return false };
    let program = environment(&ty, rule["optionalOldSelf"] == true).compile(rule["rule"].as_str().unwrap_or_default());
    program.is_ok_and(|program| program.uses("oldSelf"))
}

/// What a rule can cost at most, before there is an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Of the rule, once.
    pub rule: u64,
    /// Of its `messageExpression`, if it has one.
    pub message: Option<u64>,
    /// How many values there can be in one request that the rule is asked of.
    pub values: u64,
}

/// The costs of a rule for what the schema describes; nothing for what does not compile.
pub fn estimate(schema: &Json, root: bool, rule: &Json) -> Estimate {
    let (Some(ty), Some(bounds)) = (declared(schema, "selfType", root), Bounds::of(schema, root)) else {
        return Estimate::default();
    };
    let environment = environment(&ty, rule["optionalOldSelf"] == true);
    let cost = |key: &str| {
        let program = environment.compile(rule[key].as_str().filter(|source| !source.is_empty())?).ok()?;
        Some(cost::estimate(&program, &environment, &bounds))
    };
    let (rule, message) = (cost("rule"), cost("messageExpression"));
    Estimate { rule: rule.unwrap_or(0), message: rule.and(message), values: bounds.most_in_a_request() }
}

fn environment(ty: &Type, optional_old: bool) -> Environment {
    let old = if optional_old { Type::optional(ty.clone()) } else { ty.clone() };
    Environment::new().variable("self", ty.clone()).variable("oldSelf", old)
}

impl Node {
    /// None where there are no rules at all.
    fn compile(schema: &Json, name: &str, root: bool) -> Option<Self> {
        let below = |part: &str, suffix: &str| {
            let of = &schema[part];
            of.is_object()
                .then(|| Self::compile(of, &format!("{name}.{suffix}"), is_embedded(of)))
                .flatten()
                .map(Box::new)
        };
        let fields = schema["properties"].as_object().into_iter().flatten();
        let properties: BTreeMap<String, Self> = fields
            .filter_map(|(field, of)| {
                Some((field.clone(), Self::compile(of, &format!("{name}.{field}"), is_embedded(of))?))
            })
            .collect();
        let (items, additional) = (below("items", "@idx"), below("additionalProperties", "@elem"));
        let given = schema["x-kubernetes-validations"].as_array().map_or(&[][..], |given| given);
        if given.is_empty() && properties.is_empty() && items.is_none() && additional.is_none() {
            return None;
        }
        let ty = declared(schema, name, root).unwrap_or(Type::Dyn);
        let rules = given.iter().map(|rule| Rule::compile(rule, &ty)).collect();
        let keys =
            schema["x-kubernetes-list-map-keys"].as_array().filter(|_| schema["x-kubernetes-list-type"] == "map");
        let texts = |keys: &Vec<Json>| keys.iter().filter_map(|key| Some(key.as_str()?.to_owned())).collect();
        let type_name = schema["type"].as_str().unwrap_or_default().to_owned();
        Some(Self { ty, type_name, rules, properties, additional, items, keys: keys.map(texts) })
    }
}

fn is_embedded(schema: &Json) -> bool {
    schema["x-kubernetes-embedded-resource"] == true
}

impl Rule {
    fn compile(rule: &Json, ty: &Type) -> Self {
        let given = |key: &str| rule[key].as_str().unwrap_or_default().trim();
        let optional_old_self = rule["optionalOldSelf"] == true;
        let environment = environment(ty, optional_old_self);
        let program = environment.compile(given("rule")).map_err(|error| error.to_string());
        let expression = given("messageExpression");
        let shown = if given("message").is_empty() { given("rule") } else { given("message") };
        Self {
            transition: program.as_ref().is_ok_and(|program| program.uses("oldSelf")),
            program,
            shown: shown.into(),
            message: if given("message").is_empty() { format!("failed rule: {shown}") } else { shown.into() },
            message_expression: (!expression.is_empty()).then(|| environment.compile(expression).ok()).flatten(),
            reason: match given("reason") {
                "FieldValueForbidden" => Reason::Forbidden,
                "FieldValueRequired" => Reason::Required,
                "FieldValueDuplicate" => Reason::Duplicate,
                _ => Reason::Invalid,
            },
            field_path: field_path(given("fieldPath")),
            optional_old_self,
        }
    }
}

/// `.spec.field` and `['x']` as errors print them, to be put behind where the rule stands.
fn field_path(given: &str) -> String {
    let mut out = String::new();
    for part in given.split('.').filter(|part| !part.is_empty()) {
        let (name, rest) = part.split_once("['").map_or((part, ""), |(name, rest)| (name, rest));
        if !name.is_empty() {
            out += &format!(".{name}");
        }
        for key in rest.split("['").filter(|key| !key.is_empty()) {
            out += &format!("[{}]", key.trim_end_matches("']"));
        }
    }
    out
}

struct Run {
    errors: Vec<FieldError>,
    left: u64,
}

impl Run {
    fn node(&mut self, node: &Node, path: &str, new: &Json, old: Option<&Json>) {
        if new.is_null() {
            return;
        }
        let old = old.filter(|old| !old.is_null());
        for rule in &node.rules {
            if self.left == 0 {
                return;
            }
            self.rule(node, rule, path, new, old);
        }
        match new {
            Json::Object(fields) => self.fields(node, path, fields, old),
            Json::Array(items) => self.items(node, path, items, old),
            _ => {}
        }
    }

    fn fields(&mut self, node: &Node, path: &str, fields: &Map<String, Json>, old: Option<&Json>) {
        for (name, value) in fields {
            let before = old.and_then(|old| old.get(name));
            if let Some(below) = node.properties.get(name) {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                self.node(below, &path, value, before);
            } else if let Some(below) = &node.additional {
                self.node(below, &format!("{path}[{name}]"), value, before);
            }
        }
    }

    fn items(&mut self, node: &Node, path: &str, items: &[Json], old: Option<&Json>) {
        let Some(below) = &node.items else { return };
        for (at, item) in items.iter().enumerate() {
            let same = |old: &&Json| node.keys.as_ref().is_some_and(|keys| keys.iter().all(|k| old[k] == item[k]));
            let before = old.and_then(Json::as_array).and_then(|old| old.iter().find(same));
            self.node(below, &format!("{path}[{at}]"), item, before);
        }
    }

    fn rule(&mut self, node: &Node, rule: &Rule, path: &str, new: &Json, old: Option<&Json>) {
        if rule.transition && old.is_none() && !rule.optional_old_self {
            return;
        }
        if !rule.transition && old == Some(new) {
            return;
        }
        let program = match &rule.program {
            Ok(program) => program,
            Err(error) => return self.whole(node, path, format!("rule compile error: {error}")),
        };
        let mut variables = Variables::new().with("self", Value::typed(new, &node.ty));
        let before = old.map(|old| Value::typed(old, &node.ty));
        variables = match (before, rule.optional_old_self) {
            (before, true) => variables.with("oldSelf", before.map_or(Value::Optional(None), Value::some)),
            (Some(before), false) => variables.with("oldSelf", before),
            (None, false) => variables,
        };
        match self.evaluate(program, &variables) {
            Ok(Value::Bool(true)) => {}
            Ok(_) => self.refuse(rule, path, new, &variables),
            Err(error) => self.failed(node, rule, path, &error),
        }
    }

    fn evaluate<'a>(&mut self, program: &'a Program, variables: &Variables<'a>) -> Result<Value<'a>, Error> {
        let mut budget = Budget::new(PER_CALL_LIMIT.min(self.left));
        let value = program.evaluate(variables, &mut budget);
        self.left = self.left.saturating_sub(budget.used());
        value
    }

    fn failed(&mut self, node: &Node, rule: &Rule, path: &str, error: &Error) {
        let shown = &rule.shown;
        let text = match error {
            Error::NoOverload(_) => format!(
                "'no such overload': call arguments did not match a supported operator, function or macro signature for rule: {shown}"
            ),
            Error::CostExceeded => {
                self.left = 0;
                format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}"
                )
            }
            other => format!("{other} evaluating rule: {shown}"),
        };
        self.whole(node, path, text);
    }

    fn refuse<'a>(&mut self, rule: &'a Rule, path: &str, new: &Json, variables: &Variables<'a>) {
        let own = rule.message_expression.as_ref().and_then(|program| self.evaluate(program, variables).ok());
        let own = own.and_then(|value| Some(value.as_str()?.trim().to_owned()));
        let detail =
            own.filter(|text| !text.is_empty() && !text.contains('\n')).unwrap_or_else(|| rule.message.clone());
        let shows = matches!(rule.reason, Reason::Invalid | Reason::Duplicate) && !new.is_object() && !new.is_array();
        let field = format!("{path}{}", rule.field_path);
        self.add(&field, rule.reason, shows.then(|| new.clone()), detail);
    }

    /// An error that shows the type in the place of the value.
    fn whole(&mut self, node: &Node, path: &str, detail: String) {
        self.add(path, Reason::Invalid, Some(node.type_name.as_str().into()), detail);
    }

    fn add(&mut self, field: &str, reason: Reason, value: Option<Json>, detail: String) {
        let field = match field.trim_start_matches('.') {
            "" => "<nil>".into(),
            field => field.to_owned(),
        };
        self.errors.push(FieldError { field, reason, value, detail });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Json {
        json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.metadata.name.startsWith('g')"}], "properties": {
            "spec": {"type": "object",
                "x-kubernetes-validations": [
                    {"rule": "self.min <= self.max", "message": "min above max"},
                    {"rule": "self.nest == oldSelf.nest", "messageExpression": "'nest was ' + oldSelf.nest", "fieldPath": ".nest"},
                    {"rule": "!has(self.eggs) || self.eggs < 5", "reason": "FieldValueForbidden", "fieldPath": ".eggs"},
                ],
                "properties": {
                    "min": {"type": "integer"}, "max": {"type": "integer"}, "nest": {"type": "string"},
                    "eggs": {"type": "integer", "x-kubernetes-validations": [{"rule": "self % 2 == 0"}]},
                    "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                        "items": {"type": "object", "x-kubernetes-validations": [{"rule": "self.v >= oldSelf.v"}],
                            "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}},
                }},
        }})
    }

    fn errors(new: &Json, old: Option<&Json>) -> Vec<String> {
        Rules::compile(&schema()).validate(new, old).iter().map(ToString::to_string).collect()
    }

    /// What kube-apiserver v1.36.3 said of the same objects under the same schema.
    #[test]
    fn upstream_says_the_same() {
        let wrong = json!({"metadata": {"name": "x"}, "spec": {"min": 3, "max": 1, "nest": "a", "eggs": 7}});
        let expected = [
            "<nil>: Invalid value: failed rule: self.metadata.name.startsWith('g')",
            "spec: Invalid value: min above max",
            "spec.eggs: Forbidden: failed rule: !has(self.eggs) || self.eggs < 5",
            "spec.eggs: Invalid value: 7: failed rule: self % 2 == 0",
        ];
        assert_eq!(errors(&wrong, None), expected);
        let right = json!({"metadata": {"name": "gx"},
            "spec": {"min": 3, "max": 5, "nest": "a", "eggs": 2, "list": [{"k": "a", "v": 2}]}});
        assert_eq!(errors(&right, None), [""; 0]);
        let mut changed = right.clone();
        changed["spec"]["nest"] = "b".into();
        changed["spec"]["list"][0]["v"] = 1.into();
        let expected =
            ["spec.nest: Invalid value: nest was a", "spec.list[0]: Invalid value: failed rule: self.v >= oldSelf.v"];
        assert_eq!(errors(&changed, Some(&right)), expected);
        let less = json!({"metadata": {"name": "gx"}, "spec": {"max": 5, "nest": "a"}});
        assert_eq!(
            errors(&less, Some(&right)),
            ["spec: Invalid value: \"object\": no such key: min evaluating rule: min above max"]
        );
    }

    #[test]
    fn what_did_not_change_is_taken_as_it_is() {
        let old = json!({"metadata": {"name": "gx"}, "spec": {"min": 3, "max": 1, "nest": "a"}});
        let mut new = old.clone();
        new["metadata"]["labels"] = json!({"a": "b"});
        assert_eq!(errors(&new, Some(&old)), [""; 0]);
        new["spec"]["eggs"] = 2.into();
        assert_eq!(errors(&new, Some(&old)), ["spec: Invalid value: min above max"]);
    }

    #[test]
    fn rules_are_checked_with_their_schema() {
        let (schema, rule) = (schema()["properties"]["spec"].clone(), |rule: &str| json!({"rule": rule}));
        assert_eq!(check(&schema, "selfType.spec", false, &rule("self.min <= self.max")), None);
        let found = check(&schema, "selfType.spec", false, &rule("self.minn <= self.max"));
        let text = "compilation failed: ERROR: <input>:1:5: undefined field 'minn'\n | self.minn <= self.max\n | ....^";
        assert_eq!(found, Some(("rule", text.into())));
        let found = check(&schema, "selfType.spec", false, &rule("self.min"));
        assert_eq!(found, Some(("rule", "cel expression must evaluate to a bool".into())));
    }
}
