//! Who may reach what outside: callers and destinations, and nothing that is not listed.
//!
//! Input: rules, a caller, a destination. Output: the rule that allows it, or why none does; whether an address may be connected to. Must not:
//! resolve a name, or let a name decide that only looks like one of the list.

use crate::backend::Sources;
use crate::file::Connections;
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

/// One rule, compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct EgressRule {
    pub id: Box<str>,
    pub listener: Box<str>,
    pub callers: Callers,
    pub to: To,
    pub ports: Vec<u16>,
    /// What goes through has to be TLS for the name that was asked for.
    pub sni: bool,
    pub sources: Sources,
    pub connections: Option<Connections>,
    /// File, and position in it.
    pub origin: (u32, u32),
}

/// Each that is given must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Callers {
    pub endpoints: Vec<Box<str>>,
    pub networks: Vec<IpNet>,
    /// Parts of the subject, such as `CN=notify`.
    pub certificates: Vec<Box<str>>,
    /// Of API keys.
    pub plans: Vec<Box<str>>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum To {
    /// A name or address of our own networks.
    Host(Box<str>),
    /// Names outside; with `*.` in front, everything below.
    Domains(Vec<Box<str>>),
}

/// Who asks.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    pub address: Option<IpAddr>,
    pub endpoint: Option<Arc<str>>,
    /// `CN=notify`, `O=Bank` and so on, of a verified certificate.
    pub subject: Vec<String>,
    /// Of the key it showed.
    pub plan: Option<Box<str>>,
}

/// Why no rule allows it: the nearest miss of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denied {
    /// No rule is for this listener.
    Listener,
    Caller,
    Destination,
    Port,
    /// All else fits; its key does not, or it has shown none.
    Key,
}

impl Denied {
    /// A metric label and the cause in the log.
    pub fn cause(self) -> &'static str {
        match self {
            Denied::Listener => "egress_no_rule",
            Denied::Caller => "egress_caller",
            Denied::Key => "egress_key",
            Denied::Destination => "egress_destination",
            Denied::Port => "egress_port",
        }
    }
}

/// Where a connection shall go; on listeners whose protocol does not say, what the rule says.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// Host and port, of CONNECT.
    Both(&'a str, u16),
    /// The name of a TLS handshake; the port is the rule's first.
    Name(&'a str),
    /// Neither.
    Nothing,
}

/// The number of the first rule that allows it, and where it leads.
pub fn decide(
    rules: &[EgressRule],
    listener: &str,
    caller: &Caller,
    wanted: Wanted<'_>,
) -> Result<(usize, String, u16), Denied> {
    let mut nearest = Denied::Listener;
    for (number, rule) in rules.iter().enumerate().filter(|(_, rule)| *rule.listener == *listener) {
        match rule.judge(caller, wanted) {
            Ok((host, port)) => return Ok((number, host, port)),
            Err(miss) => nearest = nearest.max(miss),
        }
    }
    Err(nearest)
}

impl EgressRule {
    pub(crate) fn judge(&self, caller: &Caller, wanted: Wanted<'_>) -> Result<(String, u16), Denied> {
        if !self.callers.have(caller) {
            return Err(Denied::Caller);
        }
        let (host, port) = self.leads(wanted)?;
        let plans = &self.callers.plans;
        let keyed = plans.is_empty() || caller.plan.as_ref().is_some_and(|it| plans.contains(it));
        if keyed { Ok((host, port)) } else { Err(Denied::Key) }
    }

    /// Why it does not lead to all of a backend's hosts and ports; `None` where it does.
    pub fn keeps_from(&self, origins: &[(&str, u16)]) -> Option<Denied> {
        origins.iter().find_map(|(host, port)| self.leads(Wanted::Both(host, *port)).err())
    }

    /// Where it leads, whoever asks.
    fn leads(&self, wanted: Wanted<'_>) -> Result<(String, u16), Denied> {
        let first = self.ports.first().copied().ok_or(Denied::Port)?;
        let (host, port) = match (wanted, &self.to) {
            (Wanted::Both(host, port), _) => (plain(host), port),
            (Wanted::Name(host), _) => (plain(host), first),
            (Wanted::Nothing, To::Host(host)) => (host.to_string(), first),
            (Wanted::Nothing, To::Domains(_)) => return Err(Denied::Destination),
        };
        if !self.to.is(&host) {
            return Err(Denied::Destination);
        }
        if self.ports.contains(&port) { Ok((host, port)) } else { Err(Denied::Port) }
    }

    /// The same for a backend that the rule allows.
    pub fn may_send_to(&self, address: IpAddr) -> bool {
        match &self.to {
            To::Host(host) => self.may_reach(host, address),
            To::Domains(_) => self.may_reach("", address),
        }
    }

    /// Whether an address that DNS gave may be connected to. What is named by its address is meant.
    pub fn may_reach(&self, host: &str, address: IpAddr) -> bool {
        host.parse::<IpAddr>().is_ok()
            || match self.to {
                To::Host(_) => !is_nobodys(address),
                // A name outside that leads inside is turned against us.
                To::Domains(_) => !is_nobodys(address) && !is_inside(address),
            }
    }
}

impl Callers {
    /// Nobody is named.
    pub fn are_nobody(&self) -> bool {
        self.endpoints.is_empty()
            && self.networks.is_empty()
            && self.certificates.is_empty()
            && self.plans.is_empty()
    }

    /// Whether it is one of them, but for the key.
    pub fn have(&self, caller: &Caller) -> bool {
        let endpoint =
            || caller.endpoint.as_ref().is_some_and(|it| self.endpoints.iter().any(|known| **known == **it));
        let network = || {
            let address = caller.address.map(|it| it.to_canonical());
            address.is_some_and(|it| self.networks.iter().any(|network| network.contains(&it)))
        };
        let certificate =
            || self.certificates.iter().any(|wanted| caller.subject.iter().any(|it| *it == **wanted));
        !self.are_nobody()
            && (self.endpoints.is_empty() || endpoint())
            && (self.networks.is_empty() || network())
            && (self.certificates.is_empty() || certificate())
    }
}

impl To {
    fn is(&self, host: &str) -> bool {
        match self {
            To::Host(name) => name.eq_ignore_ascii_case(host),
            To::Domains(domains) => domains.iter().any(|domain| match domain.strip_prefix("*.") {
                // An address is below no name.
                Some(parent) => {
                    host.parse::<IpAddr>().is_err()
                        && host.len() > parent.len() + 1
                        && host.as_bytes()[host.len() - parent.len() - 1] == b'.'
                        && host[host.len() - parent.len()..].eq_ignore_ascii_case(parent)
                }
                None => domain.eq_ignore_ascii_case(host),
            }),
        }
    }
}

/// Without brackets and the dot at the end, in lower case.
fn plain(host: &str) -> String {
    let host = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// This machine, this link with the metadata of clouds on it, many, or none.
fn is_nobodys(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(it) => {
            it.is_loopback()
                || it.is_link_local()
                || it.is_unspecified()
                || it.is_multicast()
                || it.is_broadcast()
                || it.octets()[0] == 0
        }
        IpAddr::V6(it) => {
            it.is_loopback()
                || it.is_unicast_link_local()
                || it.is_unspecified()
                || it.is_multicast()
                // The metadata of AWS.
                || it.segments() == [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254]
        }
    }
}

/// Private networks, carriers' own, and ranges that hold no public service.
fn is_inside(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(it) => {
            let [a, b, ..] = it.octets();
            it.is_private()
                || (a == 100 && (64..128).contains(&b))
                || (a == 198 && (b & 0xfe) == 18)
                || a >= 240
        }
        IpAddr::V6(it) => {
            // What wraps an IPv4 address leads where that leads.
            let wrapped = match it.segments() {
                [0x64, 0xff9b, 0, 0, 0, 0, a, b] | [0x2002, a, b, ..] => {
                    Some((u32::from(a) << 16) | u32::from(b))
                }
                _ => None,
            };
            let wrapped = wrapped.map(|bits| IpAddr::V4(bits.into()));
            it.is_unique_local() || wrapped.is_some_and(|it| is_nobodys(it) || is_inside(it))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(to: To) -> EgressRule {
        EgressRule {
            id: "r".into(),
            listener: "out".into(),
            callers: Callers {
                networks: vec!["10.64.0.0/16".parse().expect("network")],
                ..Callers::default()
            },
            to,
            ports: vec![443, 8443],
            sni: false,
            sources: Sources::default(),
            connections: None,
            origin: (0, 0),
        }
    }

    fn caller(address: &str) -> Caller {
        Caller { address: Some(address.parse().expect("address")), ..Caller::default() }
    }

    #[test]
    fn a_key_is_asked_for_where_nothing_else_is_missing() {
        let keyed = EgressRule {
            callers: Callers { plans: vec!["functions".into()], ..Callers::default() },
            ..rule(To::Host("api".into()))
        };
        let rules = [keyed, rule(To::Host("push".into()))];
        let ask = |host, plan: Option<&str>| {
            let caller = Caller { plan: plan.map(Into::into), ..caller("10.64.0.1") };
            decide(&rules, "out", &caller, Wanted::Both(host, 443)).map(|(_, host, _)| host)
        };
        assert_eq!(ask("api", None), Err(Denied::Key));
        assert_eq!(ask("api", Some("others")), Err(Denied::Key));
        assert_eq!(ask("elsewhere", None), Err(Denied::Destination));
        assert_eq!(ask("push", None), Ok("push".to_owned()));
        assert_eq!(ask("api", Some("functions")), Ok("api".to_owned()));
    }

    #[test]
    fn what_is_not_listed_is_refused_with_the_nearest_miss() {
        let domains = To::Domains(vec!["push.example.com".into(), "*.notify.example.net".into()]);
        let rules = [rule(domains), rule(To::Host("10.9.9.9".into()))];
        let ask = |listener, address, host, port| {
            decide(&rules, listener, &caller(address), Wanted::Both(host, port)).map(|(_, host, _)| host)
        };
        for (host, expected) in [
            ("push.example.com", Ok("push.example.com")),
            ("PUSH.example.com.", Ok("push.example.com")),
            ("a.b.notify.example.net", Ok("a.b.notify.example.net")),
            ("10.9.9.9", Ok("10.9.9.9")),
            ("notify.example.net", Err(Denied::Destination)),
            (".notify.example.net", Err(Denied::Destination)),
            ("xnotify.example.net", Err(Denied::Destination)),
            ("push.example.com.evil.test", Err(Denied::Destination)),
            ("push.example.co", Err(Denied::Destination)),
            ("", Err(Denied::Destination)),
            ("10.9.9.8", Err(Denied::Destination)),
        ] {
            assert_eq!(ask("out", "10.64.1.1", host, 443), expected.map(str::to_owned), "{host}");
        }
        assert_eq!(ask("out", "10.64.1.1", "push.example.com", 22), Err(Denied::Port));
        assert_eq!(ask("out", "10.65.1.1", "push.example.com", 443), Err(Denied::Caller));
        assert_eq!(ask("other", "10.64.1.1", "push.example.com", 443), Err(Denied::Listener));
    }

    #[test]
    fn each_kind_of_caller_that_is_given_must_hold() {
        let mut rule = rule(To::Host("core".into()));
        rule.callers.endpoints = vec!["vpce-1".into()];
        rule.callers.certificates = vec!["CN=notify".into()];
        let rules = [rule];
        let mut caller = caller("::ffff:10.64.0.1");
        let allowed = |caller: &Caller| decide(&rules, "out", caller, Wanted::Nothing).is_ok();
        assert!(!allowed(&caller));
        caller.endpoint = Some("vpce-1".into());
        assert!(!allowed(&caller));
        caller.subject = vec!["O=Bank".into(), "CN=notify".into()];
        assert!(allowed(&caller));
        caller.endpoint = Some("vpce-10".into());
        assert!(!allowed(&caller));
    }

    #[test]
    fn names_lead_to_no_address_that_is_nobodys() {
        let (host, outside) = (rule(To::Host("core".into())), rule(To::Domains(vec!["a.test".into()])));
        for (address, by_host, by_domain) in [
            ("10.1.2.3", true, false),
            ("192.168.0.1", true, false),
            ("100.64.0.1", true, false),
            ("93.184.216.34", true, true),
            ("2606:2800:220:1::1", true, true),
            ("fd12::1", true, false),
            ("169.254.169.254", false, false),
            ("169.254.170.2", false, false),
            ("fd00:ec2::254", false, false),
            ("127.0.0.1", false, false),
            ("::1", false, false),
            ("::ffff:127.0.0.1", false, false),
            ("::ffff:169.254.169.254", false, false),
            ("64:ff9b::a9fe:a9fe", true, false),
            ("2002:a00:1::", true, false),
            ("0.0.0.0", false, false),
            ("0.1.2.3", false, false),
            ("224.0.0.1", false, false),
            ("fe80::1", false, false),
            ("ff02::1", false, false),
            ("255.255.255.255", false, false),
            ("240.0.0.1", true, false),
        ] {
            let ip = address.parse().expect("address");
            assert_eq!(
                (host.may_reach("core", ip), outside.may_reach("a.test", ip)),
                (by_host, by_domain),
                "{address}"
            );
        }
        // What is named by its address is meant.
        assert!(host.may_reach("127.0.0.1", "127.0.0.1".parse().expect("address")));
    }
}
