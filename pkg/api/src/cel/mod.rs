//! The Common Expression Language as Kubernetes speaks it (`k8s.io/apiserver/pkg/cel`): one environment for the
//! validation rules of custom resources, admission policies and the match conditions of webhooks.
//!
//! Place in the flow: `source -> parse (crate cel) -> check against declared types -> Program`, once; then
//! `Program + variables as JSON + Budget -> Value`, for each object. The crate parses; checking and evaluating
//! are done here, because Kubernetes bounds the cost of every evaluation, types objects by their schemas and
//! reads JSON trees in place.
//!
//! ```
//! use eyot_api::cel::{Budget, Environment, Type, Value, Variables};
//! let program = Environment::new().variable("object", Type::Dyn).compile("object.spec.replicas <= 5")?;
//! let object = serde_json::json!({"spec": {"replicas": 3}});
//! let variables = Variables::new().with("object", Value::of(&object));
//! assert_eq!(program.evaluate(&variables, &mut Budget::default())?, Value::Bool(true));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
pub mod authorizer;
mod bounds;
mod check;
mod compile;
mod cost;
mod cost_path;
mod environment;
mod eval;
pub mod kinds;
mod library;
mod macros;
pub mod rules;
mod schema;
#[cfg(test)]
mod tests;
mod text;
mod types;
mod value;

pub use environment::{Environment, MAX_SOURCE_BYTES};
pub use eval::{Budget, Error, PER_CALL_LIMIT, Variables};
pub use schema::{declared, escape};
pub use types::{Field, ObjectType, Type};
pub use value::{Key, Opaque, Value};

use compile::Expr;
use std::fmt;

/// A checked expression, ready to be evaluated any number of times.
#[derive(Clone, Debug)]
pub struct Program {
    root: Expr,
    result: Type,
    variables: std::collections::BTreeSet<String>,
}

impl Program {
    /// The type of what it yields; [`Type::Dyn`] where only evaluating shows.
    pub fn result_type(&self) -> &Type {
        &self.result
    }

    /// Whether the expression reads the variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    /// # Errors
    /// What the language calls an error (a missing key, a division by zero, no overload), or a budget used up.
    pub fn evaluate<'a>(&'a self, variables: &Variables<'a>, budget: &mut Budget) -> Result<Value<'a>, Error> {
        eval::evaluate(&self.root, variables, budget)
    }
}

/// Why a source is no program, in the words and with the pointer of the reference implementation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CompileError(pub(crate) Vec<String>);

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}
