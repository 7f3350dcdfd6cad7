//! What an expression can cost at most, before there is an object: by the bounds of the schema that it is written for.
//!
//! Kubernetes refuses rules by this figure, so it has to be upstream's to the unit, with its blind spots
//! (`cel-go/checker/cost.go`, `k8s.io/apiserver/pkg/cel/library/cost.go`): what a macro costs is what its expansion
//! does, and a value without a place in the schema that has parts is sized as the root.
use super::bounds::{Bounds, Step};
use super::compile::{Call, Expr, Fold, FoldKind};
use super::cost_path::Path;
use super::environment::{Environment, Overload};
use super::{Program, Type, Value, check};
use std::sync::Arc;

/// For each byte of a text that is read.
const TRAVERSAL: f64 = 0.1;
/// For each byte of a regular expression.
const REGEX: f64 = 0.25;
const MAKE_LIST: u64 = 10;
const MAKE_MAP: u64 = 30;
/// The longest name of a format, and the longest expression of one, in bytes.
const FORMAT_NAME: u64 = 64;
const FORMAT_REGEX: f64 = 128.0;

/// The most that the program can cost, where `self` and `oldSelf` have these bounds.
pub fn estimate(program: &Program, environment: &Environment, bounds: &Bounds) -> u64 {
    Coster { environment, root: bounds, scopes: Vec::new() }.node(&program.root).cost
}

/// The fewest and the most items, entries or bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Size {
    min: u64,
    max: u64,
}

impl Size {
    const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    fn exactly(of: u64) -> Self {
        Self { min: of, max: of }
    }

    fn upto(max: u64) -> Self {
        Self { min: 0, max }
    }

    fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    fn or(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    /// The cost of reading all of it.
    fn read(self, factor: f64) -> u64 {
        scaled(self.max, factor)
    }
}

/// Rounded up; floats saturate as integers.
fn scaled(of: u64, factor: f64) -> u64 {
    (of as f64 * factor).ceil() as u64
}

/// What a list or map that was made holds.
#[derive(Clone, Copy)]
struct Entry {
    key: Size,
    value: Size,
}

impl Entry {
    fn or(self, other: Self) -> Self {
        Self { key: self.key.or(other.key), value: self.value.or(other.value) }
    }
}

/// What is known of a part of the expression.
#[derive(Clone)]
struct Node {
    cost: u64,
    ty: Type,
    /// Where it stands in the schema; empty if the expression made it.
    path: Path,
    /// As large as it was made.
    made: Option<Size>,
    /// What is known of an item of a list or map that was made.
    item: Option<Size>,
    entry: Option<Entry>,
}

impl Node {
    fn plain(cost: u64, ty: Type) -> Self {
        Self { cost, ty, path: Path::default(), made: None, item: None, entry: None }
    }
}

fn is_scalar(ty: &Type) -> bool {
    match ty {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        Type::Optional(of) => is_scalar(of),
        _ => false,
    }
}

struct Coster<'b> {
    environment: &'b Environment,
    root: &'b Bounds,
    /// Variables of the macros around, innermost last; their cost is that of reading them.
    scopes: Vec<(Arc<str>, Node)>,
}

impl Coster<'_> {
    fn node(&mut self, of: &Expr) -> Node {
        match of {
            Expr::Literal(value) => self.literal(value),
            Expr::Variable(name) => self.variable(name),
            Expr::Select { of, field, optional: false } => self.select(of, field),
            Expr::Select { of, field, optional: true } => {
                let of = self.node(of);
                let ty = field_type(&of.ty, field);
                let ty = if matches!(ty, Type::Optional(_)) { ty } else { Type::optional(ty) };
                Node::plain(of.cost.saturating_add(1), ty)
            }
            Expr::Has { of, .. } => Node::plain(self.node(of).cost, Type::Bool),
            Expr::Index { of, key, optional } => self.index(of, key, *optional),
            Expr::Call(call) => self.call(call),
            Expr::And(a, b) | Expr::Or(a, b) => {
                Node::plain(self.node(a).cost.saturating_add(self.node(b).cost), Type::Bool)
            }
            Expr::Conditional(parts) => self.conditional(parts),
            Expr::List(elements) => {
                let items = self.sized_nodes(elements.iter().map(|element| &element.value));
                self.made(MAKE_LIST, items.len(), &[], &items, true)
            }
            Expr::Map(entries) => {
                let keys = self.sized_nodes(entries.iter().map(|entry| &entry.key));
                let values = self.sized_nodes(entries.iter().map(|entry| &entry.value));
                self.made(MAKE_MAP, values.len(), &keys, &values, false)
            }
            Expr::Fold(fold) => self.fold(fold),
            Expr::Within { of, name, body, flat } => self.within(of, name, body, *flat),
            Expr::OrElse { of, other, unwrap } => {
                let (of, other) = (self.node(of), self.node(other));
                let ty = match of.ty {
                    Type::Optional(inner) if *unwrap => (*inner).clone(),
                    ty => ty,
                };
                Node::plain(of.cost.saturating_add(other.cost).saturating_add(1), ty)
            }
        }
    }

    /// As it was made, as the schema bounds it, or as its type says, in this order.
    fn known_size(&self, of: &Node) -> Option<Size> {
        let bounds = || of.path.bounds(self.root).map(|bounds| Size::upto(bounds.most));
        of.made.or_else(bounds).or_else(|| is_scalar(&of.ty).then(|| Size::exactly(1))).or(of.item)
    }

    fn size(&self, of: &Node) -> Size {
        self.known_size(of).unwrap_or(Size::UNKNOWN)
    }

    /// The node with the size that it has now: its path may change while other parts are looked at.
    fn sized(&self, of: Node) -> Node {
        Node { made: self.known_size(&of), ..of }
    }

    fn sized_nodes<'e>(&mut self, all: impl Iterator<Item = &'e Expr>) -> Vec<Node> {
        let mut nodes = Vec::new();
        for of in all {
            let node = self.node(of);
            nodes.push(self.sized(node));
        }
        nodes
    }

    fn literal(&self, value: &Value<'static>) -> Node {
        let (ty, size) = match value {
            Value::Type(_) => return Node { path: Path::root(), ..Node::plain(1, Type::Type) },
            Value::Null => (Type::Null, 1),
            Value::Bool(_) => (Type::Bool, 1),
            Value::Int(_) => (Type::Int, 1),
            Value::Uint(_) => (Type::Uint, 1),
            Value::Double(_) => (Type::Double, 1),
            Value::Bytes(of) => (Type::Bytes, of.len() as u64),
            other => (Type::String, other.as_str().map_or(1, |text| text.chars().count() as u64)),
        };
        Node { made: Some(Size::exactly(size)), ..Node::plain(0, ty) }
    }

    fn variable(&self, name: &str) -> Node {
        if let Some((_, node)) = self.scopes.iter().rev().find(|(scope, _)| **scope == *name) {
            return node.clone();
        }
        let ty = self.environment.variable_type(name).cloned().unwrap_or(Type::Dyn);
        Node { path: Path::root(), ..Node::plain(1, ty) }
    }

    fn select(&mut self, of: &Expr, field: &str) -> Node {
        let of = self.node(of);
        let step = matches!(of.ty, Type::Map(..) | Type::Object(_) | Type::Param(_));
        let node = Node::plain(of.cost.saturating_add(u64::from(step)), field_type(&of.ty, field));
        Node { path: of.path.to(Step::Field(field.into())), ..node }
    }

    fn index(&mut self, of: &Expr, key: &Expr, optional: bool) -> Node {
        let (of, key) = (self.node(of), self.node(key));
        let cost = of.cost.saturating_add(key.cost).saturating_add(1);
        let inner = if let Type::Optional(inner) = &of.ty { (**inner).clone() } else { of.ty.clone() };
        let item = match &inner {
            Type::List(item) => (**item).clone(),
            Type::Map(_, value) => (**value).clone(),
            _ => Type::Dyn,
        };
        if optional || inner != of.ty {
            return Node::plain(cost, Type::optional(item));
        }
        let path = of.path.to(Step::Element);
        self.sized(Node { path, made: of.entry.map(|entry| entry.value), ..Node::plain(cost, item) })
    }

    fn conditional(&mut self, parts: &[Expr; 3]) -> Node {
        let [condition, a, b] = parts.each_ref().map(|part| {
            let part = self.node(part);
            self.sized(part)
        });
        let ty = a.ty.join(&b.ty);
        let entry = a.entry.zip(b.entry).map(|(a, b)| a.or(b));
        let cost = condition.cost.saturating_add(a.cost.max(b.cost));
        Node { made: Some(self.size(&a).or(self.size(&b))), entry, ..Node::plain(cost, ty) }
    }

    /// A list or map that is written out.
    fn made(&self, base: u64, count: usize, keys: &[Node], values: &[Node], list: bool) -> Node {
        let cost = keys.iter().chain(values).fold(base, |sum, node| sum.saturating_add(node.cost));
        let joined =
            |nodes: &[Node]| nodes.iter().map(|node| node.ty.clone()).reduce(|a, b| a.join(&b)).unwrap_or(Type::Dyn);
        let all =
            |nodes: &[Node]| nodes.iter().map(|node| self.size(node)).reduce(Size::or).unwrap_or(Size::exactly(0));
        let key = if list { Size::exactly(1) } else { all(keys) };
        let ty = if list { Type::list(joined(values)) } else { Type::map(joined(keys), joined(values)) };
        let entry = Some(Entry { key, value: all(values) });
        Node { made: Some(Size::exactly(count as u64)), entry, ..Node::plain(cost, ty) }
    }

    fn fold(&mut self, fold: &Fold) -> Node {
        let range = self.node(&fold.range);
        let depth = self.scopes.len();
        let alone = fold.second.is_none() && matches!(range.ty, Type::List(_));
        self.scopes.push((fold.first.clone(), if alone { value_of(&range) } else { key_of(&range) }));
        self.scopes.extend(fold.second.clone().map(|second| (second, value_of(&range))));
        let filter = fold.filter.as_ref().map(|filter| self.node(filter).cost);
        let body = self.node(&fold.body);
        let item = self.size(&body);
        self.scopes.truncate(depth);
        // What the expansion begins with, does at each step, and ends with, beside the body.
        let (begin, step, end) = match fold.kind {
            FoldKind::All => (0, 3, 1),
            FoldKind::Exists => (0, 4, 1),
            FoldKind::ExistsOne => (0, 2, 2),
            FoldKind::Collect => (MAKE_LIST, 2 + MAKE_LIST, 1),
            FoldKind::Values => (MAKE_MAP, 3, 1),
            FoldKind::Entries => (MAKE_MAP, 2, 1),
        };
        let step = body.cost.saturating_add(step).saturating_add(filter.unwrap_or(0));
        let count = self.size(&range);
        let steps = count.max.saturating_mul(step);
        let cost = [begin, steps, end].into_iter().fold(range.cost, u64::saturating_add);
        let made = Node { made: Some(count), ..Node::plain(cost, Type::Dyn) };
        let entry = Entry { key: Size::exactly(1), value: Size::exactly(0).or(item) };
        match fold.kind {
            FoldKind::Collect => Node { ty: Type::list(body.ty), entry: Some(entry), ..made },
            FoldKind::Values => Node { ty: Type::map(key_type(&range.ty), body.ty), ..made },
            FoldKind::Entries => Node { ty: body.ty, ..made },
            _ => Node::plain(cost, Type::Bool),
        }
    }

    /// `of.hasValue() ? optional.of(bind(name, of.value(), body)) : optional.none()`
    fn within(&mut self, of: &Expr, name: &Arc<str>, body: &Expr, flat: bool) -> Node {
        let of = self.node(of);
        let inner = if let Type::Optional(inner) = &of.ty { (**inner).clone() } else { Type::Dyn };
        self.scopes.push((name.clone(), Node::plain(1, inner)));
        let body = self.node(body);
        self.scopes.pop();
        let ty = if flat { body.ty } else { Type::optional(body.ty) };
        let expansion = MAKE_LIST + 2 + u64::from(!flat);
        Node::plain(of.cost.saturating_mul(2).saturating_add(body.cost).saturating_add(expansion), ty)
    }

    fn call(&mut self, call: &Call) -> Node {
        let given = self.given(call);
        if let ("dyn", [of]) = (&*call.name, &given[..]) {
            return Node { cost: of.cost.saturating_add(1), ty: Type::Dyn, path: Path::default(), ..of.clone() };
        }
        let ty = self.result(call, &given);
        let (own, size) = self.own_cost(call, &given);
        let cost = given.iter().fold(own, |sum, node| sum.saturating_add(node.cost));
        let node = Node::plain(cost, ty);
        let entry = match (&*call.name, &given[..]) {
            ("_+_", [a, b]) => a.entry.zip(b.entry).map(|(a, b)| a.or(b)),
            _ => None,
        };
        self.sized(Node { made: size, entry, ..node })
    }

    /// What a call is made with; the receiver is looked at last.
    fn given(&mut self, call: &Call) -> Vec<Node> {
        let receiver = usize::from(call.member).min(call.arguments.len());
        let (receiver, rest) = call.arguments.split_at(receiver);
        let rest = self.sized_nodes(rest.iter());
        let mut given = self.sized_nodes(receiver.iter());
        given.extend(rest);
        given
    }

    fn result(&self, call: &Call, given: &[Node]) -> Type {
        let types: Vec<Type> = given.iter().map(|node| node.ty.clone()).collect();
        let overloads = self.environment.function(&call.name).map_or(&[][..], |declared| &declared.overloads);
        let fits = |overload: &&Overload| overload.member == call.member;
        let results = overloads.iter().filter(fits).filter_map(|overload| check::matching(overload, &types));
        results.reduce(|a, b| if a == b { a } else { Type::Dyn }).unwrap_or(Type::Dyn)
    }

    /// What the call costs beside its arguments, and how large its result is where that follows from them: a table, line
    /// by line as upstream's.
    fn own_cost(&self, call: &Call, given: &[Node]) -> (u64, Option<Size>) {
        let size = |at: usize| given.get(at).map_or(Size::UNKNOWN, |of| self.size(of));
        let may_be = |at: usize, ty: &Type| given.get(at).is_some_and(|of| of.ty == *ty || of.ty == Type::Dyn);
        let is_text = |at: usize| may_be(at, &Type::String) || may_be(at, &Type::Bytes);
        let is_list = |at: usize| given.get(at).is_some_and(|of| matches!(of.ty, Type::List(_) | Type::Dyn));
        let integer = |at: usize| match call.arguments.get(at) {
            Some(Expr::Literal(Value::Int(of))) => u64::try_from(*of).ok(),
            _ => None,
        };
        match (&*call.name, given.len()) {
            ("_==_" | "_!=_", 2) => (self.equality(&call.name, given), None),
            ("_<_" | "_<=_" | "_>_" | "_>=_", 2) if is_text(0) && is_text(1) => {
                (scaled(size(0).max.min(size(1).max), TRAVERSAL).max(u64::from(given[0].ty == Type::Dyn)), None)
            }
            ("_+_", 2) if is_text(0) && is_text(1) => {
                let sum = size(0).plus(size(1));
                (sum.read(TRAVERSAL).max(u64::from(given[0].ty == Type::Dyn)), Some(sum))
            }
            ("_+_", 2) if is_list(0) => (1, Some(size(0).plus(size(1)))),
            ("@in", 2) if is_list(1) => (size(1).read(1.0), None),
            ("bytes", 1) if may_be(0, &Type::String) => {
                (size(0).read(TRAVERSAL), Some(Size { max: size(0).max.saturating_mul(4), ..size(0) }))
            }
            ("string", 1) if may_be(0, &Type::Bytes) => {
                (size(0).read(TRAVERSAL).max(1), Some(Size { min: size(0).min / 4, ..size(0) }))
            }
            ("strings.quote", 1) => {
                let doubled = size(0).times(Size { min: 1, max: 2 });
                (size(0).read(TRAVERSAL), Some(doubled.plus(Size::exactly(2))))
            }
            ("format", 2) if call.member => (size(0).read(TRAVERSAL), None),
            ("startsWith" | "endsWith", 2) => (size(1).read(TRAVERSAL), None),
            ("contains", 2) => (size(0).read(TRAVERSAL).saturating_mul(size(1).read(TRAVERSAL)), None),
            ("matches", 2) if call.member => (regex(size(0), size(1)), None),
            ("find" | "findAll", 2..) => (regex(size(0), size(1)), Some(Size::upto(size(0).max))),
            ("lowerAscii" | "upperAscii" | "substring" | "trim", _) => (size(0).read(TRAVERSAL), Some(size(0))),
            ("url" | "jsonpatch.escapeKey", 1) => (size(0).read(TRAVERSAL), Some(size(0))),
            ("replace", 3..) => (size(0).read(2.0 * TRAVERSAL), Some(replaced(size(0), size(1), size(2)))),
            ("split", _) => (size(0).read(2.0 * TRAVERSAL), Some(Size::upto(integer(2).unwrap_or(size(0).max)))),
            ("join", _) => {
                let joined = self.joined(&given[0], given.get(1));
                (joined.read(TRAVERSAL), Some(joined))
            }
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", _) => (self.each(&given[0]), None),
            ("slice", 3) => {
                let part = integer(2).unwrap_or(size(0).max).saturating_sub(integer(1).unwrap_or(0));
                listed(1.0, Size::exactly(part))
            }
            ("lists.range", 1) => listed(1.0, Size::exactly(integer(0).unwrap_or(u64::MAX))),
            ("reverse", 1) => listed(1.0, size(0)),
            ("flatten", 1) => listed(1.0, size(0)),
            ("flatten", 2) => listed(integer(1).unwrap_or(u64::MAX) as f64, size(0)),
            ("distinct", 1) => listed(2.0, size(0).times(size(0))),
            ("sort", 1) => {
                let texts = matches!(&given[0].ty, Type::List(item) if matches!(**item, Type::String | Type::Bytes));
                listed(if texts { 2.0 + TRAVERSAL } else { 2.0 }, size(0).times(size(0)))
            }
            ("sets.contains" | "sets.intersects", 2) => (size(0).times(size(1)).max.saturating_add(1), None),
            ("sets.equivalent", 2) => (size(0).times(size(1)).read(2.0).saturating_add(1), None),
            ("cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver", 1..) => {
                (size(0).read(TRAVERSAL), None)
            }
            ("ip", 1) if !call.member => (size(0).read(TRAVERSAL), None),
            ("ip.isCanonical", 1) => (size(0).read(2.0 * TRAVERSAL), None),
            ("containsIP", 2) => (self.address(4, &given[1]), None),
            ("containsCIDR", 2) => (self.address(4 + 2 + 1, &given[1]), None),
            ("validate", 2) => (scaled(size(1).read(TRAVERSAL), FORMAT_REGEX * REGEX), None),
            _ => (1, None),
        }
    }

    fn equality(&self, name: &str, given: &[Node]) -> u64 {
        let (a, b) = (&given[0], &given[1]);
        match &a.ty {
            Type::Opaque(of) if name == "_==_" && a.ty == b.ty => match &**of {
                "kubernetes.URL" => b.made.map_or(1, |size| size.read(TRAVERSAL).max(1)),
                "kubernetes.NamedFormat" => scaled(FORMAT_NAME, TRAVERSAL),
                _ => 1,
            },
            _ => scaled(self.size(a).max.min(self.size(b).max), TRAVERSAL),
        }
    }

    /// Something is done with each item of a list; or with each byte of a text.
    fn each(&self, of: &Node) -> u64 {
        let Type::List(item) = &of.ty else { return self.size(of).read(TRAVERSAL) };
        let read = matches!(**item, Type::String | Type::Bytes).then(|| self.item(of).read(TRAVERSAL));
        self.size(of).max.saturating_mul(read.unwrap_or(0).saturating_add(1))
    }

    /// The size of an item, which is known by its place alone.
    fn item(&self, list: &Node) -> Size {
        let bounds = list.path.bounds(self.root).and_then(|bounds| bounds.step(&Step::Element));
        bounds.map_or(Size::UNKNOWN, |item| Size::upto(item.most))
    }

    /// Two addresses of up to 16 bytes are compared; one may have to be read from a text first.
    fn address(&self, compared: u64, with: &Node) -> u64 {
        let text = matches!(with.ty, Type::String | Type::Dyn).then(|| self.size(with).read(TRAVERSAL));
        compared.saturating_add(text.unwrap_or(0))
    }

    fn joined(&self, list: &Node, separator: Option<&Node>) -> Size {
        let size = self.size(list);
        let items = match &list.ty {
            Type::List(_) => size.times(self.item(list)),
            _ => Size::exactly(0),
        };
        let between = Size { min: size.min.saturating_sub(1), max: size.max.saturating_sub(1) };
        separator.map_or(items, |separator| items.plus(self.size(separator).times(between)))
    }
}

fn key_type(range: &Type) -> Type {
    match range {
        Type::List(_) => Type::Int,
        Type::Map(key, _) => (**key).clone(),
        _ => Type::Dyn,
    }
}

/// What a macro sees of a list or map: the position or key.
fn key_of(range: &Node) -> Node {
    let step = if matches!(range.ty, Type::List(_)) { Step::Position } else { Step::Key };
    let item = range.entry.map(|entry| entry.key);
    Node { path: range.path.to(step), item, ..Node::plain(1, key_type(&range.ty)) }
}

/// And the item.
fn value_of(range: &Node) -> Node {
    let ty = match &range.ty {
        Type::List(item) => (**item).clone(),
        Type::Map(_, value) => (**value).clone(),
        _ => Type::Dyn,
    };
    let item = range.entry.map(|entry| entry.value);
    Node { path: range.path.to(Step::Element), item, ..Node::plain(1, ty) }
}

fn field_type(of: &Type, field: &str) -> Type {
    match of {
        Type::Map(_, value) => (**value).clone(),
        Type::Optional(of) => Type::optional(field_type(of, field)),
        Type::Object(object) => object.fields.get(field).map_or(Type::Dyn, |field| field.ty.clone()),
        _ => Type::Dyn,
    }
}

/// One more than the text, so that an empty one does not make any expression free.
fn regex(text: Size, pattern: Size) -> u64 {
    text.plus(Size::exactly(1)).read(TRAVERSAL).saturating_mul(pattern.read(REGEX))
}

/// A call that makes a list of this size.
fn listed(factor: f64, size: Size) -> (u64, Option<Size>) {
    (size.read(factor).saturating_add(1 + MAKE_LIST), Some(size))
}

/// The text after `what` became `with` in it, at its shortest and at its longest.
fn replaced(text: Size, what: Size, with: Size) -> Size {
    let times = |length: u64, by: u64| (length as f64 / by as f64).ceil() as u64;
    let (most, kept_most) = match what.min {
        0 => (text.max.saturating_add(1), text.max),
        shortest if with.max <= shortest => (0, text.max),
        shortest => (times(text.max, shortest), 0),
    };
    let (fewest, kept_least) = match what.max {
        0 => (text.min.saturating_add(1), text.min),
        longest if longest <= with.min => (0, text.min),
        longest => (times(text.min, longest), 0),
    };
    Size { min: fewest, max: most }.times(with).plus(Size { min: kept_least, max: kept_most })
}
