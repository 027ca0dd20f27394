//! The hand-over from the workers to the shadow's own runtime: bounded, and never waited for.
//!
//! Input: finished requests. Output: the same, on the other side of a queue. Must not: block; what does not fit is dropped
//! and counted by its cause (law 1).

use crate::brings::Brings;
use crate::facts::Client;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::shadow::tee::{Budget, Capture};
use crate::trace::Trace;
use banyan_routes::decide::Decision;
use banyan_routes::evidence::Loss;
use banyan_routes::table::Found;
use pingora_http::RequestHeader;
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Exchanges that may wait.
const QUEUE: usize = 1_024;
/// Bytes that captures and waiting exchanges may keep, all together.
const BYTES_MAX: usize = 64 << 20;

/// A request as it came, and where it belongs.
pub struct Ask {
    pub live: Arc<Live>,
    pub found: Found,
    pub decision: Decision,
    pub client: Client,
    pub public_host: Box<str>,
    pub brings: Brings,
    pub trace: Trace,
    /// Of the copy: a span of its own below that of the request.
    pub shadow: Trace,
    pub head: RequestHeader,
    pub http2: bool,
}

/// A finished request, ready to be sent again and compared.
pub struct Exchange {
    pub ask: Ask,
    pub capture: Box<Capture>,
}

impl Exchange {
    pub fn route(&self) -> &str {
        &self.ask.live.serving.table.route(self.ask.found.route).id
    }
}

/// The workers' end.
pub struct ShadowQueue {
    sender: Sender<Exchange>,
    pub budget: Arc<Budget>,
    metrics: Arc<Metrics>,
}

impl ShadowQueue {
    pub fn new(metrics: Arc<Metrics>) -> (ShadowQueue, Receiver<Exchange>) {
        let (sender, receiver) = channel(QUEUE);
        (ShadowQueue { sender, budget: Arc::new(Budget::new(BYTES_MAX)), metrics }, receiver)
    }

    /// Whether it is worth keeping anything of a request that begins now.
    pub fn has_room(&self) -> bool {
        self.sender.capacity() > 0
    }

    /// Hands over, or drops; whether it was handed over.
    pub fn offer(&self, exchange: Exchange, whole: bool) -> bool {
        let capture = &exchange.capture;
        let cause = if !whole {
            Some(Loss::Aborted)
        } else if capture.request.starved || capture.answer.starved {
            Some(Loss::Bytes)
        } else if capture.request.truncated && capture.shadow.is_some() {
            Some(Loss::TooLarge)
        } else {
            None
        };
        if let Some(cause) = cause {
            drop_exchange(&self.metrics, &exchange, cause);
            return false;
        }
        match self.sender.try_send(exchange) {
            Ok(()) => true,
            Err(refused) => {
                drop_exchange(&self.metrics, &refused.into_inner(), Loss::QueueFull);
                false
            }
        }
    }
}

/// Counts a loss.
pub fn drop_exchange(metrics: &Metrics, exchange: &Exchange, loss: Loss) {
    let runtime = &exchange.ask.live.serving.routes[exchange.ask.found.route as usize];
    runtime.lose_of(exchange.ask.live.number, metrics, exchange.route(), loss);
}
