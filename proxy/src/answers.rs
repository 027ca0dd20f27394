//! Answers of our own: errors, redirects, direct responses, preflights.
//!
//! Input: a status, headers and a short text. Output: a whole response. Must not: tell a client more than the status text and
//! the id that is also in the log.

use crate::context::{ATTRIBUTION, Context};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use std::time::Duration;

/// The header that carries the id of an error.
pub const ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Why Banyan refused a request itself: a metric label and a log field.
pub type Cause = &'static str;

/// An error with its short text and id. `close` ends the connection: for requests whose end cannot be trusted.
pub async fn refuse(
    session: &mut Session,
    ctx: &mut Context,
    status: u16,
    cause: Cause,
    close: bool,
) -> Result<()> {
    ctx.status = status;
    ctx.cause = Some(cause);
    let id = ctx.trace.id();
    let reason =
        StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error");
    let id = std::str::from_utf8(&id).unwrap_or_default();
    let body = Bytes::from(format!("{status} {reason}: {}\nid: {id}\n", cause.replace('_', " ")));
    let mut headers = vec![
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    headers.extend(HeaderValue::from_str(id).map(|id| (ID_HEADER, id)));
    if status == 503 {
        headers.push((header::RETRY_AFTER, HeaderValue::from_static("1")));
    }
    if close {
        session.set_keepalive(None);
    }
    answer(session, ctx, status, headers, body).await?;
    if close {
        // A client that is still sending would be reset before it has read why it was refused. How it ends does not matter: the
        // connection is closed in any case.
        let rest = tokio::time::timeout(LINGER, session.as_downstream_mut().drain_request_body());
        let _ = Box::pin(rest).await;
    }
    Ok(())
}

/// How long the rest of a refused body is read and dropped.
const LINGER: Duration = Duration::from_secs(1);

/// A whole response; HEAD gets its headers only.
pub async fn answer(
    session: &mut Session,
    ctx: &mut Context,
    status: u16,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
) -> Result<()> {
    let mut response = ResponseHeader::build(status, Some(headers.len() + 2))?;
    for (name, value) in headers {
        response.append_header(name, value)?;
    }
    if let Some(value) = ctx.attribution() {
        response.insert_header(ATTRIBUTION, value)?;
    }
    let bodyless = matches!(status, 204 | 304);
    if !bodyless {
        response.set_content_length(body.len())?;
    }
    let head_only = bodyless || session.req_header().method == Method::HEAD || body.is_empty();
    session.write_response_header(Box::new(response), head_only).await?;
    let body = if head_only { Bytes::new() } else { body };
    ctx.response_bytes += body.len() as u64;
    session.write_response_body(Some(body), true).await
}
