//! Properties: lookup agrees with a naive scan, nothing panics, shares are monotone and fair.

#![expect(clippy::expect_used, reason = "a test says what it needs by failing")]

use banyan_routes::bucket::{bucket, cohort_seed};
use banyan_routes::compile::compile_sources;
use banyan_routes::decide::{Conditions, decide};
use banyan_routes::ids::{PPM, SharePpm, Side};
use banyan_routes::lookup::lower;
use banyan_routes::path::{normalise, read_path};
use banyan_routes::problem::{Source, report};
use banyan_routes::request::bare_host;
use banyan_routes::request_line::OwnedRequest;
use banyan_routes::table::RouteTable;
use proptest::prelude::*;

fn source(text: String) -> Vec<Source> {
    vec![Source { name: "rules.yaml".into(), text }]
}

fn segment() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "cc", "{x}", "{y}", "d.e"])
}

/// A match as YAML flow text, from a small alphabet so that routes collide often.
fn matcher() -> impl Strategy<Value = String> {
    let path = (prop::collection::vec(segment(), 1..4), 0..4u8).prop_map(|(mut parts, kind)| {
        let mut seen = Vec::new();
        parts.retain(|part| {
            !part.starts_with('{')
                || (!seen.contains(part) && {
                    seen.push(part);
                    true
                })
        });
        let path = format!("/{}", parts.join("/"));
        let literal = path.replace(['{', '}'], "");
        match kind {
            0 => format!("path: \"{path}\""),
            1 => format!("prefix: \"{literal}\""),
            2 => format!("path: \"{path}/{{rest*}}\""),
            _ => format!("path: \"{literal}\""),
        }
    });
    let host =
        prop::sample::select(vec!["", "host: h1.test, ", "host: \"*.test\", ", "host: \"*.h1.test\", "]);
    let methods =
        prop::sample::select(vec!["", ", methods: [GET]", ", methods: [GET, POST]", ", methods: [PUT]"]);
    let headers =
        prop::sample::select(vec!["", ", headers: {X-A: \"1\"}", ", headers: {X-A: present, X-B: \"2\"}"]);
    let query = prop::sample::select(vec!["", ", query: {q: \"1\"}"]);
    (host, path, methods, headers, query).prop_map(|(host, path, methods, headers, query)| {
        format!("{{{host}{path}{methods}{headers}{query}}}")
    })
}

/// Routes that tie are left out one by one until the rest compiles.
fn table(matchers: &[String]) -> RouteTable {
    let mut kept: Vec<(usize, &String)> = matchers.iter().enumerate().collect();
    loop {
        let routes: String = kept
            .iter()
            .map(|(number, matcher)| {
                format!("  - {{id: r{number}, match: {matcher}, legacy: b, stage: legacy}}\n")
            })
            .collect();
        let text =
            format!("version: 1\nbackends: {{b: {{urls: [\"http://127.0.0.1:1\"]}}}}\nroutes:\n{routes}");
        let text = if kept.is_empty() { "version: 1\n".to_owned() } else { text };
        let sources = source(text);
        match compile_sources(&sources) {
            Ok((table, _)) => return table,
            Err(problems) => {
                let bad: Vec<String> = problems.iter().filter_map(|problem| problem.route.clone()).collect();
                assert!(!bad.is_empty(), "{:?}", report(&sources, &problems));
                kept.retain(|(number, _)| !bad.contains(&format!("r{number}")));
            }
        }
    }
}

fn request() -> impl Strategy<Value = OwnedRequest> {
    let host = prop::sample::select(vec!["h1.test", "x.h1.test", "H1.TEST:80", "other", "y.test"]);
    let part = prop::sample::select(vec!["a", "b", "cc", "d.e", "zz", "%61"]);
    let path = (prop::collection::vec(part, 0..5), any::<bool>());
    let method = prop::sample::select(vec!["GET", "POST", "PUT"]);
    let a = prop::sample::select(vec!["", "1", "2"]);
    let b = prop::sample::select(vec!["", "2"]);
    let query = prop::sample::select(vec!["", "?q=1", "?q=2&q=1"]);
    (host, path, method, a, b, query).prop_map(|(host, (parts, slash), method, a, b, query)| {
        let slash = if slash && !parts.is_empty() { "/" } else { "" };
        let mut request =
            OwnedRequest::new(method, &format!("http://{host}/{}{slash}{query}", parts.join("/")))
                .expect("request");
        for (name, value) in [("x-a", a), ("x-b", b)] {
            if !value.is_empty() {
                request.header(name, value).expect("header");
            }
        }
        request
    })
}

/// The best match by trying all of them.
fn naive(table: &RouteTable, request: &OwnedRequest) -> Option<u32> {
    let facts = request.facts();
    let host = lower(bare_host(facts.host)).into_owned();
    let path = read_path(facts.path).expect("plain path").text.into_owned();
    let all = table
        .routes
        .iter()
        .enumerate()
        .flat_map(|(number, route)| route.matches.iter().map(move |m| (number, m)));
    let holding = all.filter(|(_, matcher)| matcher.miss(&host, &path, &facts).is_none());
    holding.max_by_key(|(_, matcher)| matcher.specificity()).map(|(number, _)| number as u32)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lookup_agrees_with_a_naive_scan(
        matchers in prop::collection::vec(matcher(), 1..40),
        requests in prop::collection::vec(request(), 1..60),
    ) {
        let table = table(&matchers);
        for request in &requests {
            let found = table.find(&request.facts()).ok().map(|found| found.route);
            prop_assert_eq!(found, naive(&table, request), "{:?}", request);
        }
    }

    #[test]
    fn compile_never_panics_on_arbitrary_text(text in "\\PC{0,400}") {
        let sources = source(text);
        if let Err(problems) = compile_sources(&sources) {
            prop_assert!(!report(&sources, &problems).is_empty());
        }
    }

    #[test]
    fn compile_never_panics_on_arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let sources = source(String::from_utf8_lossy(&bytes).into_owned());
        if let Err(problems) = compile_sources(&sources) {
            report(&sources, &problems).iter().for_each(|r| { r.draw(&sources, true); });
        }
    }

    #[test]
    fn compile_never_panics_on_a_damaged_file(at in 0usize..3000, byte in any::<char>(), cut in 0usize..40) {
        let text = include_str!("vectors/conditions.yaml");
        let mut chars: Vec<char> = text.chars().collect();
        let at = at % chars.len();
        chars.drain(at..(at + cut).min(chars.len()));
        chars.insert(at.min(chars.len()), byte);
        let sources = source(chars.into_iter().collect());
        if let Err(problems) = compile_sources(&sources) {
            report(&sources, &problems).iter().for_each(|r| { r.draw(&sources, false); });
        }
    }

    #[test]
    fn reading_a_path_never_panics_and_normalising_is_idempotent(path in "[/a-c.;%2eEfF\\\\0-9]{0,40}") {
        if let Ok(read) = read_path(&path)
            && let Ok(once) = normalise(&read.text)
        {
            prop_assert_eq!(normalise(&once).expect("normal"), once.clone());
            if !once.contains(';') {
                prop_assert_eq!(read_path(&once).expect("readable").strict_fault, None);
            }
        }
    }
}

const KEYS: usize = 10_000;

fn keys() -> Vec<String> {
    (0..KEYS).map(|number| format!("user-{number}")).collect()
}

/// Who is on serverless at `share`, through the whole decision and not the hash alone.
fn moved(table: &RouteTable, share: u32) -> Vec<bool> {
    let route = table.route(0);
    let side = |key: &String| {
        let mut request = OwnedRequest::new("GET", "http://h/x").expect("request");
        request.header("x-user", key).expect("header");
        let share = SharePpm::new(share).expect("share");
        let now = Conditions {
            killed: false,
            share,
            rolled_back: false,
            override_side: None,
            serverless_available: true,
        };
        let decision =
            decide(route, table.cohort(route), &request.facts(), now, || unreachable!("the user has a key"));
        decision.expect("decision").side == Side::Serverless
    };
    keys().iter().map(side).collect()
}

fn canary() -> RouteTable {
    let text = "version: 1
backends: {b: {urls: [\"http://127.0.0.1:1\"]}}
cohorts: {users: {key: [header.x-user]}}
routes:
  - {id: r, match: {path: /x}, legacy: b, serverless: b, stage: canary, share: 1%, cohort: users}
";
    compile_sources(&source(text.into())).expect("rules").0
}

#[test]
fn raising_the_share_keeps_every_user_already_moved() {
    let table = canary();
    let mut before = moved(&table, 0);
    assert!(before.iter().all(|moved| !moved));
    for share in [1_000, 10_000, 50_000, 250_000, 500_000, 999_999, PPM] {
        let after = moved(&table, share);
        assert!(before.iter().zip(&after).all(|(before, after)| *after || !*before), "at {share}");
        before = after;
    }
    assert!(before.iter().all(|moved| *moved));
}

#[test]
fn lowering_the_share_moves_back_exactly_those_who_came_last() {
    let table = canary();
    let seed = cohort_seed("users");
    let (high, low) = (moved(&table, 500_000), moved(&table, 200_000));
    for ((key, high), low) in keys().iter().zip(high).zip(low) {
        let last = (200_000..500_000).contains(&bucket(seed, key.as_bytes()));
        assert_eq!(high && !low, last, "{key}");
    }
}

#[test]
fn shares_are_within_three_sigma() {
    let table = canary();
    for share in [10_000u32, 50_000, 250_000, 500_000, 900_000] {
        let count = moved(&table, share).into_iter().filter(|moved| *moved).count() as f64;
        let p = f64::from(share) / f64::from(PPM);
        let sigma = (KEYS as f64 * p * (1.0 - p)).sqrt();
        assert!((count - KEYS as f64 * p).abs() <= 3.0 * sigma, "share {share}: {count} of {KEYS}");
    }
}

#[test]
fn cohorts_do_not_move_together_unless_they_are_one() {
    let (a, b) = (cohort_seed("a"), cohort_seed("b"));
    let both = keys()
        .iter()
        .filter(|key| bucket(a, key.as_bytes()) < 500_000 && bucket(b, key.as_bytes()) < 500_000)
        .count();
    // Independent halves: a quarter, within 5 sigma of sqrt(n * 1/4 * 3/4) = 43.
    assert!((2_285..=2_715).contains(&both), "{both}");
}

/// Frozen: a change here reshuffles every user of every installation.
#[test]
fn the_bucket_of_a_key_never_changes() {
    let seed = cohort_seed("shopper");
    let buckets: Vec<u32> = ["", "a", "user-1", "0123456789abcdef0123456789abcdef"]
        .iter()
        .map(|key| bucket(seed, key.as_bytes()))
        .collect();
    assert_eq!(buckets, FROZEN);
}

const FROZEN: [u32; 4] = [508_604, 538_843, 989_250, 30_543];

/// A file as people write them, for cutting: block items, flow items, comments between, quoted text that looks like an item.
fn file_text() -> impl Strategy<Value = String> {
    let item = (0..5u8, 0..30u32).prop_map(|(kind, number)| match kind {
        0 => format!("  - {{id: r{number}, match: {{path: /p{number}}}, legacy: b}}\n"),
        1 => format!("  - id: r{number}\n    match: {{path: /p{number}}}\n    legacy: b\n"),
        2 => format!("  # about r{number}\n  - id: r{number}\n    match:\n      - path: /p{number}\n      - prefix: /q{number}\n\n    legacy: b\n"),
        3 => format!("  - id: r{number}\n    owner: \"a\n  - b\"\n    match: {{path: /p{number}}}\n    legacy: b\n"),
        _ => format!("  - {{id: r{number},\n  match: {{path: /p{number}}}, legacy: b}}\n"),
    });
    (prop::collection::vec(item, 1..12), any::<bool>(), any::<bool>()).prop_map(|(items, tail, anchors)| {
        let backends = "backends: {b: {urls: [\"http://127.0.0.1:1\"]}}\n";
        let owner = if anchors { "  - &x {id: anchored, match: {path: /anchored}, legacy: b}\n" } else { "" };
        let (before, after) = if tail { ("", backends) } else { (backends, "") };
        format!("version: 1\n{before}routes:\n{}{owner}{after}tests: []\n", items.concat())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reading_what_changed_gives_what_reading_everything_gives(
        texts in prop::collection::vec(file_text(), 1..4),
        edits in prop::collection::vec((0usize..2000, prop::sample::select(vec!["", "x", "\n", "  - ", "\"", "}", "#", " "])), 0..6),
    ) {
        let mut cache = banyan_routes::read::ReadCache::default();
        let mut versions = texts.clone();
        let mut edited = texts[0].clone();
        for (at, insert) in edits {
            let at = at % (edited.len() + 1);
            edited.insert_str(at, insert);
            versions.push(edited.clone());
        }
        versions.push(texts[0].clone());
        for text in &versions {
            let read = banyan_routes::read::read(0, text);
            prop_assert_eq!(cache.read(0, "rules.yaml", text), read.clone(), "{}", text);
            let routes = read.map(|rules| rules.routes).unwrap_or_default();
            for (position, route) in routes.iter().enumerate() {
                let alike = routes.iter().filter(|it| it.id == route.id).count();
                let found = banyan_routes::read::item(text, position, &route.id);
                prop_assert!(alike > 1 || found.as_ref() == Some(route), "{} in {}", route.id, text);
            }
        }
    }
}

#[test]
fn a_large_file_reads_the_same_in_halves() {
    let items: String = (0..3_000)
        .map(|number| match number % 3 {
            0 => format!("  - {{id: r{number}, match: {{path: /p{number}}}, legacy: b}}\n"),
            1 => format!(
                "  # about r{number}\n  - id: r{number}\n    match: {{path: /p{number}}}\n\n    legacy: b\n"
            ),
            _ => format!("  - id: r{number}\n    match:\n      - path: /p{number}\n    legacy: b # here\n"),
        })
        .collect();
    let text = format!(
        "version: 1\nbackends: {{b: {{urls: [\"http://127.0.0.1:1\"]}}}}\nroutes:\n{items}tests: []\n"
    );
    let read = |text: &str| banyan_routes::read::ReadCache::default().read(0, "rules.yaml", text);
    assert_eq!(read(&text), banyan_routes::read::read(0, &text));
    let broken = text.replace("id: r2000\n", "id: r2000\n    owner: \"open\n");
    assert_eq!(read(&broken), banyan_routes::read::read(0, &broken));
}
