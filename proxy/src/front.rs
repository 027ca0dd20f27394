//! What stands before the framework's proxy on every listener: how many requests at once, and how long a head may take.
//!
//! Input: a connection's next request, unread. Output: the proxy's own handling of it, a 503, or a closed connection. Must not: look into the
//! request, or hold a timer once its head is there.

use crate::head_read::HEAD_READ;
use crate::proxy::Shared;
use crate::service::Service;
use async_trait::async_trait;
use http::header;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::H2Options;
use pingora_core::server::ShutdownWatch;
use pingora_http::ResponseHeader;
use pingora_proxy::HttpProxy;
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

/// How long the head of a refused request is waited for: a client that is still sending would be reset before it has read the refusal.
const REFUSED_HEAD: Duration = Duration::from_millis(200);

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

#[async_trait]
impl HttpServerApp for Front {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let Some(_place) = self.place() else {
            self.refuse(session).await;
            return None;
        };
        // Of HTTP/2 the head is there already; the framework reads it.
        if session.is_http2() {
            return self.proxy.process_new_http(session, shutdown).await;
        }
        let limits = &self.shared.settings.limits;
        // A connection that was used before may rest first; a new one has brought nothing yet.
        let used = session.take_connection_user_context().is_some();
        let rest = if used { limits.idle } else { Duration::ZERO };
        let serving = HEAD_READ.scope(Cell::new(false), async {
            let mut served = pin!(self.proxy.process_new_http(session, shutdown));
            let mut deadline = pin!(tokio::time::sleep(limits.header_time + rest));
            poll_fn(|cx| {
                if let Poll::Ready(reused) = served.as_mut().poll(cx) {
                    return Poll::Ready(reused);
                }
                let waiting = !HEAD_READ.with(Cell::get);
                if waiting && deadline.as_mut().poll(cx).is_ready() {
                    self.shared.metrics.refused.with_label_values(&["header_time"]).inc();
                    return Poll::Ready(None);
                }
                Poll::Pending
            })
            .await
        });
        serving.await
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
