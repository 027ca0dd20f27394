//! One request with a body that is known, and its answer as it comes.
//!
//! Input: a prepared peer with its timeouts, a head, the whole body. Output: the answer's head, then its chunks; or the error,
//! and whether anything was sent. Must not: try again by itself: whether that is allowed only the caller knows.

use crate::caps::{Cap, Closing, SOON, Use};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Uri, header};
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::UniqueID;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::http::v1::client::HttpSession as Http1Session;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// An answer that is larger than its reader takes.
pub const TOO_LARGE: ErrorType = ErrorType::Custom("answer too large");

/// How long an answer may take that was given before the request was read to its end.
const EARLY_ANSWER: Duration = Duration::from_secs(1);

/// Connections in a row that may have been given up for others.
const CLOSED_MAX: usize = 64;

/// Resting connections in a row that may turn out to be closed.
const STALE_MAX: usize = 16;

/// The pool and TLS configuration of all exchanges.
pub struct Client {
    connector: Connector<()>,
    /// Of a client whose exchanges follow each other in rows.
    near: Option<Mutex<Vec<Near>>>,
}

/// A connection between two exchanges of a row. Unlike one of the pool, nobody watches it: to be watched and fetched again costs as much as an
/// exchange does besides. Whoever takes it looks whether it is still open.
struct Near {
    session: Http1Session,
    peer: Box<HttpPeer>,
    hash: u64,
}

/// A connection to send over.
struct Connected {
    session: HttpSession<()>,
    reused: bool,
    in_use: Option<Use>,
}

/// Why there is no answer.
#[derive(Debug)]
pub struct Failed {
    pub error: Box<Error>,
    /// Whether the other side may have seen any of it.
    pub sent: bool,
    /// Whether the connection came from the pool, and may have been closed by the other side meanwhile.
    pub reused: bool,
}

/// An answer whose body has not been read yet.
pub struct Answer {
    pub head: ResponseHeader,
    pub reused: bool,
    /// Whether the other side read the whole request; if not, the connection cannot be used again.
    taken: bool,
    session: HttpSession<()>,
    peer: Box<HttpPeer>,
    in_use: Option<Use>,
}

fn socket(session: &HttpSession<()>) -> RawFd {
    match session {
        HttpSession::H1(session) => session.id(),
        HttpSession::H2(session) => session.fd(),
        HttpSession::Custom(()) => -1,
    }
}

impl Client {
    /// `pool` connections may rest.
    pub fn new(pool: usize) -> Client {
        Client { connector: Connector::new(Some(ConnectorOptions::new(pool))), near: None }
    }

    /// For exchanges that follow each other; `rest` says that a row is over.
    pub fn in_rows(pool: usize) -> Client {
        Client { near: Some(Mutex::default()), ..Client::new(pool) }
    }

    /// Connections that are near go to the pool, which watches them.
    pub async fn rest(&self) {
        let Some(near) = &self.near else { return };
        let near = std::mem::take(&mut *near.lock().unwrap_or_else(PoisonError::into_inner));
        for Near { session, peer, .. } in near {
            let idle = peer.options.idle_timeout;
            self.connector.release_http_session(HttpSession::H1(session), &*peer, idle).await;
        }
    }

    /// A connection that was used a moment ago, and its peer with the timeouts of this one.
    async fn near(&self, peer: &HttpPeer) -> Option<(Connected, Box<HttpPeer>)> {
        let near = self.near.as_ref()?;
        let hash = peer.reuse_hash();
        loop {
            let Near { session, peer: mut kept, .. } = {
                let mut near = near.lock().unwrap_or_else(PoisonError::into_inner);
                let at = near.iter().rposition(|it| it.hash == hash)?;
                near.swap_remove(at)
            };
            let Some(mut stream) = session.reuse().await else { continue };
            if stream.read(&mut [0; 1]).now_or_never().is_none() {
                kept.options.read_timeout = peer.options.read_timeout;
                kept.options.write_timeout = peer.options.write_timeout;
                let session = HttpSession::H1(Http1Session::new_with_options(stream, &*kept));
                return Some((Connected { session, reused: true, in_use: None }, kept));
            }
        }
    }

    /// `send`, once more over a new connection when a resting one turns out to be closed; for requests that may be sent twice. `head` is
    /// asked for the head each time, so that nobody keeps a copy for a second time that hardly ever comes.
    pub async fn send_safe(
        &self,
        cap: Option<&Arc<Cap>>,
        peer: &HttpPeer,
        mut head: impl FnMut() -> Result<RequestHeader>,
        body: Bytes,
    ) -> Result<Answer, Failed> {
        let mut tries = 0;
        loop {
            let head = Box::new(head().map_err(|error| Failed { error, sent: false, reused: false })?);
            let near = if cap.is_none() { self.near(peer).await } else { None };
            let sent = match near {
                Some((connected, kept)) => send_over(connected, kept, head, body.clone()).await,
                None => self.send_to(cap, peer, head, body.clone()).await,
            };
            match sent {
                // Others that rest may have been closed with it.
                Err(failed) if failed.reused && tries < STALE_MAX => tries += 1,
                result => return result,
            }
        }
    }

    /// Sends and waits for the final answer's head. Timeouts are the peer's.
    pub async fn send(&self, peer: &HttpPeer, head: RequestHeader, body: Bytes) -> Result<Answer, Failed> {
        self.send_to(None, peer, Box::new(head), body).await
    }

    /// `send`, to a backend whose connections are counted.
    pub async fn send_within(
        &self,
        cap: Option<&Arc<Cap>>,
        peer: &HttpPeer,
        head: RequestHeader,
        body: Bytes,
    ) -> Result<Answer, Failed> {
        self.send_to(cap, peer, Box::new(head), body).await
    }

    async fn send_to(
        &self,
        cap: Option<&Arc<Cap>>,
        peer: &HttpPeer,
        head: Box<RequestHeader>,
        body: Bytes,
    ) -> Result<Answer, Failed> {
        // In a box: what connecting needs would make every exchange that large, to be copied at each step from its caller to here.
        let connected = Box::pin(self.connect(cap, peer)).await?;
        send_over(connected, Box::new(peer.clone()), head, body).await
    }

    async fn connect(&self, cap: Option<&Arc<Cap>>, peer: &HttpPeer) -> Result<Connected, Failed> {
        let mut closed = 0;
        loop {
            let connected = self.connector.get_http_session(peer).await;
            let (mut session, reused) = connected.map_err(|error| {
                let unset = error.esource() == &pingora_error::ErrorSource::Unset;
                Failed { error: if unset { error.into_up() } else { error }, sent: false, reused: false }
            })?;
            match cap.map_or(Ok(None), |cap| cap.begin(socket(&session))) {
                Ok(in_use) => return Ok(Connected { session, reused, in_use }),
                Err(Closing) if closed < CLOSED_MAX => {
                    // Closed for another one between the pool and here; whoever keeps it has to see that first.
                    closed += 1;
                    session.shutdown().await;
                    tokio::time::sleep(SOON).await;
                }
                Err(Closing) => {
                    let error = Error::explain(ErrorType::ConnectionClosed, "closed for another connection");
                    return Err(Failed { error: error.into_up(), sent: false, reused: false });
                }
            }
        }
    }
}

async fn send_over(
    connected: Connected,
    peer: Box<HttpPeer>,
    head: Box<RequestHeader>,
    body: Bytes,
) -> Result<Answer, Failed> {
    let Connected { mut session, reused, in_use } = connected;
    session.set_read_timeout(peer.options.read_timeout);
    session.set_write_timeout(peer.options.write_timeout);
    match exchange(&mut session, head, body, peer.is_tls()).await {
        Ok((head, taken)) => Ok(Answer { head, reused, taken, session, peer, in_use }),
        Err(error) => {
            session.shutdown().await;
            Err(Failed { error: error.into_up(), sent: true, reused })
        }
    }
}

/// The answer's head, and whether the whole request was taken.
async fn exchange(
    session: &mut HttpSession<()>,
    mut head: Box<RequestHeader>,
    body: Bytes,
    tls: bool,
) -> Result<(ResponseHeader, bool)> {
    if matches!(session, HttpSession::H2(_)) {
        authority_for_h2(&mut head, tls)?;
    }
    session.write_request_header(head).await?;
    if let Err(error) = send_body(session, body).await {
        // Who refuses a request early may close before it has read all of it; the refusal is worth more than the broken pipe.
        let early = tokio::time::timeout(EARLY_ANSWER, answered(session)).await;
        return early.ok().and_then(Result::ok).map(|head| (head, false)).ok_or(error);
    }
    Ok((answered(session).await?, true))
}

async fn send_body(session: &mut HttpSession<()>, body: Bytes) -> Result<()> {
    if !body.is_empty() {
        session.write_request_body(body, true).await?;
    }
    session.finish_request_body().await
}

/// HTTP/2 has no Host: it is the authority of the target.
fn authority_for_h2(head: &mut RequestHeader, tls: bool) -> Result<()> {
    let Some(host) = head.remove_header(&header::HOST) else { return Ok(()) };
    let target = String::from_utf8_lossy(head.raw_path()).into_owned();
    let uri = Uri::builder()
        .scheme(if tls { "https" } else { "http" })
        .authority(host.as_bytes())
        .path_and_query(target);
    head.set_uri(uri.build().or_err(ErrorType::InvalidHTTPHeader, "target for HTTP/2")?);
    Ok(())
}

/// The final answer's head.
async fn answered(session: &mut HttpSession<()>) -> Result<ResponseHeader> {
    loop {
        session.read_response_header().await?;
        let head = session.response_header().ok_or_else(|| Error::new(ErrorType::InvalidHTTPHeader))?;
        // Over HTTP/2 these never surface, and reading a second head would be a mistake.
        if !head.status.is_informational() {
            return Ok(head.clone());
        }
    }
}

impl Answer {
    /// The next part of the body; `None` is its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        self.session.read_response_body().await.map_err(|error| error.into_up())
    }

    /// Back to the pool, once `chunk` gave `None`. What is left is the head.
    pub async fn release(self, client: &Client) -> ResponseHeader {
        if !self.taken {
            return self.abandon().await;
        }
        match (self.session, &client.near) {
            // Those that are counted count as resting when the pool has them.
            (HttpSession::H1(mut session), Some(near)) if self.in_use.is_none() => {
                session.respect_keepalive();
                let (hash, peer) = (self.peer.reuse_hash(), self.peer);
                near.lock().unwrap_or_else(PoisonError::into_inner).push(Near { session, peer, hash });
            }
            (session, _) => {
                let idle = self.peer.options.idle_timeout;
                client.connector.release_http_session(session, &*self.peer, idle).await;
            }
        }
        // It rests from now on.
        drop(self.in_use);
        self.head
    }

    /// Closes without reading on.
    pub async fn abandon(mut self) -> ResponseHeader {
        self.session.shutdown().await;
        self.head
    }

    /// The whole body, up to `max` bytes; the connection goes back to the pool.
    pub async fn whole(mut self, client: &Client, max: usize) -> Result<Bytes> {
        let mut body = Vec::with_capacity(self.expected().unwrap_or(0).min(max));
        loop {
            match self.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > max => {
                    self.abandon().await;
                    return Err(Error::explain(TOO_LARGE, format!("over {max} bytes")).into_up());
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => {
                    self.abandon().await;
                    return Err(error);
                }
            }
        }
        self.release(client).await;
        Ok(Bytes::from(body))
    }

    fn expected(&self) -> Option<usize> {
        self.head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }
}
