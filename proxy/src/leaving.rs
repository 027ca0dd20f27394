//! The way out of a process: who is still here, and what they are told.
//!
//! Input: the word to drain, or that a successor serves. Output: for each connection a watch that tells it to end well; the count of
//! connections. Must not: end anything itself.

use pingora_core::server::ShutdownWatch;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use tokio::sync::watch;

const SERVING: u8 = 0;
const DRAINING: u8 = 1;
const SUCCEEDED: u8 = 2;

/// Connections are told by watches of our own: the framework's ends with the accepting of new ones, which comes later.
pub struct Leaving {
    phase: AtomicU8,
    /// For connections that were there when it began.
    retire: watch::Sender<bool>,
    /// For those that came since: told at once, a client of HTTP/2 that comes back would be sent away again and again.
    closing: watch::Sender<bool>,
    /// For those that rest between two requests.
    resting: watch::Sender<bool>,
    connections: AtomicUsize,
}

/// Given back when the connection ends.
pub struct Connection(Arc<Leaving>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Leaving {
    fn default() -> Leaving {
        Leaving {
            phase: AtomicU8::new(SERVING),
            retire: watch::Sender::new(false),
            closing: watch::Sender::new(false),
            resting: watch::Sender::new(false),
            connections: AtomicUsize::new(0),
        }
    }
}

impl Leaving {
    /// No successor: not ready from now on. `false` when it had begun already.
    pub fn drain(&self) -> bool {
        self.begin(DRAINING)
    }

    /// Another process serves: this one stays ready to the last, because its readiness is the other's.
    pub fn succeeded(&self) -> bool {
        self.begin(SUCCEEDED)
    }

    fn begin(&self, phase: u8) -> bool {
        let first = self.phase.compare_exchange(SERVING, phase, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if first {
            self.retire.send_replace(true);
        }
        first
    }

    /// No connection comes any more.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Nobody is waited for any more.
    pub fn end_resting(&self) {
        self.resting.send_replace(true);
    }

    pub fn resting(&self) -> ShutdownWatch {
        self.resting.subscribe()
    }

    pub fn is_leaving(&self) -> bool {
        self.phase.load(Ordering::Relaxed) != SERVING
    }

    pub fn is_draining(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == DRAINING
    }

    pub fn is_succeeded(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == SUCCEEDED
    }

    /// What a connection accepted now shall listen to.
    pub fn watch(&self) -> ShutdownWatch {
        if self.is_leaving() { self.closing.subscribe() } else { self.retire.subscribe() }
    }

    pub fn connection(self: &Arc<Self>) -> Connection {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connection(self.clone())
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}
