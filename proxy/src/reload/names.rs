//! Names in rules that only the settings know.
//!
//! Input: a compiled table. Output: a problem for each name that the process has not. Must not: know what stands behind a name.

use super::Reloader;
use banyan_routes::problem::{Place, Problem};
use banyan_routes::table::{Route, RouteTable};

impl Reloader {
    /// A route for a listener that is not there would never match; only the running proxy knows.
    pub(super) fn unknown_listeners(&self, table: &RouteTable) -> Vec<Problem> {
        let mut problems = Vec::new();
        for route in &table.routes {
            for listener in route.matches.iter().filter_map(|matcher| matcher.conditions.listener.as_deref())
            {
                if !self.listeners.iter().any(|(known, _)| known == listener) {
                    let place =
                        Place::field(route.origin.0 as usize, format!("routes[{}].match", route.origin.1));
                    let problem = Problem::error(
                        "listener_unknown",
                        place,
                        format!("no listener is called `{listener}`"),
                    );
                    problems.push(
                        problem.route(&*route.id).expected(format!("one of {}", self.listener_names())),
                    );
                }
            }
        }
        problems
    }

    pub(super) fn listener_names(&self) -> String {
        self.listeners.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// A token of an issuer that is not there could never be verified, and nobody could be asked who is not there.
    pub(super) fn unknown_verifiers(&self, table: &RouteTable) -> Vec<Problem> {
        let mut problems = Vec::new();
        for route in &table.routes {
            let Some(rule) = route.require.as_deref() else { continue };
            let issuer = rule.jwt.as_ref().map(|jwt| &*jwt.issuer);
            problems.extend(unknown(
                route,
                "issuer_unknown",
                "jwt.issuer",
                ("issuer", issuer),
                &self.issuers,
            ));
            let asked = ("authorizer", rule.authorizer.as_deref());
            problems.extend(unknown(route, "authorizer_unknown", "authorizer", asked, &self.authorizers));
        }
        problems
    }
}

fn unknown(
    route: &Route,
    code: &'static str,
    field: &str,
    (kind, name): (&str, Option<&str>),
    known: &[String],
) -> Option<Problem> {
    let name = name.filter(|name| !known.iter().any(|it| it == name))?;
    let place = format!("routes[{}].require.{field}", route.origin.1);
    let place = Place::field(route.origin.0 as usize, place);
    let expected = match known.join(", ") {
        none if none.is_empty() => format!("`{kind}s` in the settings"),
        known => format!("one of {known}"),
    };
    let text = format!("no {kind} of the settings is called `{name}`");
    Some(Problem::error(code, place, text).route(&*route.id).expected(expected))
}
