//! Connections to a backend: from its own addresses, and no more than it takes.
//!
//! Input: an address, by the framework or by an egress rule. Output: a socket that is counted until it is closed. Must not: cost anything where a
//! connection is used again.

use crate::caps::{Cap, Opened, Place, Pool, SOON, Shared};
use crate::metrics::Metrics;
use async_trait::async_trait;
use banyan_routes::backend::Sources;
use banyan_routes::file::Connections;
use pingora_core::connectors::l4::{BindTo, Connect};
use pingora_core::protocols::TcpKeepalive;
use pingora_core::protocols::l4::ext::connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::upstreams::peer::{Tracer, Tracing};
use pingora_error::{Error, ErrorType, Result};
use pingora_prometheus::prometheus::{IntGauge, IntGaugeVec};
use std::net::{IpAddr, SocketAddr as InetAddr};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;

/// No connection of its own is needed: there is one to share.
pub const SHARE: ErrorType = ErrorType::Custom("share");

/// Found dead after 60 + 3 x 10 s, before a NAT or a balancer (350 s) forgets the flow.
pub fn keepalive() -> TcpKeepalive {
    let (idle, interval, user_timeout) =
        (Duration::from_secs(60), Duration::from_secs(10), Duration::from_secs(90));
    TcpKeepalive { idle, interval, count: 3, user_timeout }
}

/// A cap, and what the rules say of it.
pub type Capped = (Arc<Cap>, Connections);

#[derive(Clone)]
pub struct Dial {
    sources: Sources,
    turn: Arc<AtomicUsize>,
    cap: Option<Capped>,
    pool: Pool,
    /// A connection takes many requests at a time.
    shared: bool,
    /// What it leads to, in the metrics.
    destination: Box<str>,
    ports: IntGaugeVec,
    open: Arc<AtomicU32>,
}

impl std::fmt::Debug for Dial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dial({})", self.destination)
    }
}

/// A connection, as long as it is open.
#[derive(Debug)]
pub struct Counted {
    ports: IntGauge,
    open: Arc<AtomicU32>,
    place: Option<Place>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.ports.dec();
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Dial {
    pub fn new(sources: &Sources, cap: Option<Capped>, destination: &str, metrics: &Metrics) -> Dial {
        Dial {
            sources: sources.clone(),
            turn: Arc::default(),
            cap,
            pool: Pool::Alone,
            shared: false,
            destination: destination.into(),
            ports: metrics.connections.ports.clone(),
            open: Arc::default(),
        }
    }

    /// The same, for connections of one pool.
    pub fn within(&self, pool: Pool, shared: bool) -> Arc<Dial> {
        Arc::new(Dial { pool, shared, ..self.clone() })
    }

    /// For checks of health, which say something only when they get through: beyond the cap.
    pub fn uncapped(&self) -> Arc<Dial> {
        Arc::new(Dial { cap: None, ..self.clone() })
    }

    /// Connections that are open, used or not.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Waits for a place; who calls says for how long.
    pub async fn tcp(&self, address: &InetAddr) -> Result<(TcpStream, Counted)> {
        let place = match &self.cap {
            Some((cap, rule)) => {
                let wanted = Opened { to: *address, pool: self.pool, shared: self.shared };
                match cap.place(rule, wanted).await {
                    Ok(place) => Some(place),
                    Err(Shared) => {
                        // It is on its way to the pool, or about to be.
                        tokio::time::sleep(SOON).await;
                        return Err(Error::explain(SHARE, "a connection that takes more requests"));
                    }
                }
            }
            None => None,
        };
        let stream = connect(address, self.source(address)?.as_ref()).await?;
        let source = stream.local_addr().map(|it| it.ip().to_string()).unwrap_or_default();
        let ports = self.ports.with_label_values(&[&*source, &*self.destination]);
        ports.inc();
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok((stream, Counted { ports, open: self.open.clone(), place }))
    }

    /// The next of the addresses of that family. Where addresses are given, no other is taken in their place.
    fn source(&self, to: &InetAddr) -> Result<Option<BindTo>> {
        let Sources { addresses, ports } = &self.sources;
        if addresses.is_empty() && ports.is_none() {
            return Ok(None);
        }
        let mut source = BindTo::default();
        if !addresses.is_empty() {
            let fits = |it: &&IpAddr| it.is_ipv4() == to.is_ipv4();
            let count = addresses.iter().filter(fits).count();
            let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(count);
            let address = turn.and_then(|turn| addresses.iter().filter(fits).nth(turn));
            let none = || Error::explain(ErrorType::BindError, "no address of that family to connect from");
            source.addr = Some(InetAddr::new(*address.ok_or_else(none)?, 0));
        }
        source.set_port_range(ports.map(|ports| (ports.first, ports.last)))?;
        Ok(Some(source))
    }
}

#[async_trait]
impl Connect for Dial {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let address = address.as_inet().ok_or_else(|| Error::new_up(ErrorType::ConnectError))?;
        let (tcp, mut counted) = self.tcp(address).await.map_err(Error::into_up)?;
        if let Some(place) = &mut counted.place {
            place.pooled(&tcp);
        }
        Ok(traced(Stream::from(tcp), counted))
    }
}

/// A stream that is counted until the framework closes it.
pub fn traced(mut stream: Stream, counted: Counted) -> Stream {
    stream.tracer = Some(Tracer(Box::new(Open(Arc::new(Mutex::new(Some(counted)))))));
    stream
}

#[derive(Debug)]
struct Open(Arc<Mutex<Option<Counted>>>);

impl Tracing for Open {
    fn on_connected(&self) {}

    /// Before the descriptor is closed, so that nobody takes its next owner for it.
    fn on_disconnected(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(Open(self.0.clone()))
    }
}
