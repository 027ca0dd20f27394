//! Directory -> compiled -> prepared -> published, or the last good rule set kept.
//!
//! Input: the rule directory. Output: a new snapshot, or a refusal with every problem. Must not: publish a part of anything
//! (law 2), run on a worker thread, or read files again that did not change.

mod ceilings;
mod changes;
mod files;
mod fleet;
mod gauges;
mod exits;
mod identity;
mod names;
pub mod ramp;
mod succession;
pub mod silence;
mod traffic;
mod ways_back;
mod webhooks;

use crate::attribution::Attributions;
use crate::discovery::Discovery;
use crate::evidence::store::EvidenceStore;
use crate::live::{Live, LiveTable, RouteRuntime, Serving};
use crate::metrics::Metrics;
use crate::rule_dir;
use crate::settings::{Mode, Settings};
use crate::state::fleet::Fleet;
use crate::state::kill::KillSet;
use crate::state::store::StateStore;
use crate::targets::backend::RunningBackend;
use crate::targets::handshake;
use crate::targets::health;
use crate::targets::resolve;
use crate::targets::supplies::Supplies;
use crate::targets::tls_files;
use crate::targets::warm;
use banyan_routes::compile::ReadFile;
use banyan_routes::ids::{SharePpm, Side};
use banyan_routes::problem::{Place, Problem, Report, Source, report};
use banyan_routes::read::ReadCache;
use banyan_routes::rule_tests::compile_and_test;
use banyan_routes::state::{State, WayBack, in_force};
use banyan_routes::table::{RouteTable, Writes};
use serde::Serialize;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::task::JoinSet;

/// A cold start takes a second or a few; a rule set does not wait longer than this for warm instances.
const WARM_WAIT_MAX: Duration = Duration::from_secs(10);
/// How often the kill switches are looked at meanwhile.
const KILL_LOOK: Duration = Duration::from_millis(50);

/// What came of one reload.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub version: u32,
    pub accepted: bool,
    /// The revision that serves now, new or old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    pub changed: bool,
    pub problems: Vec<Report>,
    pub seconds: f64,
}

/// Owned by the control thread; nothing else reloads.
pub struct Reloader {
    rules_dir: PathBuf,
    state_dir: PathBuf,
    listeners: Vec<(String, Mode)>,
    issuers: Vec<String>,
    has_keys: bool,
    authorizers: Vec<String>,
    live: Arc<LiveTable>,
    metrics: Arc<Metrics>,
    supplies: Arc<Supplies>,
    store: Arc<EvidenceStore>,
    /// What serves, for reuse of files and backends that did not change.
    serving: Option<Arc<Serving>>,
    /// Kill switches of this replica.
    kill_files: KillSet,
    /// What is kept, here or by the fleet.
    state: Arc<State>,
    /// The same, with the ways back that could not be kept yet.
    served: Arc<State>,
    /// Kept in the notes, so that no restart forgets them.
    unsent: Vec<WayBack>,
    /// It has seen the fleet's log in this life.
    is_member: bool,
    /// They are being sent: catching up meanwhile must not send them again.
    sending: bool,
    state_store: StateStore,
    fleet: Option<Arc<Fleet>>,
    watches: HashMap<Box<str>, ramp::Watch>,
    traffic: traffic::Traffic,
    silence: silence::Watchman,
    silence_kept_unix_s: u64,
    failures: ceilings::Failures,
    webhooks: webhooks::Webhooks,
    discovery: Arc<Discovery>,
    cache: ReadCache,
    shown: gauges::ShownRoutes,
}

impl Reloader {
    pub fn new(
        settings: &Settings,
        live: Arc<LiveTable>,
        metrics: Arc<Metrics>,
        supplies: Arc<Supplies>,
        store: Arc<EvidenceStore>,
        fleet: Option<Arc<Fleet>>,
        discovery: Arc<Discovery>,
    ) -> Reloader {
        let (state_store, state) = StateStore::open(&settings.state_dir);
        let state = Arc::new(state);
        let unsent = state_store.noted(ways_back::UNSENT).unwrap_or_default();
        let routes = state_store.noted(silence::NOTE).unwrap_or_default();
        Reloader {
            rules_dir: settings.rules_dir.clone(),
            state_dir: settings.state_dir.clone(),
            issuers: settings.issuers.iter().map(|issuer| issuer.name.clone()).collect(),
            authorizers: settings.authorizers.iter().map(|it| it.name.clone()).collect(),
            has_keys: settings.api_keys.is_some(),
            listeners: settings.listeners.iter().map(|it| (it.name.clone(), it.mode)).collect(),
            live,
            metrics,
            webhooks: webhooks::Webhooks::new(&settings.webhooks, supplies.clone()),
            supplies,
            store,
            serving: None,
            kill_files: KillSet::default(),
            served: state.clone(),
            state,
            unsent,
            is_member: false,
            sending: false,
            state_store,
            fleet,
            watches: HashMap::new(),
            traffic: traffic::Traffic::default(),
            silence: silence::Watchman { routes },
            silence_kept_unix_s: 0,
            failures: ceilings::Failures::default(),
            discovery,
            cache: ReadCache::default(),
            shown: gauges::ShownRoutes::default(),
        }
    }

    /// One reload, start to end. The outcome is logged and counted here, whoever asked.
    pub async fn reload(&mut self) -> (Outcome, Vec<Source>) {
        let started = Instant::now();
        let (sources, result) = match rule_dir::sources(&self.rules_dir) {
            Ok(sources) => {
                let result = self.build(&sources).await;
                (sources, result)
            }
            Err(error) => {
                (Vec::new(), Err(vec![Problem::error("rules_unreadable", Place::Nowhere, error.to_string())]))
            }
        };
        let problems = match &result {
            Ok((_, warnings)) => report(&sources, warnings),
            Err(problems) => report(&sources, problems),
        };
        let accepted = result.is_ok();
        let changed = match result {
            Ok((Some(serving), _)) => {
                self.publish(serving);
                true
            }
            Ok((None, _)) | Err(_) => false,
        };
        let seconds = started.elapsed().as_secs_f64();
        self.count(accepted, seconds);
        let revision = self.serving.as_ref().map(|serving| serving.table.revision.to_string());
        let outcome = Outcome { version: 1, accepted, revision, changed, problems, seconds };
        log(&outcome);
        (outcome, sources)
    }

    /// Everything that can fail, before anything is touched. `None`: the same meaning as what serves.
    async fn build(
        &mut self,
        sources: &[Source],
    ) -> Result<(Option<Arc<Serving>>, Vec<Problem>), Vec<Problem>> {
        let mut files = self.read(sources)?;
        let compiled = compile_and_test(&files);
        self.lighten(&mut files);
        let (table, warnings) = compiled?;
        let refused = [
            self.unknown_listeners(&table),
            self.unfit_exits(&table),
            self.unknown_verifiers(&table),
            self.not_silent(&table),
        ]
        .concat();
        if !refused.is_empty() {
            return Err(refused);
        }
        let unchanged = self
            .serving
            .as_ref()
            .is_some_and(|serving| serving.table.revision == table.revision && !tls_in_use(&table));
        if unchanged {
            return Ok((None, warnings));
        }
        let backends = self.backends(&table, &files).await?;
        self.handshakes(&table, &backends).await?;
        self.warm(&table, &backends).await;
        let routes = self.runtimes(&table);
        let identities: Vec<u64> =
            table.routes.iter().map(|route| identity::identity(&table, route)).collect();
        let (ceilings, limits) = (self.ceilings(&table), self.limits(&table));
        let (ways, exits) = (self.ways(&table), self.exits(&table, &backends));
        let attributions = Attributions::new(routes.len());
        let serving = Serving {
            table,
            files,
            backends,
            routes,
            identities,
            ceilings,
            limits,
            ways,
            attributions,
            exits,
        };
        Ok((Some(Arc::new(serving)), warnings))
    }

    /// Backends that did not change go on running; new ones are resolved before they are used.
    async fn backends(
        &self,
        table: &RouteTable,
        files: &[ReadFile],
    ) -> Result<Vec<Arc<RunningBackend>>, Vec<Problem>> {
        let mut running = Vec::with_capacity(table.backends.len());
        let mut fresh = Vec::new();
        let mut problems = Vec::new();
        for definition in &table.backends {
            let known = self.serving.iter().flat_map(|serving| &serving.backends).find(|backend| {
                // Certificates are files: they may have changed under the same definition.
                backend.definition == *definition
                    && backend.tls_files == tls_files::fingerprint(&self.rules_dir, &definition.tls)
            });
            if let Some(known) = known {
                running.push(known.clone());
                continue;
            }
            match RunningBackend::new(definition, &self.rules_dir, &self.supplies) {
                Ok(backend) => {
                    let backend = Arc::new(backend);
                    fresh.push(backend.clone());
                    running.push(backend);
                }
                Err(unusable) => {
                    let text = format!("backend \"{}\": {}", definition.id, unusable.text);
                    let file = files
                        .iter()
                        .position(|file| file.rules.backends.iter().any(|(id, _)| *id == *definition.id));
                    let path = format!("backends.{}.{}", definition.id, unusable.field);
                    let place = file.map_or(Place::Nowhere, |file| Place::field(file, path));
                    problems.push(Problem::error(unusable.code, place, text));
                }
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let started = fresh.iter().map(|backend| {
            let (supplies, backend) = (self.supplies.clone(), backend.clone());
            tokio::spawn(async move {
                resolve::start(&supplies.resolver, &backend).await;
                if let Some(token) = &backend.token {
                    token.start(&supplies).await;
                }
                if backend.definition.needs_whole_body() {
                    supplies.credentials.start().await;
                }
                health::start(&backend, supplies.metrics.clone());
                warm::start(&backend, &supplies);
            })
        });
        for task in started.collect::<Vec<_>>() {
            let _ = task.await;
        }
        Ok(running)
    }

    /// No write is copied to a target that has not proved that it keeps shadows apart. Proved once, it is not asked with each reload.
    async fn handshakes(
        &mut self,
        table: &RouteTable,
        backends: &[Arc<RunningBackend>],
    ) -> Result<(), Vec<Problem>> {
        let mut asked = JoinSet::new();
        for (number, route) in table.routes.iter().enumerate() {
            let Some(Writes::Sandbox { handshake }) = route.shadow.as_ref().map(|rule| &rule.writes) else {
                continue;
            };
            let Some(at) = route.backend(Side::Serverless) else { continue };
            let backend = backends[at as usize].clone();
            if backend.proved(handshake) {
                continue;
            }
            let (supplies, path) = (self.supplies.clone(), handshake.clone());
            asked.spawn(async move {
                let proof = handshake::prove(&backend, &supplies, &path).await;
                if proof.is_ok() {
                    backend.has_proved(&path);
                }
                (number, proof, backend)
            });
        }
        let mut problems = Vec::new();
        while !asked.is_empty() {
            let Ok(Some(Ok((number, proof, backend)))) =
                tokio::time::timeout(KILL_LOOK, asked.join_next()).await
            else {
                // Whoever is slow to prove something does not delay a way back.
                self.look_at_kills();
                self.catch_up().await;
                continue;
            };
            let route = &table.routes[number];
            match proof {
                Ok(()) => {}
                Err(text) => {
                    let place = Place::field(
                        route.origin.0 as usize,
                        format!("routes[{}].shadow.policy", route.origin.1),
                    );
                    let text = format!(
                        "backend \"{}\" has not proved that it keeps shadows apart: {text}",
                        backend.definition.id
                    );
                    let expected = "a 2xx with `X-Banyan-Shadow: sandbox`";
                    problems.push(
                        Problem::error("shadow_handshake", place, text).route(&*route.id).expected(expected),
                    );
                }
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Before more users are sent to a function that says so, its instances are started. Waited for a bounded time, during which
    /// kill switches work as ever.
    async fn warm(&mut self, table: &RouteTable, backends: &[Arc<RunningBackend>]) {
        let share = |table: &RouteTable, id: &str| {
            table.position(id).map_or(SharePpm::ZERO, |at| table.route(at).stage.share())
        };
        let mut raised: Vec<u32> = Vec::new();
        for route in &table.routes {
            let before =
                self.serving.as_ref().map_or(SharePpm::ZERO, |serving| share(&serving.table, &route.id));
            let backend = route.backend(Side::Serverless).filter(|_| route.stage.share() > before);
            raised.extend(backend.filter(|at| !raised.contains(at)));
        }
        let mut calls = JoinSet::new();
        for backend in raised.into_iter().map(|at| backends[at as usize].clone()) {
            if backend.function.as_ref().is_some_and(|function| function.target.warm.is_some()) {
                let supplies = self.supplies.clone();
                calls.spawn(async move { warm::calls(&backend, &supplies).await });
            }
        }
        let deadline = Instant::now() + WARM_WAIT_MAX;
        while !calls.is_empty() && Instant::now() < deadline {
            let _ = tokio::time::timeout(KILL_LOOK, calls.join_next()).await;
            self.look_at_kills();
            self.catch_up().await;
        }
        calls.detach_all();
    }

    /// Counts and budgets of a route go on over a reload, as long as its id stays.
    fn runtimes(&self, table: &RouteTable) -> Vec<Arc<RouteRuntime>> {
        let known = |id: &str| {
            let serving = self.serving.as_ref()?;
            serving.table.position(id).map(|at| serving.routes[at as usize].clone())
        };
        table.routes.iter().map(|route| known(&route.id).unwrap_or_default()).collect()
    }

    fn publish(&mut self, serving: Arc<Serving>) {
        let before = self.serving.replace(serving.clone());
        self.served = Arc::new(in_force(&self.state, &self.unsent, &serving.table));
        let live = Live::new(serving.clone(), self.kills(), self.served.clone());
        for ((route, runtime), identity) in
            serving.table.routes.iter().zip(&serving.routes).zip(&serving.identities)
        {
            if route.shadow.is_some() {
                // From before this process, before the route went, or before its shadow was switched on again.
                if let Some(kept) = self.store.take(&route.id) {
                    runtime.evidence().adopt(kept);
                }
                runtime.evidence().begin(*identity, live.number);
            }
        }
        self.live.publish(live);
        if let Some(fleet) = &self.fleet {
            fleet.serve(serving.table.revision.as_str(), self.state.revision);
        }
        let gone = before.iter().flat_map(|before| before.table.routes.iter().zip(&before.routes));
        let gone = gone.filter(|(route, _)| serving.table.position(&route.id).is_none());
        let (mut found, now) = (Vec::new(), SystemTime::now());
        for (route, runtime) in gone {
            runtime.metrics.forget(&self.metrics, &route.id);
            let whole = runtime.evidence_if_any().map(|evidence| evidence.whole(now));
            found.extend(whole.filter(|it| !it.windows.is_empty()).map(|whole| (&*route.id, whole)));
        }
        self.store.give_back(found);
        // Counted afterwards: thousands of gauges must not stand between a rule and its first request.
        self.metrics.config_info.reset();
        self.metrics.config_info.with_label_values(&[serving.table.revision.as_str()]).set(1);
        self.count_routes();
        self.count_kills();
        self.look_for_silence(&serving);
    }

    /// Those of this replica, and the fleet's.
    fn kills(&self) -> KillSet {
        self.kill_files.clone().with(&self.served.kills)
    }

    /// Looks at the kill files and publishes when they changed.
    pub fn look_at_kills(&mut self) {
        let kills = match KillSet::read(&self.state_dir) {
            Ok(kills) => kills,
            Err(error) => {
                tracing::warn!(dir = %self.state_dir.display(), %error, "state directory cannot be read; kill switches stay as they are");
                return;
            }
        };
        if kills == self.kill_files {
            return;
        }
        self.kill_files = kills;
        if let Some(serving) = &self.serving {
            let kills = self.kills();
            tracing::warn!(scopes = ?kills.scopes(&serving.table), "kill switches changed");
            self.live.publish(Live::new(serving.clone(), kills, self.served.clone()));
        }
        self.count_kills();
    }
}

/// Whether certificates have to be read again even when the rules say the same.
fn tls_in_use(table: &RouteTable) -> bool {
    table.backends.iter().any(|backend| backend.tls.ca.is_some() || backend.tls.client.is_some())
}

fn log(outcome: &Outcome) {
    let revision = outcome.revision.as_deref().unwrap_or("none");
    for problem in &outcome.problems {
        tracing::warn!("{}", problem.line());
    }
    match (outcome.accepted, outcome.changed) {
        (true, true) => tracing::info!(revision, seconds = outcome.seconds, "rules accepted"),
        (true, false) => tracing::debug!(revision, "rules unchanged"),
        (false, _) => tracing::error!(
            serving = revision,
            problems = outcome.problems.len(),
            "rules refused; the last good ones keep serving"
        ),
    }
}
