//! Between a WebSocket with channels and the SPDY streams of an agent: stdin, stdout, stderr, errors, resizes.
//!
//! The two directions run apart from each other, so that a container that does not read can't keep its own
//! output from the client.
use crate::connect::websocket::{self, Socket};
use crate::request::RequestInfo;
use crate::spdy::frame::{self, Frame};
use crate::spdy::{Reader, Writer};
use api::Status;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::{SplitSink, SplitStream};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Message;

/// How long an agent may take to acknowledge the streams, as upstream.
const REPLIES: Duration = Duration::from_secs(30);
/// Frames kept while the acknowledgements come in.
const EARLY_FRAMES: usize = 64;
/// What an error stream may hold.
const ERROR_BYTES: usize = 64 * 1024;

/// Numbers of the channels.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Version 5: the byte that follows names the channel that ends.
const CLOSE: u8 = 255;

/// What the client wants to be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Streams {
    /// Reads the parameters; a terminal has no stderr of its own.
    ///
    /// # Errors
    /// 400 when nothing is wanted.
    pub fn read(info: &RequestInfo) -> Result<Self, Status> {
        let on =
            |name: &str| info.param(name).is_some_and(|value| !matches!(value.to_lowercase().as_str(), "false" | "0"));
        let tty = on("tty");
        // `kubectl attach` and others leave stdout and stderr to their defaults.
        let default_on = |name: &str| if info.param(name).is_none() { info.subresource == "attach" } else { on(name) };
        let streams =
            Self { stdin: on("stdin"), stdout: default_on("stdout"), stderr: default_on("stderr") && !tty, tty };
        if info.subresource == "exec" && !info.query.iter().any(|(key, _)| key == "command") {
            return Err(Status::bad_request("you must specify at least 1 command for exec"));
        }
        if !(streams.stdin || streams.stdout || streams.stderr) {
            return Err(Status::bad_request("you must specify at least one of stdin, stdout, stderr"));
        }
        Ok(streams)
    }
}

/// The streams toward the agent, in the order in which they are opened.
#[derive(Clone, Copy, Debug, Default)]
struct Ids {
    error: u32,
    stdin: Option<u32>,
    stdout: Option<u32>,
    stderr: Option<u32>,
    resize: Option<u32>,
}

impl Ids {
    fn new(streams: Streams) -> Self {
        let mut next = 1;
        let mut take = |wanted: bool| {
            wanted.then(|| {
                next += 2;
                next
            })
        };
        let (stdin, stdout, stderr) = (take(streams.stdin), take(streams.stdout), take(streams.stderr));
        Self { error: 1, stdin, stdout, stderr, resize: take(streams.tty) }
    }

    fn named(&self) -> impl Iterator<Item = (u32, &'static str)> {
        let optional =
            [(self.stdin, "stdin"), (self.stdout, "stdout"), (self.stderr, "stderr"), (self.resize, "resize")];
        std::iter::once((self.error, "error")).chain(optional.into_iter().filter_map(|(id, name)| Some((id?, name))))
    }
}

/// Runs a whole session: dials the agent, carries, reports how it ended, closes.
pub async fn run<A>(socket: Socket, protocol: &str, streams: Streams, dial: impl Future<Output = Result<A, Status>>)
where
    A: AsyncRead + AsyncWrite + Unpin,
{
    let base64 = protocol.contains("base64");
    let (mut to_client, from_client) = socket.split();
    // Tells the client that its streams are there, as upstream does.
    let first = if streams.stdout {
        STDOUT
    } else if streams.stderr {
        STDERR
    } else {
        ERROR
    };
    if websocket::send(&mut to_client, websocket::encode(first, &[], base64)).await.is_err() {
        return;
    }
    let session = Session { ids: Ids::new(streams), base64, half_close: protocol.starts_with("v5.") };
    let status = match dial.await {
        Ok(agent) => session.carry(agent, &mut to_client, from_client).await,
        Err(status) => Some(status.to_json().into()),
    };
    let Some(status) = status.and_then(|status| last_word(protocol, status)) else {
        return websocket::close(&mut to_client).await;
    };
    let _ = websocket::send(&mut to_client, websocket::encode(ERROR, &status, base64)).await;
    websocket::close(&mut to_client).await;
}

/// What the error channel says at last: a Status from version 4 of the protocol on; before, an error's text alone,
/// and nothing after success (`k8s.io/kubelet/pkg/cri/streaming/remotecommand`, `v1WriteStatusFunc`).
fn last_word(protocol: &str, status: Bytes) -> Option<Bytes> {
    if protocol.starts_with("v4.") || protocol.starts_with("v5.") {
        return Some(status);
    }
    let status: serde_json::Value = serde_json::from_slice(&status).ok()?;
    match status["status"].as_str() {
        Some("Success") => None,
        _ => Some(status["message"].as_str().unwrap_or_default().to_owned().into()),
    }
}

struct Session {
    ids: Ids,
    base64: bool,
    half_close: bool,
}

impl Session {
    /// Until the container or the client ends. Returns what the error channel says; none: nobody is there to
    /// read it.
    async fn carry<A: AsyncRead + AsyncWrite + Unpin>(
        &self,
        agent: A,
        to_client: &mut SplitSink<Socket, Message>,
        from_client: SplitStream<Socket>,
    ) -> Option<Bytes> {
        let (read, write) = tokio::io::split(agent);
        let mut reader = Reader::new(read);
        let (writer, writing) = Writer::new(write);
        let session = async {
            let early = match tokio::time::timeout(REPLIES, self.open(&mut reader, &writer)).await {
                Ok(Ok(early)) => early,
                Ok(Err(status)) => return Some(status.to_json().into()),
                Err(_) => return Some(Status::internal("the agent did not open the streams in time").to_json().into()),
            };
            tokio::select! {
                ended = self.downward(&mut reader, early, &writer, to_client) => ended,
                () = self.upward(from_client, &writer) => None,
            }
        };
        tokio::select! {
            ended = session => ended,
            failed = async {
                match writing.await {
                    Err(error) => error,
                    // The writer lives as long as the session: it can't end well before it.
                    Ok(()) => std::future::pending().await,
                }
            } => Some(Status::internal(failed).to_json().into()),
        }
    }

    /// Opens the streams and waits until each is acknowledged: the peer drops data that comes before.
    async fn open<R: AsyncRead + Unpin>(
        &self,
        reader: &mut Reader<R>,
        writer: &Writer,
    ) -> Result<VecDeque<Frame>, Status> {
        let mut waiting: Vec<u32> = Vec::new();
        for (stream, name) in self.ids.named() {
            let headers = vec![("streamtype".to_owned(), name.to_owned())];
            writer.send(Frame::SynStream { stream, fin: false, headers }).await;
            waiting.push(stream);
        }
        let mut early = VecDeque::new();
        while !waiting.is_empty() {
            match reader.next().await.map_err(Status::internal)? {
                Some(Frame::SynReply { stream, .. }) => waiting.retain(|id| *id != stream),
                Some(Frame::Reset { stream, .. }) if waiting.contains(&stream) => {
                    return Err(Status::internal("the agent refused a stream"));
                }
                Some(Frame::Ping { id }) => writer.offer(Frame::Ping { id }),
                Some(frame) if early.len() < EARLY_FRAMES => early.push_back(frame),
                Some(_) => return Err(Status::internal("the agent sent too much before opening the streams")),
                None => return Err(Status::internal("the agent closed the connection")),
            }
        }
        Ok(early)
    }

    /// From the client to the container; ends when the client does.
    async fn upward(&self, mut from_client: SplitStream<Socket>, writer: &Writer) {
        while let Some(Ok(message)) = from_client.next().await {
            if matches!(message, Message::Close(_)) {
                return;
            }
            let Some((channel, data)) = websocket::decode(message, self.base64) else { continue };
            let frame = match channel {
                STDIN => self.ids.stdin.map(|stream| Frame::Data { stream, fin: false, data }),
                RESIZE => self.ids.resize.map(|stream| Frame::Data { stream, fin: false, data }),
                CLOSE if self.half_close && data.first() == Some(&STDIN) => {
                    self.ids.stdin.map(|stream| Frame::Data { stream, fin: true, data: Bytes::new() })
                }
                _ => None,
            };
            if let Some(frame) = frame
                && !writer.send(frame).await
            {
                return;
            }
        }
    }

    /// From the container to the client, until all its streams have ended; returns what the error stream said.
    async fn downward<R: AsyncRead + Unpin>(
        &self,
        reader: &mut Reader<R>,
        mut early: VecDeque<Frame>,
        writer: &Writer,
        to_client: &mut SplitSink<Socket, Message>,
    ) -> Option<Bytes> {
        let mut open: Vec<u32> =
            [Some(self.ids.error), self.ids.stdout, self.ids.stderr].into_iter().flatten().collect();
        let mut error = BytesMut::new();
        while !open.is_empty() {
            let frame = match early.pop_front() {
                Some(frame) => Some(frame),
                None => match reader.next().await {
                    Ok(frame) => frame,
                    Err(failure) if error.is_empty() => return Some(Status::internal(failure).to_json().into()),
                    Err(_) => None,
                },
            };
            match frame {
                Some(Frame::Data { stream, fin, data }) => {
                    if stream == self.ids.error {
                        let space = ERROR_BYTES.saturating_sub(error.len());
                        error.extend_from_slice(&data[..data.len().min(space)]);
                    } else if let Some(channel) = self.channel(stream).filter(|_| !data.is_empty()) {
                        websocket::send(to_client, websocket::encode(channel, &data, self.base64)).await.ok()?;
                    }
                    open.retain(|id| !(fin && *id == stream));
                }
                Some(Frame::Reset { stream, .. }) => open.retain(|id| *id != stream),
                Some(Frame::Ping { id }) if id % 2 == 0 => writer.offer(Frame::Ping { id }),
                Some(Frame::SynStream { stream, .. }) => writer.offer(Frame::Reset { stream, status: frame::REFUSED }),
                Some(Frame::GoAway { .. }) | None => break,
                Some(_) => {}
            }
        }
        Some(if error.is_empty() { Status::success(None).to_json().into() } else { error.freeze() })
    }

    fn channel(&self, stream: u32) -> Option<u8> {
        if self.ids.stdout == Some(stream) { Some(STDOUT) } else { (self.ids.stderr == Some(stream)).then_some(STDERR) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(query: &str) -> RequestInfo {
        let uri = format!("/api/v1/namespaces/a/pods/b/exec?{query}").parse().unwrap();
        match crate::request::parse(&http::Method::GET, &uri).unwrap() {
            crate::request::Target::Resource(info) => info,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn parameters_name_the_streams() {
        let read = |query: &str| Streams::read(&info(query));
        let all = Streams { stdin: true, stdout: true, stderr: true, tty: false };
        assert_eq!(read("command=sh&stdin=true&stdout=1&stderr=true"), Ok(all));
        let terminal = Streams { stdin: true, stdout: true, stderr: false, tty: true };
        assert_eq!(read("command=sh&stdin=true&stdout=true&stderr=true&tty=true"), Ok(terminal));
        assert_eq!(read("command=sh").unwrap_err().code, 400);
        assert_eq!(read("stdout=true").unwrap_err().message, "you must specify at least 1 command for exec");
    }

    #[test]
    fn old_protocols_hear_of_errors_alone() {
        let well: Bytes = r#"{"status":"Success"}"#.into();
        let wrong: Bytes = r#"{"status":"Failure","message":"exit code 1"}"#.into();
        assert_eq!(last_word("v4.channel.k8s.io", well.clone()), Some(well.clone()));
        assert_eq!(last_word("channel.k8s.io", well), None);
        assert_eq!(last_word("base64.channel.k8s.io", wrong), Some("exit code 1".into()));
    }

    #[test]
    fn streams_are_numbered_in_order() {
        let names =
            |streams| Ids::new(streams).named().map(|(id, name)| format!("{id}{name}")).collect::<Vec<_>>().join(" ");
        let all = Streams { stdin: true, stdout: true, stderr: true, tty: false };
        assert_eq!(names(all), "1error 3stdin 5stdout 7stderr");
        assert_eq!(names(Streams { stdin: false, stderr: false, tty: true, ..all }), "1error 3stdout 5resize");
    }
}
