//! Bodies kept by reference while they pass, under a cap each and one for all.
//!
//! Input: chunks on their way. Output: what was kept, and whether it is all there was. Must not: wait, copy, or keep a byte
//! over its caps: past them it only counts.

use banyan_routes::ids::Side;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Bytes that all captures and waiting exchanges may keep together.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    max: usize,
}

impl Budget {
    pub fn new(max: usize) -> Budget {
        Budget { used: AtomicUsize::new(0), max }
    }

    fn take(&self, bytes: usize) -> bool {
        if self.used.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.max {
            return true;
        }
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        false
    }

    fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// One body.
#[derive(Debug)]
pub struct Tee {
    chunks: Vec<Bytes>,
    kept: usize,
    max: usize,
    /// More came than was kept.
    pub truncated: bool,
    /// The budget of all was empty.
    pub starved: bool,
    budget: Arc<Budget>,
}

impl Tee {
    pub fn new(max: usize, budget: &Arc<Budget>) -> Tee {
        Tee { chunks: Vec::new(), kept: 0, max, truncated: false, starved: false, budget: budget.clone() }
    }

    pub fn add(&mut self, chunk: &Bytes) {
        if self.truncated || self.starved || chunk.is_empty() {
            return;
        }
        if self.kept + chunk.len() > self.max {
            self.truncated = true;
        } else if self.budget.take(chunk.len()) {
            self.kept += chunk.len();
            self.chunks.push(chunk.clone());
        } else {
            self.starved = true;
        }
    }

    /// Another try begins.
    pub fn reset(&mut self) {
        self.budget.give(std::mem::take(&mut self.kept));
        self.chunks.clear();
        (self.truncated, self.starved) = (false, false);
    }

    /// All that was kept, in one piece.
    pub fn bytes(&self) -> Bytes {
        match self.chunks.as_slice() {
            [] => Bytes::new(),
            [one] => one.clone(),
            many => many
                .iter()
                .fold(BytesMut::with_capacity(self.kept), |mut all, chunk| {
                    all.extend_from_slice(chunk);
                    all
                })
                .freeze(),
        }
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.budget.give(self.kept);
    }
}

/// What is kept of one sampled request.
#[derive(Debug)]
pub struct Capture {
    /// The side that gets the copy; `None` when nothing is copied and both sides are read afterwards.
    pub shadow: Option<Side>,
    pub request: Tee,
    pub answer: Tee,
    pub status: u16,
    /// As the backend sent them.
    pub headers: HeaderMap,
    /// From sending the request on to the answer's head.
    pub took: Duration,
    /// The function that answered had to start first.
    pub cold: bool,
}

impl Capture {
    pub fn new(shadow: Option<Side>, max: usize, budget: &Arc<Budget>) -> Box<Capture> {
        let tee = || Tee::new(max, budget);
        Box::new(Capture {
            shadow,
            request: tee(),
            answer: tee(),
            status: 0,
            headers: HeaderMap::new(),
            took: Duration::ZERO,
            cold: false,
        })
    }
}
