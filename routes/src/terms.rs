//! The small languages inside rule values: gate terms, failure kinds, key sources, conditions.
//!
//! Input: one YAML string such as `<= legacy + 0.1pp` or `cookie.SESSIONID`. Output: a closed enum or struct that prints
//! back as it was written. Must not: evaluate anything.

use crate::ids::PPM;
use crate::units::{Percent, text_form};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// `99.9% at 95%`: the share of comparisons that must match, and the confidence it is claimed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parity {
    pub matching: Percent,
    pub confidence: Percent,
}

impl FromStr for Parity {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let hint = || format!("`{text}` is not a parity claim; expected for example `99.9% at 95%`");
        let (matching, confidence) = text.split_once(" at ").ok_or_else(hint)?;
        let claim = Parity {
            matching: matching.trim().parse().map_err(|_| hint())?,
            confidence: confidence.trim().parse().map_err(|_| hint())?,
        };
        let certain = claim.confidence.0.get() == PPM || claim.matching.0.get() == PPM;
        let empty = claim.confidence.0.get() == 0 || claim.matching.0.get() == 0;
        if certain {
            Err(format!("`{text}` claims 100%, which no finite sample can show"))
        } else if empty {
            Err(format!("`{text}` claims nothing"))
        } else {
            Ok(claim)
        }
    }
}

impl fmt::Display for Parity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.matching, self.confidence)
    }
}

/// `<= legacy + 0.1pp` or `> legacy + 2pp`: serverless against legacy in percentage points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateBound {
    pub above: bool,
    pub margin: Percent,
}

impl FromStr for RateBound {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let hint = || format!("`{text}` is not a bound; expected `<= legacy + 0.1pp` or `> legacy + 2pp`");
        let (above, rest) = match text.trim().strip_prefix("<=") {
            Some(rest) => (false, rest),
            None => (true, text.trim().strip_prefix('>').ok_or_else(hint)?),
        };
        let rest = rest.trim().strip_prefix("legacy").ok_or_else(hint)?.trim();
        let margin = rest.strip_prefix('+').ok_or_else(hint)?.trim().strip_suffix("pp").ok_or_else(hint)?;
        let margin = format!("{}%", margin.trim()).parse().map_err(|_| hint())?;
        Ok(RateBound { above, margin })
    }
}

impl fmt::Display for RateBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let margin = self.margin.to_string();
        write!(f, "{} legacy + {}pp", if self.above { ">" } else { "<=" }, margin.trim_end_matches('%'))
    }
}

/// `<= legacy * 1.2`: a ratio of quantiles, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencyBound {
    pub factor_milli: u32,
}

impl FromStr for LatencyBound {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let hint = || format!("`{text}` is not a latency bound; expected for example `<= legacy * 1.2`");
        let rest = text
            .trim()
            .strip_prefix("<=")
            .ok_or_else(hint)?
            .trim()
            .strip_prefix("legacy")
            .ok_or_else(hint)?;
        let factor: f64 =
            rest.trim().strip_prefix('*').ok_or_else(hint)?.trim().parse().map_err(|_| hint())?;
        if !(0.1..=100.0).contains(&factor) {
            return Err(format!("`{text}` has a factor outside 0.1 to 100"));
        }
        Ok(LatencyBound { factor_milli: (factor * 1000.0).round() as u32 })
    }
}

impl fmt::Display for LatencyBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<= legacy * {}", f64::from(self.factor_milli) / 1000.0)
    }
}

/// What a retry or a fallback answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureKind {
    /// No connection could be made; nothing was sent.
    Connect,
    /// A deadline passed before the response headers came.
    Timeout,
    /// This status came back.
    Status(u16),
}

impl FromStr for FailureKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "connect" => Ok(FailureKind::Connect),
            "timeout" => Ok(FailureKind::Timeout),
            _ => {
                let status = text.parse::<u16>().ok().filter(|status| matches!(status, 429 | 500..=599));
                status.map(FailureKind::Status).ok_or_else(|| {
                    format!("`{text}` is not a failure; expected `connect`, `timeout`, 429 or a status from 500 to 599")
                })
            }
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FailureKind::Connect => f.write_str("connect"),
            FailureKind::Timeout => f.write_str("timeout"),
            FailureKind::Status(status) => write!(f, "{status}"),
        }
    }
}

impl<'de> Deserialize<'de> for FailureKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Kind;
        impl de::Visitor<'_> for Kind {
            type Value = FailureKind;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`connect`, `timeout` or a status")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<FailureKind, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, status: u64) -> Result<FailureKind, E> {
                status.to_string().parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Kind)
    }
}

impl Serialize for FailureKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for FailureKind {
    fn schema_name() -> Cow<'static, str> {
        "failure".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string", "enum": ["connect", "timeout"] },
            { "type": "integer", "anyOf": [{ "const": 429 }, { "minimum": 500, "maximum": 599 }] }
        ]})
    }
}

/// Where a user's key, or one side of a condition, is read from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeySource {
    Cookie(String),
    /// Lower case: header names are compared without case.
    Header(String),
    Query(String),
    ClientIp,
    /// The endpoint of PrivateLink that it came by.
    ClientVpce,
    /// A claim of a verified token.
    Jwt(String),
    /// The cookie Banyan sets itself.
    OwnCookie,
}

impl FromStr for KeySource {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let named = |name: &str| !name.is_empty() && name.bytes().all(is_token_byte);
        match text.split_once('.') {
            None if text == "own_cookie" => Ok(KeySource::OwnCookie),
            Some(("client", "ip")) => Ok(KeySource::ClientIp),
            Some(("client", "vpce")) => Ok(KeySource::ClientVpce),
            Some(("cookie", name)) if named(name) => Ok(KeySource::Cookie(name.into())),
            Some(("header", name)) if named(name) => Ok(KeySource::Header(name.to_ascii_lowercase())),
            Some(("query", name)) if !name.is_empty() => Ok(KeySource::Query(name.into())),
            Some(("jwt", name)) if !name.is_empty() => Ok(KeySource::Jwt(name.into())),
            _ => Err(format!(
                "`{text}` is not a key; expected `cookie.NAME`, `header.NAME`, `query.NAME`, `jwt.CLAIM`, `client.ip`, `client.vpce` or `own_cookie`"
            )),
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::Cookie(name) => write!(f, "cookie.{name}"),
            KeySource::Header(name) => write!(f, "header.{name}"),
            KeySource::Query(name) => write!(f, "query.{name}"),
            KeySource::ClientIp => f.write_str("client.ip"),
            KeySource::ClientVpce => f.write_str("client.vpce"),
            KeySource::Jwt(claim) => write!(f, "jwt.{claim}"),
            KeySource::OwnCookie => f.write_str("own_cookie"),
        }
    }
}

/// `header.X-Staff=true`: a source that must hold exactly this value; for `client.ip` a network may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub source: KeySource,
    pub value: String,
    /// Set when the source is `client.ip`.
    pub network: Option<ipnet::IpNet>,
}

impl FromStr for Condition {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (source, value) = text.split_once('=').ok_or_else(|| {
            format!("`{text}` is not a condition; expected for example `header.X-Staff=true`")
        })?;
        let source: KeySource = source.parse()?;
        let network = if source == KeySource::ClientIp {
            let address = value.parse::<std::net::IpAddr>().map(ipnet::IpNet::from);
            let network = address.or_else(|_| value.parse()).map_err(|_| {
                format!("`{value}` is not an address or network; expected for example `10.0.0.0/8`")
            })?;
            Some(network)
        } else {
            None
        };
        if source == KeySource::OwnCookie {
            return Err("`own_cookie` holds a random identity; no condition can be put on it".into());
        }
        Ok(Condition { source, value: value.into(), network })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.source, self.value)
    }
}

/// RFC 9110 section 5.6.2 `tchar`: what methods, header and cookie names are made of.
pub fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

text_form!(Parity, "parity", r"^[0-9.]+% at [0-9.]+%$", "99.9% at 95%");
text_form!(RateBound, "rate_bound", r"^(<=|>) *legacy *\+ *[0-9.]+ *pp$", "<= legacy + 0.1pp");
text_form!(LatencyBound, "latency_bound", r"^<= *legacy *\* *[0-9.]+$", "<= legacy * 1.2");
text_form!(
    KeySource,
    "key",
    r"^(own_cookie|client\.(ip|vpce)|(cookie|header|query|jwt)\..+)$",
    "cookie.SESSIONID"
);
text_form!(
    Condition,
    "condition",
    r"^(client\.(ip|vpce)|(cookie|header|query|jwt)\.[^=]+)=.*$",
    "header.X-Staff=true"
);
