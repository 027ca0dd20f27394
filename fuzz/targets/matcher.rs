//! The matcher over fixed rules: a lookup agrees with a look at every route.
#![no_main]

use banyan_routes::compile::compile_sources;
use banyan_routes::lookup::lower;
use banyan_routes::path::read_path;
use banyan_routes::problem::Source;
use banyan_routes::request::bare_host;
use banyan_routes::request_line::OwnedRequest;
use banyan_routes::table::{RouteTable, Unroutable};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

const RULES: &str = r#"
version: 1
backends: {b: {urls: ["http://127.0.0.1:1"]}}
routes:
  - {id: exact, match: {path: /a/b}, legacy: b}
  - {id: template, match: {path: "/a/{x}"}, legacy: b}
  - {id: deep, match: {path: "/a/{x}/c/{rest*}"}, legacy: b}
  - {id: prefix, match: {prefix: /a}, legacy: b}
  - {id: host, match: {host: "*.h.test", prefix: /}, legacy: b}
  - {id: named, match: {host: x.h.test, prefix: /}, legacy: b}
  - {id: header, match: {prefix: /a, headers: {X-A: "1"}}, legacy: b}
  - {id: query, match: {prefix: /a, query: {q: "1"}}, legacy: b}
  - {id: post, match: {prefix: /a, methods: [POST]}, legacy: b}
  - {id: regex, match: {regex: "/r/[0-9]+", priority: 1}, legacy: b}
"#;

static TABLE: LazyLock<RouteTable> = LazyLock::new(|| {
    let sources = [Source { name: "rules.yaml".into(), text: RULES.into() }];
    compile_sources(&sources).unwrap_or_else(|problems| panic!("{problems:?}")).0
});

fuzz_target!(|input: (&str, &str, bool, bool)| {
    let (host, target, post, header) = input;
    let url = format!("http://{host}/{target}");
    let Ok(mut request) = OwnedRequest::new(if post { "POST" } else { "GET" }, &url) else { return };
    if header {
        request.header("x-a", "1").unwrap_or_else(|error| panic!("{error}"));
    }
    let facts = request.facts();
    let found = match TABLE.find(&facts) {
        Ok(found) => Some(found.route),
        Err(Unroutable::NoRoute) => None,
        // A path that is not read one way is nobody's.
        Err(Unroutable::Ambiguous(_)) => return,
    };
    let host = lower(bare_host(facts.host)).into_owned();
    let Ok(path) = read_path(facts.path) else {
        panic!("found by a path that cannot be read: {:?}", facts.path)
    };
    let all =
        TABLE.routes.iter().enumerate().flat_map(|(at, route)| route.matches.iter().map(move |it| (at, it)));
    let holding = all.filter(|(_, matcher)| matcher.miss(&host, &path.text, &facts).is_none());
    let best = holding.max_by_key(|(_, matcher)| matcher.specificity()).map(|(at, _)| at as u32);
    assert_eq!(found, best, "{url}");
});
