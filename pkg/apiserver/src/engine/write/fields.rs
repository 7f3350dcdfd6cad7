//! Who owns which field: what a write leaves in `managedFields`, and server-side apply.
use super::super::Result;
use super::{Scope, Write};
use api::Status;
use api::apply::Writer;
use http::header;
use serde_json::Value;

impl Write<'_> {
    /// Who is recorded as the fields' owner: the `fieldManager` parameter, else the client program's name.
    pub fn manager(&self) -> String {
        manager(&self.options.field_manager, &self.call.request.headers)
    }

    fn writer<'w>(&'w self, manager: &'w str, api_version: &'w str) -> Writer<'w> {
        let subresource = match self.scope {
            Scope::Main => "",
            _ => self.call.sub(),
        };
        Writer { manager, api_version, subresource, now: &self.now }
    }

    pub(super) fn record_fields(&self, live: Option<&Value>, new: &mut Value) {
        let resource = &self.call.resource;
        let (manager, version) = (self.manager(), resource.gvr.group_version().to_string());
        api::apply::update(live, new, &self.writer(&manager, &version), resource.ty(), &resource.schemas);
    }

    /// Server-side apply of a body on what is live.
    pub fn apply(&self, live: Option<&Value>, applied: &Value) -> Result<Value> {
        let resource = &self.call.resource;
        let version = resource.gvr.group_version().to_string();
        let writer = self.writer(&self.options.field_manager, &version);
        let force = self.options.force.unwrap_or(false);
        api::apply::apply(live, applied, &writer, force, resource.ty(), &resource.schemas)
            .map_err(|e| apply_failure(&e))
    }
}

/// Who owns what a request writes: who it says, else the client program's name.
pub fn manager(said: &str, headers: &http::HeaderMap) -> String {
    const MANAGER_CHARS: usize = 128;
    if !said.is_empty() {
        return said.to_owned();
    }
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let program = agent.split('/').next().unwrap_or_default();
    let manager: String = program.chars().filter(|c| !c.is_control()).take(MANAGER_CHARS).collect();
    if manager.is_empty() { "unknown".into() } else { manager }
}

/// An apply that can't be done, as the client reads it. What can't be typed is upstream's own failure.
fn apply_failure(error: &api::apply::Error) -> Box<Status> {
    match error {
        api::apply::Error::Conflicts(_) => Status::apply_conflict(error).into(),
        other if other.to_string().starts_with("failed to create typed patch object") => {
            Status::failure(500, "", other.to_string()).into()
        }
        other => Status::bad_request(other.to_string()).into(),
    }
}
