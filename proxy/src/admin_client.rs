//! The CLI's side of the admin API.
//!
//! Input: a base URL, an optional token, a path. Output: status and JSON. Must not: bring a second HTTP stack; it uses the
//! connector that carries traffic.

use bytes::Bytes;
use http::{Method, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use serde_json::Value;
use std::net::ToSocketAddrs;
use std::path::Path;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(30);
/// A stream says something every second.
const SILENCE: Duration = Duration::from_secs(10);
/// Of a stream: a snapshot of 2,000 routes is some 2 MB.
const LINE_MAX: usize = 64 << 20;

/// Why there is no answer: exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// As a part of a path or a query: nothing in a name begins another part.
pub fn escaped(text: &str) -> String {
    const OTHER: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, OTHER).to_string()
}

#[derive(Clone)]
pub struct AdminClient {
    authority: String,
    tls: bool,
    token: Option<String>,
}

impl AdminClient {
    /// `http://127.0.0.1:9901`.
    pub fn new(url: &str, token_file: Option<&Path>) -> Result<AdminClient, Unreachable> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let authority = rest.trim_end_matches('/');
        if !matches!(scheme, "http" | "https") || authority.is_empty() || authority.contains('/') {
            return Err(Unreachable(format!(
                "`{url}` is not an admin URL; expected for example `http://127.0.0.1:9901`"
            )));
        }
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|error| Unreachable(format!("{}: {error}", path.display())))
        };
        let token = token_file.map(read).transpose()?.map(|token| token.trim().to_owned());
        Ok(AdminClient { authority: authority.to_owned(), tls: scheme == "https", token })
    }

    pub fn get(&self, path: &str) -> Result<(u16, Value), Unreachable> {
        self.call(&Method::GET, path, None, TIMEOUT)
    }

    pub fn get_within(&self, path: &str, most: Duration) -> Result<(u16, Value), Unreachable> {
        self.call(&Method::GET, path, None, most)
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<(u16, Value), Unreachable> {
        self.call(&Method::POST, path, Some(body), TIMEOUT)
    }

    fn call(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        most: Duration,
    ) -> Result<(u16, Value), Unreachable> {
        let fail = |error: &dyn std::fmt::Display| Unreachable(format!("{}: {error}", self.authority));
        let runtime = self.runtime()?;
        let exchange = async { tokio::time::timeout(most, self.exchange(method, path, body)).await };
        let (status, bytes) = runtime
            .block_on(exchange)
            .map_err(|_| fail(&format!("no answer in {} s", most.as_secs())))?
            .map_err(|error| fail(&error))?;
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok((status, value))
    }

    /// Lines of an answer that does not end by itself, until `on_line` says that it is enough. A status other than 200: that, and the answer.
    pub fn stream(
        &self,
        path: &str,
        mut on_line: impl FnMut(&str) -> bool,
    ) -> Result<(u16, Value), Unreachable> {
        let fail = |error: String| Unreachable(format!("{}: {error}", self.authority));
        let runtime = self.runtime()?;
        runtime.block_on(async {
            let begin = tokio::time::timeout(TIMEOUT, self.begin(&Method::GET, path, None)).await;
            let mut session = begin.map_err(|_| fail("no answer in 30 s".into()))?.map_err(fail)?;
            let status = session.response_header().map_or(0, |response| response.status.as_u16());
            let mut bytes = Vec::new();
            loop {
                let read = tokio::time::timeout(SILENCE, session.read_response_body()).await;
                let read = read.map_err(|_| fail(format!("no news for {} s", SILENCE.as_secs())))?;
                let Some(chunk) = read.map_err(|it| fail(it.to_string()))? else { break };
                bytes.extend_from_slice(&chunk);
                while status == 200
                    && let Some(end) = memchr::memchr(b'\n', &bytes)
                {
                    let line: Vec<u8> = bytes.drain(..=end).collect();
                    if !on_line(String::from_utf8_lossy(&line).trim_end()) {
                        return Ok((status, Value::Null));
                    }
                }
                if bytes.len() > LINE_MAX {
                    return Err(fail("a line that does not end".into()));
                }
            }
            Ok((status, serde_json::from_slice(&bytes).unwrap_or_default()))
        })
    }

    fn runtime(&self) -> Result<tokio::runtime::Runtime, Unreachable> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| Unreachable(format!("{}: {error}", self.authority)))
    }

    async fn exchange(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Vec<u8>), String> {
        let mut session = self.begin(method, path, body).await?;
        let status = session.response_header().map_or(0, |response| response.status.as_u16());
        let mut bytes = Vec::new();
        while let Some(chunk) = session.read_response_body().await.map_err(|error| error.to_string())? {
            bytes.extend_from_slice(&chunk);
        }
        Ok((status, bytes))
    }

    /// Asks, and reads the answer's head.
    async fn begin(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<HttpSession, String> {
        let default_port = if self.tls { 443 } else { 80 };
        let named = if self.authority.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok()) {
            self.authority.clone()
        } else {
            format!("{}:{default_port}", self.authority)
        };
        let address = named
            .to_socket_addrs()
            .map_err(|error| error.to_string())?
            .next()
            .ok_or("the name has no address")?;
        let host = named.rsplit_once(':').map_or(named.as_str(), |(host, _)| host);
        let mut peer = HttpPeer::new(address, self.tls, host.to_owned());
        peer.options.connection_timeout = Some(Duration::from_secs(5));
        let text = |error: Box<pingora_error::Error>| error.to_string();
        let (mut session, _) = Connector::<()>::new(None).get_http_session(&peer).await.map_err(text)?;
        let body = body.map(|body| Bytes::from(body.to_string()));
        let mut request = RequestHeader::build(method, path.as_bytes(), Some(5)).map_err(text)?;
        request.insert_header(header::HOST, &self.authority).map_err(text)?;
        if let Some(body) = &body {
            request.insert_header(header::CONTENT_TYPE, "application/json").map_err(text)?;
            request.insert_header(header::CONTENT_LENGTH, body.len()).map_err(text)?;
        }
        if let Some(token) = &self.token {
            request.insert_header(header::AUTHORIZATION, format!("Bearer {token}")).map_err(text)?;
        }
        session.write_request_header(Box::new(request)).await.map_err(text)?;
        if let Some(body) = body {
            session.write_request_body(body, true).await.map_err(text)?;
        }
        session.finish_request_body().await.map_err(text)?;
        session.read_response_header().await.map_err(text)?;
        Ok(session)
    }
}
