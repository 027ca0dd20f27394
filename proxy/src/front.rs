//! What stands before the framework's proxy on every listener: the watch on each connection, and how many requests there are at once.
//!
//! Input: a connection, and each of its requests, unread. Output: the proxy's own handling of it, or a 503. Must not: look into a request.

use crate::proxy::Shared;
use crate::service::Service;
use crate::wire::{self, Wire};
use async_trait::async_trait;
use http::header;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::H2Options;
use pingora_core::protocols::{ALPN, Stream};
use pingora_core::server::ShutdownWatch;
use pingora_http::ResponseHeader;
use pingora_proxy::HttpProxy;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long the head of a refused request is waited for: a client that is still sending would be reset before it has read the refusal.
const REFUSED_HEAD: Duration = Duration::from_millis(200);

/// How long a resting connection may still bring a request after the listeners are closed, at the least.
const LINGER: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(20);
/// Before the deadline of a drain, for what is closed then.
const LAST: Duration = Duration::from_secs(1);

pub struct Front {
    pub proxy: Arc<HttpProxy<Service>>,
    pub shared: Arc<Shared>,
    /// Requests and resting connections, of all listeners.
    pub places: Arc<AtomicUsize>,
}

/// Given back when the connection or the stream ends.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Front {
    fn place(&self) -> Option<Place<'_>> {
        let taken = self.places.fetch_add(1, Ordering::Relaxed);
        let place = Place(&self.places);
        (taken < self.shared.settings.limits.connections).then_some(place)
    }

    async fn refuse(&self, mut session: ServerSession) {
        self.shared.metrics.refused.with_label_values(&["connections"]).inc();
        session.set_keepalive(None);
        let refused = async {
            let mut response = ResponseHeader::build(503, Some(3))?;
            response.insert_header(header::RETRY_AFTER, "1")?;
            response.insert_header(header::CONTENT_LENGTH, "0")?;
            if !session.is_http2() {
                let _ = tokio::time::timeout(REFUSED_HEAD, session.read_request()).await;
            }
            session.write_error_response(response, bytes::Bytes::new()).await
        };
        // Whether it arrives is the client's luck.
        let _: pingora_error::Result<()> = refused.await;
    }
}

/// A connection as it was accepted.
pub struct Edge(pub Arc<Front>);

#[async_trait]
impl ServerApp for Edge {
    async fn process_new(self: &Arc<Self>, stream: Stream, _: &ShutdownWatch) -> Option<Stream> {
        let front = &self.0;
        let leaving = &front.shared.leaving;
        let _counted = leaving.connection();
        let shutdown = &leaving.watch();
        // HTTP/2 frames its messages; there is no second way to read them.
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            return front.process_new(stream, shutdown).await;
        }
        let preface = front.server_options().is_some_and(|options| options.h2c);
        let header_time = front.shared.settings.limits.header_time;
        let wire = Wire::new(stream, preface, header_time, front.shared.metrics.clone());
        wire::watched(wire.watch(), front.process_new(Box::new(wire), shutdown)).await
    }

    /// The listeners are closed. Connections that rest are closed when each has had the time for one more request, which is told that it
    /// was the last: who sends one into a closing connection does not know whether it was served.
    async fn cleanup(&self) {
        let shared = &self.0.shared;
        shared.leaving.close();
        let settings = &shared.settings;
        let end = Instant::now() + settings.drain_deadline.saturating_sub(LAST);
        let linger = Instant::now() + settings.drain_delay.max(LINGER);
        let busy = || shared.metrics.inflight.get() > 0;
        while shared.leaving.connections() > 0 && Instant::now() < end && (Instant::now() < linger || busy())
        {
            tokio::time::sleep(LOOK).await;
        }
        self.0.http_cleanup().await;
    }
}

#[async_trait]
impl HttpServerApp for Front {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let Some(_place) = self.place() else {
            self.refuse(session).await;
            return None;
        };
        wire::next_message();
        self.proxy.process_new_http(session, shutdown).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.proxy.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.proxy.server_options()
    }

    async fn http_cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}
