//! One connection of a client: its requests, one after the other.
//!
//! Input: a connection. Output: answers, each with its count and its line in the log. Must not: pass on a byte that the strict reader has not read.

use crate::Lane;
use crate::answer::{Answered, BUFFER, Failed, HEAD_MAX, HEADERS_MAX, IDLE, answering};
use crate::asked::{Asked, Refusal, asked};
use crate::head::{Framing, Left};
use crate::waiter::Waiter;
use banyan::access_log::{NAME_MAX, key, quoted};
use banyan::metrics::Seen;
use banyan::wire::strict::{Found, Strict};
use banyan_routes::ids::Side;
use bytes::{Buf, BytesMut};
use http::StatusCode;
use httparse::EMPTY_HEADER;
use std::io::{Error, ErrorKind, Result};
use std::net::IpAddr;
use std::pin::pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep, timeout};

const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long a client that was refused is still read from: it would be reset before it has read why.
const LINGER: Duration = Duration::from_secs(1);

/// What the client sends, read strictly.
struct Input {
    bytes: BytesMut,
    strict: Strict,
    fault: Option<Found>,
}

impl Input {
    /// More of it; 0 at its end, and behind a fault.
    async fn more(&mut self, client: &mut ReadHalf<'_>) -> Result<usize> {
        if self.fault.is_some() {
            return Ok(0);
        }
        let before = self.bytes.len();
        self.bytes.reserve(BUFFER);
        let read = client.read_buf(&mut self.bytes).await?;
        if let Err(found) = self.strict.feed(&self.bytes[before..]) {
            self.bytes.truncate(before + found.good);
            self.fault = Some(found);
        }
        Ok(read)
    }
}

pub async fn connection(lane: &Lane, mut client: TcpStream, peer: IpAddr, listener: &str) {
    let mut input = Input { bytes: BytesMut::new(), strict: Strict::new(false), fault: None };
    let (mut head, mut out) = (Vec::new(), Vec::new());
    let mut waiter = Waiter(Box::pin(sleep(HEAD_TIME)));
    let mut message = 0;
    loop {
        message += 1;
        let served =
            request(lane, &mut client, peer, listener, &mut input, &mut head, &mut out, &mut waiter, message);
        match served.await {
            Ok(true) => {}
            Ok(false) | Err(_) => break,
        }
    }
    let _ = client.shutdown().await;
    let mut rest = [0; 1024];
    let _ = timeout(LINGER, async { while client.read(&mut rest).await.is_ok_and(|read| read > 0) {} }).await;
}

#[expect(clippy::too_many_arguments, reason = "what a connection keeps from one request to the next")]
async fn request(
    lane: &Lane,
    client: &mut TcpStream,
    peer: IpAddr,
    listener: &str,
    input: &mut Input,
    head: &mut Vec<u8>,
    out: &mut Vec<u8>,
    waiter: &mut Waiter,
    message: u32,
) -> Result<bool> {
    let (mut from_client, mut to_client) = client.split();
    while !input.strict.has_head(message) && input.fault.is_none() {
        let rest = if message > 1 && input.bytes.is_empty() { IDLE } else { HEAD_TIME };
        if waiter.within(rest, input.more(&mut from_client)).await? == 0 {
            return Ok(false);
        }
        if input.bytes.len() > HEAD_MAX {
            return refuse(lane, &mut to_client, out, (431, "headers_too_large")).await;
        }
    }
    if let Some(found) = input.fault.filter(|found| found.in_head && found.message == message) {
        return refuse(lane, &mut to_client, out, found.fault.answer()).await;
    }
    let began = Instant::now();
    while input.bytes.starts_with(b"\r\n") {
        input.bytes.advance(2);
    }
    let Some(end) = memchr::memmem::find(&input.bytes, b"\r\n\r\n") else { return Ok(false) };
    head.clear();
    head.extend_from_slice(&input.bytes[..end + 4]);
    input.bytes.advance(end + 4);
    if input.bytes.is_empty() {
        input.bytes = BytesMut::new();
    }
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => {
            return refuse(lane, &mut to_client, out, (431, "too_many_headers")).await;
        }
        Ok(httparse::Status::Partial) | Err(_) => {
            return refuse(lane, &mut to_client, out, (400, "malformed_head")).await;
        }
    }
    let asked = match asked(lane, &parsed, peer, listener, head.len(), out) {
        Ok(asked) => asked,
        Err(refusal) => return refuse(lane, &mut to_client, out, refusal).await,
    };
    let backend = lane.table.route(asked.route).backend(asked.decision.side);
    let Some(backend) = backend.map(|it| it as usize) else {
        return refuse(lane, &mut to_client, out, (503, "no_backend")).await;
    };
    let mut answer = Vec::new();
    let mut fresh = false;
    let (answered, stream) = loop {
        let Ok(mut taken) = lane.pool.take(backend, lane.addresses[backend], fresh).await else {
            return refuse(lane, &mut to_client, out, (503, "connect")).await;
        };
        let sent = exchange(
            lane,
            input,
            &mut from_client,
            &mut to_client,
            &mut taken.stream,
            &asked,
            out,
            &mut answer,
            waiter,
        );
        match sent.await {
            Err(Failed::Closed) if taken.reused && asked.framing == Framing::None => fresh = true,
            answered => break (answered, taken.stream),
        }
    };
    match answered {
        Ok(answered) => {
            if answered.backend_stays {
                lane.pool.rest(backend, stream);
            }
            finish(lane, &asked, peer, listener, backend, &answered, began);
            Ok(answered.client_stays)
        }
        Err(Failed::Client) => Ok(false),
        Err(Failed::Closed) => refuse(lane, &mut to_client, out, (502, "closed")).await,
        Err(Failed::Backend(cause)) => refuse(lane, &mut to_client, out, (502, cause)).await,
    }
}

/// Sends the request and passes the answer on, both at the same time.
#[expect(clippy::too_many_arguments, reason = "both directions of two connections")]
async fn exchange(
    lane: &Lane,
    input: &mut Input,
    from_client: &mut ReadHalf<'_>,
    to_client: &mut WriteHalf<'_>,
    backend: &mut TcpStream,
    asked: &Asked<'_>,
    head: &[u8],
    out: &mut Vec<u8>,
    waiter: &mut Waiter,
) -> std::result::Result<Answered, Failed> {
    let (mut from_backend, mut to_backend) = backend.split();
    to_backend.write_all(head).await.map_err(|_| Failed::Closed)?;
    let mut sending = pin!(body(input, from_client, &mut to_backend, asked.framing));
    let mut answering = pin!(answering(lane, &mut from_backend, to_client, asked, out, waiter));
    let mut sent = matches!(asked.framing, Framing::None | Framing::Length(0));
    let answered = loop {
        tokio::select! {
            biased;
            result = &mut sending, if !sent => match result {
                Ok(()) => sent = true,
                // The backend may have answered before it read all.
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => break answering.await?,
                Err(_) => return Err(Failed::Client),
            },
            answered = &mut answering => break answered?,
        }
    };
    Ok(Answered {
        backend_stays: answered.backend_stays && sent,
        client_stays: answered.client_stays && sent,
        ..answered
    })
}

/// The request's body, as it comes.
async fn body(
    input: &mut Input,
    client: &mut ReadHalf<'_>,
    backend: &mut WriteHalf<'_>,
    framing: Framing,
) -> Result<()> {
    let mut left = Left::of(framing);
    while !left.is_done() {
        if input.bytes.is_empty() && timeout(IDLE, input.more(client)).await?? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let here = left.take(&input.bytes).ok_or(Error::from(ErrorKind::InvalidData))?;
        backend.write_all(&input.bytes[..here]).await?;
        input.bytes.advance(here);
    }
    input.bytes = if input.bytes.is_empty() { BytesMut::new() } else { std::mem::take(&mut input.bytes) };
    Ok(())
}

async fn refuse(
    lane: &Lane,
    client: &mut WriteHalf<'_>,
    out: &mut Vec<u8>,
    (status, cause): Refusal,
) -> Result<bool> {
    lane.metrics.refused.with_label_values(&[cause]).inc();
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let body = format!("{{\"message\":\"{cause}\"}}");
    out.clear();
    let head = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        code.as_str(),
        code.canonical_reason().unwrap_or_default(),
        body.len()
    );
    client.write_all(head.as_bytes()).await?;
    Ok(false)
}

fn finish(
    lane: &Lane,
    asked: &Asked<'_>,
    peer: IpAddr,
    listener: &str,
    backend: usize,
    answered: &Answered,
    began: Instant,
) {
    let took = began.elapsed();
    let route = lane.table.route(asked.route);
    let decision: Option<(Side, _)> = Some((asked.decision.side, asked.decision.reason));
    let seen = Seen { decision, code: answered.status, took, trace_id: asked.trace.trace_id };
    lane.routes[asked.route as usize].count(&lane.metrics, &route.id, &seen);
    lane.log.send(|line| {
        line.seconds(key!("time"), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        line.clean(quoted!("trace_id"), asked.trace.id());
        line.clean(quoted!("span_id"), asked.trace.span());
        line.text(quoted!("http.request.method"), asked.method.as_str());
        line.text(quoted!("url.path"), asked.path);
        line.clean(quoted!("url.scheme"), "http");
        line.text(quoted!("server.address"), asked.host);
        line.clean(quoted!("network.protocol.version"), if asked.old { "1.0" } else { "1.1" });
        line.address(quoted!("client.address"), peer);
        line.foreign(quoted!("user_agent.original"), asked.agent, NAME_MAX);
        line.clean(quoted!("listener"), listener);
        line.number(key!("http.response.status_code"), u64::from(answered.status));
        line.clean(quoted!("route"), route.id.as_bytes());
        line.clean(quoted!("stage"), route.stage.as_str());
        line.clean(quoted!("side"), asked.decision.side.as_str());
        line.clean(quoted!("reason"), asked.decision.reason.as_str());
        line.clean(quoted!("backend"), lane.table.backends[backend].id.as_bytes());
        line.address(quoted!("backend.address"), lane.addresses[backend].ip());
        line.clean(quoted!("revision"), lane.table.revision.as_str());
        line.seconds(key!("duration"), took);
        line.number(key!("http.request.header.size"), asked.size as u64);
        line.number(key!("http.response.body.size"), answered.bytes);
    });
}
