//! Streams that end when who is at their other end is trusted no longer. An upgraded connection (exec, port-forward, a
//! tunnel) outlives the server that accepted it: whoever holds it then sees it fail.
use futures::future::BoxFuture;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream, until its end comes.
pub struct Guarded<S> {
    stream: S,
    /// None: it has come.
    end: Option<BoxFuture<'static, String>>,
}

impl<S> Guarded<S> {
    /// `end` says why, when it comes.
    pub fn new<E: fmt::Display>(stream: S, end: impl Future<Output = E> + Send + 'static) -> Self {
        Self { stream, end: Some(Box::pin(async move { end.await.to_string() })) }
    }

    /// Wakes the task again when the end comes.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(end) = &mut self.end else { return Err(io::ErrorKind::ConnectionAborted.into()) };
        match end.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(why) => {
                self.end = None;
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, why))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // The waker is the reader's: to write is to look, and to be told is for who waits.
        match &self.end {
            Some(_) => Pin::new(&mut self.stream).poll_write(context, bytes),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &self.end {
            Some(_) => Pin::new(&mut self.stream).poll_write_vectored(context, slices),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_stream_ends_while_it_is_waited_for() {
        let (near, mut far) = tokio::io::duplex(64);
        let (end, ended) = tokio::sync::oneshot::channel();
        let mut near = Guarded::new(near, async move { ended.await.unwrap_or("dropped") });
        far.write_all(b"one").await.unwrap();
        let mut bytes = [0; 3];
        near.read_exact(&mut bytes).await.unwrap();
        near.write_all(b"two").await.unwrap();
        let reading = tokio::spawn(async move {
            let error = near.read_exact(&mut [0; 3]).await.unwrap_err();
            (near, error)
        });
        tokio::task::yield_now().await;
        end.send("removed").unwrap();
        let (mut near, error) = reading.await.unwrap();
        assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::ConnectionAborted, "removed".into()));
        assert!(near.write_all(b"x").await.is_err() && near.read_u8().await.is_err(), "it stays so");
    }
}
