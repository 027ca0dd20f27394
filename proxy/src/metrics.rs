//! Every metric, declared once, with handles that cost nothing to find on the hot path.
//!
//! Input: events from hooks and the reload. Output: counters and histograms in the default registry, which `/metrics`
//! prints. Must not: take labels from the network: labels are route ids, enums and status codes.

mod connections;
mod egress;
mod listeners;
mod names;
mod spans;
mod route;
mod openmetrics;

pub use connections::Connections;
pub use egress::Egress;
pub use listeners::Listeners;
pub use names::{Names, OTHER};
pub use openmetrics::{CONTENT_TYPE as OPENMETRICS, text as openmetrics};
pub use route::{Exemplar, NONE, RouteMetrics, SHADOW_RESULTS, Seen};
pub use spans::Spans;

use pingora_prometheus::prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// Latency buckets in seconds: an on-prem hop is milliseconds, a cold start is seconds.
pub const LATENCY_BUCKETS_S: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Routes that get series of their own; more would make every scrape megabytes. What others do is counted as `other`.
pub const ROUTES_NAMED_MAX: usize = 2_000;

pub struct Metrics {
    pub registry: Registry,
    pub names: Names,
    pub requests: IntCounterVec,
    pub request_duration: HistogramVec,
    pub upstream_duration: HistogramVec,
    pub fallbacks: IntCounterVec,
    pub retries: IntCounterVec,
    pub unclaimed: IntCounter,
    pub refused: IntCounterVec,
    pub overrides_refused: IntCounter,
    pub route_stage: IntGaugeVec,
    pub route_share: GaugeVec,
    pub kill_switch: IntGaugeVec,
    pub backend_health: GaugeVec,
    pub breaker_state: IntGaugeVec,
    pub breaker_transitions: IntCounterVec,
    pub ejections: IntCounterVec,
    pub reload_successful: IntGauge,
    pub reload_timestamp: IntGauge,
    pub reload_seconds: HistogramVec,
    pub config_info: IntGaugeVec,
    pub log_dropped: IntCounter,
    pub inflight: IntGauge,
    pub resident: IntGauge,
    pub buffered: IntGauge,
    pub credentials_available: IntGauge,
    pub credentials_expiry: IntGauge,
    pub credentials_failures: IntCounter,
    pub connections: Connections,
    pub egress: Egress,
    pub listeners: Listeners,
    pub spans: Spans,
    pub authorizer_calls: IntCounterVec,
    pub limit_local: IntCounterVec,
    pub signature_refused: IntCounterVec,
    pub shadow: IntCounterVec,
    pub shadow_dropped: IntCounterVec,
    pub comparisons: IntCounterVec,
    pub controls: IntCounterVec,
    pub gate: IntGaugeVec,
    pub evidence_store_errors: IntCounter,
    pub parity_bound: GaugeVec,
    pub coverage: GaugeVec,
    pub lambda_billed: HistogramVec,
    pub lambda_cold_starts: IntCounterVec,
    pub lambda_errors: IntCounterVec,
    pub lambda_memory_configured: IntGaugeVec,
    pub lambda_memory_used: IntGaugeVec,
    pub lambda_cost: GaugeVec,
    pub lambda_warm_calls: IntCounterVec,
    pub store_up: IntGauge,
    pub controller: IntGauge,
    pub unsent: IntGauge,
    pub webhooks: IntCounterVec,
    pub admin_refused: IntCounterVec,
}

impl Metrics {
    /// Declares all of them in a registry of their own.
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let opts = |name: &str, help: &str| Opts::new(format!("banyan_{name}"), help);
        let latency = |name: &str, help: &str| {
            HistogramOpts::from(opts(name, help)).buckets(LATENCY_BUCKETS_S.to_vec())
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(opts(name, help), labels))
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntGaugeVec::new(opts(name, help), labels))
        };
        let single = |name: &str, help: &str| register(&registry, IntGauge::with_opts(opts(name, help)));
        let metrics = Metrics {
            requests: counter(
                "requests_total",
                "Requests answered, by who answered and why.",
                &["route", "side", "reason", "code"],
            ),
            request_duration: register(
                &registry,
                HistogramVec::new(
                    latency(
                        "request_duration_seconds",
                        "From the request's headers to the end of the response.",
                    ),
                    &["route", "side"],
                ),
            ),
            upstream_duration: register(
                &registry,
                HistogramVec::new(
                    latency(
                        "upstream_duration_seconds",
                        "From choosing an address to the backend's response headers.",
                    ),
                    &["backend"],
                ),
            ),
            fallbacks: counter(
                "fallbacks_total",
                "Tries on serverless that failed and went to legacy.",
                &["route"],
            ),
            retries: counter("retries_total", "Tries after the first on the same side.", &["route"]),
            unclaimed: register(
                &registry,
                IntCounter::with_opts(opts("unclaimed_total", "Requests that no route claims.")),
            ),
            refused: counter("refused_total", "Requests Banyan refused itself.", &["cause"]),
            overrides_refused: register(
                &registry,
                IntCounter::with_opts(opts(
                    "overrides_refused_total",
                    "Override headers that were unsigned, wrong or expired, and stripped.",
                )),
            ),
            route_stage: gauge("route_stage", "1 for the stage a route is in.", &["route", "stage"]),
            route_share: register(
                &registry,
                GaugeVec::new(
                    opts("route_share_ratio", "The part of the keys that goes to serverless."),
                    &["route", "kind"],
                ),
            ),
            kill_switch: gauge("kill_switch", "1 while a kill switch is on.", &["scope"]),
            breaker_state: gauge(
                "breaker_state",
                "Of a backend's breaker: 0 closed or none, 1 open, 2 half-open.",
                &["backend"],
            ),
            breaker_transitions: counter(
                "breaker_transitions_total",
                "Times a breaker opened or closed, or would have where it only observes.",
                &["backend", "to", "mode"],
            ),
            ejections: counter(
                "outlier_ejections_total",
                "Times an address was left out because it failed while others did not.",
                &["backend"],
            ),
            backend_health: register(
                &registry,
                GaugeVec::new(
                    opts("backend_health", "The part of a backend's addresses that is healthy."),
                    &["backend"],
                ),
            ),
            reload_successful: register(
                &registry,
                IntGauge::with_opts(opts(
                    "config_last_reload_successful",
                    "1 when the last reload of the rules was accepted.",
                )),
            ),
            reload_timestamp: register(
                &registry,
                IntGauge::with_opts(opts(
                    "config_last_reload_success_timestamp_seconds",
                    "When rules were last accepted, in Unix time.",
                )),
            ),
            reload_seconds: register(
                &registry,
                HistogramVec::new(
                    latency("config_reload_duration_seconds", "Reading, compiling and publishing the rules."),
                    &["result"],
                ),
            ),
            config_info: gauge("config_info", "1 for the revision that serves.", &["revision"]),
            log_dropped: register(
                &registry,
                IntCounter::with_opts(opts(
                    "access_log_dropped_total",
                    "Access log lines dropped because the writer was behind.",
                )),
            ),
            inflight: register(
                &registry,
                IntGauge::with_opts(opts("requests_in_flight", "Requests being served now.")),
            ),
            resident: register(
                &registry,
                IntGauge::with_opts(opts(
                    "resident_memory_bytes",
                    "Memory of the process, as the kernel sees it.",
                )),
            ),
            buffered: register(
                &registry,
                IntGauge::with_opts(opts(
                    "buffered_bytes",
                    "Request bodies held whole, for functions and signatures.",
                )),
            ),
            credentials_available: register(
                &registry,
                IntGauge::with_opts(opts(
                    "credentials_available",
                    "1 while AWS credentials are at hand and have not expired.",
                )),
            ),
            credentials_expiry: register(
                &registry,
                IntGauge::with_opts(opts(
                    "credentials_expiry_timestamp_seconds",
                    "When the AWS credentials expire, in Unix time; 0 when they do not.",
                )),
            ),
            credentials_failures: register(
                &registry,
                IntCounter::with_opts(opts(
                    "credentials_failures_total",
                    "Attempts to get AWS credentials that failed.",
                )),
            ),
            connections: Connections::new(&registry),
            egress: Egress::new(&registry),
            listeners: Listeners::new(&registry),
            spans: Spans::new(&registry),
            names: Names::default(),
            limit_local: counter(
                "limit_local_total",
                "Requests of shared limits that were judged by this replica's share, because the store did not answer.",
                &["route"],
            ),
            authorizer_calls: counter(
                "authorizer_calls_total",
                "Questions to external authorizers, by what came of them: verdict, unknown, failed.",
                &["authorizer", "outcome"],
            ),
            signature_refused: counter(
                "signature_refused_total",
                "Signed requests that AWS refused for their signature or credentials.",
                &["backend"],
            ),
            shadow: counter(
                "shadow_total",
                "Copies sent to the other side, by what came of them.",
                &["route", "result"],
            ),
            shadow_dropped: counter(
                "shadow_dropped_total",
                "Requests that could have been compared and were not, by cause.",
                &["route", "cause"],
            ),
            comparisons: counter(
                "comparisons_total",
                "Comparisons of both sides' answers, by verdict.",
                &["route", "verdict"],
            ),
            store_up: single("store_up", "1 while state can be kept."),
            controller: single("controller", "1 on the replica that raises shares."),
            unsent: single("state_unsent", "Ways back that are in force here and not kept yet."),
            webhooks: counter(
                "webhooks_total",
                "Deliveries, and questions before a raise.",
                &["webhook", "result"],
            ),
            admin_refused: counter(
                "admin_refused_total",
                "Requests to the admin API that were refused.",
                &["cause"],
            ),
            gate: gauge(
                "gate",
                "What keeps a ramp where it is, ends it, or lets it go on.",
                &["route", "gate", "verdict"],
            ),
            controls: counter(
                "controls_total",
                "Requests sent to legacy a second time, by how its two answers compare.",
                &["route", "verdict"],
            ),
            evidence_store_errors: register(
                &registry,
                IntCounter::with_opts(opts(
                    "evidence_store_errors_total",
                    "Times evidence could not be written or read; it stays in memory.",
                )),
            ),
            parity_bound: register(
                &registry,
                GaugeVec::new(
                    opts(
                        "parity_upper_bound_ratio",
                        "At most this part of the answers differs, with 95 % confidence.",
                    ),
                    &["route"],
                ),
            ),
            coverage: register(
                &registry,
                GaugeVec::new(
                    opts("coverage_ratio", "The part of the requests that could be compared and was."),
                    &["route"],
                ),
            ),
            lambda_billed: register(
                &registry,
                HistogramVec::new(
                    latency("lambda_billed_seconds", "Time billed per call, from the log's REPORT line."),
                    &["route", "function"],
                ),
            ),
            lambda_cold_starts: counter(
                "lambda_cold_starts_total",
                "Calls that started a new instance, from the log's REPORT line.",
                &["route", "function"],
            ),
            lambda_errors: counter(
                "lambda_errors_total",
                "Calls of functions that failed, by what failed.",
                &["backend", "code"],
            ),
            lambda_memory_configured: gauge(
                "lambda_memory_configured_bytes",
                "Memory a function is configured with, from the log's REPORT line.",
                &["function"],
            ),
            lambda_memory_used: gauge(
                "lambda_memory_used_bytes",
                "The most memory a call of the function has used.",
                &["function"],
            ),
            lambda_cost: register(
                &registry,
                GaugeVec::new(
                    opts(
                        "lambda_cost_per_million_requests",
                        "Estimated price of a million requests, in the currency of the price table.",
                    ),
                    &["route", "function"],
                ),
            ),
            lambda_warm_calls: counter(
                "lambda_warm_calls_total",
                "Calls made to keep or make instances ready.",
                &["backend", "result"],
            ),
            registry: registry.clone(),
        };
        let build = gauge("build_info", "1 for the version that runs.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics
    }

    /// The Prometheus text format.
    pub fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

/// Names and labels above are literals: an error here is a typo that the first test finds.
fn register<T>(registry: &Registry, metric: pingora_prometheus::prometheus::Result<T>) -> T
where
    T: pingora_prometheus::prometheus::core::Collector + Clone + 'static,
{
    #[expect(clippy::expect_used, reason = "a metric declared wrongly cannot reach a release")]
    let metric = metric.expect("metric declaration");
    #[expect(clippy::expect_used, reason = "a metric declared twice cannot reach a release")]
    registry.register(Box::new(metric.clone())).expect("metric declared once");
    metric
}
