//! Once a second, what has changed of the evidence goes to its store and into the gauges.
//!
//! Input: the live routes. Output: rows of the store; bound and coverage of each route. Must not: hold up a shadow, or lose what could not be written: it is written
//! with the next second's.

use crate::evidence::Kept;
use crate::evidence::store::EvidenceStore;
use crate::live::LiveTable;
use crate::metrics::{Metrics, OTHER};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const EVERY: Duration = Duration::from_secs(1);

/// For ever.
pub async fn run(store: Arc<EvidenceStore>, live: Arc<LiveTable>, metrics: Arc<Metrics>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let (store, live, metrics) = (store.clone(), live.clone(), metrics.clone());
        // A disk may take its time; the thread that sends shadows does not wait for it.
        let _ = tokio::task::spawn_blocking(move || flush(&store, &live, &metrics)).await;
    }
}

pub fn flush(store: &EvidenceStore, live: &LiveTable, metrics: &Metrics) {
    let Some(live) = live.load() else { return };
    let now = SystemTime::now();
    let routes = live.serving.table.routes.iter().zip(&live.serving.routes);
    let known = routes.filter_map(|(route, runtime)| Some((&*route.id, runtime, runtime.evidence_if_any()?)));
    let changed: Vec<_> =
        known.filter_map(|(id, runtime, it)| Some((id, runtime, it, it.to_keep(now)?))).collect();
    if changed.is_empty() {
        return;
    }
    for (id, runtime, evidence, _) in &changed {
        let name = runtime.metrics.name(metrics, id);
        // Of many routes together they would say nothing.
        if name != OTHER {
            let brief = evidence.brief(now);
            metrics.parity_bound.with_label_values(&[name]).set(brief.upper_bound);
            metrics.coverage.with_label_values(&[name]).set(brief.coverage);
        }
    }
    let rows: Vec<(&str, Kept)> = changed.iter().map(|(id, _, _, kept)| (*id, kept.clone())).collect();
    if let Err(error) = store.keep(&rows) {
        metrics.evidence_store_errors.inc();
        tracing::warn!(%error, "evidence cannot be written; it stays in memory");
        for (_, _, evidence, kept) in &changed {
            evidence.keep_again(kept.windows.keys().copied());
        }
    }
}
