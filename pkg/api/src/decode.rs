//! From bytes to a checked tree: one pass over the schema reports wrong types, unknown and duplicate fields with
//! their paths, prunes what is unknown, drops nulls and brings scalars to their canonical form.
//!
//! The texts are those of `sigs.k8s.io/json` and Go's `encoding/json`, which clients and their users know.
use crate::schema::{Schemas, StringFormat, Struct, Type};
use crate::{go_json, quantity};
use base64::Engine;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;

/// The `fieldValidation` parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// With [`FieldValidation::Warn`]: a text for a `Warning` header each.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The bytes are no JSON, or a value has the wrong type. Answered as 400 with this text.
    #[error("{0}")]
    Malformed(String),
    /// Unknown or duplicate fields under [`FieldValidation::Strict`]. Answered as 400
    /// `strict decoding error: …`.
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
}

/// Reads a JSON body as `ty`.
pub fn decode(body: &[u8], ty: &Type, schemas: &Schemas, mode: FieldValidation) -> Result<Decoded, Error> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let syntax = |error: Error| go_json::syntax_error(body).map_or(error, Error::Malformed);
    let decoded = run(&mut reader, ty, schemas, mode).map_err(syntax)?;
    reader.end().map_err(|error| syntax(Error::Malformed(error.to_string())))?;
    Ok(decoded)
}

/// The same checks on a tree that was built here (the result of a patch). Duplicates can't occur.
pub fn check(value: Value, ty: &Type, schemas: &Schemas, mode: FieldValidation) -> Result<Decoded, Error> {
    run(value, ty, schemas, mode)
}

/// YAML as JSON, for bodies and patches in YAML. One document; duplicate keys are errors.
pub fn yaml_to_json(body: &[u8]) -> Result<Value, Error> {
    let text = std::str::from_utf8(body).map_err(|error| Error::Malformed(error.to_string()))?;
    serde_saphyr::from_str(text).map_err(|error| Error::Malformed(format!("error converting YAML to JSON: {error}")))
}

fn run<'de, D>(reader: D, ty: &Type, schemas: &Schemas, mode: FieldValidation) -> Result<Decoded, Error>
where
    D: Deserializer<'de, Error = serde_json::Error>,
{
    let mut pass = Pass {
        schemas,
        root: ty,
        path: String::new(),
        keys: Vec::new(),
        owner: "",
        complaints: Vec::new(),
        wrong: None,
    };
    let seed = Seed { pass: &mut pass, ty };
    let value = match seed.deserialize(reader) {
        Ok(value) => value.unwrap_or(Value::Null),
        Err(error) => return Err(Error::Malformed(pass.wrong.take().unwrap_or_else(|| error.to_string()))),
    };
    match mode {
        FieldValidation::Strict if !pass.complaints.is_empty() => Err(Error::Strict(pass.complaints)),
        FieldValidation::Warn => Ok(Decoded { value, warnings: pass.complaints }),
        _ => Ok(Decoded { value, warnings: Vec::new() }),
    }
}

/// What is known while walking down.
struct Pass<'a> {
    schemas: &'a Schemas,
    root: &'a Type,
    /// `spec.containers[0].name`, as far as the walk has got.
    path: String,
    /// Where the keys of maps are in the path.
    keys: Vec<(usize, usize)>,
    /// The innermost named type, for Go's texts; empty in a root that was given as what its name stands for.
    owner: &'a str,
    complaints: Vec<String>,
    /// Our own text of the error that stopped the walk; serde would add a position to it.
    wrong: Option<String>,
}

impl Pass<'_> {
    fn wrong<E: serde::de::Error>(&mut self, text: String) -> E {
        self.wrong = Some(text);
        E::custom("")
    }

    /// Go's text of a value that does not fit.
    fn mismatch<E: serde::de::Error>(&mut self, found: &str, ty: &Type) -> E {
        let owner =
            if self.owner.is_empty() { self.schemas.name_of(self.root).unwrap_or_default() } else { self.owner };
        let kind = owner.rsplit('.').next().unwrap_or_default();
        let text = match self.path.is_empty() {
            true => format!("json: cannot unmarshal {found} into Go value of type {}", go_type(ty, kind)),
            false => {
                let path = self.go_path();
                format!(
                    "json: cannot unmarshal {found} into Go struct field {kind}.{path} of type {}",
                    go_type(ty, kind)
                )
            }
        };
        self.wrong(text)
    }

    /// The path as Go knows it: without indexes and the keys of maps.
    fn go_path(&self) -> String {
        let mut out = String::with_capacity(self.path.len());
        let mut at = 0;
        let end = self.path.len();
        for (from, to) in self.keys.iter().copied().chain([(end, end)]) {
            let mut inside = false;
            for c in self.path[at..from].chars() {
                inside = c == '[' || (inside && c != ']');
                if !inside && c != ']' {
                    out.push(c);
                }
            }
            at = to;
        }
        out
    }

    fn enter(&mut self, field: &str) -> usize {
        let before = self.path.len();
        if before > 0 {
            self.path.push('.');
        }
        self.path.push_str(field);
        before
    }
}

/// `io.k8s.api.core.v1.PodSpec` is `v1.PodSpec` in Go.
fn go_name(name: &str) -> String {
    let mut parts = name.rsplitn(3, '.');
    match (parts.next(), parts.next()) {
        (Some(kind), Some(package)) => format!("{package}.{kind}"),
        _ => name.to_owned(),
    }
}

fn go_type(ty: &Type, owner: &str) -> String {
    match ty {
        Type::String(_) | Type::Quantity | Type::IntOrString => "string".into(),
        Type::Integer { bits } => format!("int{bits}"),
        Type::Number => "float64".into(),
        Type::Boolean => "bool".into(),
        Type::Map(item) | Type::AtomicMap(item) => format!("map[string]{}", go_type(item, owner)),
        Type::List(list) => format!("[]{}", go_type(&list.item, owner)),
        Type::Ref(name) => go_name(name),
        Type::Struct(_) | Type::Any => owner.into(),
    }
}

/// Reads one value; none: it was null, which means absent.
struct Seed<'p, 'a> {
    pass: &'p mut Pass<'a>,
    ty: &'a Type,
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        let Seed { pass, ty } = self;
        let resolved = pass.schemas.resolve(ty);
        match resolved {
            Type::Any => <Value as serde::Deserialize>::deserialize(reader).map(Some),
            _ => reader.deserialize_any(Typed { pass, ty: resolved, named: ty }),
        }
    }
}

struct Typed<'p, 'a> {
    pass: &'p mut Pass<'a>,
    ty: &'a Type,
    /// The same, before its name was followed.
    named: &'a Type,
}

impl<'de> Visitor<'de> for Typed<'_, '_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
        match self.ty {
            Type::Boolean => Ok(Some(value.into())),
            _ => Err(self.pass.mismatch("bool", self.named)),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        match self.ty {
            Type::Integer { bits: 32 } if i32::try_from(value).is_err() => {
                Err(self.pass.mismatch(&format!("number {value}"), self.ty))
            }
            Type::IntOrString if i32::try_from(value).is_err() => {
                Err(self.pass.mismatch(&format!("number {value}"), &Type::Integer { bits: 32 }))
            }
            Type::Integer { .. } | Type::IntOrString | Type::Number => Ok(Some(value.into())),
            Type::Quantity => canonical_quantity(self.pass, &value.to_string()),
            _ => Err(self.pass.mismatch("number", self.named)),
        }
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => Err(self.pass.mismatch(&format!("number {value}"), self.ty)),
        }
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
        match self.ty {
            Type::Number => Ok(Some(value.into())),
            Type::Quantity => canonical_quantity(self.pass, &value.to_string()),
            Type::Integer { .. } | Type::IntOrString => Err(self.pass.mismatch(&format!("number {value}"), self.ty)),
            _ => Err(self.pass.mismatch("number", self.named)),
        }
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Self::Value, E> {
        match self.ty {
            Type::String(format) => string(self.pass, value, *format).map(Some),
            Type::IntOrString => Ok(Some(value.into())),
            Type::Quantity => canonical_quantity(self.pass, value),
            _ => Err(self.pass.mismatch("string", self.named)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let Type::List(list) = self.ty else { return Err(self.pass.mismatch("array", self.named)) };
        let mut out = Vec::new();
        let before = self.pass.path.len();
        loop {
            fmt::Write::write_fmt(&mut self.pass.path, format_args!("[{}]", out.len())).map_err(A::Error::custom)?;
            let item = items.next_element_seed(Seed { pass: self.pass, ty: &list.item })?;
            self.pass.path.truncate(before);
            match item {
                Some(item) => out.push(item.unwrap_or_else(|| zero(self.pass.schemas.resolve(&list.item)))),
                None => return Ok(Some(Value::Array(out))),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        match self.ty {
            Type::Struct(structure) => {
                let owner = self.pass.owner;
                if let Type::Ref(name) = self.named {
                    self.pass.owner = name;
                }
                let read = fields(self.pass, structure, map);
                self.pass.owner = owner;
                read
            }
            Type::Map(item) | Type::AtomicMap(item) => entries(self.pass, item, map),
            _ => Err(self.pass.mismatch("object", self.named)),
        }
    }
}

/// What Go makes of a null among values: the type's zero value.
fn zero(ty: &Type) -> Value {
    match ty {
        Type::String(_) => "".into(),
        Type::Integer { .. } | Type::Number | Type::IntOrString => 0.into(),
        Type::Boolean => false.into(),
        Type::Quantity => "0".into(),
        Type::Struct(_) => Map::new().into(),
        Type::Map(_) | Type::AtomicMap(_) | Type::List(_) | Type::Any | Type::Ref(_) => Value::Null,
    }
}

fn fields<'de, 'a, A: MapAccess<'de>>(
    pass: &mut Pass<'a>,
    structure: &'a Struct,
    mut map: A,
) -> Result<Option<Value>, A::Error> {
    let mut out = Map::new();
    let mut seen_null: Vec<String> = Vec::new();
    while let Some(key) = map.next_key::<Cow<'de, str>>()? {
        let before = pass.enter(&key);
        let field = structure.fields.get(&*key);
        if field.is_none() && !structure.preserve_unknown {
            map.next_value::<serde::de::IgnoredAny>()?;
            pass.complaints.push(format!("unknown field \"{}\"", pass.path));
            pass.path.truncate(before);
            continue;
        }
        if out.contains_key(&*key) || seen_null.iter().any(|null| *null == key) {
            pass.complaints.push(format!("duplicate field \"{}\"", pass.path));
        }
        let ty = field.map_or(&Type::Any, |field| &field.ty);
        let value = map.next_value_seed(Seed { pass, ty })?;
        match value {
            Some(Value::Null)
                if field
                    .is_some_and(|field| !field.nullable && matches!(pass.schemas.resolve(&field.ty), Type::Any)) =>
            {
                seen_null.push(key.into_owned());
            }
            Some(value) => drop(out.insert(key.into_owned(), value)),
            None if field.is_some_and(|field| field.nullable) => drop(out.insert(key.into_owned(), Value::Null)),
            None => seen_null.push(key.into_owned()),
        }
        pass.path.truncate(before);
    }
    Ok(Some(Value::Object(out)))
}

fn entries<'de, 'a, A: MapAccess<'de>>(
    pass: &mut Pass<'a>,
    item: &'a Type,
    mut map: A,
) -> Result<Option<Value>, A::Error> {
    let mut out = Map::new();
    while let Some(key) = map.next_key::<Cow<'de, str>>()? {
        let before = pass.enter(&key);
        pass.keys.push((before, pass.path.len()));
        if out.contains_key(&*key) {
            pass.complaints.push(format!("duplicate field \"{}\"", pass.path));
        }
        let value = map.next_value_seed(Seed { pass, ty: item })?;
        out.insert(key.into_owned(), value.unwrap_or_else(|| zero(pass.schemas.resolve(item))));
        pass.path.truncate(before);
        pass.keys.pop();
    }
    Ok(Some(Value::Object(out)))
}

fn canonical_quantity<E: serde::de::Error>(pass: &mut Pass<'_>, text: &str) -> Result<Option<Value>, E> {
    match quantity::canonical(text) {
        Ok(canonical) => Ok(Some(canonical.into_owned().into())),
        Err(error) => Err(pass.wrong(error.to_string())),
    }
}

fn string<E: serde::de::Error>(pass: &mut Pass<'_>, text: &str, format: StringFormat) -> Result<Value, E> {
    match format {
        StringFormat::Plain | StringFormat::Duration => Ok(text.into()),
        StringFormat::Bytes => match base64::engine::general_purpose::STANDARD.decode(text) {
            Ok(_) => Ok(text.into()),
            Err(base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _)) => {
                Err(pass.wrong(format!("illegal base64 data at input byte {at}")))
            }
            Err(_) => Err(pass.wrong(format!("illegal base64 data at input byte {}", text.len()))),
        },
        StringFormat::DateTime => time(pass, text, 0),
        StringFormat::MicroTime => time(pass, text, 6),
    }
}

/// RFC 3339 in UTC with this many digits of a second.
fn time<E: serde::de::Error>(pass: &mut Pass<'_>, text: &str, digits: u8) -> Result<Value, E> {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) if digits == 0 => Ok(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()),
        Ok(time) => Ok(time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string().into()),
        Err(_) => Err(pass.wrong(format!(
            "parsing time \"{text}\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"{text}\" as \"2006\""
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GroupVersionKind;
    use serde_json::json;

    fn read(kind: &str, body: &str, mode: FieldValidation) -> Result<Decoded, Error> {
        let schemas = Schemas::builtin();
        let name = schemas.for_kind(&GroupVersionKind::new("", "v1", kind)).unwrap().name.clone();
        decode(body.as_bytes(), &Type::Ref(name), schemas, mode)
    }

    #[test]
    fn unknown_and_duplicate_fields_are_named_and_pruned() {
        let body = r#"{"spec":{"containers":[{"name":"a","imagee":"x"},{"name":"b","name":"c"}]},"extra":1}"#;
        let complaints = vec![
            "unknown field \"spec.containers[0].imagee\"".to_owned(),
            "duplicate field \"spec.containers[1].name\"".to_owned(),
            "unknown field \"extra\"".to_owned(),
        ];
        let decoded = read("Pod", body, FieldValidation::Warn).unwrap();
        assert_eq!(decoded.value, json!({"spec": {"containers": [{"name": "a"}, {"name": "c"}]}}));
        assert_eq!(decoded.warnings, complaints);
        assert_eq!(read("Pod", body, FieldValidation::Strict), Err(Error::Strict(complaints)));
        assert!(read("Pod", body, FieldValidation::Ignore).unwrap().warnings.is_empty());
    }

    #[test]
    fn wrong_types_are_told_as_go_does() {
        let text = |body| read("ConfigMap", body, FieldValidation::Warn).unwrap_err().to_string();
        assert_eq!(
            text(r#"{"data":{"a":1}}"#),
            "json: cannot unmarshal number into Go struct field ConfigMap.data of type string"
        );
        assert_eq!(
            text(r#"{"metadata":{"labels":[]}}"#),
            "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type map[string]string"
        );
        assert_eq!(text("{"), "unexpected end of JSON input");
        assert_eq!(text("{} {}"), "invalid character '{' after top-level value");
        let pod = read("Pod", r#"{"spec":1}"#, FieldValidation::Warn).unwrap_err().to_string();
        assert_eq!(pod, "json: cannot unmarshal number into Go struct field Pod.spec of type v1.PodSpec");
        assert!(text(r#"{"binaryData":{"a":"!"}}"#).contains("illegal base64 data at input byte 0"));
    }

    #[test]
    fn nulls_vanish_and_scalars_become_canonical() {
        let body = r#"{"metadata":{"creationTimestamp":null,"deletionTimestamp":"2026-01-02T03:04:05.6+01:00"},
            "spec":{"containers":[{"resources":{"limits":{"cpu":1,"memory":"1024Ki"}}}],"nodeSelector":{"a":null}}}"#;
        let value = read("Pod", body, FieldValidation::Strict).unwrap().value;
        let wanted = json!({"metadata": {"deletionTimestamp": "2026-01-02T02:04:05Z"},
            "spec": {"containers": [{"resources": {"limits": {"cpu": "1", "memory": "1Mi"}}}], "nodeSelector": {"a": ""}}});
        assert_eq!(value, wanted);
    }

    #[test]
    fn a_tree_is_checked_like_bytes() {
        let schemas = Schemas::builtin();
        let ty = Type::Ref("io.k8s.api.core.v1.ConfigMap".into());
        let tree = json!({"data": {"a": "b"}, "nope": 1});
        let checked = check(tree, &ty, schemas, FieldValidation::Warn).unwrap();
        assert_eq!(checked.value, json!({"data": {"a": "b"}}));
        assert_eq!(checked.warnings, ["unknown field \"nope\""]);
    }

    #[test]
    fn numbers_keep_to_their_size() {
        assert!(read("Service", r#"{"spec":{"ports":[{"port":2147483648}]}}"#, FieldValidation::Warn).is_err());
        assert!(read("Service", r#"{"spec":{"ports":[{"port":1.5}]}}"#, FieldValidation::Warn).is_err());
        assert!(read("Service", r#"{"spec":{"ports":[{"targetPort":"http"}]}}"#, FieldValidation::Warn).is_ok());
    }

    #[test]
    fn yaml_is_json_too() {
        assert_eq!(yaml_to_json(b"a: {b: [1, x]}").unwrap(), json!({"a": {"b": [1, "x"]}}));
        assert!(yaml_to_json(b"a: 1\na: 2").is_err());
    }
}
