//! Calls that keep a function's instances ready: from time to time, and before more users are sent to it.
//!
//! Input: a running backend whose function says `warm`. Output: that many calls at once, counted. Must not: hold anything up for
//! longer than its callers say.

use crate::targets::backend::RunningBackend;
use crate::targets::probe;
use crate::targets::supplies::Supplies;
use banyan_routes::backend::Warming;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::JoinSet;

/// What the function may tell a warming call by.
pub const HEADER: &str = "x-banyan-warm";
/// A cold start takes seconds; a call that takes longer than this warms nobody.
const CALL_MAX: Duration = Duration::from_secs(30);

/// Repeats until the backend is gone.
pub fn start(backend: &Arc<RunningBackend>, supplies: &Arc<Supplies>) {
    let every = warming(backend).and_then(|warming| warming.every);
    let Some(every) = every else { return };
    let (backend, supplies) = (Arc::downgrade(backend), supplies.clone());
    tokio::spawn(async move { follow(backend, supplies, every).await });
}

async fn follow(backend: Weak<RunningBackend>, supplies: Arc<Supplies>, every: Duration) {
    loop {
        let Some(running) = backend.upgrade() else { return };
        calls(&running, &supplies).await;
        drop(running);
        tokio::time::sleep(every).await;
    }
}

fn warming(backend: &RunningBackend) -> Option<&Warming> {
    backend.function.as_ref()?.target.warm.as_ref()
}

/// All calls of one round, at the same time: only calls that overlap start more than one instance.
pub async fn calls(backend: &Arc<RunningBackend>, supplies: &Arc<Supplies>) {
    let Some(warming) = warming(backend) else { return };
    let mut round = JoinSet::new();
    for _ in 0..warming.concurrency {
        let (backend, supplies) = (backend.clone(), supplies.clone());
        round.spawn(async move {
            let result = tokio::time::timeout(CALL_MAX, call(&backend, &supplies)).await;
            let word = if matches!(result, Ok(Ok(()))) { "answered" } else { "failed" };
            supplies.metrics.lambda_warm_calls.with_label_values(&[&*backend.definition.id, word]).inc();
            if let Ok(Err(error)) = result {
                tracing::warn!(backend = %backend.definition.id, error, "warming call failed");
            }
        });
    }
    while round.join_next().await.is_some() {}
}

async fn call(backend: &RunningBackend, supplies: &Supplies) -> Result<(), String> {
    let (Some(function), Some(warming)) = (&backend.function, warming(backend)) else { return Ok(()) };
    probe::function(backend, function, supplies, &warming.path, (HEADER, "1"), CALL_MAX).await.map(drop)
}
