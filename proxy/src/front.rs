//! What stands before the framework's proxy on every listener: the watch on each connection, and how many requests there are at once.
//!
//! Input: a connection, and each of its requests, unread. Output: the proxy's own handling of it, or a 503. Must not: look into a request.

use crate::proxy::Shared;
use crate::service::Service;
use crate::wire::{self, Waited, Wire};
use async_trait::async_trait;
use http::header;
use pingora_core::apps::{
    HttpPersistentSettings, HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp,
};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::H2Options;
use pingora_core::protocols::{ALPN, Peek, Stream};
use pingora_core::server::ShutdownWatch;
use pingora_http::ResponseHeader;
use pingora_proxy::HttpProxy;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the head of a refused request is waited for: a client that is still sending would be reset before it has read the refusal.
const REFUSED_HEAD: Duration = Duration::from_millis(200);

/// What a client of HTTP/2 sends first (RFC 9113 section 3.4).
const PREFACE: usize = 24;

/// How long a resting connection may still bring a request after the listeners are closed, at the least.
const LINGER: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(20);
/// Before the deadline of a drain, for what is closed then.
const LAST: Duration = Duration::from_secs(1);

pub struct Front {
    pub proxy: Arc<HttpProxy<Service>>,
    pub shared: Arc<Shared>,
}

impl Front {
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

impl Edge {
    async fn serve(&self, mut stream: Stream) {
        let front = &self.0;
        // Under TLS it has been read before the handshake.
        let plain = stream.get_ssl_digest().is_none();
        if plain && front.shared.arrive(stream.as_mut()).await.is_none() {
            return;
        }
        let shutdown = front.shared.leaving.watch();
        // HTTP/2 frames its messages; there is no second way to read them.
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            front.process_new(stream, &shutdown).await;
            return;
        }
        let preface = front.server_options().is_some_and(|options| options.h2c);
        let wire = Box::new(Wire::new(stream, preface, front.shared.metrics.clone()));
        wire::watched(wire.watch(), self.http1(wire, shutdown)).await;
    }

    /// One request after the other. The framework's own loop would hold all that serves a request while none is there.
    async fn http1(&self, mut wire: Box<Wire>, shutdown: ShutdownWatch) {
        let front = &self.0;
        let limits = &front.shared.settings.limits;
        let Some(_place) = front.shared.place() else {
            // In a box of its own: every connection would have room for it.
            return Box::pin(front.refuse(ServerSession::new_http1(wire))).await;
        };
        let mut resting = front.shared.leaving.resting();
        let mut closing = pin!(resting.changed());
        let mut timer = pin!(tokio::time::sleep(limits.header_time));
        let (mut rest, mut settings) = (limits.header_time, None::<HttpPersistentSettings>);
        loop {
            if wire.wait_for_head(rest, limits, timer.as_mut(), closing.as_mut()).await == Waited::Over {
                return;
            }
            if wire.is_http2() {
                // The framework would wait for the rest of the preface without an end.
                let mut preface = [0; PREFACE];
                let whole = tokio::time::timeout(limits.header_time, wire.try_peek(&mut preface));
                if matches!(whole.await, Ok(Ok(_))) {
                    front.process_new(wire, &shutdown).await;
                }
                return;
            }
            let mut session = ServerSession::new_http1(wire);
            match settings.take() {
                Some(settings) => settings.apply_to_session(&mut session),
                None if *shutdown.borrow() => session.set_keepalive(None),
                None => session.set_keepalive(Some(limits.idle.as_secs().max(1))),
            }
            wire::next_message();
            let Some(reused) = front.proxy.process_new_http(session, &shutdown).await else { return };
            let (stream, kept) = reused.consume();
            let Ok(again) = stream.into_any().downcast::<Wire>() else { return };
            (wire, rest, settings) = (again, limits.idle, kept);
        }
    }
}

#[async_trait]
impl ServerApp for Edge {
    async fn process_new(self: &Arc<Self>, stream: Stream, _: &ShutdownWatch) -> Option<Stream> {
        let (edge, counted) = (self.clone(), self.0.shared.leaving.connection());
        // In a task of its own: the one that calls us has room for a TLS handshake, nine kilobytes, for as long as it lives.
        tokio::spawn(async move {
            edge.serve(stream).await;
            drop(counted);
        });
        None
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
        shared.leaving.end_resting();
        self.0.http_cleanup().await;
    }
}

/// The streams of HTTP/2; requests of HTTP/1 come by `Edge::http1`.
#[async_trait]
impl HttpServerApp for Front {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let Some(_place) = self.shared.place() else {
            self.refuse(session).await;
            return None;
        };
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
