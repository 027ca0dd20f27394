//! What a route's figures are of: what was counted of one thing says nothing of another.
//!
//! Input: a route. Output: hashes. Must not: change with what leaves each answer as it is.

use banyan_routes::backend::{Backend, BackendTls, BackendToken, HostMode, Signature, Target};
use banyan_routes::file::Protocol;
use banyan_routes::ids::Side;
use banyan_routes::table::{Route, RouteTable};
use http::{HeaderName, HeaderValue};
use std::fmt;
use xxhash_rust::xxh3::xxh3_64;

/// Of evidence: both sides, and by which rules their answers are compared. What is only sampled otherwise stays evidence.
pub fn identity(table: &RouteTable, route: &Route) -> u64 {
    let Some(rule) = &route.shadow else { return 0 };
    hash(table, route, format_args!(" {} {:?}", rule.rules, rule.writes))
}

/// Of live answers: both sides.
pub fn sides(table: &RouteTable, route: &Route) -> u64 {
    hash(table, route, format_args!(""))
}

fn hash(table: &RouteTable, route: &Route, rules: fmt::Arguments<'_>) -> u64 {
    let [legacy, serverless] =
        Side::ALL.map(|side| route.backend(side).map(|at| Asked::of(table.backend(at))));
    let edits = (&route.policy.rewrite, &route.policy.request_headers);
    xxh3_64(format!("{legacy:?} {serverless:?}{rules} {edits:?}").as_bytes())
}

/// Of a backend, who answers and what it is asked; how it is watched and spared is another matter.
#[derive(Debug)]
#[expect(dead_code, reason = "hashed by what it says of itself")]
struct Asked<'a> {
    id: &'a str,
    target: &'a Target,
    host: &'a HostMode,
    tls: &'a BackendTls,
    protocol: Protocol,
    sign: &'a Option<Signature>,
    token: &'a Option<BackendToken>,
    path_prefix: &'a str,
    headers: &'a [(HeaderName, HeaderValue)],
}

impl Asked<'_> {
    fn of(backend: &Backend) -> Asked<'_> {
        let Backend { id, target, host, tls, protocol, sign, token, path_prefix, headers, .. } = backend;
        Asked { id, target, host, tls, protocol: *protocol, sign, token, path_prefix, headers }
    }
}
