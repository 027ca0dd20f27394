//! What goes out by egress rules.
//!
//! Input: events of `egress`. Output: counters and gauges by rule. Must not: take labels from the network: rules and our own addresses only.

use super::{LATENCY_BUCKETS_S, register};
use pingora_prometheus::prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
};

pub struct Egress {
    pub connections: IntCounterVec,
    pub open: IntGaugeVec,
    pub queued: IntGaugeVec,
    pub queue: HistogramVec,
    pub bytes: IntCounterVec,
}

impl Egress {
    pub(super) fn new(registry: &Registry) -> Egress {
        let opts = |name: &str, help: &str| Opts::new(name, help).namespace("banyan");
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(registry, IntCounterVec::new(opts(name, help), labels))
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            register(registry, IntGaugeVec::new(opts(name, help), labels))
        };
        let queue =
            HistogramOpts::from(opts("egress_queue_seconds", "How long callers waited for a connection."));
        let queue = HistogramVec::new(queue.buckets(LATENCY_BUCKETS_S.to_vec()), &["rule"]);
        let by_source = "Open connections of egress rules, by the address they come from.";
        Egress {
            connections: counter("egress_connections_total", "Connections made by egress rules.", &["rule"]),
            open: gauge("egress_connections", by_source, &["rule", "source"]),
            queued: gauge("egress_queued", "Callers that wait for a connection.", &["rule"]),
            queue: register(registry, queue),
            bytes: counter("egress_bytes_total", "Bytes that went through.", &["rule", "direction"]),
        }
    }
}
