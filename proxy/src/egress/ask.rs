//! What a CONNECT asks for, and how it is told that it may not.
//!
//! Input: a client's stream. Output: host, port and key; an answer of a few lines. Must not: read what comes behind the head as part of it, or
//! take a request that two readers may read differently.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

const HEAD_MAX: usize = 8 << 10;

/// Where somebody wants to go, and what it shows for it.
pub struct Asked {
    pub host: String,
    pub port: u16,
    pub key: Option<Vec<u8>>,
}

/// The head of a CONNECT; or a status and the cause.
pub async fn head<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Result<Asked, (u16, &'static str)> {
    const BAD: (u16, &str) = (400, "malformed_connect");
    let mut bytes = Vec::with_capacity(512);
    while !bytes.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await.map_err(|_| BAD)?;
        bytes.push(byte);
        if bytes.len() > HEAD_MAX {
            return Err((431, "header_bytes"));
        }
    }
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut fields);
    // Ends of lines that another reader may take for none.
    if bytes.iter().zip(bytes.iter().skip(1)).any(|(before, byte)| *byte == b'\n' && *before != b'\r') {
        return Err(BAD);
    }
    match request.parse(&bytes) {
        Ok(httparse::Status::Complete(end)) if request.version == Some(1) && end == bytes.len() => {}
        _ => return Err(BAD),
    }
    if request.method != Some("CONNECT") {
        return Err((405, "method"));
    }
    let target = request.path.unwrap_or_default();
    let (host, port) = target.rsplit_once(':').ok_or(BAD)?;
    let port = port.parse::<u16>().ok().filter(|_| port.bytes().all(|b| b.is_ascii_digit())).ok_or(BAD)?;
    let fits = !host.is_empty() && crate::facts::is_host(host);
    // A second name for the same request is one too many.
    let hosts = request.headers.iter().filter(|it| it.name.eq_ignore_ascii_case("host"));
    let agrees = hosts.into_iter().all(|it| {
        it.value.eq_ignore_ascii_case(target.as_bytes()) || it.value.eq_ignore_ascii_case(host.as_bytes())
    });
    if !fits || !agrees || port == 0 {
        return Err(BAD);
    }
    let mut shown = request.headers.iter().filter(|it| it.name.eq_ignore_ascii_case("proxy-authorization"));
    let key = match (shown.next(), shown.next()) {
        (Some(one), None) => key(one.value),
        (None, None) => None,
        // Of two another reader may take the other one.
        _ => return Err(BAD),
    };
    Ok(Asked { host: host.to_owned(), port, key })
}

/// A bearer's token, or what stands for the password of `Basic`: browsers and curl ask for one.
fn key(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, rest) = std::str::from_utf8(value).ok()?.trim().split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().into());
    }
    let decoded = scheme.eq_ignore_ascii_case("basic").then(|| BASE64.decode(rest.trim()).ok())??;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(decoded[colon + 1..].to_vec())
}

pub async fn answer<S: AsyncWrite + Unpin>(stream: &mut S, status: u16, cause: &str) {
    let reason =
        http::StatusCode::from_u16(status).ok().and_then(|it| it.canonical_reason()).unwrap_or("Error");
    let body = format!("{status} {reason}: {}\n", cause.replace('_', " "));
    let more = match status {
        429 | 503 => "Retry-After: 1\r\n",
        407 => "Proxy-Authenticate: Basic realm=\"banyan\"\r\n",
        _ => "",
    };
    let text = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n{more}Connection: close\r\n\r\n{body}",
        body.len()
    );
    // Whether it arrives is the client's luck.
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}
