//! The server's side of WebSockets (RFC 6455) and the subprotocols of Kubernetes' streams
//! (`k8s.io/apimachinery/pkg/util/remotecommand`).
use super::upgrade;
use crate::body::Body;
use api::Status;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use futures::{Sink, SinkExt};
use http::{HeaderValue, Request, Response, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message, handshake};

/// Streams in channels, the newest first. The nameless one is the first version's.
pub const CHANNEL_PROTOCOLS: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];
/// One stream of bytes to the client.
pub const READER_PROTOCOLS: [&str; 2] = ["binary.k8s.io", "base64.binary.k8s.io"];
/// kubectl's port-forward: SPDY bytes in binary messages.
pub const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

/// The longest message that is accepted; kubectl's are 32 KB.
const MESSAGE_BYTES: usize = 1024 * 1024;
/// How long a client may take to answer our close.
const CLOSE: Duration = Duration::from_secs(1);

pub type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// A handshake that was accepted: what to answer, and what follows.
pub struct Accepted {
    /// The chosen subprotocol; empty: none.
    pub protocol: String,
    pub response: Response<Body>,
    pub client: OnUpgrade,
}

/// Checks a handshake and chooses the first of the client's subprotocols that is `supported`.
///
/// # Errors
/// 400 for what is no handshake or names only unknown subprotocols.
pub fn accept<B>(request: &mut Request<B>, supported: &[&str]) -> Result<Accepted, Status> {
    let headers = request.headers();
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(Status::bad_request("unable to upgrade: only version 13 of WebSocket is served"));
    }
    let key = text(header::SEC_WEBSOCKET_KEY).ok_or_else(|| Status::bad_request("Sec-WebSocket-Key is missing"))?;
    let key = handshake::derive_accept_key(key.as_bytes());
    let offered: Vec<&str> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .filter(|protocol| !protocol.is_empty())
        .collect();
    let chosen = offered.iter().find(|protocol| supported.contains(protocol));
    if chosen.is_none() && !offered.is_empty() {
        let message =
            format!("unable to upgrade: requested protocol(s) are not supported: {offered:?}; supports {supported:?}");
        return Err(Status::bad_request(message));
    }
    let protocol = chosen.map_or_else(String::new, |protocol| protocol.to_string());
    let mut response = upgrade::switching("websocket");
    let value = |text: &str| HeaderValue::from_str(text).map_err(Status::internal);
    response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, value(&key)?);
    if !protocol.is_empty() {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, value(&protocol)?);
    }
    Ok(Accepted { protocol, response, client: upgrade::client(request) })
}

/// The socket after the handshake.
pub async fn server(io: TokioIo<hyper::upgrade::Upgraded>) -> Socket {
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES)).max_frame_size(Some(MESSAGE_BYTES));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// Sends one message and flushes.
///
/// # Errors
/// The connection's end.
pub async fn send<S: Sink<Message, Error = Error> + Unpin>(socket: &mut S, message: Message) -> Result<(), Error> {
    socket.send(message).await
}

/// Says goodbye, and gives the client a moment to take it.
pub async fn close<S: Sink<Message, Error = Error> + Unpin>(socket: &mut S) {
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let _ = tokio::time::timeout(CLOSE, socket.send(Message::Close(Some(frame)))).await;
}

/// A message of bytes that belong to no channel.
pub fn encode_plain(data: Bytes, base64: bool) -> Message {
    if base64 { Message::Text(BASE64.encode(data).into()) } else { Message::Binary(data) }
}

/// A message of a channel: its number, then the bytes.
pub fn encode(channel: u8, data: &[u8], base64: bool) -> Message {
    if base64 {
        let mut text = char::from(b'0' + channel).to_string();
        BASE64.encode_string(data, &mut text);
        return Message::Text(text.into());
    }
    let mut bytes = BytesMut::with_capacity(data.len() + 1);
    bytes.extend_from_slice(&[channel]);
    bytes.extend_from_slice(data);
    Message::Binary(bytes.freeze())
}

/// Reads a channel's message; none: it is of another sort, or empty.
pub fn decode(message: Message, base64: bool) -> Option<(u8, Bytes)> {
    match message {
        Message::Binary(mut bytes) if !base64 && !bytes.is_empty() => {
            let data = bytes.split_off(1);
            Some((bytes[0], data))
        }
        Message::Text(text) if base64 => {
            let (channel, data) = text.as_str().split_at_checked(1)?;
            Some((channel.as_bytes()[0].wrapping_sub(b'0'), BASE64.decode(data).ok()?.into()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake(protocols: &str) -> Request<()> {
        Request::get("/")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-protocol", protocols)
            .body(())
            .unwrap()
    }

    #[test]
    fn the_clients_first_known_protocol_is_chosen() {
        let accepted = accept(&mut handshake("x, v5.channel.k8s.io, v4.channel.k8s.io"), &CHANNEL_PROTOCOLS).unwrap();
        assert_eq!(accepted.protocol, "v5.channel.k8s.io");
        let key = &accepted.response.headers()[header::SEC_WEBSOCKET_ACCEPT];
        assert_eq!(key, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "the example of RFC 6455");
        assert_eq!(accept(&mut handshake("x"), &CHANNEL_PROTOCOLS).err().unwrap().code, 400);
        assert_eq!(accept(&mut handshake(""), &CHANNEL_PROTOCOLS).unwrap().protocol, "");
    }

    #[test]
    fn channels_come_back_in_both_codings() {
        for base64 in [false, true] {
            let (channel, data) = decode(encode(2, b"hello", base64), base64).unwrap();
            assert_eq!((channel, &data[..]), (2, &b"hello"[..]));
        }
        assert_eq!(decode(Message::Binary(Bytes::new()), false), None);
        assert_eq!(decode(Message::Text("0!".into()), true), None);
    }
}
