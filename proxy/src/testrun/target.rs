//! One side of a test run: where it is asked, with the cookies it has set.
//!
//! Input: a recorded request. Output: its answer. Must not: send a session's cookies of one side to the other.

use crate::client::exchange::Client;
use crate::testrun::record::{Recorded, Stored};
use banyan_routes::ids::Side;
use bytes::BytesMut;
use http::{HeaderName, HeaderValue, header};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const MARKER: HeaderName = HeaderName::from_static("x-banyan-shadow");
/// Cookies remembered for one session, and sessions remembered.
const COOKIES_MAX: usize = 64;
const SESSIONS_MAX: usize = 100_000;

/// `http://host:8080/prefix`, with its address found.
pub struct Target {
    pub side: Side,
    pub url: String,
    pub authority: String,
    host: String,
    prefix: String,
    tls: bool,
    address: SocketAddr,
    client: Client,
    wait_max: Duration,
    body_max: usize,
    /// Session -> name -> value, as this side has set them.
    cookies: Mutex<HashMap<String, BTreeMap<String, String>>>,
}

impl Target {
    pub fn new(
        side: Side,
        url: &str,
        host: Option<&str>,
        wait_max: Duration,
        body_max: usize,
    ) -> std::result::Result<Target, String> {
        let hint =
            || format!("`{url}` is not a URL of a target; expected for example `http://10.0.4.10:8080`");
        let (scheme, rest) = url.split_once("://").ok_or_else(hint)?;
        if !matches!(scheme, "http" | "https") {
            return Err(hint());
        }
        let (authority, prefix) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
        let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
        if !port.is_empty() && port.bytes().all(|it| it.is_ascii_digit()) && port.parse::<u16>().is_err() {
            return Err(format!("`{url}`: {port} is not a port; expected at most 65535"));
        }
        if authority.is_empty() || authority.contains('@') || prefix.contains(['?', '#']) {
            return Err(hint());
        }
        let tls = scheme == "https";
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let named = if has_port {
            authority.to_owned()
        } else {
            format!("{authority}:{}", if tls { 443 } else { 80 })
        };
        let mut addresses = named.to_socket_addrs().map_err(|error| format!("{authority}: {error}"))?;
        let address = addresses.next().ok_or_else(|| format!("{authority} has no address"))?;
        Ok(Target {
            side,
            url: url.trim_end_matches('/').to_owned(),
            authority: authority.to_owned(),
            host: host.unwrap_or(authority).to_owned(),
            prefix: prefix.trim_end_matches('/').to_owned(),
            tls,
            address,
            client: Client::new(256),
            wait_max,
            body_max,
            cookies: Mutex::default(),
        })
    }

    /// Within `wait_max`, the body up to `body_max` bytes.
    pub async fn ask(&self, recorded: &Recorded) -> Result<Stored> {
        match tokio::time::timeout(self.wait_max, self.exchange(recorded)).await {
            Ok(result) => result,
            Err(_) => Error::e_explain(ErrorType::ReadTimedout, "the time a request may take"),
        }
    }

    async fn exchange(&self, recorded: &Recorded) -> Result<Stored> {
        let name = self.host.rsplit_once(':').map_or(self.host.as_str(), |(name, _)| name);
        let mut peer = HttpPeer::new(self.address, self.tls, name.to_owned());
        peer.options.connection_timeout = Some(self.wait_max);
        peer.options.read_timeout = Some(self.wait_max);
        let path = format!("{}{}", self.prefix, recorded.target);
        let mut head =
            RequestHeader::build(recorded.method.clone(), path.as_bytes(), Some(recorded.headers.len() + 4))?;
        head.insert_header(header::HOST, &self.host)?;
        for (name, value) in recorded.headers.iter().filter(|(name, _)| *name != header::COOKIE) {
            head.append_header(name.clone(), value.clone())?;
        }
        if let Some(cookies) = self.cookies(recorded) {
            head.insert_header(header::COOKIE, cookies)?;
        }
        head.insert_header(MARKER, HeaderValue::from_static("1"))?;
        if !recorded.body.is_empty() {
            head.insert_header(header::CONTENT_LENGTH, recorded.body.len())?;
        }
        let at = Instant::now();
        let sent = match recorded.is_safe() {
            true => self.client.send_safe(None, &peer, || Ok(head.clone()), recorded.body.clone()).await,
            false => self.client.send(&peer, head, recorded.body.clone()).await,
        };
        let mut answer = sent.map_err(|failed| failed.error)?;
        let seconds = Some(at.elapsed().as_secs_f64());
        let (status, headers) = (answer.head.status.as_u16(), answer.head.headers.clone());
        self.remember(recorded, &headers);
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await? {
            if body.len() + chunk.len() > self.body_max {
                answer.abandon().await;
                return Ok(Stored { status, headers, body: body.freeze(), truncated: true, seconds });
            }
            body.extend_from_slice(&chunk);
        }
        answer.release(&self.client).await;
        Ok(Stored { status, headers, body: body.freeze(), truncated: false, seconds })
    }

    /// As recorded, but for what this side has set meanwhile: a login gives each side a session of its own.
    fn cookies(&self, recorded: &Recorded) -> Option<String> {
        let all = self.cookies.lock().unwrap_or_else(PoisonError::into_inner);
        let set = recorded.session.as_ref().and_then(|session| all.get(session));
        let given = recorded.headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        let mut pairs: BTreeMap<&str, &str> =
            given.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('=')).collect();
        for (name, value) in set.into_iter().flatten() {
            pairs.insert(name, value);
        }
        let line: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        (!line.is_empty()).then(|| line.join("; "))
    }

    fn remember(&self, recorded: &Recorded, headers: &http::HeaderMap) {
        let Some(session) = &recorded.session else { return };
        let mut all = self.cookies.lock().unwrap_or_else(PoisonError::into_inner);
        for line in headers.get_all(header::SET_COOKIE).iter().filter_map(|line| line.to_str().ok()) {
            let pair = line.split(';').next().and_then(|pair| pair.split_once('='));
            let Some((name, value)) = pair else { continue };
            if all.len() < SESSIONS_MAX || all.contains_key(session) {
                let known = all.entry(session.clone()).or_default();
                if known.len() < COOKIES_MAX || known.contains_key(name.trim()) {
                    known.insert(name.trim().to_owned(), value.trim().to_owned());
                }
            }
        }
    }
}
