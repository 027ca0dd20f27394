//! What becomes of a ramp now: its rule, its state and what was seen -> advance, hold or roll back, with reasons.
//!
//! Input: all of that, and the time. Output: a verdict. Must not: perform it, read a clock, or take the absence of data for good news
//! (law 6).

use crate::evidence::Window;
use crate::ids::Side;
use crate::life::{Asked, Change, Headroom, Refused, RouteState};
use crate::stats::{anytime_proves, anytime_upper, clopper_pearson_lower, clopper_pearson_upper};
use crate::table::{Gates, RollBack, Route, RouteTable};
use std::fmt;

/// Requests on a side below which nothing is said of it, when the rule does not say otherwise.
const REQUESTS_MIN: u64 = 50;
/// The chance that one look at healthy sides ends a ramp: there is one each second, for weeks, and neighbouring looks see much the same.
const ROLL_BACK_ALPHA: f64 = 1e-6;
const LEGACY_ALPHA: f64 = 0.01;
/// Of so few requests on legacy, the middle of what may be is taken: the benefit of the doubt would leave users on a side that fails.
const LEGACY_FEW: u64 = 10;
const LEGACY_FEW_ALPHA: f64 = 0.5;
/// For a p99, a hundred are the least that have one.
pub const P99_MIN: u64 = 100;

/// Live answers of both sides in one window; by `Side::index`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcomes {
    pub requests: [u64; 2],
    pub failed: [u64; 2],
    /// Absent without requests.
    pub p99_seconds: [Option<f64>; 2],
}

impl Outcomes {
    fn rate(&self, side: Side) -> f64 {
        let at = side.index();
        if self.requests[at] == 0 { 0.0 } else { self.failed[at] as f64 / self.requests[at] as f64 }
    }
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen<'a> {
    pub now_unix_s: u64,
    /// Since when serverless is what it is, where that has changed beside the share; 0: it has not.
    pub backend_since_unix_s: u64,
    /// Since the share, or what serves it, last changed.
    pub since_change: Outcomes,
    /// In the window of the rule that ends the ramp.
    pub lately: Outcomes,
    pub evidence: Option<&'a Window>,
    pub frozen: Option<&'a str>,
    pub headroom: Option<Headroom>,
    /// Serverless was given less than its share lately, because of a ceiling.
    pub at_ceiling: bool,
    /// Its breaker is open, no address is healthy, or there is nothing to prove itself with.
    pub unavailable: bool,
    /// The share has changed so lately that latency is that of cold starts.
    pub cold: bool,
    pub store: Store,
}

/// Where state is kept, and whether this replica may raise a share there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Store {
    #[default]
    Ours,
    /// Another replica is the controller.
    Follower,
    Away,
}

/// Why a ramp stays, or ends.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// The rule leaves raises to people.
    ByHand,
    TooEarly {
        seconds: u64,
    },
    TooFewRequests {
        seen: u64,
        need: u64,
    },
    Parity {
        mismatched: u64,
        compared: u64,
        allowed: f64,
        alpha: f64,
    },
    Coverage {
        is: f64,
        floor: f64,
    },
    ErrorRate {
        serverless: f64,
        legacy: f64,
        margin: f64,
    },
    P99 {
        serverless_seconds: f64,
        legacy_seconds: f64,
        factor: f64,
    },
    /// Some of its share goes to legacy.
    Ceiling,
    /// All of its share goes to legacy, or fails.
    Unavailable,
    /// Instances are being started; what they take for it is not the route's latency.
    ColdStarts,
    /// Who is asked before a raise has not agreed.
    Webhook {
        said: String,
    },
    /// Who is asked before a raise has not answered yet.
    WebhookAsked,
    /// Another replica raises shares.
    Follower,
    /// The fleet's store cannot be reached: nothing is raised.
    StoreAway,
    /// Another route of its group is not as far: one user's way would lead over both sides.
    Group {
        route: String,
    },
    Refused(Refused),
}

impl Reason {
    /// A stable code: the name of the gate.
    pub fn gate(&self) -> &'static str {
        match self {
            Reason::ByHand => "by_hand",
            Reason::TooEarly { .. } => "hold_each",
            Reason::TooFewRequests { .. } => "traffic",
            Reason::Parity { .. } => "parity",
            Reason::Coverage { .. } => "coverage",
            Reason::ErrorRate { .. } => "error_rate",
            Reason::P99 { .. } => "p99",
            Reason::Ceiling => "ceiling",
            Reason::Unavailable => "available",
            Reason::ColdStarts => "cold_starts",
            Reason::Group { .. } => "group",
            Reason::Webhook { .. } | Reason::WebhookAsked => "webhook",
            Reason::Follower => "follower",
            Reason::StoreAway => "store",
            Reason::Refused(why) => why.code(),
        }
    }
}

impl Reason {
    /// Time, traffic, or another replica brings the next step; nobody has to look.
    pub fn is_waiting(&self) -> bool {
        matches!(
            self,
            Reason::ByHand
                | Reason::TooEarly { .. }
                | Reason::TooFewRequests { .. }
                | Reason::ColdStarts
                | Reason::WebhookAsked
                | Reason::Follower
                | Reason::Refused(Refused::LastStep | Refused::Held { .. } | Refused::RolledBack)
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |ratio: &f64| (ratio * 1e5).round() / 1e3;
        match self {
            Reason::ByHand => f.write_str("people take the steps of this ramp"),
            Reason::TooEarly { seconds } => write!(f, "the step is held for {seconds} s more"),
            Reason::TooFewRequests { seen, need } => write!(f, "{seen} of {need} requests on serverless"),
            Reason::Parity { mismatched, compared, allowed, alpha } => write!(
                f,
                "{mismatched} of {compared} answers differ, so up to {} % may; {} % are allowed",
                percent(&anytime_upper(*mismatched, *compared, *alpha)),
                percent(allowed)
            ),
            Reason::Coverage { is, floor } => {
                write!(f, "coverage is {} %; the floor is {} %", percent(is), percent(floor))
            }
            Reason::ErrorRate { serverless, legacy, margin } => write!(
                f,
                "{} % of serverless's answers fail, {} % of legacy's; {} points more are allowed",
                percent(serverless),
                percent(legacy),
                percent(margin)
            ),
            Reason::P99 { serverless_seconds, legacy_seconds, factor } => {
                // Beyond the last bound that is told apart.
                let seconds =
                    |it: &f64| if it.is_finite() { format!("{it:.3} s") } else { "too long to tell".into() };
                let (serverless, legacy) = (seconds(serverless_seconds), seconds(legacy_seconds));
                write!(f, "p99 is {serverless}, legacy's {legacy}; {factor} times that is allowed")
            }
            Reason::Ceiling => f.write_str("the ceiling is reached; the surplus goes to legacy"),
            Reason::Unavailable => f.write_str("serverless cannot be asked now"),
            Reason::ColdStarts => f.write_str("the share has just changed; instances are being started"),
            Reason::Webhook { said } => write!(f, "a webhook has not agreed: {said}"),
            Reason::WebhookAsked => f.write_str("a webhook is asked"),
            Reason::Follower => f.write_str("another replica is the controller"),
            Reason::StoreAway => f.write_str("the fleet's store cannot be reached"),
            Reason::Group { route } => write!(f, "`{route}` of the same group does not go along"),
            Reason::Refused(why) => why.fmt(f),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Advance,
    /// At least one reason.
    Hold(Vec<Reason>),
    RollBack(Reason),
}

impl Verdict {
    pub fn as_str(&self) -> &'static str {
        match self {
            Verdict::Advance => "advance",
            Verdict::Hold(_) => "hold",
            Verdict::RollBack(_) => "roll_back",
        }
    }
}

/// Who the controller is in the log.
pub const CONTROLLER: &str = "controller";

/// `None`: the route does not move by itself.
pub fn plan(route: &Route, table: &RouteTable, state: &RouteState, seen: &Seen<'_>) -> Option<Verdict> {
    let gates = route.ramp.as_ref()?.gates.as_ref()?;
    let mut reasons: Vec<Reason> = gates.by_hand.then_some(Reason::ByHand).into_iter().collect();
    match gates.roll_back.as_ref().and_then(|rule| over(rule, state, seen)) {
        Some(reason) if route.point_of_no_return => {
            reasons.extend([reason, Reason::Refused(Refused::PointOfNoReturn)]);
        }
        Some(reason) => return Some(Verdict::RollBack(reason)),
        None => {}
    }
    // Whatever forbids a person forbids the controller.
    let asked = Asked {
        actor: CONTROLLER,
        reason: "",
        at_unix_s: seen.now_unix_s,
        frozen: seen.frozen,
        headroom: seen.headroom,
    };
    match seen.store {
        Store::Ours => {}
        Store::Follower => reasons.push(Reason::Follower),
        Store::Away => reasons.push(Reason::StoreAway),
    }
    if let Err(why) = state.after(Change::Promote, route, table, &asked) {
        reasons.push(Reason::Refused(why));
    }
    // A clock that went back makes the wait longer, never shorter.
    let held = seen.now_unix_s.saturating_sub(state.since_unix_s.max(seen.backend_since_unix_s));
    if held < gates.hold_each.as_secs() {
        reasons.push(Reason::TooEarly { seconds: gates.hold_each.as_secs() - held });
    }
    if seen.unavailable {
        reasons.push(Reason::Unavailable);
    }
    shadows(gates, seen, &mut reasons);
    // The first step is taken on what shadows say: before it, serverless answers nobody.
    if state.share_ppm > 0 {
        answers(gates, seen, &mut reasons);
        if seen.at_ceiling {
            reasons.push(Reason::Ceiling);
        }
    }
    Some(if reasons.is_empty() { Verdict::Advance } else { Verdict::Hold(reasons) })
}

/// Serverless fails more often than it may, while legacy does not.
fn over(rule: &RollBack, state: &RouteState, seen: &Seen<'_>) -> Option<Reason> {
    if state.rolled_back
        || state.share_ppm == 0
        || seen.lately.requests[Side::Serverless.index()] < rule.min_requests
    {
        return None;
    }
    let (serverless, legacy) = (seen.lately.rate(Side::Serverless), seen.lately.rate(Side::Legacy));
    let margin = rule.error_rate.margin.0.ratio();
    if serverless <= margin {
        return None;
    }
    let counts = |side: Side| (seen.lately.failed[side.index()], seen.lately.requests[side.index()]);
    let (failed, requests) = counts(Side::Serverless);
    // Beyond chance: two failures of fifty are four points, and nothing. The less is known of legacy, the worse it may be; of nothing, nothing is
    // assumed, or a route at 100 % could not go back.
    let (legacy_failed, legacy_requests) = counts(Side::Legacy);
    let at_most = match legacy_requests {
        0 => 0.0,
        1..LEGACY_FEW => clopper_pearson_upper(legacy_failed, legacy_requests, LEGACY_FEW_ALPHA),
        _ => clopper_pearson_upper(legacy_failed, legacy_requests, LEGACY_ALPHA),
    };
    let is_over = clopper_pearson_lower(failed, requests, ROLL_BACK_ALPHA) - at_most > margin;
    is_over.then_some(Reason::ErrorRate { serverless, legacy, margin })
}

fn shadows(gates: &Gates, seen: &Seen<'_>, reasons: &mut Vec<Reason>) {
    if let Some(claim) = &gates.parity {
        let allowed = 1.0 - claim.matching.0.ratio();
        let alpha = 1.0 - claim.confidence.0.ratio();
        let (mismatched, compared) = seen.evidence.map_or((0, 0), |it| (it.mismatched, it.compared()));
        // Looked at every second, and acted on.
        if !anytime_proves(mismatched, compared, allowed, alpha) {
            reasons.push(Reason::Parity { mismatched, compared, allowed, alpha });
        }
    }
    if let Some(floor) = gates.coverage {
        let (is, floor) = (seen.evidence.map_or(0.0, Window::coverage), floor.ratio());
        if is < floor {
            reasons.push(Reason::Coverage { is, floor });
        }
    }
}

fn answers(gates: &Gates, seen: &Seen<'_>, reasons: &mut Vec<Reason>) {
    let outcomes = &seen.since_change;
    let requests = outcomes.requests[Side::Serverless.index()];
    let need = if gates.p99.is_some() { P99_MIN } else { REQUESTS_MIN };
    if requests < need {
        reasons.push(Reason::TooFewRequests { seen: requests, need });
        return;
    }
    if let Some(bound) = &gates.error_rate {
        let (serverless, legacy) = (outcomes.rate(Side::Serverless), outcomes.rate(Side::Legacy));
        let margin = bound.margin.0.ratio();
        if serverless > legacy + margin {
            reasons.push(Reason::ErrorRate { serverless, legacy, margin });
        }
    }
    if gates.p99.is_some() && seen.cold {
        reasons.push(Reason::ColdStarts);
    } else if let Some(bound) = &gates.p99 {
        let factor = f64::from(bound.factor_milli) / 1e3;
        let [legacy, serverless] = outcomes.p99_seconds;
        let (serverless_seconds, legacy_seconds) =
            (serverless.unwrap_or(f64::INFINITY), legacy.unwrap_or(0.0));
        // Without anything of legacy's to compare with there is no knowing; at 100 % there is nothing left to raise.
        let is_too_long = serverless_seconds > legacy_seconds * factor || serverless_seconds.is_infinite();
        if is_too_long {
            reasons.push(Reason::P99 { serverless_seconds, legacy_seconds, factor });
        }
    }
}

/// One route of a group: where it stands, and what was said of it.
pub struct Member<'a> {
    pub id: &'a str,
    pub group: Option<&'a str>,
    pub share_ppm: u32,
    pub verdict: Verdict,
}

/// Routes of a group go together, so that one user's way stays on one side: none gets ahead of another, and all go back with the first.
pub fn together(members: &mut [Member<'_>]) {
    let verdicts: Vec<Verdict> = (0..members.len()).map(|at| with_its_group(members, at)).collect();
    members.iter_mut().zip(verdicts).for_each(|(member, verdict)| member.verdict = verdict);
}

fn with_its_group(members: &[Member<'_>], at: usize) -> Verdict {
    let member = &members[at];
    let others = || {
        members
            .iter()
            .filter(|other| other.group.is_some() && other.group == member.group && other.id != member.id)
    };
    let failed = others().find(|other| matches!(other.verdict, Verdict::RollBack(_)));
    match (&member.verdict, failed) {
        (Verdict::RollBack(_), _) => member.verdict.clone(),
        (_, Some(failed)) if member.share_ppm > 0 => {
            Verdict::RollBack(Reason::Group { route: failed.id.to_owned() })
        }
        (Verdict::Advance, _) => {
            let behind = |other: &&Member<'_>| {
                other.share_ppm < member.share_ppm
                    || (other.share_ppm == member.share_ppm && other.verdict != Verdict::Advance)
            };
            match others().find(behind) {
                Some(other) => Verdict::Hold(vec![Reason::Group { route: other.id.to_owned() }]),
                None => Verdict::Advance,
            }
        }
        (Verdict::Hold(_), _) => member.verdict.clone(),
    }
}
