//! What all hooks share: settings, the live table, metrics and the log.
//!
//! Input: made once at boot. Output: shared by reference with every service. Must not: change.

use crate::access_log::LogSender;
use crate::api_keys::HotKeys;
use crate::arrival::arrive;
use crate::authorizers::Authorizers;
use crate::discovery::Discovery;
use crate::evidence::store::EvidenceStore;
use crate::figures::Figurebook;
use crate::leaving::Leaving;
use crate::live::LiveTable;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::shadow::queue::ShadowQueue;
use crate::spans::SpanSender;
use crate::state::fleet::Fleet;
use crate::tap::Taps;
use crate::targets::supplies::Supplies;
use crate::tokens::Issuers;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{GetProxyDigest, GetSocketDigest};
use pingora_http::ResponseHeader;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::io::AsyncRead;

pub struct Shared {
    pub settings: Settings,
    pub live: Arc<LiveTable>,
    pub metrics: Arc<Metrics>,
    pub log: LogSender,
    pub spans: SpanSender,
    /// Who watches decisions as they are made.
    pub taps: Arc<Taps>,
    /// How routes do just now.
    pub figures: Arc<Figurebook>,
    /// Requests are neither counted, traced nor logged: for measuring what that costs, and for nothing else.
    pub unobserved: bool,
    pub leaving: Arc<Leaving>,
    /// Every listener takes connections.
    pub listening: AtomicBool,
    pub supplies: Arc<Supplies>,
    pub shadow: ShadowQueue,
    pub discovery: Arc<Discovery>,
    /// Requests and resting connections, of all listeners.
    pub places: AtomicUsize,
    pub memory: Arc<Memory>,
    /// Of clients, for routes that require one.
    pub api_keys: Option<Arc<HotKeys>>,
    pub issuers: Arc<Issuers>,
    pub authorizers: Arc<Authorizers>,
    /// `None`: state is this process's own.
    pub fleet: Option<Arc<Fleet>>,
    pub evidence: Arc<EvidenceStore>,
}

/// Given back when the connection or the stream ends.
pub struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// The listener a connection came in by: ports are unique among listeners that share an address.
    pub fn listener_of(&self, local: Option<std::net::SocketAddr>) -> usize {
        let Some(local) = local else { return 0 };
        let listeners = self.settings.listeners.iter();
        let matches = |address: std::net::SocketAddr| {
            address.port() == local.port()
                && (address.ip().is_unspecified() || address.ip() == local.ip().to_canonical())
        };
        listeners.enumerate().find(|(_, listener)| matches(listener.address)).map_or(0, |(number, _)| number)
    }

    /// A place among all requests and resting connections, where there is one.
    pub fn place(&self) -> Option<Place<'_>> {
        let taken = self.places.fetch_add(1, Ordering::Relaxed);
        let place = Place(&self.places);
        (taken < self.settings.limits.connections).then_some(place)
    }

    /// Reads what a balancer says of a new connection, where its listener has one; `None`: it is not to be served.
    pub async fn arrive<S>(&self, stream: &mut S) -> Option<()>
    where
        S: AsyncRead + GetSocketDigest + GetProxyDigest + Unpin + Send + ?Sized,
    {
        let digest = stream.get_socket_digest();
        let inet = |address: Option<&pingora_core::protocols::l4::socket::SocketAddr>| {
            address.and_then(|it| it.as_inet().copied())
        };
        let local = digest.as_ref().and_then(|digest| inet(digest.local_addr()));
        let listener = self.settings.listeners.get(self.listener_of(local))?;
        let Some(from) = &listener.proxy_protocol else { return Some(()) };
        let peer = digest.as_ref().and_then(|digest| inet(digest.peer_addr()));
        let proxied = arrive(stream, peer.map(|it| it.ip()), from, &self.metrics).await?;
        if let Some(proxied) = proxied {
            let head = ResponseHeader::build(200, Some(0)).ok()?;
            stream.set_proxy_digest(ProxyDigest::new(Box::new(head), Some(Box::new(proxied))));
        }
        Some(())
    }

    pub fn is_draining(&self) -> bool {
        self.leaving.is_draining()
    }
}
