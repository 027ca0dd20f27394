//! The raw shapes of a backend.
//!
//! Input: YAML. Output: `Backend` and its parts. Must not: know whether an address can be reached, or a field makes sense.

use super::{Architecture, Payload, Protocol, TokenSource};
use crate::forms::UniqueMap;
use crate::units::{ByteSize, Percent, PortRange, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

shapes! {
    /// A named place that requests can be sent to.
    pub struct Backend {
        /// `http://` or `https://` and an authority; several are balanced.
        pub urls: Option<Vec<String>>,
        pub lambda: Option<Lambda>,
        /// `preserve` (default: the client's Host), `backend` (the URL's host; default with `sign`) or a literal name.
        pub host: Option<String>,
        pub tls: Option<BackendTls>,
        pub protocol: Option<Protocol>,
        pub connections: Option<Connections>,
        /// Addresses of this machine to connect from, by turns; the kernel's choice when absent.
        #[serde(default)]
        #[schemars(with = "Vec<String>")]
        pub bind: Vec<IpAddr>,
        /// Ports to connect from, such as `20000-29999`; the kernel's range when absent.
        pub source_ports: Option<PortRange>,
        pub health: Option<Health>,
        /// When it fails, it is left alone for a while.
        pub breaker: Option<Box<Breaker>>,
        /// Addresses that fail while others do not are left out for a while.
        pub outliers: Option<Outliers>,
        /// AWS Signature Version 4 over every request to this backend.
        pub sign: Option<Box<Sign>>,
        /// A bearer token put on every request to this backend.
        pub token: Option<Box<Token>>,
        /// Put before every path sent here, after any rewrite: the stage of an API Gateway, `/prod`.
        pub path_prefix: Option<String>,
        /// Set on every request to this backend, last: `X-Apigw-Api-Id` of a private API.
        #[serde(default)]
        pub headers: UniqueMap<String>,
        /// Requests a second this backend can take, for the headroom check.
        pub capacity_rps: Option<u32>,
    }

    /// A function called by the Invoke API, signed by the process's own credentials.
    pub struct Lambda {
        /// Its name, `account:function:name`, or its ARN.
        pub function: String,
        /// A version or an alias.
        pub qualifier: Option<String>,
        /// The ARN's, or the settings' when absent.
        pub region: Option<String>,
        /// The event's format: `v2` (default), `v1` or `alb`.
        pub payload: Option<Payload>,
        /// With `alb`: events and answers with lists of values.
        pub multi_value: Option<bool>,
        /// Call by InvokeWithResponseStream and pass the answer on as it comes.
        pub stream: Option<bool>,
        /// Ask for the log's tail with each call: billed time, memory and cold starts are read from it.
        pub log_tail: Option<bool>,
        pub warm: Option<Warm>,
        /// Another address of the Lambda API, such as that of an interface endpoint.
        pub endpoint: Option<String>,
        /// What the function runs on, for the price: `x86_64` (default) or `arm64`.
        pub architecture: Option<Architecture>,
    }

    /// Calls that keep instances ready: before a share is raised, and from time to time.
    pub struct Warm {
        /// Calls at the same time, 1 to 100.
        pub concurrency: u32,
        /// How often; only before a share is raised when absent.
        pub every: Option<Span>,
        /// The path of the GET the function sees, with `X-Banyan-Warm: 1`; `/` when absent.
        pub path: Option<String>,
    }

    pub struct BackendTls {
        /// PEM file of the authorities that may sign the backend's certificate; system roots when absent.
        pub ca: Option<String>,
        /// PEM file of the client certificate to show; needs `key`.
        pub cert: Option<String>,
        pub key: Option<String>,
        /// The name sent as SNI and checked in the certificate; the URL's host when absent.
        pub server_name: Option<String>,
    }

    /// A hard cap of connections, then a bounded queue.
    pub struct Connections {
        pub max: u32,
        /// So many may wait; as many as `max` when absent.
        pub queue: Option<u32>,
        /// 1s when absent.
        pub queue_wait: Option<Span>,
        /// All backends and egress rules that name the same pool share its connections.
        pub pool: Option<String>,
    }

    /// Active checks: a GET of `path` on every address; 200 to 399 is healthy.
    pub struct Health {
        pub path: String,
        pub interval: Option<Span>,
        pub timeout: Option<Span>,
        pub unhealthy_after: Option<u32>,
        pub healthy_after: Option<u32>,
    }

    pub struct Sign {
        /// `lambda` for Function URLs, `execute-api` for API Gateway.
        pub service: String,
        pub region: String,
        /// Where the client's own Authorization goes; it is dropped when absent.
        pub move_authorization_to: Option<String>,
        /// A body is read whole to be hashed; larger ones are answered 413. 10MiB when absent.
        pub max_body: Option<ByteSize>,
    }

    pub struct Token {
        pub source: TokenSource,
        /// `Authorization` (default) gets `Bearer ` before the token; any other header the bare token.
        pub header: Option<String>,
        /// With `google_id_token`: whom the token is for.
        pub audience: Option<String>,
        /// With `file`: the file that holds it; read again when it changes.
        pub path: Option<String>,
        /// With `env`: the variable that holds it.
        pub variable: Option<String>,
        /// With `secrets_manager`: a name or an ARN, with `#FIELD` of a JSON secret; read again every minute.
        pub secret: Option<String>,
    }

    /// Opens on any of its signs; then a few probes decide whether it closes again.
    pub struct Breaker {
        /// Failures in a row; 5 when absent, 0 for never.
        pub failures: Option<u32>,
        /// The part of a window's calls that failed; 50% when absent.
        pub failure_rate: Option<Percent>,
        /// What takes longer is slow.
        pub slow_call: Option<Span>,
        /// The part of a window's calls that were slow; 80% when absent, and nothing without `slow_call`.
        pub slow_rate: Option<Percent>,
        /// 10s when absent.
        pub window: Option<Span>,
        /// Fewer calls in a window prove nothing about rates; 20 when absent.
        pub min_calls: Option<u32>,
        /// The first time it stays open for so long, then twice as long; 5s when absent.
        pub open_for: Option<Span>,
        /// The longest it stays open; 2m when absent.
        pub open_max: Option<Span>,
        /// Calls at one time that are let through after that, and must all succeed; 3 when absent.
        pub probes: Option<u32>,
        /// Say what it would do, and do nothing.
        pub observe: Option<bool>,
        /// Replicas of a fleet tell each other when it opens and closes.
        pub shared: Option<bool>,
    }

    pub struct Outliers {
        /// Failures of one address in a row; 5 when absent.
        pub failures: Option<u32>,
        /// 10s when absent, and longer each further time.
        pub eject_for: Option<Span>,
        /// At most this part of the addresses; 50% when absent.
        pub max_ejected: Option<Percent>,
    }
}
