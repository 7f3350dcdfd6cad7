//! The operations of each served resource.
use super::definition::{self, DELETE_OPTIONS, Dialect, PATCH, STATUS, kind_extension, reference};
use super::{Resource, Subresource, root};
use crate::GroupVersionKind;
use serde_json::{Map, Value, json};

const MEDIA_TYPES: &[&str] = &["application/json", "application/yaml"];
const WATCH_TYPES: &[&str] = &["application/json", "application/yaml", "application/json;stream=watch"];
const MERGE_PATCHES: &[&str] =
    &["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"];
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";

/// A query parameter: its name and JSON type.
type Parameter = (&'static str, &'static str);

const DRY_RUN: Parameter = ("dryRun", "string");
const WRITE: &[Parameter] = &[DRY_RUN, ("fieldManager", "string"), ("fieldValidation", "string")];
const APPLY: &[Parameter] = &[DRY_RUN, ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETE: &[Parameter] =
    &[DRY_RUN, ("gracePeriodSeconds", "integer"), ("orphanDependents", "boolean"), ("propagationPolicy", "string")];
const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];

/// What an operation takes as its body.
enum Input {
    None,
    Object(Value),
    Patch,
    DeleteOptions,
}

struct Operation {
    method: &'static str,
    /// `x-kubernetes-action`.
    action: &'static str,
    /// The verb that begins the operation's id.
    word: &'static str,
    parameters: &'static [Parameter],
    input: Input,
    output: Value,
    /// The success codes beside 200.
    codes: &'static [&'static str],
}

/// The paths of all resources of one group and version.
pub fn paths(resources: &[Resource], dialect: Dialect) -> impl Iterator<Item = (String, Value)> {
    resources.iter().flat_map(move |resource| Paths { resource, dialect }.all())
}

struct Paths<'a> {
    resource: &'a Resource,
    dialect: Dialect,
}

impl Paths<'_> {
    fn all(&self) -> Vec<(String, Value)> {
        let r = self.resource;
        let base = root(&r.gvk.group_version());
        let collection = match r.namespaced {
            true => format!("{base}/namespaces/{{namespace}}/{}", r.plural),
            false => format!("{base}/{}", r.plural),
        };
        let mut out = Vec::new();
        if r.namespaced && r.verbs.contains(&"list") {
            let list = Operation { word: "list", ..self.list() };
            out.push((format!("{base}/{}", r.plural), self.item(&[list], &r.gvk, "", "ForAllNamespaces", &[])));
        }
        let scope: &[&str] = if r.namespaced { &["namespace"] } else { &[] };
        out.push((collection.clone(), self.item(&self.of_collection(), &r.gvk, self.scoped(), "", scope)));
        let named: &[&str] = if r.namespaced { &["name", "namespace"] } else { &["name"] };
        out.push((format!("{collection}/{{name}}"), self.item(&self.of_item(), &r.gvk, self.scoped(), "", named)));
        for sub in &r.subresources {
            let path = format!("{collection}/{{name}}/{}", sub.name);
            out.push((path, self.item(&self.of_subresource(sub), &sub.kind, self.scoped(), &title(&sub.name), named)));
        }
        out.retain(|(_, item)| item.as_object().is_some_and(|item| item.len() > 1));
        out
    }

    fn scoped(&self) -> &'static str {
        if self.resource.namespaced { "Namespaced" } else { "" }
    }

    fn name_of(&self, kind: &GroupVersionKind) -> Option<String> {
        match &self.resource.custom {
            Some(_) if kind.group == self.resource.gvk.group => Some(definition::custom_name(kind)),
            _ => definition::name_of(kind),
        }
    }

    fn schema(&self, kind: &GroupVersionKind) -> Value {
        match self.name_of(kind) {
            Some(name) => reference(&name, self.dialect),
            None => json!({ "type": "string" }),
        }
    }

    fn list(&self) -> Operation {
        let kind = GroupVersionKind { kind: self.resource.list_kind.clone(), ..self.resource.gvk.clone() };
        let output = self.schema(&kind);
        Operation {
            method: "get",
            action: "list",
            word: "list",
            parameters: LIST,
            input: Input::None,
            output,
            codes: &[],
        }
    }

    fn of_collection(&self) -> Vec<Operation> {
        let mut out = Vec::new();
        for verb in &self.resource.verbs {
            match *verb {
                "list" => out.push(self.list()),
                "create" => out.push(self.post(&self.resource.gvk)),
                "deletecollection" => out.push(Operation {
                    action: "deletecollection",
                    word: "deleteCollection",
                    codes: &[],
                    ..self.delete()
                }),
                _ => {}
            }
        }
        out
    }

    fn of_item(&self) -> Vec<Operation> {
        let gvk = &self.resource.gvk;
        let verbs = self.resource.verbs.iter().filter(|verb| !["create"].contains(verb));
        verbs.filter_map(|verb| self.by_name(verb, gvk)).collect()
    }

    fn of_subresource(&self, sub: &Subresource) -> Vec<Operation> {
        sub.verbs.iter().filter_map(|verb| self.by_name(verb, &sub.kind)).collect()
    }

    fn by_name(&self, verb: &str, kind: &GroupVersionKind) -> Option<Operation> {
        let output = self.schema(kind);
        Some(match verb {
            "get" => Operation {
                method: "get",
                action: "get",
                word: "read",
                parameters: &[],
                input: Input::None,
                output,
                codes: &[],
            },
            "update" => Operation {
                method: "put",
                action: "put",
                word: "replace",
                parameters: WRITE,
                input: Input::Object(output.clone()),
                output,
                codes: &["201"],
            },
            "patch" => Operation {
                method: "patch",
                action: "patch",
                word: "patch",
                parameters: APPLY,
                input: Input::Patch,
                output,
                codes: &["201"],
            },
            "create" => self.post(kind),
            "delete" => self.delete(),
            _ => return None,
        })
    }

    fn post(&self, kind: &GroupVersionKind) -> Operation {
        let output = self.schema(kind);
        Operation {
            method: "post",
            action: "post",
            word: "create",
            parameters: WRITE,
            input: Input::Object(output.clone()),
            output,
            codes: &["201", "202"],
        }
    }

    fn delete(&self) -> Operation {
        Operation {
            method: "delete",
            action: "delete",
            word: "delete",
            parameters: DELETE,
            input: Input::DeleteOptions,
            output: reference(STATUS, self.dialect),
            codes: &["202"],
        }
    }

    /// A path item: its operations, and the parameters in its path.
    fn item(
        &self,
        operations: &[Operation],
        kind: &GroupVersionKind,
        before: &str,
        after: &str,
        in_path: &[&str],
    ) -> Value {
        let mut out = Map::new();
        for operation in operations {
            let id = format!(
                "{}{}{before}{}{after}",
                operation.word,
                version_title(&self.resource.gvk),
                self.resource.gvk.kind
            );
            let mut value = self.operation(operation, id);
            value["x-kubernetes-group-version-kind"] = kind_extension(kind);
            out.insert(operation.method.to_owned(), value);
        }
        let mut parameters: Vec<Value> = in_path.iter().map(|name| self.parameter(name, "path", "string")).collect();
        parameters.push(self.parameter("pretty", "query", "string"));
        out.insert("parameters".to_owned(), parameters.into());
        out.into()
    }

    fn parameter(&self, name: &str, place: &str, ty: &str) -> Value {
        let mut out = match self.dialect {
            Dialect::V2 => json!({ "name": name, "in": place, "type": ty, "uniqueItems": true }),
            Dialect::V3 => json!({ "name": name, "in": place, "schema": { "type": ty, "uniqueItems": true } }),
        };
        if place == "path" {
            out["required"] = true.into();
        }
        out
    }

    fn operation(&self, operation: &Operation, id: String) -> Value {
        let mut parameters: Vec<Value> =
            operation.parameters.iter().map(|(name, ty)| self.parameter(name, "query", ty)).collect();
        let media = if operation.action == "list" { WATCH_TYPES } else { MEDIA_TYPES };
        let mut out = json!({
            "tags": [tag(&self.resource.gvk)],
            "operationId": id,
            "x-kubernetes-action": operation.action,
            "responses": self.responses(operation, media),
        });
        if let Some((schema, required)) = self.body(&operation.input) {
            let consumes = self.consumes(&operation.input);
            match self.dialect {
                Dialect::V2 => {
                    let mut body = json!({ "name": "body", "in": "body", "schema": schema });
                    if required {
                        body["required"] = true.into();
                    }
                    parameters.insert(0, body);
                    out["consumes"] = json!(consumes);
                }
                Dialect::V3 => {
                    let content: Map<String, Value> =
                        consumes.iter().map(|media| ((*media).to_owned(), json!({ "schema": schema }))).collect();
                    out["requestBody"] = json!({ "content": content, "required": required });
                }
            }
        }
        if self.dialect == Dialect::V2 {
            out["produces"] = json!(media);
            out["schemes"] = json!(["https"]);
        }
        if !parameters.is_empty() {
            out["parameters"] = parameters.into();
        }
        out
    }

    fn body(&self, input: &Input) -> Option<(Value, bool)> {
        match input {
            Input::None => None,
            Input::Object(schema) => Some((schema.clone(), true)),
            Input::Patch => Some((reference(PATCH, self.dialect), true)),
            Input::DeleteOptions => Some((reference(DELETE_OPTIONS, self.dialect), false)),
        }
    }

    fn consumes(&self, input: &Input) -> Vec<&'static str> {
        match input {
            Input::Patch if self.resource.custom.is_some() => MERGE_PATCHES.to_vec(),
            Input::Patch => MERGE_PATCHES.iter().copied().chain([STRATEGIC_PATCH]).collect(),
            _ => vec!["*/*"],
        }
    }

    fn responses(&self, operation: &Operation, media: &[&str]) -> Value {
        let mut out = Map::new();
        for code in ["200"].iter().chain(operation.codes) {
            let text = match *code {
                "200" => "OK",
                "201" => "Created",
                _ => "Accepted",
            };
            let mut response = json!({ "description": text });
            match self.dialect {
                Dialect::V2 => response["schema"] = operation.output.clone(),
                Dialect::V3 => {
                    let content: Map<String, Value> =
                        media.iter().map(|m| ((*m).to_owned(), json!({ "schema": operation.output }))).collect();
                    response["content"] = content.into();
                }
            }
            out.insert((*code).to_owned(), response);
        }
        out.insert("401".to_owned(), json!({ "description": "Unauthorized" }));
        out.into()
    }
}

/// `AppsV1`, `CoreV1`, `RbacAuthorizationV1`.
fn version_title(kind: &GroupVersionKind) -> String {
    let group = if kind.group.is_empty() { "core" } else { kind.group.trim_end_matches(".k8s.io") };
    group.split(['.', '-']).chain([&*kind.version]).map(title).collect()
}

/// `apps_v1`, `core_v1`, `rbacAuthorization_v1`.
fn tag(kind: &GroupVersionKind) -> String {
    let group = if kind.group.is_empty() { "core" } else { kind.group.trim_end_matches(".k8s.io") };
    let mut words = group.split(['.', '-']);
    let first = words.next().unwrap_or_default().to_owned();
    let rest: String = words.map(title).collect();
    format!("{first}{rest}_{}", kind.version)
}

fn title(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
