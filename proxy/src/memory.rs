//! How much memory the process has, and whether that is too much.
//!
//! Input: a limit; what the kernel says. Output: a flag that requests look at. Must not: be asked of the kernel by a request.

use crate::metrics::Metrics;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(100);
/// Where there is no limit, for the gauge.
const LOOK_UNLIMITED: Duration = Duration::from_secs(1);
/// It is over when so many percent of the limit are in use, so that it does not flicker.
const OVER_AT: u64 = 95;
/// Of a limit that others have set: the kernel counts what we do not see, buffers of sockets first.
const OF_GROUP: u64 = 80;

pub struct Memory {
    limit: Option<u64>,
    short: AtomicBool,
}

impl Memory {
    /// Without a limit of the settings, the container's, where there is one.
    pub fn new(limit: Option<u64>) -> Memory {
        Memory {
            limit: limit.or_else(|| Some(group_limit()? / 100 * OF_GROUP)),
            short: AtomicBool::new(false),
        }
    }

    /// New work is refused, but for what matters most.
    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// For as long as the process lives.
    pub async fn watch(self: Arc<Self>, metrics: Arc<Metrics>) {
        let mut looks = tokio::time::interval(if self.limit.is_some() { LOOK } else { LOOK_UNLIMITED });
        loop {
            looks.tick().await;
            let Some(resident) = resident() else { continue };
            metrics.resident.set(resident as i64);
            let Some(limit) = self.limit else { continue };
            let short = self.is_short();
            if !short && resident > limit {
                self.short.store(true, Ordering::Relaxed);
                tracing::error!(resident, limit, "memory is short: new work is refused");
            } else if short && resident < limit / 100 * OVER_AT {
                self.short.store(false, Ordering::Relaxed);
                tracing::warn!(resident, limit, "memory is there again");
            }
        }
    }
}

/// In bytes; `None` where the kernel does not say.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Of the container's memory cgroup, as it is seen from inside.
fn group_limit() -> Option<u64> {
    let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = files.iter().find_map(|file| std::fs::read_to_string(Path::new(file)).ok())?;
    // `max`, and the largest number there is, mean none.
    limit.trim().parse().ok().filter(|limit| *limit < 1 << 60)
}
