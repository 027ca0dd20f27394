//! The compiled rule set: immutable, shared by reference, cheap to read.
//!
//! Input: built by `compile` only. Output: the route of a request, and everything a hook needs to act on it, prepared.
//! Must not: hold raw text that is parsed again per request.

use crate::backend::Backend;
use crate::compare::rules::Rules;
use crate::cors::Cors;
use crate::egress::EgressRule;
use crate::file::{Effects, EncodedSlash, PathsMode, Priority, Scheme};
use crate::guard::Guard;
use crate::ids::{Revision, SharePpm, Side};
use crate::lookup::{ById, Entry, Index};
use crate::path::{PathFault, PathRead, normalise, read_path};
use crate::pattern::Matcher;
use crate::read_back::ReadBack;
use crate::request::RequestFacts;
use crate::rewrite::{PathRewrite, Rewrite};
use crate::terms::{Condition, FailureKind, KeySource, LatencyBound, Parity, RateBound};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use jiff::civil::DateTime;
use std::sync::Arc;
use std::time::Duration;

/// Where a route is in its life, with what that place needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Legacy,
    Shadow,
    /// A share fixed by hand.
    Canary(SharePpm),
    /// The share is state; the first step until the controller says otherwise.
    Ramp,
    Serverless,
    /// Legacy is gone: no fallback, no way back.
    Retired,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Legacy => "legacy",
            Stage::Shadow => "shadow",
            Stage::Canary(_) => "canary",
            Stage::Ramp => "ramp",
            Stage::Serverless => "serverless",
            Stage::Retired => "retired",
        }
    }

    /// All names, in the order of life.
    pub const NAMES: [&'static str; 6] = ["legacy", "shadow", "canary", "ramp", "serverless", "retired"];

    /// The part of the keys that the rules send to serverless.
    pub fn share(self) -> SharePpm {
        match self {
            Stage::Legacy | Stage::Shadow | Stage::Ramp => SharePpm::ZERO,
            Stage::Canary(share) => share,
            Stage::Serverless | Stage::Retired => SharePpm::ALL,
        }
    }
}

/// What a route does with its requests.
#[derive(Clone, Debug)]
pub enum Action {
    Forward,
    Redirect(Box<Redirect>),
    Respond(Box<Respond>),
}

#[derive(Clone, Debug)]
pub struct Redirect {
    pub scheme: Option<Scheme>,
    pub host: Option<Box<str>>,
    pub port: Option<u16>,
    pub path: Option<PathRewrite>,
    pub status: StatusCode,
}

#[derive(Clone, Debug)]
pub struct Respond {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Box<str>,
}

/// Header edits, applied in the order remove, set, add.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    pub remove: Vec<HeaderName>,
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
}

/// `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Option<Duration>,
    pub first_byte: Option<Duration>,
    pub per_try: Option<Duration>,
    pub total: Option<Duration>,
}

impl Default for Timeouts {
    /// 2 s to connect inside a data centre, 60 s for an answer (what a load balancer before us would wait), no total.
    fn default() -> Self {
        let first_byte = Some(Duration::from_secs(60));
        Timeouts { connect: Some(Duration::from_secs(2)), first_byte, per_try: None, total: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    pub attempts: u8,
    pub on: Vec<FailureKind>,
    pub budget: SharePpm,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    pub on: Vec<FailureKind>,
    pub within: Option<Duration>,
}

/// What a route may say and most do not; routes that say nothing share one.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub timeouts: Timeouts,
    pub retry: Option<Retry>,
    pub fallback: Option<Fallback>,
    /// By `Side::index`.
    pub rewrite: [Option<Rewrite>; 2],
    pub request_headers: Option<HeaderEdits>,
    pub response_headers: Option<HeaderEdits>,
    pub cors: Option<Cors>,
    pub normalise: bool,
    pub encoded_slash: bool,
}

/// What becomes of requests that are not safe.
#[derive(Clone, Debug, PartialEq)]
pub enum Writes {
    Off,
    /// Serverless has proved, by answering at this path, that it keeps shadows apart: it gets them.
    Sandbox {
        handshake: Box<str>,
    },
    /// They are sent once; what they did is read from both sides afterwards.
    Verify {
        read: ReadBack,
        lag: Duration,
    },
}

/// Which requests are also sent to the other side, and how the answers are compared.
#[derive(Clone, Debug, PartialEq)]
pub struct ShadowRule {
    /// The part of the requests that may be.
    pub sample: SharePpm,
    /// Of the request and of each answer; what is longer cannot be compared.
    pub max_body_bytes: u64,
    pub rules: Rules,
    /// Of its requests, at most this part is sent to legacy a second time, to learn what differs by itself.
    pub controls: SharePpm,
    pub writes: Writes,
}

/// How a share rises.
#[derive(Clone, Debug, PartialEq)]
pub struct RampRule {
    /// Rising.
    pub steps: Vec<RampStep>,
    /// Set when it moves by itself.
    pub gates: Option<Box<Gates>>,
    /// The part of the keys that stays on legacy, so that there is something to compare with.
    pub control: SharePpm,
    pub ceiling: Option<Ceiling>,
}

/// What serverless gets at most, whatever the share; the surplus goes to legacy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceiling {
    pub rps: Option<u32>,
    pub failures_per_day: Option<u32>,
}

/// What has to hold before a step, and what ends the ramp.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gates {
    /// Nothing says when to advance: people do, and only the way back is the controller's.
    pub by_hand: bool,
    pub hold_each: Duration,
    pub parity: Option<Parity>,
    pub coverage: Option<SharePpm>,
    pub error_rate: Option<RateBound>,
    pub p99: Option<LatencyBound>,
    pub roll_back: Option<RollBack>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RollBack {
    pub error_rate: RateBound,
    pub window: Duration,
    pub min_requests: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RampStep {
    pub at: SharePpm,
    /// How many distinct people have to approve it.
    pub approve: u8,
}

/// A time in which no share is raised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    pub name: Box<str>,
    pub from: DateTime,
    pub to: DateTime,
    pub zone: Box<str>,
}

impl Freeze {
    /// A zone that this machine does not know keeps the freeze on: no raise is safe in it.
    pub fn is_on(&self, now: Timestamp) -> bool {
        let at = |time: DateTime| time.in_tz(&self.zone).map(|zoned| zoned.timestamp());
        match (at(self.from), at(self.to)) {
            (Ok(from), Ok(to)) => from <= now && now < to,
            _ => true,
        }
    }
}

/// How much one key may bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitRule {
    pub key: KeySource,
    pub count: u64,
    pub per_secs: u32,
    /// At once.
    pub burst: u32,
    /// By all replicas together.
    pub shared: bool,
}

impl LimitRule {
    /// Between two requests, in the long run.
    pub fn period(&self) -> Duration {
        Duration::from_nanos((u64::from(self.per_secs) * 1_000_000_000 / self.count.max(1)).max(1))
    }
}

/// Who may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequireRule {
    /// With a key of this plan.
    pub plan: Option<Box<str>>,
    /// With a token of this issuer.
    pub jwt: Option<JwtRule>,
    /// Whom this authorizer of the settings allows.
    pub authorizer: Option<Box<str>>,
    /// With a certificate that the listener has verified.
    pub client_cert: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtRule {
    /// By its name in the settings.
    pub issuer: Box<str>,
    /// All of them.
    pub scopes: Vec<Box<str>>,
}

/// One route, compiled.
#[derive(Clone, Debug)]
pub struct Route {
    pub id: Box<str>,
    pub owner: Option<Box<str>>,
    /// Position in `RouteTable::groups`.
    pub group: Option<u16>,
    pub matches: Box<[Matcher]>,
    pub action: Action,
    pub stage: Stage,
    /// Position in `RouteTable::cohorts`.
    pub cohort: u32,
    /// Positions in `RouteTable::backends`, by `Side::index`.
    pub backends: [Option<u32>; 2],
    /// Whether a side it may use needs the whole body first; see `Backend::needs_whole_body`.
    pub whole_body: bool,
    /// `None`: as the method says.
    pub effects: Option<Effects>,
    pub policy: Arc<Policy>,
    /// Set when its stage mirrors.
    pub shadow: Option<Box<ShadowRule>>,
    /// Set in stage `ramp`.
    pub ramp: Option<Box<RampRule>>,
    pub limit: Option<Box<LimitRule>>,
    pub require: Option<Box<RequireRule>>,
    /// Who is refused first when places are short.
    pub priority: Priority,
    /// Something of it asks what a verified token says.
    pub wants_claims: bool,
    /// A rollback is refused.
    pub point_of_no_return: bool,
    /// How long legacy has to be silent before stage `retired`.
    pub quiet_for: Option<Duration>,
    /// Routes that have to be at least as far before this one's share is raised.
    pub after: Box<[Box<str>]>,
    /// Where it was written: file number and position in its `routes`.
    pub origin: (u32, u32),
}

impl Route {
    pub fn backend(&self, side: Side) -> Option<u32> {
        self.backends[side.index()]
    }

    /// Whether a request that may have reached a backend may be sent again (law 7).
    pub fn replayable(&self, method: &Method) -> bool {
        match self.effects {
            Some(Effects::Safe | Effects::Idempotent) => true,
            Some(Effects::Unsafe) => false,
            None => is_idempotent(method),
        }
    }
}

/// Who is bucketed how.
#[derive(Clone, Debug)]
pub struct Cohort {
    pub name: Box<str>,
    /// Of `bucket::cohort_seed`.
    pub seed: u64,
    pub keys: Vec<KeySource>,
    pub allow: Vec<Condition>,
    pub deny: Vec<Condition>,
}

/// The whole rule set.
#[derive(Clone, Debug)]
pub struct RouteTable {
    pub revision: Revision,
    /// The last one is the default route when `has_default`.
    pub routes: Vec<Route>,
    pub has_default: bool,
    pub backends: Vec<Backend>,
    pub cohorts: Vec<Cohort>,
    pub groups: Vec<Box<str>>,
    pub freezes: Vec<Freeze>,
    /// In the order of their files.
    pub egress: Vec<EgressRule>,
    /// Methods that matches name.
    pub named_methods: Vec<Method>,
    pub(crate) by_id: ById,
    pub(crate) index: Index,
    pub(crate) any_normalise: bool,
    /// Where some route is guarded.
    pub(crate) guard: Option<Box<Guard>>,
    /// What stands before each route, in their order; empty where nothing does.
    pub(crate) guards: Vec<u32>,
}

/// The route of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub route: u32,
    /// Which of its matches; 0 for the default route, which has none.
    pub alternative: u16,
    /// Set when the path was normalised: this is what must be forwarded.
    pub normalised: Option<String>,
}

/// Why there is no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unroutable {
    /// 400: two servers might read this path differently.
    Ambiguous(PathFault),
    /// 404: nothing claims it and there is no default.
    NoRoute,
}

impl RouteTable {
    /// Where the route of that id stands in `routes`.
    pub fn position(&self, id: &str) -> Option<u32> {
        self.by_id.find(id, |at| &*self.route(at).id)
    }

    pub fn route(&self, index: u32) -> &Route {
        &self.routes[index as usize]
    }

    pub fn backend(&self, index: u32) -> &Backend {
        &self.backends[index as usize]
    }

    pub fn cohort(&self, route: &Route) -> &Cohort {
        &self.cohorts[route.cohort as usize]
    }

    pub fn group(&self, route: &Route) -> Option<&str> {
        route.group.map(|group| &*self.groups[usize::from(group)])
    }

    pub(crate) fn matcher(&self, entry: Entry) -> &Matcher {
        &self.routes[entry.route as usize].matches[usize::from(entry.alternative)]
    }

    /// The entry that wins for a path in matching form; the default route is not an entry.
    pub(crate) fn winner(&self, facts: &RequestFacts<'_>, path: &str) -> Option<Entry> {
        self.index.find(facts, path, |entry| self.matcher(entry))
    }

    fn default_route(&self) -> Option<u32> {
        self.has_default.then(|| self.routes.len() as u32 - 1)
    }

    fn found(&self, facts: &RequestFacts<'_>, path: &str) -> Option<(u32, u16)> {
        let entry = self.winner(facts, path).map(|entry| (entry.route, entry.alternative));
        entry.or_else(|| self.default_route().map(|route| (route, 0)))
    }

    /// The route of a request, or why it has none.
    pub fn find(&self, facts: &RequestFacts<'_>) -> Result<Found, Unroutable> {
        let read = read_path(facts.path).map_err(Unroutable::Ambiguous)?;
        let Some(fault) = read.strict_fault else {
            let (route, alternative) = self.found(facts, &read.text).ok_or(Unroutable::NoRoute)?;
            self.slash_allowed(route, read.encoded_slash)?;
            self.not_near_guard(facts, &read, &read.text, route)?;
            return Ok(Found { route, alternative, normalised: None });
        };
        if !self.any_normalise {
            return Err(Unroutable::Ambiguous(fault));
        }
        let path = normalise(&read.text).map_err(Unroutable::Ambiguous)?;
        let (route, alternative) = self.found(facts, &path).ok_or(Unroutable::NoRoute)?;
        if !self.route(route).policy.normalise {
            return Err(Unroutable::Ambiguous(fault));
        }
        self.slash_allowed(route, read.encoded_slash)?;
        self.not_near_guard(facts, &read, &path, route)?;
        Ok(Found { route, alternative, normalised: Some(path) })
    }

    /// A guarded route cannot be reached around its guard, however the backend reads a path.
    fn not_near_guard(
        &self,
        facts: &RequestFacts<'_>,
        read: &PathRead<'_>,
        path: &str,
        route: u32,
    ) -> Result<(), Unroutable> {
        let Some(guard) = self.guard.as_ref().filter(|_| read.foldable) else { return Ok(()) };
        let near = guard.is_near(facts, path, self.guards[route as usize]);
        if near { Err(Unroutable::Ambiguous(PathFault::NearGuard)) } else { Ok(()) }
    }

    fn slash_allowed(&self, route: u32, encoded_slash: bool) -> Result<(), Unroutable> {
        let refused = encoded_slash && !self.route(route).policy.encoded_slash;
        if refused { Err(Unroutable::Ambiguous(PathFault::EncodedSlash)) } else { Ok(()) }
    }

    /// The path that would be sent to `side`, before any method of sending it is known.
    pub fn path_sent(&self, found: &Found, side: Side, raw_path: &str) -> String {
        let path = found.normalised.as_deref().unwrap_or(raw_path);
        let route = self.route(found.route);
        let rewrite = route.policy.rewrite[side.index()].as_ref();
        let path = match rewrite.and_then(|rewrite| rewrite.path.as_ref()) {
            Some(rewrite) => rewrite.apply(path, usize::from(found.alternative)),
            None => path.to_owned(),
        };
        match route.backend(side).map(|backend| &*self.backend(backend).path_prefix) {
            None | Some("") => path,
            Some(prefix) => format!("{prefix}{path}"),
        }
    }
}

/// Defaults that a raw field stands for when it is absent.
pub fn paths_normalise(mode: Option<PathsMode>) -> bool {
    matches!(mode, Some(PathsMode::Normalise))
}

pub fn slash_allow(mode: Option<EncodedSlash>) -> bool {
    matches!(mode, Some(EncodedSlash::Allow))
}

/// Methods that must have no effect by RFC 9110 section 9.2.1.
pub fn is_safe(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD || method == Method::OPTIONS || method == Method::TRACE
}

/// Methods that may be sent again by RFC 9110 section 9.2.2.
pub fn is_idempotent(method: &Method) -> bool {
    is_safe(method) || method == Method::PUT || method == Method::DELETE
}
