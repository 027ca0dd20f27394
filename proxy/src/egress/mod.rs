//! The way out of the functions' networks: connections by rule, from few addresses, in turn.
//!
//! Input: connections of listeners with mode `connect`, `tcp` or `tls_passthrough`. Output: a tunnel to where a rule leads, or a refusal that is
//! counted and logged. Must not: reach anything that no rule names, or look a name up twice: what was checked is what is connected to.

mod ask;
mod hello;
mod through;

use crate::access_log::{Line, key, quoted};
use crate::arrival::arrive;
use crate::caps::{Full, Permit, WHOLE};
use crate::certificates::{HotCertificate, subject};
use crate::context::InFlight;
use crate::proxy::Shared;
use crate::settings::{Listener, Mode};
use crate::targets::dial::{Capped, Counted, keepalive};
use ask::{answer, head};
use async_trait::async_trait;
use banyan_routes::egress::{Caller, Denied, EgressRule, Wanted, decide};
use pingora_core::protocols::l4::ext::set_tcp_keepalive;
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::Service;
use pingora_error::ErrorType;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use through::{Passed, through};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio_rustls::TlsAcceptor;

const CONNECT_MAX: Duration = Duration::from_secs(2);
const DNS_MAX: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried.
const TRIES: usize = 3;
/// After an accept that failed, for want of descriptors mostly.
const AGAIN: Duration = Duration::from_millis(100);

/// What all listeners of this kind share.
pub struct Egress {
    pub shared: Arc<Shared>,
}

/// One listener.
pub struct Exit {
    pub egress: Arc<Egress>,
    pub listener: Listener,
    pub socket: Option<std::net::TcpListener>,
    pub tls: Option<TlsAcceptor>,
    pub open: UnboundedSender<()>,
}

/// Why a connection was not made.
struct Refused {
    status: u16,
    cause: &'static str,
    rule: Option<Box<str>>,
}

impl Refused {
    fn new(status: u16, cause: &'static str) -> Refused {
        Refused { status, cause, rule: None }
    }
}

/// The other end, and what it takes until it is closed.
struct Reached {
    server: TcpStream,
    rule: Box<str>,
    host: String,
    address: SocketAddr,
    sni: bool,
    _counted: Counted,
    _permit: Option<Permit>,
    _open: InFlight,
}

impl Egress {
    async fn reach(
        &self,
        listener: &str,
        caller: &Caller,
        key: Option<&[u8]>,
        wanted: Wanted<'_>,
    ) -> Result<Reached, Refused> {
        let live = self.shared.live.load().ok_or_else(|| Refused::new(503, "no_rules"))?;
        let rules = &live.serving.table.egress;
        let (number, host, port) = decide(rules, listener, caller, wanted)
            .map_err(|denied| Refused::new(if denied == Denied::Key { 407 } else { 403 }, denied.cause()))?;
        let (rule, way) = (&rules[number], &live.serving.ways[number]);
        let by_rule = |status, cause| Refused { status, cause, rule: Some(rule.id.clone()) };
        if let Some(plan) = caller.plan.as_deref().filter(|_| !rule.callers.plans.is_empty()) {
            let admitted = self.shared.api_keys.as_ref().map(|keys| keys.admits(key, plan));
            admitted.unwrap_or(Ok(())).map_err(|_| by_rule(429, "api_key_rate"))?;
        }
        let looked_up = self.shared.supplies.resolver.addresses_or_last(&host, DNS_MAX).await;
        let addresses = looked_up.ok_or_else(|| by_rule(502, "egress_dns"))?;
        let allowed: Vec<IpAddr> = addresses.into_iter().filter(|it| rule.may_reach(&host, *it)).collect();
        if allowed.is_empty() {
            return Err(by_rule(403, "egress_address"));
        }
        let permit = match &way.cap {
            Some(capped) => Some(self.enter(rule, capped, caller).await.map_err(|full| {
                by_rule(
                    503,
                    match full {
                        Full::Queue => "egress_queue_full",
                        Full::Late => "egress_queue_timeout",
                    },
                )
            })?),
            None => None,
        };
        let mut cause = "egress_connect";
        for ip in allowed.iter().take(TRIES) {
            let address = SocketAddr::new(*ip, port);
            match tokio::time::timeout(CONNECT_MAX, way.dial.tcp(&address)).await {
                Ok(Ok((server, counted))) => {
                    prepare(&server);
                    let from = server.local_addr().map(|it| it.ip().to_string()).unwrap_or_default();
                    let gauge = self.shared.metrics.egress.open.with_label_values(&[&*rule.id, &from]);
                    self.shared.metrics.egress.connections.with_label_values(&[&*rule.id]).inc();
                    return Ok(Reached {
                        server,
                        rule: rule.id.clone(),
                        host,
                        address,
                        sni: rule.sni,
                        _counted: counted,
                        _permit: permit,
                        _open: InFlight::new(&gauge),
                    });
                }
                Ok(Err(error)) => {
                    cause = match error.etype() {
                        ErrorType::ConnectTimedout => "egress_connect_timeout",
                        ErrorType::BindError => "egress_source",
                        _ => "egress_connect",
                    }
                }
                Err(_) => cause = "egress_connect_timeout",
            }
        }
        Err(by_rule(if cause == "egress_connect_timeout" { 504 } else { 502 }, cause))
    }

    async fn enter(
        &self,
        rule: &EgressRule,
        (cap, figures): &Capped,
        caller: &Caller,
    ) -> Result<Permit, Full> {
        let metrics = &self.shared.metrics;
        let begun = Instant::now();
        let _waits = InFlight::new(&metrics.egress.queued.with_label_values(&[&*rule.id]));
        let entered = match (&caller.endpoint, caller.address) {
            (Some(endpoint), _) => cap.enter(figures, WHOLE, &**endpoint).await,
            (None, Some(address)) => cap.enter(figures, WHOLE, &address).await,
            (None, None) => cap.enter(figures, WHOLE, "").await,
        };
        metrics.egress.queue.with_label_values(&[&*rule.id]).observe(begun.elapsed().as_secs_f64());
        entered
    }
}

/// No waiting for more, and found dead long before a balancer would forget it.
fn prepare(stream: &TcpStream) {
    // A connection that has ended meanwhile is seen when it is used.
    let _ = stream.set_nodelay(true);
    let _ = set_tcp_keepalive(stream, &keepalive());
}

impl Exit {
    async fn serve(&self, mut tcp: TcpStream, peer: SocketAddr) {
        let shared = &self.egress.shared;
        let begun = Instant::now();
        let mut caller = Caller { address: Some(peer.ip()), ..Caller::default() };
        if let Some(from) = &self.listener.proxy_protocol {
            match arrive(&mut tcp, Some(peer.ip()), from, &shared.metrics).await {
                Some(Some(proxied)) => {
                    caller.address = Some(proxied.source.ip());
                    caller.endpoint = proxied.endpoint;
                }
                // The balancer itself wants to see whether somebody answers.
                Some(None) => return,
                None => return reset(&tcp),
            }
        }
        prepare(&tcp);
        let tunnel = Tunnel { exit: self, begun };
        match (&self.tls, self.listener.mode) {
            (_, Mode::Tcp) => tunnel.tcp(tcp, &caller).await,
            (_, Mode::TlsPassthrough) => tunnel.by_name(tcp, &caller).await,
            (None, _) => tunnel.connect(tcp, caller).await,
            (Some(acceptor), _) => {
                let patience = shared.settings.limits.header_time;
                match tokio::time::timeout(patience, acceptor.accept(tcp)).await {
                    Ok(Ok(stream)) => {
                        let certificates = stream.get_ref().1.peer_certificates();
                        caller.subject = certificates.and_then(<[_]>::first).map(subject).unwrap_or_default();
                        tunnel.connect(stream, caller).await;
                    }
                    Ok(Err(_)) | Err(_) => tunnel.refused(&caller, "", &Refused::new(0, "egress_handshake")),
                }
            }
        }
    }
}

/// The client is not to take it for an end.
fn reset(tcp: &TcpStream) {
    let _ = tcp.set_zero_linger();
}

/// One connection on its way.
struct Tunnel<'a> {
    exit: &'a Exit,
    begun: Instant,
}

impl Tunnel<'_> {
    async fn tcp(&self, tcp: TcpStream, caller: &Caller) {
        match self.exit.egress.reach(&self.exit.listener.name, caller, None, Wanted::Nothing).await {
            Ok(reached) => self.pass(tcp, reached, caller, &[]).await,
            Err(refused) => {
                reset(&tcp);
                self.refused(caller, "", &refused);
            }
        }
    }

    async fn by_name(&self, mut tcp: TcpStream, caller: &Caller) {
        let patience = self.exit.egress.shared.settings.limits.header_time;
        let heard = tokio::time::timeout(patience, hello::hello(&mut tcp)).await;
        let (seen, name) = match heard.unwrap_or(Err("egress_not_tls")) {
            Ok((seen, Some(name))) => (seen, name),
            other => {
                reset(&tcp);
                let cause = other.err().unwrap_or("egress_no_name");
                return self.refused(caller, "", &Refused::new(0, cause));
            }
        };
        match self.exit.egress.reach(&self.exit.listener.name, caller, None, Wanted::Name(&name)).await {
            Ok(reached) => self.pass(tcp, reached, caller, &seen).await,
            Err(refused) => {
                reset(&tcp);
                self.refused(caller, &name, &refused);
            }
        }
    }

    async fn connect<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, mut caller: Caller) {
        // What comes behind the head is the tunnel's, whose reads are larger than this and pass it by.
        let mut stream = BufReader::with_capacity(1 << 10, stream);
        let patience = self.exit.egress.shared.settings.limits.header_time;
        let asked = match tokio::time::timeout(patience, head(&mut stream)).await {
            Ok(Ok(asked)) => asked,
            Ok(Err((status, cause))) => {
                answer(&mut stream, status, cause).await;
                return self.refused(&caller, "", &Refused::new(status, cause));
            }
            Err(_) => return self.refused(&caller, "", &Refused::new(408, "header_time")),
        };
        let told = format!("{}:{}", asked.host, asked.port);
        let keys = self.exit.egress.shared.api_keys.as_ref();
        caller.plan = keys.zip(asked.key.as_ref()).and_then(|(keys, key)| keys.plan(key));
        let (wanted, key) = (Wanted::Both(&asked.host, asked.port), asked.key.as_deref());
        let reached = match self.exit.egress.reach(&self.exit.listener.name, &caller, key, wanted).await {
            Ok(reached) => reached,
            Err(refused) => {
                answer(&mut stream, refused.status, refused.cause).await;
                return self.refused(&caller, &told, &refused);
            }
        };
        let caller = &caller;
        if stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.is_err() || stream.flush().await.is_err() {
            return;
        }
        if !reached.sni {
            return self.pass(stream, reached, caller, &[]).await;
        }
        let heard = tokio::time::timeout(patience, hello::hello(&mut stream)).await;
        match heard.unwrap_or(Err("egress_not_tls")) {
            Ok((seen, Some(name))) if name == reached.host => self.pass(stream, reached, caller, &seen).await,
            other => {
                let cause = other.err().unwrap_or("egress_sni");
                self.refused(caller, &told, &Refused { status: 0, cause, rule: Some(reached.rule) });
            }
        }
    }

    /// `seen` was read already, and goes first.
    async fn pass<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        client: S,
        mut reached: Reached,
        caller: &Caller,
        seen: &[u8],
    ) {
        let metrics = &self.exit.egress.shared.metrics;
        let passed = match reached.server.write_all(seen).await {
            Ok(()) => through(client, &mut reached.server).await,
            Err(_) => Passed { up: 0, down: 0, idle: false },
        };
        let up = passed.up + seen.len() as u64;
        metrics.egress.bytes.with_label_values(&[&*reached.rule, "up"]).inc_by(up);
        metrics.egress.bytes.with_label_values(&[&*reached.rule, "down"]).inc_by(passed.down);
        self.exit.egress.shared.log.send(|line| {
            self.write(line, caller);
            line.text(quoted!("rule"), &reached.rule);
            line.text(quoted!("server.address"), &reached.host);
            line.clean(quoted!("backend.address"), reached.address.to_string());
            line.number(key!("bytes.up"), up);
            line.number(key!("bytes.down"), passed.down);
            if passed.idle {
                line.clean(quoted!("cause"), "egress_idle");
            }
        });
    }

    fn refused(&self, caller: &Caller, target: &str, refused: &Refused) {
        let shared = &self.exit.egress.shared;
        shared.metrics.refused.with_label_values(&[refused.cause]).inc();
        shared.log.send(|line| {
            self.write(line, caller);
            if let Some(rule) = &refused.rule {
                line.text(quoted!("rule"), rule);
            }
            if !target.is_empty() {
                line.text(quoted!("server.address"), target);
            }
            if refused.status > 0 {
                line.number(key!("http.response.status_code"), u64::from(refused.status));
            }
            line.clean(quoted!("cause"), refused.cause);
        });
    }

    /// What every line says of a connection.
    fn write(&self, line: &mut Line<'_>, caller: &Caller) {
        line.seconds(key!("time"), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        line.text(quoted!("listener"), &self.exit.listener.name);
        line.clean(quoted!("client.address"), caller.address.map(|it| it.to_string()).unwrap_or_default());
        if let Some(endpoint) = &caller.endpoint {
            line.text(quoted!("client.vpce"), endpoint);
        }
        line.seconds(key!("duration"), self.begun.elapsed());
    }
}

#[async_trait]
impl Service for Exit {
    async fn start_service(&mut self, _: Option<ListenFds>, mut shutdown: ShutdownWatch, _: usize) {
        let Some(listener) = self.socket.take().and_then(|it| TcpListener::from_std(it).ok()) else { return };
        let exit = Arc::new(Exit {
            egress: self.egress.clone(),
            listener: self.listener.clone(),
            socket: None,
            tls: self.tls.clone(),
            open: self.open.clone(),
        });
        // Whoever waits for it may be gone.
        let _ = self.open.send(());
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                told = shutdown.changed() => match told {
                    // Being told that nothing has begun is no reason to stop.
                    Ok(()) if !*shutdown.borrow() => continue,
                    _ => return,
                },
            };
            let Ok((tcp, peer)) = accepted else {
                tokio::time::sleep(AGAIN).await;
                continue;
            };
            let (exit, counted) = (exit.clone(), exit.egress.shared.leaving.connection());
            tokio::spawn(async move {
                match exit.egress.shared.place() {
                    Some(_place) => exit.serve(tcp, peer).await,
                    None => {
                        exit.egress.shared.metrics.refused.with_label_values(&["connections"]).inc();
                        reset(&tcp);
                    }
                }
                drop(counted);
            });
        }
    }

    fn name(&self) -> &str {
        &self.listener.name
    }

    fn threads(&self) -> Option<usize> {
        None
    }
}

/// How TLS is spoken on such a listener.
pub fn acceptor(certificate: &Arc<HotCertificate>) -> Result<TlsAcceptor, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &certificate.clients {
        Some(clients) => builder.with_client_cert_verifier(clients.clone()),
        None => builder.with_no_client_auth(),
    };
    Ok(TlsAcceptor::from(Arc::new(builder.with_cert_resolver(certificate.clone()))))
}
