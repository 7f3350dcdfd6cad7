//! The checked form of an expression, which is what gets evaluated.
use super::Value;
use super::library::Function;
use std::sync::Arc;

/// A node and all that it stands on.
#[derive(Clone, Debug)]
pub enum Expr {
    Literal(Value<'static>),
    Variable(Arc<str>),
    /// `of.field`, or `of.?field`.
    Select {
        of: Box<Expr>,
        field: Arc<str>,
        optional: bool,
    },
    /// `has(of.field)`.
    Has {
        of: Box<Expr>,
        field: Arc<str>,
    },
    /// `of[key]`, or `of[?key]`.
    Index {
        of: Box<Expr>,
        key: Box<Expr>,
        optional: bool,
    },
    /// A function; of a member, the receiver is the first argument.
    Call(Box<Call>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Conditional(Box<[Expr; 3]>),
    List(Vec<Element>),
    /// A map or a struct.
    Map(Vec<Entry>),
    Fold(Box<Fold>),
    /// `of.optMap(name, body)`, and `optFlatMap` if the body yields an optional itself.
    Within {
        of: Box<Expr>,
        name: Arc<str>,
        body: Box<Expr>,
        flat: bool,
    },
    /// `of.or(other)` and `of.orValue(other)`: the other is evaluated only if it is needed.
    OrElse {
        of: Box<Expr>,
        other: Box<Expr>,
        unwrap: bool,
    },
}

#[derive(Clone, Debug)]
pub struct Call {
    pub name: Arc<str>,
    pub member: bool,
    /// None for what only values themselves answer ([`super::Opaque::call`]).
    pub run: Option<Function>,
    pub arguments: Vec<Expr>,
}

/// An item of a list literal; an optional one that is none is left out.
#[derive(Clone, Debug)]
pub struct Element {
    pub value: Expr,
    pub optional: bool,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

/// A macro over a list or a map.
#[derive(Clone, Debug)]
pub struct Fold {
    pub range: Expr,
    /// The item or the key; with a second name, the index or the key.
    pub first: Arc<str>,
    pub second: Option<Arc<str>>,
    pub filter: Option<Expr>,
    pub kind: FoldKind,
    pub body: Expr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoldKind {
    All,
    Exists,
    ExistsOne,
    /// A list of what the body yields.
    Collect,
    /// A map of the same keys.
    Values,
    /// A map of the one-entry maps that the body yields.
    Entries,
}
