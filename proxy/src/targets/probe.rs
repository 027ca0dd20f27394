//! Requests of our own to a backend: a GET that belongs to no client.
//!
//! Input: a running backend, a path, a header that says what the request is. Output: what came back. Must not: be used for traffic.

use crate::lambda::answer::answer;
use crate::lambda::event::{Caller, EventRequest, event};
use crate::targets::backend::RunningBackend;
use crate::targets::function::{PAYLOAD_MAX, RunningFunction};
use crate::targets::supplies::Supplies;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use jiff::Timestamp;
use pingora_http::RequestHeader;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

const CONNECT_MAX: Duration = Duration::from_secs(5);
const BODY_MAX: usize = 64 << 10;

/// The payload of a call.
pub async fn function(
    backend: &RunningBackend,
    function: &RunningFunction,
    supplies: &Supplies,
    path: &str,
    (name, value): (&'static str, &'static str),
    wait_max: Duration,
) -> Result<Bytes, String> {
    let endpoint = backend.pick(None).ok_or("no address")?;
    let now = SystemTime::now();
    let credentials = function.credentials.get(now).ok_or("no credentials")?;
    let headers = HeaderMap::from_iter([
        (header::HOST, HeaderValue::from_static("banyan.probe")),
        (HeaderName::from_static(name), HeaderValue::from_static(value)),
    ]);
    let (path, query) = banyan_routes::path::split_target(path);
    let request = EventRequest {
        method: &Method::GET,
        path,
        query,
        headers: &headers,
        host: "banyan.probe",
        body: &[],
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        protocol: "HTTP/1.1",
        request_id: "00000000-0000-0000-0000-000000000000",
        time: Timestamp::try_from(now).unwrap_or_default(),
        resource: path,
        parameters: &[],
        account: function.account(),
        backend: &backend.definition.id,
        region: &function.region,
        caller: Caller::default(),
    };
    let body = event(function.target.format, &request);
    let head = function.request(&endpoint.authority, &body, None, &credentials, now)?;
    let mut peer = endpoint.peer.clone();
    peer.options.total_connection_timeout = Some(CONNECT_MAX);
    peer.options.custom_l4 = Some(backend.dials.checks.clone());
    peer.options.read_timeout = Some(wait_max);
    let called = supplies.client.send(&peer, head, Bytes::from(body)).await;
    let called = called.map_err(|failed| failed.error.to_string())?;
    let (status, failed) = (called.head.status, called.head.headers.contains_key("x-amz-function-error"));
    let payload = called.whole(&supplies.client, PAYLOAD_MAX * 2).await.map_err(|error| error.to_string())?;
    if status.is_success() && !failed {
        Ok(payload)
    } else {
        Err(format!("answered {status}, function error: {failed}"))
    }
}

/// Status and headers of a GET, by URL or by call.
pub async fn get(
    backend: &RunningBackend,
    supplies: &Supplies,
    path: &str,
    (name, value): (&'static str, &'static str),
    wait_max: Duration,
) -> Result<(u16, HeaderMap), String> {
    if let Some(called) = &backend.function {
        let payload = function(backend, called, supplies, path, (name, value), wait_max).await?;
        let whole = answer(called.target.format, &payload).map_err(|_| "its answer is malformed")?;
        return Ok((whole.head.status, whole.head.headers.into_iter().collect()));
    }
    let endpoint = backend.pick(None).ok_or("no healthy address")?;
    let build = || -> pingora_error::Result<RequestHeader> {
        let mut head = RequestHeader::build(Method::GET, path.as_bytes(), Some(4))?;
        head.insert_header(header::HOST, backend.host(&endpoint).unwrap_or(&endpoint.authority))?;
        head.insert_header(name, value)?;
        Ok(head)
    };
    let mut head = build().map_err(|error| error.to_string())?;
    backend.authorise(&mut head, &[]).map_err(|(_, cause)| cause)?;
    let mut peer = endpoint.peer.clone();
    peer.options.total_connection_timeout = Some(CONNECT_MAX);
    peer.options.custom_l4 = Some(backend.dials.checks.clone());
    peer.options.read_timeout = Some(wait_max);
    let got =
        supplies.client.send(&peer, head, Bytes::new()).await.map_err(|failed| failed.error.to_string())?;
    let found = (got.head.status.as_u16(), got.head.headers.clone());
    let _ = got.whole(&supplies.client, BODY_MAX).await;
    Ok(found)
}
