//! Names -> addresses, with the time they hold.
//!
//! Input: a host name or address. Output: sorted addresses and their TTL within bounds; for who can use them, the last ones that were known. Must
//! not: be waited for by a request of a client to a route.

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Names change no faster than this, and a record with TTL 0 would otherwise be asked for without end.
const TTL_MIN: Duration = Duration::from_secs(1);
/// However long a TTL is, a move is seen within this.
const TTL_MAX: Duration = Duration::from_secs(60);
/// How long an answer may stand in for one that does not come; RFC 8767 says one to three days.
const STALE_MAX: Duration = Duration::from_secs(24 * 3600);
const STALE_NAMES_MAX: usize = 10_000;
/// After a question that nobody has answered.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// A private zone, and who knows about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// In lower case, without dots at its ends; empty: every name.
    pub name: String,
    pub servers: Vec<SocketAddr>,
}

pub struct Resolver {
    /// The longest first.
    zones: Vec<(String, TokioResolver)>,
    dns: Option<TokioResolver>,
    last: Mutex<HashMap<String, Known>>,
}

/// What DNS said last.
struct Known {
    addresses: Vec<IpAddr>,
    at: Instant,
    /// When nobody answered, since then.
    failed: Option<Instant>,
}

/// Why there are no addresses.
struct Unresolved {
    text: String,
    /// Somebody has answered: there are none.
    sure: bool,
}

impl Resolver {
    /// By the zones' servers, else by /etc/resolv.conf and /etc/hosts. Call inside a tokio runtime.
    pub fn new(zones: &[Zone]) -> Resolver {
        let dns = TokioResolver::builder_tokio().and_then(|builder| builder.build());
        if let Err(error) = &dns {
            tracing::warn!(%error, "no resolver: backends can be given by address only");
        }
        let mut zones: Vec<_> =
            zones.iter().filter_map(|zone| Some((zone.name.clone(), asking(&zone.servers)?))).collect();
        zones.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        Resolver { zones, dns: dns.ok(), last: Mutex::default() }
    }

    /// An address stands for itself, for ever; a name for what DNS says.
    pub async fn addresses(&self, host: &str) -> Result<(Vec<IpAddr>, Duration), String> {
        self.ask(host).await.map_err(|error| error.text)
    }

    async fn ask(&self, host: &str) -> Result<(Vec<IpAddr>, Duration), Unresolved> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok((vec![address], Duration::MAX));
        }
        let zone = self.zones.iter().find(|(zone, _)| is_within(host, zone));
        let nobody = || Unresolved { text: "no resolver is configured".into(), sure: false };
        let dns = zone.map(|(_, dns)| dns).or(self.dns.as_ref()).ok_or_else(nobody)?;
        let answer = dns
            .lookup_ip(host)
            .await
            .map_err(|error| Unresolved { sure: error.is_no_records_found(), text: error.to_string() })?;
        let ttl = answer.valid_until().saturating_duration_since(Instant::now()).clamp(TTL_MIN, TTL_MAX);
        let mut addresses: Vec<IpAddr> = answer.iter().collect();
        addresses.sort_unstable();
        addresses.dedup();
        let none = || Unresolved { text: "the answer holds no address".into(), sure: true };
        if addresses.is_empty() { Err(none()) } else { Ok((addresses, ttl)) }
    }

    /// What DNS says within `wait`; where nobody answers, what was said last, for a day.
    pub async fn addresses_or_last(&self, host: &str, wait: Duration) -> Option<Vec<IpAddr>> {
        // Who has just been asked in vain is not waited for by everybody.
        let recent = |known: &Known| known.failed.is_some_and(|at| at.elapsed() < ASK_AGAIN);
        if let Some(known) = self.known().get(host).filter(|known| recent(known)) {
            return Some(known.addresses.clone());
        }
        let asked = tokio::time::timeout(wait, self.ask(host)).await;
        let mut last = self.known();
        match asked {
            Ok(Ok((addresses, Duration::MAX))) => Some(addresses),
            Ok(Ok((addresses, _))) => {
                if last.len() >= STALE_NAMES_MAX && !last.contains_key(host) {
                    last.clear();
                }
                let known = Known { addresses: addresses.clone(), at: Instant::now(), failed: None };
                last.insert(host.to_owned(), known);
                Some(addresses)
            }
            Ok(Err(Unresolved { sure: true, .. })) => {
                last.remove(host);
                None
            }
            Ok(Err(_)) | Err(_) => {
                let known = last.get_mut(host).filter(|known| known.at.elapsed() < STALE_MAX)?;
                known.failed = Some(Instant::now());
                tracing::warn!(host, "name not resolved; the last addresses stay");
                Some(known.addresses.clone())
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_within(host: &str, zone: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    zone.is_empty() || host.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn asking(servers: &[SocketAddr]) -> Option<TokioResolver> {
    let server = |address: &SocketAddr| {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        connections.iter_mut().for_each(|connection| connection.port = address.port());
        NameServerConfig::new(address.ip(), true, connections)
    };
    let config = ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect());
    let built = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build();
    built.inspect_err(|error| tracing::error!(%error, "resolver of a zone")).ok()
}

#[cfg(test)]
mod tests {
    use super::is_within;

    #[test]
    fn a_zone_holds_its_name_and_what_is_below_it() {
        for (host, zone, expected) in [
            ("core.bank.internal", "bank.internal", true),
            ("BANK.internal.", "bank.internal", true),
            ("notbank.internal", "bank.internal", false),
            ("bank.internal.example.com", "bank.internal", false),
            ("example.com", "", true),
        ] {
            assert_eq!(is_within(host, zone), expected, "{host} in {zone}");
        }
    }
}
