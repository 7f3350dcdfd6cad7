//! Answers: stored bytes as they are where possible, else converted, reduced to metadata or put in a table.
use super::media::{self, Media, Shape};
use super::{Call, splice};
use crate::registry::Resource;
use crate::{Body, body};
use api::Status;
use api::table::Printer;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use store::{Entry, Revision};

/// An error as an answer.
pub fn failure(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = content(code, "application/json", status.to_json().into());
    if let Some(seconds) = status.details.as_ref().map(|d| d.retry_after_seconds).filter(|&s| s > 0) {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// A Status that is no error.
pub fn status(call: &Call<'_>, status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::OK);
    content(code, call.media.content_type(), media::render(status.to_json().into(), call.media))
}

/// A stored object.
pub fn entry(call: &Call<'_>, code: StatusCode, entry: &Entry, warnings: &[String]) -> Response<Body> {
    at_revision(call, code, entry, entry.mod_revision, warnings)
}

/// A stored object under another revision.
pub fn at_revision(
    call: &Call<'_>,
    code: StatusCode,
    entry: &Entry,
    revision: Revision,
    warnings: &[String],
) -> Response<Body> {
    let form = Form::new(call);
    let bytes = form.object(entry, revision);
    with_warnings(content(code, call.media.content_type(), media::render(bytes, call.media)), warnings)
}

/// An object that was built here, in its served version.
pub fn value(call: &Call<'_>, code: StatusCode, value: Value, warnings: &[String]) -> Response<Body> {
    let bytes = Form::new(call).value(value, true);
    with_warnings(content(code, call.media.content_type(), media::render(bytes, call.media)), warnings)
}

/// An object of another kind than the resource's, as it is.
pub fn plain(call: &Call<'_>, code: StatusCode, value: &Value) -> Response<Body> {
    let bytes = serde_json::to_vec(value).expect("a tree is JSON").into();
    content(code, call.media.content_type(), media::render(bytes, call.media))
}

/// A whole body.
pub fn content(code: StatusCode, media_type: &'static str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(body::full(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Adds a `Warning` header a text (RFC 7234, code 299), each once.
pub fn with_warnings(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    let mut seen = std::collections::BTreeSet::new();
    for text in warnings.iter().filter(|w| seen.insert(w.as_str())) {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

/// How one object is shown to this client.
pub struct Form {
    pub resource: std::sync::Arc<Resource>,
    pub media: Media,
    include: Include,
    now: i64,
}

/// `includeObject` of a table request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Include {
    None,
    Metadata,
    Object,
}

impl Form {
    pub fn new(call: &Call<'_>) -> Self {
        let include = match call.info().param("includeObject") {
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            _ => Include::Metadata,
        };
        Self { resource: call.resource.clone(), media: call.media, include, now: (call.engine.clock)().as_second() }
    }

    /// Stored bytes are what is served.
    pub fn is_raw(&self) -> bool {
        use crate::registry::Conversion;
        self.media.shape == Shape::Object
            && matches!(self.resource.conversion, Conversion::Identity | Conversion::Webhook)
    }

    /// The object as JSON bytes in the asked shape.
    pub fn object(&self, entry: &Entry, revision: Revision) -> Bytes {
        let bytes = splice::at_revision(entry, revision);
        if self.is_raw() {
            return bytes;
        }
        match self.parse(&bytes) {
            Some(value) => self.value(value, true),
            None => bytes,
        }
    }

    /// The tree of a stored object in its served version.
    pub fn parse(&self, bytes: &[u8]) -> Option<Value> {
        let value = serde_json::from_slice(bytes).ok()?;
        Some(self.resource.to_served(value))
    }

    /// An object in the asked shape; `columns` says whether a table names them.
    pub fn value(&self, value: Value, columns: bool) -> Bytes {
        let shaped = match self.media.shape {
            Shape::Object => value,
            Shape::Partial => partial(&value),
            Shape::Table => {
                let meta = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
                let printer = self.printer();
                self.table(&*printer, meta, vec![self.row(&*printer, &value)], columns)
            }
        };
        serde_json::to_vec(&shaped).expect("a tree is JSON").into()
    }

    pub fn printer(&self) -> Box<dyn Printer> {
        self.resource.printer()
    }

    pub fn row(&self, printer: &dyn Printer, object: &Value) -> Value {
        let mut row = json!({"cells": printer.cells(object, self.now)});
        match self.include {
            Include::None => row["object"] = Value::Null,
            Include::Metadata => row["object"] = partial(object),
            Include::Object => row["object"] = object.clone(),
        }
        row
    }

    pub fn table(&self, printer: &dyn Printer, meta: Value, rows: Vec<Value>, columns: bool) -> Value {
        let definitions: Vec<Value> = printer.columns().iter().filter(|_| columns).map(definition).collect();
        json!({
            "kind": "Table",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": meta,
            "columnDefinitions": if columns { json!(definitions) } else { Value::Null },
            // Upstream's plain printer makes a list only for its first row.
            "rows": if rows.is_empty() && is_plain(printer) { Value::Null } else { rows.into() },
        })
    }
}

/// Whether a kind has no columns of its own.
fn is_plain(printer: &dyn Printer) -> bool {
    printer.columns().iter().any(|column| column.name == "Created At")
}

fn definition(column: &api::table::Column) -> Value {
    json!({
        "name": column.name,
        "type": column.ty,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    })
}

/// Metadata alone.
pub fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}
