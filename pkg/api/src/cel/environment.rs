//! What an expression may name: variables with their types, and functions.
use super::library::{self, Function};
use super::{CompileError, Program, Type, check};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// No expression is longer; the parser's work and memory follow from it.
pub const MAX_SOURCE_BYTES: usize = 64 << 10;

/// One way to call a function.
#[derive(Clone, Debug, PartialEq)]
pub struct Overload {
    pub member: bool,
    pub parameters: Vec<Type>,
    pub result: Type,
}

/// All ways to call what has one name.
#[derive(Clone, Debug, Default)]
pub struct Declaration {
    pub overloads: Vec<Overload>,
    /// By the kind of call: members and functions of one name may differ.
    pub function: Option<Function>,
    pub method: Option<Function>,
}

type Declarations = BTreeMap<Arc<str>, Declaration>;

static BASE: LazyLock<Arc<Declarations>> = LazyLock::new(|| {
    let mut all = Declarations::new();
    for (signatures, run) in library::all() {
        for signature in signatures.split(';') {
            declare(&mut all, signature.trim(), run);
        }
    }
    Arc::new(all)
});

/// Reads `name(parameters) result`; with a dot in front, the first parameter is the receiver.
fn declare(all: &mut Declarations, signature: &str, run: Option<Function>) {
    let (name, rest) = signature.split_once('(').unwrap_or((signature, ") dyn"));
    let (parameters, result) = rest.rsplit_once(')').unwrap_or(("", "dyn"));
    let (member, name) = name.strip_prefix('.').map_or((false, name), |name| (true, name));
    let entry = all.entry(name.into()).or_default();
    // Quantities and versions share names of members: what a value answers itself takes no function away.
    let slot = if member { &mut entry.method } else { &mut entry.function };
    *slot = run.or(*slot);
    entry.overloads.push(Overload { member, parameters: parameters_of(parameters), result: Type::parse(result) });
}

/// Splits at the commas that stand outside of angle brackets.
fn parameters_of(text: &str) -> Vec<Type> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            ',' if depth == 0 => {
                found.push(Type::parse(&text[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text.trim().is_empty() {
        found.push(Type::parse(&text[start..]));
    }
    found
}

/// Kubernetes' base environment, and what a use adds to it.
#[derive(Clone, Debug)]
pub struct Environment {
    functions: Arc<Declarations>,
    variables: BTreeMap<Arc<str>, Type>,
}

impl Default for Environment {
    fn default() -> Self {
        Self::new()
    }
}

impl Environment {
    pub fn new() -> Self {
        Self { functions: BASE.clone(), variables: BTreeMap::new() }
    }

    /// Declares a variable.
    #[must_use]
    pub fn variable(mut self, name: &str, ty: Type) -> Self {
        self.variables.insert(name.into(), ty);
        self
    }

    /// Declares functions that values answer themselves ([`super::Opaque::call`]), as
    /// `.group(kubernetes.authorization.Authorizer, string) kubernetes.authorization.GroupCheck`, one or more
    /// with semicolons between.
    #[must_use]
    pub fn functions(mut self, signatures: &str) -> Self {
        let all = Arc::make_mut(&mut self.functions);
        signatures.split(';').for_each(|signature| declare(all, signature.trim(), None));
        self
    }

    pub(super) fn variable_type(&self, name: &str) -> Option<&Type> {
        self.variables.get(name)
    }

    pub(super) fn function(&self, name: &str) -> Option<&Declaration> {
        self.functions.get(name)
    }

    /// # Errors
    /// Every syntax error, unknown name and wrong type, with where it stands.
    pub fn compile(&self, source: &str) -> Result<Program, CompileError> {
        check::compile(self, source)
    }
}
