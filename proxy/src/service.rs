//! pingora's phases, each one call into its hook.
//!
//! Input: the framework's callbacks. Output: none of its own. Must not: hold logic; ten lines a hook at most.

use crate::context::{Context, InFlight};
use crate::hooks::{again, fail, finish, request, response, rewrite, upstream, whole};
use crate::proxy::Shared;
use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

pub struct Service(pub Arc<Shared>);

#[async_trait]
impl ProxyHttp for Service {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        let in_flight = InFlight::new(&self.0.metrics.inflight);
        Context::new(self.0.live.load(), in_flight, self.0.settings.attribution_header)
    }

    /// No compression of our own: the default module would be asked for every body chunk.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    /// A second request that comes early is answered in its turn, not dropped.
    async fn early_request_filter(&self, session: &mut Session, _: &mut Context) -> Result<()> {
        session.set_pipelining_enabled(true);
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        if request::run(&self.0, session, ctx).await? {
            return Ok(true);
        }
        if !ctx.route().is_some_and(|route| route.whole_body) {
            return Ok(false);
        }
        // In a box of its own: its state would make every request's larger.
        Box::pin(whole::run(&self.0, session, ctx)).await
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        if ctx.pause {
            Box::pin(again::pause(ctx)).await;
        }
        upstream::peer(&self.0, session, ctx).await
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        _: bool,
        _: &HttpPeer,
        socket: RawFd,
        _: Option<&Digest>,
        ctx: &mut Context,
    ) -> Result<()> {
        upstream::connected(ctx, socket).await
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _: &HttpPeer,
        ctx: &mut Context,
        error: Box<Error>,
    ) -> Box<Error> {
        again::after_connect(&self.0, session, ctx, error)
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        head: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        rewrite::run(head, ctx, &[])
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        rewrite::body(ctx, body.as_ref(), &self.0.settings.limits)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        response::received(&self.0, session, ctx, head)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        response::run(&self.0, session, ctx, head)
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        ctx: &mut Context,
    ) -> Result<Option<Duration>> {
        response::body(ctx, body.as_ref()).map(|()| None)
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Context,
        reused: bool,
    ) -> Box<Error> {
        again::after_sending(&self.0, peer, session, ctx, error, reused)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        fail::run(session, error, ctx).await
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        finish::run(&self.0, session, error, ctx);
    }

    /// The access log has every error with its cause; the framework's own line would repeat the client's bytes.
    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true
    }
}
