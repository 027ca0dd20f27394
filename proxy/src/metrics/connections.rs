//! Connections to backends, who waits for one, and the ports they take.
//!
//! Input: what backends have open, once a second, and what is opened. Output: gauges and a histogram. Must not: take labels from the network.

use super::{LATENCY_BUCKETS_S, register};
use pingora_prometheus::prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntGaugeVec, Opts, Registry};

pub struct Connections {
    pub open: IntGaugeVec,
    pub queue: HistogramVec,
    pub wait: GaugeVec,
    pub egress_wait: GaugeVec,
    pub ports: IntGaugeVec,
}

impl Connections {
    pub(super) fn new(registry: &Registry) -> Connections {
        let opts = |name: &str, help: &str| Opts::new(name, help).namespace("banyan");
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            register(registry, IntGaugeVec::new(opts(name, help), labels))
        };
        let help = "How long requests waited for a connection of a backend with a cap.";
        let queue =
            HistogramOpts::from(opts("backend_queue_seconds", help)).buckets(LATENCY_BUCKETS_S.to_vec());
        let longest = "How long the one has waited who waits longest now.";
        let wait = |name: &str, label: &str| register(registry, GaugeVec::new(opts(name, longest), &[label]));
        let states = "Connections in use and idle, and callers queued for one.";
        Connections {
            open: gauge("backend_connections", states, &["backend", "state"]),
            queue: register(registry, HistogramVec::new(queue, &["backend"])),
            wait: wait("backend_queue_wait_seconds", "backend"),
            egress_wait: wait("egress_queue_wait_seconds", "rule"),
            ports: gauge(
                "source_ports",
                "Ports in use, by the address they belong to and where they lead.",
                &["source", "destination"],
            ),
        }
    }
}
