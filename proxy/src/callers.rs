//! Who still comes to a side that is to be switched off.
//!
//! Input: client and agent of a request. Output: the last few, each with its count. Must not: make a request wait, or grow.

use serde::Serialize;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

const KEPT: usize = 20;
const AGENT_MAX: usize = 200;

#[derive(Clone, Debug, Serialize)]
pub struct Caller {
    pub address: IpAddr,
    pub user_agent: String,
    /// Why legacy answered: `fallback`, `kill`, `breaker` and so on.
    pub reason: &'static str,
    /// That were looked at.
    pub requests: u64,
    pub last_unix_s: u64,
}

/// A route that was killed or rolled back has all of its requests on legacy: so many of them are looked at in a second.
const A_SECOND: u32 = 20;

#[derive(Default)]
pub struct Callers {
    last: Mutex<VecDeque<Caller>>,
    /// In this second.
    taken: AtomicU32,
}

impl Callers {
    /// Skipped when somebody else is here just now: it is a sample.
    pub fn see(&self, address: IpAddr, user_agent: &str, reason: &'static str, now_unix_s: u64) {
        if self.taken.load(Ordering::Relaxed) >= A_SECOND {
            return;
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        let Ok(mut callers) = self.last.try_lock() else { return };
        let agent: String = user_agent.chars().take(AGENT_MAX).collect();
        let same = |caller: &Caller| {
            caller.address == address && caller.user_agent == agent && caller.reason == reason
        };
        let known = callers.iter().position(same).and_then(|at| callers.remove(at));
        let requests = known.map_or(1, |caller| caller.requests + 1);
        callers.push_front(Caller { address, user_agent: agent, reason, requests, last_unix_s: now_unix_s });
        callers.truncate(KEPT);
    }

    /// By the control thread, once a second.
    pub fn next_second(&self) {
        self.taken.store(0, Ordering::Relaxed);
    }

    /// The last one first.
    pub fn last(&self) -> Vec<Caller> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
