//! Bytes, both ways, until both sides have ended or neither says anything.
//!
//! Input: two streams. Output: how many bytes went each way. Must not: hold more than a buffer a direction, or keep what rests for longer than a
//! balancer does.

use std::io::Result;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::time::Instant;

/// A direction.
const BUFFER: usize = 16 << 10;
/// Network load balancers forget a flow after 350 s, and reset it with the next byte.
const IDLE_MAX: Duration = Duration::from_secs(340);
const LOOK: Duration = Duration::from_secs(10);

pub struct Passed {
    pub up: u64,
    pub down: u64,
    /// Neither side said anything for too long.
    pub idle: bool,
}

/// A stream that notes when it was read.
struct Noted<S> {
    stream: S,
    read: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.read.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

pub async fn through<A, B>(client: A, server: B) -> Passed
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (up, down) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut client = Noted { stream: client, read: up.clone() };
    let mut server = Noted { stream: server, read: down.clone() };
    let figures = || (up.load(Ordering::Relaxed), down.load(Ordering::Relaxed));
    let rests = async {
        let (mut last, mut since) = (figures(), Instant::now());
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            if figures() != last {
                (last, since) = (figures(), Instant::now());
            } else if since.elapsed() >= IDLE_MAX {
                return;
            }
        }
    };
    let idle = tokio::select! {
        // How a connection ended is both sides' business.
        _ = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER) => false,
        () = rests => true,
    };
    let (up, down) = figures();
    Passed { up, down, idle }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test(start_paused = true)]
    async fn bytes_go_through_and_what_rests_is_ended_in_time() {
        let ((mut a, client), (mut b, server)) = (duplex(64), duplex(64));
        let passing = tokio::spawn(through(client, server));
        assert!(a.write_all(b"hello").await.is_ok());
        let mut bytes = [0; 5];
        assert!(b.read_exact(&mut bytes).await.is_ok() && bytes == *b"hello");
        let begun = Instant::now();
        let passed = passing.await.unwrap_or(Passed { up: 0, down: 0, idle: false });
        assert_eq!((passed.up, passed.down, passed.idle), (5, 0, true));
        assert!(begun.elapsed() < Duration::from_secs(350), "{:?}", begun.elapsed());
    }
}
