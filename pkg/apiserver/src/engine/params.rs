//! Query parameters of the verbs, as `metav1.ListOptions` and its siblings define them.
use super::Result;
use crate::RequestInfo;
use crate::registry::Resource;
use api::Status;
use api::decode::FieldValidation;
use api::selector::{FieldSelector, LabelSelector};
use api::validate::{FieldError, Reason};
use std::time::Duration;

/// `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    Exact,
    NotOlderThan,
}

/// What a list or watch asks for.
#[derive(Clone, Debug)]
pub struct ListOptions {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    /// 0: everything.
    pub limit: usize,
    pub continue_token: String,
    /// None: not given; `Some(0)`: any.
    pub resource_version: Option<u64>,
    pub version_match: Option<VersionMatch>,
    pub timeout: Option<Duration>,
    pub bookmarks: bool,
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    /// # Errors
    /// 400 for what can't be read, 422 for what does not go together.
    pub fn parse(info: &RequestInfo, resource: &Resource) -> Result<Self> {
        let text = |name| info.param(name).unwrap_or_default();
        let labels = LabelSelector::parse(text("labelSelector")).map_err(bad)?;
        let mut fields = FieldSelector::parse(text("fieldSelector"), |f| supported(resource, f)).map_err(bad)?;
        fields = fields.renamed(|field| resource.field_alias(field));
        if !info.name.is_empty() {
            fields = only_name(&fields, &info.name)?;
        }
        let options = Self {
            labels,
            fields,
            limit: number(info, "limit")?.map_or(0, |limit: i64| usize::try_from(limit).unwrap_or(0)),
            continue_token: text("continue").into(),
            resource_version: resource_version(text("resourceVersion"))?,
            version_match: version_match(text("resourceVersionMatch"))?,
            timeout: number(info, "timeoutSeconds")?.filter(|&s| s > 0).map(Duration::from_secs),
            bookmarks: flag(info, "allowWatchBookmarks").unwrap_or(false),
            send_initial_events: flag(info, "sendInitialEvents"),
        };
        let errors = options.errors(text("resourceVersionMatch"), info.verb == crate::Verb::Watch);
        if errors.is_empty() { Ok(options) } else { Err(invalid_options("ListOptions", &errors)) }
    }

    /// Everything is asked for, filtered by nothing.
    pub fn selects_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// What `ValidateListOptions` checks.
    fn errors(&self, given_match: &str, watch: bool) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut forbid = |field: &str, detail: &str| errors.push(error(field, Reason::Forbidden, None, detail));
        let has_version = self.resource_version.is_some();
        if watch {
            if self.send_initial_events.is_some() && given_match.is_empty() {
                forbid(
                    "resourceVersionMatch",
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                );
            }
            if !given_match.is_empty() && self.send_initial_events.is_none() {
                forbid(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                );
            }
            if self.version_match == Some(VersionMatch::Exact) {
                errors.push(unsupported("resourceVersionMatch", given_match, "\"NotOlderThan\""));
            }
            return errors;
        }
        if self.send_initial_events.is_some() {
            forbid("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
        if !given_match.is_empty() {
            if !has_version {
                forbid("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if !self.continue_token.is_empty() {
                forbid("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
            }
            if self.version_match.is_none() {
                errors.push(unsupported("resourceVersionMatch", given_match, "\"Exact\", \"NotOlderThan\", \"\""));
            } else if self.version_match == Some(VersionMatch::Exact) && self.resource_version == Some(0) {
                forbid("resourceVersionMatch", "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
        }
        errors
    }
}

fn error(field: &str, reason: Reason, value: Option<&str>, detail: &str) -> FieldError {
    FieldError { field: field.into(), reason, value: value.map(Into::into), detail: detail.into() }
}

fn unsupported(field: &str, value: &str, supported: &str) -> FieldError {
    error(field, Reason::NotSupported, Some(value), &format!("supported values: {supported}"))
}

/// 422 of an options object.
pub fn invalid_options(kind: &str, errors: &[FieldError]) -> Box<Status> {
    let kind = api::GroupKind { group: "meta.k8s.io".into(), kind: kind.into() };
    Status::invalid(&kind, "", errors).into()
}

fn bad(error: impl std::fmt::Display) -> Box<Status> {
    Status::bad_request(error.to_string()).into()
}

fn supported(resource: &Resource, field: &str) -> std::result::Result<(), String> {
    let known = field == "metadata.name"
        || (field == "metadata.namespace" && resource.namespaced)
        || resource.selectable_fields.iter().any(|f| f == field)
        || resource.field_alias(field).is_some();
    if known {
        return Ok(());
    }
    if resource.selectable_fields.is_empty() && resource.custom.is_none() {
        let namespace = if resource.namespaced { ", \"metadata.namespace\"" } else { "" };
        return Err(format!("{field:?} is not a known field selector: only \"metadata.name\"{namespace}"));
    }
    Err(format!("field label not supported: {field}"))
}

/// A watch of one name may only narrow itself to that name.
fn only_name(fields: &FieldSelector, name: &str) -> Result<FieldSelector> {
    if fields.exact("metadata.name").is_some_and(|n| n != name) {
        return Err(bad("a fieldSelector of metadata.name must match the name in the path"));
    }
    FieldSelector::parse(&format!("metadata.name={name}"), |_| Ok(())).map_err(bad)
}

fn number<T: std::str::FromStr>(info: &RequestInfo, name: &str) -> Result<Option<T>> {
    match info.param(name) {
        None | Some("") => Ok(None),
        Some(text) => {
            text.parse().map(Some).map_err(|_| bad(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
        }
    }
}

/// A boolean as upstream's conversion reads it: anything but `0` and `false` is true.
pub fn flag(info: &RequestInfo, name: &str) -> Option<bool> {
    info.param(name).map(|text| !matches!(text.to_ascii_lowercase().as_str(), "false" | "0"))
}

pub fn resource_version(text: &str) -> Result<Option<u64>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        bad(format!("invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"))
    })
}

fn version_match(text: &str) -> Result<Option<VersionMatch>> {
    Ok(match text {
        "Exact" => Some(VersionMatch::Exact),
        "NotOlderThan" => Some(VersionMatch::NotOlderThan),
        _ => None,
    })
}

/// What every write may say (`CreateOptions`, `UpdateOptions`, `PatchOptions`).
#[derive(Clone, Debug)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    pub validation: FieldValidation,
    pub force: Option<bool>,
}

impl WriteOptions {
    /// The longest `fieldManager` (`ValidateFieldManager`).
    const MANAGER_LIMIT_BYTES: usize = 128;

    /// # Errors
    /// 422 as upstream's `ValidateCreateOptions`; `kind` names the options.
    pub fn parse(info: &RequestInfo, kind: &str) -> Result<Self> {
        let mut errors = Vec::new();
        let dry_run = dry_run(info.query.iter().filter(|(k, _)| k == "dryRun").map(|(_, v)| v.as_str()), &mut errors);
        let field_manager = info.param("fieldManager").unwrap_or_default().to_owned();
        check_manager(&field_manager, &mut errors);
        let given = info.param("fieldValidation").unwrap_or_default();
        let validation = match given {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.push(unsupported("fieldValidation", other, "\"\", \"Ignore\", \"Strict\", \"Warn\""));
                FieldValidation::Warn
            }
        };
        if !errors.is_empty() {
            return Err(invalid_options(kind, &errors));
        }
        Ok(Self { dry_run, field_manager, validation, force: flag(info, "force") })
    }
}

fn check_manager(manager: &str, errors: &mut Vec<FieldError>) {
    if manager.len() > WriteOptions::MANAGER_LIMIT_BYTES {
        let detail = format!("may not be more than {} bytes", WriteOptions::MANAGER_LIMIT_BYTES);
        errors.push(error("fieldManager", Reason::TooLong, None, &detail));
    }
    if manager.chars().any(char::is_control) {
        let detail = "should only contain printable characters";
        errors.push(error("fieldManager", Reason::Invalid, Some(manager), detail));
    }
}

/// `All` is the only dry run there is.
pub fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut Vec<FieldError>) -> bool {
    let given: Vec<&str> = values.filter(|v| !v.is_empty()).collect();
    if given.iter().any(|&v| v != "All") {
        let value = Some(serde_json::json!(given));
        let detail = "supported values: \"All\"".into();
        errors.push(FieldError { field: "dryRun".into(), reason: Reason::NotSupported, value, detail });
    }
    !given.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Verb;
    use crate::engine::testing;

    fn list(query: &[(&str, &str)]) -> Result<ListOptions> {
        let mut info = testing::info(Verb::List, "configmaps", "default", "");
        info.query = query.iter().map(|&(k, v)| (k.into(), v.into())).collect();
        ListOptions::parse(&info, &testing::resource("", "v1", "configmaps"))
    }

    #[test]
    fn options_that_do_not_go_together_are_refused() {
        let message = |q: &[(&str, &str)]| list(q).unwrap_err().message;
        assert!(message(&[("resourceVersionMatch", "Exact")]).contains("forbidden unless resourceVersion is provided"));
        assert!(
            message(&[("resourceVersion", "0"), ("resourceVersionMatch", "Exact")]).contains("\"exact\" is forbidden")
        );
        assert!(message(&[("sendInitialEvents", "true")]).contains("forbidden for list"));
        assert_eq!(
            message(&[("fieldSelector", "spec.x=1")]),
            "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
        assert_eq!(list(&[("resourceVersion", "x")]).unwrap_err().code, 400);
    }

    #[test]
    fn booleans_are_read_as_upstream_reads_them() {
        assert!(list(&[("allowWatchBookmarks", "")]).unwrap().bookmarks);
        assert!(list(&[("allowWatchBookmarks", "1")]).unwrap().bookmarks);
        assert!(!list(&[("allowWatchBookmarks", "False")]).unwrap().bookmarks);
    }
}
