//! The control thread: everything that is not a request. Signals, the rule directory, kill files, the drain.
//!
//! Input: events. Output: reloads, kills, and the word to stop. Must not: be waited for by a request; it has a runtime of
//! its own, so that a 100,000-route compile never stalls a worker.

use crate::change::{ChangeAsked, Changed, NotChanged};
use crate::doors::Sockets;
use crate::leaving::Leaving;
use crate::live::LiveTable;
use crate::reload::{Outcome, Reloader};
use crate::rule_dir::{Fingerprint, fingerprint};
use crate::settings::Watch;
use crate::state::fleet::Fleet;
use crate::state::kill::is_switch;
use crate::succession;
use banyan_routes::audit::Entry;
use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecursiveMode, Watcher};
use pingora_core::server::ShutdownSignal;
use sd_notify::NotifyState;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

/// After a finished change (rename, close, removal): other files of the same deployment follow within this.
const QUIET_DONE: Duration = Duration::from_millis(15);
/// After a write that is not closed yet: a half-written file may still be valid YAML, so it is given time.
const QUIET_WRITING: Duration = Duration::from_millis(500);
/// The same where the kernel tells us that the file is still open: its end will be told as well.
const QUIET_UNCLOSED: Duration = Duration::from_secs(2);
/// A directory that never comes to rest is read at least this often.
const QUIET_MAX: Duration = Duration::from_secs(10);
/// The look behind the events, and the whole of `watch: poll`.
const POLL: Duration = Duration::from_millis(1000);

/// What someone asks of the control thread, and waits for.
pub enum Request {
    Reload(oneshot::Sender<Outcome>),
    Change(Box<ChangeAsked>, oneshot::Sender<Result<Changed, NotChanged>>),
    Audit(oneshot::Sender<Result<Vec<Entry>, String>>),
}

/// What the rest of the process may ask of the control thread.
#[derive(Clone)]
pub struct Control {
    pub requests: mpsc::Sender<Request>,
    pub stop: watch::Receiver<Option<Stop>>,
}

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Graceful,
    Fast,
}

impl Stop {
    pub fn signal(self) -> ShutdownSignal {
        match self {
            Stop::Graceful => ShutdownSignal::GracefulTerminate,
            Stop::Fast => ShutdownSignal::FastShutdown,
        }
    }
}

/// Signals, taken over before anything else: HUP would otherwise end the process, and process 1 has no defaults to rely on.
pub struct Signals {
    hup: Signal,
    term: Signal,
    int: Signal,
    quit: Signal,
    usr1: Signal,
    usr2: Signal,
}

impl Signals {
    pub fn install() -> std::io::Result<Signals> {
        Ok(Signals {
            hup: signal(SignalKind::hangup())?,
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
    }
}

pub struct ControlLoop {
    pub reloader: Reloader,
    pub live: Arc<LiveTable>,
    pub rules_dir: PathBuf,
    pub state_dir: PathBuf,
    pub watch: Watch,
    pub signals: Signals,
    pub requests: mpsc::Receiver<Request>,
    pub leaving: Arc<Leaving>,
    /// Kept for a successor.
    pub sockets: Arc<Sockets>,
    pub stop: watch::Sender<Option<Stop>>,
    pub drain_delay: Duration,
    pub fleet: Option<Arc<Fleet>>,
    pub on_hup: Box<dyn Fn() + Send>,
}

/// What a file event means for us.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    /// These files are as they shall be: renamed, closed, removed.
    Done(Vec<PathBuf>),
    /// These are being written.
    Writing(Vec<PathBuf>),
    Kill,
}

/// A change that was seen and not read yet.
struct Pending {
    due: Instant,
    latest: Instant,
    /// Files that were written to and not closed; while there are any, a finished change of another file waits as well.
    writing: HashSet<PathBuf>,
    /// How the directory looked at the last change.
    print: Fingerprint,
}

impl ControlLoop {
    /// Runs until the process ends. The first reload has been done by the caller.
    pub async fn run(mut self) {
        let (events, mut changes) = mpsc::unbounded_channel();
        let mut watched = self.directories();
        let mut _watchers = self.watchers(&events);
        let mut seen = fingerprint(&self.rules_dir);
        let mut pending: Option<Pending> = None;
        let mut poll = tokio::time::interval(POLL);
        let mut successor = None;
        loop {
            let due = pending.as_ref().map(|pending| pending.due.min(pending.latest));
            tokio::select! {
                Some(change) = changes.recv() => match change {
                    Change::Kill => self.reloader.look_at_kills(),
                    Change::Done(paths) => self.changed(&mut pending, &paths, false),
                    Change::Writing(paths) => self.changed(&mut pending, &paths, true),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    // Still being written, by someone whose events do not reach us: wait for it to come to rest.
                    let print = fingerprint(&self.rules_dir);
                    match &mut pending {
                        Some(waiting) if waiting.print != print && Instant::now() < waiting.latest => {
                            waiting.print = print;
                            waiting.due = Instant::now() + QUIET_WRITING;
                        }
                        Some(_) | None => {
                            pending = None;
                            self.settle(&mut seen).await;
                        }
                    }
                }
                _ = poll.tick() => {
                    self.live.bury();
                    // A directory that was replaced is another one for the kernel.
                    if self.directories() != watched {
                        watched = self.directories();
                        _watchers = self.watchers(&events);
                    }
                    self.reloader.look_at_kills();
                    self.reloader.judge().await;
                    if pending.is_none() && fingerprint(&self.rules_dir) != seen {
                        self.changed(&mut pending, &[], true);
                    }
                }
                () = fleet_changed(self.fleet.as_deref()) => self.reloader.catch_up().await,
                Some(asked) = self.requests.recv() => match asked {
                    Request::Reload(done) => {
                        seen = fingerprint(&self.rules_dir);
                        let (outcome, _) = self.reloader.reload().await;
                        let _ = done.send(outcome);
                    }
                    Request::Change(asked, done) => {
                        if self.reloader.has_to_be_kept(&asked) {
                            self.keep_the_files(&mut successor).await;
                        }
                        let _ = done.send(self.reloader.change(&asked).await);
                    }
                    Request::Audit(done) => {
                        let _ = done.send(self.reloader.audit());
                    }
                },
                outcome = end_of(&mut successor) => self.succeeded(outcome).await,
                _ = self.signals.hup.recv() => {
                    (self.on_hup)();
                    self.settle(&mut seen).await;
                }
                _ = self.signals.usr1.recv() => {
                    if self.fleet.is_some() {
                        self.keep_the_files(&mut successor).await;
                    }
                    self.reloader.kill_by_signal(true).await;
                }
                _ = self.signals.usr2.recv() => self.reloader.kill_by_signal(false).await,
                _ = self.signals.term.recv() => {
                    self.keep_the_files(&mut successor).await;
                    self.drain();
                }
                _ = self.signals.quit.recv() => self.succeed(&mut successor),
                _ = self.signals.int.recv() => {
                    let _ = self.stop.send(Some(Stop::Fast));
                }
            }
        }
    }

    /// Reloads; when the files changed while they were read, what was read may be a mixture, so it is done again.
    async fn settle(&mut self, seen: &mut Fingerprint) {
        for _ in 0..5 {
            *seen = fingerprint(&self.rules_dir);
            self.reloader.reload().await;
            if fingerprint(&self.rules_dir) == *seen {
                return;
            }
            tokio::time::sleep(QUIET_DONE).await;
        }
    }

    /// Notes a change. What is finished is read soon, unless something else is still being written.
    fn changed(&self, pending: &mut Option<Pending>, paths: &[PathBuf], writing: bool) {
        let now = Instant::now();
        let (due, latest) = (now + QUIET_WRITING, now + QUIET_MAX);
        let fresh = || Pending { due, latest, writing: HashSet::new(), print: Fingerprint::new() };
        let waiting = pending.get_or_insert_with(fresh);
        for path in paths {
            if writing {
                waiting.writing.insert(path.clone());
            } else {
                waiting.writing.remove(path);
            }
        }
        waiting.due = now
            + match (waiting.writing.is_empty(), writing) {
                (true, false) => QUIET_DONE,
                (true, true) => QUIET_WRITING,
                (false, _) => QUIET_UNCLOSED,
            };
        waiting.print = fingerprint(&self.rules_dir);
    }

    /// Which directories the two paths mean now.
    fn directories(&self) -> [Option<(u64, u64)>; 2] {
        use std::os::unix::fs::MetadataExt;
        let identity = |path: &Path| path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
        [identity(&self.rules_dir), identity(&self.state_dir)]
    }

    /// TERM: not ready from now on; the listeners close after the delay.
    fn drain(&mut self) {
        if !self.leaving.drain() {
            return;
        }
        let _ = sd_notify::notify(false, &[NotifyState::Stopping]);
        tracing::info!(delay = ?self.drain_delay, "draining");
        let (stop, delay) = (self.stop.clone(), self.drain_delay);
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let _ = stop.send(Some(Stop::Graceful));
        });
    }

    /// QUIT: a new process takes the sockets over. Until it is ready this one serves on, and goes back when it is told to; other changes are
    /// refused, because the files are the new one's then.
    fn succeed(&mut self, successor: &mut Option<Successor>) {
        if self.leaving.is_leaving() || successor.is_some() {
            return;
        }
        tracing::info!("starting a successor");
        self.reloader.give_files_away();
        *successor = Some(Box::pin(succession::succeed(self.sockets.clone())));
    }

    async fn succeeded(&mut self, outcome: anyhow::Result<u32>) {
        match outcome {
            Ok(pid) => {
                tracing::info!(pid, "the successor serves; this process ends what it has begun");
                if self.leaving.succeeded() {
                    let _ = self.stop.send(Some(Stop::Graceful));
                }
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "no successor; this process serves on");
                self.reloader.take_files_back().await;
            }
        }
    }

    /// What has to be kept, or done now, does not wait for one that may never be ready: it is ended. One that has just said that it is serves.
    async fn keep_the_files(&mut self, successor: &mut Option<Successor>) {
        if successor.is_none() {
            return;
        }
        // What it has said while something else was done here is read.
        tokio::task::yield_now().await;
        let outcome = tokio::select! {
            biased;
            outcome = end_of(successor) => Some(outcome),
            () = std::future::ready(()) => None,
        };
        if let Some(outcome) = outcome {
            return self.succeeded(outcome).await;
        }
        if successor.take().is_some() {
            tracing::warn!("the successor that was being started is ended, for what cannot wait for it");
            self.reloader.take_files_back().await;
        }
    }

    /// Directories are watched, not files: editors replace a file, and a ConfigMap swaps a link.
    fn watchers(&self, events: &mpsc::UnboundedSender<Change>) -> Vec<notify::RecommendedWatcher> {
        let kill = events.clone();
        // Reading the directory is an access event itself; answering it with another look would never end.
        let kill_seen = move |event: notify::Event| {
            if !matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(|path| is_switch(path)) {
                let _ = kill.send(Change::Kill);
            }
        };
        let mut watchers: Vec<_> = watch_dir(&self.state_dir, kill_seen).into_iter().collect();
        if self.watch == Watch::Notify {
            let rules = events.clone();
            let changed = move |event: notify::Event| {
                let paths: Vec<PathBuf> = event.paths.into_iter().filter(|path| is_rules(path)).collect();
                if paths.is_empty() {
                    return;
                }
                let change = match event.kind {
                    EventKind::Access(AccessKind::Close(AccessMode::Write)) => Change::Done(paths),
                    EventKind::Access(_) => return,
                    EventKind::Modify(ModifyKind::Data(_)) => Change::Writing(paths),
                    // A link is created whole; a file is not.
                    EventKind::Create(_) if paths.iter().all(|path| path.is_symlink()) => Change::Done(paths),
                    EventKind::Create(_) => Change::Writing(paths),
                    EventKind::Any | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => {
                        Change::Done(paths)
                    }
                };
                let _ = rules.send(change);
            };
            watchers.extend(watch_dir(&self.rules_dir, changed));
        }
        watchers
    }
}

/// One that is being started. Dropped, it is ended.
type Successor = Pin<Box<dyn Future<Output = anyhow::Result<u32>> + Send>>;

/// Never, where none is being started.
async fn end_of(successor: &mut Option<Successor>) -> anyhow::Result<u32> {
    let Some(starting) = successor else { return std::future::pending().await };
    let outcome = starting.await;
    *successor = None;
    outcome
}

/// Never, where there is no fleet.
async fn fleet_changed(fleet: Option<&Fleet>) {
    match fleet {
        Some(fleet) => fleet.changed.notified().await,
        None => std::future::pending().await,
    }
}

/// Rule files, and the hidden links that a ConfigMap swaps. What lies beside them is nobody's business here.
fn is_rules(path: &Path) -> bool {
    let named = |ending: &str| path.extension().is_some_and(|extension| extension == ending);
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".."));
    named("yaml") || named("yml") || hidden
}

fn watch_dir(
    dir: &Path,
    seen: impl Fn(notify::Event) + Send + 'static,
) -> Option<notify::RecommendedWatcher> {
    let handler = move |event: notify::Result<notify::Event>| {
        if let Ok(event) = event {
            seen(event);
        }
    };
    let watching = notify::recommended_watcher(handler).and_then(|mut watcher| {
        watcher.watch(dir, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    match watching {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "no kernel events for this directory; it is polled");
            None
        }
    }
}
