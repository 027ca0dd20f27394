//! What one request, one connection and all of them together may take.
//!
//! Input: `limits` of the settings. Output: `Limits` with every default filled in. Must not: know who is measured by them.

use banyan_routes::units::{ByteSize, Span};
use serde::Deserialize;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Limits {
    pub header_bytes: u64,
    pub headers: usize,
    pub body_bytes: u64,
    /// From the start of a connection, or the end of its rest, to the end of a request's head.
    pub header_time: Duration,
    /// Bytes a second that a body has to bring on average, from its tenth second on; `None`: no matter.
    pub body_rate: Option<u64>,
    /// Requests and resting connections at one time.
    pub connections: usize,
    /// How long a kept connection may be silent.
    pub idle: Duration,
    /// Bodies held whole at one time, all requests together: for functions and signatures.
    pub buffered_bytes: u64,
    /// Of the whole process; `None`: by what its container may have.
    pub memory_bytes: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLimits {
    header_bytes: Option<ByteSize>,
    headers: Option<usize>,
    body: Option<ByteSize>,
    header_time: Option<Span>,
    body_rate: Option<BytesPerSecond>,
    idle: Option<Span>,
    connections: Option<usize>,
    buffered: Option<ByteSize>,
    memory: Option<ByteSize>,
}

/// `1KiB/s`.
#[derive(Clone, Copy, Debug)]
struct BytesPerSecond(u64);

impl<'de> Deserialize<'de> for BytesPerSecond {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let size = text.strip_suffix("/s").and_then(|size| size.parse::<ByteSize>().ok());
        size.map(|size| BytesPerSecond(size.0)).ok_or_else(|| {
            serde::de::Error::custom(format!("`{text}` is not a rate; expected for example `1KiB/s`"))
        })
    }
}

impl RawLimits {
    pub fn lower(self) -> Limits {
        Limits {
            header_bytes: self.header_bytes.map_or(64 << 10, |size| size.0),
            headers: self.headers.unwrap_or(100),
            body_bytes: self.body.map_or(1 << 30, |size| size.0),
            header_time: self.header_time.map_or(Duration::from_secs(10), |span| span.0),
            body_rate: self.body_rate.map_or(Some(1 << 10), |rate| Some(rate.0).filter(|rate| *rate > 0)),
            connections: self.connections.unwrap_or(20_000),
            idle: self.idle.map_or(Duration::from_secs(60), |span| span.0),
            buffered_bytes: self.buffered.map_or(256 << 20, |size| size.0),
            memory_bytes: self.memory.map(|size| size.0),
        }
    }
}
