//! Frames of SPDY/3.1, read and written; nothing here does IO.
use super::headers::{self, Deflater, Headers, Inflater};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The longest frame that is accepted. Peers write what they were given at once, 32 KB mostly.
pub const FRAME_BYTES: usize = 1024 * 1024;

const CONTROL: u16 = 0x8000;
const VERSION: u16 = 3;
const FIN: u8 = 1;
const HEAD_BYTES: usize = 8;
const STREAM_MASK: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Status of a RST_STREAM that refuses a stream.
pub const REFUSED: u32 = 3;
/// Status of a RST_STREAM of a stream that is no longer wanted.
pub const CANCEL: u32 = 5;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Headers(#[from] headers::Error),
    #[error("a frame of {0} bytes is longer than {FRAME_BYTES}")]
    TooLong(usize),
    #[error("SPDY version {0} is not 3")]
    Version(u16),
    #[error("a frame of type {0} is shorter than its fields")]
    Short(u16),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    SynReply {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    Headers {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    Data {
        stream: u32,
        fin: bool,
        data: Bytes,
    },
    Reset {
        stream: u32,
        status: u32,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last_stream: u32,
        status: u32,
    },
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    /// Settings and whatever else asks for nothing.
    Other {
        kind: u16,
    },
}

/// Reads one direction of a connection.
#[derive(Default)]
pub struct Decoder {
    inflater: Inflater,
}

impl Decoder {
    /// Takes the next frame out of the buffer, once it is whole.
    ///
    /// # Errors
    /// What makes the rest of the connection unreadable.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Error> {
        let Some(head) = buffer.get(..HEAD_BYTES) else { return Ok(None) };
        let flags = head[4];
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if length > FRAME_BYTES {
            return Err(Error::TooLong(length));
        }
        if buffer.len() < HEAD_BYTES + length {
            buffer.reserve(HEAD_BYTES + length - buffer.len());
            return Ok(None);
        }
        let mut head = buffer.split_to(HEAD_BYTES);
        let body = buffer.split_to(length).freeze();
        let first = head.get_u32();
        let fin = flags & FIN != 0;
        if first & (u32::from(CONTROL) << 16) == 0 {
            return Ok(Some(Frame::Data { stream: first, fin, data: body }));
        }
        let (version, kind) = ((first >> 16) as u16 & !CONTROL, first as u16);
        if version != VERSION {
            return Err(Error::Version(version));
        }
        self.control(kind, fin, body).map(Some)
    }

    fn control(&mut self, kind: u16, fin: bool, mut body: Bytes) -> Result<Frame, Error> {
        let mut number = || body.try_get_u32().map_err(|_| Error::Short(kind));
        Ok(match kind {
            SYN_STREAM => {
                let (stream, _associated) = (number()? & STREAM_MASK, number()?);
                // Priority and slot.
                body.try_get_u16().map_err(|_| Error::Short(kind))?;
                Frame::SynStream { stream, fin, headers: self.inflater.inflate(&body)? }
            }
            SYN_REPLY => {
                let stream = number()? & STREAM_MASK;
                Frame::SynReply { stream, fin, headers: self.inflater.inflate(&body)? }
            }
            HEADERS => {
                let stream = number()? & STREAM_MASK;
                Frame::Headers { stream, fin, headers: self.inflater.inflate(&body)? }
            }
            RST_STREAM => Frame::Reset { stream: number()? & STREAM_MASK, status: number()? },
            PING => Frame::Ping { id: number()? },
            GOAWAY => Frame::GoAway { last_stream: number()? & STREAM_MASK, status: number()? },
            WINDOW_UPDATE => Frame::WindowUpdate { stream: number()? & STREAM_MASK, delta: number()? },
            kind => Frame::Other { kind },
        })
    }
}

/// Writes one direction of a connection.
#[derive(Default)]
pub struct Encoder {
    deflater: Deflater,
}

impl Encoder {
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::Data { stream, fin, data } => {
                out.put_u32(*stream);
                out.put_u32((u32::from(*fin) << 24) | data.len() as u32);
                out.put_slice(data);
            }
            Frame::SynStream { stream, fin, headers } => {
                let mut body = BytesMut::new();
                body.put_u32(*stream);
                body.put_u32(0);
                body.put_u16(0);
                body.put_slice(&self.deflater.deflate(headers));
                control(SYN_STREAM, *fin, &body, out);
            }
            Frame::SynReply { stream, fin, headers } => self.headers(SYN_REPLY, *stream, *fin, headers, out),
            Frame::Headers { stream, fin, headers } => self.headers(HEADERS, *stream, *fin, headers, out),
            Frame::Reset { stream, status } => numbers(RST_STREAM, &[*stream, *status], out),
            Frame::Ping { id } => numbers(PING, &[*id], out),
            Frame::GoAway { last_stream, status } => numbers(GOAWAY, &[*last_stream, *status], out),
            Frame::WindowUpdate { stream, delta } => numbers(WINDOW_UPDATE, &[*stream, *delta], out),
            Frame::Other { kind } => control(*kind, false, &[], out),
        }
    }

    fn headers(&mut self, kind: u16, stream: u32, fin: bool, headers: &[(String, String)], out: &mut BytesMut) {
        let mut body = BytesMut::new();
        body.put_u32(stream);
        body.put_slice(&self.deflater.deflate(headers));
        control(kind, fin, &body, out);
    }
}

fn control(kind: u16, fin: bool, body: &[u8], out: &mut BytesMut) {
    out.put_u16(CONTROL | VERSION);
    out.put_u16(kind);
    out.put_u32((u32::from(fin) << 24) | body.len() as u32);
    out.put_slice(body);
}

fn numbers(kind: u16, numbers: &[u32], out: &mut BytesMut) {
    let body: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
    control(kind, false, &body, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        let headers = |kind: &str| vec![("streamtype".to_owned(), kind.to_owned())];
        vec![
            Frame::SynStream { stream: 1, fin: false, headers: headers("error") },
            Frame::SynStream { stream: 3, fin: true, headers: headers("stdin") },
            Frame::SynReply { stream: 1, fin: false, headers: vec![] },
            Frame::Data { stream: 3, fin: false, data: Bytes::from_static(b"hello") },
            Frame::Data { stream: 3, fin: true, data: Bytes::new() },
            Frame::Headers { stream: 1, fin: false, headers: headers("more") },
            Frame::Reset { stream: 3, status: CANCEL },
            Frame::Ping { id: 2 },
            Frame::WindowUpdate { stream: 0, delta: 65536 },
            Frame::GoAway { last_stream: 3, status: 0 },
            Frame::Other { kind: 4 },
        ]
    }

    #[test]
    fn frames_come_back_however_the_bytes_are_cut() {
        let (mut encoder, mut wire) = (Encoder::default(), BytesMut::new());
        frames().iter().for_each(|frame| encoder.encode(frame, &mut wire));
        for step in [1, 2, 7, wire.len()] {
            let (mut decoder, mut buffer, mut got) = (Decoder::default(), BytesMut::new(), Vec::new());
            for chunk in wire.chunks(step) {
                buffer.put_slice(chunk);
                while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                    got.push(frame);
                }
            }
            assert_eq!(got, frames(), "cut every {step} bytes");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let decode = |bytes: &[u8]| Decoder::default().decode(&mut BytesMut::from(bytes));
        assert_eq!(decode(&[0x80, 2, 0, 6, 0, 0, 0, 0]), Err(Error::Version(2)));
        assert_eq!(decode(&[0x80, 3, 0, 6, 0, 0, 0, 0]), Err(Error::Short(PING)));
        assert_eq!(decode(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff]), Err(Error::TooLong(0xff_ffff)));
        assert!(decode(b"HTTP/1.1").is_err());
    }
}
