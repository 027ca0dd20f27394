//! A backend, compiled: where requests are sent, and what they need on the way.
//!
//! Input: built by `compile` only. Output: shapes that the proxy turns into running targets. Must not: resolve a name or open
//! a file.

use crate::file::{Architecture, Connections, Protocol, TokenSource};
use crate::ids::PPM;
use crate::pattern::HostPattern;
use crate::units::PortRange;
use http::{HeaderName, HeaderValue};
use std::net::IpAddr;
use std::time::Duration;

/// One address a backend can be reached at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub tls: bool,
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: Box<str>,
    pub port: u16,
}

impl Origin {
    /// `http://10.0.4.10:8080`: a scheme and an authority, nothing behind it but a slash.
    pub fn parse(url: &str) -> Result<Origin, String> {
        let (tls, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err(format!("`{url}` does not begin with http:// or https://")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(format!("`{url}` has a path; a path is added by `rewrite`"));
        }
        if authority.contains('@') {
            return Err("a URL must not hold a user or password".into());
        }
        let colon = match authority.strip_prefix('[') {
            Some(inner) => {
                inner.find(']').and_then(|close| authority[close + 2..].starts_with(':').then_some(close + 2))
            }
            None => authority.rfind(':'),
        };
        let (host, port) = match colon {
            Some(at) => (&authority[..at], authority[at + 1..].parse::<u16>().ok().filter(|port| *port > 0)),
            None => (authority, Some(if tls { 443 } else { 80 })),
        };
        let port = port.ok_or_else(|| format!("`{url}` has a port outside 1 to 65535"))?;
        match HostPattern::parse(host) {
            Ok(HostPattern::Exact(host)) => {
                Ok(Origin { tls, host: host.trim_matches(['[', ']']).into(), port })
            }
            _ => Err(format!("`{url}` does not name a host")),
        }
    }

    /// As it stands in a URL and in a Host header: without the scheme's default port.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_string() };
        if self.port == if self.tls { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostMode {
    Preserve,
    /// The URL's host.
    Backend,
    Literal(Box<str>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendTls {
    pub ca: Option<Box<str>>,
    /// Files of the client certificate and its key.
    pub client: Option<(Box<str>, Box<str>)>,
    pub server_name: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub path: Box<str>,
    pub interval: Duration,
    pub timeout: Duration,
    pub unhealthy_after: u32,
    pub healthy_after: u32,
}

/// When a backend is left alone, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerRule {
    /// In a row; 0: no matter.
    pub failures: u32,
    pub failure_ppm: u32,
    /// How long a call may take, and the part that may take longer.
    pub slow: Option<(Duration, u32)>,
    pub window: Duration,
    pub min_calls: u32,
    pub open_for: Duration,
    pub open_max: Duration,
    pub probes: u32,
    pub observe: bool,
    /// With the other replicas of a fleet.
    pub shared: bool,
}

/// What a breaker has seen since its window began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    pub all: u32,
    pub failed: u32,
    pub slow: u32,
    pub failed_in_a_row: u32,
}

/// Why a breaker opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trip {
    FailuresInARow,
    FailureRate,
    SlowRate,
    /// A probe failed.
    Probe,
}

impl Trip {
    pub fn as_str(self) -> &'static str {
        match self {
            Trip::FailuresInARow => "failures_in_a_row",
            Trip::FailureRate => "failure_rate",
            Trip::SlowRate => "slow_rate",
            Trip::Probe => "probe",
        }
    }
}

impl BreakerRule {
    /// Whether what was seen is enough to open.
    pub fn trips(&self, calls: Calls) -> Option<Trip> {
        if self.failures > 0 && calls.failed_in_a_row >= self.failures {
            return Some(Trip::FailuresInARow);
        }
        if calls.all < self.min_calls.max(1) {
            return None;
        }
        let reaches =
            |part: u32, ppm: u32| u64::from(part) * u64::from(PPM) >= u64::from(ppm) * u64::from(calls.all);
        if reaches(calls.failed, self.failure_ppm) {
            return Some(Trip::FailureRate);
        }
        self.slow.filter(|(_, ppm)| reaches(calls.slow, *ppm)).map(|_| Trip::SlowRate)
    }

    /// How long it stays open the `times`th time in a row, from 1.
    pub fn stays_open(&self, times: u32) -> Duration {
        let factor = 1u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX);
        self.open_for.saturating_mul(factor).min(self.open_max)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlierRule {
    /// In a row.
    pub failures: u32,
    pub eject_for: Duration,
    pub max_ejected_ppm: u32,
}

/// The shape of a function's events and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventFormat {
    /// HTTP APIs and Function URLs.
    V2,
    /// REST APIs.
    V1,
    /// Load balancers; lists of values in place of single ones with `multi_value`.
    Alb { multi_value: bool },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warming {
    pub concurrency: u32,
    /// `None`: only before a share is raised.
    pub every: Option<Duration>,
    pub path: Box<str>,
}

/// A function and how it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LambdaTarget {
    /// The bare name, for people and metrics.
    pub function: Box<str>,
    /// What the rule says when it is more than the bare name; without a qualifier.
    pub arn: Option<Box<str>>,
    pub account: Option<Box<str>>,
    pub qualifier: Option<Box<str>>,
    /// `None`: the settings'.
    pub region: Option<Box<str>>,
    /// `None`: the settings', or the region's.
    pub endpoint: Option<Origin>,
    pub format: EventFormat,
    pub stream: bool,
    pub log_tail: bool,
    pub warm: Option<Warming>,
    pub architecture: Architecture,
}

impl LambdaTarget {
    /// `orders:live`, or `orders`.
    pub fn label(&self) -> String {
        self.qualifier
            .as_ref()
            .map_or_else(|| self.function.to_string(), |it| format!("{}:{it}", self.function))
    }
}

/// AWS Signature Version 4 for one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    pub service: Box<str>,
    pub region: Box<str>,
    /// `None`: the client's Authorization is dropped.
    pub move_authorization_to: Option<HeaderName>,
    pub body_max_bytes: u64,
}

/// A token for one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendToken {
    pub source: TokenSource,
    /// The audience of a Google ID token, the path of a file, a variable, or a secret in Secrets Manager.
    pub value: Box<str>,
    pub header: HeaderName,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    Urls(Vec<Origin>),
    Lambda(Box<LambdaTarget>),
}

/// Where connections come from; what is empty is the kernel's choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sources {
    pub addresses: Vec<IpAddr>,
    pub ports: Option<PortRange>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    pub id: Box<str>,
    pub target: Target,
    pub host: HostMode,
    pub tls: BackendTls,
    pub protocol: Protocol,
    pub health: Option<Health>,
    pub connections: Option<Connections>,
    pub sources: Sources,
    pub sign: Option<Signature>,
    pub token: Option<BackendToken>,
    /// Put before every path sent; empty, or without its trailing slash.
    pub path_prefix: Box<str>,
    /// Set on every request sent.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub capacity_rps: Option<u32>,
    pub breaker: Option<BreakerRule>,
    pub outliers: Option<OutlierRule>,
}

impl Backend {
    /// Whether a request's body must be known before its first byte is sent.
    pub fn needs_whole_body(&self) -> bool {
        matches!(self.target, Target::Lambda(_)) || self.sign.is_some()
    }
}
