//! Who issues tokens that we verify.
//!
//! Input: `issuers` of the settings. Output: issuers with their algorithms and audiences. Must not: fetch anything.

use banyan_routes::units::Span;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawIssuer {
    name: String,
    issuer: String,
    jwks: String,
    audiences: Vec<String>,
    #[serde(default)]
    algorithms: Vec<String>,
    clock_skew: Option<Span>,
    refresh: Option<Span>,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySet {
    Url(http::Uri),
    File(PathBuf),
}

#[derive(Clone, Debug)]
pub struct Issuer {
    /// As rules call it.
    pub name: String,
    /// As its tokens call it: `iss`.
    pub issuer: String,
    pub keys: KeySet,
    /// One of them must be in `aud`.
    pub audiences: Vec<String>,
    pub algorithms: Vec<Algorithm>,
    pub clock_skew: Duration,
    pub refresh: Duration,
}

/// Public keys only: with a shared secret, who can verify can sign.
const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

pub fn lower(raw: Vec<RawIssuer>, resolve: &impl Fn(PathBuf) -> PathBuf) -> Result<Vec<Issuer>, String> {
    let mut issuers: Vec<Issuer> = Vec::new();
    for raw in raw {
        let at = format!("issuers: `{}`", raw.name);
        if !banyan_routes::ids::valid_name(&raw.name) || issuers.iter().any(|it| it.name == raw.name) {
            return Err(format!("{at}: expected a name of its own, of letters, digits, `-`, `_` and `.`"));
        }
        if issuers.iter().any(|it| it.issuer == raw.issuer) {
            return Err(format!("{at}: issuer `{}` is there already", raw.issuer));
        }
        if raw.audiences.is_empty() {
            return Err(format!(
                "{at}: without audiences a token for anybody would do; expected at least one"
            ));
        }
        let known = |name: &String| {
            let found = ALGORITHMS.iter().find(|(known, _)| known == name).map(|(_, algorithm)| *algorithm);
            let names: Vec<&str> = ALGORITHMS.iter().map(|(name, _)| *name).collect();
            found.ok_or_else(|| format!("{at}: algorithm `{name}`; expected some of {}", names.join(", ")))
        };
        let algorithms = raw.algorithms.iter().map(known).collect::<Result<Vec<Algorithm>, String>>()?;
        let keys = if raw.jwks.contains("://") {
            KeySet::Url(raw.jwks.parse().map_err(|error| format!("{at}: jwks: {error}"))?)
        } else {
            KeySet::File(resolve(PathBuf::from(&raw.jwks)))
        };
        issuers.push(Issuer {
            name: raw.name,
            issuer: raw.issuer,
            keys,
            audiences: raw.audiences,
            algorithms: if algorithms.is_empty() {
                vec![Algorithm::RS256, Algorithm::ES256]
            } else {
                algorithms
            },
            clock_skew: raw.clock_skew.map_or(Duration::from_secs(60), |span| span.0),
            refresh: raw.refresh.map_or(Duration::from_secs(600), |span| span.0.max(Duration::from_secs(1))),
        });
    }
    Ok(issuers)
}
