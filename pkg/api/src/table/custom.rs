//! Custom resources: the columns that a definition adds.
use super::text::{human_duration, name, seconds};
use super::{Column, Printer};
use crate::jsonpath::JsonPath;
use serde_json::Value;

/// Prints a custom resource by `additionalPrinterColumns`.
pub struct CustomPrinter {
    columns: Vec<Column>,
    /// One a column after the name; none where the path can't be read.
    paths: Vec<Option<JsonPath>>,
}

impl CustomPrinter {
    /// From the definition's `additionalPrinterColumns` of one version; without any, Age is shown.
    pub fn new(additional: &[Value]) -> Self {
        let mut columns = vec![super::DEFAULT[0].clone()];
        let mut paths = Vec::new();
        let age = serde_json::json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"});
        let additional = if additional.is_empty() { std::slice::from_ref(&age) } else { additional };
        for column in additional {
            columns.push(definition(column));
            paths.push(JsonPath::parse(column["jsonPath"].as_str().unwrap_or_default()).ok());
        }
        Self { columns, paths }
    }
}

fn definition(column: &Value) -> Column {
    let text = |key: &str| column[key].as_str().unwrap_or_default().to_owned();
    let described = column["description"].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let described = described
        .unwrap_or_else(|| format!("Custom resource definition column (in JSONPath format): {}", text("jsonPath")));
    Column {
        name: text("name"),
        ty: text("type"),
        format: text("format"),
        description: described,
        priority: column["priority"].as_i64().unwrap_or_default() as i32,
    }
}

impl Printer for CustomPrinter {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let own = self.columns[1..].iter().zip(&self.paths).map(|(column, path)| {
            let found = path.as_ref().and_then(|path| path.find(object).into_iter().next());
            found.map_or(Value::Null, |value| cell(&column.ty, value, now))
        });
        std::iter::once(name(object)).chain(own).collect()
    }
}

fn cell(ty: &str, value: &Value, now: i64) -> Value {
    match (ty, value) {
        (_, Value::Null) => Value::Null,
        ("integer", Value::Number(n)) => n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)).into(),
        ("number", Value::Number(n)) => n.as_f64().into(),
        ("boolean", Value::Bool(b)) => (*b).into(),
        ("string", Value::String(text)) => text.as_str().into(),
        ("string", other) => other.to_string().into(),
        ("date", time @ Value::String(_)) => {
            seconds(time).map_or_else(|| "<invalid>".into(), |then| human_duration(now - then)).into()
        }
        _ => Value::Null,
    }
}
