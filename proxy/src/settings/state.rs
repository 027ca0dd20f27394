//! Where state lives: in this process's directory, or in a store that a fleet shares.
//!
//! Input: `state:` of the settings. Output: the directory, and how the store is reached. Must not: reach it.

use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawState {
    #[serde(default)]
    store: Store,
    pub(super) dir: Option<PathBuf>,
    url: Option<String>,
    url_file: Option<PathBuf>,
    prefix: Option<String>,
    ca: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Store {
    #[default]
    Embedded,
    Redis,
}

/// Redis or Valkey, one node or a managed service's primary endpoint.
#[derive(Clone)]
pub struct FleetSettings {
    /// `redis://`, or `rediss://` for TLS; may hold a password.
    pub url: String,
    /// In front of every key, so that several fleets can share a store.
    pub prefix: String,
    /// PEM; the system's authorities when absent.
    pub ca: Option<Vec<u8>>,
}

impl std::fmt::Debug for FleetSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FleetSettings").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

pub(super) fn lower(
    raw: &RawState,
    resolve: &impl Fn(PathBuf) -> PathBuf,
) -> Result<Option<FleetSettings>, String> {
    let given = [
        ("url", raw.url.is_some()),
        ("url_file", raw.url_file.is_some()),
        ("prefix", raw.prefix.is_some()),
        ("ca", raw.ca.is_some()),
    ];
    if raw.store == Store::Embedded {
        let alien = given.iter().find(|(_, given)| *given);
        return match alien {
            Some((field, _)) => {
                Err(format!("state.{field}: is of `store: redis`; the embedded store has none"))
            }
            None => Ok(None),
        };
    }
    let read = |field: &str, path: &Path| {
        let path = resolve(path.to_owned());
        std::fs::read(&path).map_err(|error| format!("state.{field}: {}: {error}", path.display()))
    };
    let url =
        match (&raw.url, &raw.url_file) {
            (Some(url), None) => url.clone(),
            (None, Some(path)) => String::from_utf8_lossy(&read("url_file", path)?).trim().to_owned(),
            _ => return Err(
                "state.url: `store: redis` needs `url` or `url_file`, for example `redis://10.1.2.3:6379`"
                    .into(),
            ),
        };
    if !url.starts_with("redis://") && !url.starts_with("rediss://") {
        return Err("state.url: expected `redis://host:port`, or `rediss://host:port` for TLS".into());
    }
    let prefix = raw.prefix.clone().unwrap_or_else(|| "banyan".into());
    if !banyan_routes::ids::valid_name(&prefix) {
        return Err(format!("state.prefix: `{prefix}`; expected letters, digits, `-`, `_` and `.`"));
    }
    Ok(Some(FleetSettings { url, prefix, ca: raw.ca.as_deref().map(|path| read("ca", path)).transpose()? }))
}
