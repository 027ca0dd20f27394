//! Which egress rule lets somebody out, and why every other does not.
//!
//! Input: rules, a caller, a destination. Output: what `banyan explain CONNECT` shows. Must not: resolve a name: addresses are checked when a
//! connection is made.

use crate::egress::{Caller, EgressRule, To, Wanted};
use serde::Serialize;
use std::fmt::Write;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExplainedEgress {
    pub version: u32,
    pub listener: String,
    /// The rule that allows it.
    pub rule: Option<Box<str>>,
    /// What a connection would be refused with.
    pub cause: Option<&'static str>,
    /// Where it would lead.
    pub host: Option<String>,
    pub port: Option<u16>,
    /// All rules of the listener, in their order.
    pub rules: Vec<Judged>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    pub id: Box<str>,
    pub to: String,
    pub ports: Vec<u16>,
    /// `allows`, `allows, later` behind one that allows it too, or the reason why not.
    pub verdict: &'static str,
}

pub fn explain_egress(
    rules: &[EgressRule],
    listener: &str,
    caller: &Caller,
    wanted: Wanted<'_>,
) -> ExplainedEgress {
    let mut told = ExplainedEgress {
        version: 1,
        listener: listener.to_owned(),
        rule: None,
        cause: Some("egress_no_rule"),
        host: None,
        port: None,
        rules: Vec::new(),
    };
    let mut nearest = None;
    for rule in rules.iter().filter(|rule| *rule.listener == *listener) {
        let verdict = match rule.judge(caller, wanted) {
            Ok(_) if told.rule.is_some() => "allows, later",
            Ok((host, port)) => {
                (told.rule, told.host, told.port) = (Some(rule.id.clone()), Some(host), Some(port));
                "allows"
            }
            Err(miss) => {
                nearest = nearest.max(Some(miss));
                miss.cause()
            }
        };
        let to = match &rule.to {
            To::Host(host) => host.to_string(),
            To::Domains(domains) => domains.join(", "),
        };
        told.rules.push(Judged { id: rule.id.clone(), to, ports: rule.ports.clone(), verdict });
    }
    told.cause = match (&told.rule, nearest) {
        (Some(_), _) => None,
        (None, Some(miss)) => Some(miss.cause()),
        (None, None) => told.cause,
    };
    told
}

/// As text for people.
pub fn show_egress(told: &ExplainedEgress) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match (&told.rule, &told.host, told.port) {
        (Some(rule), Some(host), Some(port)) => writeln!(text, "rule      {rule}\nleads to  {host}:{port}"),
        _ => writeln!(text, "refused   {}", told.cause.unwrap_or_default()),
    };
    let _ = writeln!(text, "listener  {}", told.listener);
    for rule in &told.rules {
        let ports: Vec<_> = rule.ports.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "  {:<20} {:<20} {}:{}", rule.id, rule.verdict, rule.to, ports.join(","));
    }
    text
}
