//! The raw shapes of a rule file: what may be written, with no meaning yet. The only module that sees serde_yaml's types
//! is `read`; everything after works on these structs.
//!
//! Input: YAML. Output: `RuleFile`. Must not: know whether names resolve or stages make sense; that is `compile`.

use crate::forms::{OneOrMany, UniqueMap, given};
use crate::ids::Side;
use crate::terms::{Condition, FailureKind, KeySource, LatencyBound, Parity, RateBound};
use crate::units::{ByteSize, Percent, PortRange, Rate, Span};
use crate::values::{Step, ValueMatch};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Serde and schema derives with unknown fields refused, for a list of structs.
macro_rules! shapes {
    ($($(#[$meta:meta])* pub struct $name:ident { $($body:tt)* })*) => {
        $($(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($body)* })*
    };
}

/// Serde and schema derives for enums written as one lower-case word.
macro_rules! words {
    ($($(#[$meta:meta])* pub enum $name:ident { $($body:tt)* })*) => {
        $($(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($body)* })*
    };
}

mod backend;

pub use backend::{Backend, BackendTls, Breaker, Connections, Health, Lambda, Outliers, Sign, Token, Warm};

shapes! {
    /// One file of a rule directory. All files of the directory together make one rule set; their order never matters.
    pub struct RuleFile {
        /// The version of this format: 1.
        pub version: u32,
        pub defaults: Option<Defaults>,
        #[serde(default)]
        pub backends: UniqueMap<Backend>,
        #[serde(default)]
        pub cohorts: UniqueMap<Cohort>,
        /// Times in which no share is raised; lowering is always possible.
        #[serde(default)]
        pub freezes: Vec<Freeze>,
        #[serde(default)]
        pub routes: Vec<Arc<Route>>,
        /// Requests and the route they must take; run by `banyan check` and before every reload.
        #[serde(default)]
        pub tests: Vec<Test>,
        #[serde(default)]
        pub egress: Vec<Egress>,
    }

    /// What holds for every route that does not say otherwise. May stand in one file only.
    pub struct Defaults {
        /// The backend that gets every request no route claims.
        pub legacy: Option<String>,
        pub timeouts: Option<Timeouts>,
        pub paths: Option<PathsMode>,
        pub encoded_slash: Option<EncodedSlash>,
    }

    pub struct Cohort {
        /// The first source that is present gives the user's key; `own_cookie` is used when none is.
        pub key: Vec<KeySource>,
        /// Always serverless once the route's stage is canary or later.
        #[serde(default)]
        pub allow: Vec<Condition>,
        /// Always legacy.
        #[serde(default)]
        pub deny: Vec<Condition>,
    }

    pub struct Freeze {
        pub name: String,
        #[schemars(with = "String")]
        pub from: jiff::civil::DateTime,
        #[schemars(with = "String")]
        pub to: jiff::civil::DateTime,
        /// An IANA time zone such as `Europe/Berlin`.
        pub zone: String,
    }

    pub struct Route {
        /// Unique in the rule set; letters, digits, `-`, `_` and `.`.
        pub id: String,
        pub owner: Option<String>,
        /// Routes of one group share a kill switch.
        pub group: Option<String>,
        #[serde(rename = "match")]
        pub matches: OneOrMany<Match>,
        /// The backend of the legacy side.
        pub legacy: Option<String>,
        /// The backend of the serverless side.
        pub serverless: Option<String>,
        pub cohort: Option<String>,
        pub effects: Option<Effects>,
        pub stage: Option<StageWord>,
        /// With stage canary: the share of the keys that go to serverless.
        pub share: Option<Percent>,
        pub shadow: Option<Box<Shadow>>,
        pub ramp: Option<Box<Ramp>>,
        /// Routes that must be at least at this route's stage first.
        #[serde(default)]
        pub after: Vec<String>,
        pub point_of_no_return: Option<bool>,
        pub retire: Option<Retire>,
        pub fallback: Option<Box<Fallback>>,
        pub rewrite: Option<Box<Rewrite>>,
        pub request_headers: Option<Box<HeaderEdits>>,
        pub response_headers: Option<Box<HeaderEdits>>,
        pub timeouts: Option<Box<Timeouts>>,
        pub retry: Option<Box<Retry>>,
        /// Who goes first under overload.
        pub priority: Option<Priority>,
        pub require: Option<Box<Require>>,
        pub limit: Option<Box<Limit>>,
        pub cors: Option<Box<Cors>>,
        pub paths: Option<PathsMode>,
        pub encoded_slash: Option<EncodedSlash>,
        pub redirect: Option<Box<Redirect>>,
        pub respond: Option<Box<Respond>>,
    }

    /// All fields given must hold. Exactly one of `path`, `prefix` and `regex`, or none for every path.
    pub struct Match {
        #[serde(default, deserialize_with = "given")]
        pub host: Option<String>,
        /// Exact, or a template: `/orders/{id}`, `/files/{rest*}`.
        #[serde(default, deserialize_with = "given")]
        pub path: Option<String>,
        #[serde(default, deserialize_with = "given")]
        pub prefix: Option<String>,
        #[serde(default, deserialize_with = "given")]
        pub regex: Option<String>,
        /// With `regex` only, and needed there: higher is tried first.
        #[serde(default, deserialize_with = "given")]
        pub priority: Option<i32>,
        #[serde(default, deserialize_with = "given")]
        pub methods: Option<Vec<String>>,
        #[serde(default)]
        pub headers: UniqueMap<ValueMatch>,
        #[serde(default)]
        pub query: UniqueMap<ValueMatch>,
        #[serde(default)]
        pub cookies: UniqueMap<ValueMatch>,
        /// The name of a listener of the settings.
        #[serde(default, deserialize_with = "given")]
        pub listener: Option<String>,
    }

    pub struct Shadow {
        pub sample: Option<Percent>,
        pub max_body: Option<ByteSize>,
        #[serde(default)]
        pub ignore: Vec<String>,
        /// Values that may differ as long as they keep their shape: path, as differences are shown, to `uuid`, `timestamp(rfc3339, 5s)`, `float(0.01, 1%)`, ...
        #[serde(default)]
        pub rules: UniqueMap<String>,
        /// The part of the requests that may be sent to legacy a second time, to learn what differs by itself: 1% when not given, 5 a second at most.
        pub controls: Option<Percent>,
        /// How requests that are not safe are shadowed; needed where `effects` is not `safe`.
        pub policy: Option<ShadowPolicy>,
        /// With `sandbox`: the path by which serverless proves at start that it honours `X-Banyan-Shadow`; `/.well-known/banyan-shadow` when not given.
        pub handshake: Option<String>,
        /// With `verify_after_write`: what is read from both sides after the write.
        pub verify: Option<Verify>,
    }

    pub struct Verify {
        /// The path of a GET: `/orders/{id}` with names of the match, `{location}` or `{json.id}` of the write's answer.
        pub read: String,
        /// How long after the write; 1s when not given.
        pub lag: Option<Span>,
    }

    pub struct Ramp {
        pub steps: Vec<Step>,
        pub hold_each: Option<Span>,
        pub advance_when: Option<AdvanceWhen>,
        pub roll_back_when: Option<RollBackWhen>,
        pub ceiling: Option<Ceiling>,
        /// The part of the keys that stays on legacy to the last step; 1 % by default where the ramp moves by itself.
        pub control: Option<Percent>,
    }

    /// What has to be proved before stage `retired`.
    pub struct Retire {
        /// No request of the route on legacy for this long.
        pub quiet_for: Span,
    }

    pub struct AdvanceWhen {
        pub parity: Option<Parity>,
        pub coverage: Option<Percent>,
        pub error_rate: Option<RateBound>,
        pub p99: Option<LatencyBound>,
    }

    pub struct RollBackWhen {
        pub error_rate: RateBound,
        #[serde(rename = "for")]
        pub for_: Span,
        pub min_requests: Option<u32>,
    }

    pub struct Ceiling {
        pub rps: Option<u32>,
        pub failures_per_day: Option<u32>,
    }

    /// After a failed try on serverless: the same request to legacy.
    pub struct Fallback {
        pub to: Side,
        pub on: Vec<FailureKind>,
        /// Only while the request is not older than this.
        pub within: Option<Span>,
    }

    /// Edits of the path and host on the way in, of `Location` and cookie domains on the way back.
    pub struct Rewrite {
        /// Only for requests to this side; both when absent.
        pub side: Option<Side>,
        /// A template with the names of the match: `/v2/orders/{id}`.
        pub path: Option<String>,
        /// Replaces the literal part that was matched.
        pub prefix: Option<String>,
        pub host: Option<String>,
        /// `public`: a `Location` on the backend's own address is turned back into the address the client used.
        pub location: Option<LocationMode>,
        /// Replaces the `Domain` of every `Set-Cookie` that has one.
        pub cookie_domain: Option<String>,
    }

    pub struct HeaderEdits {
        #[serde(default)]
        pub set: UniqueMap<String>,
        #[serde(default)]
        pub add: UniqueMap<String>,
        #[serde(default)]
        pub remove: Vec<String>,
    }

    /// `0s` switches one off.
    pub struct Timeouts {
        pub connect: Option<Span>,
        /// From the last byte of the request to the first of the response headers.
        pub first_byte: Option<Span>,
        /// One try; must fit in `total`.
        pub per_try: Option<Span>,
        /// From the request's headers to the response's headers, all tries together.
        pub total: Option<Span>,
    }

    pub struct Retry {
        /// Tries after the first, 1 to 10.
        pub attempts: u8,
        pub on: Vec<FailureKind>,
        /// Retries may be at most this part of the requests of the last seconds.
        pub budget: Option<Percent>,
    }

    pub struct Require {
        pub api_key: Option<ApiKey>,
        pub jwt: Option<Jwt>,
        /// By its name in the settings.
        pub authorizer: Option<String>,
        pub client_cert: Option<bool>,
    }

    pub struct ApiKey {
        pub plan: String,
    }

    pub struct Jwt {
        pub issuer: String,
        #[serde(default)]
        pub scopes: Vec<String>,
    }

    pub struct Limit {
        pub key: KeySource,
        pub rate: Rate,
        pub burst: Option<u32>,
        /// All replicas of a fleet together; each for itself when absent.
        pub shared: Option<bool>,
    }

    pub struct Cors {
        /// Exact origins, or `*` alone.
        pub origins: Vec<String>,
        #[serde(default)]
        pub methods: Vec<String>,
        #[serde(default)]
        pub headers: Vec<String>,
        #[serde(default)]
        pub expose: Vec<String>,
        pub credentials: Option<bool>,
        pub max_age: Option<Span>,
    }

    pub struct Redirect {
        pub scheme: Option<Scheme>,
        pub host: Option<String>,
        pub port: Option<u16>,
        pub path: Option<String>,
        pub prefix: Option<String>,
        /// 301, 302 (default), 303, 307 or 308.
        pub status: Option<u16>,
    }

    pub struct Respond {
        pub status: u16,
        #[serde(default)]
        pub headers: UniqueMap<String>,
        pub body: Option<String>,
    }

    pub struct Test {
        /// A method and an absolute URL: `GET https://shop.example.com/orders/42`.
        pub request: String,
        #[serde(default)]
        pub headers: UniqueMap<String>,
        pub listener: Option<String>,
        /// The route that must win: an id, `default`, or `none`.
        pub route: Option<String>,
        pub side: Option<Side>,
        /// The status Banyan itself must answer with.
        pub status: Option<u16>,
        /// The path that must be sent to the backend.
        pub path_sent: Option<String>,
    }

    /// Who may reach what outside; everything not listed is refused.
    pub struct Egress {
        pub id: String,
        pub listener: String,
        pub callers: Callers,
        pub to: Destination,
        pub via: Option<Via>,
    }

    pub struct Callers {
        #[serde(default)]
        pub vpce: Vec<String>,
        #[serde(default)]
        #[schemars(with = "Vec<String>")]
        pub cidr: Vec<IpNet>,
        #[serde(default)]
        pub client_cert: Vec<String>,
        /// Plans of API keys; the key comes in Proxy-Authorization.
        #[serde(default)]
        pub plan: Vec<String>,
    }

    pub struct Destination {
        pub host: Option<String>,
        #[serde(default)]
        pub domains: Vec<String>,
        pub ports: Vec<u16>,
        pub sni: Option<Sni>,
    }

    pub struct Via {
        #[serde(default)]
        #[schemars(with = "Vec<String>")]
        pub bind: Vec<std::net::IpAddr>,
        /// Ports to connect from, such as `20000-29999`; the kernel's range when absent.
        pub source_ports: Option<PortRange>,
        pub connections: Option<Connections>,
    }
}

words! {
    pub enum Protocol { Auto, H1, H2, H2c }
    pub enum Payload { V1, V2, Alb }
    pub enum TokenSource { GoogleIdToken, File, Env, SecretsManager }
    pub enum Effects { Safe, Idempotent, Unsafe }
    pub enum StageWord { Legacy, Shadow, Canary, Ramp, Serverless, Retired }
    pub enum ShadowPolicy { Off, Sandbox, VerifyAfterWrite }
    pub enum PathsMode { Strict, Normalise }
    pub enum EncodedSlash { Refuse, Allow }
    pub enum LocationMode { Public, Off }
    pub enum Priority { Low, Normal, High }
    pub enum Scheme { Http, Https }
    pub enum Sni { Required }
}

/// What a function's instances run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    #[default]
    #[serde(rename = "x86_64")]
    X86,
    Arm64,
}
