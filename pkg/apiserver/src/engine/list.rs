//! Lists: stored bytes of the matching objects, one after the other, without parsing them.
use super::media::{self, Shape};
use super::output::{self, Form};
use super::params::{ListOptions, VersionMatch};
use super::{Call, Result, errors, served, splice};
use crate::Body;
use crate::registry::Resource;
use api::Status;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use std::sync::Arc;
use store::{Entry, Range, Revision};

/// Bodies above this go out in pieces of this size, made as the client reads them.
const CHUNK_BYTES: usize = 256 << 10;
/// Entries read from the store at once while looking for a page of matches.
const SCAN_ENTRIES: usize = 1_000;

pub async fn list(call: &Call<'_>) -> Result<Response<Body>> {
    let options = ListOptions::parse(call.info(), &call.resource)?;
    let found = find(call, &options).await?;
    Ok(render(call, found))
}

/// What a list shows.
pub struct Found {
    pub revision: Revision,
    pub entries: Vec<Arc<Entry>>,
    /// Where the next page starts.
    next: Option<String>,
    /// Objects beyond this page, where that is known.
    remaining: Option<u64>,
}

/// The page of matching entries.
pub async fn find(call: &Call<'_>, options: &ListOptions) -> Result<Found> {
    let plan = Plan::new(call, options).await?;
    let everything = options.selects_everything();
    let mut found = Found { revision: Revision::ZERO, entries: Vec::new(), next: None, remaining: None };
    let (mut range, mut at) = (plan.range.clone(), plan.at);
    loop {
        let want = match options.limit {
            0 => 0,
            limit if everything => limit,
            limit => limit.max(SCAN_ENTRIES),
        };
        let page = call.backend().list(&range, at, want).await.map_err(|e| plan.expired(e))?;
        found.revision = page.revision;
        at = Some(page.revision);
        let last = page.entries.last().map(|e| e.key.clone());
        let entries = served::entries(&call.engine.reach, &call.resource, page.entries).await?;
        let count = entries.len();
        for (i, entry) in entries.into_iter().enumerate() {
            if !matches(&call.resource, &entry, options) {
                continue;
            }
            let key = entry.key.clone();
            found.entries.push(entry);
            let more = page.more || i + 1 < count;
            if options.limit > 0 && found.entries.len() == options.limit && more {
                found.next = Some(plan.token(&key, page.revision));
                found.remaining = everything.then(|| page.count - count as u64);
                return Ok(found);
            }
        }
        match last {
            Some(last) if page.more => range.start = after(&last),
            _ => return Ok(found),
        }
    }
}

/// The first key after `key`.
fn after(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

/// Whether the selectors choose an entry, by its summary.
pub fn matches(resource: &Resource, entry: &Entry, options: &ListOptions) -> bool {
    if options.selects_everything() {
        return true;
    }
    let Some((namespace, name)) = resource.parse_key(&entry.key) else { return false };
    let summary = &entry.summary;
    options.labels.matches(summary) && options.fields.matches_summary(namespace, name, summary)
}

/// Which keys, at which revision.
struct Plan {
    prefix: String,
    range: Range,
    at: Option<Revision>,
    /// The revision of the token that this continues.
    continued: bool,
}

impl Plan {
    async fn new(call: &Call<'_>, options: &ListOptions) -> Result<Self> {
        let prefix = call.resource.range_prefix(call.namespace());
        let range = range(call, options);
        if options.continue_token.is_empty() {
            let at = revision(call, options).await?;
            return Ok(Self { prefix, range, at, continued: false });
        }
        if options.resource_version.is_some_and(|v| v != 0) {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue").into());
        }
        let token = Token::decode(&options.continue_token)?;
        let start = format!("{prefix}{}", token.start);
        let range = Range { start: start.into_bytes().into(), end: range.end };
        let at = (token.rv > 0).then(|| Revision::from_u64(token.rv as u64));
        Ok(Self { prefix, range, at, continued: true })
    }

    fn token(&self, last: &[u8], revision: Revision) -> String {
        let rest = String::from_utf8_lossy(&last[self.prefix.len()..]);
        Token { rv: revision.get() as i64, start: format!("{rest}\0") }.encode()
    }

    /// A page that can't be continued consistently offers to go on inconsistently, as upstream does.
    fn expired(&self, error: store::Error) -> Box<Status> {
        let gone = matches!(error, store::Error::Compacted { .. } | store::Error::Foreign { .. });
        if !gone || !self.continued {
            return errors::from_store(error);
        }
        let start = String::from_utf8_lossy(&self.range.start[self.prefix.len()..]).into_owned();
        let text = "The provided continue parameter is too old to display a consistent list result. You can start a new \
                    list without the continue parameter, or use the continue token in this response to retrieve the \
                    remainder of the results. Continuing with the provided token results in an inconsistent list - \
                    objects that were created, modified, or deleted between the time the first chunk was returned and \
                    now may show up in the list.";
        let mut status = Status::expired(text);
        status.set_continue(Token { rv: -1, start }.encode());
        status.into()
    }
}

/// One object, one namespace, or all.
pub fn range(call: &Call<'_>, options: &ListOptions) -> Range {
    let namespace = call.namespace();
    match options.fields.exact("metadata.name") {
        Some(name) if !call.resource.namespaced || !namespace.is_empty() => {
            Range::key(call.resource.key(namespace, name).into_bytes())
        }
        _ => Range::prefix(call.resource.range_prefix(namespace).into_bytes()),
    }
}

/// Whether the store has come as far as a revision.
///
/// # Errors
/// 504 when it has not.
pub async fn reached(call: &Call<'_>, wanted: u64) -> Result<()> {
    let backend = call.backend();
    if wanted > backend.current_revision().get() {
        let latest = backend.latest().await.map_err(errors::from_store)?;
        if wanted > latest.get() {
            return Err(errors::too_large_version(wanted, latest).into());
        }
    }
    Ok(())
}

/// The past revision to read at; none: now (`resourceVersion` semantics of the API concepts page).
async fn revision(call: &Call<'_>, options: &ListOptions) -> Result<Option<Revision>> {
    let wanted = options.resource_version.unwrap_or(0);
    if wanted == 0 {
        return Ok(None);
    }
    reached(call, wanted).await?;
    let wanted = Revision::from_u64(wanted);
    let exact = match options.version_match {
        Some(VersionMatch::Exact) => true,
        Some(VersionMatch::NotOlderThan) => false,
        None => options.limit > 0,
    };
    if !call.backend().is_own(wanted) {
        return Err(errors::from_store(store::Error::Foreign { requested: wanted, server: wanted.server() }));
    }
    Ok(exact.then_some(wanted))
}

/// Where a list goes on; the same encoding as upstream's.
#[derive(serde::Serialize, serde::Deserialize)]
struct TokenText {
    v: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
}

struct Token {
    /// -1: at whatever is current.
    rv: i64,
    start: String,
}

impl Token {
    fn encode(&self) -> String {
        let text = TokenText { v: "meta.k8s.io/v1".into(), rv: self.rv, start: self.start.clone() };
        BASE64.encode(serde_json::to_vec(&text).expect("text is JSON"))
    }

    fn decode(text: &str) -> Result<Self> {
        let bad = |why: &str| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = decode_loosely(text).map_err(|e| bad(&e))?;
        let token: TokenText = serde_json::from_slice(&bytes)
            .map_err(|e| bad(&api::go_json::syntax_error(&bytes).unwrap_or_else(|| e.to_string())))?;
        match (token.v.as_str(), token.rv) {
            ("meta.k8s.io/v1", 0) => {
                Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)").into())
            }
            ("meta.k8s.io/v1", _) if token.start.is_empty() => {
                Err(bad("encoded start key empty (version meta.k8s.io/v1)").into())
            }
            ("meta.k8s.io/v1", rv) => Ok(Self { rv, start: token.start }),
            (other, _) => Err(bad(&format!("server does not recognize this encoded version {other:?}")).into()),
        }
    }
}

/// base64 of which the end may be missing, as Go's decoder of such tokens takes it.
fn decode_loosely(text: &str) -> std::result::Result<Vec<u8>, String> {
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&base64::alphabet::URL_SAFE, config).decode(text).map_err(|error| match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => {
            format!("illegal base64 data at input byte {at}")
        }
        _ => format!("illegal base64 data at input byte {}", text.len()),
    })
}

impl Found {
    fn metadata(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if let Some(token) = &self.next {
            meta["continue"] = token.clone().into();
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
        meta
    }
}

pub fn render(call: &Call<'_>, found: Found) -> Response<Body> {
    let form = Form::new(call);
    if call.media.shape == Shape::Table {
        let printer = form.printer();
        let objects = found.entries.iter().filter_map(|e| form.parse(&splice::object(e)));
        let rows = objects.map(|o| form.row(&*printer, &o)).collect();
        let table = form.table(&*printer, found.metadata(), rows, true);
        let bytes = serde_json::to_vec(&table).expect("a tree is JSON").into();
        return output::content(StatusCode::OK, call.media.content_type(), media::render(bytes, call.media));
    }
    let (kind, version) = match call.media.shape {
        Shape::Partial => ("PartialObjectMetadataList".into(), "meta.k8s.io/v1".into()),
        _ => (call.resource.list_kind.clone(), call.resource.gvr.group_version().to_string()),
    };
    let mut metadata = found.metadata();
    if call.resource.custom.is_some() && call.media.shape == Shape::Object && found.next.is_none() {
        // Upstream's lists of custom resources are maps, which leave nothing out.
        metadata["continue"] = "".into();
    }
    let head = format!(r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{metadata},"items":["#);
    let pieces = Pieces { form, entries: found.entries, at: 0, head: Some(head), done: false };
    let plain = media::Media { shape: call.media.shape, ..media::Media::JSON };
    if call.media != plain {
        let whole = pieces.flatten().fold(BytesMut::new(), |mut all, piece| {
            all.put_slice(&piece);
            all
        });
        return output::content(StatusCode::OK, call.media.content_type(), media::render(whole.freeze(), call.media));
    }
    stream(pieces, call.media.content_type())
}

/// A small list whole, a large one in pieces.
fn stream(mut pieces: Pieces, media_type: &'static str) -> Response<Body> {
    let first = pieces.next().unwrap_or_else(|| Ok(Bytes::new())).unwrap_or_default();
    if pieces.done {
        return output::content(StatusCode::OK, media_type, first);
    }
    let frames = std::iter::once(Ok(first)).chain(pieces).map(|piece| piece.map(Frame::data));
    let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// The body of a list, piece by piece.
struct Pieces {
    form: Form,
    entries: Vec<Arc<Entry>>,
    at: usize,
    head: Option<String>,
    done: bool,
}

impl Iterator for Pieces {
    type Item = std::io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let left: usize = self.entries[self.at..].iter().map(|e| e.value.len() + splice::SPLICE_BYTES).sum();
        let mut out = BytesMut::with_capacity(left.min(CHUNK_BYTES) + 256);
        if let Some(head) = self.head.take() {
            out.put_slice(head.as_bytes());
        }
        while let Some(entry) = self.entries.get(self.at) {
            if self.at > 0 {
                out.put_u8(b',');
            }
            if self.form.is_raw() {
                splice::append(&mut out, entry, entry.mod_revision);
            } else {
                out.put_slice(&self.form.object(entry, entry.mod_revision));
            }
            self.at += 1;
            if out.len() >= CHUNK_BYTES {
                return Some(Ok(out.freeze()));
            }
        }
        out.put_slice(b"]}");
        self.done = true;
        Some(Ok(out.freeze()))
    }
}
