//! OpenAPI v2 in protobuf, the messages of `github.com/google/gnostic-models/openapiv2/OpenAPIv2.proto`: only the
//! fields that our documents use. Each message is made from the same JSON that the JSON document has.
use super::definition::Dialect;
use super::{Resource, TITLE, VERSION, closure, paths};
use crate::GroupVersion;
use prost::Message;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

#[derive(Clone, PartialEq, Message)]
struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
    #[prost(message, optional, tag = "8")]
    paths: Option<Paths>,
    #[prost(message, optional, tag = "9")]
    definitions: Option<NamedSchemas>,
}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Paths {
    #[prost(message, repeated, tag = "2")]
    path: Vec<NamedPathItem>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedPathItem {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<PathItem>,
}

#[derive(Clone, PartialEq, Message)]
struct PathItem {
    #[prost(message, optional, tag = "2")]
    get: Option<Operation>,
    #[prost(message, optional, tag = "3")]
    put: Option<Operation>,
    #[prost(message, optional, tag = "4")]
    post: Option<Operation>,
    #[prost(message, optional, tag = "5")]
    delete: Option<Operation>,
    #[prost(message, optional, tag = "8")]
    patch: Option<Operation>,
    #[prost(message, repeated, tag = "9")]
    parameters: Vec<ParametersItem>,
}

#[derive(Clone, PartialEq, Message)]
struct Operation {
    #[prost(string, repeated, tag = "1")]
    tags: Vec<String>,
    #[prost(string, tag = "5")]
    operation_id: String,
    #[prost(string, repeated, tag = "6")]
    produces: Vec<String>,
    #[prost(string, repeated, tag = "7")]
    consumes: Vec<String>,
    #[prost(message, repeated, tag = "8")]
    parameters: Vec<ParametersItem>,
    #[prost(message, optional, tag = "9")]
    responses: Option<Responses>,
    #[prost(string, repeated, tag = "10")]
    schemes: Vec<String>,
    #[prost(message, repeated, tag = "13")]
    vendor_extension: Vec<NamedAny>,
}

#[derive(Clone, PartialEq, Message)]
struct ParametersItem {
    #[prost(message, optional, tag = "1")]
    parameter: Option<Parameter>,
}

#[derive(Clone, PartialEq, Message)]
struct Parameter {
    #[prost(message, optional, tag = "1")]
    body_parameter: Option<BodyParameter>,
    #[prost(message, optional, tag = "2")]
    non_body_parameter: Option<NonBodyParameter>,
}

#[derive(Clone, PartialEq, Message)]
struct BodyParameter {
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    place: String,
    #[prost(bool, tag = "4")]
    required: bool,
    #[prost(message, optional, tag = "5")]
    schema: Option<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct NonBodyParameter {
    #[prost(message, optional, tag = "3")]
    query: Option<QueryParameter>,
    #[prost(message, optional, tag = "4")]
    path: Option<PathParameter>,
}

#[derive(Clone, PartialEq, Message)]
struct QueryParameter {
    #[prost(string, tag = "2")]
    place: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "6")]
    ty: String,
    #[prost(bool, tag = "20")]
    unique_items: bool,
}

#[derive(Clone, PartialEq, Message)]
struct PathParameter {
    #[prost(bool, tag = "1")]
    required: bool,
    #[prost(string, tag = "2")]
    place: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "5")]
    ty: String,
    #[prost(bool, tag = "19")]
    unique_items: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Responses {
    #[prost(message, repeated, tag = "1")]
    response_code: Vec<NamedResponse>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedResponse {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<ResponseValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseValue {
    #[prost(message, optional, tag = "1")]
    response: Option<Response>,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(string, tag = "1")]
    description: String,
    #[prost(message, optional, tag = "2")]
    schema: Option<SchemaItem>,
}

#[derive(Clone, PartialEq, Message)]
struct SchemaItem {
    #[prost(message, optional, tag = "1")]
    schema: Option<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedSchemas {
    #[prost(message, repeated, tag = "1")]
    additional_properties: Vec<NamedSchema>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedSchema {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct Schema {
    #[prost(string, tag = "1")]
    reference: String,
    #[prost(string, tag = "2")]
    format: String,
    #[prost(string, tag = "3")]
    title: String,
    #[prost(string, tag = "4")]
    description: String,
    #[prost(double, tag = "6")]
    multiple_of: f64,
    #[prost(double, tag = "7")]
    maximum: f64,
    #[prost(bool, tag = "8")]
    exclusive_maximum: bool,
    #[prost(double, tag = "9")]
    minimum: f64,
    #[prost(bool, tag = "10")]
    exclusive_minimum: bool,
    #[prost(int64, tag = "11")]
    max_length: i64,
    #[prost(int64, tag = "12")]
    min_length: i64,
    #[prost(string, tag = "13")]
    pattern: String,
    #[prost(int64, tag = "14")]
    max_items: i64,
    #[prost(int64, tag = "15")]
    min_items: i64,
    #[prost(bool, tag = "16")]
    unique_items: bool,
    #[prost(int64, tag = "17")]
    max_properties: i64,
    #[prost(int64, tag = "18")]
    min_properties: i64,
    #[prost(string, repeated, tag = "19")]
    required: Vec<String>,
    #[prost(message, repeated, tag = "20")]
    choices: Vec<Yaml>,
    #[prost(message, optional, boxed, tag = "21")]
    additional_properties: Option<Box<AdditionalProperties>>,
    #[prost(message, optional, tag = "22")]
    ty: Option<TypeItem>,
    #[prost(message, optional, tag = "23")]
    items: Option<ItemsItem>,
    #[prost(message, optional, tag = "25")]
    properties: Option<NamedSchemas>,
    #[prost(message, repeated, tag = "31")]
    vendor_extension: Vec<NamedAny>,
}

#[derive(Clone, PartialEq, Message)]
struct AdditionalProperties {
    #[prost(message, optional, boxed, tag = "1")]
    schema: Option<Box<Schema>>,
    #[prost(bool, optional, tag = "2")]
    boolean: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeItem {
    #[prost(string, repeated, tag = "1")]
    value: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ItemsItem {
    #[prost(message, repeated, tag = "1")]
    schema: Vec<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedAny {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Yaml>,
}

/// A value as text; JSON is YAML.
#[derive(Clone, PartialEq, Message)]
struct Yaml {
    #[prost(string, tag = "2")]
    yaml: String,
}

/// The whole document of what is served.
pub fn document(groups: &BTreeMap<GroupVersion, Vec<Resource>>) -> Vec<u8> {
    let path = groups.values().flat_map(|of| paths::paths(of, Dialect::V2));
    let path = path.map(|(name, item)| NamedPathItem { name, value: Some(path_item(&item)) }).collect();
    let texts = super::descriptions::Descriptions::load();
    let definitions = closure(groups.values().flatten(), Dialect::V2, &texts);
    let definitions = definitions
        .iter()
        .map(|(name, make)| NamedSchema { name: name.clone(), value: Some(schema(&make(Dialect::V2))) })
        .collect();
    Document {
        swagger: "2.0".into(),
        info: Some(Info { title: TITLE.into(), version: VERSION.into() }),
        paths: Some(Paths { path }),
        definitions: Some(NamedSchemas { additional_properties: definitions }),
    }
    .encode_to_vec()
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    value[name].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn flag(value: &Value, name: &str) -> bool {
    value[name].as_bool().unwrap_or_default()
}

fn extensions(of: &Value) -> Vec<NamedAny> {
    let entries = of.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-"));
    entries.map(|(name, value)| NamedAny { name: name.clone(), value: Some(yaml(value)) }).collect()
}

fn yaml(value: &Value) -> Yaml {
    Yaml { yaml: value.to_string() }
}

fn path_item(item: &Value) -> PathItem {
    let method = |name: &str| item.get(name).map(operation);
    PathItem {
        get: method("get"),
        put: method("put"),
        post: method("post"),
        delete: method("delete"),
        patch: method("patch"),
        parameters: parameters(item),
    }
}

fn operation(value: &Value) -> Operation {
    let responses = value["responses"].as_object().into_iter().flatten();
    let response_code = responses
        .map(|(code, value)| NamedResponse {
            name: code.clone(),
            value: Some(ResponseValue { response: Some(response(value)) }),
        })
        .collect();
    Operation {
        tags: texts(value, "tags"),
        operation_id: text(value, "operationId"),
        produces: texts(value, "produces"),
        consumes: texts(value, "consumes"),
        parameters: parameters(value),
        responses: Some(Responses { response_code }),
        schemes: texts(value, "schemes"),
        vendor_extension: extensions(value),
    }
}

fn response(value: &Value) -> Response {
    let schema = value.get("schema").map(|of| SchemaItem { schema: Some(schema(of)) });
    Response { description: text(value, "description"), schema }
}

fn parameters(of: &Value) -> Vec<ParametersItem> {
    let parameters = of["parameters"].as_array().into_iter().flatten();
    parameters.map(|value| ParametersItem { parameter: Some(parameter(value)) }).collect()
}

fn parameter(value: &Value) -> Parameter {
    let (name, place, required) = (text(value, "name"), text(value, "in"), flag(value, "required"));
    let (ty, unique_items) = (text(value, "type"), flag(value, "uniqueItems"));
    let mut out = Parameter::default();
    match &*place {
        "body" => {
            out.body_parameter = Some(BodyParameter { name, place, required, schema: Some(schema(&value["schema"])) });
        }
        "path" => {
            let path = Some(PathParameter { required, place, name, ty, unique_items });
            out.non_body_parameter = Some(NonBodyParameter { path, query: None });
        }
        _ => {
            let query = Some(QueryParameter { place, name, ty, unique_items });
            out.non_body_parameter = Some(NonBodyParameter { query, path: None });
        }
    }
    out
}

fn schema(value: &Value) -> Schema {
    let number = |name: &str| value[name].as_f64().unwrap_or_default();
    let count = |name: &str| value[name].as_i64().unwrap_or_default();
    let ty = value["type"].as_str().map(|ty| TypeItem { value: vec![ty.to_owned()] });
    let items = value.get("items").map(|of| ItemsItem { schema: vec![schema(of)] });
    Schema {
        reference: text(value, "$ref"),
        format: text(value, "format"),
        title: text(value, "title"),
        description: text(value, "description"),
        multiple_of: number("multipleOf"),
        maximum: number("maximum"),
        exclusive_maximum: flag(value, "exclusiveMaximum"),
        minimum: number("minimum"),
        exclusive_minimum: flag(value, "exclusiveMinimum"),
        max_length: count("maxLength"),
        min_length: count("minLength"),
        pattern: text(value, "pattern"),
        max_items: count("maxItems"),
        min_items: count("minItems"),
        unique_items: flag(value, "uniqueItems"),
        max_properties: count("maxProperties"),
        min_properties: count("minProperties"),
        required: texts(value, "required"),
        choices: value["enum"].as_array().into_iter().flatten().map(yaml).collect(),
        additional_properties: value.get("additionalProperties").map(additional),
        ty,
        items,
        properties: value["properties"].as_object().map(properties),
        vendor_extension: extensions(value),
    }
}

fn additional(value: &Value) -> Box<AdditionalProperties> {
    Box::new(match value {
        Value::Bool(allowed) => AdditionalProperties { schema: None, boolean: Some(*allowed) },
        of => AdditionalProperties { schema: Some(Box::new(schema(of))), boolean: None },
    })
}

fn properties(of: &Map<String, Value>) -> NamedSchemas {
    let named = |(name, value): (&String, &Value)| NamedSchema { name: name.clone(), value: Some(schema(value)) };
    NamedSchemas { additional_properties: of.iter().map(named).collect() }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// What kubectl looks for: the parameters of the PATCH operation of a kind, and a definition's extensions.
    pub fn look(bytes: &[u8], path: &str, definition: &str) -> (Vec<String>, Vec<(String, String)>) {
        let document = Document::decode(bytes).unwrap();
        let path = document.paths.unwrap().path.into_iter().find(|item| item.name == path).unwrap();
        let patch = path.value.unwrap().patch.unwrap();
        let parameters = patch.parameters.into_iter().filter_map(|p| p.parameter?.non_body_parameter?.query);
        let definitions = document.definitions.unwrap().additional_properties;
        let found = definitions.into_iter().find(|schema| schema.name == definition).unwrap().value.unwrap();
        let extensions = found.vendor_extension.into_iter().map(|e| (e.name, e.value.unwrap().yaml)).collect();
        (parameters.map(|query| query.name).collect(), extensions)
    }
}
