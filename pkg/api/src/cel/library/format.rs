//! Named formats of strings (`k8s.io/apiserver/pkg/cel/library/format.go`).
use super::operators::shared;
use super::{Entry, Methods, opaque, wrong};
use crate::cel::{Error, Opaque, Value, text};
use crate::validate::names;
use base64::Engine as _;
use std::any::Any;

type Check = fn(&str) -> Vec<String>;

const FORMATS: &[(&str, Check)] = &[
    ("dns1123Label", names::dns_label),
    ("dns1123Subdomain", names::dns_subdomain),
    ("dns1035Label", names::dns1035_label),
    ("qualifiedName", names::qualified_name),
    ("dns1123LabelPrefix", |of| names::dns_label(&names::mask_trailing_dash(of))),
    ("dns1123SubdomainPrefix", |of| names::dns_subdomain(&names::mask_trailing_dash(of))),
    ("dns1035LabelPrefix", |of| names::dns1035_label(&names::mask_trailing_dash(of))),
    ("labelValue", names::label_value),
    ("uri", |of| unless(of.starts_with('/') || url::Url::parse(of).is_ok(), "invalid URI for request")),
    ("uuid", |of| unless(is_uuid(of), "does not match the UUID format")),
    ("byte", |of| unless(base64::engine::general_purpose::STANDARD.decode(of).is_ok(), "invalid base64")),
    ("date", |of| unless(of.len() == 10 && of.parse::<jiff::civil::Date>().is_ok(), "invalid date")),
    ("datetime", |of| unless(text::parse_timestamp(of).is_some() && of.len() > 10, "invalid datetime")),
];

macro_rules! formats {
    ($($name:literal)*) => {
        &[
            $((concat!("format.", $name, "() kubernetes.NamedFormat"), |_| Ok(named($name).unwrap_or(Value::Null)))),*,
            ("format.named(string) optional<kubernetes.NamedFormat>", |args| match args[0].as_str() {
                Some(name) => Ok(named(name).map_or(Value::Optional(None), Value::some)),
                None => wrong("format.named"),
            }),
        ]
    };
}
pub const FUNCTIONS: &[Entry] = formats!(
    "dns1123Label" "dns1123Subdomain" "dns1035Label" "qualifiedName" "dns1123LabelPrefix" "dns1123SubdomainPrefix"
    "dns1035LabelPrefix" "labelValue" "uri" "uuid" "byte" "date" "datetime"
);

pub const METHODS: Methods = ".validate(kubernetes.NamedFormat, string) optional<list<string>>";

#[derive(Debug)]
struct Format(&'static str, Check);

fn named<'a>(name: &str) -> Option<Value<'a>> {
    FORMATS.iter().find(|(known, _)| *known == name).map(|(name, check)| opaque(Format(name, *check)))
}

fn unless(holds: bool, message: &str) -> Vec<String> {
    if holds { Vec::new() } else { vec![message.into()] }
}

fn is_uuid(of: &str) -> bool {
    let dashes = [8, 13, 18, 23];
    of.len() == 36
        && of.bytes().enumerate().all(|(at, b)| if dashes.contains(&at) { b == b'-' } else { b.is_ascii_hexdigit() })
}

impl Opaque for Format {
    fn type_name(&self) -> &'static str {
        "kubernetes.NamedFormat"
    }

    fn call(&self, function: &str, arguments: &[Value<'_>]) -> Result<Value<'static>, Error> {
        let ("validate", Some(of)) = (function, arguments.first().and_then(Value::as_str)) else {
            return wrong(function);
        };
        let wrong = (self.1)(of);
        Ok(match wrong.is_empty() {
            true => Value::Optional(None),
            false => Value::some(shared(wrong.into_iter().map(Value::string))),
        })
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref::<Self>().is_some_and(|other| other.0 == self.0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
