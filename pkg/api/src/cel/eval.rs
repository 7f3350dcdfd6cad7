//! Evaluating a checked expression, within a budget.
use super::compile::{Call, Element, Entry, Expr, Fold, FoldKind};
use super::{Key, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What one evaluation may cost by default, in the units of `k8s.io/apiserver/pkg/apis/cel` (`PerCallLimit`):
/// about one a node, one a tenth of a byte of text that a function reads.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// Bytes of text that cost one unit.
const BYTES_A_UNIT: usize = 10;
/// What it costs to make a list or a map.
const LIST_COST: u64 = 10;
const MAP_COST: u64 = 30;

/// Why an evaluation has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no such key: {0}")]
    NoSuchKey(String),
    #[error("index out of bounds: {0}")]
    IndexOutOfBounds(i64),
    #[error("no such overload: {0}")]
    NoOverload(String),
    #[error("no such attribute(s): {0}")]
    Undeclared(String),
    #[error("operation cancelled: actual cost limit exceeded")]
    CostExceeded,
    /// What a function says of its arguments.
    #[error("{0}")]
    Function(String),
}

impl Error {
    pub(super) fn no_overload(name: &str) -> Self {
        Self::NoOverload(name.into())
    }
}

/// What evaluations may still cost.
#[derive(Clone, Debug)]
pub struct Budget {
    limit: u64,
    used: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(PER_CALL_LIMIT)
    }
}

impl Budget {
    pub fn new(limit: u64) -> Self {
        Self { limit, used: 0 }
    }

    /// What has been used so far.
    pub fn used(&self) -> u64 {
        self.used
    }

    fn spend(&mut self, cost: u64) -> Result<(), Error> {
        self.used = self.used.saturating_add(cost);
        if self.used > self.limit { Err(Error::CostExceeded) } else { Ok(()) }
    }
}

/// The variables of an evaluation.
#[derive(Clone, Debug, Default)]
pub struct Variables<'a>(Vec<(Arc<str>, Value<'a>)>);

impl<'a> Variables<'a> {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: Value<'a>) -> Self {
        self.0.push((name.into(), value));
        self
    }

    fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.0.iter().rev().find(|(known, _)| **known == *name).map(|(_, value)| value)
    }
}

type Evaluated<'a> = Result<Value<'a>, Error>;

pub fn evaluate<'a>(of: &'a Expr, variables: &Variables<'a>, budget: &mut Budget) -> Evaluated<'a> {
    Evaluator { variables, budget, locals: Vec::new() }.expression(of)
}

struct Evaluator<'v, 'a> {
    variables: &'v Variables<'a>,
    budget: &'v mut Budget,
    /// Variables of the macros around, innermost last.
    locals: Vec<(Arc<str>, Value<'a>)>,
}

impl<'a> Evaluator<'_, 'a> {
    fn expression(&mut self, of: &'a Expr) -> Evaluated<'a> {
        if let Expr::Literal(value) = of {
            return Ok(value.clone());
        }
        self.budget.spend(1)?;
        match of {
            Expr::Literal(value) => Ok(value.clone()),
            Expr::Variable(name) => self.variable(name),
            Expr::Select { of, field, optional } => self.select(of, field, *optional),
            Expr::Has { of, field } => self.has(of, field),
            Expr::Index { of, key, optional } => self.index(of, key, *optional),
            Expr::Call(call) => self.call(call),
            Expr::And(a, b) => self.logical(a, b, false),
            Expr::Or(a, b) => self.logical(a, b, true),
            Expr::Conditional(parts) => {
                let [condition, then, otherwise] = &**parts;
                let chosen = if self.boolean(condition)? { then } else { otherwise };
                self.expression(chosen)
            }
            Expr::List(elements) => self.list(elements),
            Expr::Map(entries) => self.map(entries),
            Expr::Fold(fold) => self.fold(fold),
            Expr::Within { of, name, body, flat } => self.within(of, name, body, *flat),
            Expr::OrElse { of, other, unwrap } => self.or_else(of, other, *unwrap),
        }
    }

    fn variable(&self, name: &Arc<str>) -> Evaluated<'a> {
        let local = self.locals.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value);
        local.or_else(|| self.variables.get(name)).cloned().ok_or_else(|| Error::Undeclared(name.to_string()))
    }

    fn boolean(&mut self, of: &'a Expr) -> Result<bool, Error> {
        self.expression(of)?.as_bool().ok_or_else(|| Error::no_overload("bool"))
    }

    /// One side that decides wins over an error of the other.
    fn logical(&mut self, a: &'a Expr, b: &'a Expr, decides: bool) -> Evaluated<'a> {
        let left = self.boolean(a);
        if left == Ok(decides) || left == Err(Error::CostExceeded) {
            return left.map(Value::Bool);
        }
        let right = self.boolean(b);
        match (left, right) {
            (_, Ok(right)) if right == decides => Ok(Value::Bool(decides)),
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(_), Ok(right)) => Ok(Value::Bool(right)),
        }
    }

    fn select(&mut self, of: &'a Expr, field: &str, optional: bool) -> Evaluated<'a> {
        match self.expression(of)? {
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(of)) => Ok(as_optional(of.field(field)?)),
            of if optional => Ok(as_optional(of.field(field)?)),
            of => of.field(field)?.ok_or_else(|| Error::NoSuchKey(field.into())),
        }
    }

    fn has(&mut self, of: &'a Expr, field: &str) -> Evaluated<'a> {
        let found = match self.expression(of)? {
            Value::Optional(None) => None,
            Value::Optional(Some(of)) => of.field(field)?,
            of => of.field(field)?,
        };
        Ok(Value::Bool(found.is_some()))
    }

    fn index(&mut self, of: &'a Expr, key: &'a Expr, optional: bool) -> Evaluated<'a> {
        let (of, key) = (self.expression(of)?, self.expression(key)?);
        match of {
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(of)) => Ok(as_optional(of.index(&key)?)),
            of if optional => Ok(as_optional(of.index(&key)?)),
            of => of.index(&key)?.ok_or_else(|| match (of.is_list(), key.as_int()) {
                (true, Some(at)) => Error::IndexOutOfBounds(at),
                _ => Error::NoSuchKey(super::text::of(&key)),
            }),
        }
    }

    fn call(&mut self, call: &'a Call) -> Evaluated<'a> {
        let mut arguments = Vec::with_capacity(call.arguments.len());
        for argument in &call.arguments {
            arguments.push(self.expression(argument)?);
        }
        let text: usize = arguments.iter().map(text_bytes).sum();
        self.budget.spend((text / BYTES_A_UNIT) as u64)?;
        match (&arguments[..], call.run) {
            ([Value::Opaque(receiver), rest @ ..], _) if call.member => receiver.call(&call.name, rest),
            (_, Some(run)) => run(&arguments),
            _ => Err(Error::no_overload(&call.name)),
        }
    }

    fn list(&mut self, elements: &'a [Element]) -> Evaluated<'a> {
        self.budget.spend(LIST_COST)?;
        let mut items = Vec::with_capacity(elements.len());
        for element in elements {
            let value = self.expression(&element.value)?;
            items.extend(kept(value, element.optional));
        }
        Ok(Value::list(items))
    }

    fn map(&mut self, entries: &'a [Entry]) -> Evaluated<'a> {
        self.budget.spend(MAP_COST)?;
        let mut map = BTreeMap::new();
        for entry in entries {
            let key = Key::try_from(&self.expression(&entry.key)?)?;
            let value = self.expression(&entry.value)?;
            if let Some(value) = kept(value, entry.optional)
                && map.insert(key, value).is_some()
            {
                return Err(Error::Function("Failed with repeated key".into()));
            }
        }
        Ok(Value::Map(Arc::new(map)))
    }

    fn within(&mut self, of: &'a Expr, name: &Arc<str>, body: &'a Expr, flat: bool) -> Evaluated<'a> {
        match self.expression(of)? {
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(of)) => {
                self.locals.push((name.clone(), (*of).clone()));
                let value = self.expression(body);
                self.locals.pop();
                if flat { value } else { value.map(Value::some) }
            }
            _ => Err(Error::no_overload("optMap")),
        }
    }

    fn or_else(&mut self, of: &'a Expr, other: &'a Expr, unwrap: bool) -> Evaluated<'a> {
        match self.expression(of)? {
            Value::Optional(None) => self.expression(other),
            Value::Optional(Some(of)) if unwrap => Ok((*of).clone()),
            of @ Value::Optional(_) => Ok(of),
            _ => Err(Error::no_overload("or")),
        }
    }

    fn fold(&mut self, fold: &'a Fold) -> Evaluated<'a> {
        let range = self.expression(&fold.range)?;
        if !range.is_list() && !range.is_map() {
            return Err(Error::no_overload("comprehension"));
        }
        let pairs = pairs(&range, fold.second.is_some());
        let depth = self.locals.len();
        let mut outcome = Outcome::new(fold.kind);
        for (first, second) in pairs {
            self.locals.push((fold.first.clone(), first.clone()));
            self.locals.extend(fold.second.clone().map(|name| (name, second)));
            let done = self.step(fold, first, &mut outcome);
            self.locals.truncate(depth);
            if done? {
                break;
            }
        }
        outcome.finish()
    }

    /// One round; true when the rest can't change the outcome.
    fn step(&mut self, fold: &'a Fold, first: Value<'a>, outcome: &mut Outcome<'a>) -> Result<bool, Error> {
        self.budget.spend(1)?;
        if let Some(filter) = &fold.filter
            && !self.boolean(filter)?
        {
            return Ok(false);
        }
        if matches!(fold.kind, FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne) {
            let found = self.boolean(&fold.body);
            return outcome.judge(found, fold.kind);
        }
        let value = self.expression(&fold.body)?;
        outcome.add(fold.kind, first, value)?;
        Ok(false)
    }
}

/// What a fold has come to.
struct Outcome<'a> {
    kind: FoldKind,
    decided: Option<bool>,
    found: usize,
    failed: Option<Error>,
    items: Vec<Value<'a>>,
    map: BTreeMap<Key, Value<'a>>,
}

impl<'a> Outcome<'a> {
    fn new(kind: FoldKind) -> Self {
        Self { kind, decided: None, found: 0, failed: None, items: Vec::new(), map: BTreeMap::new() }
    }

    fn judge(&mut self, found: Result<bool, Error>, kind: FoldKind) -> Result<bool, Error> {
        match (kind, found) {
            (_, Err(Error::CostExceeded)) => return Err(Error::CostExceeded),
            (FoldKind::ExistsOne, Err(error)) => return Err(error),
            (FoldKind::ExistsOne, Ok(found)) => self.found += usize::from(found),
            (_, Err(error)) => self.failed = self.failed.take().or(Some(error)),
            (kind, Ok(found)) if found == (kind == FoldKind::Exists) => self.decided = Some(found),
            _ => {}
        }
        Ok(self.decided.is_some())
    }

    fn add(&mut self, kind: FoldKind, key: Value<'a>, value: Value<'a>) -> Result<(), Error> {
        match kind {
            FoldKind::Values => {
                self.map.insert(Key::try_from(&key)?, value);
            }
            FoldKind::Entries => {
                for (key, value) in value.entries() {
                    if self.map.insert(Key::try_from(&key)?, value).is_some() {
                        return Err(Error::Function("insert failed: key already exists".into()));
                    }
                }
            }
            _ => self.items.push(value),
        }
        Ok(())
    }

    fn finish(self) -> Evaluated<'a> {
        match self.kind {
            FoldKind::Collect => Ok(Value::list(self.items)),
            FoldKind::Values | FoldKind::Entries => Ok(Value::Map(Arc::new(self.map))),
            FoldKind::ExistsOne => Ok(Value::Bool(self.found == 1)),
            FoldKind::All | FoldKind::Exists => match (self.decided, self.failed) {
                (Some(decided), _) => Ok(Value::Bool(decided)),
                (None, Some(error)) => Err(error),
                (None, None) => Ok(Value::Bool(self.kind == FoldKind::All)),
            },
        }
    }
}

/// What the variables of a macro run over.
fn pairs<'a>(range: &Value<'a>, two: bool) -> Vec<(Value<'a>, Value<'a>)> {
    if range.is_map() {
        return range.entries();
    }
    let pair = |(at, item): (usize, Value<'a>)| match two {
        true => (Value::Int(at as i64), item),
        false => (item, Value::Null),
    };
    range.items().enumerate().map(pair).collect()
}

fn as_optional(found: Option<Value<'_>>) -> Value<'_> {
    match found {
        Some(optional @ Value::Optional(_)) => optional,
        Some(value) => Value::some(value),
        None => Value::Optional(None),
    }
}

fn kept(value: Value<'_>, optional: bool) -> Option<Value<'_>> {
    match value {
        Value::Optional(of) if optional => of.map(|of| (*of).clone()),
        other => Some(other),
    }
}

fn text_bytes(value: &Value<'_>) -> usize {
    match value {
        Value::Bytes(of) => of.len(),
        Value::List(items) => items.len(),
        Value::Items(items, _) => items.len(),
        _ => value.as_str().map_or(0, str::len),
    }
}
