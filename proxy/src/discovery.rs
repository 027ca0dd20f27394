//! A few of the requests that no route claims, for a list of the routes that are still missing.
//!
//! Input: method, host and path, from the workers. Output: templates, on the control thread. Must not: make a request wait, or cost it more
//! than one look at a counter once the second's share is taken.

use banyan_routes::discover::Unclaimed;
use crossbeam_channel::{Receiver, Sender, bounded};
use http::Method;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Looked at a second, at most: enough to see every path that matters within minutes.
const A_SECOND: u32 = 200;

struct Seen {
    host: String,
    method: Method,
    path: String,
}

pub struct Discovery {
    /// In this second.
    taken: AtomicU32,
    seen: (Sender<Seen>, Receiver<Seen>),
    pub found: Mutex<Unclaimed>,
}

impl Default for Discovery {
    fn default() -> Discovery {
        let seen = bounded(A_SECOND as usize);
        Discovery { taken: AtomicU32::new(0), seen, found: Mutex::default() }
    }
}

impl Discovery {
    /// By a worker, for a request that no route claims.
    pub fn see(&self, host: &str, method: &Method, path: &str) {
        if self.taken.load(Ordering::Relaxed) >= A_SECOND {
            return;
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        let seen = Seen { host: host.to_owned(), method: method.clone(), path: path.to_owned() };
        let _ = self.seen.0.try_send(seen);
    }

    /// By the control thread, once a second.
    pub fn collect(&self) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        for seen in self.seen.1.try_iter().take(A_SECOND as usize) {
            found.see(&seen.host, &seen.method, &seen.path);
        }
        self.taken.store(0, Ordering::Relaxed);
    }
}
