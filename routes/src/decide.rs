//! Route + state + facts + health -> side and reason. The order of the steps is the contract of 03-rules.
//!
//! Input: a route, its cohort, what the state says, and the request. Output: `Decision`, or why nobody may answer. Must
//! not: read a clock or make randomness; both come in as arguments.

use crate::address::AddressText;
use crate::bucket::bucket;
use crate::file::Effects;
use crate::ids::{SharePpm, Side};
use crate::request::RequestFacts;
use crate::table::{Cohort, Route, Stage, Writes, is_safe};
use crate::terms::{Condition, KeySource};
use http::Method;
use std::borrow::Cow;
use std::fmt;

/// The name of the cookie that holds an identity of our own making; never a decision.
pub const OWN_COOKIE: &str = "__Host-banyan";

/// Why a side was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Kill,
    Stage,
    Override,
    Deny,
    Allow,
    Bucket,
    Ceiling,
    Breaker,
    Fallback,
}

impl Reason {
    pub const ALL: [Reason; 9] = [
        Reason::Kill,
        Reason::Stage,
        Reason::Override,
        Reason::Deny,
        Reason::Allow,
        Reason::Bucket,
        Reason::Ceiling,
        Reason::Breaker,
        Reason::Fallback,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Kill => "kill",
            Reason::Stage => "stage",
            Reason::Override => "override",
            Reason::Deny => "deny",
            Reason::Allow => "allow",
            Reason::Bucket => "bucket",
            Reason::Ceiling => "ceiling",
            Reason::Breaker => "breaker",
            Reason::Fallback => "fallback",
        }
    }

    /// Position in per-reason arrays.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// Places in arrays by decision: 2 sides x 9 reasons, and one for what was answered without any.
pub const SLOTS: usize = Side::ALL.len() * Reason::ALL.len() + 1;

/// The place of a decision.
pub fn slot(decision: Option<(Side, Reason)>) -> usize {
    decision.map_or(SLOTS - 1, |(side, reason)| side.index() * Reason::ALL.len() + reason.index())
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A fresh identity: 128 random bits.
pub type OwnKey = [u8; 16];

/// The outcome for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub side: Side,
    pub reason: Reason,
    /// Known when the share was asked.
    pub bucket: Option<u32>,
    /// An identity made for this request, to be set as our cookie.
    pub fresh_key: Option<OwnKey>,
}

/// What is sent beside a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shadow {
    None,
    /// It is not safe, and the route does not say how it could be.
    Unsafe,
    /// A copy, to this side.
    Copy(Side),
    /// Nothing; afterwards, what it did is read from both sides.
    Verify,
}

/// What is not safe is never sent twice but to a sandbox (law 7); a route that was killed, or whose serverless side is out, is left
/// alone.
pub fn shadow(route: &Route, decision: &Decision, method: &Method) -> Shadow {
    let Some(rule) = &route.shadow else { return Shadow::None };
    let other = match decision.side {
        Side::Legacy => Side::Serverless,
        Side::Serverless => Side::Legacy,
    };
    if matches!(decision.reason, Reason::Kill | Reason::Breaker | Reason::Ceiling | Reason::Fallback)
        || route.backend(other).is_none()
    {
        return Shadow::None;
    }
    let safe = match route.effects {
        Some(Effects::Safe) => true,
        // With a policy for its writes, a route of both reads and writes shadows its reads as they are.
        Some(Effects::Idempotent | Effects::Unsafe) => rule.writes != Writes::Off && is_safe(method),
        None => is_safe(method),
    };
    match &rule.writes {
        _ if safe => Shadow::Copy(other),
        Writes::Sandbox { .. } if other == Side::Serverless => Shadow::Copy(other),
        Writes::Verify { .. } => Shadow::Verify,
        Writes::Off | Writes::Sandbox { .. } => Shadow::Unsafe,
    }
}

/// Nobody may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The kill switch is on and there is no legacy side to go back to.
    KilledWithoutLegacy,
}

/// What is not in the rules: state, and what the proxy knows of the backends.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    pub killed: bool,
    /// The share of this route now; the stage's own unless the state says otherwise.
    pub share: SharePpm,
    /// The route was rolled back: its share is 0, whatever its stage says.
    pub rolled_back: bool,
    pub override_side: Option<Side>,
    /// The serverless backend takes requests.
    pub serverless_available: bool,
}

/// The user's key in a cohort, and which source gave it.
pub fn key_of<'a>(cohort: &'a Cohort, facts: &RequestFacts<'a>) -> Option<(&'a KeySource, Cow<'a, [u8]>)> {
    const OWN: KeySource = KeySource::OwnCookie;
    // Our cookie stands at the end of every list: a user without any other key still keeps a side.
    let sources = cohort.keys.iter().chain(std::iter::once(&OWN));
    sources.into_iter().find_map(|source| value_of(source, facts).map(|value| (source, value)))
}

/// What a request holds where a source says.
pub fn value_of<'a>(source: &KeySource, facts: &RequestFacts<'a>) -> Option<Cow<'a, [u8]>> {
    let value = match source {
        KeySource::Cookie(name) => Cow::Borrowed(facts.cookie(name)?.as_bytes()),
        KeySource::Header(name) => Cow::Borrowed(facts.headers.get(name.as_str())?.as_bytes()),
        KeySource::Query(key) => Cow::Borrowed(facts.query(key)?.as_bytes()),
        KeySource::ClientVpce => Cow::Borrowed(facts.endpoint?.as_bytes()),
        KeySource::ClientIp => {
            Cow::Owned(AddressText::of(facts.client_ip?.to_canonical()).as_bytes().to_vec())
        }
        // A claim counts only once its token has been verified.
        KeySource::Jwt(name) => match facts.claims?.text(name)? {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        },
        KeySource::OwnCookie => Cow::Borrowed(own_key(facts)?.as_bytes()),
    };
    (!value.is_empty()).then_some(value)
}

/// Our cookie, when it has the form we give it.
fn own_key<'a>(facts: &RequestFacts<'a>) -> Option<&'a str> {
    facts.cookie(OWN_COOKIE).filter(|value| value.len() == 32 && value.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The text form of a fresh identity: what the cookie holds and what is hashed.
pub fn own_key_text(key: &OwnKey) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn holds(condition: &Condition, facts: &RequestFacts<'_>) -> bool {
    match (&condition.network, facts.client_ip) {
        (Some(network), Some(address)) => network.contains(&address.to_canonical()),
        (Some(_), None) => false,
        (None, _) => {
            value_of(&condition.source, facts).is_some_and(|value| *value == *condition.value.as_bytes())
        }
    }
}

/// Chooses the side. `fresh` makes an identity; it is asked only when the user has no key and one is needed.
pub fn decide(
    route: &Route,
    cohort: &Cohort,
    facts: &RequestFacts<'_>,
    now: Conditions,
    fresh: impl FnOnce() -> OwnKey,
) -> Result<Decision, Refusal> {
    let chosen = |side, reason| Decision { side, reason, bucket: None, fresh_key: None };
    let has_legacy = route.backend(Side::Legacy).is_some() && route.stage != Stage::Retired;
    if now.killed {
        return if has_legacy {
            Ok(chosen(Side::Legacy, Reason::Kill))
        } else {
            Err(Refusal::KilledWithoutLegacy)
        };
    }
    let decision = match route.stage {
        Stage::Legacy | Stage::Shadow => return Ok(chosen(Side::Legacy, Reason::Stage)),
        Stage::Serverless if now.rolled_back => by_user(cohort, facts, now, fresh),
        Stage::Serverless | Stage::Retired => chosen(Side::Serverless, Reason::Stage),
        Stage::Canary(_) | Stage::Ramp => by_user(cohort, facts, now, fresh),
    };
    if decision.side == Side::Serverless && !now.serverless_available && has_legacy {
        return Ok(Decision { side: Side::Legacy, reason: Reason::Breaker, ..decision });
    }
    Ok(decision)
}

/// Steps 3 to 5: override, deny, allow, bucket.
fn by_user(
    cohort: &Cohort,
    facts: &RequestFacts<'_>,
    now: Conditions,
    fresh: impl FnOnce() -> OwnKey,
) -> Decision {
    let chosen = |side, reason| Decision { side, reason, bucket: None, fresh_key: None };
    if let Some(side) = now.override_side {
        return chosen(side, Reason::Override);
    }
    if cohort.deny.iter().any(|condition| holds(condition, facts)) {
        return chosen(Side::Legacy, Reason::Deny);
    }
    if cohort.allow.iter().any(|condition| holds(condition, facts)) {
        return chosen(Side::Serverless, Reason::Allow);
    }
    let (bucket, fresh_key) = match key_of(cohort, facts) {
        Some((_, key)) => (bucket(cohort.seed, &key), None),
        None => {
            let key = fresh();
            (bucket(cohort.seed, own_key_text(&key).as_bytes()), Some(key))
        }
    };
    let side = if bucket < now.share.get() { Side::Serverless } else { Side::Legacy };
    Decision { side, reason: Reason::Bucket, bucket: Some(bucket), fresh_key }
}
