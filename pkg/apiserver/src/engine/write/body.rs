//! Reading: from the bytes of a body to a tree of the resource's kind at the request's place.
use super::super::{Result, media};
use super::{Write, field_error};
use crate::registry::strategy;
use api::Status;
use api::validate::Reason;
use bytes::Bytes;
use http::header;
use serde_json::{Map, Value};

impl Write<'_> {
    /// The body as a checked tree of the resource's kind.
    pub fn body(&mut self) -> Result<Value> {
        let request = self.call.request;
        let json = media::to_json(&request.body, media::body_format(&request.headers)?)?;
        self.decode(&json)
    }

    /// Reads JSON as the resource's kind.
    pub fn decode(&mut self, json: &Bytes) -> Result<Value> {
        let resource = &self.call.resource;
        let decoded = api::decode::decode(json, resource.ty(), &resource.schemas, self.options.validation)
            .map_err(|e| self.unreadable(json, &e))?;
        self.warnings.extend(decoded.warnings);
        let mut value = decoded.value;
        self.check_kind(&mut value)?;
        Ok(value)
    }

    /// The result of a patch, checked like a body.
    pub fn check(&mut self, value: Value) -> Result<Value> {
        let resource = &self.call.resource;
        let decoded = match api::decode::check(value.clone(), resource.ty(), &resource.schemas, self.options.validation)
        {
            Ok(decoded) => decoded,
            Err(strict @ api::decode::Error::Strict(_)) => return Err(Status::bad_request(strict.to_string()).into()),
            Err(api::decode::Error::Malformed(why)) => {
                // Upstream shows what the patch made of the object, and names neither kind nor object.
                let nameless = api::GroupKind { group: String::new(), kind: String::new() };
                let error = field_error("patch", Reason::Invalid, Some(value.to_string().into()), &why);
                return Err(Status::invalid(&nameless, "", &[error]).into());
            }
        };
        self.warnings.extend(decoded.warnings);
        let mut value = decoded.value;
        self.check_kind(&mut value)?;
        Ok(value)
    }

    fn unreadable(&self, json: &[u8], error: &api::decode::Error) -> Box<Status> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Head {
            #[serde(default)]
            api_version: String,
            #[serde(default)]
            kind: String,
        }
        let expected = &self.call.resource.kind;
        if matches!(error, api::decode::Error::Strict(_)) && self.call.resource.custom.is_some() {
            return Status::bad_request(error.to_string()).into();
        }
        let head = match serde_json::from_slice::<Value>(json).and_then(|value| match value {
            Value::Object(_) => serde_json::from_value::<Head>(value),
            other => Err(serde::de::Error::custom(format!(
                "json: cannot unmarshal {} into Go value of type {HEAD}",
                api::go_json::kind_name(&other)
            ))),
        }) {
            Ok(head) => head,
            Err(unreadable) => return unrecognized(expected, json, &unreadable).into(),
        };
        let version = api::GroupVersion::parse(&head.api_version).version;
        let (kind, version) = match head.kind.as_str() {
            "" => (expected.as_str(), self.call.resource.gvr.version.clone()),
            kind => (kind, version),
        };
        Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {expected}: {error}")).into()
    }

    /// `apiVersion` and `kind` may be left out, but not differ.
    fn check_kind(&self, value: &mut Value) -> Result<()> {
        let resource = &self.call.resource;
        let expected = resource.gvr.group_version().to_string();
        let Some(object) = value.as_object_mut() else {
            return Err(Status::bad_request(format!(
                "the object provided is unrecognized (must be of type {})",
                resource.kind
            ))
            .into());
        };
        let given = |object: &Map<String, Value>, key: &str| {
            object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let (version, kind) = (given(object, "apiVersion"), given(object, "kind"));
        if self.is_apply() && !kind.is_empty() && (kind != resource.kind || version != expected) {
            return Err(Status::bad_request(format!("invalid object type: {}", gvk_text(&version, &kind))).into());
        }
        if !version.is_empty() && version != expected || !kind.is_empty() && kind != resource.kind {
            return Err(wrong_kind(resource, &version, &kind).into());
        }
        object.insert("apiVersion".into(), expected.into());
        object.insert("kind".into(), resource.kind.clone().into());
        strategy::child(value, "metadata");
        Ok(())
    }

    fn is_apply(&self) -> bool {
        let media = self.call.request.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        media.is_some_and(|media| media.starts_with("application/apply-patch"))
    }

    /// Upstream's `checkName` and namespace rule: the body may not contradict the path.
    pub fn check_place(&self, value: &mut Value, named: bool) -> Result<()> {
        let info = self.call.info();
        let meta = strategy::child(value, "metadata");
        let given = |key: &str| meta.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (name, namespace) = (given("name"), given("namespace"));
        if named && name != info.name {
            let text = if name.is_empty() {
                format!("the name of the object ({} based on URL) was undeterminable: name must be provided", info.name)
            } else {
                format!("the name of the object ({name}) does not match the name on the URL ({})", info.name)
            };
            return Err(Status::bad_request(text).into());
        }
        if !self.call.resource.namespaced {
            if !namespace.is_empty() {
                return Err(Status::bad_request("namespace may not be set on a cluster-scoped object").into());
            }
            meta.remove("namespace");
            return Ok(());
        }
        if namespace.is_empty() {
            meta.insert("namespace".into(), info.namespace.clone().into());
        } else if namespace != info.namespace {
            let text = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(Status::bad_request(text).into());
        }
        Ok(())
    }
}

/// What upstream reads of a body before it knows its kind.
const HEAD: &str =
    r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

/// A body that is no object at all (`transformDecodeError`).
fn unrecognized(expected: &str, body: &[u8], error: &serde_json::Error) -> Status {
    const SHOWN_BYTES: usize = 30;
    let why = api::go_json::syntax_error(body).unwrap_or_else(|| error.to_string());
    let (start, rest) = body.split_at(body.len().min(SHOWN_BYTES));
    let shown = match start.first() {
        None => "<empty>".into(),
        Some(b'{') => String::from_utf8_lossy(start).into_owned(),
        Some(_) => start.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let more = if rest.is_empty() { "" } else { " ..." };
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {expected}): couldn't get version/kind; json parse error: \
         {why} ({shown}{more})"
    ))
}

/// `/v1, Kind=Secret`
fn gvk_text(version: &str, kind: &str) -> String {
    let parsed = api::GroupVersion::parse(version);
    format!("{}/{}, Kind={kind}", parsed.group, parsed.version)
}

/// A body of another kind, or of another version of it, than the path's.
fn wrong_kind(resource: &crate::registry::Resource, version: &str, kind: &str) -> Status {
    let expected = resource.gvr.group_version().to_string();
    let given = api::GroupVersion::parse(version);
    let known = api::schema::Schemas::builtin().for_kind(&api::GroupVersionKind::new(
        given.group.as_str(),
        given.version.as_str(),
        if kind.is_empty() { resource.kind.as_str() } else { kind },
    ));
    if known.is_some() && (kind.is_empty() || kind == resource.kind) {
        let text =
            format!("the API version in the data ({version}) does not match the expected API version ({expected})");
        return Status::bad_request(text);
    }
    let kind = if kind.is_empty() { &resource.kind } else { kind };
    let version = if given.version.is_empty() { &resource.gvr.version } else { &given.version };
    // The file and line are those of upstream's registry of kinds.
    Status::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {}: no kind {kind:?} is registered for version {:?} in scheme \
         \"pkg/runtime/scheme.go:111\"",
        resource.kind,
        if given.group.is_empty() { version.clone() } else { format!("{}/{version}", given.group) },
    ))
}
