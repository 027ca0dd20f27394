//! When no answer came: which status, and whether there is still anyone to tell.
//!
//! Input: the framework's error. Output: 502, 503, 504, 408, 413 and so on, told apart, with a short body. Must not: tell the
//! client what failed inside; the log has the chain.

use crate::answers::{Cause, refuse};
use crate::context::Context;
use crate::hooks::again::AGAIN;
use crate::targets::dial::SHARE;
use crate::wire;
use pingora_error::{Error, ErrorSource, ErrorType};
use pingora_proxy::{FailToProxy, Session};

/// A client that is gone; written nowhere, logged like nginx does.
pub const CLIENT_GONE: u16 = 499;

/// Status and cause of an error.
pub fn status(error: &Error, ctx: &Context) -> (u16, Cause) {
    use ErrorType::*;
    match (error.esource(), error.etype()) {
        (_, HTTPStatus(status)) => (*status, ctx.cause.unwrap_or("refused")),
        // Sent back to connections that were closed or full, until that was enough.
        (_, kind) if *kind == AGAIN || *kind == SHARE => (503, "backend_queue_timeout"),
        (ErrorSource::Upstream, ConnectTimedout | TLSHandshakeTimedout) => (504, "connect_timeout"),
        (ErrorSource::Upstream, ReadTimedout | WriteTimedout) => (504, "backend_timeout"),
        (
            ErrorSource::Upstream,
            ConnectRefused | ConnectNoRoute | ConnectError | SocketError | BindError | InternalError,
        ) => (502, "backend_unreachable"),
        (ErrorSource::Upstream, TLSHandshakeFailure | InvalidCert | HandshakeError | TLSWantX509Lookup) => {
            (502, "backend_tls")
        }
        (ErrorSource::Upstream, _) => (502, "backend_broken_response"),
        // The wire has cut it off at what it cannot be sure of.
        (ErrorSource::Downstream, ReadError) if let Some(fault) = wire::fault() => fault.answer(),
        (ErrorSource::Downstream, ReadTimedout) => (408, "request_timeout"),
        (ErrorSource::Downstream, InvalidHTTPHeader) => (400, "malformed_request"),
        (ErrorSource::Downstream, ConnectionClosed | ReadError | WriteError | WriteTimedout | H2Error) => {
            (CLIENT_GONE, "client_gone")
        }
        (ErrorSource::Downstream, _) => (400, "malformed_request"),
        (ErrorSource::Internal | ErrorSource::Unset, InvalidHTTPHeader) => (400, "malformed_request"),
        (ErrorSource::Internal | ErrorSource::Unset, _) => (500, "internal_error"),
    }
}

pub async fn run(session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
    let (status, cause) = status(error, ctx);
    ctx.cause = Some(cause);
    let begun = session.response_written().is_some_and(|response| !response.status.is_informational());
    // Once an answer has begun its status stands, for the client and so for the log; the cause says that it was cut short.
    if !begun || status == CLIENT_GONE {
        ctx.status = status;
    }
    if status != CLIENT_GONE && !begun {
        // The client may have gone meanwhile; then there is nobody left to tell.
        let _ = refuse(session, ctx, status, cause, true).await;
    }
    FailToProxy { error_code: status, can_reuse_downstream: false }
}
