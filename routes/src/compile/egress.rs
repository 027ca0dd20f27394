//! Egress rules: raw -> checked.
//!
//! Input: `egress` of all files. Output: rules in the order of their files. Must not: know which listeners there are; the process does.

use super::{Lowering, ReadFile};
use crate::egress::{Callers, EgressRule, To};
use crate::file;

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
                let callers = &rule.callers;
                if callers.vpce.is_empty() && callers.cidr.is_empty() && callers.client_cert.is_empty() {
                    self.error(
                        "egress_callers",
                        file,
                        format_args!("{at}.callers"),
                        "no caller is named, so nobody may use this",
                        "`vpce`, `cidr` or `client_cert`",
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
                if rule.via.as_ref().and_then(|via| via.connections.as_ref()).is_some_and(|it| it.max == 0) {
                    let path = format_args!("{at}.via.connections.max");
                    self.error("connections_zero", file, path, "nobody gets through", "1 or more");
                }
                self.egress.push(lowered((file as u32, number as u32), rule));
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
        },
        to: match &rule.to.host {
            Some(host) => To::Host(lower(host)),
            None => To::Domains(rule.to.domains.iter().map(lower).collect()),
        },
        ports: rule.to.ports.clone(),
        sni: rule.to.sni.is_some(),
        bind: via.map(|via| via.bind.clone()).unwrap_or_default(),
        connections: via.and_then(|via| via.connections.clone()),
        origin,
    }
}
