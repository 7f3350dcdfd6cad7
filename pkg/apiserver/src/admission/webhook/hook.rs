//! One webhook of a configuration, ready to be matched and called.
use crate::admission::cache;
use crate::admission::expressions::{Conditions, environment};
use crate::admission::rules::Matcher;
use crate::webhook::{Client, Place};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use store::Entry;

/// What a configuration that leaves it out gets (its default, too).
const TIMEOUT_SECONDS: u64 = 10;

pub struct Hook {
    /// Configuration, name and position: who is called again is remembered by it.
    pub id: String,
    pub name: String,
    pub matcher: Matcher,
    pub conditions: Conditions,
    /// `failurePolicy: Ignore`.
    pub fails_open: bool,
    pub timeout: Duration,
    /// Whether it may be called for a dry run.
    pub dry_runs: bool,
    /// `reinvocationPolicy: IfNeeded`.
    pub reinvoked: bool,
    /// The first of its review versions that we speak: `v1` or `v1beta1`.
    pub version: Option<&'static str>,
    /// The error says what is wrong with `clientConfig`.
    pub client: Result<Client, String>,
}

/// The webhooks of a stored configuration.
pub fn parse(entry: &Entry) -> Vec<Arc<Hook>> {
    let Some(configuration) = cache::object(entry) else { return Vec::new() };
    let name = configuration["metadata"]["name"].as_str().unwrap_or_default();
    let hooks = configuration["webhooks"].as_array().into_iter().flatten().enumerate();
    hooks.map(|(index, hook)| Arc::new(Hook::new(name, index, hook))).collect()
}

impl Hook {
    fn new(configuration: &str, index: usize, hook: &Value) -> Self {
        let name = hook["name"].as_str().unwrap_or_default().to_owned();
        let config = &hook["clientConfig"];
        let ca_bundle = config["caBundle"].as_str().unwrap_or_default();
        Self {
            id: format!("{configuration}/{name}/{index}"),
            matcher: Matcher::parse(hook, "rules"),
            conditions: Conditions::parse(&hook["matchConditions"], &environment(false, &[])),
            fails_open: hook["failurePolicy"] == "Ignore",
            timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(TIMEOUT_SECONDS)),
            dry_runs: matches!(hook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")),
            reinvoked: hook["reinvocationPolicy"] == "IfNeeded",
            version: version(&hook["admissionReviewVersions"]),
            client: Place::parse(config).and_then(|place| Client::new(place, ca_bundle)),
            name,
        }
    }
}

fn version(versions: &Value) -> Option<&'static str> {
    let mut given = versions.as_array().into_iter().flatten().filter_map(Value::as_str);
    given.find_map(|version| ["v1", "v1beta1"].into_iter().find(|known| *known == version))
}
