//! A thousand migrations on a clock that is not real: what the plan may never do, and how long it takes to go back.
//!
//! The seed stands in the failure; a run is replayed by it alone.

#![expect(clippy::unwrap_used, reason = "a test says what it needs by failing")]

use banyan_routes::bucket::bucket;
use banyan_routes::compare::{Difference, Kind, Value, Verdict as Compared};
use banyan_routes::compile::{ReadFile, compile};
use banyan_routes::evidence::Window;
use banyan_routes::ids::Side;
use banyan_routes::life::{Asked, Change, Headroom, Refused, RouteState};
use banyan_routes::plan::{CONTROLLER, Outcomes, Reason, Seen, Store, Verdict, plan};
use banyan_routes::problem::Source;
use banyan_routes::read::read;
use banyan_routes::table::RouteTable;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, VecDeque};

const RUNS: u64 = 1_300;
/// Seconds of one migration.
const LENGTH: u64 = 900;
const WINDOW: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum World {
    Healthy,
    DegradesSlowly,
    FailsSuddenly,
    Flaps,
    NoTraffic,
    BothFail,
    /// At 100 %: only the control cohort can tell.
    BothFailAtTheEnd,
    TrulyDifferent,
    Frozen,
    NotApproved,
    ClockJumps,
    /// Whoever is new waits for an instance; afterwards it is as fast as legacy.
    ColdStarts,
    /// It stays slow.
    StaysSlow,
}

const WORLDS: [World; 13] = [
    World::Healthy,
    World::DegradesSlowly,
    World::FailsSuddenly,
    World::Flaps,
    World::NoTraffic,
    World::BothFail,
    World::BothFailAtTheEnd,
    World::TrulyDifferent,
    World::Frozen,
    World::NotApproved,
    World::ClockJumps,
    World::ColdStarts,
    World::StaysSlow,
];

fn table(world: World) -> RouteTable {
    let step = if world == World::NotApproved { "{at: 25%, approve: 1}" } else { "25%" };
    let latency = match world {
        World::ColdStarts | World::StaysSlow => ", p99: \"<= legacy * 1.5\"",
        _ => "",
    };
    let text = format!(
        "version: 1\nbackends: {{a: {{urls: [\"http://a\"]}}, b: {{urls: [\"http://b\"]}}}}\nroutes:\n  - id: r\n    match: {{prefix: /r}}\n    legacy: a\n    serverless: b\n    effects: safe\n    stage: ramp\n    shadow: {{sample: 100%}}\n    ramp:\n      steps: [1%, 5%, {step}, 50%, 100%]\n      hold_each: 60s\n      advance_when: {{parity: \"99% at 95%\", coverage: 80%, error_rate: \"<= legacy + 1pp\"{latency}}}\n      roll_back_when: {{error_rate: \"> legacy + 2pp\", for: 10s, min_requests: 50}}\n"
    );
    let rules = read(0, &text).unwrap();
    compile(&[ReadFile::new(Source { name: "r.yaml".into(), text }, rules)]).unwrap().0
}

/// The chance that an answer of a side fails at a moment.
fn failing(world: World, side: Side, second: u64) -> f64 {
    match (world, side) {
        (World::FailsSuddenly, Side::Serverless) if second > 700 => 0.5,
        (World::DegradesSlowly, Side::Serverless) => (second as f64 / LENGTH as f64 * 0.3 - 0.1).max(0.001),
        (World::Flaps, Side::Serverless) if second / 100 % 2 == 1 => 0.2,
        // While there is something on legacy to tell it by.
        (World::BothFail, _) if (150..230).contains(&second) => 0.5,
        (World::BothFailAtTheEnd, _) if (750..800).contains(&second) => 0.5,
        _ => 0.001,
    }
}

struct Ended {
    share_ppm: u32,
    rolled_back_at: Option<u64>,
    steps: u32,
}

fn migrate(world: World, seed: u64, table: &RouteTable) -> Ended {
    let route = &table.routes[0];
    let mut rng = StdRng::seed_from_u64(seed);
    let users: Vec<u32> = (0..200).map(|user: u32| bucket(7, &user.to_le_bytes())).collect();
    let (mut state, mut evidence, mut clock) = (RouteState::default(), Window::default(), 1_000_000u64);
    let (mut raised_at, mut warm, mut slow) = (0u64, 0u64, false);
    let (mut since, mut lately, mut on) = (Outcomes::default(), VecDeque::<Outcomes>::new(), 0usize);
    let mut ended = Ended { share_ppm: 0, rolled_back_at: None, steps: 0 };
    let (per_second, mismatch) = match world {
        World::NoTraffic => (0, 0.0),
        World::TrulyDifferent => (20, 0.0105),
        _ => (20, 0.0),
    };
    for second in 0..LENGTH {
        clock = match world {
            World::ClockJumps if rng.random_bool(0.01) => clock - 500,
            World::ClockJumps if rng.random_bool(0.01) => clock + 50,
            _ => clock + 1,
        };
        let mut now = Outcomes::default();
        // At 1 % on legacy, this is what it takes to see that legacy fails as well.
        let busy = world == World::BothFailAtTheEnd && second >= 700;
        for _ in 0..if busy { 200 } else { per_second } {
            let serverless = rng.random_range(0..1_000_000) < state.effective(route).get();
            let side = if serverless { Side::Serverless } else { Side::Legacy };
            now.requests[side.index()] += 1;
            now.failed[side.index()] += u64::from(rng.random_bool(failing(world, side, second)));
            evidence.eligible += 1;
            evidence.sampled += 1;
            let verdict = if rng.random_bool(mismatch) {
                let value = Value::named("x");
                Compared::Mismatch(vec![Difference {
                    path: "$".into(),
                    kind: Kind::Value,
                    legacy: value.clone(),
                    serverless: value,
                }])
            } else {
                Compared::Match
            };
            // Few requests, so that telling them apart costs little.
            evidence.verdict(&verdict, rng.random_range(0..32));
        }
        // Latency as the loop counts it: from the tenth second after a raise on, and a hundred requests.
        let since_raise = second - raised_at;
        if since_raise >= 10 {
            warm += now.requests[Side::Serverless.index()];
            slow |= world == World::StaysSlow;
        }
        since.p99_seconds = [Some(0.1), Some(if slow { 3.0 } else { 0.11 })];
        for at in 0..2 {
            since.requests[at] += now.requests[at];
            since.failed[at] += now.failed[at];
        }
        lately.push_back(now);
        while lately.len() > WINDOW {
            lately.pop_front();
        }
        let sum = lately.iter().fold(Outcomes::default(), |mut all, it| {
            for at in 0..2 {
                all.requests[at] += it.requests[at];
                all.failed[at] += it.failed[at];
            }
            all
        });
        let frozen = (world == World::Frozen).then_some("year-end");
        let seen = Seen {
            now_unix_s: clock,
            since_change: since,
            lately: sum,
            evidence: Some(&evidence),
            frozen,
            cold: warm < 100,
            ..Seen::default()
        };
        let verdict = plan(route, table, &state, &seen).unwrap();
        let change = match &verdict {
            Verdict::Hold(reasons) => {
                assert!(!reasons.is_empty(), "{world:?} {seed}: a hold says why");
                continue;
            }
            Verdict::Advance => Change::Promote,
            Verdict::RollBack(reason) => {
                assert!(
                    matches!(reason, Reason::ErrorRate { serverless, legacy, margin } if serverless > &(legacy + margin)),
                    "{world:?} {seed}: {reason:?}"
                );
                Change::Rollback
            }
        };
        let asked = Asked { actor: CONTROLLER, reason: "", at_unix_s: clock, frozen, headroom: None };
        let before = state.clone();
        let made: Result<RouteState, Refused> = state.after(change, route, table, &asked);
        assert!(made.is_ok(), "{world:?} {seed}: the plan asked for what is refused: {made:?}");
        state = made.unwrap();
        // A restart between any two steps: what is kept is all there is.
        state = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        let was: usize =
            std::mem::replace(&mut on, users.iter().filter(|it| **it < state.effective(route).get()).count());
        if change == Change::Promote {
            ended.steps += 1;
            assert!(frozen.is_none() && before.hold.is_none() && !before.rolled_back, "{world:?} {seed}");
            assert!(
                clock.saturating_sub(before.since_unix_s) >= 60,
                "{world:?} {seed}: the step was not held"
            );
            assert!(
                evidence.anytime_bound() <= 0.01 && evidence.coverage() >= 0.8,
                "{world:?} {seed}: a raise without proof"
            );
            if before.share_ppm > 0 {
                assert!(
                    since.requests[1] >= 50
                        && since.failed[1] as f64 / since.requests[1] as f64
                            <= since.failed[0] as f64 / since.requests[0].max(1) as f64 + 0.01,
                    "{world:?} {seed}"
                );
            }
            assert!(on >= was, "{world:?} {seed}: a raise took somebody back");
        } else {
            assert_eq!(
                (on, state.effective(route).get()),
                (0, 0),
                "{world:?} {seed}: a rollback has to land"
            );
            ended.rolled_back_at.get_or_insert(second);
        }
        since = Outcomes::default();
        (raised_at, warm, slow) = (second, 0, false);
        lately.clear();
    }
    ended.share_ppm = state.share_ppm;
    ended
}

#[test]
fn without_a_word_on_when_to_advance_only_people_do() {
    let text = "version: 1\nbackends: {a: {urls: [\"http://a\"]}, b: {urls: [\"http://b\"]}}\nroutes: [{id: r, match: {prefix: /r}, legacy: a, serverless: b, stage: ramp, ramp: {steps: [1%, 100%], roll_back_when: {error_rate: \"> legacy + 2pp\", for: 10s}}}]\n";
    let rules = read(0, text).unwrap();
    let table =
        compile(&[ReadFile::new(Source { name: "r.yaml".into(), text: text.into() }, rules)]).unwrap().0;
    let state = RouteState { share_ppm: 10_000, ..RouteState::default() };
    let good = Outcomes { requests: [10_000, 1_000], ..Outcomes::default() };
    let seen = Seen { now_unix_s: 1_000_000, since_change: good, lately: good, ..Seen::default() };
    assert_eq!(plan(&table.routes[0], &table, &state, &seen), Some(Verdict::Hold(vec![Reason::ByHand])));
    let bad = Outcomes { failed: [0, 500], ..good };
    assert!(matches!(
        plan(&table.routes[0], &table, &state, &Seen { lately: bad, ..seen }),
        Some(Verdict::RollBack(_))
    ));
}

#[test]
fn a_p99_is_not_judged_while_instances_are_started() {
    let text = "version: 1\nbackends: {a: {urls: [\"http://a\"]}, b: {urls: [\"http://b\"]}}\nroutes: [{id: r, match: {prefix: /r}, legacy: a, serverless: b, stage: ramp, ramp: {steps: [1%, 100%], hold_each: 60s, advance_when: {p99: \"<= legacy * 1.2\"}}}]\n";
    let rules = read(0, text).unwrap();
    let table =
        compile(&[ReadFile::new(Source { name: "r.yaml".into(), text: text.into() }, rules)]).unwrap().0;
    let state = RouteState { share_ppm: 10_000, ..RouteState::default() };
    let slow =
        Outcomes { requests: [10_000, 1_000], p99_seconds: [Some(0.1), Some(3.0)], ..Outcomes::default() };
    let seen = Seen { now_unix_s: 1_000_000, since_change: slow, ..Seen::default() };
    let said = |seen: &Seen<'_>| match plan(&table.routes[0], &table, &state, seen) {
        Some(Verdict::Hold(reasons)) => reasons.iter().map(Reason::gate).collect(),
        other => vec![other.map_or("none", |verdict| verdict.as_str())],
    };
    assert_eq!(said(&Seen { cold: true, ..seen }), ["cold_starts"]);
    assert_eq!(said(&seen), ["p99"]);
    let warm = Outcomes { p99_seconds: [Some(0.1), Some(0.11)], ..slow };
    assert_eq!(said(&Seen { since_change: warm, ..seen }), ["advance"]);
    assert_eq!(said(&Seen { since_change: warm, at_ceiling: true, ..seen }), ["ceiling"]);
    assert_eq!(said(&Seen { since_change: warm, unavailable: true, ..seen }), ["available"]);
    let sure = "what serves it has changed";
    assert_eq!(
        said(&Seen { since_change: warm, backend_since_unix_s: 999_999, ..seen }),
        ["hold_each"],
        "{sure}"
    );
    let beyond = Outcomes { p99_seconds: [Some(f64::INFINITY); 2], ..slow };
    assert_eq!(said(&Seen { since_change: beyond, ..seen }), ["p99"], "how much longer is not known");
    assert_eq!(said(&Seen { since_change: warm, store: Store::Follower, ..seen }), ["follower"]);
    assert_eq!(said(&Seen { since_change: warm, store: Store::Away, ..seen }), ["store"]);
    let headroom = Some(Headroom { needs_rps: 11, capacity_rps: 10 });
    assert_eq!(said(&Seen { since_change: warm, headroom, ..seen }), ["headroom"]);
}

#[test]
fn a_thousand_migrations_rise_on_proof_only_and_go_back_in_time() {
    let tables = WORLDS.map(table);
    // One run again: BANYAN_SEED=17.
    let only: Option<u64> = std::env::var("BANYAN_SEED").ok().and_then(|seed| seed.parse().ok());
    if let Some(seed) = only {
        let at = (seed % WORLDS.len() as u64) as usize;
        let ended = migrate(WORLDS[at], seed, &tables[at]);
        eprintln!(
            "{:?} {seed}: {} ppm after {} steps, rolled back at {:?}",
            WORLDS[at], ended.share_ppm, ended.steps, ended.rolled_back_at
        );
        return;
    }
    eprintln!("seeds 0 to {}", RUNS - 1);
    let mut results: BTreeMap<World, Vec<Ended>> = BTreeMap::new();
    for seed in 0..RUNS {
        let at = (seed % WORLDS.len() as u64) as usize;
        let (world, ended) = (WORLDS[at], migrate(WORLDS[at], seed, &tables[at]));
        results.entry(world).or_default().push(ended);
    }
    let done = |world| results[&world].iter().filter(|it| it.share_ppm == 1_000_000).count();
    let back = |world| results[&world].iter().filter(|it| it.rolled_back_at.is_some()).count();
    for (world, all) in &results {
        let late = all.iter().filter_map(|it| it.rolled_back_at).max();
        eprintln!(
            "{world:?}: {} of {} reach 100 %, {} roll back, the last at second {late:?}",
            done(*world),
            all.len(),
            back(*world)
        );
    }
    // One hundredth of the users is little to tell by.
    assert!(back(World::BothFailAtTheEnd) <= 8, "{}", back(World::BothFailAtTheEnd));
    let mut took: Vec<u64> =
        results[&World::FailsSuddenly].iter().filter_map(|it| it.rolled_back_at).map(|at| at - 700).collect();
    took.sort_unstable();
    eprintln!(
        "false promotes: {} of 100 where 1.05 % differ and 1 % may; false rollbacks: {} of 100 healthy, {} of 100 in an outage of both, {} at 100 %; time to roll back: {} s in the middle, {} s at most",
        results[&World::TrulyDifferent].iter().filter(|it| it.steps > 0).count(),
        back(World::Healthy),
        back(World::BothFail),
        back(World::BothFailAtTheEnd),
        took[took.len() / 2],
        took[took.len() - 1],
    );
    for world in [World::Healthy, World::BothFail] {
        assert_eq!(back(world), 0, "{world:?}: a shared outage is not serverless's, and health is none");
    }
    assert!(done(World::ColdStarts) >= 80, "{}", done(World::ColdStarts));
    assert!(
        results[&World::StaysSlow].iter().all(|it| it.steps <= 1),
        "who is slow on the first step stays on it"
    );
    assert!(done(World::Healthy) >= 95, "{}", done(World::Healthy));
    for world in [World::NoTraffic, World::Frozen] {
        assert!(
            results[&world].iter().all(|it| it.steps == 0),
            "{world:?}: nothing was proved, or nothing may rise"
        );
    }
    assert!(results[&World::NotApproved].iter().all(|it| it.share_ppm <= 50_000), "nobody has approved 25 %");
    // 95 %: a system that differs in more than one answer of a hundred gets on in at most five runs of a hundred.
    assert!(results[&World::TrulyDifferent].iter().filter(|it| it.steps > 0).count() <= 5);
    // Whoever was on serverless when it began to fail was off it within the window and a few seconds more.
    for ended in results[&World::FailsSuddenly].iter().filter(|it| it.steps > 0) {
        // At 5 % and below, fewer come in a window than the rule wants to see.
        let unseen = ended.rolled_back_at.is_none() && ended.share_ppm <= 50_000;
        assert!(
            unseen || ended.rolled_back_at.is_some_and(|at| at <= 700 + 60),
            "{:?}",
            ended.rolled_back_at
        );
    }
}
