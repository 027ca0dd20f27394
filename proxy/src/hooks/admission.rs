//! Phase 1, second half: whether this client may call this route, and how often.
//!
//! Input: the route, and the request's facts. Output: nothing, or an answer of our own. Must not: lock, or tell a client which of its
//! credentials was wrong.

use crate::api_keys::Refused;
use crate::authorizers::Refused as Unverified;
use crate::fleet_limit::FleetLimit;
use crate::live::{Limit, Live};
use crate::proxy::Shared;
use crate::tokens::Refused as Refusal;
use banyan_routes::cors::Added;
use banyan_routes::decide::value_of;
use banyan_routes::file::Priority;
use banyan_routes::request::{Claims, RequestFacts};
use banyan_routes::table::{RequireRule, Route};
use banyan_routes::terms::KeySource;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora_proxy::Session;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// An answer instead of the backend's.
pub struct Denied {
    pub status: u16,
    pub cause: &'static str,
    pub headers: Added,
    pub body: Bytes,
}

/// What became of a request so far.
pub enum Checked {
    Passed,
    Denied(Denied),
    /// The fleet's store has to be asked about this key.
    Ask(Arc<FleetLimit>, Vec<u8>),
}

/// `said` is what the store answered, after it was asked; everything before has been passed then.
pub fn check(
    shared: &Shared,
    live: &Live,
    index: u32,
    route: &Route,
    facts: &RequestFacts<'_>,
    session: &Session,
    said: Option<Result<(), Duration>>,
) -> Checked {
    if let Some(said) = said {
        return said
            .map_or_else(|wait| Checked::Denied(too_many("rate_limited", wait)), |()| Checked::Passed);
    }
    if let Some(rule) = &route.require
        && let Some(denied) = required(shared, rule, facts, session)
    {
        return Checked::Denied(denied);
    }
    let Some(limit) = &live.serving.limits[index as usize] else { return Checked::Passed };
    // A client without the key is known by its address: by its bytes, its text would have to be made first.
    let key = match &limit.rule().key {
        KeySource::ClientIp => None,
        source => value_of(source, facts),
    };
    match (&key, facts.client_ip.map(|address| address.to_canonical())) {
        (Some(key), _) => has_room(limit, key),
        (None, Some(IpAddr::V4(address))) => has_room(limit, &address.octets()),
        (None, Some(IpAddr::V6(address))) => has_room(limit, &address.octets()),
        (None, None) => has_room(limit, &[]),
    }
}

fn has_room(limit: &Limit, key: &[u8]) -> Checked {
    let wait = match limit {
        Limit::Own(guard) => guard.admits(key).err(),
        Limit::Fleet(guard) => match guard.known(key) {
            Some(wait) => Some(wait),
            None => return Checked::Ask(guard.clone(), key.to_vec()),
        },
    };
    wait.map_or(Checked::Passed, |wait| Checked::Denied(too_many("rate_limited", wait)))
}

/// Whether there is no place for a request of this priority.
pub fn overload(shared: &Shared, priority: Priority) -> Option<Denied> {
    let after = || vec![(header::RETRY_AFTER, HeaderValue::from_static("1"))];
    let cause = match (priority, shared.memory.is_short()) {
        (Priority::Normal | Priority::Low, true) => "memory",
        _ if is_over(shared, priority) => "overload",
        _ => return None,
    };
    Some(message(503, cause, "{\"message\":\"Service Unavailable\"}", after()))
}

/// What an authorizer that has not allowed it means.
pub fn unverified(why: Unverified) -> Denied {
    match why {
        Unverified::Denied => forbidden(why.cause()),
        Unverified::NoIdentity | Unverified::Unknown => {
            message(401, why.cause(), "{\"message\":\"Unauthorized\"}", Vec::new())
        }
        Unverified::Away => {
            let after = vec![(header::RETRY_AFTER, HeaderValue::from_static("1"))];
            message(503, why.cause(), "{\"message\":\"Service Unavailable\"}", after)
        }
    }
}

/// Places are short: the last tenth is for routes of high priority, the three before it for none of low.
fn is_over(shared: &Shared, priority: Priority) -> bool {
    let all = shared.settings.limits.connections;
    let room = match priority {
        Priority::High => return false,
        Priority::Normal => all - all / 10,
        Priority::Low => all - all / 10 * 4,
    };
    shared.places.load(Ordering::Relaxed) > room
}

fn required(
    shared: &Shared,
    rule: &RequireRule,
    facts: &RequestFacts<'_>,
    session: &Session,
) -> Option<Denied> {
    if rule.client_cert {
        let ssl = session.digest().and_then(|digest| digest.ssl_digest.as_ref());
        if ssl.is_none_or(|ssl| ssl.cert_digest.is_empty()) {
            return Some(forbidden("client_cert_missing"));
        }
    }
    if let Some(jwt) = &rule.jwt
        && !jwt.scopes.iter().all(|scope| facts.claims.is_some_and(|claims| claims.has_scope(scope)))
    {
        let challenge = HeaderValue::from_static("Bearer error=\"insufficient_scope\"");
        let headers = vec![(header::WWW_AUTHENTICATE, challenge)];
        return Some(message(403, Refusal::Scope.cause(), "{\"message\":\"Forbidden\"}", headers));
    }
    let plan = rule.plan.as_deref()?;
    let key = facts.headers.get(API_KEY).map(HeaderValue::as_bytes);
    let admitted = shared.api_keys.as_ref().map_or(Err(Refused::Unknown), |keys| keys.admits(key, plan));
    match admitted {
        Ok(()) => None,
        Err(Refused::Missing) => Some(forbidden("api_key_missing")),
        Err(Refused::Unknown) => Some(forbidden("api_key_unknown")),
        Err(Refused::Plan) => Some(forbidden("api_key_plan")),
        Err(Refused::Spent(wait)) => Some(too_many("api_key_rate", wait)),
    }
}

/// What the request's token says, where the route asks; an error where it has to have one. A token that nobody requires and that is not good
/// says nothing.
pub fn claims(shared: &Shared, route: &Route, headers: &HeaderMap) -> Result<Option<Arc<Claims>>, Denied> {
    if !route.wants_claims {
        return Ok(None);
    }
    let issuer = route.require.as_ref().and_then(|rule| rule.jwt.as_ref()).map(|jwt| &*jwt.issuer);
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let token = lines.next().and_then(bearer);
    let verified = match (token, lines.next()) {
        (Some(token), None) => shared.issuers.verify(issuer, token, SystemTime::now()),
        // Of two lines another reader may take the other one.
        (_, Some(_)) => Err(Refusal::Malformed),
        (None, None) => Err(Refusal::Missing),
    };
    match verified {
        Ok(claims) => Ok(Some(claims)),
        Err(_) if issuer.is_none() => Ok(None),
        Err(Refusal::NoKeys) => {
            let after = vec![(header::RETRY_AFTER, HeaderValue::from_static("5"))];
            Err(message(503, Refusal::NoKeys.cause(), "{\"message\":\"Service Unavailable\"}", after))
        }
        Err(why) => {
            let challenge = match why {
                Refusal::Missing => "Bearer",
                _ => "Bearer error=\"invalid_token\"",
            };
            let headers = vec![(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))];
            Err(message(401, why.cause(), "{\"message\":\"Unauthorized\"}", headers))
        }
    }
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// As API Gateway says it.
fn forbidden(cause: &'static str) -> Denied {
    message(403, cause, "{\"message\":\"Forbidden\"}", Vec::new())
}

fn too_many(cause: &'static str, wait: Duration) -> Denied {
    // Whole seconds, and never at once.
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let after = (header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    message(429, cause, "{\"message\":\"Too Many Requests\"}", vec![after])
}

fn message(status: u16, cause: &'static str, body: &'static str, mut headers: Added) -> Denied {
    headers.push((header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
    headers.push((header::CACHE_CONTROL, HeaderValue::from_static("no-store")));
    Denied { status, cause, headers, body: Bytes::from_static(body.as_bytes()) }
}
