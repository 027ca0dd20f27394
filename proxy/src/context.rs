//! What is known of one request while it passes through the hooks.
//!
//! Input: filled by the hooks in their order. Output: read by later hooks and by the access log. Must not: own what can be
//! borrowed from the snapshot it holds.

use crate::authorizers::Refused;
use crate::brings::Brings;
use crate::caps::{Permit, Use};
use crate::facts::Client;
use crate::lambda::authorize::Verdict;
use crate::lambda::report::Report;
use crate::live::{Live, RouteRuntime};
use crate::shadow::queue::Ask;
use crate::shadow::tee::Capture;
use crate::targets::backend::{Endpoint, RunningBackend};
use crate::targets::tunnel::Opened;
use crate::trace::Trace;
use banyan_routes::decide::Decision;
use banyan_routes::ids::Side;
use banyan_routes::request::Claims;
use banyan_routes::rewrite::Rewrite;
use banyan_routes::table::{Found, Route};
use http::HeaderValue;
use pingora_prometheus::prometheus::IntGauge;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The header that says who answered and why.
pub const ATTRIBUTION: &str = "x-banyan";

/// Counted while it lives: requests that end in a dropped future are counted down as well.
pub struct InFlight(IntGauge);

impl InFlight {
    pub fn new(gauge: &IntGauge) -> InFlight {
        gauge.inc();
        InFlight(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Where a request was sent, this try.
pub struct Sent {
    pub backend: Arc<RunningBackend>,
    pub endpoint: Arc<Endpoint>,
    pub at: Instant,
    /// Its backend knows how it went.
    pub settled: bool,
}

impl Sent {
    pub fn new(backend: Arc<RunningBackend>, endpoint: Arc<Endpoint>, settled: bool) -> Sent {
        backend.under_way.fetch_add(1, Ordering::Relaxed);
        Sent { backend, endpoint, at: Instant::now(), settled }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.backend.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call that decides whether a breaker closes; given back untold when it is dropped.
pub struct Probe(pub Arc<RunningBackend>);

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(breaker) = &self.0.breaker {
            breaker.give_up();
        }
    }
}

pub struct Context {
    /// Whether answers carry the attribution header.
    attributed: bool,
    pub live: Option<Arc<Live>>,
    pub started: Instant,
    pub trace: Trace,
    pub client: Client,
    pub brings: Brings,
    pub listener: usize,
    /// The endpoint of PrivateLink that it came by.
    pub endpoint: Option<Arc<str>>,
    /// As the client sent it, for rewriting what comes back.
    pub public_host: Box<str>,
    pub found: Option<Found>,
    pub decision: Option<Decision>,
    pub sent: Option<Sent>,
    pub probe: Option<Probe>,
    /// Its place among the requests of a backend with a cap, and on a connection of it: the connection is left first.
    pub in_use: Option<Use>,
    pub permit: Option<Permit>,
    /// The connection of an upgrade that the backend has not agreed to.
    pub opened: Option<Opened>,
    /// Tries that were sent back to share a connection.
    pub shares: u32,
    pub tries: u32,
    pub retries: u8,
    /// Hints that came before the answer.
    pub interims: u8,
    /// The next try waits a random moment.
    pub pause: bool,
    /// Whether the body is held whole, and sent by ourselves.
    pub whole: bool,
    /// How many more addresses of this backend may be tried after a failed connect.
    pub other_addresses: usize,
    /// What made the last try fail.
    pub failed: Option<banyan_routes::terms::FailureKind>,
    pub upgrade: bool,
    /// Its body is a stream of messages (gRPC), whose time is the application's.
    pub messages: bool,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub first_byte: Option<Duration>,
    pub status: u16,
    /// Of the token that came with it, where the route asks.
    pub claims: Option<Arc<Claims>>,
    /// What an authorizer has just said, and what it says of this request.
    pub asked: Option<Result<Arc<Verdict>, Refused>>,
    pub verdict: Option<Arc<Verdict>>,
    /// Whether there is room within a limit of the whole fleet, once its store was asked.
    pub said: Option<Result<(), Duration>>,
    /// Why Banyan answered itself.
    pub cause: Option<&'static str>,
    /// What AWS said of a call that failed, bounded; for the log only.
    pub detail: Option<Box<str>>,
    /// What the call's REPORT line said, where it was asked for.
    pub report: Option<Report>,
    /// What is kept of a sampled request.
    pub capture: Option<Box<Capture>>,
    /// It is a copy, which answers nobody.
    pub shadow: bool,
    _in_flight: Option<InFlight>,
}

impl Context {
    /// The copy of a finished request, on its way to the other side.
    pub fn shadow(ask: &Ask, side: Side) -> Context {
        let mut ctx = Context::bare(Some(ask.live.clone()), None, false);
        ctx.shadow = true;
        ctx.trace = ask.trace.child();
        ctx.client = ask.client;
        ctx.brings = ask.brings;
        ctx.public_host = ask.public_host.clone();
        ctx.found = Some(ask.found.clone());
        ctx.decision = Some(Decision { side, ..ask.decision.clone() });
        ctx
    }

    /// The same under the span that the request's log line names.
    pub fn copy(ask: &Ask, side: Side) -> Context {
        Context { trace: ask.shadow, ..Context::shadow(ask, side) }
    }

    /// A read of another path, after a write: no rewrite of the write's route is meant for it.
    pub fn read_back(ask: &Ask, side: Side) -> Context {
        Context { found: None, brings: Brings::UNKNOWN, ..Context::shadow(ask, side) }
    }

    pub fn new(live: Option<Arc<Live>>, in_flight: InFlight, attributed: bool) -> Context {
        Context::bare(live, Some(in_flight), attributed)
    }

    fn bare(live: Option<Arc<Live>>, in_flight: Option<InFlight>, attributed: bool) -> Context {
        let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let client = Client { peer: nobody, address: nobody, trusted: false, https: false };
        Context {
            attributed,
            live,
            started: Instant::now(),
            trace: Trace::none(),
            client,
            brings: Brings::UNKNOWN,
            listener: 0,
            endpoint: None,
            public_host: "".into(),
            found: None,
            decision: None,
            sent: None,
            probe: None,
            in_use: None,
            permit: None,
            opened: None,
            shares: 0,
            tries: 0,
            retries: 0,
            interims: 0,
            pause: false,
            whole: false,
            other_addresses: 0,
            failed: None,
            upgrade: false,
            messages: false,
            request_bytes: 0,
            response_bytes: 0,
            first_byte: None,
            status: 0,
            claims: None,
            asked: None,
            verdict: None,
            said: None,
            cause: None,
            detail: None,
            report: None,
            capture: None,
            shadow: false,
            _in_flight: in_flight,
        }
    }

    /// Tells the backend how a try went, once.
    pub fn settle(&mut self, failed: bool) {
        let probe = self.probe.take();
        let Some(sent) = self.sent.as_mut().filter(|sent| !sent.settled) else { return };
        sent.settled = true;
        // Its end gives it back; told as a probe, it is counted as one.
        sent.backend.settle(&sent.endpoint, probe.is_some(), failed, sent.at.elapsed());
    }

    /// What is left of a request's time: of its total, and until the answer has begun of this try.
    pub fn left(&self, begun: bool) -> Option<Duration> {
        let timeouts = self.route()?.policy.timeouts;
        let total = timeouts.total.map(|total| total.saturating_sub(self.started.elapsed()));
        let sent = self.sent.as_ref().filter(|_| !begun);
        let this =
            sent.zip(timeouts.per_try).map(|(sent, per_try)| per_try.saturating_sub(sent.at.elapsed()));
        [total, this].into_iter().flatten().min()
    }

    pub fn route(&self) -> Option<&Route> {
        Some(self.live.as_ref()?.serving.table.route(self.found.as_ref()?.route))
    }

    pub fn runtime(&self) -> Option<&RouteRuntime> {
        self.live.as_ref()?.serving.routes.get(self.found.as_ref()?.route as usize).map(Arc::as_ref)
    }

    /// `route=..., side=..., reason=..., revision=...`, when it is switched on and a route was found.
    pub fn attribution(&self) -> Option<HeaderValue> {
        let found = self.found.as_ref().filter(|_| self.attributed)?;
        let serving = &self.live.as_ref()?.serving;
        let decision = self.decision.as_ref().map(|decision| (decision.side, decision.reason));
        let table = &serving.table;
        serving.attributions.of(found.route, table.route(found.route), decision, &table.revision)
    }

    /// The rewrite of the side that was chosen.
    pub fn rewrite(&self) -> Option<&Rewrite> {
        self.route()?.policy.rewrite[self.decision.as_ref()?.side.index()].as_ref()
    }
}
