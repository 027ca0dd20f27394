//! A request body read whole, under a limit of its own and one for all requests together.
//!
//! Input: the session, a limit in bytes. Output: the body, counted until it is dropped; or why it cannot be held. Must not:
//! read on when the limit is passed.

use crate::context::Context;
use crate::hooks::rewrite::rate;
use crate::proxy::Shared;
use bytes::{Bytes, BytesMut};
use http::{Version, header};
use pingora_error::{Error, ErrorType, Result};
use pingora_prometheus::prometheus::IntGauge;
use pingora_proxy::Session;

/// A body in memory; the gauge goes down with it.
pub struct Held {
    pub bytes: Bytes,
    counted: Counted,
}

struct Counted {
    gauge: IntGauge,
    bytes: i64,
}

impl Counted {
    fn add(&mut self, bytes: usize) {
        self.gauge.add(bytes as i64);
        self.bytes += bytes as i64;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gauge.sub(self.bytes);
    }
}

impl Held {
    /// Room for what is made of the body, until the guard is dropped; `None` when there is none.
    pub fn beside(&self, shared: &Shared, bytes: usize) -> Option<Beside> {
        let mut counted = Counted { gauge: self.counted.gauge.clone(), bytes: 0 };
        counted.add(bytes);
        (!full(shared, &counted.gauge)).then_some(Beside { _counted: counted })
    }
}

/// Bytes held beside a body: the event made of it.
pub struct Beside {
    _counted: Counted,
}

fn full(shared: &Shared, gauge: &IntGauge) -> bool {
    u64::try_from(gauge.get()).is_ok_and(|held| held > shared.settings.limits.buffered_bytes)
}

/// Reads all of it. An error is a refusal with its cause in the context.
pub async fn read(
    shared: &Shared,
    session: &mut Session,
    ctx: &mut Context,
    limit: u64,
    over: &'static str,
) -> Result<Held> {
    let limits = &shared.settings.limits;
    let mut counted = Counted { gauge: shared.metrics.buffered.clone(), bytes: 0 };
    let refuse = |ctx: &mut Context, status: u16, cause: &'static str| {
        ctx.cause = Some(cause);
        Error::explain(ErrorType::HTTPStatus(status), cause).into_down()
    };
    let request = session.req_header();
    let expected = request
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if expected.is_some_and(|expected| expected > limit) {
        return Err(refuse(ctx, 413, over));
    }
    let expects = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    let continues =
        request.version > Version::HTTP_10 && request.headers.get(header::EXPECT).is_some_and(expects);
    let downstream = session.as_downstream_mut();
    if downstream.is_body_empty() {
        return Ok(Held { bytes: Bytes::new(), counted });
    }
    if continues {
        // The client waits for leave; nobody else will give it.
        downstream.write_continue_response().await?;
    }
    let mut body = BytesMut::with_capacity(expected.unwrap_or(0).min(64 << 10) as usize);
    let mut first: Option<Bytes> = None;
    loop {
        // The session's own read time-out does not reach HTTP/2.
        let read = tokio::time::timeout(limits.idle, session.as_downstream_mut().read_request_body()).await;
        let chunk = match read {
            Ok(chunk) => chunk.map_err(|error| error.into_down())?,
            Err(_) => return Err(Error::explain(ErrorType::ReadTimedout, "request body").into_down()),
        };
        let Some(chunk) = chunk else { break };
        ctx.request_bytes += chunk.len() as u64;
        rate(ctx, limits)?;
        if ctx.request_bytes > limit {
            return Err(refuse(ctx, 413, over));
        }
        counted.add(chunk.len());
        if full(shared, &counted.gauge) {
            return Err(refuse(ctx, 503, "buffers_full"));
        }
        match (&mut first, body.is_empty()) {
            (None, true) => first = Some(chunk),
            (Some(_), _) | (None, false) => {
                // The first piece is mostly all there is, and then it is not copied.
                if let Some(first) = first.take() {
                    body.extend_from_slice(&first);
                }
                body.extend_from_slice(&chunk);
            }
        }
    }
    let bytes = first.unwrap_or_else(|| body.freeze());
    Ok(Held { bytes, counted })
}
