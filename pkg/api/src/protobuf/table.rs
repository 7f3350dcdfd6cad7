//! How messages are laid out: the generated table, its names resolved once.
use std::collections::HashMap;
use std::sync::LazyLock;

/// All messages; a message is named by its place.
pub struct Table {
    pub messages: Vec<Message>,
    by_name: HashMap<Box<str>, usize>,
    groups: HashMap<Box<str>, Group>,
}

/// Of a group's version: the package, and which of its messages are kinds.
type Group = (Box<str>, Vec<Box<str>>);

/// JSON name, type and flags, as in the generated file.
type Row<'a> = (Box<str>, &'a str, &'a str);

pub struct Message {
    /// How it is written as JSON.
    pub form: Form,
    /// In the order of their numbers.
    fields: Vec<(u32, Field)>,
}

pub struct Field {
    pub name: Box<str>,
    pub shape: Shape,
    pub kind: Kind,
    /// Its fields stand among its parent's.
    pub inline: bool,
    /// Left out of JSON when zero.
    pub drop_zero: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    One,
    Many,
    Map,
}

#[derive(Clone, Copy)]
pub enum Kind {
    Text,
    Bytes,
    Int,
    Bool,
    Double,
    Message(usize),
}

/// Types whose JSON is not that of a message have forms of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Plain,
    Quantity,
    Time,
    MicroTime,
    Duration,
    IntOrString,
    /// JSON in its first field.
    Raw,
    /// The first of these fields that is there, `false` if none is.
    OneOf(&'static [&'static str]),
    /// A list alone.
    Items,
}

impl Form {
    fn of(name: &str) -> Self {
        match name.strip_prefix("io.k8s.").unwrap_or(name) {
            "apimachinery.pkg.api.resource.Quantity" => Self::Quantity,
            "apimachinery.pkg.apis.meta.v1.Time" => Self::Time,
            "apimachinery.pkg.apis.meta.v1.MicroTime" => Self::MicroTime,
            "apimachinery.pkg.apis.meta.v1.Duration" => Self::Duration,
            "apimachinery.pkg.util.intstr.IntOrString" => Self::IntOrString,
            "apimachinery.pkg.runtime.RawExtension" | "apimachinery.pkg.apis.meta.v1.FieldsV1" => Self::Raw,
            short => match short.rsplit('.').next().unwrap_or_default() {
                "JSON" => Self::Raw,
                "JSONSchemaPropsOrBool" => Self::OneOf(&["schema", "allows"]),
                "JSONSchemaPropsOrArray" => Self::OneOf(&["schema", "jSONSchemas"]),
                "JSONSchemaPropsOrStringArray" => Self::OneOf(&["schema", "property"]),
                "ExtraValue" | "Verbs" => Self::Items,
                _ => Self::Plain,
            },
        }
    }
}

impl Message {
    pub fn field(&self, number: u32) -> Option<&Field> {
        let at = self.fields.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(&self.fields[at].1)
    }
}

impl Table {
    pub fn get() -> &'static Self {
        static TABLE: LazyLock<Table> = LazyLock::new(Table::read);
        &TABLE
    }

    /// The message of a definition.
    pub fn named(&self, definition: &str) -> Option<usize> {
        self.by_name.get(definition).copied()
    }

    /// The message of a kind, served here or not.
    pub fn kind(&self, api_version: &str, kind: &str) -> Option<usize> {
        let (package, kinds) = self.groups.get(api_version)?;
        kinds.iter().find(|known| ***known == *kind)?;
        self.named(&format!("{package}.{kind}"))
    }

    fn read() -> Self {
        type Rows<'a> = HashMap<&'a str, Row<'a>>;
        #[derive(serde::Deserialize)]
        struct File<'a> {
            groups: HashMap<Box<str>, Group>,
            #[serde(borrow)]
            messages: HashMap<Box<str>, Rows<'a>>,
        }
        let file: File<'_> =
            serde_json::from_str(include_str!("../../schemas/protobuf.json")).expect("the generated file is JSON");
        let by_name: HashMap<Box<str>, usize> =
            file.messages.keys().enumerate().map(|(at, name)| (name.clone(), at)).collect();
        let message = |name: &str, rows: &Rows<'_>| {
            let number = |text: &str| text.parse().expect("the generated file's numbers are numbers");
            let mut fields: Vec<_> = rows.iter().map(|(n, row)| (number(n), Field::of(row, &by_name))).collect();
            fields.sort_by_key(|(number, _)| *number);
            Message { form: Form::of(name), fields }
        };
        Self {
            messages: file.messages.iter().map(|(name, rows)| message(name, rows)).collect(),
            by_name,
            groups: file.groups,
        }
    }
}

impl Field {
    fn of((name, ty, flags): &Row<'_>, by_name: &HashMap<Box<str>, usize>) -> Self {
        let (shape, ty) = match (ty.strip_prefix("[]"), ty.strip_prefix("{}")) {
            (Some(item), _) => (Shape::Many, item),
            (_, Some(item)) => (Shape::Map, item),
            _ => (Shape::One, *ty),
        };
        let kind = match ty {
            "s" => Kind::Text,
            "b" => Kind::Bytes,
            "i" => Kind::Int,
            "t" => Kind::Bool,
            "d" => Kind::Double,
            name => Kind::Message(by_name[name.trim_start_matches('@')]),
        };
        Self { name: name.clone(), shape, kind, inline: flags.contains('n'), drop_zero: flags.contains('z') }
    }
}
