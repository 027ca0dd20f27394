//! A client's connection, watched: what comes over it is read strictly before the framework reads it, heads are waited for with little
//! memory, for a limited time, and an answer's head is sent with the beginning of its body.
//!
//! Input: the bytes of an HTTP/1 connection. Output: the same bytes up to a fault in a body; the fault, for the hooks. Must not: change a
//! byte, or look into HTTP/2 or a tunnel.

pub mod strict;

use crate::metrics::Metrics;
use crate::settings::Limits;
use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{SslDigest, TlsRef};
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use std::fmt;
use std::future::poll_fn;
use std::io::{ErrorKind, IoSlice, Result};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use strict::{Fault, Found, Strict};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

tokio::task_local! {
    /// Of the connection that a task serves.
    static WATCH: Arc<Watch>;
}

/// What the wire and the hooks tell each other; both run in the connection's task.
#[derive(Default)]
pub struct Watch {
    /// The message that is being served, from 1.
    serving: AtomicU32,
    /// The message with the first fault, from 1, and which it is.
    faulty: AtomicU32,
    fault: AtomicU8,
    tunnel: AtomicBool,
}

/// The fault of the request being served, if it has one.
pub fn fault() -> Option<Fault> {
    WATCH.try_with(|watch| watch.fault()).ok().flatten()
}

/// The next request of this connection is read.
pub fn next_message() {
    // HTTP/2 is not watched.
    let _ = WATCH.try_with(|watch| watch.serving.fetch_add(1, Ordering::Relaxed));
}

/// The connection is a tunnel from here on.
pub fn tunnel() {
    let _ = WATCH.try_with(|watch| watch.tunnel.store(true, Ordering::Relaxed));
}

impl Watch {
    fn fault(&self) -> Option<Fault> {
        let faulty = self.faulty.load(Ordering::Relaxed);
        if faulty == 0 || self.serving.load(Ordering::Relaxed) < faulty {
            return None;
        }
        let number = self.fault.load(Ordering::Relaxed);
        Fault::ALL.into_iter().find(|fault| *fault as u8 == number)
    }
}

/// Runs what serves a connection, so that its hooks can ask.
pub async fn watched<T>(watch: Arc<Watch>, serve: impl Future<Output = T>) -> T {
    WATCH.scope(watch, serve).await
}

pub struct Wire {
    stream: Stream,
    strict: Strict,
    watch: Arc<Watch>,
    metrics: Arc<Metrics>,
    /// What has been read and judged before the framework asked for it.
    ahead: BytesMut,
    /// An answer's head, which waits for its body or to be flushed; and which message's it was, from 1.
    held: BytesMut,
    answered: u32,
    /// The message in whose body the bytes end that can be passed on.
    cut: Option<u32>,
    /// The framework has been told that the head does not go on.
    told: bool,
}

/// How the wait for a head ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// A head is there, or what has come instead of one; the framework reads it.
    Head,
    /// Nobody will send one, or has sent it in time.
    Over,
}

/// A larger head does not wait.
const HELD_MAX: usize = 8 << 10;
/// Pieces that are sent together, with what is held.
const PIECES: usize = 8;

/// Read at once while a head is awaited: what most heads are.
const AHEAD: usize = 2 << 10;

impl Wire {
    pub fn new(stream: Stream, preface: bool, metrics: Arc<Metrics>) -> Wire {
        let (strict, watch) = (Strict::new(preface), Arc::default());
        Wire {
            stream,
            strict,
            watch,
            metrics,
            ahead: BytesMut::new(),
            held: BytesMut::new(),
            answered: 0,
            cut: None,
            told: false,
        }
    }

    pub fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }

    /// Waits for the next head, with little memory: what serves a request is large, and is made when there is one. `rest` is how long nothing
    /// at all may come, `header_time` how long a head may take from its first byte on. The timer and the end of all resting connections are the
    /// connection's, from one wait to the next: to register them anew would cost each request more than to read it.
    pub async fn wait_for_head(
        &mut self,
        rest: Duration,
        limits: &Limits,
        mut timer: Pin<&mut Sleep>,
        mut closing: Pin<&mut impl Future>,
    ) -> Waited {
        let next = self.watch.serving.load(Ordering::Relaxed) + 1;
        let mut deadline = Instant::now() + rest;
        let mut begun = false;
        while !self.strict.has_head(next) && !self.is_faulty() && self.cut.is_none() {
            if !begun && self.strict.is_within_head() {
                begun = true;
                // Of a new connection it runs from its beginning.
                if next > 1 {
                    deadline = Instant::now() + limits.header_time;
                }
            }
            if timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            tokio::select! {
                // What is there already needs no timer.
                biased;
                read = self.read_ahead() => match read {
                    Ok(0) => return if self.ahead.is_empty() { Waited::Over } else { Waited::Head },
                    Ok(_) if self.ahead.len() as u64 > limits.header_bytes + AHEAD as u64 => return Waited::Head,
                    Ok(_) => {}
                    Err(_) => return Waited::Over,
                },
                () = &mut timer => {
                    if Instant::now() < deadline {
                        // It was set for an earlier wait.
                        timer.as_mut().reset(deadline);
                        continue;
                    }
                    // A connection that has rested long enough is nobody's fault; a head that does not end is.
                    if begun || next == 1 {
                        self.metrics.refused.with_label_values(&["header_time"]).inc();
                    }
                    return Waited::Over;
                }
                _ = &mut closing, if !begun => return Waited::Over,
            }
        }
        Waited::Head
    }

    fn is_faulty(&self) -> bool {
        self.watch.faulty.load(Ordering::Relaxed) > 0
    }

    /// HTTP/2 without TLS: its preface has come.
    pub fn is_http2(&self) -> bool {
        self.strict.is_http2()
    }

    /// More of what is awaited; 0 at the end of the connection.
    async fn read_ahead(&mut self) -> Result<usize> {
        let Wire { stream, ahead, .. } = self;
        let before = ahead.len();
        // By way of the stack: a connection that rests holds no buffer.
        let read = poll_fn(|cx| {
            let mut space = [MaybeUninit::uninit(); AHEAD];
            let mut buf = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf))?;
            ahead.extend_from_slice(buf.filled());
            Poll::Ready(Result::Ok(buf.filled().len()))
        })
        .await?;
        let found = self.strict.feed(&self.ahead[before..]).err();
        if let Some(good) = found.and_then(|found| self.note(found)) {
            self.ahead.truncate(before + good);
        }
        Ok(read)
    }

    /// Sends all that is held.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while !self.held.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.held))?;
            self.let_go(sent)?;
        }
        Poll::Ready(Ok(()))
    }

    /// So much of what is held is sent. Its memory goes with the last of it: a connection that rests holds none.
    fn let_go(&mut self, sent: usize) -> Result<()> {
        if sent == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        self.held.advance(sent);
        if self.held.is_empty() {
            self.held = BytesMut::new();
        }
        Ok(())
    }

    /// Keeps what was found; the part of the bytes that is good where the rest must not be passed on.
    fn note(&mut self, found: Found) -> Option<usize> {
        self.watch.fault.store(found.fault as u8, Ordering::Relaxed);
        self.watch.faulty.store(found.message, Ordering::Relaxed);
        if found.in_head {
            // What is there goes on, so that it can be refused like any other request.
            return None;
        }
        self.cut = Some(found.message);
        Some(found.good)
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        if !self.ahead.is_empty() {
            let here = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..here]);
            self.ahead.advance(here);
            if self.ahead.is_empty() {
                self.ahead = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        if self.watch.tunnel.load(Ordering::Relaxed) {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let serving = self.watch.serving.load(Ordering::Relaxed);
        if let Some(faulty) = self.cut {
            return cut(serving, faulty);
        }
        if !self.told
            && self.is_faulty()
            && serving >= self.watch.faulty.load(Ordering::Relaxed)
            && buf.remaining() > 0
        {
            // The head has a fault and is not all there: this byte ends it in an answer, nothing would wait for the rest.
            self.told = true;
            buf.put_slice(&[0]);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let Err(found) = self.strict.feed(&buf.filled()[before..]) else { return Poll::Ready(Ok(())) };
        let message = found.message;
        let Some(good) = self.note(found) else { return Poll::Ready(Ok(())) };
        buf.set_filled(before + good);
        // No bytes would mean the end of the connection.
        if good == 0 { cut(serving, message) } else { Poll::Ready(Ok(())) }
    }
}

/// Behind the last good byte. Requests before the faulty one are served to their end; whoever reads for it is told.
fn cut(serving: u32, faulty: u32) -> Poll<Result<()>> {
    if serving >= faulty { Poll::Ready(Err(ErrorKind::InvalidData.into())) } else { Poll::Pending }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_held(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_held(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let serving = self.watch.serving.load(Ordering::Relaxed);
        if self.answered < serving {
            // What is written first is the head. The framework's buffer below us is too small for most bodies: the two would be sent apart.
            self.answered = serving;
            let size: usize = slices.iter().map(|slice| slice.len()).sum();
            if size <= HELD_MAX && self.held.is_empty() {
                slices.iter().for_each(|slice| self.held.extend_from_slice(slice));
                return Poll::Ready(Ok(size));
            }
        }
        while !self.held.is_empty() {
            let Wire { stream, held, .. } = &mut *self;
            let mut pieces = [IoSlice::new(&[]); PIECES];
            pieces[0] = IoSlice::new(held);
            let count = slices.len().min(PIECES - 1);
            pieces[1..=count].copy_from_slice(&slices[..count]);
            let sent = ready!(Pin::new(stream).poll_write_vectored(cx, &pieces[..=count]))?;
            let more = sent.saturating_sub(held.len());
            self.let_go(sent - more)?;
            if more > 0 {
                return Poll::Ready(Ok(more));
            }
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("stream", &self.stream).finish_non_exhaustive()
    }
}

#[async_trait]
impl Shutdown for Wire {
    async fn shutdown(&mut self) {
        // Whether it arrives is the client's luck.
        let _ = poll_fn(|cx| self.poll_held(cx)).await;
        self.stream.shutdown().await;
    }
}

#[async_trait]
impl Peek for Wire {
    async fn try_peek(&mut self, buf: &mut [u8]) -> Result<bool> {
        while self.ahead.len() < buf.len() {
            if self.read_ahead().await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        buf.copy_from_slice(&self.ahead[..buf.len()]);
        Ok(true)
    }
}

impl UniqueID for Wire {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl Ssl for Wire {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.stream.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.selected_alpn_proto()
    }
}

impl GetTimingDigest for Wire {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.stream.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.stream.get_write_pending_time()
    }
}

impl GetProxyDigest for Wire {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }

    fn set_proxy_digest(&mut self, digest: ProxyDigest) {
        self.stream.set_proxy_digest(digest);
    }
}

impl GetSocketDigest for Wire {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.stream.set_socket_digest(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// A wire on which the first request is being served, and the client's end of it, which takes so many bytes at a time.
    fn served(room: usize) -> (Wire, tokio::io::DuplexStream) {
        let (ours, client) = duplex(room);
        let wire = Wire::new(Box::new(ours), false, Arc::new(Metrics::new()));
        wire.watch.serving.store(1, Ordering::Relaxed);
        (wire, client)
    }

    async fn now(client: &mut tokio::io::DuplexStream) -> Vec<u8> {
        let mut got = vec![0; 1 << 16];
        let read = tokio::time::timeout(Duration::from_millis(20), client.read(&mut got)).await;
        got.truncate(read.map_or(0, |read| read.expect("open")));
        got
    }

    #[tokio::test]
    async fn a_head_waits_for_its_body_and_nothing_else_does() {
        let (mut wire, mut client) = served(1 << 16);
        wire.write_all(b"head").await.expect("written");
        assert_eq!(now(&mut client).await, b"");
        wire.write_all(b"body").await.expect("written");
        assert_eq!(now(&mut client).await, b"headbody");
        wire.write_all(b"more").await.expect("written");
        assert_eq!(now(&mut client).await, b"more");
        assert_eq!(wire.held.capacity(), 0, "a connection that rests holds nothing");
        // The next message has a head as well.
        wire.watch.serving.store(2, Ordering::Relaxed);
        wire.write_all(b"head").await.expect("written");
        assert_eq!(now(&mut client).await, b"");
        wire.flush().await.expect("flushed");
        assert_eq!(now(&mut client).await, b"head");
    }

    #[tokio::test]
    async fn a_client_that_reads_slowly_gets_every_byte_once() {
        for room in [1, 3, 7, 64] {
            let (mut wire, mut client) = served(room);
            let (head, body) = (vec![b'h'; 50], vec![b'b'; 300]);
            let expected = [head.clone(), body.clone(), b"tail".to_vec()].concat();
            let writing = tokio::spawn(async move {
                wire.write_all(&head).await.expect("written");
                wire.write_all(&body).await.expect("written");
                wire.write_all(b"tail").await.expect("written");
                Shutdown::shutdown(&mut wire).await;
            });
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.expect("read");
            assert_eq!(got, expected, "{room} at a time");
            writing.await.expect("no panic");
        }
    }

    #[tokio::test]
    async fn a_large_head_does_not_wait() {
        let (mut wire, mut client) = served(1 << 16);
        wire.write_all(&[b'h'; HELD_MAX + 1]).await.expect("written");
        assert_eq!(now(&mut client).await.len(), HELD_MAX + 1);
    }
}
