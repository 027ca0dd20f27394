//! One raw route -> one compiled route.
//!
//! Input: the raw shape and the names known so far. Output: a `Route` in the table, or problems with their field paths.
//! Must not: look at other routes; ties between routes are found in `overlap`.

use super::Lowering;
use crate::compare::rules::Rules;
use crate::file::{self, Effects, Priority, ShadowPolicy, StageWord};
use crate::ids::{SharePpm, Side};
use crate::pattern::PathPattern;
use crate::problem::{Place, Problem};
use crate::read_back::ReadBack;
use crate::table::{
    Action, Ceiling, Gates, JwtRule, LimitRule, RampRule, RampStep, RequireRule, RollBack, Route, ShadowRule,
    Stage, Writes,
};
use std::fmt;
use std::time::Duration;

/// Kept of a body for comparing, when the rule says nothing; and at most.
const SHADOW_BODY_MAX: u64 = 256 << 10;
const SHADOW_BODY_LIMIT: u64 = 4 << 20;
/// Where a target says that it honours the marker of shadows, when the rule names no other path.
const HANDSHAKE: &str = "/.well-known/banyan-shadow";
const VERIFY_LAG: Duration = Duration::from_secs(1);
/// Requests in the window of `roll_back_when` below which nothing is judged.
const ROLL_BACK_REQUESTS: u32 = 50;
/// Enough to tell an outage of both sides from one of serverless's.
const COHORT_LEFT: SharePpm = SharePpm::ONE_PERCENT;
const COHORT_LEFT_MAX: SharePpm = SharePpm::HALF;
/// 1 %: legacy does not feel it.
const CONTROLS: SharePpm = SharePpm::ONE_PERCENT;

impl Lowering {
    pub(super) fn route(&mut self, file: usize, position: usize, raw: &file::Route) {
        let before = self.problems.len();
        let at = format_args!("routes[{position}]");
        let matches = self.matches(file, at, raw);
        let patterns: Vec<&PathPattern> = matches.iter().map(|matcher| &matcher.path).collect();
        let action = self.action(file, at, raw, &patterns);
        let backends = [
            self.backend_of(file, format_args!("{at}.legacy"), raw.legacy.as_deref()),
            self.backend_of(file, format_args!("{at}.serverless"), raw.serverless.as_deref()),
        ];
        let stage = self.stage(file, at, raw, &action);
        let cohort = match raw.cohort.as_deref() {
            None => self.own_cohort(&raw.id),
            Some(name) => self.cohort_ids.get(name).copied().unwrap_or_else(|| {
                self.error(
                    "cohort_unknown",
                    file,
                    format_args!("{at}.cohort"),
                    format!("no cohort is called `{name}`"),
                    "a name under `cohorts`",
                );
                0
            }),
        };
        let group = raw.group.as_deref().map(|name| self.group(file, at, name));
        let shadow = self.shadow(file, at, raw, stage);
        if let Some(Writes::Verify { read, .. }) = shadow.as_ref().map(|rule| &rule.writes) {
            for name in read.names() {
                // Of a path that has something for each of them.
                let any = "/x".repeat(256);
                let gives =
                    |pattern: &PathPattern| pattern.parameters(&any).iter().any(|(it, _)| *it == name);
                if !patterns.iter().all(|pattern| gives(pattern)) {
                    self.error(
                        "shadow_writes",
                        file,
                        format_args!("{at}.shadow.verify.read"),
                        format!("`{{{name}}}` is nothing that each match of the route gives"),
                        "names of the match, `{location}` or `{json.KEY}`",
                    );
                }
            }
        }
        self.ramp(file, at, raw);
        let policy = self.policy(file, at, raw, &patterns);
        for (number, id) in raw.after.iter().enumerate() {
            if !self.route_ids.contains_key(id) || *id == raw.id {
                let text = format!("`{id}` is not another route");
                self.error(
                    "after_unknown",
                    file,
                    format_args!("{at}.after[{number}]"),
                    text,
                    "the id of a route that must go first",
                );
            }
        }
        for problem in &mut self.problems[before..] {
            problem.route.get_or_insert_with(|| raw.id.clone());
        }
        let used: &[Side] = match stage {
            Stage::Legacy | Stage::Shadow => &[Side::Legacy],
            Stage::Retired => &[Side::Serverless],
            Stage::Canary(_) | Stage::Ramp | Stage::Serverless => &Side::ALL,
        };
        let whole_body = used
            .iter()
            .filter_map(|side| backends[side.index()])
            .any(|at| self.backends[at as usize].needs_whole_body());
        self.routes.push(Route {
            id: raw.id.as_str().into(),
            owner: raw.owner.as_deref().map(Into::into),
            group,
            matches: matches.into(),
            action,
            stage,
            cohort,
            backends,
            whole_body,
            effects: raw.effects,
            policy,
            shadow,
            ramp: raw.ramp.as_ref().filter(|_| stage == Stage::Ramp).map(|ramp| Box::new(lowered(ramp))),
            limit: raw.limit.as_deref().map(|rule| Box::new(limited(rule))),
            require: raw.require.as_deref().map(|rule| Box::new(required(rule))),
            wants_claims: false,
            priority: raw.priority.unwrap_or(Priority::Normal),
            point_of_no_return: raw.point_of_no_return.unwrap_or(false),
            quiet_for: raw.retire.as_ref().map(|rule| rule.quiet_for.0),
            after: raw.after.iter().map(|id| id.as_str().into()).collect(),
            origin: (file as u32, position as u32),
        });
    }

    fn group(&mut self, file: usize, at: fmt::Arguments<'_>, name: &str) -> u16 {
        self.name("group", file, format_args!("{at}.group"), name);
        let known = self.groups.iter().position(|group| **group == *name);
        known.unwrap_or_else(|| {
            self.groups.push(name.into());
            self.groups.len() - 1
        }) as u16
    }

    fn backend_of(&mut self, file: usize, path: fmt::Arguments<'_>, name: Option<&str>) -> Option<u32> {
        let name = name?;
        let known = self.backend_ids.get(name).copied();
        if known.is_none() {
            self.error(
                "backend_unknown",
                file,
                path,
                format!("no backend is called `{name}`"),
                "a name under `backends`",
            );
        }
        known
    }

    fn stage(&mut self, file: usize, at: fmt::Arguments<'_>, raw: &file::Route, action: &Action) -> Stage {
        let field = if raw.stage.is_some() { "stage" } else { "id" };
        let place = format_args!("{at}.{field}");
        if !matches!(action, Action::Forward) {
            if raw.stage.is_some() {
                self.error(
                    "stage_without_backend",
                    file,
                    place,
                    "a route that redirects or responds has no stage",
                    "no `stage`",
                );
            }
            return Stage::Legacy;
        }
        // Without a word the old system keeps answering.
        let word = raw.stage.unwrap_or(StageWord::Legacy);
        let needs: &[Side] = match word {
            StageWord::Legacy => &[Side::Legacy],
            StageWord::Shadow | StageWord::Canary | StageWord::Ramp => &Side::ALL,
            StageWord::Serverless | StageWord::Retired => &[Side::Serverless],
        };
        for side in needs {
            let backend = if *side == Side::Legacy { &raw.legacy } else { &raw.serverless };
            if backend.is_none() {
                self.error(
                    "stage_backend_missing",
                    file,
                    place,
                    format!("this stage needs a `{side}` backend"),
                    &format!("`{side}: <backend>`"),
                );
            }
        }
        if word == StageWord::Ramp && raw.ramp.is_none() {
            self.error(
                "ramp_missing",
                file,
                place,
                "stage ramp has no steps to take",
                "a `ramp` with `steps`",
            );
        }
        if raw.share.is_some() && word != StageWord::Canary {
            self.error(
                "share_without_canary",
                file,
                format_args!("{at}.share"),
                "a share is fixed by hand in stage canary only",
                "`stage: canary`, or no `share`",
            );
        }
        match word {
            StageWord::Legacy => Stage::Legacy,
            StageWord::Shadow => Stage::Shadow,
            StageWord::Canary => Stage::Canary(raw.share.map_or_else(
                || {
                    self.error(
                        "share_missing",
                        file,
                        place,
                        "stage canary does not say how many",
                        "`share`, such as `share: 5%`",
                    );
                    SharePpm::ZERO
                },
                |share| share.0,
            )),
            StageWord::Ramp => Stage::Ramp,
            StageWord::Serverless => Stage::Serverless,
            StageWord::Retired => Stage::Retired,
        }
    }

    /// Law 7: what is not safe is shadowed only when the route says how.
    fn shadow(
        &mut self,
        file: usize,
        at: fmt::Arguments<'_>,
        raw: &file::Route,
        stage: Stage,
    ) -> Option<Box<ShadowRule>> {
        let mirrors = matches!(stage, Stage::Shadow | Stage::Canary(_) | Stage::Ramp | Stage::Serverless);
        let Some(shadow) = &raw.shadow else {
            // The stage alone asks for it.
            let all = ShadowRule {
                sample: SharePpm::ALL,
                max_body_bytes: SHADOW_BODY_MAX,
                rules: Rules::default(),
                controls: CONTROLS,
                writes: Writes::Off,
            };
            return (stage == Stage::Shadow).then(|| Box::new(all));
        };
        let safe = |item: &file::Match| {
            item.methods
                .as_ref()
                .is_some_and(|all| all.iter().all(|m| matches!(m.as_str(), "GET" | "HEAD" | "OPTIONS")))
        };
        let by_method = if raw.matches.items.iter().all(safe) { Effects::Safe } else { Effects::Unsafe };
        let effects = raw.effects.unwrap_or(by_method);
        if effects != Effects::Safe && shadow.policy.is_none() {
            let word = if effects == Effects::Unsafe { "unsafe" } else { "idempotent" };
            let text = format!("the effects of this route are {word}, and its shadow names no policy");
            self.error(
                "shadow_policy_missing",
                file,
                format_args!("{at}.shadow"),
                text,
                "`policy`: off, sandbox or verify_after_write; or `effects: safe`",
            );
        }
        let mut rules = Rules::default();
        for (number, entry) in shadow.ignore.iter().enumerate() {
            if let Err(text) = rules.ignore(entry) {
                let expected = "`header.NAME` or `json:$.path`, such as `json:$.items[].traceId`";
                self.error(
                    "shadow_ignore",
                    file,
                    format_args!("{at}.shadow.ignore[{number}]"),
                    text,
                    expected,
                );
            }
        }
        for (path, rule) in shadow.rules.iter() {
            if let Err(text) = rules.typed(path, rule) {
                let expected =
                    "a path as differences are shown, and a rule such as `uuid` or `timestamp(rfc3339, 5s)`";
                self.error("shadow_rule", file, format_args!("{at}.shadow.rules.{path}"), text, expected);
            }
        }
        let writes = self.writes(file, at, shadow);
        let sample = shadow.sample.map_or(SharePpm::ALL, |sample| sample.0);
        let max_body_bytes = shadow.max_body.map_or(SHADOW_BODY_MAX, |size| size.0);
        if max_body_bytes > SHADOW_BODY_LIMIT {
            let text = "bodies this large would fill the shadow's memory with a few requests";
            self.error("shadow_max_body", file, format_args!("{at}.shadow.max_body"), text, "4MiB or less");
        }
        (mirrors && raw.legacy.is_some() && raw.serverless.is_some()).then(|| {
            Box::new(ShadowRule {
                sample,
                max_body_bytes,
                rules,
                controls: shadow.controls.map_or(CONTROLS, |share| share.0),
                writes,
            })
        })
    }

    fn writes(&mut self, file: usize, at: fmt::Arguments<'_>, shadow: &file::Shadow) -> Writes {
        let mut wrong = |field: &str, text: String, expected: &str| {
            self.error("shadow_writes", file, format_args!("{at}.shadow.{field}"), text, expected);
        };
        let policy = shadow.policy.unwrap_or(ShadowPolicy::Off);
        if shadow.handshake.is_some() && policy != ShadowPolicy::Sandbox {
            wrong(
                "handshake",
                "only targets of `policy: sandbox` prove themselves".into(),
                "`policy: sandbox`",
            );
        }
        if shadow.verify.is_some() && policy != ShadowPolicy::VerifyAfterWrite {
            wrong(
                "verify",
                "nothing is read back without `policy: verify_after_write`".into(),
                "`policy: verify_after_write`",
            );
        }
        match policy {
            ShadowPolicy::Off => Writes::Off,
            ShadowPolicy::Sandbox => {
                let handshake = shadow.handshake.as_deref().unwrap_or(HANDSHAKE);
                if !handshake.starts_with('/') {
                    wrong(
                        "handshake",
                        format!("`{handshake}` is not a path"),
                        "such as `/.well-known/banyan-shadow`",
                    );
                }
                Writes::Sandbox { handshake: handshake.into() }
            }
            ShadowPolicy::VerifyAfterWrite => {
                match shadow.verify.as_ref().map(|it| (ReadBack::parse(&it.read), it.lag)) {
                    Some((Ok(read), lag)) => {
                        Writes::Verify { read, lag: lag.map_or(VERIFY_LAG, |lag| lag.0) }
                    }
                    Some((Err(text), _)) => {
                        wrong(
                            "verify.read",
                            text,
                            "a path such as `/orders/{id}`, `{location}` or `/orders/{json.id}`",
                        );
                        Writes::Off
                    }
                    None => {
                        wrong(
                            "policy",
                            "`verify_after_write` does not say what to read".into(),
                            "`verify: {read: /orders/{id}, lag: 1s}`",
                        );
                        Writes::Off
                    }
                }
            }
        }
    }

    fn ramp(&mut self, file: usize, at: fmt::Arguments<'_>, raw: &file::Route) {
        let Some(ramp) = &raw.ramp else { return };
        if ramp.steps.is_empty() {
            self.error(
                "steps_empty",
                file,
                format_args!("{at}.ramp.steps"),
                "a ramp without steps goes nowhere",
                "rising percents, such as [1%, 10%, 100%]",
            );
        }
        for (number, pair) in ramp.steps.windows(2).enumerate() {
            if pair[1].at <= pair[0].at {
                let text = format!("step {} does not rise over {}", pair[1].at, pair[0].at);
                self.error(
                    "steps_not_rising",
                    file,
                    format_args!("{at}.ramp.steps[{}]", number + 1),
                    text,
                    "steps that rise",
                );
            }
        }
        if ramp.steps.first().is_some_and(|step| step.at.0 == SharePpm::ZERO) {
            self.error(
                "steps_not_rising",
                file,
                format_args!("{at}.ramp.steps[0]"),
                "the first step moves nobody",
                "a percent above 0",
            );
        }
        if ramp.control.is_some_and(|share| share.0 > COHORT_LEFT_MAX) {
            self.error(
                "control_too_large",
                file,
                format_args!("{at}.ramp.control"),
                "more than half of the keys would stay on legacy",
                "50% or less",
            );
        }
        if let Some(ceiling) = &ramp.ceiling
            && (ceiling.rps == Some(0) || ceiling.failures_per_day == Some(0))
        {
            let place = Place::field(file, format!("{at}.ramp.ceiling"));
            self.problems.push(Problem::warning(
                "ceiling_zero",
                place,
                "a ceiling of 0 keeps every request on legacy",
            ));
        }
    }
}

fn limited(rule: &file::Limit) -> LimitRule {
    let (count, per_secs) = (rule.rate.count, rule.rate.per_secs);
    // Without a word on it, what a second brings: an hour's worth at once is no limit.
    let burst =
        rule.burst.unwrap_or_else(|| u32::try_from(count.div_ceil(u64::from(per_secs))).unwrap_or(u32::MAX));
    LimitRule { key: rule.key.clone(), count, per_secs, burst, shared: rule.shared.unwrap_or(false) }
}

fn required(rule: &file::Require) -> RequireRule {
    RequireRule {
        plan: rule.api_key.as_ref().map(|key| key.plan.as_str().into()),
        jwt: rule.jwt.as_ref().map(|jwt| JwtRule {
            issuer: jwt.issuer.as_str().into(),
            scopes: jwt.scopes.iter().map(|scope| scope.as_str().into()).collect(),
        }),
        authorizer: rule.authorizer.as_deref().map(Into::into),
        client_cert: rule.client_cert.unwrap_or(false),
    }
}

fn lowered(ramp: &file::Ramp) -> RampRule {
    let steps = ramp.steps.iter().map(|step| RampStep { at: step.at.0, approve: step.approve });
    let moves = ramp.hold_each.is_some() || ramp.advance_when.is_some() || ramp.roll_back_when.is_some();
    let gates = || {
        let advance = ramp.advance_when.as_ref();
        Box::new(Gates {
            by_hand: ramp.hold_each.is_none() && advance.is_none(),
            hold_each: ramp.hold_each.map_or(Duration::ZERO, |span| span.0),
            parity: advance.and_then(|it| it.parity),
            coverage: advance.and_then(|it| it.coverage).map(|share| share.0),
            error_rate: advance.and_then(|it| it.error_rate),
            p99: advance.and_then(|it| it.p99),
            roll_back: ramp.roll_back_when.as_ref().map(|rule| RollBack {
                error_rate: rule.error_rate,
                window: rule.for_.0,
                min_requests: u64::from(rule.min_requests.unwrap_or(ROLL_BACK_REQUESTS)),
            }),
        })
    };
    let control =
        ramp.control.map(|share| share.0).or(moves.then_some(COHORT_LEFT)).unwrap_or(SharePpm::ZERO);
    let ceiling =
        ramp.ceiling.as_ref().map(|it| Ceiling { rps: it.rps, failures_per_day: it.failures_per_day });
    RampRule { steps: steps.collect(), gates: moves.then(gates), control, ceiling }
}
