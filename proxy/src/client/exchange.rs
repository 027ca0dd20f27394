//! One request with a body that is known, and its answer as it comes.
//!
//! Input: a prepared peer with its timeouts, a head, the whole body. Output: the answer's head, then its chunks; or the error,
//! and whether anything was sent. Must not: try again by itself: whether that is allowed only the caller knows.

use bytes::Bytes;
use http::header;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};

/// The pool and TLS configuration of all exchanges.
pub struct Client {
    connector: Connector<()>,
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
    session: HttpSession<()>,
    peer: HttpPeer,
}

impl Client {
    /// `pool` connections may rest.
    pub fn new(pool: usize) -> Client {
        Client { connector: Connector::new(Some(ConnectorOptions::new(pool))) }
    }

    /// Sends and waits for the final answer's head. Timeouts are the peer's.
    pub async fn send(&self, peer: HttpPeer, head: RequestHeader, body: Bytes) -> Result<Answer, Failed> {
        let connected = self.connector.get_http_session(&peer).await;
        let (mut session, reused) = connected.map_err(|error| {
            let error =
                if error.esource() == &pingora_error::ErrorSource::Unset { error.into_up() } else { error };
            Failed { error, sent: false, reused: false }
        })?;
        session.set_read_timeout(peer.options.read_timeout);
        session.set_write_timeout(peer.options.write_timeout);
        match exchange(&mut session, head, body).await {
            Ok(head) => Ok(Answer { head, reused, session, peer }),
            Err(error) => {
                session.shutdown().await;
                Err(Failed { error: error.into_up(), sent: true, reused })
            }
        }
    }
}

async fn exchange(session: &mut HttpSession<()>, head: RequestHeader, body: Bytes) -> Result<ResponseHeader> {
    session.write_request_header(Box::new(head)).await?;
    if !body.is_empty() {
        session.write_request_body(body, true).await?;
    }
    session.finish_request_body().await?;
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

    /// Back to the pool, once `chunk` gave `None`.
    pub async fn release(self, client: &Client) {
        let idle = self.peer.options.idle_timeout;
        client.connector.release_http_session(self.session, &self.peer, idle).await;
    }

    /// Closes without reading on.
    pub async fn abandon(mut self) {
        self.session.shutdown().await;
    }

    /// The whole body, up to `max` bytes; the connection goes back to the pool.
    pub async fn whole(mut self, client: &Client, max: usize) -> Result<Bytes> {
        let mut body = Vec::with_capacity(self.expected().unwrap_or(0).min(max));
        loop {
            match self.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > max => {
                    self.abandon().await;
                    return Err(Error::explain(
                        ErrorType::Custom("AnswerTooLarge"),
                        format!("over {max} bytes"),
                    )
                    .into_up());
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
