//! Egress rules as the process needs them: fit for their listeners, with their ways out, and decided for each backend.
//!
//! Input: a compiled table with its backends. Output: problems; or dials, caps and what each rule says of each backend. Must not: leave anything to a
//! request that the rules alone decide.

use super::Reloader;
use crate::live::{Exit, Way};
use crate::settings::Mode;
use crate::targets::backend::RunningBackend;
use crate::targets::dial::Dial;
use banyan_routes::backend::Sources;
use banyan_routes::egress::{EgressRule, To};
use banyan_routes::problem::{Place, Problem};
use banyan_routes::table::RouteTable;
use std::sync::Arc;

impl Reloader {
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

    /// How the connections of each rule are made; the caps go on from rules to rules.
    pub(super) fn ways(&self, table: &RouteTable) -> Vec<Way> {
        let way = |rule: &EgressRule| {
            let cap = rule.connections.as_ref().map(|figures| {
                let cap = self.supplies.caps.of(figures, &format!("egress {}", rule.id));
                (cap, figures.clone())
            });
            Way { dial: Dial::new(&rule.sources, cap.clone(), &rule.id, &self.metrics), cap }
        };
        table.egress.iter().map(way).collect()
    }

    /// By listener, what its rules say of each backend.
    pub(super) fn exits(&self, table: &RouteTable, backends: &[Arc<RunningBackend>]) -> Vec<Vec<Exit>> {
        let keeps_from = |rule: &EgressRule| {
            let origins = |backend: &Arc<RunningBackend>| {
                let origins: Vec<_> = backend.origins.iter().map(|it| (&*it.host, it.port)).collect();
                rule.keeps_from(&origins)
            };
            backends.iter().map(origins).collect()
        };
        let of = |name: &str, mode: Mode| {
            let rules = table.egress.iter().enumerate();
            rules
                .filter(|(_, rule)| mode == Mode::Http && *rule.listener == *name)
                .map(|(number, rule)| Exit { rule: number, keeps_from: keeps_from(rule) })
                .collect()
        };
        self.listeners.iter().map(|(name, mode)| of(name, *mode)).collect()
    }
}
