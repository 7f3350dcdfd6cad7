//! Paths like `.spec.a['b']` into a schema (`ValidFieldPath` of `pkg/apiserver/schema/cel`).
use serde_json::Value;

/// Where a path leads.
#[derive(Debug, PartialEq)]
pub struct Found<'s> {
    pub schema: &'s Value,
    /// The steps, written the one way that is the same for all spellings.
    pub path: String,
}

/// Follows `path` from `schema`; `brackets`: whether `['name']` may be used.
///
/// # Errors
/// Why it leads nowhere, in upstream's words.
pub fn find<'s>(schema: &'s Value, path: &str, brackets: bool) -> Result<Found<'s>, String> {
    let mut found = Found { schema, path: String::new() };
    let mut rest = path;
    while !rest.is_empty() {
        let (first, after) = token(rest);
        let (name, after) = match first {
            "[" if !brackets => return Err("array notation is not allowed".into()),
            "[" => quoted(after)?,
            "." if after.is_empty() => return Err("unexpected end of JSON path".into()),
            "." => {
                let (name, after) = token(after);
                (name.to_owned(), after)
            }
            other => return Err(format!("expected [ or . but got: {other}")),
        };
        step(&mut found, &name)?;
        rest = after;
    }
    Ok(found)
}

/// The delimiter or name at the beginning, and the rest.
fn token(text: &str) -> (&str, &str) {
    const DELIMITERS: [char; 3] = ['.', '[', ']'];
    match text.find(DELIMITERS) {
        Some(0) => text.split_at(1),
        Some(end) => text.split_at(end),
        None => (text, ""),
    }
}

/// `'a\'b']`, and what follows it.
fn quoted(rest: &str) -> Result<(String, &str), String> {
    let inner = rest.strip_prefix('\'').ok_or("expected single quoted string")?;
    let (mut name, mut chars) = (String::new(), inner.char_indices());
    loop {
        match chars.next() {
            None => return Err("unexpected end of JSON path".into()),
            Some((_, '\\')) => name.extend(chars.next().map(|(_, c)| c)),
            Some((at, '\'')) => {
                let after = inner[at + 1..].strip_prefix(']').ok_or("expected ]")?;
                return Ok((name, after));
            }
            Some((_, c)) => name.push(c),
        }
    }
}

fn step(found: &mut Found<'_>, name: &str) -> Result<(), String> {
    const NOWHERE: &str = "does not refer to a valid field";
    let schema = found.schema;
    found.schema = if schema["properties"].is_object() {
        schema["properties"].get(name).ok_or(NOWHERE)?
    } else if schema["additionalProperties"].is_object() {
        &schema["additionalProperties"]
    } else {
        return Err(NOWHERE.into());
    };
    found.path.push('.');
    found.path.push_str(name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_to_fields_or_nowhere() {
        let schema = json!({"properties": {
            "spec": {"properties": {"a": {"type": "string"}, "b.c": {"type": "integer"}, "m": {"additionalProperties": {"type": "boolean"}}}},
        }});
        let ty = |path: &str| {
            find(&schema, path, true).map(|found| found.schema["type"].as_str().unwrap_or_default().to_owned())
        };
        assert_eq!(ty(".spec.a"), Ok("string".into()));
        assert_eq!(ty(".spec['b.c']"), Ok("integer".into()));
        assert_eq!(ty(".spec.m['x']"), Ok("boolean".into()));
        assert_eq!(ty(".spec.x"), Err("does not refer to a valid field".into()));
        assert_eq!(ty("spec"), Err("expected [ or . but got: spec".into()));
        assert_eq!(ty(".spec."), Err("unexpected end of JSON path".into()));
        assert_eq!(find(&schema, ".spec['a']", false), Err("array notation is not allowed".into()));
    }
}
