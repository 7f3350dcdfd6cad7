//! What a request asks for, read from its method and path alone
//! (`k8s.io/apiserver/pkg/endpoints/request`).
use http::{Method, Uri};
use std::collections::BTreeMap;

/// Who is asking, as authentication found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user of these groups; `system:authenticated` is added, as for everybody who proved a name.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|&g| g.into()).collect();
        groups.push(AUTHENTICATED.into());
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// Who shows no credentials at all.
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..Self::default() }
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// The group of everybody whose credentials hold.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of the anonymous user.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of who shows no credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group that authorization never refuses.
pub const MASTERS: &str = "system:masters";

/// RBAC's verbs, and the one of connect subresources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
    /// OPTIONS, which proxies alone hand on. RBAC's verb for it is empty: only who may do everything may do it.
    Options,
}

impl Verb {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Options => "",
        }
    }

    /// The method that stands for it.
    pub fn method(self) -> Method {
        match self {
            Self::Get | Self::List | Self::Watch => Method::GET,
            Self::Create => Method::POST,
            Self::Update => Method::PUT,
            Self::Patch => Method::PATCH,
            Self::Delete | Self::DeleteCollection => Method::DELETE,
            Self::Options => Method::OPTIONS,
        }
    }

    fn of(method: &Method) -> Option<Self> {
        match *method {
            Method::GET | Method::HEAD => Some(Self::Get),
            Method::POST => Some(Self::Create),
            Method::PUT => Some(Self::Update),
            Method::PATCH => Some(Self::Patch),
            Method::DELETE => Some(Self::Delete),
            Method::OPTIONS => Some(Self::Options),
            _ => None,
        }
    }
}

/// A request for a resource: `/api/v1/namespaces/NS/pods/NAME/SUB` or `/apis/GROUP/VERSION/...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestInfo {
    pub verb: Verb,
    pub group: String,
    pub version: String,
    /// Empty: cluster scope, or all namespaces.
    pub namespace: String,
    pub resource: String,
    /// Empty: the object itself. `proxy` may be followed by a path, which is in `path`.
    pub subresource: String,
    /// Empty: the collection.
    pub name: String,
    /// What follows the subresource, without the leading slash.
    pub path: String,
    /// Decoded query parameters in order; keys may repeat.
    pub query: Vec<(String, String)>,
}

impl RequestInfo {
    /// The path and query that are read as this.
    pub fn uri(&self) -> Uri {
        let mut path = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        let own_name = self.resource == "namespaces";
        let namespace = Some(&self.namespace).filter(|namespace| !namespace.is_empty() && !own_name);
        let place = namespace.into_iter().flat_map(|namespace| ["namespaces", namespace]);
        let rest = [&*self.resource, &self.name, &self.subresource].into_iter().filter(|part| !part.is_empty());
        for part in place.chain(rest) {
            path.push('/');
            path.push_str(&percent_encode(part));
        }
        for (n, (key, value)) in self.query.iter().enumerate() {
            path.push(if n == 0 { '?' } else { '&' });
            path.push_str(&format!("{}={}", percent_encode(key), percent_encode(value)));
        }
        // Everything outside the alphabet of URIs is encoded.
        Uri::try_from(path).unwrap_or_default()
    }

    /// The first value of a query parameter.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The name that authorization sees: a list or watch whose field selector pins `metadata.name` counts as a
    /// request for that object alone.
    pub fn authorized_name(&self) -> &str {
        if self.name.is_empty() && matches!(self.verb, Verb::List | Verb::Watch) {
            self.param("fieldSelector").and_then(exact_name).unwrap_or("")
        } else {
            &self.name
        }
    }

    /// Requests that last as long as the client likes: outside the in-flight limits and the timeout.
    pub fn is_long_running(&self) -> bool {
        const SUBRESOURCES: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];
        self.verb == Verb::Watch || SUBRESOURCES.contains(&&*self.subresource)
    }

    pub fn is_mutating(&self) -> bool {
        !matches!(self.verb, Verb::Get | Verb::List | Verb::Watch)
    }
}

/// The name of a field selector's `metadata.name=X` term.
fn exact_name(selector: &str) -> Option<&str> {
    selector.split(',').find_map(|term| {
        let (key, value) = term.split_once("==").or_else(|| term.split_once('='))?;
        let valid = !value.is_empty() && value != "." && value != ".." && !value.contains(['/', '%']);
        (key == "metadata.name" && valid).then_some(value)
    })
}

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Resource(RequestInfo),
    /// Health, discovery, metrics, and whatever nobody serves; the path is decoded, the verb is the method in
    /// lower case.
    NonResource {
        path: String,
        verb: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the path is not valid percent-encoded UTF-8")]
    Encoding,
    #[error("unable to determine kind and namespace from url, {0}")]
    Incomplete(String),
    /// A resource's path with a method that stands for no verb.
    #[error("method {0} is not supported on resources")]
    Method(Method),
}

/// Reads method and URI.
pub fn parse(method: &Method, uri: &Uri) -> Result<Target, Error> {
    let path = percent_decode(uri.path(), false).ok_or(Error::Encoding)?;
    let query = uri.query().map(parse_query).unwrap_or_default();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, rest) = match parts[..] {
        ["api", ref rest @ ..] if rest.len() >= 2 => ("", rest),
        ["apis", group, ref rest @ ..] if rest.len() >= 2 => (group, rest),
        _ => return Ok(Target::NonResource { verb: method.as_str().to_lowercase(), path }),
    };
    let (version, rest) = (rest[0], &rest[1..]);
    let mut verb = Verb::of(method).ok_or_else(|| Error::Method(method.clone()))?;
    let rest = match rest {
        ["watch" | "proxy"] => return Err(Error::Incomplete(uri.to_string())),
        // The deprecated form /api/v1/watch/...
        ["watch", rest @ ..] => {
            verb = Verb::Watch;
            rest
        }
        _ => rest,
    };
    let mut info = split_resource(rest, verb, query);
    (info.group, info.version) = (group.into(), version.into());
    if verb == Verb::Options && info.subresource != "proxy" {
        return Err(Error::Method(method.clone()));
    }
    refine_verb(&mut info);
    Ok(Target::Resource(info))
}

/// `namespaces/NS/RESOURCE/NAME/SUB/PATH...` and its shorter forms.
fn split_resource(parts: &[&str], verb: Verb, query: Vec<(String, String)>) -> RequestInfo {
    let (namespace, parts) = match *parts {
        ["namespaces", namespace, sub, ..] if !matches!(sub, "status" | "finalize") => (namespace, &parts[2..]),
        ["namespaces", namespace, ..] => (namespace, parts),
        _ => ("", parts),
    };
    let at = |i: usize| parts.get(i).copied().unwrap_or_default().to_owned();
    RequestInfo {
        verb,
        group: String::new(),
        version: String::new(),
        namespace: namespace.into(),
        resource: at(0),
        name: at(1),
        subresource: at(2),
        path: parts.get(3..).unwrap_or_default().join("/"),
        query,
    }
}

/// A get without a name is a list or a watch; a delete without one is of the collection.
fn refine_verb(info: &mut RequestInfo) {
    match info.verb {
        Verb::Get if info.name.is_empty() => {
            let watch = info.param("watch").is_some_and(|v| !matches!(v.to_lowercase().as_str(), "false" | "0"));
            info.verb = if watch { Verb::Watch } else { Verb::List };
        }
        Verb::Delete if info.name.is_empty() => info.verb = Verb::DeleteCollection,
        Verb::Watch if !info.name.is_empty() => {
            let name = std::mem::take(&mut info.name);
            info.query.push(("fieldSelector".into(), format!("metadata.name={name}")));
        }
        _ => {}
    }
}

/// Decodes `a=b&c=d`; what is not valid UTF-8 is dropped.
pub fn parse_query(query: &str) -> Vec<(String, String)> {
    let pair = |text: &str| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        Some((percent_decode(key, true)?, percent_decode(value, true)?))
    };
    query.split('&').filter(|text| !text.is_empty()).filter_map(pair).collect()
}

/// Decodes `%41`, and `+` as a space where `plus` says so.
fn percent_decode(text: &str, plus: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            b'+' if plus => b' ',
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

/// Encodes what may not stand in a query as it is.
pub fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(method: &str, uri: &str) -> RequestInfo {
        match parse(&method.parse().unwrap(), &uri.parse().unwrap()).unwrap() {
            Target::Resource(info) => info,
            other => panic!("{uri} is {other:?}"),
        }
    }

    /// `verb group/version namespace resource name subresource path`, `-` for nothing.
    fn text(info: &RequestInfo) -> String {
        let or = |s: &str| if s.is_empty() { "-".to_owned() } else { s.to_owned() };
        let fields =
            [&info.group, &info.version, &info.namespace, &info.resource, &info.name, &info.subresource, &info.path];
        format!("{} {}", info.verb.as_str(), fields.map(|s| or(s)).join(" "))
    }

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        let table = [
            ("GET", "/api/v1/namespaces", "list - v1 - namespaces - - -"),
            ("GET", "/api/v1/namespaces/other", "get - v1 other namespaces other - -"),
            ("GET", "/api/v1/namespaces/other/pods", "list - v1 other pods - - -"),
            ("GET", "/api/v1/namespaces/other/pods/foo", "get - v1 other pods foo - -"),
            ("HEAD", "/api/v1/namespaces/other/pods/foo", "get - v1 other pods foo - -"),
            ("GET", "/api/v1/pods", "list - v1 - pods - - -"),
            ("POST", "/api/v1/namespaces/other/pods", "create - v1 other pods - - -"),
            ("PUT", "/api/v1/namespaces/other/pods/foo", "update - v1 other pods foo - -"),
            ("PATCH", "/api/v1/namespaces/other/pods/foo", "patch - v1 other pods foo - -"),
            ("DELETE", "/api/v1/namespaces/other/pods/foo", "delete - v1 other pods foo - -"),
            ("DELETE", "/api/v1/namespaces/other/pods", "deletecollection - v1 other pods - - -"),
            ("GET", "/api/v1/pods?watch=true", "watch - v1 - pods - - -"),
            ("GET", "/api/v1/pods?watch=1", "watch - v1 - pods - - -"),
            ("GET", "/api/v1/pods?watch=0", "list - v1 - pods - - -"),
            ("GET", "/api/v1/pods?watch", "watch - v1 - pods - - -"),
            ("GET", "/api/v1/watch/namespaces/other/pods", "watch - v1 other pods - - -"),
            ("PUT", "/api/v1/namespaces/other/finalize", "update - v1 other namespaces other finalize -"),
            ("PUT", "/api/v1/namespaces/other/status", "update - v1 other namespaces other status -"),
            ("GET", "/apis/apps/v1/namespaces/a/deployments/b/scale", "get apps v1 a deployments b scale -"),
            (
                "GET",
                "/apis/rbac.authorization.k8s.io/v1/clusterroles",
                "list rbac.authorization.k8s.io v1 - clusterroles - - -",
            ),
            ("GET", "/api/v1/nodes/n/proxy/logs/a%20b/", "get - v1 - nodes n proxy logs/a b"),
            ("POST", "/api/v1/namespaces/a/pods/b/exec?command=ls", "create - v1 a pods b exec -"),
            ("GET", "/api/v1/namespaces/a/services/https:s:443/proxy/x/y", "get - v1 a services https:s:443 proxy x/y"),
            ("GET", "//api/v1/pods/", "list - v1 - pods - - -"),
        ];
        for (method, uri, want) in table {
            assert_eq!(text(&resource(method, uri)), want, "{method} {uri}");
        }
    }

    #[test]
    fn a_request_for_an_object_is_written_as_it_was_read() {
        for (method, uri) in [
            ("GET", "/api/v1/namespaces/other"),
            ("PUT", "/api/v1/namespaces/other/finalize"),
            ("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/b?fieldManager=x%20y&dryRun=All"),
            ("PATCH", "/api/v1/nodes/n/status"),
            ("DELETE", "/api/v1/namespaces/a/pods"),
            ("POST", "/api/v1/namespaces/a/pods/b/binding"),
        ] {
            let info = resource(method, uri);
            assert_eq!((info.verb.method().as_str(), info.uri().to_string().as_str()), (method, uri));
        }
    }

    #[test]
    fn what_names_no_resource() {
        for path in [
            "/",
            "/healthz",
            "/api",
            "/api/v1",
            "/apis",
            "/apis/apps",
            "/apis/apps/v1",
            "/livez/ping",
            "/other/v1/pods",
        ] {
            let got = parse(&Method::GET, &path.parse().unwrap()).unwrap();
            assert_eq!(got, Target::NonResource { path: path.into(), verb: "get".into() });
        }
    }

    #[test]
    fn a_field_selector_on_the_name_counts_for_authorization_only() {
        let info = resource("GET", "/api/v1/pods?watch=true&fieldSelector=metadata.name%3Dfoo,status.phase!%3DX");
        assert_eq!((info.verb, &*info.name, info.authorized_name()), (Verb::Watch, "", "foo"));
        assert_eq!(resource("GET", "/api/v1/pods?fieldSelector=metadata.name!%3Dfoo").authorized_name(), "");
        assert_eq!(resource("GET", "/api/v1/watch/namespaces/a/pods/foo").authorized_name(), "foo");
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let get = |uri: &str| parse(&Method::GET, &uri.parse().unwrap());
        assert!(matches!(get("/api/v1/watch"), Err(Error::Incomplete(_))));
        assert_eq!(get("/api/v1/pods/%zz"), Err(Error::Encoding));
        assert!(matches!(parse(&Method::OPTIONS, &"/api/v1/pods".parse().unwrap()), Err(Error::Method(_))));
        let proxied = parse(&Method::OPTIONS, &"/api/v1/namespaces/a/pods/p/proxy/x".parse().unwrap());
        assert!(matches!(proxied, Ok(Target::Resource(RequestInfo { verb: Verb::Options, .. }))));
    }

    #[test]
    fn queries_are_decoded_in_order() {
        let got = parse_query("command=sh&command=-c&command=a+b%26&tty");
        let want = [("command", "sh"), ("command", "-c"), ("command", "a b&"), ("tty", "")];
        assert_eq!(got, want.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(percent_encode("a b&/ü"), "a%20b%26%2F%C3%BC");
    }
}
