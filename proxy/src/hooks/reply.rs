//! An answer that we fetched ourselves, on its way to the client: through the same hooks as one the framework fetched.
//!
//! Input: a response head, then chunks. Output: both written. Must not: begin before the answer is sure to be the one.

use crate::context::Context;
use crate::hooks::response;
use crate::proxy::Shared;
use bytes::Bytes;
use http::{Method, StatusCode, Version, header};
use pingora_error::{Error, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

/// Writes the head. `length` is set where the whole body is known. Returns whether a body may follow.
pub async fn head(
    shared: &Shared,
    session: &mut Session,
    ctx: &mut Context,
    mut head: ResponseHeader,
    length: Option<usize>,
) -> Result<bool> {
    head.set_version(Version::HTTP_11);
    head.remove_header(&header::CONNECTION);
    let empty =
        matches!(head.status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    let bodyless = empty || session.req_header().method == Method::HEAD;
    if head.status == StatusCode::RESET_CONTENT {
        head.remove_header(&header::TRANSFER_ENCODING);
        head.set_content_length(0)?;
    } else if let Some(length) = length.filter(|_| !empty) {
        head.remove_header(&header::TRANSFER_ENCODING);
        head.set_content_length(length)?;
    } else if !bodyless && !head.headers.contains_key(header::CONTENT_LENGTH) {
        head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    response::run(shared, session, ctx, &mut head)?;
    session.write_response_header(Box::new(head), bodyless).await.map_err(Error::into_down)?;
    if bodyless {
        end(session).await?;
    }
    Ok(!bodyless)
}

pub async fn chunk(session: &mut Session, ctx: &mut Context, chunk: Bytes) -> Result<()> {
    response::body(ctx, Some(&chunk))?;
    session.write_response_body(Some(chunk), false).await.map_err(Error::into_down)
}

pub async fn end(session: &mut Session) -> Result<()> {
    session.write_response_body(Some(Bytes::new()), true).await.map_err(Error::into_down)
}
