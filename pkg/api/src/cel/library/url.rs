//! URLs (`k8s.io/apiserver/pkg/cel/library/urls.go`): absolute ones, and absolute paths.
use super::{Entry, Methods, failed, opaque, wrong};
use crate::cel::{Error, Key, Opaque, Value};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use url::Url as Parsed;

pub const FUNCTIONS: &[Entry] = &[
    ("url(string) kubernetes.URL", |args| {
        let Some(of) = args[0].as_str() else { return wrong("url") };
        parse(of).map(opaque).ok_or_else(|| failed(format!("URL parse error during conversion from string: {of:?}")))
    }),
    ("isURL(string) bool", |args| {
        args[0].as_str().map_or_else(|| wrong("isURL"), |of| Ok(Value::Bool(parse(of).is_some())))
    }),
];

pub const METHODS: Methods = ".getScheme(kubernetes.URL) string; .getHost(kubernetes.URL) string; \
    .getHostname(kubernetes.URL) string; .getPort(kubernetes.URL) string; .getEscapedPath(kubernetes.URL) string; \
    .getQuery(kubernetes.URL) map<string, list<string>>";

#[derive(Clone, Debug)]
struct Url {
    text: String,
    /// None for a path alone, which is read against a base.
    absolute: bool,
    parsed: Parsed,
}

fn parse(of: &str) -> Option<Url> {
    let clean = of.chars().all(|c| !c.is_ascii_control() && c != ' ');
    let absolute = !of.starts_with('/');
    let parsed = match absolute {
        true => Parsed::parse(of).ok()?,
        false => Parsed::parse("http://localhost").ok()?.join(of).ok()?,
    };
    clean.then(|| Url { text: of.into(), absolute, parsed })
}

impl Url {
    /// `host`, `host:port` or `[v6]:port` as written.
    fn authority(&self) -> &str {
        let Some((_, rest)) = self.text.split_once("://").filter(|_| self.absolute) else { return "" };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.rsplit('@').next().unwrap_or_default()
    }

    fn port(&self) -> &str {
        let authority = self.authority();
        let after = authority.rsplit(']').next().unwrap_or_default();
        after.rsplit_once(':').map_or("", |(_, port)| port)
    }

    fn hostname(&self) -> &str {
        let host = self.authority().strip_suffix(self.port()).unwrap_or_default();
        let host = if self.port().is_empty() { host } else { host.trim_end_matches(':') };
        host.trim_start_matches('[').trim_end_matches(']')
    }

    fn path(&self) -> &str {
        if self.absolute && self.parsed.path() == "/" && !self.text.split("://").nth(1).is_some_and(|r| r.contains('/'))
        {
            return "";
        }
        self.parsed.path()
    }

    fn query(&self) -> Value<'static> {
        let mut all: BTreeMap<Key, Vec<Value<'static>>> = BTreeMap::new();
        for (name, value) in self.parsed.query_pairs() {
            all.entry(Key::String(name.into())).or_default().push(Value::string(value));
        }
        Value::Map(Arc::new(all.into_iter().map(|(name, values)| (name, Value::list(values))).collect()))
    }
}

impl Opaque for Url {
    fn type_name(&self) -> &'static str {
        "kubernetes.URL"
    }

    fn call(&self, function: &str, _: &[Value<'_>]) -> Result<Value<'static>, Error> {
        Ok(match function {
            "getScheme" => Value::string(if self.absolute { self.parsed.scheme() } else { "" }),
            "getHost" => Value::string(self.authority()),
            "getHostname" => Value::string(self.hostname()),
            "getPort" => Value::string(self.port()),
            "getEscapedPath" => Value::string(self.path()),
            "getQuery" => self.query(),
            _ => return wrong(function),
        })
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref::<Self>().is_some_and(|other| other.text == self.text)
    }

    fn text(&self) -> Option<String> {
        Some(self.text.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
