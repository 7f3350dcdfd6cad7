//! Content negotiation: what a request's body is, and what its answer should be.
use super::Result;
use api::Status;
use http::{HeaderMap, header};

/// How bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
}

/// What stands for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Object,
    Table,
    /// `PartialObjectMetadata` or its list: metadata alone.
    Partial,
}

/// The answer's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Media {
    pub format: Format,
    pub shape: Shape,
    pub pretty: bool,
}

impl Media {
    pub const JSON: Self = Self { format: Format::Json, shape: Shape::Object, pretty: false };

    pub fn content_type(self) -> &'static str {
        match self.format {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
        }
    }

    /// Reads `Accept`: the first clause that can be served (clients list them in their order of preference).
    ///
    /// # Errors
    /// 406 when none can.
    pub fn accept(headers: &HeaderMap, pretty: Option<&str>) -> Result<Self> {
        let pretty = pretty.is_some_and(|p| !matches!(p, "0" | "false"));
        let clauses: Vec<&str> =
            headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).collect();
        if clauses.iter().all(|c| c.trim().is_empty()) {
            return Ok(Self { pretty, ..Self::JSON });
        }
        let media = clauses.iter().find_map(|clause| Self::clause(clause)).ok_or_else(not_acceptable)?;
        Ok(Self { pretty, ..media })
    }

    /// The same for what has neither tables nor metadata to show: the object itself, or nothing.
    ///
    /// # Errors
    /// 406 when the client takes nothing else.
    pub fn accept_object(headers: &HeaderMap) -> Result<Self> {
        let clauses = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
        let mut clauses = clauses.filter(|clause| !clause.trim().is_empty()).peekable();
        if clauses.peek().is_none() {
            return Ok(Self::JSON);
        }
        let media = clauses.filter_map(Self::clause).find(|media| media.shape == Shape::Object);
        media.ok_or_else(|| not_acceptable().into())
    }

    fn clause(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let format = match parts.next()? {
            "application/json" | "*/*" | "application/*" => Format::Json,
            "application/yaml" => Format::Yaml,
            _ => return None,
        };
        let (mut kind, mut group, mut version) = ("", "", "");
        for (name, value) in parts.filter_map(|p| p.split_once('=')) {
            match name {
                "as" => kind = value,
                "g" => group = value,
                "v" => version = value,
                "q" if value.trim_matches(['0', '.']).is_empty() => return None,
                _ => {}
            }
        }
        let ours = group == "meta.k8s.io" && matches!(version, "v1" | "v1beta1");
        let shape = match kind {
            "" => Shape::Object,
            "Table" if ours => Shape::Table,
            "PartialObjectMetadata" | "PartialObjectMetadataList" if ours => Shape::Partial,
            _ => return None,
        };
        Some(Self { format, shape, pretty: false })
    }
}

fn not_acceptable() -> Status {
    // Without protobuf, which upstream names, too.
    let text = "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml";
    Status::not_acceptable(text).with_details(api::status::Details::default())
}

/// The format of a request's body.
///
/// # Errors
/// 415 for anything but JSON and YAML.
pub fn body_format(headers: &HeaderMap) -> Result<Format> {
    let text = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match text.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" => Ok(Format::Json),
        "application/yaml" | "text/yaml" | "application/x-yaml" => Ok(Format::Yaml),
        _ => Err(unsupported("application/json, application/yaml, application/vnd.kubernetes.protobuf")),
    }
}

/// 415 with the types that would have been read.
pub fn unsupported(accepted: &str) -> Box<Status> {
    let text = "the body of the request was in an unknown format - accepted media types include: ";
    Status::unsupported_media_type(format!("{text}{accepted}")).into()
}

/// YAML as JSON bytes; JSON passes through.
///
/// # Errors
/// 400 with the parser's text.
pub fn to_json(body: &bytes::Bytes, format: Format) -> Result<bytes::Bytes> {
    match format {
        Format::Json => Ok(body.clone()),
        Format::Yaml => {
            let value: serde_json::Value = serde_saphyr::from_slice(body).map_err(|error| {
                Status::bad_request(format!("error converting YAML to JSON: {}", yaml_error(&error)))
            })?;
            Ok(serde_json::to_vec(&value).expect("a tree is JSON").into())
        }
    }
}

/// What is wrong with a YAML text, in the form of Go's yaml.
fn yaml_error(error: &serde_saphyr::Error) -> String {
    let line = error.location().map_or(0, |location| location.line());
    match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("yaml: unmarshal errors:\n  line {line}: key {key:?} already set in map")
        }
        other => format!("yaml: {other}"),
    }
}

/// JSON bytes in the form that the answer has.
pub fn render(json: bytes::Bytes, media: Media) -> bytes::Bytes {
    if media.format == Format::Json && !media.pretty {
        return json;
    }
    let value: serde_json::Value = serde_json::from_slice(&json).expect("what is served is JSON");
    match media.format {
        Format::Json => {
            let mut text = serde_json::to_vec_pretty(&value).expect("a tree is JSON");
            text.push(b'\n');
            text.into()
        }
        Format::Yaml => serde_saphyr::to_string(&value).expect("a tree is YAML").into_bytes().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str) -> Result<Media> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, text.parse().unwrap());
        Media::accept(&headers, None)
    }

    #[test]
    fn the_first_form_that_we_know_wins() {
        assert_eq!(accept("application/vnd.kubernetes.protobuf,application/json").unwrap(), Media::JSON);
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(kubectl).unwrap().shape, Shape::Table);
        assert_eq!(
            accept("application/json;as=Table;v=v9;g=meta.k8s.io,application/json").unwrap().shape,
            Shape::Object
        );
        assert_eq!(accept("*/*").unwrap(), Media::JSON);
        assert_eq!(accept("application/vnd.kubernetes.protobuf").unwrap_err().code, 406);
        assert_eq!(
            accept("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").unwrap().shape,
            Shape::Partial
        );
    }

    #[test]
    fn what_has_no_table_shows_none() {
        let accept = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, text.parse().unwrap());
            Media::accept_object(&headers)
        };
        assert_eq!(accept("application/json;as=Table;v=v1;g=meta.k8s.io").unwrap_err().code, 406);
        let fallback = "application/json;as=Table;v=v1;g=meta.k8s.io, application/yaml";
        assert_eq!(accept(fallback).unwrap(), Media { format: Format::Yaml, ..Media::JSON });
        assert_eq!(Media::accept_object(&HeaderMap::new()).unwrap(), Media::JSON);
    }

    #[test]
    fn yaml_comes_in_and_goes_out() {
        let json = to_json(&"a: {b: [1, \"x\"]}\n".into(), Format::Yaml).unwrap();
        assert_eq!(json, r#"{"a":{"b":[1,"x"]}}"#);
        let yaml = render(json, Media { format: Format::Yaml, ..Media::JSON });
        let back: serde_json::Value = serde_saphyr::from_slice(&yaml).unwrap();
        assert_eq!(back["a"]["b"][1], "x");
    }

    #[test]
    fn a_key_that_comes_twice_is_named_with_its_line() {
        let error = to_json(&"a: 1\nb:\n  foo: x\n  foo: y\n".into(), Format::Yaml).unwrap_err();
        let text = "error converting YAML to JSON: yaml: unmarshal errors:\n  line 4: key \"foo\" already set in map";
        assert_eq!((error.code, error.message.as_str()), (400, text));
        let error = to_json(&"a: [1\n".into(), Format::Yaml).unwrap_err();
        assert!(!error.message.contains("-->"), "one line, without a picture: {}", error.message);
    }

    #[test]
    fn protobuf_bodies_are_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "application/vnd.kubernetes.protobuf".parse().unwrap());
        assert_eq!(body_format(&headers).unwrap_err().code, 415);
    }
}
