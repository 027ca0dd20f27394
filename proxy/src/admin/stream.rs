//! Answers that do not end by themselves: one snapshot of everything a second, and decisions as they are made.
//!
//! Input: what serves, and filters. Output: server-sent events, and JSON lines. Must not: make a snapshot for nobody, or more than one a second for
//! many; or outlive the process's drain.

use crate::admin::{api, board};
use crate::proxy::Shared;
use crate::tap::Reader;
use bytes::Bytes;
use http::{HeaderValue, Version, header};
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;
use pingora_http::ResponseHeader;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Who may watch at one time.
const VIEWERS_MAX: usize = 64;
const EVERY: Duration = Duration::from_secs(1);
/// A reader that takes nothing for so long is gone.
const STUCK: Duration = Duration::from_secs(10);

/// The last snapshot, for all who watch.
pub struct Events {
    latest: watch::Sender<Bytes>,
    viewers: AtomicUsize,
}

impl Default for Events {
    fn default() -> Self {
        Events { latest: watch::Sender::new(Bytes::new()), viewers: AtomicUsize::new(0) }
    }
}

/// One who watches, for as long as this lives.
pub struct Viewer(Arc<Events>);

impl Drop for Viewer {
    fn drop(&mut self) {
        self.0.viewers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Events {
    /// `None`: as many watch as may.
    pub fn view(self: &Arc<Events>) -> Option<Viewer> {
        let viewer = Viewer(self.clone());
        (self.viewers.fetch_add(1, Ordering::Relaxed) < VIEWERS_MAX).then_some(viewer)
    }

    /// Makes a snapshot a second while anybody watches, for ever.
    pub async fn run(&self, shared: &Shared) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.viewers.load(Ordering::Relaxed) > 0 {
                self.latest.send_replace(event(shared));
            }
        }
    }
}

/// `event: snapshot` and its data.
fn event(shared: &Shared) -> Bytes {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut text = format!("id: {}\nevent: snapshot\ndata: ", now.as_millis());
    match shared.live.load() {
        Some(live) => text.push_str(&board::snapshot(shared, &live, api::revision(shared, &live), now)),
        None => text.push_str(r#"{"version":1,"revision":null,"routes":[]}"#),
    }
    text.push_str("\n\n");
    text.into()
}

/// How long a tap may be open: one that was forgotten gives its place back.
const TAP_FOR: Duration = Duration::from_secs(3_600);

/// How long somebody watches: so many, and as long as they may.
pub struct Watcher {
    left: Option<u64>,
    may: Box<dyn Fn() -> bool + Send + Sync>,
    asked: Instant,
}

impl Watcher {
    pub fn new(count: Option<u64>, may: impl Fn() -> bool + Send + Sync + 'static) -> Watcher {
        Watcher { left: count, may: Box::new(may), asked: Instant::now() }
    }

    /// Counts what was sent; whether more is wanted and may be had, which is asked again every second.
    fn goes_on(&mut self, sent: u64) -> bool {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(sent);
        }
        if self.asked.elapsed() >= EVERY {
            self.asked = Instant::now();
            if !(self.may)() {
                return false;
            }
        }
        self.left != Some(0)
    }
}

/// Snapshots until there were enough, the reader goes or may watch no more, or the process ends.
pub async fn events(
    session: &mut ServerSession,
    shared: &Shared,
    viewer: Viewer,
    mut watcher: Watcher,
    shutdown: &ShutdownWatch,
) {
    let mut latest = viewer.0.latest.subscribe();
    let mut shutdown = shutdown.clone();
    if !begin(session, "text/event-stream").await {
        return;
    }
    // The first at once; the next second brings the next.
    let mut next = event(shared);
    latest.mark_unchanged();
    loop {
        if !write(session, next).await {
            return;
        }
        if !watcher.goes_on(1) {
            return end(session).await;
        }
        tokio::select! {
            changed = latest.changed() => match changed {
                Ok(()) => next = latest.borrow_and_update().clone(),
                Err(_) => return end(session).await,
            },
            _ = shutdown.changed() => return end(session).await,
        }
    }
}

/// Lines, likewise; for an hour at most.
pub async fn tap(
    session: &mut ServerSession,
    mut reader: Reader,
    mut watcher: Watcher,
    shutdown: &ShutdownWatch,
) {
    let mut shutdown = shutdown.clone();
    if !begin(session, "application/x-ndjson").await {
        return;
    }
    let begun = Instant::now();
    while begun.elapsed() < TAP_FOR {
        let line = tokio::select! {
            line = reader.lines.recv() => line,
            // A reader that is gone is seen by writing to it.
            () = tokio::time::sleep(EVERY) => Some(Bytes::from_static(b"\n")),
            _ = shutdown.changed() => None,
        };
        let Some(line) = line else { return end(session).await };
        let counts = u64::from(line.len() > 1);
        if !write(session, line).await {
            return;
        }
        let dropped = reader.dropped();
        if dropped > 0 && !write(session, format!("{{\"dropped\":{dropped}}}\n").into()).await {
            return;
        }
        if !watcher.goes_on(counts) {
            break;
        }
    }
    end(session).await;
}

async fn begin(session: &mut ServerSession, content_type: &'static str) -> bool {
    // HTTP/1.0 knows no chunks: there the end of the connection is the end.
    let chunked = session.req_header().version != Version::HTTP_10;
    let head = || -> pingora_error::Result<ResponseHeader> {
        let mut head = ResponseHeader::build(200, Some(6))?;
        head.insert_header(header::CONTENT_TYPE, HeaderValue::from_static(content_type))?;
        head.insert_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))?;
        head.insert_header(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))?;
        if chunked {
            head.insert_header(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
        }
        Ok(head)
    };
    // The connection ends with the stream.
    session.set_keepalive(None);
    match head() {
        Ok(head) => session.write_response_header(Box::new(head)).await.is_ok(),
        Err(_) => false,
    }
}

async fn write(session: &mut ServerSession, bytes: Bytes) -> bool {
    let written = tokio::time::timeout(STUCK, session.write_response_body(bytes, false)).await;
    matches!(written, Ok(Ok(())))
}

async fn end(session: &mut ServerSession) {
    // Whether it still listens does not matter.
    let _ = tokio::time::timeout(STUCK, session.write_response_body(Bytes::new(), true)).await;
}
