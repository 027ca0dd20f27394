//! Connections from endpoints and to backends, who waits for one, and the ports they take.
//!
//! Input: what backends have open, once a second, and what is opened. Output: gauges, a histogram and a counter. Must not: take labels from the
//! network, but for endpoints that a balancer names, and of those a bounded number.

use super::{LATENCY_BUCKETS_S, register};
use pingora_prometheus::prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
};
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

pub struct Connections {
    pub open: IntGaugeVec,
    pub queue: HistogramVec,
    pub wait: GaugeVec,
    pub egress_wait: GaugeVec,
    pub ports: IntGaugeVec,
    endpoints: IntCounterVec,
    /// That have a series of their own.
    known: Mutex<HashSet<Box<str>>>,
}

/// Endpoints with a series of their own; the others share one.
const ENDPOINTS_MAX: usize = 200;

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
        let by_end = "Connections with a PROXY header, by the VPC endpoint that it names.";
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
            endpoints: register(
                registry,
                IntCounterVec::new(opts("endpoint_connections_total", by_end), &["endpoint"]),
            ),
            known: Mutex::default(),
        }
    }

    /// Who has come, by the endpoint of its network; `none` where there is none, `other` where there are too many.
    pub fn arrived(&self, endpoint: Option<&str>) {
        let label = endpoint.map_or("none", |endpoint| {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let has_series =
                known.contains(endpoint) || known.len() < ENDPOINTS_MAX && known.insert(endpoint.into());
            if has_series { endpoint } else { "other" }
        });
        self.endpoints.with_label_values(&[label]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_endpoints_share_a_series() {
        let registry = Registry::new();
        let connections = Connections::new(&registry);
        for number in 0..1_000 {
            connections.arrived(Some(&format!("vpce-{}", number % 500)));
        }
        connections.arrived(None);
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == "banyan_endpoint_connections_total");
        assert_eq!(family.map(|family| family.get_metric().len()), Some(ENDPOINTS_MAX + 2));
        assert_eq!(connections.endpoints.with_label_values(&["vpce-7"]).get(), 2);
        assert_eq!(connections.endpoints.with_label_values(&["other"]).get(), 600);
    }
}
