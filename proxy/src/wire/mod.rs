//! A client's connection, watched: what comes over it is read strictly before the framework reads it, and a head has a deadline.
//!
//! Input: the bytes of an HTTP/1 connection. Output: the same bytes up to a fault in a body; the fault, for the hooks. Must not: change a
//! byte, look into HTTP/2 or a tunnel, or hold a timer while nothing is awaited.

pub mod strict;

use crate::metrics::Metrics;
use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{SslDigest, TlsRef};
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use std::fmt;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use strict::{Fault, Strict};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

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
    header_time: Duration,
    /// Only while a head is awaited that has to come.
    deadline: Option<Pin<Box<Sleep>>>,
    /// The message in whose body the bytes end that can be passed on.
    cut: Option<u32>,
}

impl Wire {
    pub fn new(stream: Stream, preface: bool, header_time: Duration, metrics: Arc<Metrics>) -> Wire {
        let (strict, watch) = (Strict::new(preface), Arc::default());
        Wire { stream, strict, watch, metrics, header_time, deadline: None, cut: None }
    }

    pub fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }

    /// A head with a fault has no end that we could see; its answer ends the connection.
    fn waits_for_head(&self) -> bool {
        self.strict.waits_for_head() || self.watch.faulty.load(Ordering::Relaxed) > 0
    }

    /// The head's time is over.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let header_time = self.header_time;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(header_time)));
        deadline.as_mut().poll(cx).is_ready()
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        if self.watch.tunnel.load(Ordering::Relaxed) {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let serving = self.watch.serving.load(Ordering::Relaxed);
        if let Some(faulty) = self.cut {
            return cut(serving, faulty);
        }
        let before = buf.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buf) else {
            // The head of a later request has its time when its turn has come.
            if serving >= self.strict.message() && self.waits_for_head() && self.is_late(cx) {
                self.metrics.refused.with_label_values(&["header_time"]).inc();
                return Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the head's time is over")));
            }
            return Poll::Pending;
        };
        read?;
        let Err(found) = self.strict.feed(&buf.filled()[before..]) else {
            if !self.waits_for_head() {
                self.deadline = None;
            }
            return Poll::Ready(Ok(()));
        };
        self.watch.fault.store(found.fault as u8, Ordering::Relaxed);
        self.watch.faulty.store(found.message, Ordering::Relaxed);
        if found.in_head {
            // The rest of it goes on as it comes, so that it can be refused like any other request.
            return Poll::Ready(Ok(()));
        }
        self.cut = Some(found.message);
        buf.set_filled(before + found.good);
        // No bytes would mean the end of the connection.
        if found.good == 0 { cut(serving, found.message) } else { Poll::Ready(Ok(())) }
    }
}

/// Behind the last good byte. Requests before the faulty one are served to their end; whoever reads for it is told.
fn cut(serving: u32, faulty: u32) -> Poll<Result<()>> {
    if serving >= faulty { Poll::Ready(Err(ErrorKind::InvalidData.into())) } else { Poll::Pending }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
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
        self.stream.shutdown().await;
    }
}

#[async_trait]
impl Peek for Wire {
    async fn try_peek(&mut self, buf: &mut [u8]) -> Result<bool> {
        self.stream.try_peek(buf).await
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
