//! Who is asked whether a client may.
//!
//! Input: `authorizers` of the settings. Output: authorizers with every default filled in. Must not: ask anybody.

use crate::lambda::authorize::Form;
use banyan_routes::terms::KeySource;
use banyan_routes::units::Span;
use serde::Deserialize;
use std::time::Duration;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAuthorizer {
    name: String,
    url: String,
    identity: Vec<KeySource>,
    #[serde(default)]
    event: Form,
    ttl: Option<Span>,
    timeout: Option<Span>,
    arn: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Authorizer {
    /// As rules call it.
    pub name: String,
    pub url: http::Uri,
    /// A request without one of them is refused unasked.
    pub identity: Vec<KeySource>,
    pub form: Form,
    /// How long a verdict of one identity on one route holds.
    pub ttl: Duration,
    pub timeout: Duration,
    /// What its policies are about, without method and path.
    pub arn: String,
}

/// API Gateway's own.
const TTL_DEFAULT: Duration = Duration::from_secs(300);
const TTL_MAX: Duration = Duration::from_secs(3600);
const ARN_DEFAULT: &str = "arn:aws:execute-api:us-east-1:000000000000:banyan/$default";

pub fn lower(raw: Vec<RawAuthorizer>) -> Result<Vec<Authorizer>, String> {
    let mut all: Vec<Authorizer> = Vec::new();
    for raw in raw {
        let at = format!("authorizers: `{}`", raw.name);
        if !banyan_routes::ids::valid_name(&raw.name) || all.iter().any(|it| it.name == raw.name) {
            return Err(format!("{at}: expected a name of its own, of letters, digits, `-`, `_` and `.`"));
        }
        let url: http::Uri = raw.url.parse().map_err(|error| format!("{at}: url: {error}"))?;
        if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none() {
            return Err(format!("{at}: url: `{}`; expected http:// or https:// and a host", raw.url));
        }
        if raw.identity.is_empty() {
            return Err(format!(
                "{at}: without identity one client's verdict would be everybody's; expected for example [header.Authorization]"
            ));
        }
        let ttl = raw.ttl.map_or(TTL_DEFAULT, |span| span.0);
        if ttl > TTL_MAX {
            return Err(format!("{at}: ttl: expected 1h or less"));
        }
        all.push(Authorizer {
            name: raw.name,
            url,
            identity: raw.identity,
            form: raw.event,
            ttl,
            timeout: raw.timeout.map_or(Duration::from_secs(2), |span| span.0),
            arn: raw.arn.unwrap_or_else(|| ARN_DEFAULT.to_owned()),
        });
    }
    Ok(all)
}
