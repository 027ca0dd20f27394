//! A backend as it runs: its addresses, which of them are healthy, and prepared peers.
//!
//! Input: a compiled `Backend`; addresses from DNS; results of health checks. Output: the next peer for a request. Must not:
//! lock or resolve anything per request. A backend whose definition did not change keeps its addresses, health and pooled
//! connections over a reload.

use crate::aws::credentials::CredentialStore;
use crate::aws::sign::{self, Scope};
use crate::caps::{Figures, Pool, WHOLE};
use crate::targets::breaker::{Breaker, millis};
use crate::targets::dial::{Capped, Dial, keepalive};
use crate::targets::function::RunningFunction;
use crate::targets::live_breaker::{Admission, LiveBreaker};
use crate::targets::places::Places;
use crate::targets::supplies::{BreakerNews, Supplies};
use crate::targets::tls_files;
use crate::targets::token::RunningToken;
use arc_swap::ArcSwap;
use banyan_routes::backend::{Backend, HostMode, Origin, OutlierRule, Signature, Sources, Target};
use banyan_routes::file::Protocol;
use banyan_routes::ids::PPM;
use pingora_core::upstreams::peer::{ALPN, HttpPeer};
use pingora_core::utils::tls::{CertKey, WrappedX509};
use pingora_http::RequestHeader;
use pingora_prometheus::prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};
use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc::UnboundedSender;

/// How long a pooled connection may rest: under the 60 s that nginx, Apache and the ALB keep one, so that a request does not
/// meet a connection being closed.
const POOL_IDLE: Duration = Duration::from_secs(50);

/// Streams on one HTTP/2 connection; 100 is what servers allow at the least.
const H2_STREAMS: usize = 100;

/// Longer than so many times its time no address is left out.
const EJECTIONS_MAX: u32 = 10;

/// One address of a backend.
#[derive(Debug)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub text: Box<str>,
    /// What Host the backend is known by when `host: backend`; also how its own redirects are recognised.
    pub authority: Box<str>,
    pub peer: HttpPeer,
    pub healthy: AtomicBool,
    /// Results in a row that speak against the current state.
    pub contrary: AtomicU32,
    /// Failures of requests in a row, and how often it was left out for them.
    failed: AtomicU32,
    ejections: AtomicU32,
    /// Left out until then, in milliseconds; 0: not.
    ejected_until: AtomicU64,
}

impl Endpoint {
    pub fn is_ejected(&self) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        until > 0 && millis() < until
    }
}

#[derive(Debug)]
pub struct RunningBackend {
    pub definition: Backend,
    pub origins: Vec<Origin>,
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    next: AtomicUsize,
    ca: Option<Arc<[WrappedX509]>>,
    client: Option<Arc<CertKey>>,
    /// What the two were read from.
    pub tls_files: u64,
    pub response_seconds: Histogram,
    pub dials: Dials,
    /// Where the rules give it one.
    pub cap: Option<Capped>,
    pub queue_seconds: Histogram,
    /// Requests sent and not yet answered to the end.
    pub under_way: AtomicU32,
    /// Set when it is a function.
    pub function: Option<RunningFunction>,
    /// Set when requests to its URLs are signed.
    pub signature: Option<(Scope, Arc<CredentialStore>)>,
    pub token: Option<Arc<RunningToken>>,
    /// Paths at which it has shown that it keeps shadows apart.
    proved: Mutex<BTreeSet<Box<str>>>,
    pub shadow_breaker: Breaker,
    /// For copies.
    pub places: Places,
    /// Where the rules give it one.
    pub breaker: Option<LiveBreaker>,
    news: Option<UnboundedSender<BreakerNews>>,
    transitions: IntCounterVec,
    state: IntGauge,
    ejections: IntCounter,
}

/// How its connections are made: for one pool or the other, which cannot see each other's.
#[derive(Debug)]
pub struct Dials {
    pub main: Arc<Dial>,
    pub whole: Arc<Dial>,
    /// Websockets, shadows, HTTP/1 where the others speak HTTP/2.
    pub alone: Arc<Dial>,
    /// Checks of health and our own calls: beyond the cap.
    pub checks: Arc<Dial>,
}

/// It is said to speak HTTP/2: a connection takes 100 requests at a time.
fn multiplexes(definition: &Backend) -> bool {
    matches!(definition.protocol, Protocol::H2 | Protocol::H2c)
}

/// Why a backend cannot run in this process, whatever the rules say.
pub struct Unusable {
    pub code: &'static str,
    /// Of the backend, where it was said.
    pub field: &'static str,
    pub text: String,
}

/// Why nothing can be sent to a backend now: a metric label and the cause in the log.
pub const NO_ADDRESS: &str = "no_healthy_address";
pub const BREAKER_OPEN: &str = "breaker_open";
pub const NO_CREDENTIALS: &str = "credentials_unavailable";
pub const NO_TOKEN: &str = "token_unavailable";

impl RunningBackend {
    /// Whether it has shown, at this path, that it keeps shadows apart.
    pub fn proved(&self, path: &str) -> bool {
        self.proved.lock().unwrap_or_else(PoisonError::into_inner).contains(path)
    }

    pub fn has_proved(&self, path: &str) {
        self.proved.lock().unwrap_or_else(PoisonError::into_inner).insert(path.into());
    }

    /// Reads the TLS files; addresses come later, by `set_addresses`. `base` is what relative paths count from.
    pub fn new(definition: &Backend, base: &Path, supplies: &Supplies) -> Result<RunningBackend, Unusable> {
        let tls_file = |text| Unusable { code: "tls_file", field: "tls", text };
        // Before they are read for use: what changes in between is another print the next time.
        let tls_files = tls_files::fingerprint(base, &definition.tls);
        let ca =
            definition.tls.ca.as_deref().map(|path| tls_files::authorities(&base.join(path))).transpose();
        let ca = ca.map_err(tls_file)?;
        let client = match &definition.tls.client {
            Some((cert, key)) => {
                Some(tls_files::client(&base.join(&**cert), &base.join(&**key)).map_err(tls_file)?)
            }
            None => None,
        };
        let (origins, function) = match &definition.target {
            Target::Urls(origins) => (origins.clone(), None),
            Target::Lambda(target) => {
                let function = RunningFunction::new(target, &supplies.aws, supplies.credentials.clone())
                    .map_err(|text| Unusable { code: "lambda_endpoint", field: "lambda", text })?;
                (vec![function.origin.clone()], Some(function))
            }
        };
        let signature = definition.sign.as_ref().map(|sign| {
            let Signature { service, region, move_authorization_to, .. } = sign.clone();
            (Scope { service, region, move_authorization_to }, supplies.credentials.clone())
        });
        let token = definition.token.as_ref().map(|token| Arc::new(RunningToken::new(token, base)));
        let response_seconds = supplies.metrics.upstream_duration.with_label_values(&[&*definition.id]);
        let endpoints = ArcSwap::from_pointee(Vec::new());
        let cap = definition.connections.as_ref().map(|rule| {
            let cap = supplies.caps.of(rule, &format!("backend {}", definition.id));
            (cap, rule.clone())
        });
        let dial = Dial::new(&definition.sources, cap.clone(), &definition.id, &supplies.metrics);
        Ok(RunningBackend {
            definition: definition.clone(),
            origins,
            endpoints,
            next: AtomicUsize::new(0),
            ca,
            client,
            tls_files,
            response_seconds,
            dials: Dials {
                main: dial.within(Pool::Main, multiplexes(definition)),
                whole: dial.within(Pool::Whole, multiplexes(definition)),
                alone: dial.within(Pool::Alone, false),
                checks: dial.uncapped(),
            },
            cap,
            queue_seconds: supplies.metrics.connections.queue.with_label_values(&[&*definition.id]),
            under_way: AtomicU32::new(0),
            function,
            signature,
            token,
            proved: Mutex::default(),
            shadow_breaker: Breaker::default(),
            places: Places::new(
                definition.connections.as_ref().map(|rule| rule.max).filter(|_| !multiplexes(definition)),
            ),
            breaker: definition.breaker.as_ref().map(LiveBreaker::new),
            news: supplies.news.get().cloned(),
            transitions: supplies.metrics.breaker_transitions.clone(),
            state: supplies.metrics.breaker_state.with_label_values(&[&*definition.id]),
            ejections: supplies.metrics.ejections.with_label_values(&[&*definition.id]),
        })
    }

    pub fn endpoints(&self) -> Arc<Vec<Arc<Endpoint>>> {
        self.endpoints.load_full()
    }

    /// The addresses each origin has now, in the order of `origins`. Known ones keep their health.
    pub fn set_addresses(&self, addresses: &[Vec<IpAddr>]) {
        let known = self.endpoints.load();
        let mut fresh: Vec<Arc<Endpoint>> = Vec::new();
        for (origin, addresses) in self.origins.iter().zip(addresses) {
            let authority = origin.authority();
            for ip in addresses {
                let address = SocketAddr::new(*ip, origin.port);
                if fresh.iter().any(|endpoint| endpoint.address == address) {
                    continue;
                }
                let same = known
                    .iter()
                    .find(|endpoint| endpoint.address == address && *endpoint.authority == *authority);
                fresh.push(same.cloned().unwrap_or_else(|| Arc::new(self.endpoint(origin, address))));
            }
        }
        self.endpoints.store(Arc::new(fresh));
    }

    fn endpoint(&self, origin: &Origin, address: SocketAddr) -> Endpoint {
        let tls = &self.definition.tls;
        // An empty SNI would fail every handshake, so there always is one; an address verifies against the certificate's IPs.
        let sni = if origin.tls {
            tls.server_name.as_deref().unwrap_or(&origin.host).to_owned()
        } else {
            String::new()
        };
        let mut peer = HttpPeer::new(address, origin.tls, sni);
        peer.client_cert_key = self.client.clone();
        let options = &mut peer.options;
        options.alpn = match (self.definition.protocol, origin.tls) {
            // Calls of functions are few bytes and long waits; a connection each is what AWS's own clients do.
            (Protocol::Auto, true) if self.function.is_some() => ALPN::H1,
            (Protocol::Auto, true) => ALPN::H2H1,
            (Protocol::H2, _) | (Protocol::H2c, false) => ALPN::H2,
            (Protocol::Auto, false) | (Protocol::H1, _) | (Protocol::H2c, true) => ALPN::H1,
        };
        options.ca = self.ca.clone();
        options.custom_l4 = Some(self.dials.main.clone());
        options.idle_timeout = Some(POOL_IDLE);
        options.max_h2_streams = H2_STREAMS;
        options.tcp_keepalive = Some(keepalive());
        // The pool's own key leaves out authorities and ALPN: without this, two backends on one address would share
        // connections that were verified differently, or are counted elsewhere.
        let mut hash = DefaultHasher::new();
        let Sources { addresses, ports } = &self.definition.sources;
        let counted =
            self.definition.connections.as_ref().map(|it| it.pool.as_deref().ok_or(&self.definition.id));
        (addresses, ports, counted).hash(&mut hash);
        // By what they say: a connection that was verified by a file as it was is nothing to those who come after it.
        (&tls.ca, &tls.client, self.tls_files).hash(&mut hash);
        (&tls.server_name, self.definition.protocol as u8).hash(&mut hash);
        peer.group_key = hash.finish();
        let authority = origin.authority().into();
        Endpoint {
            address,
            text: address.to_string().into(),
            authority,
            peer,
            healthy: AtomicBool::new(true),
            contrary: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
        }
    }

    /// The next healthy address, round robin. `avoid` is the one that just failed; it is taken again only when it is the
    /// only one. Where a cap leaves no room for another connection, the address where one rests goes first.
    pub fn pick(&self, avoid: Option<SocketAddr>) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.load();
        let is_healthy = |endpoint: &Arc<Endpoint>| endpoint.healthy.load(Ordering::Relaxed);
        // Where all others are unhealthy, those that were left out are better than none.
        let only_ejected = endpoints.iter().filter(|it| is_healthy(it)).all(|it| it.is_ejected());
        let can_be_asked =
            |endpoint: &&Arc<Endpoint>| is_healthy(endpoint) && (only_ejected || !endpoint.is_ejected());
        // Counted among those that can be asked, so that nobody gets the turns of a neighbour that is out.
        let candidates = || endpoints.iter().filter(can_be_asked);
        let count = candidates().count();
        let turn = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(count)?;
        if let Some(at) =
            self.cap.as_ref().and_then(|(cap, _)| cap.rests_at()).filter(|it| Some(*it) != avoid)
            && let Some(endpoint) = candidates().find(|endpoint| endpoint.address == at)
        {
            return Some(endpoint.clone());
        }
        // Some may be out since they were counted.
        let any = || candidates().next().or_else(|| endpoints.iter().find(|it| is_healthy(it)));
        let first = candidates().nth(turn).or_else(any)?;
        if Some(first.address) != avoid {
            return Some(first.clone());
        }
        Some(candidates().nth((turn + 1) % count).unwrap_or(first).clone())
    }

    /// What a request to it costs of a cap; `alone` has a connection for itself.
    pub fn cost(&self, alone: bool) -> u32 {
        if alone || !multiplexes(&self.definition) { WHOLE } else { WHOLE / H2_STREAMS as u32 }
    }

    /// Connections as they are now.
    pub fn connections(&self) -> Figures {
        match &self.cap {
            Some((cap, _)) => cap.figures(),
            None => {
                let open = self.dials.main.open();
                // Over HTTP/2 many requests share one.
                let in_use = self.under_way.load(Ordering::Relaxed).min(open);
                Figures { in_use, idle: open - in_use, ..Figures::default() }
            }
        }
    }

    /// Whether a request could be sent now.
    pub fn available(&self) -> bool {
        self.authorised().is_ok()
            && self.breaker.as_ref().is_none_or(|breaker| breaker.is_available(millis))
            && self.endpoints.load().iter().any(|endpoint| endpoint.healthy.load(Ordering::Relaxed))
    }

    /// Whether its breaker lets a call through, asked when one is about to be made.
    pub fn admit(&self) -> Admission {
        self.breaker.as_ref().map_or(Admission::Free, |breaker| breaker.admit(millis))
    }

    /// The end of a call that this backend, and nobody else, has to answer for.
    pub fn settle(&self, endpoint: &Endpoint, probe: bool, failed: bool, took: Duration) {
        if let Some(rule) = &self.definition.outliers {
            self.note(rule, endpoint, failed);
        }
        let Some(breaker) = &self.breaker else { return };
        let moved = breaker.settle(millis(), probe, failed, took);
        let Some(trip) = moved else { return };
        let (id, observe) = (&*self.definition.id, breaker.rule.observe);
        let (to, why) = trip.map_or(("closed", "probes succeeded"), |trip| ("open", trip.as_str()));
        self.transitions.with_label_values(&[id, to, if observe { "observe" } else { "enforce" }]).inc();
        self.show_breaker();
        tracing::warn!(backend = id, to, why, observe, "breaker");
        if let Some(news) = self.news.as_ref().filter(|_| breaker.rule.shared && !observe) {
            // Whoever passes it on may be gone at the end.
            let _ = news.send((self.definition.id.clone(), trip.map(|_| breaker.rests(millis()))));
        }
    }

    /// What another replica says of its breaker.
    pub fn hear(&self, open: Option<Duration>) {
        let Some(breaker) = self.breaker.as_ref().filter(|it| it.rule.shared && !it.rule.observe) else {
            return;
        };
        if breaker.hear(millis(), open) {
            let (id, to) = (&*self.definition.id, if open.is_some() { "open" } else { "closed" });
            self.transitions.with_label_values(&[id, to, "shared"]).inc();
            self.show_breaker();
            tracing::warn!(backend = id, to, why = "told by another replica", "breaker");
        }
    }

    /// The gauge, from the state as it is.
    pub fn show_breaker(&self) {
        if let Some(breaker) = &self.breaker {
            self.state.set(breaker.state().number());
        }
    }

    /// An address that fails while others do not is left out for a while, as long as enough are left.
    fn note(&self, rule: &OutlierRule, endpoint: &Endpoint, failed: bool) {
        if !failed {
            if endpoint.failed.load(Ordering::Relaxed) > 0 {
                endpoint.failed.store(0, Ordering::Relaxed);
            }
            return;
        }
        if endpoint.failed.fetch_add(1, Ordering::Relaxed) + 1 < rule.failures || endpoint.is_ejected() {
            return;
        }
        let endpoints = self.endpoints.load();
        let out = endpoints.iter().filter(|endpoint| endpoint.is_ejected()).count() as u64 + 1;
        if out * u64::from(PPM) > endpoints.len() as u64 * u64::from(rule.max_ejected_ppm) {
            return;
        }
        let times = endpoint.ejections.fetch_add(1, Ordering::Relaxed) + 1;
        let rest = rule.eject_for.saturating_mul(times.min(EJECTIONS_MAX));
        endpoint.failed.store(0, Ordering::Relaxed);
        endpoint.ejected_until.store(millis() + rest.as_millis() as u64, Ordering::Relaxed);
        self.ejections.inc();
        tracing::warn!(backend = &*self.definition.id, address = %endpoint.address, ?rest, "address left out");
    }

    /// Whether what it must prove itself with is at hand; free for backends that need no proof.
    pub fn authorised(&self) -> Result<(), &'static str> {
        let store = self.function.as_ref().map(|function| &function.credentials);
        if let Some(store) = store.or(self.signature.as_ref().map(|(_, store)| store)) {
            store.get(SystemTime::now()).ok_or(NO_CREDENTIALS)?;
        }
        if let Some(token) = &self.token {
            token.get(SystemTime::now()).ok_or(NO_TOKEN)?;
        }
        Ok(())
    }

    /// Puts on what this backend wants to see: its headers, its token, and last its signature. Functions are signed by `function`.
    pub fn authorise(&self, head: &mut RequestHeader, body: &[u8]) -> Result<(), (u16, &'static str)> {
        let now = SystemTime::now();
        for (name, value) in &self.definition.headers {
            head.insert_header(name.clone(), value.clone()).map_err(|_| (431, "too_many_headers"))?;
        }
        if let Some(token) = &self.token {
            let value = token.get(now).ok_or((503, NO_TOKEN))?;
            head.insert_header(token.header.clone(), value).map_err(|_| (431, "too_many_headers"))?;
        }
        if let Some((scope, store)) = &self.signature {
            let credentials = store.get(now).ok_or((503, NO_CREDENTIALS))?;
            // What cannot be signed came from the client: bytes in a covered header, or a target that is none.
            sign::apply(scope, &credentials, head, body, now)
                .map_err(|_| (400, "request_cannot_be_signed"))?;
        }
        Ok(())
    }

    /// The part of the addresses that is healthy; 0 when there is none.
    pub fn health_ratio(&self) -> f64 {
        let endpoints = self.endpoints.load();
        let healthy = endpoints.iter().filter(|endpoint| endpoint.healthy.load(Ordering::Relaxed)).count();
        if endpoints.is_empty() { 0.0 } else { healthy as f64 / endpoints.len() as f64 }
    }

    /// The Host to send when the client's is not kept.
    pub fn host<'a>(&'a self, endpoint: &'a Endpoint) -> Option<&'a str> {
        match &self.definition.host {
            HostMode::Preserve => None,
            HostMode::Backend => Some(&endpoint.authority),
            HostMode::Literal(name) => Some(name),
        }
    }
}
