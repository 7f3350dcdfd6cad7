//! Resources that are answered rather than stored: access and token reviews, and tokens of service accounts.

mod access;
mod token;
mod token_request;

use crate::body;
use crate::engine::media::{self, Media};
use crate::front::{Answer, Front, method_not_allowed};
use crate::request::{RequestInfo, User, Verb};
use api::Status;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

/// Whether this module answers the resource.
pub fn serves(info: &RequestInfo) -> bool {
    let token = (&*info.group, &*info.resource, &*info.subresource) == ("", "serviceaccounts", "token");
    token || matches!(&*info.group, "authentication.k8s.io" | "authorization.k8s.io")
}

/// A request for one of them.
pub(crate) struct Review<'a> {
    pub front: &'a Front,
    pub info: &'a RequestInfo,
    pub user: &'a User,
    pub now: jiff::Timestamp,
}

/// Answers a review, which is created and never read back.
///
/// # Errors
/// The Status to answer.
pub async fn serve(front: &Front, info: &RequestInfo, user: &User, headers: &HeaderMap, body: &Bytes) -> Answer {
    let review = Review { front, info, user, now: jiff::Timestamp::now() };
    if info.verb != Verb::Create {
        return Err(if review.kind().is_some() { method_not_allowed() } else { Status::no_such_path() });
    }
    let (kind, api_version) = review.kind().ok_or_else(Status::no_such_path)?;
    let media = Media::accept_object(headers).map_err(|status| *status)?;
    let mut object = read(headers, body)?;
    check_kind(&object, kind, api_version)?;
    object["kind"] = kind.into();
    object["apiVersion"] = api_version.into();
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    own(&mut object, headers, info, &seconds(review.now));
    let answer = review.answer(kind, object).await?;
    let mut response = body::json(StatusCode::CREATED, media::render(answer.to_string().into(), media));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media.content_type()));
    Ok(response)
}

/// Records who asks, as for an object that is stored.
fn own(object: &mut Value, headers: &HeaderMap, info: &RequestInfo, now: &str) {
    let schemas = api::schema::Schemas::builtin();
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let version = api::GroupVersion::parse(&api_version);
    let gvk = api::GroupVersionKind::new(version.group, version.version, kind.as_str());
    let (Some(definition), false) = (schemas.for_kind(&gvk), kind == "SelfSubjectRulesReview") else { return };
    api::default::default(&gvk, object, &definition.ty, schemas);
    let manager = crate::engine::write::manager(info.param("fieldManager").unwrap_or_default(), headers);
    let status = object.as_object_mut().and_then(|object| object.remove("status"));
    let writer =
        api::apply::Writer { manager: &manager, api_version: &api_version, subresource: &info.subresource, now };
    api::apply::update(None, object, &writer, &definition.ty, schemas);
    status.into_iter().for_each(|status| object["status"] = status);
}

impl Review<'_> {
    fn kind(&self) -> Option<(&'static str, &'static str)> {
        const AUTHENTICATION: &str = "authentication.k8s.io/v1";
        const AUTHORIZATION: &str = "authorization.k8s.io/v1";
        if self.info.version != "v1" {
            return None;
        }
        Some(match (&*self.info.resource, &*self.info.subresource) {
            ("serviceaccounts", "token") => ("TokenRequest", AUTHENTICATION),
            ("tokenreviews", "") => ("TokenReview", AUTHENTICATION),
            ("selfsubjectreviews", "") => ("SelfSubjectReview", AUTHENTICATION),
            ("subjectaccessreviews", "") => ("SubjectAccessReview", AUTHORIZATION),
            ("localsubjectaccessreviews", "") => ("LocalSubjectAccessReview", AUTHORIZATION),
            ("selfsubjectaccessreviews", "") => ("SelfSubjectAccessReview", AUTHORIZATION),
            ("selfsubjectrulesreviews", "") => ("SelfSubjectRulesReview", AUTHORIZATION),
            _ => return None,
        })
    }

    async fn answer(&self, kind: &str, mut object: Value) -> Result<Value, Status> {
        match kind {
            "TokenRequest" => return self.token_request(object).await,
            "TokenReview" => object["status"] = self.token_review(&object["spec"]).await?,
            "SelfSubjectReview" => {
                object["metadata"]["creationTimestamp"] = seconds(self.now).into();
                object["status"] = json!({"userInfo": user_info(self.user)});
            }
            "SelfSubjectRulesReview" => {
                object["status"] = self.rules(&object["spec"])?;
                object["spec"] = json!({});
            }
            kind => object["status"] = self.access(kind, &object)?,
        }
        Ok(object)
    }
}

/// Reads a JSON body.
fn read(headers: &HeaderMap, body: &Bytes) -> Result<Value, Status> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("application/json");
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    if !matches!(media_type, "application/json" | "") {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, not {media_type}"
        );
        return Err(Status::unsupported_media_type(message));
    }
    if body.is_empty() {
        return Ok(json!({}));
    }
    let value: Value = serde_json::from_slice(body).map_err(|error| Status::bad_request(error.to_string()))?;
    if value.is_object() { Ok(value) } else { Err(Status::bad_request("the body must be a JSON object")) }
}

fn check_kind(object: &Value, kind: &str, api_version: &str) -> Result<(), Status> {
    let differs =
        |field: &str, wanted: &str| object[field].as_str().is_some_and(|got| !got.is_empty() && got != wanted);
    if differs("kind", kind) || differs("apiVersion", api_version) {
        let text = |field: &str| object[field].as_str().unwrap_or_default();
        let message = format!(
            "{}, Kind={} in body does not match {api_version}, Kind={kind} of the path",
            text("apiVersion"),
            text("kind")
        );
        return Err(Status::bad_request(message));
    }
    Ok(())
}

/// `authentication/v1 UserInfo`.
fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn seconds(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn strings(value: &Value) -> Vec<String> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}
