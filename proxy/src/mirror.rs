//! The shadow's own runtime: sends the copy, reads the answer, compares, and counts.
//!
//! Input: exchanges from the queue. Output: evidence and metrics. Must not: touch a worker, a backend's primary connections,
//! or anything a client waits for; a failure here costs one exchange.

use crate::client::exchange::Client;
use crate::context::{Context, Sent};
use crate::decode::decoded;
use crate::hooks::invoke::payload;
use crate::hooks::rewrite;
use crate::hooks::whole::plain_head;
use crate::lambda::answer::{Head, answer};
use crate::lambda::fault;
use crate::lambda::stream::{Decoder, Piece};
use crate::metrics::Metrics;
use crate::shadow::queue::{Exchange, drop_exchange};
use crate::targets::backend::RunningBackend;
use crate::targets::function::RunningFunction;
use banyan_routes::compare::{Answer, Difference, Kind, Unknown, Verdict, compare};
use banyan_routes::ids::Side;
use banyan_routes::table::Route;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Receiver;

/// Copies under way at one time.
const CONCURRENCY: usize = 64;
/// A shadow that takes longer says enough by that.
const DEADLINE: Duration = Duration::from_secs(10);
/// Failures in a row after which a backend is left alone, and for how long.
const BREAKER_FAILURES: u32 = 10;
const BREAKER_OPEN: Duration = Duration::from_secs(5);
/// Connections of its own that may rest.
const POOL: usize = 256;

/// What the shadow answered.
struct Shadowed {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
    truncated: bool,
}

#[derive(Default)]
struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
}

struct Mirror {
    client: Client,
    metrics: Arc<Metrics>,
    breakers: Mutex<HashMap<Box<str>, Breaker>>,
}

/// Runs until the queue is closed. Call on the shadow's own runtime.
pub async fn run(mut queue: Receiver<Exchange>, metrics: Arc<Metrics>) {
    let mirror = Arc::new(Mirror { client: Client::new(POOL), metrics, breakers: Mutex::default() });
    let permits = Arc::new(Semaphore::new(CONCURRENCY));
    loop {
        // The permit first: what waits, waits in the queue, where it is counted and bounded.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let Some(exchange) = queue.recv().await else { return };
        let mirror = mirror.clone();
        tokio::spawn(async move {
            mirror.one(exchange).await;
            drop(permit);
        });
    }
}

impl Mirror {
    async fn one(&self, exchange: Exchange) {
        let route = exchange.live.serving.table.route(exchange.found.route);
        let Some(at) = route.backend(exchange.capture.shadow) else { return };
        let backend = exchange.live.serving.backends[at as usize].clone();
        if self.is_open(&backend) {
            return drop_exchange(&self.metrics, &exchange, "breaker");
        }
        let sent = tokio::time::timeout(DEADLINE, self.send(&exchange, route, &backend)).await;
        let (word, answered) = match sent {
            Ok(Ok(answered)) => ("answered", Some(answered)),
            Ok(Err(_)) => ("failed", None),
            Err(_) => ("timeout", None),
        };
        self.settle(&backend, answered.is_some());
        self.metrics.shadow.with_label_values(&[&*route.id, word]).inc();
        let verdict = verdict(&exchange, route, answered);
        let word = match &verdict {
            Verdict::Match => "match",
            Verdict::Mismatch(_) => "mismatch",
            Verdict::Inconclusive(unknown) => unknown.as_str(),
        };
        self.metrics.comparisons.with_label_values(&[&*route.id, word]).inc();
        let evidence = exchange.evidence();
        evidence.add(&verdict);
        let counts = evidence.counts();
        self.metrics.parity_bound.with_label_values(&[&*route.id]).set(counts.upper_bound());
        self.metrics.coverage.with_label_values(&[&*route.id]).set(counts.coverage());
    }

    fn is_open(&self, backend: &RunningBackend) -> bool {
        let breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        let open = breakers.get(&backend.definition.id).and_then(|breaker| breaker.open_until);
        open.is_some_and(|until| Instant::now() < until)
    }

    fn settle(&self, backend: &RunningBackend, answered: bool) {
        let mut breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        let breaker = breakers.entry(backend.definition.id.clone()).or_default();
        if answered {
            *breaker = Breaker::default();
            return;
        }
        breaker.failures += 1;
        if breaker.failures >= BREAKER_FAILURES {
            breaker.open_until = Some(Instant::now() + BREAKER_OPEN);
        }
    }

    async fn send(
        &self,
        exchange: &Exchange,
        route: &Route,
        backend: &Arc<RunningBackend>,
    ) -> Result<Shadowed> {
        let endpoint = backend.pick(None).ok_or_else(|| Error::new(ErrorType::ConnectError))?;
        let mut peer = endpoint.peer.clone();
        let timeouts = &route.policy.timeouts;
        peer.options.connection_timeout = timeouts.connect.or(Some(DEADLINE));
        peer.options.total_connection_timeout = peer.options.connection_timeout;
        peer.options.read_timeout = Some(timeouts.first_byte.map_or(DEADLINE, |it| it.min(DEADLINE)));
        peer.options.write_timeout = Some(DEADLINE);
        let mut ctx = Context::shadow(exchange);
        ctx.sent = Some(Sent { backend: backend.clone(), endpoint, at: Instant::now() });
        let max = route.shadow.as_ref().map_or(0, |rule| rule.max_body_bytes) as usize;
        let body = exchange.capture.request.bytes();
        let mut original = exchange.head.clone();
        // Conditions and ranges ask for less than the answer that is to be compared.
        for name in CONDITIONS {
            original.remove_header(&name);
        }
        match &backend.function {
            Some(function) => {
                let event = payload(&original, exchange.http2, &ctx, backend, function, &body)?;
                self.invoke(function, &ctx, peer, event, max).await
            }
            None => {
                let mut head = plain_head(&original, body.len())?;
                rewrite::run(&mut head, &mut ctx, &body)?;
                let answer = self.client.send(peer, head, body).await.map_err(|failed| failed.error)?;
                let (status, headers) = (answer.head.status.as_u16(), answer.head.headers.clone());
                let (body, truncated) = self.read(answer, max).await?;
                Ok(Shadowed { status, headers, body, truncated })
            }
        }
    }

    /// Up to `max` bytes; a longer answer is not read on.
    async fn read(&self, mut answer: crate::client::exchange::Answer, max: usize) -> Result<(Bytes, bool)> {
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await? {
            if body.len() + chunk.len() > max {
                answer.abandon().await;
                return Ok((body.freeze(), true));
            }
            body.extend_from_slice(&chunk);
        }
        answer.release(&self.client).await;
        Ok((body.freeze(), false))
    }

    async fn invoke(
        &self,
        function: &RunningFunction,
        ctx: &Context,
        peer: HttpPeer,
        event: Vec<u8>,
        max: usize,
    ) -> Result<Shadowed> {
        let failed = |text: &str| Error::explain(ErrorType::InternalError, text.to_owned());
        let now = SystemTime::now();
        let credentials = function.credentials.get(now).ok_or_else(|| failed("credentials"))?;
        let authority = ctx.sent.as_ref().map_or("", |sent| &sent.endpoint.authority);
        let head =
            function.request(authority, &event, None, &credentials, now).map_err(|text| failed(&text))?;
        let answered =
            self.client.send(peer, head, Bytes::from(event)).await.map_err(|failed| failed.error)?;
        let ok =
            answered.head.status.is_success() && !answered.head.headers.contains_key("x-amz-function-error");
        let (status, named) =
            (answered.head.status.as_u16(), answered.head.headers.get("x-amzn-errortype").cloned());
        // Base64 and JSON around the body take half as much again.
        let (payload, cut) = self.read(answered, max + max / 2 + 4096).await?;
        if !ok {
            let named = named.as_ref().and_then(|named| named.to_str().ok());
            let fault = if status == 200 {
                fault::function_error(&payload)
            } else {
                fault::refusal(status, named, &payload)
            };
            let (status, body) = (fault.fault.status, Bytes::new());
            return Ok(Shadowed { status, headers: HeaderMap::new(), body, truncated: false });
        }
        let malformed =
            || Shadowed { status: 502, headers: HeaderMap::new(), body: Bytes::new(), truncated: false };
        if function.target.stream {
            return Ok(streamed(&payload, cut, max).unwrap_or_else(malformed));
        }
        if cut {
            // Its status stands at the payload's end as often as at its start.
            return Ok(Shadowed {
                status: 200,
                headers: HeaderMap::new(),
                body: Bytes::new(),
                truncated: true,
            });
        }
        Ok(answer(function.target.format, &payload)
            .map_or_else(|_| malformed(), |it| shadowed(it.head, it.body, false)))
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
    Shadowed { status: head.status, headers, body, truncated }
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

/// What the two answers say of each other.
fn verdict(exchange: &Exchange, route: &Route, shadow: Option<Shadowed>) -> Verdict {
    let capture = &exchange.capture;
    let Some(shadow) = shadow else {
        // A serverless side that gives no answer is a difference, not a lost sample; a legacy side that gives none says nothing.
        return match capture.shadow {
            Side::Serverless => Verdict::Mismatch(vec![Difference {
                path: "status".into(),
                kind: Kind::Status,
                legacy: capture.status.to_string(),
                serverless: "none".into(),
            }]),
            Side::Legacy => Verdict::Inconclusive(Unknown::NoAnswer),
        };
    };
    let primary_body = capture.answer.bytes();
    let read = |headers: &HeaderMap, body: &Bytes, truncated: bool| {
        if truncated { Some(body.clone()) } else { decoded(headers, body) }
    };
    let bodies = read(&capture.headers, &primary_body, capture.answer.truncated).zip(read(
        &shadow.headers,
        &shadow.body,
        shadow.truncated,
    ));
    let Some((one, other)) = bodies else { return Verdict::Inconclusive(Unknown::Undecodable) };
    let primary = Answer {
        status: capture.status,
        headers: &capture.headers,
        body: &one,
        truncated: capture.answer.truncated,
    };
    let shadow =
        Answer { status: shadow.status, headers: &shadow.headers, body: &other, truncated: shadow.truncated };
    let ignore = route.shadow.as_ref().map(|rule| rule.ignore.clone()).unwrap_or_default();
    match capture.shadow {
        Side::Serverless => compare(&primary, &shadow, &ignore),
        Side::Legacy => compare(&shadow, &primary, &ignore),
    }
}
