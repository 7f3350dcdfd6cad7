//! From a parsed expression to a checked one: names resolved, types that cannot fit refused.
use super::compile::{Call, Element, Entry, Expr, Fold, FoldKind};
use super::environment::{Declaration, Environment, MAX_SOURCE_BYTES, Overload};
use super::{CompileError, Program, Type, Value, macros};
use cel::common::ast::{self, EntryExpr, IdedExpr, LiteralValue, SourceInfo, operators};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Parses, checks and lowers a source.
pub fn compile(environment: &Environment, source: &str) -> Result<Program, CompileError> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(CompileError(vec![format!("expression is longer than {MAX_SOURCE_BYTES} bytes")]));
    }
    let parser = cel::parser::Parser::new().enable_optional_syntax(true);
    let (parsed, info) = parser.parse_with_source_info(source).map_err(|failed| {
        CompileError(failed.errors.iter().map(|e| pointed(source, e.pos.0, e.pos.1, &e.msg)).collect())
    })?;
    let mut checker = Checker {
        environment,
        info,
        source,
        scopes: Vec::new(),
        variables: BTreeSet::new(),
        formatted: 0,
        errors: Vec::new(),
    };
    let (root, result) = checker.expression(&parsed);
    match checker.errors.is_empty() {
        true => Ok(Program { root, result, variables: checker.variables }),
        false => Err(CompileError(checker.errors)),
    }
}

/// An error as the reference implementation prints it. Lines and columns count from one.
fn pointed(source: &str, line: isize, column: isize, message: &str) -> String {
    let at = usize::try_from(line - 1).unwrap_or(0);
    let text = source.lines().nth(at).unwrap_or_default();
    let dots = ".".repeat(usize::try_from(column - 1).unwrap_or(0));
    format!("ERROR: <input>:{line}:{column}: {message}\n | {text}\n | {dots}^")
}

struct Checker<'e> {
    environment: &'e Environment,
    info: SourceInfo,
    source: &'e str,
    /// Variables of the macros around, innermost last.
    scopes: Vec<(Arc<str>, Type)>,
    variables: BTreeSet<String>,
    /// How many calls of `format` are around.
    formatted: usize,
    errors: Vec<String>,
}

type Checked = (Expr, Type);

impl Checker<'_> {
    /// Reports, and stands in for what could not be checked.
    fn fail(&mut self, id: u64, message: impl AsRef<str>) -> Checked {
        let offset = self.info.offset_for(id).map_or(0, |(start, _)| start as usize);
        let before: String = self.source.chars().take(offset).collect();
        let line = before.matches('\n').count() as isize + 1;
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) as isize + 1;
        self.errors.push(pointed(self.source, line, column, message.as_ref()));
        (Expr::Literal(Value::Null), Type::Dyn)
    }

    fn expression(&mut self, of: &IdedExpr) -> Checked {
        match &of.expr {
            ast::Expr::Literal(literal) => literal_of(literal),
            ast::Expr::Ident(name) => self.name(of.id, name),
            ast::Expr::Select(select) => self.select(of, select),
            ast::Expr::Call(call) => self.call(of.id, call),
            ast::Expr::List(list) => self.list(list),
            ast::Expr::Map(map) => self.map(map),
            ast::Expr::Struct(of) => self.structure(of),
            ast::Expr::Comprehension(fold) => match macros::expanded(fold) {
                Some(fold) => self.fold(&fold),
                None => self.fail(of.id, "unsupported comprehension"),
            },
            ast::Expr::Unspecified => self.fail(of.id, "unspecified expression"),
        }
    }

    fn name(&mut self, id: u64, name: &str) -> Checked {
        match self.known(name) {
            Some(known) => known,
            None => self.fail(id, format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    fn known(&mut self, name: &str) -> Option<Checked> {
        if let Some((name, ty)) = self.scopes.iter().rev().find(|(scope, _)| **scope == *name) {
            return Some((Expr::Variable(name.clone()), ty.clone()));
        }
        if let Some(ty) = self.environment.variable_type(name) {
            self.variables.insert(name.into());
            return Some((Expr::Variable(name.into()), ty.clone()));
        }
        Type::named(name).map(|_| (Expr::Literal(Value::Type(name.into())), Type::Type))
    }

    fn select(&mut self, whole: &IdedExpr, select: &ast::SelectExpr) -> Checked {
        let declared = |name: &String| Type::named(name).is_some() || self.environment.variable_type(name).is_some();
        let qualified = macros::qualified(whole).filter(|name| name.contains('.') && declared(name));
        if let Some(known) = qualified.and_then(|name| self.known(&name)) {
            return known;
        }
        let (of, ty) = self.expression(&select.operand);
        let Some(result) = self.field_type(whole.id, &ty, &select.field) else {
            return (Expr::Literal(Value::Null), Type::Dyn);
        };
        let (of, field) = (Box::new(of), Arc::<str>::from(select.field.as_str()));
        match select.test {
            true => (Expr::Has { of, field }, Type::Bool),
            false => (Expr::Select { of, field, optional: false }, result),
        }
    }

    fn field_type(&mut self, id: u64, of: &Type, field: &str) -> Option<Type> {
        match of {
            Type::Dyn => Some(Type::Dyn),
            Type::Map(_, value) => Some((**value).clone()),
            Type::Optional(of) => self.field_type(id, of, field).map(Type::optional),
            Type::Object(object) => match object.fields.get(field) {
                Some(field) => Some(field.ty.clone()),
                None => {
                    self.fail(id, format!("undefined field '{field}'"));
                    None
                }
            },
            _ => {
                self.fail(id, format!("type '{of}' does not support field selection"));
                None
            }
        }
    }

    fn call(&mut self, id: u64, call: &ast::CallExpr) -> Checked {
        match (call.func_name.as_str(), &call.args[..]) {
            (operators::LOGICAL_AND, [a, b]) => self.logical(id, call, a, b, Expr::And),
            (operators::LOGICAL_OR, [a, b]) => self.logical(id, call, a, b, Expr::Or),
            (operators::CONDITIONAL, [a, b, c]) => self.conditional(id, a, b, c),
            (operators::INDEX, [of, key]) => self.index(id, of, key, false),
            (operators::OPT_INDEX, [of, key]) => self.index(id, of, key, true),
            (operators::OPT_SELECT, [of, field]) => self.optional_field(id, of, field),
            _ => self.function(id, call),
        }
    }

    fn logical(
        &mut self,
        id: u64,
        call: &ast::CallExpr,
        a: &IdedExpr,
        b: &IdedExpr,
        make: fn(Box<Expr>, Box<Expr>) -> Expr,
    ) -> Checked {
        let ((a, left), (b, right)) = (self.expression(a), self.expression(b));
        if !Type::Bool.accepts(&left) || !Type::Bool.accepts(&right) {
            return self.no_overload(id, &call.func_name, &[left, right], false);
        }
        (make(Box::new(a), Box::new(b)), Type::Bool)
    }

    fn conditional(&mut self, id: u64, a: &IdedExpr, b: &IdedExpr, c: &IdedExpr) -> Checked {
        let (parts, types): (Vec<_>, Vec<_>) = [a, b, c].into_iter().map(|part| self.expression(part)).unzip();
        if !Type::Bool.accepts(&types[0]) || !(types[1].accepts(&types[2]) || types[2].accepts(&types[1])) {
            return self.no_overload(id, operators::CONDITIONAL, &types, false);
        }
        let result = types[1].join(&types[2]);
        match <[Expr; 3]>::try_from(parts) {
            Ok(parts) => (Expr::Conditional(Box::new(parts)), result),
            Err(_) => self.fail(id, "malformed conditional"),
        }
    }

    fn index(&mut self, id: u64, of: &IdedExpr, key: &IdedExpr, optional: bool) -> Checked {
        let ((of, ty), (key, by)) = (self.expression(of), self.expression(key));
        let inner = if let Type::Optional(inner) = &ty { (**inner).clone() } else { ty.clone() };
        let result = match &inner {
            Type::Dyn => Type::Dyn,
            Type::List(item) if by == Type::Dyn || by.is_number() => (**item).clone(),
            Type::Map(k, value) if k.accepts(&by) || (k.is_number() && by.is_number()) => (**value).clone(),
            _ => return self.no_overload(id, operators::INDEX, &[ty, by], false),
        };
        let wrapped = optional || inner != ty;
        let result = if wrapped { Type::optional(result) } else { result };
        (Expr::Index { of: Box::new(of), key: Box::new(key), optional }, result)
    }

    fn optional_field(&mut self, id: u64, of: &IdedExpr, field: &IdedExpr) -> Checked {
        let ast::Expr::Literal(LiteralValue::String(field)) = &field.expr else {
            return self.fail(id, "unsupported optional field selection");
        };
        let (of, ty) = self.expression(of);
        let Some(result) = self.field_type(id, &ty, field.inner()) else {
            return (Expr::Literal(Value::Null), Type::Dyn);
        };
        let result = if matches!(result, Type::Optional(_)) { result } else { Type::optional(result) };
        (Expr::Select { of: Box::new(of), field: field.inner().into(), optional: true }, result)
    }

    fn list(&mut self, list: &ast::ListExpr) -> Checked {
        let mut item: Option<Type> = None;
        let mut elements = Vec::with_capacity(list.elements.len());
        for (at, element) in list.elements.iter().enumerate() {
            let optional = list.optional_indices.contains(&at);
            let (value, ty) = self.expression(element);
            let ty = unwrapped(ty, optional);
            item = Some(self.same(element.id, item, ty));
            elements.push(Element { value, optional });
        }
        (Expr::List(elements), Type::list(item.unwrap_or(Type::Dyn)))
    }

    /// Literals hold one type of item only, unless they say `dyn` or are formatted.
    fn same(&mut self, id: u64, known: Option<Type>, ty: Type) -> Type {
        match known {
            None => ty,
            Some(known) if known.accepts(&ty) || ty.accepts(&known) => known.join(&ty),
            Some(_) if self.formatted > 0 => Type::Dyn,
            Some(known) => {
                self.fail(id, format!("expected type '{known}' but found '{ty}'"));
                known
            }
        }
    }

    fn map(&mut self, map: &ast::MapExpr) -> Checked {
        let (mut keys, mut values, mut entries) = (None, None, Vec::new());
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
            let ((key, by), (value, ty)) = (self.expression(&entry.key), self.expression(&entry.value));
            let ty = unwrapped(ty, entry.optional);
            keys = Some(self.same(entry.key.id, keys, by));
            values = Some(self.same(entry.value.id, values, ty));
            entries.push(Entry { key, value, optional: entry.optional });
        }
        (Expr::Map(entries), Type::map(keys.unwrap_or(Type::Dyn), values.unwrap_or(Type::Dyn)))
    }

    /// Structs are what mutating policies make (`Object.spec{...}`, `JSONPatch{...}`); their fields are checked
    /// where they are applied.
    fn structure(&mut self, of: &ast::StructExpr) -> Checked {
        let mut entries = Vec::new();
        for entry in &of.entries {
            let EntryExpr::StructField(field) = &entry.expr else { continue };
            let (value, _) = self.expression(&field.value);
            let key = Expr::Literal(Value::string(field.field.as_str()));
            entries.push(Entry { key, value, optional: field.optional });
        }
        (Expr::Map(entries), Type::Dyn)
    }

    fn fold(&mut self, fold: &macros::Fold<'_>) -> Checked {
        let (range, ty) = self.expression(fold.range);
        let (key, value) = match &ty {
            Type::List(item) => (Type::Int, (**item).clone()),
            Type::Map(key, value) => ((**key).clone(), (**value).clone()),
            Type::Dyn => (Type::Dyn, Type::Dyn),
            _ => {
                let message = format!(
                    "expression of type '{ty}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return self.fail(fold.range.id, message);
            }
        };
        let depth = self.scopes.len();
        let first: Arc<str> = fold.first.into();
        let second: Option<Arc<str>> = fold.second.map(Into::into);
        let alone = if matches!(ty, Type::List(_)) { value.clone() } else { key.clone() };
        self.scopes.push((first.clone(), if second.is_some() { key.clone() } else { alone }));
        self.scopes.extend(second.clone().map(|name| (name, value)));
        let filter = fold.filter.map(|filter| self.condition(filter));
        let boolean = matches!(fold.kind, FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne);
        let (body, item) = match boolean {
            true => (self.condition(fold.body), Type::Bool),
            false => self.expression(fold.body),
        };
        self.scopes.truncate(depth);
        let result = match fold.kind {
            FoldKind::Collect => Type::list(item),
            FoldKind::Values => Type::map(key, item),
            FoldKind::Entries => item,
            _ => Type::Bool,
        };
        (Expr::Fold(Box::new(Fold { range, first, second, filter, kind: fold.kind, body })), result)
    }

    fn condition(&mut self, of: &IdedExpr) -> Expr {
        let (condition, ty) = self.expression(of);
        if !Type::Bool.accepts(&ty) {
            self.fail(of.id, format!("expected type 'bool' but found '{ty}'"));
        }
        condition
    }

    fn function(&mut self, id: u64, call: &ast::CallExpr) -> Checked {
        if let Some(fold) = macros::of_two_variables(call) {
            return self.fold(&fold);
        }
        if let Some((of, name, body, flat)) = macros::of_optional(call) {
            return self.within(id, of, name, body, flat);
        }
        let spelled = call.target.as_deref().and_then(macros::qualified).map(|q| format!("{q}.{}", call.func_name));
        let environment = self.environment;
        if let Some((name, declared)) = spelled.and_then(|name| Some((name.clone(), environment.function(&name)?))) {
            return self.resolve(id, &name, declared, None, &call.args);
        }
        match environment.function(&call.func_name) {
            Some(declared) => self.resolve(id, &call.func_name, declared, call.target.as_deref(), &call.args),
            None => {
                call.target.iter().for_each(|target| drop(self.expression(target)));
                call.args.iter().for_each(|argument| drop(self.expression(argument)));
                self.fail(id, format!("undeclared reference to '{}' (in container '')", call.func_name))
            }
        }
    }

    fn within(&mut self, id: u64, of: &IdedExpr, name: &str, body: &IdedExpr, flat: bool) -> Checked {
        let (of, ty) = self.expression(of);
        let inner = match &ty {
            Type::Optional(inner) => (**inner).clone(),
            Type::Dyn => Type::Dyn,
            _ => return self.no_overload(id, if flat { "optFlatMap" } else { "optMap" }, &[ty], true),
        };
        let name: Arc<str> = name.into();
        self.scopes.push((name.clone(), inner));
        let (body, result) = self.expression(body);
        self.scopes.pop();
        let result = if flat { result } else { Type::optional(result) };
        (Expr::Within { of: Box::new(of), name, body: Box::new(body), flat }, result)
    }

    fn resolve(
        &mut self,
        id: u64,
        name: &str,
        declared: &Declaration,
        target: Option<&IdedExpr>,
        given: &[IdedExpr],
    ) -> Checked {
        let formats = usize::from(name == "format");
        self.formatted += formats;
        let (mut arguments, types): (Vec<_>, Vec<_>) =
            target.into_iter().chain(given).map(|argument| self.expression(argument)).unzip();
        self.formatted -= formats;
        let member = target.is_some();
        let fits = |overload: &&Overload| overload.member == member;
        let mut results = declared.overloads.iter().filter(fits).filter_map(|overload| matching(overload, &types));
        let Some(first) = results.next() else { return self.no_overload(id, name, &types, member) };
        let result = results.fold(first, |joined, next| if joined == next { joined } else { Type::Dyn });
        if member && matches!(name, "or" | "orValue") {
            let (other, of) = (arguments.pop(), arguments.pop());
            let boxed = |of: Option<Expr>| Box::new(of.unwrap_or(Expr::Literal(Value::Null)));
            return (Expr::OrElse { of: boxed(of), other: boxed(other), unwrap: name == "orValue" }, result);
        }
        let run = if member { declared.method } else { declared.function };
        (Expr::Call(Box::new(Call { name: name.into(), member, run, arguments })), result)
    }

    fn no_overload(&mut self, id: u64, name: &str, types: &[Type], member: bool) -> Checked {
        let shown: Vec<String> = types.iter().map(ToString::to_string).collect();
        let applied = match member {
            true => format!("{}.({})", shown[0], shown[1..].join(", ")),
            false => format!("({})", shown.join(", ")),
        };
        self.fail(id, format!("found no matching overload for '{name}' applied to '{applied}'"))
    }
}

fn unwrapped(ty: Type, optional: bool) -> Type {
    match ty {
        Type::Optional(of) if optional => (*of).clone(),
        other => other,
    }
}

fn literal_of(literal: &LiteralValue) -> Checked {
    let (value, ty) = match literal {
        LiteralValue::Boolean(of) => (Value::Bool(*of.inner()), Type::Bool),
        LiteralValue::Bytes(of) => (Value::Bytes(of.inner().into()), Type::Bytes),
        LiteralValue::Double(of) => (Value::Double(*of.inner()), Type::Double),
        LiteralValue::Int(of) => (Value::Int(*of.inner()), Type::Int),
        LiteralValue::UInt(of) => (Value::Uint(*of.inner()), Type::Uint),
        LiteralValue::String(of) => (Value::string(of.inner()), Type::String),
        LiteralValue::Null => (Value::Null, Type::Null),
    };
    (Expr::Literal(value), ty)
}

/// The result of an overload for arguments of these types, if they fit.
pub(super) fn matching(overload: &Overload, types: &[Type]) -> Option<Type> {
    let mut bound = BTreeMap::new();
    let fits = overload.parameters.len() == types.len()
        && overload.parameters.iter().zip(types).all(|(parameter, ty)| bind(parameter, ty, &mut bound));
    fits.then(|| substituted(&overload.result, &bound))
}

fn bind(parameter: &Type, given: &Type, bound: &mut BTreeMap<char, Type>) -> bool {
    match (parameter, given) {
        (Type::Param(letter), _) => match bound.get(letter) {
            Some(known) if known.accepts(given) || given.accepts(known) => {
                let joined = known.join(given);
                bound.insert(*letter, joined);
                true
            }
            Some(_) => false,
            None => {
                bound.insert(*letter, given.clone());
                true
            }
        },
        (_, Type::Dyn) => true,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => bind(a, b, bound),
        (Type::Map(k, v), Type::Map(l, w)) => bind(k, l, bound) && bind(v, w, bound),
        _ => parameter.accepts(given),
    }
}

fn substituted(of: &Type, bound: &BTreeMap<char, Type>) -> Type {
    match of {
        Type::Param(letter) => bound.get(letter).cloned().unwrap_or(Type::Dyn),
        Type::List(item) => Type::list(substituted(item, bound)),
        Type::Optional(inner) => Type::optional(substituted(inner, bound)),
        Type::Map(key, value) => Type::map(substituted(key, bound), substituted(value, bound)),
        other => other.clone(),
    }
}
