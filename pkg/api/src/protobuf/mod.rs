//! Kubernetes' protobuf encoding, read into the same JSON that the rest works on: `kubectl create` and client-go's
//! typed clients send it, and kube-apiserver stores it unless told otherwise. Answers are JSON, which all of them take.
//!
//! The envelope is four bytes `k8s\0` and a `runtime.Unknown`
//! (`k8s.io/apimachinery/pkg/runtime/serializer/protobuf`); the layout of types is a generated table
//! (`schemas/protobuf.py` tells its format).
mod table;
mod wire;

use crate::GroupVersionKind;
use crate::schema::Schemas;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use table::{Form, Kind, Shape, Table};
use wire::{Reader, Wire, text};

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

/// An object in this encoding as JSON, with its apiVersion and kind.
///
/// # Errors
/// Not this encoding, damaged, or of a kind that is not built in.
pub fn to_json(body: &[u8]) -> Result<Value> {
    let Envelope { api_version, kind, raw } = Envelope::open(body)?;
    let mut object = Map::new();
    object.insert("kind".into(), kind.as_str().into());
    object.insert("apiVersion".into(), api_version.as_str().into());
    message(message_of(&api_version, &kind)?, raw, &mut object, DEPTH)?;
    Ok(Value::Object(object))
}

/// `runtime.Unknown`, as far as it is used.
struct Envelope<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn open(body: &'a [u8]) -> Result<Self> {
        let mut unknown = Reader(body.strip_prefix(MAGIC).ok_or(Error::NoMagic)?);
        let mut envelope = Self { api_version: String::new(), kind: String::new(), raw: &[] };
        while let Some((number, wire)) = unknown.next()? {
            match (number, wire) {
                (1, Wire::Bytes(meta)) => envelope.type_meta(meta)?,
                (2, Wire::Bytes(object)) => envelope.raw = object,
                _ => {}
            }
        }
        Ok(envelope)
    }

    fn type_meta(&mut self, bytes: &[u8]) -> Result<()> {
        let mut meta = Reader(bytes);
        while let Some((number, wire)) = meta.next()? {
            match number {
                1 => self.api_version = text(wire)?,
                2 => self.kind = text(wire)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Kinds of `meta.k8s.io` that are registered in every group version, also in those of custom resources.
const EVERYWHERE: [&str; 8] = [
    "APIGroup",
    "APIVersions",
    "CreateOptions",
    "DeleteOptions",
    "GetOptions",
    "ListOptions",
    "PatchOptions",
    "UpdateOptions",
];

/// The message of a kind.
fn message_of(api_version: &str, kind: &str) -> Result<usize> {
    let table = Table::get();
    let own = || table.kind(api_version, kind);
    let everywhere = || EVERYWHERE.contains(&kind).then(|| table.kind("meta.k8s.io/v1", kind)).flatten();
    // Options of core are in the packages of others' groups.
    let served = || {
        let version = crate::GroupVersion::parse(api_version);
        let gvk = GroupVersionKind::new(version.group, version.version, kind);
        Schemas::builtin().for_kind(&gvk).and_then(|schema| table.named(&schema.name))
    };
    let unknown = || Error::UnknownKind { kind: kind.to_owned(), version: api_version.to_owned() };
    everywhere().or_else(own).or_else(served).ok_or_else(unknown)
}

/// The fields of a message, put into `out`.
fn message(id: usize, bytes: &[u8], out: &mut Map<String, Value>, depth: usize) -> Result<()> {
    let depth = depth.checked_sub(1).ok_or(Error::TooDeep)?;
    let layout = &Table::get().messages[id];
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        // A field of a newer version: older servers never see it in JSON either.
        let Some(field) = layout.field(number) else { continue };
        if let (true, Kind::Message(inner), Wire::Bytes(bytes)) = (field.inline, field.kind, &wire) {
            message(inner, bytes, out, depth)?;
            continue;
        }
        match field.shape {
            Shape::One => {
                let value = value(field.kind, wire, depth)?;
                if !(value.is_null() || field.drop_zero && is_zero(&value)) {
                    out.insert(field.name.to_string(), value);
                }
            }
            Shape::Many => {
                let list = out.entry(&*field.name).or_insert_with(|| Value::Array(Vec::new()));
                let value = value(field.kind, wire, depth)?;
                list.as_array_mut().ok_or(Error::Damaged)?.push(value);
            }
            Shape::Map => {
                let map = out.entry(&*field.name).or_insert_with(|| Value::Object(Map::new()));
                let (key, value) = entry(field.kind, wire, depth)?;
                map.as_object_mut().ok_or(Error::Damaged)?.insert(key, value);
            }
        }
    }
    Ok(())
}

fn entry(kind: Kind, wire: Wire<'_>, depth: usize) -> Result<(String, Value)> {
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

fn value(kind: Kind, wire: Wire<'_>, depth: usize) -> Result<Value> {
    match (kind, wire) {
        (Kind::Text, wire) => text(wire).map(Value::from),
        (Kind::Bytes, Wire::Bytes(bytes)) => Ok(STANDARD.encode(bytes).into()),
        (Kind::Int, Wire::Varint(n)) => Ok((n as i64).into()),
        (Kind::Bool, Wire::Varint(n)) => Ok((n != 0).into()),
        (Kind::Double, Wire::Fixed64(n)) => Ok(f64::from_bits(n).into()),
        (Kind::Message(id), Wire::Bytes(bytes)) => nested(id, bytes, depth),
        _ => Err(Error::Damaged),
    }
}

fn nested(id: usize, bytes: &[u8], depth: usize) -> Result<Value> {
    let form = Table::get().messages[id].form;
    if form == Form::Raw {
        return raw(bytes);
    }
    let mut fields = Map::new();
    message(id, bytes, &mut fields, depth)?;
    let mut take = |field: &str| fields.remove(field);
    Ok(match form {
        Form::Plain | Form::Raw => Value::Object(fields),
        Form::Quantity => take("string").filter(|text| *text != "").unwrap_or("0".into()),
        Form::Time => time(&fields, false)?,
        Form::MicroTime => time(&fields, true)?,
        Form::Duration => {
            let ns = take("duration").and_then(|ns| ns.as_i64()).unwrap_or_default();
            format!("{}s", ns as f64 / 1e9).into()
        }
        Form::IntOrString if take("type").is_some_and(|kind| kind == 1) => take("strVal").unwrap_or("".into()),
        Form::IntOrString => take("intVal").unwrap_or(0.into()),
        Form::OneOf(names) => names.iter().find_map(|name| take(name)).unwrap_or(false.into()),
        Form::Items => take("items").unwrap_or_else(|| Value::Array(Vec::new())),
    })
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
        assert!(matches!(to_json(&object("v1", "PodSpec", b"")), Err(Error::UnknownKind { .. })));
        for cut in 5..whole.len() {
            // Any prefix either ends between fields or is refused; none panics.
            let _ = to_json(&whole[..cut]);
        }
        assert_eq!(to_json(&whole[..whole.len() - 1]), Err(Error::Damaged));
    }
}
