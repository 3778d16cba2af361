//! A socket whose peer has to take what is written to it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// A socket that can be given up with all that was written and not taken.
pub trait Abort {
    /// Has the kernel reset the connection when the socket is dropped.
    fn abort(&self);
}

impl Abort for TcpStream {
    /// A socket that is merely dropped goes on offering what is in the kernel's buffer, for as long as the
    /// peer's kernel acks that it takes nothing.
    fn abort(&self) {
        if let Err(error) = self.set_zero_linger() {
            tracing::debug!(%error, "could not have a stalled connection reset");
        }
    }
}

/// Fails when a write has waited for `limit` without the peer taking a byte.
///
/// The kernel says that a socket takes bytes again once a third of its send buffer is free, so a peer
/// makes progress in steps of that size.
pub struct StallLimit<S> {
    socket: S,
    limit: Duration,
    /// Made by the first write that waits, then used again: most connections never need one.
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether a write waits, and the timer runs for it.
    waits: bool,
}

impl<S: Abort> StallLimit<S> {
    /// A socket whose peer may take nothing for so long.
    pub fn new(socket: S, limit: Duration) -> Self {
        StallLimit { socket, limit, timer: None, waits: false }
    }

    /// Whether something that was written last has not been taken whole.
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// The socket itself.
    pub fn get_ref(&self) -> &S {
        &self.socket
    }

    /// The socket, without the limit.
    pub fn into_inner(self) -> S {
        self.socket
    }

    /// What becomes of a write that ended so.
    fn judge<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waits = false;
            return written;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.limit)));
        if !self.waits {
            timer.as_mut().reset(Instant::now() + self.limit);
            self.waits = true;
        }
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.socket.abort();
        let text = format!("the peer took nothing for {:?}", self.limit);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallLimit<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Abort + Unpin> AsyncWrite for StallLimit<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bytes);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    impl Abort for DuplexStream {
        fn abort(&self) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let (socket, mut peer) = duplex(4);
        let mut socket = StallLimit::new(socket, LIMIT);
        let started = Instant::now();
        let slow = async {
            let mut taken = [0; 4];
            for _ in 0..5 {
                tokio::time::advance(LIMIT * 9 / 10).await;
                peer.read_exact(&mut taken).await.unwrap();
            }
            assert_eq!(&taken, b"4444");
            Instant::now()
        };
        let (written, last_taken) = tokio::join!(socket.write_all(b"000011112222333344445555"), slow);
        written.unwrap();
        assert!(last_taken - started > LIMIT * 4, "as long as it takes something");
        let error = socket.write_all(b"6666").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let waited = last_taken.elapsed();
        assert!(waited >= LIMIT && waited < LIMIT + Duration::from_secs(1), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nothing_waits_does_not_count() {
        let (socket, mut peer) = duplex(4);
        let mut socket = StallLimit::new(socket, LIMIT);
        let mut taken = [0; 8];
        for _ in 0..3 {
            let (written, read) = tokio::join!(socket.write_all(b"00001111"), peer.read_exact(&mut taken));
            written.and(read.map(drop)).unwrap();
            // The timer that ran for the first write is long over when the next one waits.
            tokio::time::advance(LIMIT * 2).await;
        }
    }
}
