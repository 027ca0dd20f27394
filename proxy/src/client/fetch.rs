//! A small request to a service by its URL: metadata, tokens, key sets, authorizers, webhooks.
//!
//! Input: a whole request. Output: status, headers and the whole answer. Must not: be used for a client's own request, or keep what it asked
//! for to itself when that fails.

use super::dns::Resolver;
use super::exchange::Client;
use bytes::Bytes;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::ErrorType;
use pingora_http::RequestHeader;
use std::time::Duration;

/// What such a service may answer at most.
const ANSWER_MAX: usize = 1 << 20;

/// Why a service gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum Unfetched {
    #[error("{0}")]
    Timeout(String),
    #[error("{0}")]
    Other(String),
}

/// A small request to a service by its URL: resolved, sent, read whole. 2 s to connect, 10 s to answer.
pub async fn fetch(
    client: &Client,
    resolver: &Resolver,
    request: http::Request<Bytes>,
) -> Result<(http::StatusCode, http::HeaderMap, Bytes), Unfetched> {
    let other = |text: String| Unfetched::Other(text);
    let uri = request.uri();
    let host =
        uri.host().ok_or_else(|| other(format!("{uri} names no host")))?.trim_matches(['[', ']']).to_owned();
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let (addresses, _) =
        resolver.addresses(&host).await.map_err(|error| other(format!("{host}: {error}")))?;
    let address = addresses.first().ok_or_else(|| other(format!("{host}: no address")))?;
    let mut peer = HttpPeer::new((*address, port), tls, if tls { host.clone() } else { String::new() });
    peer.options.connection_timeout = Some(Duration::from_secs(2));
    peer.options.total_connection_timeout = Some(Duration::from_secs(4));
    peer.options.read_timeout = Some(Duration::from_secs(10));
    peer.options.idle_timeout = Some(Duration::from_secs(5));
    let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let authority = uri.authority().map_or(host.clone(), |authority| authority.to_string());
    let (parts, body) = request.into_parts();
    let build = || -> pingora_error::Result<RequestHeader> {
        let mut head = RequestHeader::build(parts.method.clone(), target.as_bytes(), Some(8))?;
        for (name, value) in &parts.headers {
            head.append_header(name, value)?;
        }
        head.insert_header(http::header::HOST, &authority)?;
        head.insert_header(http::header::CONTENT_LENGTH, body.len())?;
        Ok(head)
    };
    let head = build().map_err(|error| other(error.to_string()))?;
    let failed = |error: Box<pingora_error::Error>| match error.etype() {
        ErrorType::ConnectTimedout | ErrorType::ReadTimedout | ErrorType::WriteTimedout => {
            Unfetched::Timeout(format!("{authority}: {error}"))
        }
        _ => Unfetched::Other(format!("{authority}: {error}")),
    };
    let answer =
        client.send_safe(None, &peer, || Ok(head.clone()), body).await.map_err(|it| failed(it.error))?;
    let (status, headers) = (answer.head.status, answer.head.headers.clone());
    let body = answer.whole(client, ANSWER_MAX).await.map_err(failed)?;
    Ok((status, headers, body))
}
