//! Names -> addresses, with the time they hold.
//!
//! Input: a host name or address. Output: sorted addresses and their TTL within bounds. Must not: be waited for by a request
//! of a client.

use hickory_resolver::TokioResolver;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Names change no faster than this, and a record with TTL 0 would otherwise be asked for without end.
const TTL_MIN: Duration = Duration::from_secs(1);
/// However long a TTL is, a move is seen within this.
const TTL_MAX: Duration = Duration::from_secs(60);

pub struct Resolver {
    dns: Option<TokioResolver>,
}

impl Resolver {
    /// By /etc/resolv.conf and /etc/hosts. Call inside a tokio runtime.
    pub fn new() -> Resolver {
        let dns = TokioResolver::builder_tokio().and_then(|builder| builder.build());
        if let Err(error) = &dns {
            tracing::warn!(%error, "no resolver: backends can be given by address only");
        }
        Resolver { dns: dns.ok() }
    }

    /// An address stands for itself, for ever; a name for what DNS says.
    pub async fn addresses(&self, host: &str) -> Result<(Vec<IpAddr>, Duration), String> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok((vec![address], Duration::MAX));
        }
        let dns = self.dns.as_ref().ok_or("no resolver is configured")?;
        let answer = dns.lookup_ip(host).await.map_err(|error| error.to_string())?;
        let ttl = answer.valid_until().saturating_duration_since(Instant::now()).clamp(TTL_MIN, TTL_MAX);
        let mut addresses: Vec<IpAddr> = answer.iter().collect();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() { Err("the answer holds no address".into()) } else { Ok((addresses, ttl)) }
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Resolver::new()
    }
}
