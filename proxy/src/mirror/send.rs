//! One copy of a request, sent to a backend, and what it answered.
//!
//! Input: the request as the client sent it, and a backend. Output: status, headers and a bounded body. Must not: use a
//! connection, a retry or a byte that belongs to primary traffic.

use crate::brings::{Header, acts_as};
use crate::caps::Cap;
use crate::client::exchange::{Answer as Answering, Client};
use crate::context::{Context, Sent};
use crate::hooks::invoke::payload;
use crate::hooks::rewrite;
use crate::hooks::whole::plain_head;
use crate::lambda::answer::{Head, answer};
use crate::lambda::fault;
use crate::lambda::report::Report;
use crate::lambda::stream::{Decoder, Piece};
use crate::shadow::tee::{Budget, Tee};
use crate::targets::backend::RunningBackend;
use crate::targets::function::RunningFunction;
use banyan_routes::table::{Timeouts, is_safe};
use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http::{HeaderMap, header};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// A shadow that takes longer says enough by that.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// Connections of its own that may rest.
const POOL: usize = 256;

/// All connections of the backend are others'.
pub const NO_CONNECTION: ErrorType = ErrorType::Custom("no connection to spare");

/// The status of an answer that was cut before it was said.
const UNSEEN: u16 = 0;

/// What a copy was answered.
pub struct Shadowed {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub truncated: bool,
    /// To the head.
    pub took: Duration,
    /// The function had to start first.
    pub cold: bool,
}

impl Shadowed {
    fn bare(status: u16, truncated: bool) -> Shadowed {
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        Shadowed { status, headers, body, truncated, took: Duration::ZERO, cold: false }
    }
}

/// A request to be sent once more.
pub struct Copy<'a> {
    pub head: Cow<'a, RequestHeader>,
    pub http2: bool,
    pub body: Bytes,
    pub timeouts: Option<&'a Timeouts>,
    /// Kept of the answer.
    pub max: usize,
}

/// With connections and memory of its own.
pub struct Sender {
    client: Client,
    budget: Arc<Budget>,
}

impl Sender {
    pub fn new(budget: Arc<Budget>) -> Sender {
        Sender { client: Client::in_rows(POOL), budget }
    }

    /// Those that were sending have nothing left to send.
    pub async fn rest(&self) {
        self.client.rest().await;
    }

    /// Within `DEADLINE`. `ctx` says for which route, and as what it is sent.
    pub async fn send(
        &self,
        ctx: Context,
        copy: Copy<'_>,
        backend: &Arc<RunningBackend>,
    ) -> Result<Shadowed> {
        let exchange = tokio::time::timeout(DEADLINE, self.exchange(ctx, copy, backend));
        let result = match &backend.cap {
            None => exchange.await,
            Some((cap, _)) => {
                let mut wanted = pin!(cap.wanted());
                // Before a place is taken: nobody who comes to wait for it is missed.
                wanted.as_mut().enable();
                tokio::select! {
                    biased;
                    result = exchange => result,
                    // Its connection is closed, and its place is the next client's.
                    () = wanted => return Err(Error::new(NO_CONNECTION)),
                }
            }
        };
        result.unwrap_or_else(|_| Error::e_explain(ErrorType::ReadTimedout, "the shadow's deadline"))
    }

    async fn exchange(
        &self,
        mut ctx: Context,
        copy: Copy<'_>,
        backend: &Arc<RunningBackend>,
    ) -> Result<Shadowed> {
        let endpoint = backend.pick(None).ok_or_else(|| Error::new(ErrorType::ConnectError))?;
        let permit = match &backend.cap {
            Some((cap, rule)) => {
                Some(cap.try_enter(rule, backend.cost(false)).ok_or_else(|| Error::new(NO_CONNECTION))?)
            }
            None => None,
        };
        let mut peer = endpoint.peer.clone();
        let (connect, first_byte) = copy.timeouts.map_or((None, None), |it| (it.connect, it.first_byte));
        peer.options.custom_l4 = Some(backend.dials.alone.clone());
        peer.options.connection_timeout = connect.or(Some(DEADLINE));
        peer.options.total_connection_timeout = peer.options.connection_timeout;
        peer.options.read_timeout = Some(first_byte.map_or(DEADLINE, |it| it.min(DEADLINE)));
        peer.options.write_timeout = Some(DEADLINE);
        let at = Instant::now();
        let cap = backend.cap.as_ref().map(|(cap, _)| cap);
        ctx.permit = permit;
        ctx.sent = Some(Sent::new(backend.clone(), endpoint, true));
        let mut original = copy.head;
        if ctx.brings.has(Header::Condition) {
            // They ask for less than the answer that is to be compared.
            let original = original.to_mut();
            CONDITIONS.iter().for_each(|name| drop(original.remove_header(name)));
        }
        match &backend.function {
            Some(function) => {
                let event = payload(&original, copy.http2, &ctx, backend, function, &copy.body)?;
                let called = Box::pin(self.invoke(function, &ctx, cap, peer, event, copy.max)).await?;
                Ok(Shadowed { took: at.elapsed(), ..called })
            }
            None => {
                let body = copy.body.clone();
                let mut head = || -> Result<RequestHeader> {
                    let mut head = plain_head(&original, body.len())?;
                    rewrite::run(&mut head, &mut ctx, &body)?;
                    Ok(head)
                };
                let sent = match is_safe(acts_as(&original.method, &original.headers)) {
                    true => self.client.send_safe(cap, &peer, head, copy.body).await,
                    false => self.client.send_within(cap, &peer, head()?, copy.body).await,
                };
                let answer = sent.map_err(|failed| failed.error)?;
                let took = at.elapsed();
                let (head, body, truncated) = self.read(answer, copy.max).await?;
                let Parts { status, headers, .. } = head.into();
                let status = status.as_u16();
                Ok(Shadowed { status, headers, body, truncated, took, cold: false })
            }
        }
    }

    /// Up to `max` bytes, and up to what all copies may keep together; a longer answer is not read on. With the head, which is the caller's then.
    async fn read(&self, mut answer: Answering, max: usize) -> Result<(ResponseHeader, Bytes, bool)> {
        let mut kept = Tee::new(max, &self.budget);
        while let Some(chunk) = answer.chunk().await? {
            kept.add(&chunk);
            if kept.truncated || kept.starved {
                return Ok((answer.abandon().await, kept.bytes(), true));
            }
        }
        Ok((answer.release(&self.client).await, kept.bytes(), false))
    }

    async fn invoke(
        &self,
        function: &RunningFunction,
        ctx: &Context,
        cap: Option<&Arc<Cap>>,
        peer: HttpPeer,
        event: Vec<u8>,
        max: usize,
    ) -> Result<Shadowed> {
        let failed = |text: &str| Error::explain(ErrorType::InternalError, text.to_owned());
        let now = SystemTime::now();
        let credentials = function.credentials.get(now).ok_or_else(|| failed("credentials"))?;
        let authority = ctx.sent.as_ref().map_or("", |sent| &sent.endpoint.authority);
        let head = function
            .request(authority, &event, Some(ctx.trace.xray(None)), &credentials, now)
            .map_err(|text| failed(&text))?;
        let answered =
            self.client.send_within(cap, &peer, head, event.into()).await.map_err(|failed| failed.error)?;
        let ok =
            answered.head.status.is_success() && !answered.head.headers.contains_key("x-amz-function-error");
        let (status, named) =
            (answered.head.status.as_u16(), answered.head.headers.get("x-amzn-errortype").cloned());
        let report =
            answered.head.headers.get("x-amz-log-result").and_then(|log| Report::read(log.as_bytes()));
        let cold = report.is_some_and(|report| report.init.is_some());
        // Base64 and JSON around the body take half as much again.
        let (_, payload, cut) = self.read(answered, max + max / 2 + 4096).await?;
        if !ok {
            let named = named.as_ref().and_then(|named| named.to_str().ok());
            let fault = if status == 200 {
                fault::function_error(&payload)
            } else {
                fault::refusal(status, named, &payload)
            };
            return Ok(Shadowed::bare(fault.fault.status, false));
        }
        let malformed = || Shadowed::bare(502, false);
        let answered = if function.target.stream {
            streamed(&payload, cut, max).unwrap_or_else(malformed)
        } else if cut {
            // Its status stands at the payload's end as often as at its start: there is none to compare.
            Shadowed::bare(UNSEEN, true)
        } else {
            answer(function.target.format, &payload)
                .map_or_else(|_| malformed(), |it| shadowed(it.head, it.body, false))
        };
        Ok(Shadowed { cold, ..answered })
    }
}

const CONDITIONS: [http::HeaderName; 6] = [
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
    header::RANGE,
];

fn shadowed(head: Head, body: Bytes, truncated: bool) -> Shadowed {
    let mut headers = HeaderMap::new();
    for (name, value) in head.headers {
        headers.append(name, value);
    }
    Shadowed { headers, body, ..Shadowed::bare(head.status, truncated) }
}

/// A stream read to its end, or to what is kept of it.
fn streamed(frames: &[u8], cut: bool, max: usize) -> Option<Shadowed> {
    let (mut decoder, mut pieces) = (Decoder::default(), Vec::new());
    decoder.feed(frames, &mut pieces).ok()?;
    let (mut head, mut body, mut complete) = (None, BytesMut::new(), false);
    for piece in pieces {
        match piece {
            Piece::Head(it) => head = Some(it),
            Piece::Body(chunk) => body.extend_from_slice(&chunk),
            Piece::Whole(payload) => {
                let it = answer(banyan_routes::backend::EventFormat::V2, &payload).ok()?;
                return Some(shadowed(it.head, it.body, false));
            }
            Piece::Failed { .. } => return None,
            Piece::End { .. } => complete = true,
        }
    }
    let truncated = cut || !complete || body.len() > max;
    Some(shadowed(head?, body.freeze(), truncated))
}
