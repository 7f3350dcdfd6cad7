//! SPDY/3.1 as kubectl, kubelets and container runtimes speak it: enough of a client to open the streams of an
//! exec and carry them. Frames are pure; the connection is a reader, and a task that writes.
//!
//! Those peers do no flow control of their own: they grant no windows and expect none. So none is waited for;
//! a slow reader holds back its peer through TCP.

pub mod frame;
pub mod headers;

use bytes::BytesMut;
use frame::{Decoder, Encoder, Frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// Frames on their way to the peer; past it writers wait.
const OUTGOING_FRAMES: usize = 16;
/// Space made for each read.
const READ_BYTES: usize = 32 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Frame(#[from] frame::Error),
    #[error("the connection: {0}")]
    Io(#[from] std::io::Error),
    #[error("the connection ended in the middle of a frame")]
    Cut,
}

/// The reading end of a connection.
pub struct Reader<R> {
    io: R,
    decoder: Decoder,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(io: R) -> Self {
        Self { io, decoder: Decoder::default(), buffer: BytesMut::new() }
    }

    /// The next frame; none at the orderly end of the connection.
    ///
    /// # Errors
    /// Frames that are none, and the connection's own errors.
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(READ_BYTES);
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(Error::Cut) };
            }
        }
    }
}

/// The writing end: frames go through a bounded queue to the task that owns the connection's half.
#[derive(Clone)]
pub struct Writer {
    frames: mpsc::Sender<Frame>,
}

impl Writer {
    /// The writer, and the task that somebody must run for it.
    pub fn new<W: AsyncWrite + Unpin>(io: W) -> (Self, impl Future<Output = Result<(), Error>>) {
        let (frames, queue) = mpsc::channel(OUTGOING_FRAMES);
        (Self { frames }, write(io, queue))
    }

    /// Waits for space in the queue. Returns false when the connection is gone.
    pub async fn send(&self, frame: Frame) -> bool {
        self.frames.send(frame).await.is_ok()
    }

    /// Answers that may get lost when the queue is full: the reader must never wait for the writer.
    pub fn offer(&self, frame: Frame) {
        let _ = self.frames.try_send(frame);
    }
}

async fn write<W: AsyncWrite + Unpin>(mut io: W, mut queue: mpsc::Receiver<Frame>) -> Result<(), Error> {
    let mut encoder = Encoder::default();
    let mut buffer = BytesMut::new();
    while let Some(frame) = queue.recv().await {
        encoder.encode(&frame, &mut buffer);
        io.write_all_buf(&mut buffer).await?;
        io.flush().await?;
    }
    io.shutdown().await?;
    Ok(())
}
