//! Names in rules that only the settings know.
//!
//! Input: a compiled table. Output: a problem for each name that the process has not. Must not: know what stands behind a name.

use super::Reloader;
use crate::live::Way;
use crate::settings::Mode;
use crate::targets::dial::Dial;
use banyan_routes::backend::Sources;
use banyan_routes::egress::{EgressRule, To};
use banyan_routes::problem::{Place, Problem};
use banyan_routes::table::{Route, RouteTable};
use std::collections::HashMap;

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

    fn listener_names(&self) -> String {
        self.listeners.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// An egress rule needs a listener that tells what it leads to, or must lead to one place itself.
    pub(super) fn unfit_exits(&self, table: &RouteTable) -> Vec<Problem> {
        let problem = |rule: &EgressRule| {
            let mode =
                self.listeners.iter().find(|(name, _)| **name == *rule.listener).map(|(_, mode)| *mode);
            let at = |field: &str| {
                Place::field(rule.origin.0 as usize, format!("egress[{}].{field}", rule.origin.1))
            };
            let one_port = rule.ports.len() == 1;
            let (code, place, text, expected) = match mode {
                None => (
                    "listener_unknown",
                    at("listener"),
                    format!("no listener is called `{}`", rule.listener),
                    format!("one of {}", self.listener_names()),
                ),
                Some(Mode::Http)
                    if !rule.callers.certificates.is_empty() || !rule.callers.plans.is_empty() =>
                {
                    (
                        "egress_listener",
                        at("callers"),
                        format!(
                            "on listener `{}`, which speaks HTTP, routes ask for keys and certificates",
                            rule.listener
                        ),
                        "`vpce` and `cidr` here, the route's `require` for the rest".into(),
                    )
                }
                Some(Mode::Http)
                    if rule.sni || rule.connections.is_some() || rule.sources != Sources::default() =>
                {
                    (
                        "egress_listener",
                        at("via"),
                        format!("on listener `{}`, which speaks HTTP, backends connect", rule.listener),
                        "`bind`, `connections` and `tls` of the backend".into(),
                    )
                }
                Some(Mode::Connect) if !rule.callers.plans.is_empty() && !self.has_keys => (
                    "egress_plan",
                    at("callers.plan"),
                    "this proxy knows no keys".into(),
                    "`api_keys` in the settings".into(),
                ),
                Some(Mode::Tcp | Mode::TlsPassthrough) if !rule.callers.plans.is_empty() => (
                    "egress_listener",
                    at("callers.plan"),
                    format!("nobody can show a key on listener `{}`", rule.listener),
                    "a listener with mode connect".into(),
                ),
                Some(Mode::Tcp) if !one_port || !matches!(rule.to, To::Host(_)) => (
                    "egress_listener",
                    at("to"),
                    format!("what comes by listener `{}` does not say where to", rule.listener),
                    "a `host` and one port".into(),
                ),
                Some(Mode::TlsPassthrough) if !one_port => (
                    "egress_listener",
                    at("to.ports"),
                    format!("what comes by listener `{}` names no port", rule.listener),
                    "one port".into(),
                ),
                Some(Mode::Http | Mode::Connect | Mode::Tcp | Mode::TlsPassthrough) => return None,
            };
            Some(Problem::error(code, place, text).expected(expected))
        };
        table.egress.iter().filter_map(problem).collect()
    }

    /// How the connections of each egress rule are made; the caps go on from rules to rules.
    pub(super) fn ways(&self, table: &RouteTable) -> HashMap<Box<str>, Way> {
        let way = |rule: &EgressRule| {
            let cap = rule.connections.as_ref().map(|figures| {
                let cap = self.supplies.caps.of(figures, &format!("egress {}", rule.id));
                (cap, figures.clone())
            });
            let dial = Dial::new(&rule.sources, cap.clone(), &rule.id, &self.metrics);
            (rule.id.clone(), Way { dial, cap })
        };
        table.egress.iter().map(way).collect()
    }

    /// Which listeners have rules of who may reach what.
    pub(super) fn exits(&self, table: &RouteTable) -> Vec<bool> {
        let has_rules = |name: &str| table.egress.iter().any(|rule| *rule.listener == *name);
        self.listeners.iter().map(|(name, _)| has_rules(name)).collect()
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
