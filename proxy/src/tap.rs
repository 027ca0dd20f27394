//! Decisions as they are made, for whoever watches: the access log's lines, filtered, while somebody has a tap open.
//!
//! Input: finished requests, and filters. Output: lines through a bounded queue for each tap. Must not: cost a request more than one load while
//! nobody watches, or wait for who does: what a tap's reader is too slow for is dropped, counted, and told.

use crate::metrics::Metrics;
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Taps at one time.
const TAPS_MAX: usize = 8;
/// Lines that may wait for a reader.
const QUEUE: usize = 256;

/// What somebody wants to see; a field that is absent is anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub route: Option<String>,
    pub side: Option<String>,
    pub reason: Option<String>,
    /// `502`, or a class such as `5xx`.
    pub status: Option<Status>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Exact(u16),
    Class(u16),
}

impl Status {
    /// `None`: neither a status nor a class.
    pub fn parse(text: &str) -> Option<Status> {
        match text.as_bytes() {
            [class @ b'1'..=b'5', b'x' | b'X', b'x' | b'X'] => Some(Status::Class(u16::from(class - b'0'))),
            [_, _, _] => text.parse().ok().filter(|it| (100..600).contains(it)).map(Status::Exact),
            _ => None,
        }
    }

    fn fits(self, status: u16) -> bool {
        match self {
            Status::Exact(wanted) => status == wanted,
            Status::Class(class) => status / 100 == class,
        }
    }
}

/// What a filter looks at.
#[derive(Clone, Copy)]
pub struct Decided<'a> {
    pub route: &'a str,
    pub side: &'a str,
    pub reason: &'a str,
    pub status: u16,
}

impl Filter {
    fn fits(&self, it: &Decided<'_>) -> bool {
        let one = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is);
        one(&self.route, it.route)
            && one(&self.side, it.side)
            && one(&self.reason, it.reason)
            && self.status.is_none_or(|wanted| wanted.fits(it.status))
    }
}

/// The workers' side of a tap.
struct Tap {
    filter: Filter,
    lines: Sender<Bytes>,
    dropped: Arc<AtomicU64>,
}

/// All that are open.
pub struct Taps {
    any: AtomicBool,
    open: ArcSwap<Vec<Arc<Tap>>>,
    /// Held while the list changes.
    changing: Mutex<()>,
    metrics: Arc<Metrics>,
}

/// The reader's side; closed when it is dropped.
pub struct Reader {
    pub lines: Receiver<Bytes>,
    dropped: Arc<AtomicU64>,
    taps: Arc<Taps>,
}

impl Reader {
    /// Lines dropped since it was asked last.
    pub fn dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.lines.close();
        self.taps.change(|open| open.retain(|tap| !tap.lines.is_closed()));
    }
}

impl Taps {
    pub fn new(metrics: Arc<Metrics>) -> Taps {
        Taps { any: AtomicBool::new(false), open: ArcSwap::default(), changing: Mutex::default(), metrics }
    }

    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// `None`: as many are open as may be.
    pub fn open(self: &Arc<Taps>, filter: Filter) -> Option<Reader> {
        let (lines, reader) = channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let tap = Arc::new(Tap { filter, lines, dropped: dropped.clone() });
        let mut opened = false;
        self.change(|open| {
            if open.len() < TAPS_MAX {
                open.push(tap);
                opened = true;
            }
        });
        opened.then(|| Reader { lines: reader, dropped, taps: self.clone() })
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Tap>>)) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = self.open.load().to_vec();
        change(&mut open);
        self.any.store(!open.is_empty(), Ordering::Relaxed);
        self.metrics.spans.taps.set(open.len() as i64);
        self.open.store(Arc::new(open));
    }

    /// Hands a line to the taps that want it; `line` is made only when one does.
    pub fn offer(&self, it: &Decided<'_>, line: impl FnOnce() -> Vec<u8>) {
        let open = self.open.load();
        let mut wanted = open.iter().filter(|tap| tap.filter.fits(it)).peekable();
        if wanted.peek().is_none() {
            return;
        }
        let line = Bytes::from(line());
        for tap in wanted {
            if tap.lines.try_send(line.clone()).is_err() {
                tap.dropped.fetch_add(1, Ordering::Relaxed);
                self.metrics.spans.tap_dropped.inc();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: Decided<'_> = Decided { route: "orders", side: "serverless", reason: "bucket", status: 502 };

    #[test]
    fn a_filter_wants_all_that_it_names() {
        let status = |text| Filter { status: Status::parse(text), ..Filter::default() };
        assert!(Filter::default().fits(&SEEN) && status("5xx").fits(&SEEN) && status("502").fits(&SEEN));
        assert!(!status("503").fits(&SEEN) && !status("4xx").fits(&SEEN));
        let by = |route: &str, side: &str| Filter {
            route: Some(route.into()),
            side: Some(side.into()),
            ..Filter::default()
        };
        assert!(by("orders", "serverless").fits(&SEEN) && !by("orders", "legacy").fits(&SEEN));
        for odd in ["", "6xx", "0xx", "5x", "99", "600", "5xxx", "abc"] {
            assert_eq!(Status::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_and_a_tap_ends_with_it() {
        let taps = Arc::new(Taps::new(Arc::new(Metrics::new())));
        assert!(!taps.any());
        let mut reader = taps.open(Filter::default()).expect("room");
        let other = taps.open(Filter { route: Some("else".into()), ..Filter::default() }).expect("room");
        assert!(taps.any());
        (0..QUEUE + 3).for_each(|_| taps.offer(&SEEN, || b"{}\n".to_vec()));
        assert_eq!(
            (reader.dropped(), reader.dropped(), reader.lines.len(), other.lines.len()),
            (3, 0, QUEUE, 0)
        );
        assert_eq!(reader.lines.try_recv().ok().as_deref(), Some(&b"{}\n"[..]));
        let more: Vec<Reader> = (2..TAPS_MAX).map(|_| taps.open(Filter::default()).expect("room")).collect();
        assert!(taps.open(Filter::default()).is_none());
        drop((reader, other, more));
        assert!(!taps.any() && taps.open(Filter::default()).is_some());
    }
}
