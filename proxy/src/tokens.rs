//! Tokens of clients (JWT, RFC 7519), verified by the keys of their issuers.
//!
//! Input: a bearer token. Output: its claims, or why it is refused. Must not: lock, fetch while a request waits, trust a header of the token
//! beyond which key to try, or verify the same token twice in a row.

use crate::client::fetch::fetch;
use crate::recent::Recent;
use crate::settings::{Issuer, KeySet};
use crate::targets::supplies::Supplies;
use arc_swap::{ArcSwap, ArcSwapOption};
use banyan_routes::request::Claims;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// Longer tokens are nobody's; also the limit on what is kept of one.
const TOKEN_MAX: usize = 16 << 10;
/// Verified tokens that are remembered; two share a place by chance.
const PLACES: usize = 4_096;
/// An unknown key makes us look, but not more often than this: whoever invents keys shall not make us ask all day.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// After a key set could not be had.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Why a token is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Missing,
    /// Not a token, or not of an issuer that may be used here.
    Malformed,
    Algorithm,
    /// No key of the issuer has signed it.
    Signature,
    Expired,
    NotYet,
    Audience,
    Scope,
    /// The issuer's keys have never been had.
    NoKeys,
}

impl Refused {
    /// A metric label and the cause in the log.
    pub fn cause(self) -> &'static str {
        match self {
            Refused::Missing => "jwt_missing",
            Refused::Malformed => "jwt_malformed",
            Refused::Algorithm => "jwt_algorithm",
            Refused::Signature => "jwt_signature",
            Refused::Expired => "jwt_expired",
            Refused::NotYet => "jwt_not_yet",
            Refused::Audience => "jwt_audience",
            Refused::Scope => "jwt_scope",
            Refused::NoKeys => "jwt_no_keys",
        }
    }
}

struct Key {
    id: Option<String>,
    /// What it may verify, by its kind and its own word.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

struct Running {
    settings: Issuer,
    keys: ArcSwapOption<Vec<Key>>,
    wanted: Notify,
    /// Seconds of the last look.
    looked: AtomicU64,
}

#[derive(Clone)]
struct Verified {
    issuer: usize,
    /// Of the key set that verified it.
    keys: usize,
    good: (u64, u64),
    claims: Arc<Claims>,
}

pub struct Issuers {
    all: Vec<Arc<Running>>,
    verified: Recent<Verified>,
    changes: ArcSwap<usize>,
}

impl Issuers {
    pub fn new(settings: &[Issuer]) -> Issuers {
        let running = |settings: &Issuer| {
            Arc::new(Running {
                settings: settings.clone(),
                keys: ArcSwapOption::empty(),
                wanted: Notify::new(),
                looked: AtomicU64::new(0),
            })
        };
        let places = if settings.is_empty() { 1 } else { PLACES };
        Issuers {
            all: settings.iter().map(running).collect(),
            verified: Recent::new(places),
            changes: ArcSwap::from_pointee(0),
        }
    }

    /// Keeps the key sets fresh, for ever. The first look is waited for, within reason.
    pub async fn start(self: &Arc<Self>, supplies: &Arc<Supplies>) {
        for at in 0..self.all.len() {
            let (issuers, supplies) = (self.clone(), supplies.clone());
            let first = tokio::time::timeout(TRY_AGAIN, self.look(at, &supplies)).await;
            tokio::spawn(async move {
                let mut found = first == Ok(true);
                loop {
                    let running = &issuers.all[at];
                    let rest = if found { running.settings.refresh } else { TRY_AGAIN };
                    tokio::select! {
                        () = tokio::time::sleep(rest) => {}
                        () = running.wanted.notified() => {}
                    }
                    found = issuers.look(at, &supplies).await;
                }
            });
        }
    }

    /// All key sets again: on HUP.
    pub fn reload(&self) {
        self.all.iter().for_each(|running| running.wanted.notify_one());
    }

    async fn look(&self, at: usize, supplies: &Supplies) -> bool {
        let running = &self.all[at];
        running.looked.store(seconds(SystemTime::now()), Ordering::Relaxed);
        match key_set(&running.settings.keys, supplies).await {
            Ok(keys) if !keys.is_empty() => {
                running.keys.store(Some(Arc::new(keys)));
                // What was verified by keys that may be gone is verified anew.
                self.changes.rcu(|changes| **changes + 1);
                true
            }
            Ok(_) => {
                let name = &running.settings.name;
                tracing::error!(
                    issuer = name,
                    "the key set holds no key that can be used; the last one stays"
                );
                false
            }
            Err(error) => {
                let name = &running.settings.name;
                tracing::error!(issuer = name, error, "key set not read; the last one stays");
                false
            }
        }
    }

    /// The claims of a token, by the issuer of that name, or by whoever it says has issued it.
    pub fn verify(&self, name: Option<&str>, token: &str, now: SystemTime) -> Result<Arc<Claims>, Refused> {
        if token.len() > TOKEN_MAX {
            return Err(Refused::Malformed);
        }
        let now = seconds(now);
        let changes = **self.changes.load();
        let known = self.verified.get(token.as_bytes());
        if let Some(known) = known.filter(|it| it.keys == changes) {
            let issuer = &self.all[known.issuer].settings;
            if name.is_some_and(|name| name != issuer.name) {
                return Err(Refused::Malformed);
            }
            timely(known.good, now)?;
            return Ok(known.claims);
        }
        let (issuer, claims, good) = self.read(name, token, now)?;
        let claims = Arc::new(claims);
        let verified = Verified { issuer, keys: changes, good, claims: claims.clone() };
        self.verified.put(token.as_bytes(), verified);
        Ok(claims)
    }

    fn read(
        &self,
        name: Option<&str>,
        token: &str,
        now: u64,
    ) -> Result<(usize, Claims, (u64, u64)), Refused> {
        let malformed = Refused::Malformed;
        let (message, signature) = token.rsplit_once('.').ok_or(malformed)?;
        let (header, payload) = message.split_once('.').ok_or(malformed)?;
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed);
        let header: Header = serde_json::from_slice(&decoded(header)?).map_err(|_| malformed)?;
        let claims: Value = serde_json::from_slice(&decoded(payload)?).map_err(|_| malformed)?;
        let Value::Object(claims) = claims else { return Err(malformed) };
        let says = claims.get("iss").and_then(Value::as_str).ok_or(malformed)?;
        let is_meant = |it: &Arc<Running>| {
            it.settings.issuer == says && name.is_none_or(|name| it.settings.name == name)
        };
        let at = self.all.iter().position(is_meant).ok_or(malformed)?;
        let running = &self.all[at];
        if !running.settings.algorithms.contains(&header.alg) {
            return Err(Refused::Algorithm);
        }
        let keys = running.keys.load();
        let keys = keys.as_ref().ok_or(Refused::NoKeys)?;
        let fits = |key: &&Key| {
            key.algorithms.contains(&header.alg)
                && (header.kid.is_none() || key.id.is_none() || key.id == header.kid)
        };
        let verifies = |key: &Key| {
            jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.key, header.alg).unwrap_or(false)
        };
        if !keys.iter().filter(fits).any(verifies) {
            if !keys.iter().any(|key| fits(&key)) {
                running.look_soon(now);
            }
            return Err(Refused::Signature);
        }
        let good = running.settings.accepts(&claims)?;
        timely(good, now)?;
        Ok((at, Claims(claims), good))
    }
}

impl Running {
    /// A key that is not known may be new.
    fn look_soon(&self, now: u64) {
        if now.saturating_sub(self.looked.load(Ordering::Relaxed)) >= LOOK_AGAIN.as_secs() {
            self.wanted.notify_one();
        }
    }
}

impl Issuer {
    /// From when to when, in seconds, with the skew allowed for. A claim of the wrong kind is no claim that could be left out.
    fn accepts(&self, claims: &serde_json::Map<String, Value>) -> Result<(u64, u64), Refused> {
        let audience =
            |name: &Value| name.as_str().is_some_and(|name| self.audiences.iter().any(|it| it == name));
        let meant = match claims.get("aud") {
            Some(Value::Array(names)) => names.iter().any(audience),
            Some(name) => audience(name),
            None => false,
        };
        if !meant {
            return Err(Refused::Audience);
        }
        let time = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => {
                number.as_f64().filter(|at| *at >= 0.0).map(|at| Some(at as u64)).ok_or(Refused::Malformed)
            }
            Some(_) => Err(Refused::Malformed),
        };
        let expires = time("exp")?.ok_or(Refused::Malformed)?;
        let begins = time("nbf")?.unwrap_or(0);
        let skew = self.clock_skew.as_secs();
        Ok((begins.saturating_sub(skew), expires.saturating_add(skew)))
    }
}

fn timely((begins, expires): (u64, u64), now: u64) -> Result<(), Refused> {
    if now >= expires {
        Err(Refused::Expired)
    } else if now < begins {
        Err(Refused::NotYet)
    } else {
        Ok(())
    }
}

fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

async fn key_set(source: &KeySet, supplies: &Supplies) -> Result<Vec<Key>, String> {
    let text = match source {
        KeySet::File(path) => {
            Bytes::from(tokio::fs::read(path).await.map_err(|error| format!("{}: {error}", path.display()))?)
        }
        KeySet::Url(uri) => {
            let request = http::Request::get(uri).header("Accept", "application/json").body(Bytes::new());
            let request = request.map_err(|error| error.to_string())?;
            let answer = fetch(&supplies.client, &supplies.resolver, request).await;
            let (status, _, body) = answer.map_err(|error| format!("{uri}: {error}"))?;
            if !status.is_success() {
                return Err(format!("{uri} answered {status}"));
            }
            body
        }
    };
    let set: JwkSet = serde_json::from_slice(&text).map_err(|error| format!("not a key set: {error}"))?;
    Ok(set.keys.iter().filter_map(usable).collect())
}

/// Keys for other uses or of other kinds stand in many sets; they are passed over.
fn usable(jwk: &Jwk) -> Option<Key> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    use jsonwebtoken::jwk::EllipticCurve;
    if jwk.common.public_key_use.as_ref().is_some_and(|it| *it != PublicKeyUse::Signature) {
        return None;
    }
    let by_kind = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => vec![RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => vec![ES256],
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P384 => vec![ES384],
        AlgorithmParameters::OctetKeyPair(_) => vec![EdDSA],
        _ => return None,
    };
    let named = jwk.common.key_algorithm.and_then(|name| name.to_string().parse::<Algorithm>().ok());
    let algorithms = by_kind.into_iter().filter(|it| named.is_none_or(|named| named == *it)).collect();
    Some(Key { id: jwk.common.key_id.clone(), algorithms, key: DecodingKey::from_jwk(jwk).ok()? })
}
