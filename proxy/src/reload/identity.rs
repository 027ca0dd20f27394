//! What a route's figures are of: what was counted of one thing says nothing of another.
//!
//! Input: a route. Output: hashes. Must not: change with what leaves each answer as it is.

use banyan_routes::ids::Side;
use banyan_routes::table::{Route, RouteTable};
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
    let backend = |side| route.backend(side).map(|at| table.backend(at));
    let (legacy, serverless) = (backend(Side::Legacy), backend(Side::Serverless));
    let edits = (&route.policy.rewrite, &route.policy.request_headers);
    xxh3_64(format!("{legacy:?} {serverless:?}{rules} {:?} {:?}", edits.0, edits.1).as_bytes())
}
