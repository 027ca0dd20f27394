//! Slow and faulty modes, steered while it runs.
//!
//! Input: a list of faults from the control port. Output: what to do to a request. Must not: be random; "every n-th" makes
//! tests repeatable.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Paths it is for; all when empty.
    #[serde(default)]
    pub prefix: String,
    /// Every n-th request; all when absent.
    #[serde(default)]
    pub every: Option<u64>,
    /// Wait before answering.
    #[serde(default)]
    pub delay_ms: u64,
    /// Answer this instead.
    #[serde(default)]
    pub status: Option<u16>,
    /// Never answer.
    #[serde(default)]
    pub hang: bool,
}

#[derive(Default)]
pub struct Faults {
    current: Mutex<Arc<Vec<Fault>>>,
    seen: AtomicU64,
}

/// Longer than any test waits, and still an end.
const HANG: Duration = Duration::from_secs(120);

impl Faults {
    pub fn set(&self, faults: Vec<Fault>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(faults);
    }

    pub fn get(&self) -> Arc<Vec<Fault>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits as the faults say; a status when the request shall fail.
    pub async fn apply(&self, path: &str) -> Option<u16> {
        let number = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        for fault in self.get().iter().filter(|fault| path.starts_with(&fault.prefix)) {
            if fault.every.is_some_and(|every| !number.is_multiple_of(every.max(1))) {
                continue;
            }
            tokio::time::sleep(Duration::from_millis(fault.delay_ms)).await;
            if fault.hang {
                tokio::time::sleep(HANG).await;
            }
            if fault.status.is_some() {
                return fault.status;
            }
        }
        None
    }
}
