//! Acknowledgements of pings ride along with answers. gRPC's Go client pings with nearly each request, to learn how much
//! fits on the way, and an answer of its own to each would be half of all writes and of what they cost. So they wait, a
//! little, for something else to be written; nothing is changed but when bytes go out, and never their order.
use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long one waits at most: long beside an answer, short beside the seconds that a client gives a ping.
const PATIENCE: Duration = Duration::from_millis(20);
/// The frame: its header (RFC 9113, 6.7: eight bytes, type 6, flag ACK, stream 0) and what was sent.
const HEADER: [u8; 9] = [0, 0, 8, 6, 1, 0, 0, 0, 0];
const FRAME_BYTES: usize = 17;
/// Parts of one write that are passed on together.
const PARTS: usize = 16;

/// A stream whose acknowledgements of pings wait.
pub struct Riding<S> {
    inner: S,
    waiting: Vec<u8>,
    until: Pin<Box<Sleep>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Riding<S> {
    pub fn new(inner: S) -> Self {
        Self { inner, waiting: Vec::new(), until: Box::pin(tokio::time::sleep(Duration::ZERO)) }
    }

    /// Writes what waits, then `parts`, in as few writes as possible. Returns how much of `parts` was taken.
    fn write_all(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        while !self.waiting.is_empty() {
            let mut all = [IoSlice::new(&[]); PARTS];
            all[0] = IoSlice::new(&self.waiting);
            let more = parts.len().min(PARTS - 1);
            all[1..=more].copy_from_slice(&parts[..more]);
            let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, &all[..=more]))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            let rest = written.checked_sub(self.waiting.len());
            self.waiting.drain(..written.min(self.waiting.len()));
            if let Some(taken @ 1..) = rest {
                return Poll::Ready(Ok(taken));
            }
        }
        match parts {
            [] => Poll::Ready(Ok(0)),
            parts => Pin::new(&mut self.inner).poll_write_vectored(cx, parts),
        }
    }

    /// Keeps one for later. False: it is none, or another waits already.
    fn keeps(&mut self, cx: &mut Context<'_>, part: &[u8]) -> bool {
        if part.len() != FRAME_BYTES || !part.starts_with(&HEADER) || !self.waiting.is_empty() {
            return false;
        }
        self.waiting.extend_from_slice(part);
        self.until.as_mut().reset(Instant::now() + PATIENCE);
        // Wakes whoever drives the connection, who will read and so come by.
        if self.until.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        true
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Riding<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        if !self.waiting.is_empty() && self.until.as_mut().poll(cx).is_ready() {
            // What can't be written yet wakes us when it can.
            if let Poll::Ready(Err(error)) = self.write_all(cx, &[]) {
                return Poll::Ready(Err(error));
            }
        }
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Riding<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        match parts {
            [part] if self.keeps(cx, part) => Poll::Ready(Ok(part.len())),
            parts => self.write_all(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// What waits goes on waiting: it is not for the peer to act on.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.write_all(cx, &[]))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    fn pong() -> Vec<u8> {
        [&HEADER[..], b"12345678"].concat()
    }

    /// Both ends, the first driven as a connection is: always reading.
    fn ends() -> (tokio::io::WriteHalf<Riding<DuplexStream>>, DuplexStream) {
        let (near, far) = tokio::io::duplex(20);
        let (mut reading, writing) = tokio::io::split(Riding::new(near));
        tokio::spawn(async move { reading.read(&mut [0; 8]).await });
        (writing, far)
    }

    async fn told(far: &mut DuplexStream, bytes: usize) -> Vec<u8> {
        let mut all = vec![0; bytes];
        far.read_exact(&mut all).await.unwrap();
        all
    }

    #[tokio::test]
    async fn it_goes_before_what_is_written_next() {
        let (mut near, mut far) = ends();
        let writes = tokio::spawn(async move {
            near.write_all(&pong()).await.unwrap();
            // More than fits at once.
            near.write_all(&[b'x'; 100]).await.unwrap();
            near.write_all(&pong()).await.unwrap();
            near.write_all(&pong()).await.unwrap();
            near.shutdown().await.unwrap();
        });
        assert_eq!(told(&mut far, 151).await, [&pong()[..], &[b'x'; 100], &pong(), &pong()].concat());
        writes.await.unwrap();
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn it_does_not_wait_for_ever() {
        let (mut near, mut far) = ends();
        near.write_all(&pong()).await.unwrap();
        let begun = Instant::now();
        assert_eq!(told(&mut far, FRAME_BYTES).await, pong());
        assert!(begun.elapsed() >= PATIENCE);
    }
}
