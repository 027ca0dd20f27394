//! Names of backends -> addresses, in the background, with the TTL of the answer.
//!
//! Input: the backends that run. Output: their addresses, set whenever they change. Must not: be waited for by a request; when
//! a name cannot be resolved the last addresses stay.

use crate::client::dns::Resolver;
use crate::targets::backend::RunningBackend;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// After a failed look-up; also how long the first one may take before a rule set is published without it.
const RETRY: Duration = Duration::from_secs(2);

/// Resolves now, waiting a bounded time, then keeps the addresses fresh until the backend is gone.
pub async fn start(resolver: &Arc<Resolver>, backend: &Arc<RunningBackend>) {
    let mut last = Vec::new();
    let first = tokio::time::timeout(RETRY, refresh(resolver, backend, &mut last)).await;
    let again = first.unwrap_or(RETRY);
    if again == Duration::MAX {
        return;
    }
    let (resolver, backend) = (Arc::clone(resolver), Arc::downgrade(backend));
    tokio::spawn(async move { follow(resolver, backend, last, again).await });
}

async fn follow(
    resolver: Arc<Resolver>,
    backend: Weak<RunningBackend>,
    mut last: Vec<Vec<IpAddr>>,
    mut again: Duration,
) {
    loop {
        tokio::time::sleep(again).await;
        let Some(backend) = backend.upgrade() else { return };
        again = refresh(&resolver, &backend, &mut last).await;
    }
}

/// Resolves all origins of one backend once; what fails keeps its last addresses. Returns when to ask again.
async fn refresh(resolver: &Resolver, backend: &RunningBackend, last: &mut Vec<Vec<IpAddr>>) -> Duration {
    last.resize(backend.origins.len(), Vec::new());
    let mut again = Duration::MAX;
    let mut changed = false;
    for (origin, last) in backend.origins.iter().zip(last.iter_mut()) {
        match resolver.addresses(&origin.host).await {
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
