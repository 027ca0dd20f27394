//! What becomes of spans, and of who watches decisions as they are made.
//!
//! Input: the exporter and the taps. Output: counters. Must not: name a collector.

use super::register;
use pingora_prometheus::prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

pub struct Spans {
    /// By `result`: sent, failed, dropped.
    pub spans: IntCounterVec,
    pub taps: IntGauge,
    pub tap_dropped: IntCounter,
}

impl Spans {
    pub(super) fn new(registry: &Registry) -> Spans {
        let opts = |name: &str, help: &str| Opts::new(name, help).namespace("banyan");
        let spans =
            opts("spans_total", "Spans for the collector, by what became of them: sent, failed, dropped.");
        let taps = opts("taps", "Streams of live decisions that are open.");
        let dropped = opts("tap_dropped_total", "Decisions that a stream's reader was too slow for.");
        let spans = register(registry, IntCounterVec::new(spans, &["result"]));
        // There from the beginning, so that the first loss is an increase.
        for result in ["sent", "failed", "dropped"] {
            spans.with_label_values(&[result]);
        }
        Spans {
            spans,
            taps: register(registry, IntGauge::with_opts(taps)),
            tap_dropped: register(registry, IntCounter::with_opts(dropped)),
        }
    }
}
