//! The functions of Kubernetes' base environment (`k8s.io/apiserver/pkg/cel/environment/base.go`). Each is declared
//! in one line, `name(parameters) result`; a dot in front marks a member, whose first parameter is the receiver.
mod convert;
mod format;
mod lists;
mod network;
mod operators;
mod quantity;
mod regex;
mod semver;
mod strings;
mod time;
mod url;

use super::{Error, Value};
use std::sync::Arc;

/// What implements a function, whatever its overload. Arguments were evaluated already.
pub type Function = for<'a> fn(&[Value<'a>]) -> Result<Value<'a>, Error>;
/// Declarations with semicolons between, and what implements them.
type Entry = (&'static str, Function);
/// Declarations of what values answer themselves.
type Methods = &'static str;

/// Everything that is declared. None: the receiver answers itself.
pub fn all() -> impl Iterator<Item = (&'static str, Option<Function>)> {
    let functions: [&'static [Entry]; 11] = [
        operators::FUNCTIONS,
        convert::FUNCTIONS,
        strings::FUNCTIONS,
        regex::FUNCTIONS,
        lists::FUNCTIONS,
        time::FUNCTIONS,
        quantity::FUNCTIONS,
        network::FUNCTIONS,
        url::FUNCTIONS,
        format::FUNCTIONS,
        semver::FUNCTIONS,
    ];
    let methods: [Methods; 4] = [network::METHODS, url::METHODS, format::METHODS, semver::METHODS];
    let functions = functions.into_iter().flatten().map(|(signatures, run)| (*signatures, Some(*run)));
    functions.chain(methods.into_iter().map(|signatures| (signatures, None)))
}

/// A function that has no value for these arguments.
fn wrong<'a>(name: &str) -> Result<Value<'a>, Error> {
    Err(Error::no_overload(name))
}

fn failed(message: impl Into<String>) -> Error {
    Error::Function(message.into())
}

fn opaque<'a>(of: impl super::Opaque + 'static) -> Value<'a> {
    Value::Opaque(Arc::new(of))
}
