//! Egress rules: raw -> checked.
//!
//! Input: `egress` of all files. Output: rules in the order of their files. Must not: know which listeners there are; the process does.

use super::{Lowering, ReadFile};
use crate::backend::Sources;
use crate::egress::{Callers, EgressRule, To};
use crate::file::{self, Connections};
use std::fmt;

impl Lowering {
    pub(super) fn egress_rules(&mut self, files: &[ReadFile]) {
        let mut seen = std::collections::HashSet::new();
        for (file, read) in files.iter().enumerate() {
            for (number, rule) in read.rules.egress.iter().enumerate() {
                let at = format_args!("egress[{number}]");
                self.name("egress rule", file, format_args!("{at}.id"), &rule.id);
                if !seen.insert(&rule.id) {
                    self.error(
                        "id_duplicate",
                        file,
                        format_args!("{at}.id"),
                        format!("the egress id `{}` is taken", rule.id),
                        "an id of its own",
                    );
                }
                let lowered = lowered((file as u32, number as u32), rule);
                if lowered.callers.are_nobody() {
                    self.error(
                        "egress_callers",
                        file,
                        format_args!("{at}.callers"),
                        "no caller is named, so nobody may use this",
                        "`vpce`, `cidr`, `client_cert` or `plan`",
                    );
                }
                if rule.to.host.is_some() != rule.to.domains.is_empty() {
                    self.error(
                        "egress_destination",
                        file,
                        format_args!("{at}.to"),
                        "a destination is a `host` or a list of `domains`",
                        "exactly one of them",
                    );
                }
                if rule.to.ports.is_empty() || rule.to.ports.contains(&0) {
                    self.error(
                        "egress_ports",
                        file,
                        format_args!("{at}.to.ports"),
                        "no usable port is named",
                        "ports from 1 to 65535",
                    );
                }
                for (position, domain) in rule.to.domains.iter().enumerate() {
                    let name = domain.strip_prefix("*.").unwrap_or(domain);
                    let fits = name.split('.').all(|label| {
                        !label.is_empty()
                            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
                    });
                    if !fits {
                        self.error(
                            "egress_domain",
                            file,
                            format_args!("{at}.to.domains[{position}]"),
                            format!("`{domain}` is not a name"),
                            "such as `push.example.com`, or `*.example.com` for all below it",
                        );
                    }
                }
                if let Some(connections) = &lowered.connections {
                    self.connections(file, format_args!("{at}.via.connections"), connections);
                }
                self.egress.push(lowered);
            }
        }
    }
}

impl Lowering {
    /// Of a backend or a rule; all that share a pool must mean the same by it.
    pub(super) fn connections(&mut self, file: usize, at: fmt::Arguments<'_>, it: &Connections) {
        if it.max == 0 {
            let path = format_args!("{at}.max");
            self.error("connections_zero", file, path, "nobody gets through", "1 or more");
        }
        let Some(pool) = &it.pool else { return };
        self.name("pool", file, format_args!("{at}.pool"), pool);
        match self.pools.get(pool) {
            None => {
                self.pools.insert(pool.clone(), it.clone());
            }
            Some(first) if first == it => {}
            Some(first) => {
                let text = format!("the pool `{pool}` has other figures elsewhere");
                let expected = format!("`max: {}` and the same queue everywhere", first.max);
                self.error("pool_differs", file, format_args!("{at}.pool"), text, &expected);
            }
        }
    }
}

fn lowered(origin: (u32, u32), rule: &file::Egress) -> EgressRule {
    let boxed = |texts: &[String]| texts.iter().map(|text| text.as_str().into()).collect();
    let lower = |text: &String| text.to_ascii_lowercase().into();
    let via = rule.via.as_ref();
    EgressRule {
        id: rule.id.as_str().into(),
        listener: rule.listener.as_str().into(),
        callers: Callers {
            endpoints: boxed(&rule.callers.vpce),
            networks: rule.callers.cidr.clone(),
            certificates: boxed(&rule.callers.client_cert),
            plans: boxed(&rule.callers.plan),
        },
        to: match &rule.to.host {
            Some(host) => To::Host(lower(host)),
            None => To::Domains(rule.to.domains.iter().map(lower).collect()),
        },
        ports: rule.to.ports.clone(),
        sni: rule.to.sni.is_some(),
        sources: via.map_or_else(Sources::default, |via| Sources {
            addresses: via.bind.clone(),
            ports: via.source_ports,
        }),
        connections: via.and_then(|via| via.connections.clone()),
        origin,
    }
}
