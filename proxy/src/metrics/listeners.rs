//! What is to be known of listeners before it is too late.
//!
//! Input: their certificates, as they are read. Output: gauges by listener. Must not: read files.

use super::register;
use pingora_prometheus::prometheus::{IntGaugeVec, Opts, Registry};

pub struct Listeners {
    pub certificate_expiry: IntGaugeVec,
}

impl Listeners {
    pub(super) fn new(registry: &Registry) -> Listeners {
        let help = "When a listener's certificate ends.";
        let opts = Opts::new("certificate_expiry_timestamp_seconds", help).namespace("banyan");
        Listeners { certificate_expiry: register(registry, IntGaugeVec::new(opts, &["listener"])) }
    }
}
