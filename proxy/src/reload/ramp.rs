//! The loop that asks the plan of each ramp that moves by itself, once a second, and does what it says.
//!
//! Input: counts that the workers keep anyway. Output: changes like a person's, in the same log. Must not: cost a request anything, or
//! act on a window in which the share was another.

use super::Reloader;
use super::changes::unix;
use super::identity;
use super::silence;
use super::ways_back::TURN;
use super::webhooks::Said;
use crate::change::{ChangeAsked, What};
use crate::live::{RouteRuntime, Serving};
use crate::metrics::OTHER;
use crate::settings::Event;
use banyan_routes::ids::Side;
use banyan_routes::life::Change;
use banyan_routes::plan::{
    CONTROLLER, Member, Outcomes, P99_MIN, Reason, Seen, Store, Verdict, plan, together,
};
use banyan_routes::table::{Route, Stage};
use jiff::Timestamp;
use serde_json::json;
use std::collections::{HashMap, VecDeque};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

/// Windows are no longer than this, whatever a rule says.
const WINDOW_MAX: Duration = Duration::from_secs(600);

/// After a raise, a function starts instances for those who are new: what they take says nothing of the route.
const COLD_START_GRACE: Duration = Duration::from_secs(10);
/// How often what is known of silence goes to the disk.
const SILENCE_KEPT_S: u64 = 60;

/// What was counted up to one moment.
#[derive(Clone)]
struct Counted {
    at: Instant,
    requests: [u64; 2],
    failed: [u64; 2],
    buckets: [Vec<(f64, u64)>; 2],
}

/// One route's counts since its share, or what serves it, last changed.
#[derive(Default)]
pub struct Watch {
    share_ppm: u32,
    /// Of the sides that answer, and how they are asked; read again with each new revision of the rules.
    sides: u64,
    rules_revision: Box<str>,
    /// When `sides` changed; 0: not since this process began to look.
    sides_since_unix_s: u64,
    since: Option<Counted>,
    /// Later than `since`: latency is counted from here.
    warm: Option<Counted>,
    lately: VecDeque<Counted>,
    /// Requests that the ceiling has sent to legacy, at the last look.
    over_ceiling: u64,
    /// Too few answers since instances were started.
    cold: bool,
    /// `held` was told for this share.
    said_held: bool,
}

impl Reloader {
    /// One round over all ramps.
    pub async fn judge(&mut self) {
        let Some(serving) = self.serving.clone().filter(|_| !self.state_store.is_given_away()) else {
            return;
        };
        self.look_at_store();
        self.traffic.look(&serving);
        self.look_for_silence(&serving);
        self.failures.look(&serving, unix());
        self.discovery.collect();
        self.send_unsent().await;
        let verdicts = self.verdicts(&serving);
        // Ways back first, and all at once; they are kept afterwards.
        let back = verdicts.iter().filter_map(|(at, verdict)| match verdict {
            Verdict::RollBack(reason) => Some((serving.table.routes[*at].id.clone(), reason.clone())),
            Verdict::Advance | Verdict::Hold(_) => None,
        });
        let mut back: Vec<(Box<str>, Reason)> = back.collect();
        back.extend(self.with_their_group(&serving, &verdicts));
        self.roll_back(back);
        self.send_unsent().await;
        let with_leave = |(at, verdict): (usize, Verdict)| {
            let route = &serving.table.routes[at];
            if verdict != Verdict::Advance {
                // A leave that was given for a raise that does not come is none for a later one.
                self.webhooks.forget(&route.id);
            }
            (at, self.with_leave(route, verdict))
        };
        let verdicts: Vec<(usize, Verdict)> = verdicts.into_iter().map(with_leave).collect();
        // All at once, so that nobody finds some of them only.
        self.metrics.gate.reset();
        for (at, verdict) in &verdicts {
            self.tell(&serving.table.routes[*at], &serving.routes[*at], verdict);
        }
        let begun = Instant::now();
        for (at, verdict) in verdicts {
            let route = &serving.table.routes[at];
            match &verdict {
                // The others have their turn in the next second.
                Verdict::Advance if begun.elapsed() > TURN => {}
                Verdict::Advance => {
                    self.webhooks.forget(&route.id);
                    self.act(route, Change::Promote, "all gates are open").await;
                    self.look_at_kills();
                }
                Verdict::RollBack(_) => {}
                Verdict::Hold(reasons) => self.say_held(route, reasons),
            }
        }
    }

    /// What is to become of each ramp that moves by itself, by its place in the table; groups go together.
    fn verdicts(&mut self, serving: &Serving) -> Vec<(usize, Verdict)> {
        let now = Timestamp::now();
        let frozen =
            serving.table.freezes.iter().find(|freeze| freeze.is_on(now)).map(|freeze| &*freeze.name);
        let store = match &self.fleet {
            Some(fleet) if !fleet.is_up() => Store::Away,
            Some(fleet) if !fleet.leads() => Store::Follower,
            Some(_) | None => Store::Ours,
        };
        // A route that comes back later begins anew, as its counts do.
        self.watches.retain(|id, _| serving.table.position(id).is_some());
        let (mut places, mut members, mut rates) = (Vec::new(), Vec::new(), HashMap::new());
        for (at, (route, runtime)) in serving.table.routes.iter().zip(&serving.routes).enumerate() {
            if route.stage != Stage::Ramp || route.ramp.as_ref().is_none_or(|ramp| ramp.gates.is_none()) {
                continue;
            }
            let state = self.served.routes.get(&*route.id).cloned().unwrap_or_default();
            let headroom = self.headroom_with(route, &mut rates);
            let watch = self.watches.entry(route.id.clone()).or_default();
            let mut sides = watch.sides;
            if *watch.rules_revision != *serving.table.revision.as_str() {
                watch.rules_revision = serving.table.revision.as_str().into();
                sides = identity::sides(&serving.table, route);
            }
            let (since_change, lately) = watch.see(route, runtime, state.share_ppm, sides);
            let serverless = route.backend(Side::Serverless).map(|it| &serving.backends[it as usize]);
            let evidence = runtime.evidence_if_any().map(|evidence| evidence.sums(SystemTime::now()));
            let seen = Seen {
                now_unix_s: unix(),
                backend_since_unix_s: watch.sides_since_unix_s,
                since_change,
                lately,
                evidence: evidence.as_ref(),
                frozen,
                headroom,
                at_ceiling: watch.at_ceiling(route, runtime),
                unavailable: serverless.is_some_and(|backend| !backend.available()),
                cold: watch.cold,
                store,
            };
            let Some(verdict) = plan(route, &serving.table, &state, &seen) else { continue };
            places.push(at);
            members.push(Member {
                id: &route.id,
                group: serving.table.group(route),
                share_ppm: state.share_ppm,
                verdict,
            });
        }
        together(&mut members);
        places.into_iter().zip(members.into_iter().map(|member| member.verdict)).collect()
    }

    /// Ramps that people move alone go back with their group as well: one user's way leads over all of them.
    fn with_their_group(&self, serving: &Serving, verdicts: &[(usize, Verdict)]) -> Vec<(Box<str>, Reason)> {
        let table = &serving.table;
        let failed: Vec<&Route> = verdicts
            .iter()
            .filter(|(_, verdict)| matches!(verdict, Verdict::RollBack(_)))
            .map(|(at, _)| &table.routes[*at])
            .filter(|route| route.group.is_some())
            .collect();
        if failed.is_empty() {
            return Vec::new();
        }
        let goes_along = |route: &Route| {
            let is_alone = route.ramp.as_ref().is_some_and(|ramp| ramp.gates.is_none());
            let first = failed.iter().find(|failed| failed.group == route.group).filter(|_| is_alone)?;
            let share_ppm = self.served.routes.get(&*route.id)?.share_ppm;
            (share_ppm > 0).then(|| (route.id.clone(), Reason::Group { route: first.id.to_string() }))
        };
        table.routes.iter().filter_map(goes_along).collect()
    }

    /// A raise that nobody who is asked before it objects to.
    fn with_leave(&self, route: &Route, verdict: Verdict) -> Verdict {
        if verdict != Verdict::Advance {
            return verdict;
        }
        let state = self.served.routes.get(&*route.id).cloned().unwrap_or_default();
        let Some(next) = state.next_share(route) else { return verdict };
        let what = || {
            json!({
                "route": route.id,
                "actor": CONTROLLER,
                "share_ppm": state.share_ppm,
                "to_share_ppm": next.get(),
                "at_unix_s": unix(),
            })
        };
        match self.webhooks.may_raise(&route.id, next.get(), what) {
            Said::Yes => verdict,
            Said::NotYet => Verdict::Hold(vec![Reason::WebhookAsked]),
            Said::No(said) => Verdict::Hold(vec![Reason::Webhook { said }]),
        }
    }

    fn tell(&self, route: &Route, runtime: &RouteRuntime, verdict: &Verdict) {
        // Gates of many routes together would say nothing.
        let named = runtime.metrics.name(&self.metrics, &route.id) != OTHER;
        let set = |gate: &str| {
            if named {
                self.metrics.gate.with_label_values(&[&*route.id, gate, verdict.as_str()]).set(1);
            }
        };
        match verdict {
            Verdict::Advance => set("all"),
            Verdict::Hold(reasons) => reasons.iter().for_each(|reason| set(reason.gate())),
            Verdict::RollBack(reason) => set(reason.gate()),
        }
        *runtime.watched().verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict.clone());
    }

    /// Once for each share: time and traffic would have let it go on, and something else does not.
    fn say_held(&mut self, route: &Route, reasons: &[Reason]) {
        let Some(watch) = self.watches.get_mut(&route.id) else { return };
        if watch.said_held || reasons.iter().any(Reason::is_waiting) {
            return;
        }
        watch.said_held = true;
        let reasons: Vec<_> =
            reasons.iter().map(|it| json!({ "gate": it.gate(), "text": it.to_string() })).collect();
        let what = json!({
            "route": route.id,
            "actor": CONTROLLER,
            "share_ppm": watch.share_ppm,
            "reasons": reasons,
            "at_unix_s": unix(),
        });
        self.webhooks.tell(Event::Held, &what);
    }

    async fn act(&mut self, route: &Route, change: Change, reason: &str) {
        let asked = ChangeAsked {
            what: What::Route { id: route.id.to_string(), change },
            actor: CONTROLLER.to_owned(),
            reason: reason.to_owned(),
            if_revision: None,
            dry_run: false,
        };
        if let Err(why) = self.change(&asked).await {
            tracing::warn!(route = %route.id, action = change.as_str(), ?why, "the controller's change was not made");
        }
    }

    pub(super) fn look_for_silence(&mut self, serving: &Serving) {
        let now = unix();
        let retired = self.silence.look(serving, now);
        let due = now.saturating_sub(self.silence_kept_unix_s) >= SILENCE_KEPT_S;
        if retired || (due && !self.silence.routes.is_empty()) {
            self.silence_kept_unix_s = now;
            self.state_store.note(silence::NOTE, &self.silence.routes);
        }
    }
}

impl Watch {
    /// Counts since the share or a side changed, and in the window of the rule that ends the ramp.
    fn see(
        &mut self,
        route: &Route,
        runtime: &RouteRuntime,
        share_ppm: u32,
        sides: u64,
    ) -> (Outcomes, Outcomes) {
        let counted = Counted::now(runtime);
        let is_first = self.since.is_none();
        if is_first || self.share_ppm != share_ppm || self.sides != sides {
            let sides_since_unix_s =
                if is_first || self.sides == sides { self.sides_since_unix_s } else { unix() };
            *self = Watch {
                share_ppm,
                sides,
                sides_since_unix_s,
                rules_revision: std::mem::take(&mut self.rules_revision),
                since: Some(counted.clone()),
                over_ceiling: self.over_ceiling,
                ..Watch::default()
            };
        }
        let rule = route.ramp.as_ref().and_then(|ramp| ramp.gates.as_ref()?.roll_back.as_ref());
        let window = rule.map_or(Duration::ZERO, |rule| rule.window).min(WINDOW_MAX);
        // The newest that is as old as the window stays: what came after it is the window.
        while self.lately.get(1).is_some_and(|second| counted.at.duration_since(second.at) >= window) {
            self.lately.pop_front();
        }
        self.lately.push_back(counted.clone());
        let from =
            |start: Option<&Counted>| start.map_or_else(Outcomes::default, |start| counted.after(start));
        let (mut since, lately) = (from(self.since.as_ref()), from(self.lately.front()));
        if self.warm.is_none()
            && self.since.as_ref().is_some_and(|since| since.at.elapsed() >= COLD_START_GRACE)
        {
            self.warm = Some(counted.clone());
        }
        let warm = from(self.warm.as_ref());
        since.p99_seconds = warm.p99_seconds;
        self.cold = warm.requests[Side::Serverless.index()] < P99_MIN;
        (since, lately)
    }

    fn at_ceiling(&mut self, route: &Route, runtime: &RouteRuntime) -> bool {
        let now = runtime.over_ceiling.load(Ordering::Relaxed);
        let before = std::mem::replace(&mut self.over_ceiling, now);
        route.ramp.as_ref().is_some_and(|ramp| ramp.ceiling.is_some()) && now > before
    }
}

impl Counted {
    fn now(runtime: &RouteRuntime) -> Counted {
        let metrics = &runtime.metrics;
        let fallbacks = metrics.fallbacks.load(Ordering::Relaxed);
        let get = |counts: &[std::sync::atomic::AtomicU64; 3], side: Side| {
            // A request that legacy answered because serverless failed is a failure of serverless's.
            let extra = if side == Side::Serverless { fallbacks } else { 0 };
            counts[side.index()].load(Ordering::Relaxed) + extra
        };
        Counted {
            at: Instant::now(),
            requests: Side::ALL.map(|side| get(&metrics.answered, side)),
            failed: Side::ALL.map(|side| get(&metrics.failed, side)),
            buckets: Side::ALL.map(|side| metrics.buckets(side)),
        }
    }

    fn after(&self, start: &Counted) -> Outcomes {
        let less = |now: [u64; 2], then: [u64; 2]| [0, 1].map(|at| now[at].saturating_sub(then[at]));
        Outcomes {
            requests: less(self.requests, start.requests),
            failed: less(self.failed, start.failed),
            p99_seconds: [0, 1].map(|at| quantile(&self.buckets[at], &start.buckets[at], 0.99)),
        }
    }
}

/// Within its bucket by proportion, as Prometheus does it.
fn quantile(now: &[(f64, u64)], then: &[(f64, u64)], q: f64) -> Option<f64> {
    let before = |at: usize| then.get(at).map_or(0, |it| it.1);
    let counts: Vec<(f64, u64)> = now
        .iter()
        .enumerate()
        .map(|(at, (bound, count))| (*bound, count.saturating_sub(before(at))))
        .collect();
    let all = counts.last()?.1;
    let rank = all as f64 * q;
    let at = counts.iter().position(|(_, count)| *count as f64 >= rank).filter(|_| all > 0)?;
    let (low, below) = if at == 0 { (0.0, 0) } else { counts[at - 1] };
    let (high, count) = counts[at];
    let part = (rank - below as f64) / (count - below).max(1) as f64;
    Some(if high.is_finite() { low + (high - low) * part } else { high })
}

/// For who shows it.
pub fn told(verdict: &Verdict) -> (String, Vec<(String, String)>) {
    let one = |reason: &banyan_routes::plan::Reason| (reason.gate().to_owned(), reason.to_string());
    let reasons = match verdict {
        Verdict::Advance => Vec::new(),
        Verdict::Hold(reasons) => reasons.iter().map(one).collect(),
        Verdict::RollBack(reason) => vec![one(reason)],
    };
    (verdict.as_str().to_owned(), reasons)
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn what_took_longer_than_the_last_bound_is_seen() {
        let buckets =
            |up_to: [u64; 3]| [0.1, 30.0, f64::INFINITY].into_iter().zip(up_to).collect::<Vec<(f64, u64)>>();
        assert_eq!(quantile(&buckets([95, 95, 100]), &[], 0.99), Some(f64::INFINITY));
        assert_eq!(quantile(&buckets([99, 99, 100]), &[], 0.99), Some(0.1));
        // Of what came since only.
        assert_eq!(quantile(&buckets([95, 95, 100]), &buckets([0, 0, 5]), 0.99), Some(0.1 * 0.99));
        assert_eq!(quantile(&buckets([1, 1, 1]), &buckets([1, 1, 1]), 0.99), None);
        assert_eq!(quantile(&[], &[], 0.99), None);
    }
}
