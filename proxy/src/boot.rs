//! The only wiring: settings -> a running process.
//!
//! Input: checked settings. Output: a process that serves until it is told to stop. Must not: be needed by any other module.

use crate::access_log::LogSender;
use crate::admin::Admin;
use crate::admin::access::HotTokens;
use crate::admin::stream::Events;
use crate::api_keys::HotKeys;
use crate::authorizers::Authorizers;
use crate::aws::secrets::Secrets;
use crate::certificates::HotCertificate;
use crate::control::{Control, ControlLoop, Request, Signals, Stop};
use crate::discovery::Discovery;
use crate::doors::Sockets;
use crate::emf;
use crate::evidence::store::EvidenceStore;
use crate::figures::Figurebook;
use crate::leaving::Leaving;
use crate::listen::{ADMIN, Doors, POOL_CONNECTIONS, server};
use crate::live::LiveTable;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::mirror::{Mirror, keep};
use crate::proxy::Shared;
use crate::reload::{Outcome, Reloader};
use crate::settings::Settings;
use crate::shadow::queue::ShadowQueue;
use crate::spans::{self, SpanSender};
use crate::state::fleet::Fleet;
use crate::succession;
use crate::tap::Taps;
use crate::targets::supplies::Supplies;
use crate::tokens::Issuers;
use anyhow::{Context as _, Result, anyhow};
use async_trait::async_trait;
use banyan_routes::problem::Source;
use pingora_core::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use pingora_core::services::ServiceWithDependents;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// For `tests/bench`: what counting, tracing and logging cost is measured against a process that does none of it. Ramps see nothing then.
const UNOBSERVED: &str = "BANYAN_BENCH_UNOBSERVED";

/// The rules at start are refused, or there is nothing to listen on: nothing was started.
pub enum Started {
    /// Runs until it is told to stop.
    Ready(Box<Running>),
    Refused(Outcome, Vec<Source>),
}

pub struct Running {
    server: Server,
    doors: Doors,
    control: Control,
    shared: Arc<Shared>,
    /// Keeps the control thread's runtime alive.
    _control_runtime: tokio::runtime::Runtime,
}

/// All descriptors that may be had: shells give 1,024, which is enough for 500 tunnels.
fn raise_descriptors() {
    let most = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }) {
        tracing::warn!(%error, "the number of open files stays as it is");
    }
}

/// Starts everything up to the point of serving.
pub fn start(
    mut settings: Settings,
    wait_for_rules: bool,
    extra: Vec<Box<dyn ServiceWithDependents>>,
) -> Result<Started> {
    // Two TLS providers could be linked one day; which one serves must not be chance.
    let _ = rustls::crypto::ring::default_provider().install_default();
    raise_descriptors();
    std::fs::create_dir_all(&settings.state_dir)
        .with_context(|| format!("state directory {}", settings.state_dir.display()))?;
    let mut sockets = Sockets::inherited(succession::inherit()?);
    for listener in &mut settings.listeners {
        listener.address = sockets
            .open(&listener.name, listener.address)
            .with_context(|| format!("listener `{}`", listener.name))?;
    }
    settings.admin = sockets.open(ADMIN, settings.admin).context("admin listener")?;
    let sockets = Arc::new(sockets);
    let metrics = Arc::new(Metrics::new());
    let live = Arc::new(LiveTable::default());
    let observe = settings.observe.clone();
    // Each listener's service has threads of its own.
    let writing = settings.threads * settings.listeners.len();
    let log =
        LogSender::start(&observe.access, writing, metrics.log_dropped.clone()).context("access log")?;
    let emf_log = observe.emf.as_ref().map(|emf| LogSender::start(&emf.to, 1, metrics.log_dropped.clone()));
    let emf_log = emf_log.transpose().context("logs.emf")?;
    let certificates: Vec<Option<Arc<HotCertificate>>> = settings
        .listeners
        .iter()
        .map(|listener| {
            let expiry = || metrics.listeners.certificate_expiry.with_label_values(&[&*listener.name]);
            listener.tls.as_ref().map(|files| HotCertificate::load(files, expiry())).transpose()
        })
        .collect::<Result<_, String>>()
        .map_err(|error| anyhow!("certificate: {error}"))?;
    let leaving = Arc::new(Leaving::default());
    let control_runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()?;
    let (stop, stopped) = watch::channel(None);
    let (asked, requests) = mpsc::channel::<Request>(16);
    let store = Arc::new(EvidenceStore::open(&settings.state_dir, &metrics));
    let fleet = settings.fleet.as_ref().map(|fleet| Fleet::new(fleet, settings.admin.to_string()));
    let fleet = fleet.transpose().map_err(|error| anyhow!("{error}"))?.map(Arc::new);
    let discovery = Arc::new(Discovery::default());
    let secrets = Arc::new(Secrets::default());
    let tokens = settings.tokens.as_deref().map(|path| HotTokens::load(path, secrets.clone())).transpose();
    let tokens = tokens.map_err(|error| anyhow!("admin.tokens: {error}"))?.map(Arc::new);
    let api_keys = settings.api_keys.as_deref().map(|path| HotKeys::load(path, secrets.clone())).transpose();
    let api_keys = api_keys.map_err(|error| anyhow!("api_keys: {error}"))?.map(Arc::new);
    let issuers = Arc::new(Issuers::new(&settings.issuers));
    let authorizers = Arc::new(Authorizers::new(&settings.authorizers, metrics.clone()));
    let first = control_runtime.block_on(async {
        let signals = Signals::install()?;
        let supplies =
            Arc::new(Supplies::new(&settings.aws, &settings.zones, metrics.clone(), POOL_CONNECTIONS));
        let mut reloader = Reloader::new(
            &settings,
            live.clone(),
            metrics.clone(),
            supplies.clone(),
            store.clone(),
            fleet.clone(),
            discovery.clone(),
        );
        issuers.start(&supplies).await;
        let (by_token, by_key) = (tokens.clone(), api_keys.clone());
        let changed = move || {
            by_token.iter().for_each(|tokens| tokens.reload());
            by_key.iter().for_each(|keys| keys.reload());
        };
        secrets.start(supplies.secrets.clone(), changed).await;
        reloader.look_at_kills();
        if let Some(fleet) = &fleet {
            share_breakers(fleet, &supplies, &live);
        }
        reloader.join_fleet().await;
        let (outcome, sources) = reloader.reload().await;
        anyhow::Ok((signals, reloader, supplies, outcome, sources))
    })?;
    let (signals, reloader, supplies, outcome, sources) = first;
    if !outcome.accepted && !wait_for_rules {
        return Ok(Started::Refused(outcome, sources));
    }
    let (hot, hup_log, hup_emf) = (certificates.clone(), log.clone(), emf_log.clone());
    let (hup_tokens, hup_keys, hup_issuers) = (tokens.clone(), api_keys.clone(), issuers.clone());
    let hup_authorizers = authorizers.clone();
    let on_hup = move || {
        hup_tokens.iter().for_each(|tokens| tokens.reload());
        hup_keys.iter().for_each(|keys| keys.reload());
        hup_issuers.reload();
        hup_authorizers.forget();
        secrets.look();
        hot.iter().flatten().for_each(|certificate| certificate.reload());
        hup_log.reopen();
        hup_emf.iter().for_each(LogSender::reopen);
    };
    let control_loop = ControlLoop {
        reloader,
        live: live.clone(),
        rules_dir: settings.rules_dir.clone(),
        state_dir: settings.state_dir.clone(),
        watch: settings.watch,
        signals,
        requests,
        leaving: leaving.clone(),
        sockets: sockets.clone(),
        stop,
        drain_delay: settings.drain_delay,
        fleet: fleet.clone(),
        on_hup: Box::new(on_hup),
    };
    control_runtime.spawn(control_loop.run());
    // A thread of its own, so that comparing never takes a worker's turn.
    let shadow_runtime = tokio::runtime::Builder::new_current_thread()
        .thread_name("shadow")
        .on_thread_start(stand_back)
        .enable_all()
        .build()?;
    let (shadow, exchanges) = ShadowQueue::new(metrics.clone());
    let (spans, offered) = SpanSender::new(observe.otlp.is_some(), metrics.clone());
    if let Some((offered, collector)) = offered.zip(observe.otlp) {
        let (client, resolver) = (supplies.client.clone(), supplies.resolver.clone());
        control_runtime.spawn(spans::run(offered, collector, client, resolver, spans.clone()));
    }
    let mirror = Mirror::new(shadow.budget.clone(), metrics.clone(), store.clone(), spans.clone());
    shadow_runtime.spawn(Arc::new(mirror).run(exchanges));
    shadow_runtime.spawn(keep::run(store.clone(), live.clone(), metrics.clone()));
    std::thread::Builder::new().name("shadow".into()).spawn(move || {
        stand_back();
        shadow_runtime.block_on(std::future::pending::<()>());
    })?;
    let memory = Arc::new(Memory::new(settings.limits.memory_bytes));
    control_runtime.spawn(memory.clone().watch(metrics.clone()));
    let figures = Arc::new(Figurebook::default());
    if let Some((emf, log)) = observe.emf.zip(emf_log) {
        let live = live.clone();
        control_runtime.spawn(emf::run(emf, log, move || live.load()));
    }
    let (book, looked_at) = (figures.clone(), live.clone());
    control_runtime.spawn(async move { book.run(|| looked_at.load()).await });
    let taps = Arc::new(Taps::new(metrics.clone()));
    let shared = Arc::new(Shared {
        settings,
        live,
        metrics,
        log,
        spans,
        taps,
        figures,
        unobserved: std::env::var_os(UNOBSERVED).is_some(),
        leaving,
        listening: AtomicBool::new(false),
        supplies,
        shadow,
        discovery,
        places: AtomicUsize::new(0),
        memory,
        api_keys,
        issuers,
        authorizers,
        fleet,
        evidence: store,
    });
    let control = Control { requests: asked, stop: stopped };
    let events = Arc::new(Events::default());
    let (watched, told) = (shared.clone(), events.clone());
    control_runtime.spawn(async move { told.run(&watched).await });
    let admin = Admin { shared: shared.clone(), requests: control.requests.clone(), tokens, events };
    let (server, doors) = server(&shared, &certificates, admin, &sockets)?;
    let mut server = server;
    extra.into_iter().for_each(|service| {
        server.add_services(vec![service]);
    });
    Ok(Started::Ready(Box::new(Running {
        server,
        doors,
        control,
        shared,
        _control_runtime: control_runtime,
    })))
}

/// Keeps the connection to the store, and passes on what breakers say, both ways.
fn share_breakers(fleet: &Arc<Fleet>, supplies: &Supplies, live: &Arc<LiveTable>) {
    let (news, mut told) = mpsc::unbounded_channel();
    // Nobody else sets it.
    let _ = supplies.news.set(news);
    let (fleet, live, teller) = (fleet.clone(), live.clone(), fleet.clone());
    tokio::spawn(async move {
        fleet
            .run(|news| {
                let live = live.load();
                let backends = live.iter().flat_map(|live| &live.serving.backends);
                let backend = backends.into_iter().find(|it| *it.definition.id == *news.backend);
                backend.iter().for_each(|it| it.hear(news.open_ms.map(Duration::from_millis)));
            })
            .await;
    });
    tokio::spawn(async move {
        while let Some((backend, open)) = told.recv().await {
            teller.tell(&backend, open).await;
        }
    });
}

/// Waits for the control thread's word.
struct StopSignal(watch::Receiver<Option<Stop>>);

#[async_trait]
impl ShutdownSignalWatch for StopSignal {
    async fn recv(&self) -> ShutdownSignal {
        let mut stop = self.0.clone();
        let word = stop.wait_for(Option::is_some).await.ok().and_then(|word| *word);
        word.unwrap_or(Stop::Fast).signal()
    }
}

impl Running {
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Serves until told to stop; ends the process.
    pub fn run(self) {
        let Running { server, doors, control, shared, _control_runtime } = self;
        let ending = shared.clone();
        let mut stop = control.stop.clone();
        _control_runtime.spawn(say_when_listening(shared.clone(), doors));
        // The framework sleeps out its whole grace period even when nothing is left to do; this ends the process as soon as
        // it is idle.
        _control_runtime.spawn(async move {
            if matches!(stop.wait_for(Option::is_some).await.map(|word| *word), Ok(Some(Stop::Graceful))) {
                end_when_idle(&ending, &stop).await;
            }
        });
        server.run(RunArgs { shutdown_signal: Box::new(StopSignal(control.stop.clone())) });
        shared.log.flush();
        keep::flush(&shared.evidence, &shared.live, &shared.metrics);
    }
}

/// On a machine without an idle core, workers come first (law 1): with this nice value the kernel gives them nine parts of ten.
const SHADOW_NICE: i32 = 10;

fn stand_back() {
    // Linux takes the thread's id here. Where it is refused, the shadow's thread is one like the others.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), SHADOW_NICE) {
        tracing::debug!(%error, "the shadow's thread keeps its priority");
    }
}

/// When every listener takes connections, whoever waits for it is told: readiness, the process before this one, and systemd.
async fn say_when_listening(shared: Arc<Shared>, mut doors: Doors) {
    for _ in 0..doors.count {
        if doors.opened.recv().await.is_none() {
            return;
        }
    }
    shared.listening.store(true, Ordering::Relaxed);
    succession::say_ready();
    let main = NotifyState::MainPid(std::process::id());
    // Where nobody has asked to be told, there is nothing to do.
    let _ = sd_notify::notify(false, &[main, NotifyState::Ready]);
}

/// How often is looked whether it is over.
const LOOK: Duration = Duration::from_millis(20);
/// Nobody at so many looks in a row: a handshake that has just ended is seen.
const IDLE_LOOKS: u32 = 10;
/// Connections that bring no request and do not end: a peer that does not answer a GOAWAY.
const DUMB_LOOKS: u32 = 250;

/// How long spans have to reach the collector when everything else is over.
const SPANS_LAST: Duration = Duration::from_secs(2);

/// Ends the process when nobody is connected any more, or at the deadline; at once on INT.
#[expect(clippy::disallowed_methods, reason = "this is the drain")]
async fn end_when_idle(shared: &Shared, stop: &watch::Receiver<Option<Stop>>) {
    let settings = &shared.settings;
    let deadline = Instant::now() + settings.drain_deadline;
    let (mut idle, mut dumb) = (0, 0);
    while idle < IDLE_LOOKS && dumb < DUMB_LOOKS && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
        if *stop.borrow() == Some(Stop::Fast) {
            break;
        }
        idle = if shared.leaving.connections() == 0 { idle + 1 } else { 0 };
        dumb = if shared.metrics.inflight.get() == 0 { dumb + 1 } else { 0 };
    }
    // Those who ended last are whom one wants to know of.
    let told = Instant::now() + SPANS_LAST;
    while shared.spans.is_busy() && Instant::now() < told && *stop.borrow() != Some(Stop::Fast) {
        tokio::time::sleep(LOOK).await;
    }
    let left = shared.metrics.inflight.get();
    if left > 0 {
        tracing::warn!(requests = left, "the drain ends; requests still in flight are cut");
    }
    shared.log.flush();
    // A successor has the file.
    if !shared.leaving.is_succeeded() {
        keep::flush(&shared.evidence, &shared.live, &shared.metrics);
    }
    std::process::exit(0);
}
