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
                if !self.listeners.iter().any(|known| known == listener) {
                    let place =
                        Place::field(route.origin.0 as usize, format!("routes[{}].match", route.origin.1));
                    let problem = Problem::error(
                        "listener_unknown",
                        place,
                        format!("no listener is called `{listener}`"),
                    );
                    problems.push(
                        problem.route(&*route.id).expected(format!("one of {}", self.listeners.join(", "))),
                    );
                }
            }
        }
        problems
    }

    /// A token of an issuer that is not there could never be verified.
    pub(super) fn unknown_issuers(&self, table: &RouteTable) -> Vec<Problem> {
        let named = |route: &Route| Some(route.require.as_ref()?.jwt.as_ref()?.issuer.clone());
        let named = table.routes.iter().filter_map(|route| Some((route, named(route)?)));
        let unknown = named.filter(|(_, issuer)| !self.issuers.iter().any(|known| **known == **issuer));
        unknown
            .map(|(route, issuer)| {
                let place = format!("routes[{}].require.jwt.issuer", route.origin.1);
                let place = Place::field(route.origin.0 as usize, place);
                let text = format!("no issuer of the settings is called `{issuer}`");
                let expected = match self.issuers.join(", ") {
                    none if none.is_empty() => "`issuers` in the settings".to_owned(),
                    known => format!("one of {known}"),
                };
                Problem::error("issuer_unknown", place, text).route(&*route.id).expected(expected)
            })
            .collect()
    }
}
