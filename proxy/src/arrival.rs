//! Whom a connection is from, where a balancer in front says it.
//!
//! Input: a new connection of a listener with `proxy_protocol`. Output: the same, its header read, with who it is noted in its digest. Must not:
//! believe anybody but the balancers that are named, or serve without a header.

use crate::metrics::Metrics;
use crate::proxy_protocol::{Header, PREFIX, Proxied, read, rest_of};
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// A header is the first thing that comes; who waits is no balancer.
const PATIENCE: Duration = Duration::from_secs(3);

/// `None`: the connection is not to be served. A balancer's own connections are from nobody.
pub async fn arrive<S: AsyncRead + Unpin + Send + ?Sized>(
    stream: &mut S,
    peer: Option<IpAddr>,
    from: &[IpNet],
    metrics: &Metrics,
) -> Option<Option<Proxied>> {
    let trusted = peer.is_some_and(|peer| from.iter().any(|network| network.contains(&peer.to_canonical())));
    let cause = if trusted {
        match tokio::time::timeout(PATIENCE, header(stream)).await {
            Ok(Ok(header)) => {
                if let Some(proxied) = &header {
                    metrics.connections.arrived(proxied.endpoint.as_deref());
                }
                return Some(header);
            }
            Ok(Err(cause)) => cause,
            Err(_) => "proxy_protocol_timeout",
        }
    } else {
        "proxy_protocol_untrusted"
    };
    metrics.refused.with_label_values(&[cause]).inc();
    None
}

/// Exactly one: what follows is the client's, and may look like another.
async fn header<S: AsyncRead + Unpin + ?Sized>(stream: &mut S) -> Result<Option<Proxied>, &'static str> {
    const BAD: &str = "proxy_protocol_malformed";
    let mut header = vec![0; PREFIX];
    stream.read_exact(&mut header).await.map_err(|_| BAD)?;
    let prefix = header.first_chunk().ok_or(BAD)?;
    header.resize(PREFIX + rest_of(prefix).map_err(|_| BAD)?, 0);
    stream.read_exact(&mut header[PREFIX..]).await.map_err(|_| BAD)?;
    match read(&header).map_err(|_| BAD)? {
        Header::Local => Ok(None),
        Header::Proxied(proxied) => Ok(Some(proxied)),
    }
}
