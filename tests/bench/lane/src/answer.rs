//! An answer on its way to the client.
//!
//! Input: the backend's bytes. Output: the client's, the head together with the beginning of the body. Must not: let a cut answer pass for a whole one.

use crate::Lane;
use crate::asked::{Asked, line};
use crate::head::{Connection, Framing, Left, framing, is_hop};
use crate::waiter::Waiter;
use bytes::{Buf, BytesMut};
use http::{Method, StatusCode};
use httparse::EMPTY_HEADER;
use std::io::{IoSlice, Result};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};

pub const HEADERS_MAX: usize = 100;
pub const HEAD_MAX: usize = 64 << 10;
pub const IDLE: Duration = Duration::from_secs(60);
pub const BUFFER: usize = 4 << 10;
/// Up to this much of a body goes into one piece with its head.
const TOGETHER: usize = 16 << 10;
const LARGE: usize = 64 << 10;

/// How an answer went.
pub struct Answered {
    pub status: u16,
    pub bytes: u64,
    /// Both connections can be used again.
    pub client_stays: bool,
    pub backend_stays: bool,
}

pub enum Failed {
    /// The backend closed before a byte of an answer.
    Closed,
    Backend(&'static str),
    Client,
}

/// The answer's head and body, on their way to the client.
pub async fn answering(
    lane: &Lane,
    backend: &mut ReadHalf<'_>,
    client: &mut WriteHalf<'_>,
    asked: &Asked<'_>,
    out: &mut Vec<u8>,
    waiter: &mut Waiter,
) -> std::result::Result<Answered, Failed> {
    let mut buffer = BytesMut::with_capacity(BUFFER);
    // What stands behind an interim answer may be all there already.
    let mut more = true;
    loop {
        if more && waiter.within(IDLE, backend.read_buf(&mut buffer)).await.unwrap_or(0) == 0 {
            return Err(if buffer.is_empty() { Failed::Closed } else { Failed::Backend("answer_cut") });
        }
        let mut headers = [EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut headers);
        let end = match parsed.parse(&buffer) {
            Ok(httparse::Status::Complete(end)) => end,
            Ok(httparse::Status::Partial) if buffer.len() <= HEAD_MAX => {
                more = true;
                continue;
            }
            Ok(httparse::Status::Partial) | Err(_) => return Err(Failed::Backend("answer_malformed")),
        };
        let status = parsed.code.unwrap_or_default();
        if (100..200).contains(&status) {
            if status == 101 || asked.old {
                return Err(Failed::Backend("answer_101"));
            }
            client.write_all(&buffer[..end]).await.map_err(|_| Failed::Client)?;
            buffer.advance(end);
            more = buffer.is_empty();
            continue;
        }
        let (framed, connection) = match (framing(parsed.headers), Connection::read(parsed.headers)) {
            (Some(framed), Some(connection)) => (framed, connection),
            _ => return Err(Failed::Backend("answer_framing")),
        };
        let bodyless = asked.method == Method::HEAD || matches!(status, 204 | 304);
        let mut left = match framed {
            _ if bodyless => Left::Nothing,
            Framing::None => Left::UntilClosed,
            Framing::Chunked if asked.old => return Err(Failed::Backend("chunks_for_1_0")),
            framed => Left::of(framed),
        };
        let closes = matches!(left, Left::UntilClosed);
        let backend_closes = connection.close || closes;
        let client_stays = asked.keep && !closes;
        out.clear();
        answer_head(lane, asked, &parsed, status, &connection, client_stays, out);
        buffer.advance(end);
        let mut sent = 0;
        loop {
            let here = left.take(&buffer).ok_or(Failed::Backend("answer_chunks"));
            let here = match here {
                Ok(here) => here,
                // Once the head has gone the client sees an end that is none.
                Err(failed) => {
                    return if sent > 0 || out.is_empty() { Err(Failed::Client) } else { Err(failed) };
                }
            };
            piece(client, out, &buffer[..here]).await.map_err(|_| Failed::Client)?;
            sent += here as u64;
            buffer.advance(here);
            if left.is_done() {
                break;
            }
            if buffer.is_empty() {
                buffer.reserve(LARGE);
                match waiter.within(IDLE, backend.read_buf(&mut buffer)).await {
                    Ok(0) if closes => break,
                    Ok(0) | Err(_) => return Err(Failed::Client),
                    Ok(_) => {}
                }
            }
        }
        let backend_stays = buffer.is_empty() && !backend_closes;
        return Ok(Answered { status, bytes: sent, client_stays, backend_stays });
    }
}

fn answer_head(
    lane: &Lane,
    asked: &Asked<'_>,
    parsed: &httparse::Response<'_, '_>,
    status: u16,
    connection: &Connection<'_>,
    stays: bool,
    out: &mut Vec<u8>,
) {
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    [b"HTTP/1.1 ", code.as_str().as_bytes(), b" ", parsed.reason.unwrap_or_default().as_bytes(), b"\r\n"]
        .iter()
        .for_each(|part| out.extend_from_slice(part));
    let empty = matches!(status, 204 | 304);
    for header in parsed.headers.iter().filter(|it| !is_hop(it.name) && !connection.names(it.name)) {
        if !(empty
            && (header.name.eq_ignore_ascii_case("transfer-encoding")
                || (status == 204 && header.name.eq_ignore_ascii_case("content-length"))))
        {
            line(out, header.name.as_bytes(), header.value);
        }
    }
    let (side, reason) = (asked.decision.side.as_str(), asked.decision.reason.as_str());
    let route = &lane.table.route(asked.route).id;
    for part in [
        "x-banyan: route=",
        route,
        ", side=",
        side,
        ", reason=",
        reason,
        ", revision=",
        lane.table.revision.as_str(),
    ] {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(if stays { b"\r\n\r\n" } else { b"\r\nConnection: close\r\n\r\n" });
}

/// Part of a body, together with the head where that has not gone.
async fn piece(client: &mut WriteHalf<'_>, head: &mut Vec<u8>, body: &[u8]) -> Result<()> {
    if head.is_empty() {
        return client.write_all(body).await;
    }
    if head.len() + body.len() <= TOGETHER {
        head.extend_from_slice(body);
        client.write_all(head).await?;
    } else {
        let sent = client.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]).await?;
        if let Some(rest) = head.get(sent..) {
            client.write_all(rest).await?;
        }
        client.write_all(&body[sent.saturating_sub(head.len())..]).await?;
    }
    head.clear();
    Ok(())
}
