//! Keys of clients, and how much each plan allows.
//!
//! Input: the file that `api_keys` names. Output: the plan of a key. Must not: hold a key in the clear.

use super::secrets::{Digest, SecretAt};
use crate::aws::secrets::Secrets;
use banyan_routes::table::LimitRule;
use banyan_routes::terms::KeySource;
use banyan_routes::units::Rate;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    version: u32,
    plans: BTreeMap<String, RawPlan>,
    keys: Vec<RawKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPlan {
    rate: Rate,
    burst: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKey {
    name: String,
    plan: String,
    sha256: Option<String>,
    file: Option<PathBuf>,
    env: Option<String>,
    secret: Option<String>,
}

/// One client.
#[derive(Clone, Debug)]
pub struct ApiKey {
    pub name: String,
    pub plan: String,
    pub limit: LimitRule,
}

#[derive(Clone, Debug, Default)]
pub struct ApiKeys(pub HashMap<[u8; 32], ApiKey>);

impl ApiKeys {
    pub fn load(path: &Path, secrets: &Secrets) -> Result<ApiKeys, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let base = path.parent().unwrap_or(Path::new(""));
        read(&text, base, secrets).map_err(|error| format!("{}: {error}", path.display()))
    }
}

fn read(text: &str, base: &Path, secrets: &Secrets) -> Result<ApiKeys, String> {
    let raw: RawFile = serde_path_to_error::deserialize(serde_yaml::Deserializer::from_str(text))
        .map_err(|error| format!("{}: {}", error.path(), error.inner()))?;
    if raw.version != 1 {
        return Err(format!("version: {} is not known; expected 1", raw.version));
    }
    let mut keys = ApiKeys::default();
    for (number, key) in raw.keys.into_iter().enumerate() {
        let at = format!("keys[{number}] ({})", key.name);
        let plan =
            raw.plans.get(&key.plan).ok_or_else(|| format!("{at}: no plan is called `{}`", key.plan))?;
        let told = SecretAt { sha256: key.sha256, file: key.file, env: key.env, secret: key.secret };
        let digest = Digest::read(&told, base, secrets).map_err(|error| format!("{at}: {error}"))?;
        // Whose secret is not at hand is nobody, until it is.
        let Some(digest) = digest else { continue };
        if keys.0.values().any(|other| other.name == key.name) {
            return Err(format!("{at}: expected a name of its own"));
        }
        let (count, per_secs) = (plan.rate.count, plan.rate.per_secs);
        let burst = plan.burst.unwrap_or_else(|| u32::try_from(count).unwrap_or(u32::MAX));
        let limit = LimitRule { key: KeySource::ClientIp, count, per_secs, burst, shared: false };
        let key = ApiKey { name: key.name, plan: key.plan, limit };
        if keys.0.insert(digest.0, key).is_some() {
            return Err(format!("{at}: another name has the same key"));
        }
    }
    Ok(keys)
}
