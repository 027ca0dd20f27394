//! Names of backends -> addresses, in the background, with the TTL of the answer.
//!
//! Input: the backends that run. Output: their addresses, set whenever they change. Must not: be waited for by a request; when
//! a name cannot be resolved the last addresses stay.

use crate::targets::backend::RunningBackend;
use banyan_routes::table::Origin;
use hickory_resolver::TokioResolver;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Names change no faster than this, and a record with TTL 0 would otherwise be asked for without end.
const TTL_MIN: Duration = Duration::from_secs(1);
/// However long a TTL is, a move is seen within this.
const TTL_MAX: Duration = Duration::from_secs(60);
/// After a failed look-up; also how long the first one may take before a rule set is published without it.
const RETRY: Duration = Duration::from_secs(2);

pub struct Resolver {
    dns: Option<TokioResolver>,
}

impl Resolver {
    /// By /etc/resolv.conf and /etc/hosts. Call inside a tokio runtime.
    pub fn new() -> Resolver {
        let dns = TokioResolver::builder_tokio().and_then(|builder| builder.build());
        if let Err(error) = &dns {
            tracing::warn!(%error, "no resolver: backends can be given by address only");
        }
        Resolver { dns: dns.ok() }
    }

    async fn addresses(&self, origin: &Origin) -> Result<(Vec<IpAddr>, Duration), String> {
        if let Ok(address) = origin.host.parse::<IpAddr>() {
            return Ok((vec![address], Duration::MAX));
        }
        let dns = self.dns.as_ref().ok_or("no resolver is configured")?;
        let answer = dns.lookup_ip(&*origin.host).await.map_err(|error| error.to_string())?;
        let ttl = answer.valid_until().saturating_duration_since(Instant::now()).clamp(TTL_MIN, TTL_MAX);
        let mut addresses: Vec<IpAddr> = answer.iter().collect();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() { Err("the answer holds no address".into()) } else { Ok((addresses, ttl)) }
    }

    /// Resolves all origins of one backend once; what fails keeps its last addresses. Returns when to ask again.
    async fn refresh(&self, backend: &RunningBackend, last: &mut Vec<Vec<IpAddr>>) -> Duration {
        last.resize(backend.origins.len(), Vec::new());
        let mut again = Duration::MAX;
        let mut changed = false;
        for (origin, last) in backend.origins.iter().zip(last.iter_mut()) {
            match self.addresses(origin).await {
                Ok((addresses, ttl)) => {
                    again = again.min(ttl);
                    changed |= *last != addresses;
                    *last = addresses;
                }
                Err(error) => {
                    again = again.min(RETRY);
                    tracing::warn!(backend = %backend.definition.id, host = %origin.host, %error, "name not resolved; the last addresses stay");
                }
            }
        }
        if changed {
            backend.set_addresses(last);
        }
        again
    }

    /// Resolves now, waiting a bounded time, then keeps the addresses fresh until the backend is gone.
    pub async fn start(self: &Arc<Self>, backend: &Arc<RunningBackend>) {
        let mut last = Vec::new();
        let first = tokio::time::timeout(RETRY, self.refresh(backend, &mut last)).await;
        let again = first.unwrap_or(RETRY);
        if again == Duration::MAX {
            return;
        }
        let (resolver, backend) = (Arc::clone(self), Arc::downgrade(backend));
        tokio::spawn(async move { resolver.follow(backend, last, again).await });
    }

    async fn follow(&self, backend: Weak<RunningBackend>, mut last: Vec<Vec<IpAddr>>, mut again: Duration) {
        loop {
            tokio::time::sleep(again).await;
            let Some(backend) = backend.upgrade() else { return };
            again = self.refresh(&backend, &mut last).await;
        }
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Resolver::new()
    }
}
