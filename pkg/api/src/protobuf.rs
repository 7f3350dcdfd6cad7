//! Kubernetes' protobuf encoding, read into the same JSON that the rest works on: `kubectl create` and client-go's
//! typed clients send it. Answers are JSON, which all of them take.
//!
//! The envelope is four bytes `k8s\0` and a `runtime.Unknown`
//! (`k8s.io/apimachinery/pkg/runtime/serializer/protobuf`); the layout of types is a generated table
//! (`schemas/protobuf.py` tells its format).
use crate::GroupVersionKind;
use crate::schema::Schemas;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::LazyLock;

/// What a body in this encoding begins with.
pub const MAGIC: &[u8] = b"k8s\0";
/// The media type of such a body.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// Deeper messages than any real object has are refused.
const DEPTH: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    #[error("the protobuf message ends too early or is damaged")]
    Damaged,
    #[error("the protobuf message nests deeper than {DEPTH} levels")]
    TooDeep,
    #[error("no kind \"{kind}\" is registered for version \"{version}\"")]
    UnknownKind { kind: String, version: String },
    #[error("the protobuf message holds {what}, which is no JSON")]
    NoJson { what: &'static str },
}

type Result<T> = std::result::Result<T, Error>;

/// Field number to its place in JSON.
type Message = HashMap<u32, Field>;

struct Field {
    name: Box<str>,
    shape: Shape,
    kind: Kind,
    inline: bool,
    drop_zero: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    One,
    Many,
    Map,
}

enum Kind {
    Text,
    Bytes,
    Int,
    Bool,
    Double,
    Message(Box<str>),
}

static TABLE: LazyLock<HashMap<Box<str>, Message>> = LazyLock::new(|| {
    type Rows<'a> = HashMap<Box<str>, HashMap<&'a str, (Box<str>, &'a str, &'a str)>>;
    let rows: Rows<'_> =
        serde_json::from_str(include_str!("../schemas/protobuf.json")).expect("the generated file is JSON");
    let field = |(name, ty, flags): (Box<str>, &str, &str)| Field {
        name,
        shape: if ty.starts_with("[]") {
            Shape::Many
        } else if ty.starts_with("{}") {
            Shape::Map
        } else {
            Shape::One
        },
        kind: kind(ty.trim_start_matches(['[', ']', '{', '}'])),
        inline: flags.contains('n'),
        drop_zero: flags.contains('z'),
    };
    let number = |text: &str| text.parse().expect("the generated file's numbers are numbers");
    let message = |fields: HashMap<&str, _>| fields.into_iter().map(|(n, row)| (number(n), field(row))).collect();
    rows.into_iter().map(|(name, fields)| (name, message(fields))).collect()
});

fn kind(text: &str) -> Kind {
    match text {
        "s" => Kind::Text,
        "b" => Kind::Bytes,
        "i" => Kind::Int,
        "t" => Kind::Bool,
        "d" => Kind::Double,
        name => Kind::Message(name.trim_start_matches('@').into()),
    }
}

/// An object in this encoding as JSON, with its apiVersion and kind.
///
/// # Errors
/// Not this encoding, damaged, or of a kind that is not built in.
pub fn to_json(body: &[u8]) -> Result<Value> {
    let mut unknown = Reader(body.strip_prefix(MAGIC).ok_or(Error::NoMagic)?);
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    while let Some((number, wire)) = unknown.next()? {
        match (number, wire) {
            (1, Wire::Bytes(meta)) => {
                let mut meta = Reader(meta);
                while let Some((number, wire)) = meta.next()? {
                    match number {
                        1 => api_version = text(wire)?,
                        2 => kind = text(wire)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(object)) => raw = object,
            _ => {}
        }
    }
    let mut object = Map::new();
    message(&message_name(&api_version, &kind)?, raw, &mut object, DEPTH)?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

/// The message of a kind. Options are registered in every group version, also in those of custom resources.
fn message_name(api_version: &str, kind: &str) -> Result<std::sync::Arc<str>> {
    if kind == "DeleteOptions" {
        return Ok("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions".into());
    }
    let version = crate::GroupVersion::parse(api_version);
    let gvk = GroupVersionKind::new(version.group, version.version, kind);
    let schema = Schemas::builtin().for_kind(&gvk);
    let unknown = || Error::UnknownKind { kind: kind.to_owned(), version: api_version.to_owned() };
    schema.map(|schema| schema.name.clone()).ok_or_else(unknown)
}

/// The fields of a message, put into `out`.
fn message(name: &str, bytes: &[u8], out: &mut Map<String, Value>, depth: usize) -> Result<()> {
    let depth = depth.checked_sub(1).ok_or(Error::TooDeep)?;
    let layout = TABLE.get(name).ok_or(Error::Damaged)?;
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        // A field of a newer version: older servers never see it in JSON either.
        let Some(field) = layout.get(&number) else { continue };
        if let (true, Kind::Message(inner), Wire::Bytes(bytes)) = (field.inline, &field.kind, &wire) {
            message(inner, bytes, out, depth)?;
            continue;
        }
        match field.shape {
            Shape::One => {
                let value = value(&field.kind, wire, depth)?;
                if !(value.is_null() || field.drop_zero && is_zero(&value)) {
                    out.insert(field.name.to_string(), value);
                }
            }
            Shape::Many => {
                let list = out.entry(&*field.name).or_insert_with(|| Value::Array(Vec::new()));
                let value = value(&field.kind, wire, depth)?;
                list.as_array_mut().ok_or(Error::Damaged)?.push(value);
            }
            Shape::Map => {
                let map = out.entry(&*field.name).or_insert_with(|| Value::Object(Map::new()));
                let (key, value) = entry(&field.kind, wire, depth)?;
                map.as_object_mut().ok_or(Error::Damaged)?.insert(key, value);
            }
        }
    }
    Ok(())
}

fn entry(kind: &Kind, wire: Wire<'_>, depth: usize) -> Result<(String, Value)> {
    let Wire::Bytes(bytes) = wire else { return Err(Error::Damaged) };
    let (mut key, mut found) = (String::new(), None);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => key = text(wire)?,
            2 => found = Some(value(kind, wire, depth)?),
            _ => {}
        }
    }
    Ok((key, found.map_or_else(|| value(kind, Wire::Bytes(&[]), depth), Ok)?))
}

fn value(kind: &Kind, wire: Wire<'_>, depth: usize) -> Result<Value> {
    match (kind, wire) {
        (Kind::Text, wire) => text(wire).map(Value::from),
        (Kind::Bytes, Wire::Bytes(bytes)) => Ok(STANDARD.encode(bytes).into()),
        (Kind::Int, Wire::Varint(n)) => Ok((n as i64).into()),
        (Kind::Bool, Wire::Varint(n)) => Ok((n != 0).into()),
        (Kind::Double, Wire::Fixed64(n)) => Ok(f64::from_bits(n).into()),
        (Kind::Message(name), Wire::Bytes(bytes)) => special(name, bytes, depth),
        _ => Err(Error::Damaged),
    }
}

/// Types whose JSON is not that of a message.
fn special(name: &str, bytes: &[u8], depth: usize) -> Result<Value> {
    let short = name.strip_prefix("io.k8s.").unwrap_or(name);
    let plain = || {
        let mut out = Map::new();
        message(name, bytes, &mut out, depth)?;
        Ok(out)
    };
    let take = |field: &str| Ok(plain()?.remove(field).unwrap_or_default());
    match short {
        "apimachinery.pkg.api.resource.Quantity" => match take("string")? {
            Value::String(text) if !text.is_empty() => Ok(text.into()),
            _ => Ok("0".into()),
        },
        "apimachinery.pkg.apis.meta.v1.Time" => time(&plain()?, false),
        "apimachinery.pkg.apis.meta.v1.MicroTime" => time(&plain()?, true),
        "apimachinery.pkg.apis.meta.v1.Duration" => {
            let ns = take("duration")?.as_i64().unwrap_or_default();
            Ok(format!("{}s", ns as f64 / 1e9).into())
        }
        "apimachinery.pkg.util.intstr.IntOrString" => {
            let mut fields = plain()?;
            let is_text = fields.get("type").is_some_and(|kind| *kind == 1);
            let (field, zero): (_, Value) = if is_text { ("strVal", "".into()) } else { ("intVal", 0.into()) };
            Ok(fields.remove(field).unwrap_or(zero))
        }
        "apimachinery.pkg.runtime.RawExtension"
        | "apimachinery.pkg.apis.meta.v1.FieldsV1"
        | "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON" => raw(bytes),
        _ if short.ends_with(".JSONSchemaPropsOrBool") => {
            let mut fields = plain()?;
            Ok(fields.remove("schema").or_else(|| fields.remove("allows")).unwrap_or(false.into()))
        }
        _ if short.ends_with(".JSONSchemaPropsOrArray") => {
            let mut fields = plain()?;
            Ok(fields.remove("schema").or_else(|| fields.remove("jSONSchemas")).unwrap_or_default())
        }
        _ if short.ends_with(".JSONSchemaPropsOrStringArray") => {
            let mut fields = plain()?;
            Ok(fields.remove("schema").or_else(|| fields.remove("property")).unwrap_or_default())
        }
        _ if short.ends_with(".ExtraValue") || short.ends_with(".meta.v1.Verbs") => {
            take("items").map(|items| if items.is_null() { Value::Array(Vec::new()) } else { items })
        }
        _ => plain().map(Value::Object),
    }
}

/// A message whose first field is JSON text.
fn raw(bytes: &[u8]) -> Result<Value> {
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        if let (1, Wire::Bytes(json)) = (number, wire) {
            return serde_json::from_slice(json).map_err(|_| Error::NoJson { what: "an embedded object" });
        }
    }
    Ok(Value::Null)
}

/// Null for Go's zero time.
fn time(fields: &Map<String, Value>, micro: bool) -> Result<Value> {
    let number = |name: &str| fields.get(name).and_then(Value::as_i64);
    let Some(seconds) = number("seconds") else { return Ok(Value::Null) };
    let nanos = i32::try_from(number("nanos").unwrap_or_default()).map_err(|_| Error::Damaged)?;
    let time = jiff::Timestamp::new(seconds, nanos).map_err(|_| Error::Damaged)?;
    let format = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(time.strftime(format).to_string().into())
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn text(wire: Wire<'_>) -> Result<String> {
    let Wire::Bytes(bytes) = wire else { return Err(Error::Damaged) };
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Error::NoJson { what: "text that is not UTF-8" })
}

/// One field as it lies on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| Error::Damaged)?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| Error::Damaged)?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Error::Damaged)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Wire::Fixed32)?,
            _ => return Err(Error::Damaged),
        };
        Ok(Some((number, wire)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Error::Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A length-delimited field.
    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend(content);
        out
    }

    fn object(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes(1, &meta), bytes(2, raw)].concat()
    }

    #[test]
    fn a_config_map() {
        let metadata = [bytes(1, b"a"), bytes(2, b""), bytes(8, b"")].concat();
        let entry = [bytes(1, b"x"), bytes(2, b"y")].concat();
        let body = object("v1", "ConfigMap", &[bytes(1, &metadata), bytes(2, &entry)].concat());
        let wanted = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "y"}});
        assert_eq!(to_json(&body).unwrap(), wanted);
    }

    #[test]
    fn inlined_sources_and_numbers_or_names() {
        // Volume{name: v, volumeSource: {emptyDir: {}}}, Service port with a named target.
        let volume = [bytes(1, b"v"), bytes(2, &bytes(2, b""))].concat();
        let pod = object("v1", "Pod", &bytes(2, &bytes(1, &volume)));
        assert_eq!(to_json(&pod).unwrap()["spec"]["volumes"], json!([{"name": "v", "emptyDir": {}}]));
        let target = [vec![1 << 3, 1], bytes(3, b"http")].concat();
        let port = [vec![3 << 3, 80], bytes(4, &target), vec![5 << 3, 0]].concat();
        let service = object("v1", "Service", &bytes(2, &bytes(1, &port)));
        assert_eq!(to_json(&service).unwrap()["spec"]["ports"], json!([{"port": 80, "targetPort": "http"}]));
    }

    #[test]
    fn pointers_keep_their_zero() {
        let deployment = object("apps/v1", "Deployment", &bytes(2, &[1 << 3, 0]));
        assert_eq!(to_json(&deployment).unwrap()["spec"], json!({"replicas": 0}));
    }

    #[test]
    fn delete_options_belong_to_every_group_version() {
        for version in ["v1", "apiextensions.k8s.io/v1", "example.com/v1"] {
            let options = object(version, "DeleteOptions", &bytes(4, b"Orphan"));
            assert_eq!(to_json(&options).unwrap()["propagationPolicy"], json!("Orphan"), "{version}");
        }
    }

    #[test]
    fn what_is_damaged_or_unknown_is_refused() {
        assert_eq!(to_json(b"{}"), Err(Error::NoMagic));
        assert!(matches!(to_json(&object("v9", "Nope", b"")), Err(Error::UnknownKind { .. })));
        let whole = object("v1", "ConfigMap", &bytes(1, &bytes(1, b"name")));
        for cut in 5..whole.len() {
            // Any prefix either ends between fields or is refused; none panics.
            let _ = to_json(&whole[..cut]);
        }
        assert_eq!(to_json(&whole[..whole.len() - 1]), Err(Error::Damaged));
    }
}
