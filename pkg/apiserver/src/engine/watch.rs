//! Watches: the store's changes as JSON lines, filtered by what each object was and is.
use super::list::{self, Found};
use super::media::Shape;
use super::output::Form;
use super::params::{ListOptions, VersionMatch};
use super::{Call, Result, errors, served};
use crate::Body;
use crate::endpoints::Reach;
use crate::registry::Resource;
use api::Status;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use store::{Change, Entry, Revision, WatchFrom, WatchItem};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often a watch that asked for bookmarks gets one when nothing else happens.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long a watch lasts that names no timeout: upstream's `--min-request-timeout`, up to twice that.
const LEAST_TIMEOUT_SECONDS: u64 = 1_800;
/// Events of the initial state are sent in pieces of about this size.
const CHUNK_BYTES: usize = 64 << 10;

pub async fn watch(call: &Call<'_>) -> Result<Response<Body>> {
    let options = ListOptions::parse(call.info(), &call.resource)?;
    let stream = match begin(call, options).await {
        Ok(stream) => futures::future::Either::Left(stream.frames()),
        // Upstream's watch cache answers 200 and says what is wrong as the first event.
        Err(status) if status.code == 410 => {
            let event = error_event(&status);
            futures::future::Either::Right(futures::stream::once(async move { Ok(Frame::data(event)) }))
        }
        Err(status) => return Err(status),
    };
    let mut response = Response::new(match stream {
        futures::future::Either::Left(frames) => StreamBody::new(frames).boxed_unsync(),
        futures::future::Either::Right(frames) => StreamBody::new(frames).boxed_unsync(),
    });
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Reads the initial state where one is asked for, and starts the store's watch after it.
async fn begin(call: &Call<'_>, options: ListOptions) -> Result<Stream> {
    let range = list::range(call, &options);
    let wants_state = match options.send_initial_events {
        Some(wanted) => wanted,
        None => options.resource_version.unwrap_or(0) == 0,
    };
    let (initial, from) = if wants_state {
        let at = ListOptions {
            limit: 0,
            continue_token: String::new(),
            version_match: Some(VersionMatch::NotOlderThan),
            ..options.clone()
        };
        let Found { revision, entries, .. } = list::find(call, &at).await?;
        (VecDeque::from(entries), WatchFrom::After(revision))
    } else {
        match options.resource_version.unwrap_or(0) {
            0 => (VecDeque::new(), WatchFrom::After(call.backend().current_revision())),
            after => (VecDeque::new(), WatchFrom::After(Revision::from_u64(after))),
        }
    };
    let started = match from {
        WatchFrom::After(revision) | WatchFrom::At(revision) => revision,
        WatchFrom::Now => Revision::ZERO,
    };
    let watch = call.backend().watch(range, from).await.map_err(errors::from_store)?;
    let announces_end = options.send_initial_events == Some(true) && options.bookmarks;
    let timeout = options.timeout.unwrap_or_else(default_timeout);
    Ok(Stream {
        form: Form::new(call),
        resource: call.resource.clone(),
        options,
        watch,
        reach: call.engine.reach.clone(),
        initial,
        announce_end_at: announces_end.then_some(started),
        seen: started,
        deadline: Instant::now() + timeout,
        next_bookmark: Instant::now() + BOOKMARK_EVERY,
        columns_sent: false,
        over: false,
        ending: call.engine.ending.clone(),
    })
}

/// Spread, so that clients don't all come back at once.
fn default_timeout() -> Duration {
    let extra = rand::random_range(0..LEAST_TIMEOUT_SECONDS);
    Duration::from_secs(LEAST_TIMEOUT_SECONDS + extra)
}

/// A running watch.
struct Stream {
    form: Form,
    resource: Arc<Resource>,
    options: ListOptions,
    watch: Box<dyn store::Watch>,
    reach: Reach,
    initial: VecDeque<Arc<Entry>>,
    /// The initial state ends with a bookmark of this revision.
    announce_end_at: Option<Revision>,
    /// The newest revision that the client knows of, by event or bookmark.
    seen: Revision,
    deadline: Instant,
    next_bookmark: Instant,
    columns_sent: bool,
    over: bool,
    ending: CancellationToken,
}

enum Wake {
    Item(Option<store::Result<WatchItem>>),
    Bookmark,
    Deadline,
}

impl Stream {
    fn frames(self) -> impl futures::Stream<Item = std::io::Result<Frame<Bytes>>> + Send {
        futures::stream::unfold(self, |mut stream| async move {
            let bytes = stream.next().await?;
            Some((Ok(Frame::data(bytes)), stream))
        })
    }

    /// The next piece of the body; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        if let Some(piece) = self.initial_piece() {
            return Some(piece);
        }
        loop {
            let wake = self.wait().await;
            let piece = match wake {
                Wake::Item(Some(Ok(item))) => match served::item(&self.reach, &self.resource, item).await {
                    Ok(item) => self.item(item),
                    Err(status) => {
                        self.over = true;
                        Some(error_event(&status))
                    }
                },
                Wake::Item(Some(Err(store::Error::Closed)) | None) => return None,
                Wake::Item(Some(Err(error))) => {
                    self.over = true;
                    Some(error_event(&errors::from_store(error)))
                }
                Wake::Bookmark => {
                    self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                    self.watch.request_progress();
                    None
                }
                Wake::Deadline => return None,
            };
            if piece.is_some() {
                return piece;
            }
        }
    }

    async fn wait(&mut self) -> Wake {
        tokio::select! {
            biased;
            () = self.ending.cancelled() => Wake::Deadline,
            item = self.watch.next() => Wake::Item(item),
            () = tokio::time::sleep_until(self.next_bookmark), if self.options.bookmarks => Wake::Bookmark,
            () = tokio::time::sleep_until(self.deadline) => Wake::Deadline,
        }
    }

    fn initial_piece(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        while out.len() < CHUNK_BYTES {
            let Some(entry) = self.initial.pop_front() else { break };
            self.event(&mut out, "ADDED", &entry, entry.mod_revision);
        }
        if self.initial.is_empty()
            && let Some(revision) = self.announce_end_at.take()
        {
            self.bookmark(&mut out, revision, true);
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    fn item(&mut self, item: WatchItem) -> Option<Bytes> {
        let mut out = BytesMut::new();
        match item {
            WatchItem::Changes(changes) => {
                for change in &changes {
                    self.change(&mut out, change);
                }
            }
            WatchItem::Progress(revision) if self.options.bookmarks && revision > self.seen => {
                self.bookmark(&mut out, revision, false);
            }
            WatchItem::Progress(_) => {}
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    /// What a change is to this watcher: an object that starts to match is added, one that ceases is deleted.
    fn change(&mut self, out: &mut BytesMut, change: &Change) {
        let wanted = |entry: &&Arc<Entry>| list::matches(&self.resource, entry, &self.options);
        let (now, before) = (change.entry.as_ref().filter(wanted), change.previous.as_ref().filter(wanted));
        let (kind, entry) = match (now, before) {
            (Some(now), None) => ("ADDED", now.clone()),
            (Some(now), Some(_)) => ("MODIFIED", now.clone()),
            (None, Some(before)) => ("DELETED", before.clone()),
            (None, None) => return,
        };
        self.event(out, kind, &entry, change.revision);
    }

    fn event(&mut self, out: &mut BytesMut, kind: &str, entry: &Entry, revision: Revision) {
        let object = if self.form.media.shape == Shape::Table {
            let columns = !std::mem::replace(&mut self.columns_sent, true);
            let value = self.form.parse(&super::splice::at_revision(entry, revision));
            value.map(|v| self.form.value(v, columns)).unwrap_or_default()
        } else {
            self.form.object(entry, revision)
        };
        line(out, kind, &object);
        self.seen = self.seen.max(revision);
    }

    fn bookmark(&mut self, out: &mut BytesMut, revision: Revision, ends_initial: bool) {
        let mut object = json!({
            "kind": self.resource.kind,
            "apiVersion": self.resource.gvr.group_version().to_string(),
            "metadata": {"resourceVersion": revision.to_string(), "creationTimestamp": null},
        });
        if ends_initial {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form.media.shape {
            Shape::Object => serde_json::to_vec(&object).expect("a tree is JSON").into(),
            Shape::Partial => serde_json::to_vec(&super::output::partial(&object)).expect("a tree is JSON").into(),
            Shape::Table => self.empty_table(&object),
        };
        line(out, "BOOKMARK", &object);
        self.seen = self.seen.max(revision);
        self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
    }

    fn empty_table(&mut self, object: &Value) -> Bytes {
        let columns = !std::mem::replace(&mut self.columns_sent, true);
        let printer = self.form.printer();
        let table = self.form.table(&*printer, object["metadata"].clone(), Vec::new(), columns);
        serde_json::to_vec(&table).expect("a tree is JSON").into()
    }
}

fn line(out: &mut BytesMut, kind: &str, object: &[u8]) {
    out.reserve(object.len() + 40);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    let start = out.len();
    out.put_slice(object);
    // A line is an event. What others stored may hold line breaks, which in JSON stand between values only.
    out[start..].iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
    out.put_slice(b"}\n");
}

fn error_event(status: &Status) -> Bytes {
    let mut out = BytesMut::new();
    line(&mut out, "ERROR", &status.to_json());
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_however_it_was_stored() {
        let mut out = BytesMut::new();
        line(&mut out, "ADDED", b"{\"a\": \"x\\ny\",\n\"b\": 1\n}\n");
        let (text, end) = out.split_at(out.len() - 1);
        assert!(end == b"\n" && !text.contains(&b'\n'));
        let event: Value = serde_json::from_slice(text).unwrap();
        assert_eq!(event["object"], json!({"a": "x\ny", "b": 1}));
    }
}
