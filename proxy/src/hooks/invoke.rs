//! One call of a function, from the request to the client's last byte.
//!
//! Input: a request whose body is held, and the peer of the Lambda API. Output: the answer written; or what failed, before
//! anything was written. Must not: decide what follows a failure; `whole` does.

use crate::client::exchange::{Answer, TOO_LARGE};
use crate::context::Context;
use crate::facts::target as target_of;
use crate::hooks::held::Held;
use crate::hooks::place::{Place, caller, request_id};
use crate::hooks::whole::{Failure, plain_head};
use crate::hooks::{reply, response, rewrite};
use crate::lambda::answer::{self, Head};
use crate::lambda::event::{EventRequest, event};
use crate::lambda::fault::{self, Fault, Refusal};
use crate::lambda::report::Report;
use crate::lambda::stream::{Decoder, Piece};
use crate::proxy::Shared;
use crate::targets::backend::RunningBackend;
use crate::targets::function::{PAYLOAD_MAX, RunningFunction};
use crate::trace::XRAY;
use banyan_routes::path::split_target;
use bytes::Bytes;
use http::header;
use jiff::Timestamp;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What an error answer of the API, or a function's own error, may be long.
const ERROR_MAX: usize = 256 << 10;
/// The API's answer has the payload's length plus nothing; a little room keeps the limit AWS's own.
const ANSWER_MAX: usize = PAYLOAD_MAX + (64 << 10);

pub async fn run(
    shared: &Shared,
    session: &mut Session,
    ctx: &mut Context,
    backend: &Arc<RunningBackend>,
    function: &RunningFunction,
    peer: HttpPeer,
    held: &Held,
) -> Result<(), Failure> {
    let http2 = session.as_downstream().is_http2();
    let payload =
        payload(session.req_header(), http2, ctx, backend, function, &held.bytes).map_err(Failure::unsent)?;
    if payload.len() > PAYLOAD_MAX {
        return Err(faulty(shared, ctx, backend, fault::EVENT_TOO_LARGE, "the event is over 6 MB", false));
    }
    // Beside the body, for as long as this try lasts.
    let Some(_beside) = held.beside(shared, payload.len()) else {
        ctx.cause = Some("buffers_full");
        return Err(Failure::unsent(Error::explain(ErrorType::HTTPStatus(503), "buffers_full")));
    };
    let now = SystemTime::now();
    let Some(credentials) = function.credentials.get(now) else {
        return Err(faulty(shared, ctx, backend, fault::CREDENTIALS, "", false));
    };
    let authority = ctx.sent.as_ref().map_or("", |sent| &sent.endpoint.authority);
    let trace = ctx.trace.xray(session.req_header().headers.get(XRAY));
    let head = function.request(authority, &payload, Some(trace), &credentials, now);
    let head = head.map_err(|error| Failure::unsent(Error::explain(ErrorType::InternalError, error)))?;
    let left = ctx.left(false);
    let answer = super::whole::send(shared, session, left, backend, peer, head, Bytes::from(payload)).await?;
    if !answer.head.status.is_success() {
        let (status, named) = (answer.head.status.as_u16(), text(&answer.head, "x-amzn-errortype"));
        let body = read(shared, session, ctx, answer, ERROR_MAX).await.unwrap_or_default();
        let Refusal { fault, detail } = fault::refusal(status, named.as_deref(), &body);
        return Err(faulty(shared, ctx, backend, fault, &detail, true));
    }
    let log = answer.head.headers.get("x-amz-log-result").filter(|_| function.target.log_tail);
    if let Some(log) = log {
        reported(shared, ctx, function, Report::read(log.as_bytes()));
    }
    if answer.head.headers.contains_key("x-amz-function-error") {
        let body = read(shared, session, ctx, answer, ERROR_MAX).await.unwrap_or_default();
        let Refusal { fault, detail } = fault::function_error(&body);
        return Err(faulty(shared, ctx, backend, fault, &detail, true));
    }
    if function.target.stream {
        return stream(shared, session, ctx, backend, function, answer).await;
    }
    let payload = match read(shared, session, ctx, answer, ANSWER_MAX).await {
        Err(error) if *error.etype() == TOO_LARGE => {
            return Err(faulty(shared, ctx, backend, fault::ANSWER_TOO_LARGE, "over 6 MB", true));
        }
        read => read.map_err(|error| Failure { error, sent: true })?,
    };
    whole(shared, session, ctx, backend, function, &payload).await
}

/// The whole answer, within the try's time, for as long as the client is there.
async fn read(
    shared: &Shared,
    session: &mut Session,
    ctx: &Context,
    answer: Answer,
    max: usize,
) -> Result<Bytes> {
    let left = ctx.left(false);
    super::whole::bounded(session, left, answer.whole(&shared.supplies.client, max)).await
}

/// The event of this request, as a backend by URL would see it.
pub fn payload(
    request: &RequestHeader,
    http2: bool,
    ctx: &Context,
    backend: &RunningBackend,
    function: &RunningFunction,
    body: &[u8],
) -> Result<Vec<u8>> {
    let mut head = plain_head(request, body.len())?;
    rewrite::shape(&mut head, ctx)?;
    edge_headers(&mut head, ctx)?;
    let target = String::from_utf8_lossy(head.raw_path()).into_owned();
    let (path, query) = split_target(&target);
    let place = Place::of(ctx, target_of(request).map_or("/", |(path, _)| path));
    let host =
        head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    let facts = EventRequest {
        method: &head.method,
        path,
        query,
        headers: &head.headers,
        host: &host,
        body,
        client: ctx.client.address,
        protocol: if http2 { "HTTP/2.0" } else { "HTTP/1.1" },
        request_id: &request_id(ctx),
        time: Timestamp::try_from(SystemTime::now()).unwrap_or_default(),
        resource: &place.resource,
        parameters: &place.parameters,
        account: function.account(),
        backend: &backend.definition.id,
        region: &function.region,
        caller: caller(ctx),
    };
    Ok(event(function.target.format, &facts))
}

/// What a gateway of AWS puts on: the port the client used.
fn edge_headers(head: &mut RequestHeader, ctx: &Context) -> Result<()> {
    let default = if ctx.client.https { "443" } else { "80" };
    let port = ctx.public_host.rsplit_once(':').map(|(_, port)| port);
    let port =
        port.filter(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())).unwrap_or(default);
    head.insert_header("X-Forwarded-Port", port)
}

/// Counts a failed call and says what it means for the client and the fallback.
fn faulty(
    shared: &Shared,
    ctx: &mut Context,
    backend: &RunningBackend,
    fault: Fault,
    detail: &str,
    sent: bool,
) -> Failure {
    shared.metrics.lambda_errors.with_label_values(&[&*backend.definition.id, fault.code]).inc();
    ctx.cause = Some(fault.code);
    ctx.detail = (!detail.is_empty()).then(|| detail.into());
    let kind = if fault.timeout { ErrorType::ReadTimedout } else { ErrorType::HTTPStatus(fault.status) };
    Failure { error: Error::explain(kind, fault.code).into_up(), sent }
}

fn text(head: &ResponseHeader, name: &str) -> Option<String> {
    head.headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// What a REPORT line adds to what is known of the function.
fn reported(shared: &Shared, ctx: &mut Context, function: &RunningFunction, report: Option<Report>) {
    let Some(report) = report else { return };
    ctx.report = Some(report);
    let (Some(route), Some(runtime)) = (ctx.route(), ctx.runtime()) else { return };
    let Some(side) = ctx.decision.as_ref().map(|decision| decision.side) else { return };
    let metrics = &shared.metrics;
    let labels = [runtime.metrics.name(metrics, &route.id), &*function.label];
    metrics.lambda_billed.with_label_values(&labels).observe(report.billed.as_secs_f64());
    if report.init.is_some() {
        metrics.lambda_cold_starts.with_label_values(&labels).inc();
    }
    let usage = runtime.usage(side);
    usage.add(&report);
    if let Some(figures) = usage.figures() {
        let (requests, gb_second) = function.prices();
        metrics.lambda_cost.with_label_values(&labels).set(figures.cost_per_million(requests, gb_second));
        let bytes = |mb: u64| (mb << 20) as i64;
        metrics.lambda_memory_configured.with_label_values(&[&*function.label]).set(bytes(figures.memory_mb));
        metrics.lambda_memory_used.with_label_values(&[&*function.label]).set(bytes(figures.used_mb_max));
    }
}

fn response_head(head: Head) -> Result<ResponseHeader> {
    let mut response = ResponseHeader::build(head.status, Some(head.headers.len() + 4))?;
    response.set_reason_phrase(head.reason.as_deref())?;
    for (name, value) in head.headers {
        response.append_header(name, value)?;
    }
    Ok(response)
}

/// An answer that is complete.
async fn whole(
    shared: &Shared,
    session: &mut Session,
    ctx: &mut Context,
    backend: &RunningBackend,
    function: &RunningFunction,
    payload: &Bytes,
) -> Result<(), Failure> {
    let answer = answer::answer(function.target.format, payload)
        .map_err(|malformed| faulty(shared, ctx, backend, fault::MALFORMED_ANSWER, &malformed.0, true))?;
    let head = response_head(answer.head)
        .map_err(|error| faulty(shared, ctx, backend, fault::MALFORMED_ANSWER, &error.to_string(), true))?;
    let written = async {
        response::received(shared, session, ctx, &head)?;
        if reply::head(shared, session, ctx, head, Some(answer.body.len())).await? {
            if !answer.body.is_empty() {
                reply::chunk(session, ctx, answer.body).await?;
            }
            reply::end(session).await?;
        }
        Ok(())
    };
    written.await.map_err(|error| Failure { error, sent: true })
}

/// How long the end of an answer's chunks is waited for after the function has ended, to keep the connection.
const LAST_CHUNK: Duration = Duration::from_millis(50);

/// How far a streamed answer has come.
#[derive(Default)]
struct Progress {
    /// Its head was written.
    begun: bool,
    /// Its body is written as it comes.
    body: bool,
    /// The function has ended.
    complete: bool,
}

/// An answer that comes in pieces, each passed on as it comes.
async fn stream(
    shared: &Shared,
    session: &mut Session,
    ctx: &mut Context,
    backend: &RunningBackend,
    function: &RunningFunction,
    mut answer: Answer,
) -> Result<(), Failure> {
    let mut decoder = Decoder::default();
    let mut pieces = Vec::new();
    let mut progress = Progress::default();
    loop {
        let left = ctx.left(progress.begun);
        let fed = match super::whole::bounded(session, left, answer.chunk()).await {
            Ok(Some(chunk)) => decoder
                .feed(&chunk, &mut pieces)
                .map_err(|malformed| faulty(shared, ctx, backend, fault::STREAM_BROKEN, &malformed.0, true)),
            Ok(None) => break,
            Err(error) => Err(Failure { error, sent: true }),
        };
        let mut failed = fed.err();
        for piece in pieces.drain(..) {
            if failed.is_none() {
                failed = pass(shared, session, ctx, backend, function, piece, &mut progress).await.err();
            }
        }
        if let Some(failure) = failed {
            answer.abandon().await;
            return Err(failure);
        }
        if progress.begun && !progress.body {
            // All that the client will see is written: the head of an answer to HEAD, or an answer that came whole.
            answer.abandon().await;
            return Ok(());
        }
        if progress.complete {
            break;
        }
    }
    // The end of its chunks is mostly there already; a connection that lets itself be waited for is not worth it.
    match tokio::time::timeout(LAST_CHUNK, answer.chunk()).await {
        Ok(Ok(None)) => drop(answer.release(&shared.supplies.client).await),
        Ok(Ok(Some(_)) | Err(_)) | Err(_) => drop(answer.abandon().await),
    }
    if !progress.complete || !progress.begun {
        // The connection ended before the function did; what was passed on is not whole.
        return Err(faulty(shared, ctx, backend, fault::STREAM_BROKEN, "ended without InvokeComplete", true));
    }
    reply::end(session).await.map_err(|error| Failure { error, sent: true })
}

/// One piece on its way to the client.
async fn pass(
    shared: &Shared,
    session: &mut Session,
    ctx: &mut Context,
    backend: &RunningBackend,
    function: &RunningFunction,
    piece: Piece,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let after = |error| Failure { error, sent: true };
    match piece {
        // Nothing can follow the end.
        _ if progress.complete => Ok(()),
        Piece::Head(head) => {
            let head = response_head(head).map_err(|error| {
                faulty(shared, ctx, backend, fault::MALFORMED_ANSWER, &error.to_string(), true)
            })?;
            response::received(shared, session, ctx, &head).map_err(after)?;
            progress.body = reply::head(shared, session, ctx, head, None).await.map_err(after)?;
            progress.begun = true;
            Ok(())
        }
        Piece::Body(bytes) if progress.body => reply::chunk(session, ctx, bytes).await.map_err(after),
        Piece::Body(_) => Ok(()),
        Piece::Whole(payload) => {
            whole(shared, session, ctx, backend, function, &payload).await?;
            progress.begun = true;
            Ok(())
        }
        Piece::Failed { code, detail } => {
            let json = serde_json::json!({ "errorType": code, "errorMessage": detail }).to_string();
            let Refusal { fault, detail } = fault::function_error(json.as_bytes());
            Err(faulty(shared, ctx, backend, fault, &detail, true))
        }
        Piece::End { log } => {
            progress.complete = true;
            reported(shared, ctx, function, log.and_then(|log| Report::read(log.as_bytes())));
            Ok(())
        }
    }
}
