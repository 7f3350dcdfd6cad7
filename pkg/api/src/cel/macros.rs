//! Macros back from what the parser made of them: a fold that is known for what it is can be checked and
//! evaluated without copying its result at every step.
use super::compile::FoldKind;
use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, operators};

/// A macro over a list or a map, unchecked.
pub struct Fold<'e> {
    pub range: &'e IdedExpr,
    pub first: &'e str,
    pub second: Option<&'e str>,
    pub filter: Option<&'e IdedExpr>,
    pub kind: FoldKind,
    pub body: &'e IdedExpr,
}

/// The macro that the parser expanded to this comprehension.
pub fn expanded(of: &ComprehensionExpr) -> Option<Fold<'_>> {
    let (filter, kind, body) = step(of)?;
    let second = of.iter_var2.as_deref();
    Some(Fold { range: &of.iter_range, first: &of.iter_var, second, filter, kind, body })
}

fn step(of: &ComprehensionExpr) -> Option<(Option<&IdedExpr>, FoldKind, &IdedExpr)> {
    let Expr::Call(step) = &of.loop_step.expr else { return None };
    match (step.func_name.as_str(), &step.args[..]) {
        (operators::LOGICAL_AND, [_, body]) => Some((None, FoldKind::All, body)),
        (operators::LOGICAL_OR, [_, body]) => Some((None, FoldKind::Exists, body)),
        (operators::ADD, [_, added]) => Some((None, FoldKind::Collect, only_item(added)?)),
        (operators::CONDITIONAL, [condition, then, _]) => {
            let Expr::Call(then) = &then.expr else { return None };
            let added = then.args.get(1)?;
            match &of.accu_init.expr {
                Expr::List(_) => Some((Some(condition), FoldKind::Collect, only_item(added)?)),
                _ => Some((None, FoldKind::ExistsOne, condition)),
            }
        }
        _ => None,
    }
}

fn only_item(list: &IdedExpr) -> Option<&IdedExpr> {
    if let Expr::List(list) = &list.expr { list.elements.first() } else { None }
}

/// The macros of two variables, which the parser leaves as calls
/// (`cel-go/ext/comprehensions.go`).
pub fn of_two_variables(call: &CallExpr) -> Option<Fold<'_>> {
    let range = call.target.as_deref()?;
    let (kind, most) = match call.func_name.as_str() {
        "all" => (FoldKind::All, 3),
        "exists" => (FoldKind::Exists, 3),
        "existsOne" | "exists_one" => (FoldKind::ExistsOne, 3),
        "transformList" => (FoldKind::Collect, 4),
        "transformMap" => (FoldKind::Values, 4),
        "transformMapEntry" => (FoldKind::Entries, 4),
        _ => return None,
    };
    let (first, second) = (name(call.args.first()?)?, name(call.args.get(1)?)?);
    let (filter, body) = match &call.args[2..] {
        [body] => (None, body),
        [filter, body] if most == 4 => (Some(filter), body),
        _ => return None,
    };
    Some(Fold { range, first, second: Some(second), filter, kind, body })
}

/// `target.optMap(name, body)`: its name, its body, and whether the body yields an optional itself.
pub fn of_optional(call: &CallExpr) -> Option<(&IdedExpr, &str, &IdedExpr, bool)> {
    let flat = match call.func_name.as_str() {
        "optMap" => false,
        "optFlatMap" => true,
        _ => return None,
    };
    let [variable, body] = &call.args[..] else { return None };
    Some((call.target.as_deref()?, name(variable)?, body, flat))
}

pub fn name(of: &IdedExpr) -> Option<&str> {
    if let Expr::Ident(name) = &of.expr { Some(name) } else { None }
}

/// `a.b.c` as a name.
pub fn qualified(of: &IdedExpr) -> Option<String> {
    match &of.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => Some(format!("{}.{}", qualified(&select.operand)?, select.field)),
        _ => None,
    }
}
