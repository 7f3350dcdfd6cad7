//! CEL in admission: which variables expressions see, and conditions made of them
//! (`k8s.io/apiserver/pkg/admission/plugin/cel`).
use super::{Attributes, authorizer};
use crate::registry::Resource;
use api::cel::{Budget, Environment, Key, ObjectType, Program, Type, Value as Cel, Variables};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What all expressions of one policy may cost together (`RuntimeCELCostBudget`).
const POLICY_BUDGET: u64 = 10_000_000;
/// What the match conditions of one webhook or policy may cost (`RuntimeCELCostBudgetMatchConditions`).
const CONDITIONS_BUDGET: u64 = POLICY_BUDGET / 4;

/// An expression and its program, or why it has none.
pub struct Expression {
    pub source: String,
    program: Result<Program, String>,
}

impl Expression {
    pub fn new(environment: &Environment, source: &Value) -> Self {
        let source = source.as_str().unwrap_or_default().to_owned();
        let program = environment.compile(&source).map_err(|error| format!("compilation failed: {error}"));
        Self { source, program }
    }

    pub fn result_type(&self) -> Type {
        self.program.as_ref().map_or(Type::Dyn, |program| program.result_type().clone())
    }

    /// # Errors
    /// In upstream's words, with the expression.
    pub fn evaluate<'a>(&'a self, variables: &Variables<'a>, budget: &mut Budget) -> Result<Cel<'a>, String> {
        let program = self.program.as_ref().map_err(|error| format!("compilation error: {error}"))?;
        let wrong = |error| format!("expression '{}' resulted in error: {error}", self.source);
        program.evaluate(variables, budget).map_err(wrong)
    }
}

pub fn policy_budget() -> Budget {
    Budget::new(POLICY_BUDGET)
}

/// What expressions may name. `variables` are a policy's own, with their types.
pub fn environment(params: bool, variables: &[(String, Type)]) -> Environment {
    environment_of(Types { object: Type::Dyn, params: params.then_some(Type::Dyn) }, variables)
}

/// What is known of the objects before there are any.
pub struct Types {
    pub object: Type,
    /// None: there are no params.
    pub params: Option<Type>,
}

/// The same with types.
pub fn environment_of(types: Types, variables: &[(String, Type)]) -> Environment {
    let objects = ["object", "oldObject"].into_iter().map(|name| (name, types.object.clone()));
    let rest = ["request", "namespaceObject"].into_iter().map(|name| (name, Type::Dyn));
    let base = Environment::new().with_authorizer();
    let mut environment = objects.chain(rest).fold(base, |all, (name, ty)| all.variable(name, ty));
    if let Some(params) = types.params {
        environment = environment.variable("params", params);
    }
    let fields: Vec<(&str, Type)> = variables.iter().map(|(name, ty)| (name.as_str(), ty.clone())).collect();
    environment.variable("variables", Type::Object(Arc::new(ObjectType::new("variables", &fields))))
}

/// What the variables stand for in one request.
pub struct Scene {
    object: Value,
    old: Value,
    request: Value,
    namespace: Value,
    /// `authorizer` and `authorizer.requestResource`.
    authorizer: [Cel<'static>; 2],
}

impl Scene {
    /// The request, with objects in `resource`'s version.
    ///
    /// # Errors
    /// The store's.
    pub async fn new(
        attributes: &Attributes<'_>,
        resource: &Resource,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> crate::engine::Result<Self> {
        let mut request = attributes.question("", resource, None, None, |question| question.request()).await?;
        if let Some(request) = request.as_object_mut() {
            for field in ["uid", "object", "oldObject"] {
                request.remove(field);
            }
        }
        let show = async |object: Option<&Value>| match object {
            Some(object) => attributes.shown(resource, object).await,
            None => Ok(Value::Null),
        };
        let (object, old) = (show(object).await?, show(old).await?);
        // A namespace is in no namespace, though its requests name one.
        let own = attributes.resource().gvr.resource == "namespaces" && attributes.resource().gvr.group.is_empty();
        let namespace = if own { None } else { attributes.stored_namespace().await? };
        let namespace = namespace.and_then(|entry| super::cache::object(&entry)).map_or(Value::Null, seen_of_namespace);
        let (call, gvr) = (attributes.call, &attributes.resource().gvr);
        let asked = authorizer::Own {
            group: gvr.group.clone(),
            resource: gvr.resource.clone(),
            subresource: attributes.subresource().to_owned(),
            namespace: attributes.namespace().to_owned(),
            name: attributes.name.clone(),
        };
        let authorizer = authorizer::values(call.engine.authorizer(), &call.request.user, asked);
        Ok(Self { object, old, request, namespace, authorizer })
    }

    pub fn object(&self) -> &Value {
        &self.object
    }

    pub fn set_object(&mut self, object: Value) {
        self.object = object;
    }

    pub fn variables<'a>(&'a self, params: Option<&'a Value>) -> Variables<'a> {
        Variables::new()
            .with("object", Cel::of(&self.object))
            .with("oldObject", Cel::of(&self.old))
            .with("request", Cel::of(&self.request))
            .with("namespaceObject", Cel::of(&self.namespace))
            .with("authorizer", self.authorizer[0].clone())
            .with("authorizer.requestResource", self.authorizer[1].clone())
            .with("params", params.map_or(Cel::Null, Cel::of))
            .with("variables", Cel::Map(Arc::default()))
    }
}

/// Policies see of a namespace what does not change all the time.
fn seen_of_namespace(mut namespace: Value) -> Value {
    if let Some(meta) = namespace["metadata"].as_object_mut() {
        meta.remove("managedFields");
        meta.remove("ownerReferences");
    }
    namespace
}

/// Adds a policy's own variables, each of which sees those before it. One that fails is not there: whoever reads
/// it fails, too.
pub fn compose<'a>(
    own: &'a [(String, Expression)],
    mut variables: Variables<'a>,
    budget: &mut Budget,
) -> Variables<'a> {
    let mut known: BTreeMap<Key, Cel<'a>> = BTreeMap::new();
    for (name, expression) in own {
        match expression.evaluate(&variables, budget) {
            Ok(value) => {
                known.insert(Key::String(name.as_str().into()), value);
                variables = variables.with("variables", Cel::Map(Arc::new(known.clone())));
            }
            Err(error) => tracing::debug!(variable = name, error, "a policy's variable has no value"),
        }
    }
    variables
}

/// `matchConditions`: all must be true.
#[derive(Default)]
pub struct Conditions(Vec<Expression>);

impl Conditions {
    pub fn parse(conditions: &Value, environment: &Environment) -> Self {
        let all = conditions.as_array().into_iter().flatten();
        Self(all.map(|condition| Expression::new(environment, &condition["expression"])).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// False where any is false, whatever became of the others.
    ///
    /// # Errors
    /// What went wrong, where none is false.
    pub fn hold(&self, variables: &Variables<'_>) -> Result<bool, String> {
        let mut budget = Budget::new(CONDITIONS_BUDGET);
        let mut errors = Vec::new();
        for condition in &self.0 {
            match condition.evaluate(variables, &mut budget) {
                Ok(Cel::Bool(true)) => {}
                Ok(Cel::Bool(false)) => return Ok(false),
                Ok(_) => errors.push(format!("expression '{}' does not evaluate to bool", condition.source)),
                Err(error) => errors.push(error),
            }
        }
        match errors.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scene(object: Value) -> Scene {
        let request = json!({"operation": "CREATE"});
        Scene { object, old: Value::Null, request, namespace: Value::Null, authorizer: [Cel::Null, Cel::Null] }
    }

    #[test]
    fn a_false_condition_outweighs_a_failing_one() {
        let scene = scene(json!({"metadata": {"name": "a"}}));
        let hold = |sources: &[&str]| {
            let sources: Vec<Value> = sources.iter().map(|s| json!({"name": "c", "expression": s})).collect();
            Conditions::parse(&json!(sources), &environment(false, &[])).hold(&scene.variables(None))
        };
        assert_eq!(hold(&["object.metadata.name == 'a'", "request.operation == 'CREATE'"]), Ok(true));
        assert_eq!(hold(&["object.absent == 1", "object.metadata.name != 'a'"]), Ok(false));
        assert!(
            hold(&["object.absent == 1"]).unwrap_err().starts_with("expression 'object.absent == 1' resulted in error")
        );
        assert_eq!(hold(&["oldObject == null"]), Ok(true));
    }

    #[test]
    fn variables_see_those_before_them() {
        let scene = scene(json!({"spec": {"replicas": 3}}));
        let (first, none) = (environment(false, &[]), Type::Dyn);
        let replicas = Expression::new(&first, &json!("object.spec.replicas"));
        let second = environment(false, &[("replicas".into(), none)]);
        let odd = Expression::new(&second, &json!("variables.replicas % 2 == 1"));
        let bad = Expression::new(&second, &json!("object.nothing"));
        let own = [("replicas".to_owned(), replicas), ("bad".to_owned(), bad), ("odd".to_owned(), odd)];
        let mut budget = policy_budget();
        let variables = compose(&own, scene.variables(None), &mut budget);
        let third = environment(false, &[("odd".into(), Type::Bool), ("bad".into(), Type::Dyn)]);
        let evaluate = |source: &str| {
            Expression::new(&third, &json!(source)).evaluate(&variables, &mut policy_budget()).map(|v| v.as_bool())
        };
        assert_eq!(evaluate("variables.odd"), Ok(Some(true)));
        assert!(evaluate("variables.bad == 1").is_err());
        assert!(evaluate("variables.unknown").unwrap_err().contains("compilation failed"));
    }
}
