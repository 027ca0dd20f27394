//! The shadow's own runtime: sends the copy, reads the answer, compares, and counts.
//!
//! Input: exchanges from the queue. Output: evidence and metrics. Must not: touch a worker, a backend's primary connections,
//! or anything a client waits for; a failure here costs one exchange.

pub mod line;
pub mod send;
pub mod control;
pub mod judge;
pub mod keep;

use crate::brings::{METHOD_OVERRIDES, acts_as};
use crate::context::Context;
use crate::evidence::Finished;
use crate::evidence::store::EvidenceStore;
use crate::hooks::rewrite;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::shadow::queue::{Exchange, drop_exchange};
use crate::shadow::tee::Budget;
use crate::spans::{Attribute, Kind, Span, SpanSender};
use crate::targets::backend::RunningBackend;
use crate::trace::Trace;
use banyan_routes::compare::Verdict;
use banyan_routes::evidence::Loss;
use banyan_routes::ids::{SharePpm, Side};
use banyan_routes::read_back::ReadBack;
use banyan_routes::table::{Route, ShadowRule, Writes, is_safe};
use bytes::Bytes;
use control::Controls;
use http::{Method, header};
use judge::{Raw, judge};
use line::{Line, backend, runtime};
use pingora_error::ErrorType;
use pingora_http::RequestHeader;
use send::{Copy, NO_CONNECTION, Sender, Shadowed};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc::Receiver;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use xxhash_rust::xxh3::Xxh3;

/// A panic ends one task, and is counted as the one exchange it has cost.
struct PanicGuard {
    metrics: Arc<Metrics>,
    live: Arc<Live>,
    route: u32,
    finished: bool,
}

impl PanicGuard {
    fn new(mirror: &Mirror, exchange: &Exchange) -> PanicGuard {
        let (metrics, live) = (mirror.metrics.clone(), exchange.ask.live.clone());
        PanicGuard { metrics, live, route: exchange.ask.found.route, finished: false }
    }
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if !self.finished && std::thread::panicking() {
            let id = &self.live.serving.table.route(self.route).id;
            let runtime = &self.live.serving.routes[self.route as usize];
            runtime.lose_of(self.live.number, &self.metrics, id, Loss::Panic);
        }
    }
}

/// Exchanges taken at once, and how long the next are left to gather: nobody waits for a shadow, and each time a thread is woken costs as much as
/// sending.
const BATCH: usize = 64;
const PAUSE: Duration = Duration::from_millis(30);
/// Copies under way at one time. When fewer than a quarter of the lanes are left, a backend gets a few only: those that are slow leave room for others.
const LANES_MAX: usize = 512;
const LANES_LEFT: usize = LANES_MAX / 4;
const PLACES_LEFT: u32 = 4;
/// Writes that wait until they can be seen.
const LAGGING_MAX: usize = 1_024;
/// Those that begin on a batch, each of which sends one copy after the other over the connection it has; and after how long as many again, and twice
/// as many the next time, help them. A shadow that is fast is asked by few, whose connections and buffers stay warm; one that is slow by as many as it has places.
const LANES: usize = 4;
const STEP: Duration = Duration::from_millis(5);
/// Where all that waits is for backends that are behind, those that send to them go on with it: looked at in case there is none of them left, or more room.
const LOOK: Duration = Duration::from_millis(250);

pub struct Mirror {
    sender: Sender,
    metrics: Arc<Metrics>,
    store: Arc<EvidenceStore>,
    spans: SpanSender,
    controls: Mutex<HashMap<Box<str>, Controls>>,
    /// Taken from the queue, and not begun.
    line: Line,
    lanes: Arc<Semaphore>,
    lagging: Arc<Semaphore>,
    /// One that lagged is in the line.
    due: Notify,
}

/// Why a copy has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missed {
    /// It was given up for a client, or there was no connection to begin with.
    Connection,
    Failed,
}

impl Mirror {
    pub fn new(
        budget: Arc<Budget>,
        metrics: Arc<Metrics>,
        store: Arc<EvidenceStore>,
        spans: SpanSender,
    ) -> Mirror {
        let sender = Sender::new(budget);
        let (controls, line) = Default::default();
        let [lanes, lagging] = [LANES_MAX, LAGGING_MAX].map(|most| Arc::new(Semaphore::new(most)));
        Mirror { sender, metrics, store, spans, controls, line, lanes, lagging, due: Notify::new() }
    }

    /// Runs until the queue is closed. Call on the shadow's own runtime.
    pub async fn run(self: Arc<Mirror>, mut queue: Receiver<Exchange>) {
        let mut batch = Vec::with_capacity(BATCH);
        let (mut lanes, mut moves) = (LANES, false);
        loop {
            let some_wait = !self.line.is_empty();
            let taken = tokio::select! {
                biased;
                taken = queue.recv_many(&mut batch, BATCH) => Some(taken),
                () = self.due.notified() => None,
                () = std::future::ready(()), if moves && some_wait => None,
                () = tokio::time::sleep(LOOK), if some_wait => None,
            };
            if taken == Some(0) {
                return;
            }
            let full = batch.len() == BATCH;
            for exchange in batch.drain(..) {
                match verifies(&exchange) {
                    Some(lag) => self.later(exchange, lag),
                    None => self.queue_up(exchange),
                }
            }
            let ready = self.line.ready(self.places());
            for _ in 0..lanes.min(ready) {
                let Ok(permit) = self.lanes.clone().try_acquire_owned() else { break };
                tokio::spawn(self.clone().lane(permit));
            }
            tokio::time::sleep(STEP).await;
            moves = self.line.step(self.places());
            if moves {
                lanes = LANES_MAX.min(lanes * 2);
            } else {
                // Nothing waits, or all of it for those that are behind.
                lanes = LANES;
                if !full {
                    tokio::time::sleep(PAUSE - STEP).await;
                }
            }
        }
    }

    /// How many copies one backend may have under way now.
    fn places(&self) -> u32 {
        if self.lanes.available_permits() < LANES_LEFT { PLACES_LEFT } else { u32::MAX }
    }

    fn queue_up(&self, exchange: Exchange) {
        if let Some(late) = self.line.push(exchange) {
            drop_exchange(&self.metrics, &late, Loss::QueueFull);
        }
    }

    /// Sends what waits, one after the other, until there is none whose backend has a place.
    async fn lane(self: Arc<Mirror>, _permit: OwnedSemaphorePermit) {
        while let Some((exchange, _place)) = self.line.next(self.places()) {
            let mut guard = PanicGuard::new(&self, &exchange);
            self.one(&exchange).await;
            guard.finished = true;
        }
        self.sender.rest().await;
    }

    /// What was written may take its time to be seen, and holds up nobody's copy meanwhile.
    fn later(self: &Arc<Mirror>, exchange: Exchange, lag: Duration) {
        let Ok(waits) = self.lagging.clone().try_acquire_owned() else {
            return drop_exchange(&self.metrics, &exchange, Loss::QueueFull);
        };
        let this = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(lag).await;
            drop(waits);
            this.queue_up(exchange);
            this.due.notify_one();
        });
    }

    async fn one(&self, exchange: &Exchange) {
        let route = exchange.ask.live.serving.table.route(exchange.ask.found.route);
        let Some(rule) = &route.shadow else { return };
        match (&rule.writes, exchange.capture.shadow) {
            (Writes::Verify { read, .. }, None) => Box::pin(self.verify(exchange, route, rule, read)).await,
            (_, Some(side)) => self.copy(exchange, route, rule, side).await,
            (Writes::Off | Writes::Sandbox { .. }, None) => {}
        }
    }

    /// The copy and, now and then, legacy a second time.
    async fn copy(&self, exchange: &Exchange, route: &Route, rule: &ShadowRule, side: Side) {
        let capture = &exchange.capture;
        let Some(backend) = backend(exchange, side) else {
            return drop_exchange(&self.metrics, exchange, Loss::Unread);
        };
        if let Some(loss) = closed(backend) {
            return drop_exchange(&self.metrics, exchange, loss);
        }
        let ask = &exchange.ask;
        let again = || Copy {
            head: Cow::Borrowed(&ask.head),
            http2: ask.http2,
            body: capture.request.bytes(),
            timeouts: Some(&route.policy.timeouts),
            max: rule.max_body_bytes as usize,
        };
        let acts_as = acts_as(&ask.head.method, &ask.head.headers);
        let safe = !matches!(&rule.writes, Writes::Sandbox { .. } if !is_safe(acts_as));
        let control = line::backend(exchange, Side::Legacy).filter(|_| safe && self.may_control(route, rule));
        // Either may come first, so that being second is not what differs.
        let control_first = rand::random_bool(0.5);
        let mut earlier = None;
        if let Some(legacy) = control.filter(|_| control_first) {
            earlier = self.sender.send(Context::shadow(ask, Side::Legacy), again(), legacy).await.ok();
        }
        let answered = self.send(exchange, route, Context::copy(ask, side), again(), backend).await;
        if answered.as_ref().err() == Some(&Missed::Connection) {
            return drop_exchange(&self.metrics, exchange, Loss::Connections);
        }
        let answered = answered.ok();
        let primary_body = capture.answer.bytes();
        let primary = Raw {
            status: capture.status,
            headers: &capture.headers,
            body: &primary_body,
            truncated: capture.answer.truncated,
        };
        let shadow = answered.as_ref().map(raw);
        let (legacy_answer, serverless_answer) = match side {
            Side::Serverless => (Some(primary), shadow),
            Side::Legacy => (shadow, Some(primary)),
        };
        fault_injection();
        let verdict = judge(legacy_answer, serverless_answer, &rule.rules, &ask.public_host);
        let took = answered.as_ref().map(|shadow| {
            let (primary, shadow) = (capture.took.as_secs_f64(), shadow.took.as_secs_f64());
            if side == Side::Serverless { (primary, shadow) } else { (shadow, primary) }
        });
        let cold = answered.as_ref().is_some_and(|it| it.cold) || capture.cold;
        self.finish(exchange, route, &verdict, took, cold);
        let Some(legacy) = control else { return };
        let second = match control_first {
            true => earlier,
            false => self.sender.send(Context::shadow(ask, Side::Legacy), again(), legacy).await.ok(),
        };
        let second = second.as_ref().map(raw);
        // In the order in which they were asked.
        let pair = match (side, control_first) {
            (Side::Legacy, true) => (second, legacy_answer),
            (Side::Serverless, _) | (Side::Legacy, false) => (legacy_answer, second),
        };
        let word = match pair {
            (Some(first), Some(second)) => {
                let verdict = judge(Some(first), Some(second), &rule.rules, &ask.public_host);
                runtime(exchange).evidence().control(under(exchange), &verdict, SystemTime::now());
                word(&verdict)
            }
            _ => "inconclusive",
        };
        let runtime = runtime(exchange);
        self.metrics
            .controls
            .with_label_values(&[runtime.metrics.name(&self.metrics, &route.id), word])
            .inc();
    }

    /// After a write that only one side has seen: the same read of both.
    async fn verify(&self, exchange: &Exchange, route: &Route, rule: &ShadowRule, read: &ReadBack) {
        let (ask, capture) = (&exchange.ask, &exchange.capture);
        if !(200..400).contains(&capture.status) {
            return drop_exchange(&self.metrics, exchange, Loss::Refused);
        }
        let pattern = route.matches.get(usize::from(ask.found.alternative)).map(|matcher| &matcher.path);
        let target = String::from_utf8_lossy(ask.head.raw_path()).into_owned();
        let path = target.split('?').next().unwrap_or_default();
        let parameters: Vec<(String, String)> = pattern
            .map(|pattern| pattern.parameters(path))
            .unwrap_or_default()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let location = capture.headers.get(header::LOCATION).and_then(|it| it.to_str().ok());
        let decoded = crate::decode::decoded(&capture.headers, &capture.answer.bytes()).unwrap_or_default();
        let backends = backend(exchange, Side::Legacy).zip(backend(exchange, Side::Serverless));
        let (Some(path), Some((legacy, serverless))) = (read.fill(&parameters, location, &decoded), backends)
        else {
            return drop_exchange(&self.metrics, exchange, Loss::Unread);
        };
        if let Some(loss) = closed(legacy).or_else(|| closed(serverless)) {
            return drop_exchange(&self.metrics, exchange, loss);
        }
        let get = || -> pingora_error::Result<Copy<'_>> {
            let mut head = RequestHeader::build(Method::GET, path.as_bytes(), None)?;
            for (name, value) in &ask.head.headers {
                let of_the_write =
                    [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::TRANSFER_ENCODING, header::EXPECT];
                if !of_the_write.contains(name) && !METHOD_OVERRIDES.contains(&name.as_str()) {
                    head.append_header(name.clone(), value.clone())?;
                }
            }
            // As the write was sent: what a route takes away or says for its clients holds for this as well.
            if let Some(edits) = &route.policy.request_headers {
                rewrite::edit_request(&mut head, edits)?;
            }
            let (timeouts, max) = (Some(&route.policy.timeouts), rule.max_body_bytes as usize);
            Ok(Copy { head: Cow::Owned(head), http2: ask.http2, body: Bytes::new(), timeouts, max })
        };
        let mut answers = Vec::new();
        for (side, backend) in [(Side::Legacy, legacy), (Side::Serverless, serverless)] {
            let Ok(copy) = get() else { return drop_exchange(&self.metrics, exchange, Loss::Unread) };
            let answer = self.send(exchange, route, Context::read_back(ask, side), copy, backend).await;
            if answer.as_ref().err() == Some(&Missed::Connection) {
                return drop_exchange(&self.metrics, exchange, Loss::Connections);
            }
            answers.push(answer.ok());
        }
        let [one, other] = [0, 1].map(|at| answers[at].as_ref().map(raw));
        let verdict = judge(one, other, &rule.rules, &ask.public_host);
        self.finish(exchange, route, &verdict, None, false);
    }

    /// Sends, and counts what came of it.
    async fn send(
        &self,
        exchange: &Exchange,
        route: &Route,
        ctx: Context,
        copy: Copy<'_>,
        backend: &Arc<RunningBackend>,
    ) -> Result<Shadowed, Missed> {
        let (trace, start) = (ctx.trace, SystemTime::now());
        let span = self
            .spans
            .wants(&trace, false)
            .then(|| [copy.head.method.as_str(), " shadow ", &*route.id].concat());
        let sent = self.sender.send(ctx, copy, backend).await;
        if let Some(name) = span {
            self.spans.offer(shadow_span(name, trace, start, backend, &sent));
        }
        if sent.as_ref().err().is_some_and(|error| *error.etype() == NO_CONNECTION) {
            return Err(Missed::Connection);
        }
        let word = match &sent {
            Ok(_) => "answered",
            Err(error)
                if matches!(
                    error.etype(),
                    ErrorType::ReadTimedout | ErrorType::ConnectTimedout | ErrorType::WriteTimedout
                ) =>
            {
                "timeout"
            }
            Err(_) => "failed",
        };
        backend.shadow_breaker.settle(sent.is_ok());
        let runtime = runtime(exchange);
        runtime.metrics.count_shadow(&self.metrics, &route.id, word);
        sent.map_err(|_| Missed::Failed)
    }

    fn finish(
        &self,
        exchange: &Exchange,
        route: &Route,
        verdict: &Verdict,
        took: Option<(f64, f64)>,
        cold: bool,
    ) {
        let (ask, runtime) = (&exchange.ask, runtime(exchange));
        runtime.metrics.count_verdict(&self.metrics, &route.id, word(verdict));
        let mut hash = Xxh3::new();
        let target = String::from_utf8_lossy(ask.head.raw_path());
        hash.update(ask.head.method.as_str().as_bytes());
        hash.update(target.as_bytes());
        hash.update(&exchange.capture.request.bytes());
        let trace = ask.trace.id();
        let finished = Finished {
            under: under(exchange),
            verdict,
            request: hash.digest(),
            method: ask.head.method.as_str(),
            target: &target,
            trace_id: std::str::from_utf8(&trace).unwrap_or_default(),
            took,
            cold,
        };
        runtime.evidence().add(&finished, &self.store.redactor, SystemTime::now());
    }

    fn may_control(&self, route: &Route, rule: &ShadowRule) -> bool {
        if rule.controls == SharePpm::ZERO {
            return false;
        }
        let mut all = self.controls.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(route.id.clone()).or_default().take(rule.controls, Instant::now())
    }
}

/// How long a write waits before it is read on both sides; `None`: it is a copy.
fn verifies(exchange: &Exchange) -> Option<Duration> {
    let route = exchange.ask.live.serving.table.route(exchange.ask.found.route);
    match (&route.shadow.as_ref()?.writes, exchange.capture.shadow) {
        (Writes::Verify { lag, .. }, None) => Some(*lag),
        _ => None,
    }
}

/// Why nothing is to be sent there now.
fn closed(backend: &Arc<RunningBackend>) -> Option<Loss> {
    if backend.shadow_breaker.is_open() {
        return Some(Loss::Breaker);
    }
    let (cap, rule) = backend.cap.as_ref()?;
    cap.try_enter(rule, backend.cost(false)).is_none().then_some(Loss::Connections)
}

/// A copy as a collector knows it: a child of the request, which did not wait for it.
fn shadow_span(
    name: String,
    trace: Trace,
    start: SystemTime,
    backend: &RunningBackend,
    sent: &pingora_error::Result<Shadowed>,
) -> Span {
    let mut attributes = vec![("banyan.backend", Attribute::from(&*backend.definition.id))];
    if let Ok(sent) = sent {
        attributes.push(("http.response.status_code", u64::from(sent.status).into()));
    }
    let failed = sent.as_ref().map_or(true, |it| it.status >= 500);
    let took = start.elapsed().unwrap_or_default();
    let (kind, linked) = (Kind::Client, trace.parent);
    Span { trace, kind, linked, state: None, name: name.into(), start, took, failed, attributes }
}

fn under(exchange: &Exchange) -> (u64, u64) {
    let live = &exchange.ask.live;
    (live.serving.identities[exchange.ask.found.route as usize], live.number)
}

fn raw(shadow: &Shadowed) -> Raw<'_> {
    Raw { status: shadow.status, headers: &shadow.headers, body: &shadow.body, truncated: shadow.truncated }
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Match => "match",
        Verdict::Mismatch(_) => "mismatch",
        // Why is told by the evidence.
        Verdict::Inconclusive(_) => "inconclusive",
    }
}

/// Lets the tests of isolation see a comparator fail; not in release builds.
#[cfg(debug_assertions)]
#[expect(clippy::panic, reason = "this is the fault")]
fn fault_injection() {
    if std::env::var_os("BANYAN_FAULT_COMPARATOR").is_some() {
        panic!("a fault was asked for");
    }
}

#[cfg(not(debug_assertions))]
fn fault_injection() {}
