//! What all hooks share: settings, the live table, metrics and the log.
//!
//! Input: made once at boot. Output: shared by reference with every service. Must not: change.

use crate::access_log::LogSender;
use crate::api_keys::HotKeys;
use crate::authorizers::Authorizers;
use crate::discovery::Discovery;
use crate::evidence::store::EvidenceStore;
use crate::leaving::Leaving;
use crate::live::LiveTable;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::shadow::queue::ShadowQueue;
use crate::state::fleet::Fleet;
use crate::targets::supplies::Supplies;
use crate::tokens::Issuers;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

pub struct Shared {
    pub settings: Settings,
    pub live: Arc<LiveTable>,
    pub metrics: Arc<Metrics>,
    pub log: LogSender,
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

    pub fn is_draining(&self) -> bool {
        self.leaving.is_draining()
    }
}
