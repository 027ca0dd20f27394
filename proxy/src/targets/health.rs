//! Active health checks: a GET of the configured path on every address.
//!
//! Input: a running backend. Output: its endpoints' `healthy` flags. Must not: share pooled connections with traffic; a
//! check that could be answered by a warm connection says little about the next new one.

use crate::metrics::Metrics;
use crate::targets::backend::{Endpoint, RunningBackend};
use banyan_routes::backend::Health;
use pingora_core::connectors::http::Connector;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use tokio::task::JoinSet;

/// Checks until the backend is gone.
pub fn start(backend: &Arc<RunningBackend>, metrics: Arc<Metrics>) {
    metrics.backend_health.with_label_values(&[&*backend.definition.id]).set(backend.health_ratio());
    let Some(health) = backend.definition.health.clone() else { return };
    let backend = Arc::downgrade(backend);
    tokio::spawn(async move { follow(backend, health, metrics).await });
}

async fn follow(backend: Weak<RunningBackend>, health: Health, metrics: Arc<Metrics>) {
    let connector = Arc::new(Connector::<()>::new(None));
    loop {
        let Some(running) = backend.upgrade() else { return };
        // All at once: an address that hangs must not hide the others.
        let mut checks = JoinSet::new();
        for endpoint in running.endpoints().iter() {
            let (connector, running) = (connector.clone(), running.clone());
            let (endpoint, health) = (endpoint.clone(), health.clone());
            checks.spawn(async move {
                let result =
                    tokio::time::timeout(health.timeout, check(&connector, &running, &endpoint, &health))
                        .await;
                judge(&running, &endpoint, &health, matches!(result, Ok(Ok(()))));
            });
        }
        while checks.join_next().await.is_some() {}
        metrics.backend_health.with_label_values(&[&*running.definition.id]).set(running.health_ratio());
        drop(running);
        tokio::time::sleep(health.interval).await;
    }
}

async fn check(
    connector: &Connector,
    backend: &RunningBackend,
    endpoint: &Endpoint,
    health: &Health,
) -> Result<()> {
    let mut peer = endpoint.peer.clone();
    peer.options.connection_timeout = Some(health.timeout);
    peer.options.custom_l4 = Some(backend.dials.checks.clone());
    let (mut session, _) = connector.get_http_session(&peer).await?;
    let mut request = RequestHeader::build("GET", health.path.as_bytes(), Some(3))?;
    request.insert_header("Host", backend.host(endpoint).unwrap_or(&endpoint.authority))?;
    request.insert_header("User-Agent", "banyan-health")?;
    request.insert_header("Connection", "close")?;
    session.write_request_header(Box::new(request)).await?;
    session.finish_request_body().await?;
    session.read_response_header().await?;
    let status = session.response_header().map_or(0, |response| response.status.as_u16());
    session.shutdown().await;
    if (200..400).contains(&status) {
        Ok(())
    } else {
        Err(Error::explain(ErrorType::HTTPStatus(status), "health check"))
    }
}

/// Turns a state only after enough results in a row speak against it.
fn judge(backend: &RunningBackend, endpoint: &Endpoint, health: &Health, passed: bool) {
    let healthy = endpoint.healthy.load(Ordering::Relaxed);
    if passed == healthy {
        endpoint.contrary.store(0, Ordering::Relaxed);
        return;
    }
    let needed = if healthy { health.unhealthy_after } else { health.healthy_after };
    if endpoint.contrary.fetch_add(1, Ordering::Relaxed) + 1 >= needed {
        endpoint.healthy.store(passed, Ordering::Relaxed);
        endpoint.contrary.store(0, Ordering::Relaxed);
        tracing::warn!(backend = %backend.definition.id, address = %endpoint.address, healthy = passed, "health changed");
    }
}
