//! Keys of clients, each with the room its plan gives it.
//!
//! Input: the value of `X-Api-Key`. Output: whose it is, and whether it has room. Must not: lock, or give a key new room because another one
//! was added.

use crate::aws::secrets::Secrets;
use crate::rate::quota;
use crate::settings::{ApiKey, ApiKeys, Digest};
use arc_swap::ArcSwap;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, RateLimiter};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

struct Client {
    key: ApiKey,
    limiter: DefaultDirectRateLimiter,
}

type Clients = HashMap<[u8; 32], Arc<Client>>;

/// The file, read again on HUP and when a secret of it has changed.
pub struct HotKeys {
    path: PathBuf,
    secrets: Arc<Secrets>,
    current: ArcSwap<Clients>,
}

/// Why a key is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Missing,
    Unknown,
    /// It is of another plan.
    Plan,
    Spent(Duration),
}

impl HotKeys {
    pub fn load(path: &Path, secrets: Arc<Secrets>) -> Result<HotKeys, String> {
        let clients = prepared(ApiKeys::load(path, &secrets)?, &Clients::default());
        Ok(HotKeys { path: path.to_owned(), secrets, current: ArcSwap::from_pointee(clients) })
    }

    /// A file with a fault keeps the keys that were.
    pub fn reload(&self) {
        match ApiKeys::load(&self.path, &self.secrets) {
            Ok(keys) => self.current.store(Arc::new(prepared(keys, &self.current.load()))),
            Err(error) => tracing::error!(error, "API keys not read; the old ones stay"),
        }
    }

    /// The plan of a key that is known.
    pub fn plan(&self, key: &[u8]) -> Option<Box<str>> {
        Some(self.current.load().get(&Digest::of(key).0)?.key.plan.as_str().into())
    }

    pub fn admits(&self, key: Option<&[u8]>, plan: &str) -> Result<(), Refused> {
        let digest = Digest::of(key.ok_or(Refused::Missing)?);
        let clients = self.current.load();
        let client = clients.get(&digest.0).ok_or(Refused::Unknown)?;
        if client.key.plan != plan {
            return Err(Refused::Plan);
        }
        let wait = |until: governor::NotUntil<_>| until.wait_time_from(DefaultClock::default().now());
        client.limiter.check().map_err(|until| Refused::Spent(wait(until)))
    }
}

fn prepared(keys: ApiKeys, known: &Clients) -> Clients {
    let client = |(digest, key): ([u8; 32], ApiKey)| {
        let same =
            known.get(&digest).filter(|client| client.key.limit == key.limit && client.key.plan == key.plan);
        let fresh = || Arc::new(Client { limiter: RateLimiter::direct(quota(&key.limit)), key: key.clone() });
        (digest, same.cloned().unwrap_or_else(fresh))
    };
    keys.0.into_iter().map(client).collect()
}
