//! Changes of state: what must hold after any of them, in any order; and a log that tells when it was touched.

#![expect(clippy::unwrap_used, reason = "a test says what it needs by failing")]

use banyan_routes::audit::{Entry, START, verify};
use banyan_routes::compile::{ReadFile, compile};
use banyan_routes::ids::SharePpm;
use banyan_routes::life::{Asked, Change, Refused, RouteState};
use banyan_routes::problem::Source;
use banyan_routes::read::read;
use banyan_routes::table::RouteTable;
use proptest::prelude::*;

fn table() -> RouteTable {
    let text = "version: 1\nbackends: {a: {urls: [\"http://a\"]}, b: {urls: [\"http://b\"]}}\nroutes:\n  - {id: r, match: {prefix: /r}, legacy: a, serverless: b, stage: ramp, ramp: {steps: [1%, 25%, {at: 50%, approve: 2}, 100%]}}\n";
    let rules = read(0, text).unwrap();
    let source = Source { name: "r.yaml".into(), text: text.into() };
    compile(&[ReadFile::new(source, rules)]).unwrap().0
}

fn changes() -> impl Strategy<Value = (Change, &'static str, bool)> {
    let change = prop_oneof![
        4 => Just(Change::Promote),
        1 => Just(Change::Hold),
        2 => Just(Change::Resume),
        2 => (0..=1_000_000u32).prop_map(|ppm| Change::Share(SharePpm::new(ppm).unwrap())),
        3 => Just(Change::Approve),
        1 => Just(Change::Rollback),
    ];
    (change, prop::sample::select(vec!["ann", "ben", "kim"]), prop::bool::weighted(0.1))
}

proptest! {
    #[test]
    fn a_share_rises_only_when_everything_allows_it(all in prop::collection::vec(changes(), 1..40)) {
        let table = table();
        let route = &table.routes[0];
        let mut state = RouteState::default();
        for (change, actor, frozen) in all {
            let asked = Asked { actor, reason: "", at_unix_s: 1, frozen: frozen.then_some("year-end"), headroom: None };
            let before = state.clone();
            let Ok(after) = before.after(change, route, &table, &asked) else { continue };
            if after.share_ppm > before.share_ppm {
                prop_assert!(!frozen && before.hold.is_none() && !before.rolled_back, "{before:?} {change:?}");
                let half = 500_000;
                let passes_half = before.share_ppm < half && after.share_ppm >= half;
                prop_assert!(!passes_half || before.approvals.get(&half).is_some_and(|people| people.len() >= 2));
            }
            if change == Change::Rollback {
                prop_assert!(after.rolled_back && after.share_ppm == 0 && after.hold.is_some() && after.approvals.is_empty());
            }
            prop_assert_eq!(after.effective(route) == SharePpm::ZERO, after.rolled_back || after.share_ppm == 0);
            state = after;
        }
    }

    #[test]
    fn a_rollback_always_lands(all in prop::collection::vec(changes(), 0..40)) {
        let table = table();
        let route = &table.routes[0];
        let mut state = RouteState::default();
        for (change, actor, frozen) in all {
            let asked = Asked { actor, reason: "", at_unix_s: 1, frozen: frozen.then_some("year-end"), headroom: None };
            state = state.after(change, route, &table, &asked).unwrap_or(state);
        }
        let asked = Asked { actor: "kim", reason: "", at_unix_s: 1, frozen: Some("year-end"), headroom: None };
        match state.after(Change::Rollback, route, &table, &asked) {
            Ok(after) => prop_assert_eq!(after.effective(route), SharePpm::ZERO),
            Err(why) => prop_assert!(why == Refused::Already && state.rolled_back, "{why}"),
        }
    }

    #[test]
    fn a_log_that_was_touched_says_where(count in 2usize..12, at in any::<prop::sample::Index>(), how in 0..4) {
        let mut entries: Vec<Entry> = Vec::new();
        for sequence in 1..=count as u64 {
            let previous = entries.last().map_or(START.to_owned(), |entry| entry.hash.clone());
            entries.push(Entry {
                sequence, at_unix_s: sequence, actor: "kim".into(), action: "share".into(), scope: "r".into(), reason: format!("{sequence}"), rules_revision: "x".into(),
                revision_before: sequence - 1, revision_after: sequence, before: None, after: Some(RouteState { share_ppm: 1, ..RouteState::default() }), previous, hash: String::new(),
            }.sealed());
        }
        prop_assert_eq!(verify(&entries), Ok(()));
        let at = at.index(count);
        match how {
            0 => entries[at].reason = "another".into(),
            // Its own hash made anew: then the next one does not follow.
            1 if at + 1 < count => {
                entries[at].actor = "eve".into();
                entries[at] = entries[at].clone().sealed();
            }
            2 if at + 1 < count => drop(entries.remove(at)),
            3 if at + 1 < count => entries.swap(at, at + 1),
            _ => entries[at].after = None,
        }
        let broken = verify(&entries);
        prop_assert!(matches!(broken, Err(place) if place as usize == at + 1 || place as usize == at + 2), "{broken:?} at {at}");
    }
}
