//! Requests read and answers written, the same for all servers of this crate.
//!
//! Input: pingora's server session. Output: an owned request; `Response<Vec<u8>>`. Must not: know the airline.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use pingora_core::protocols::http::ServerSession;
use serde_json::Value;

/// Bodies kept in memory; the rest of a larger one is read and counted only.
const BODY_KEPT: usize = 8 << 20;

pub type Reply = Response<Vec<u8>>;

pub struct Request {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub head: pingora_http::RequestHeader,
    pub body: Vec<u8>,
    /// All that came, kept or not.
    pub body_bytes: u64,
}

impl Request {
    pub async fn read(session: &mut ServerSession) -> Request {
        let head = session.req_header().clone();
        let mut body = Vec::new();
        let mut body_bytes = 0;
        while let Ok(Some(chunk)) = session.read_request_body().await {
            let chunk: Bytes = chunk;
            body_bytes += chunk.len() as u64;
            let room = BODY_KEPT - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
        let path = head.uri.path().to_owned();
        let query = head.uri.query().unwrap_or_default().to_owned();
        Request { method: head.method.clone(), path, query, head, body, body_bytes }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn query(&self, key: &str) -> &str {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(name, _)| *name == key).map_or("", |(_, value)| value)
    }

    pub fn cookie(&self, name: &str) -> Option<&str> {
        let pairs = self.header("cookie")?.split(';').filter_map(|pair| pair.trim().split_once('='));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

pub fn reply(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
    let body = body.into();
    let length = body.len();
    let mut reply = Response::new(body);
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content_type = HeaderValue::from_str(content_type).unwrap_or(HeaderValue::from_static("text/plain"));
    reply.headers_mut().insert(header::CONTENT_TYPE, content_type);
    reply.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    reply
}

pub fn json(status: u16, value: &Value) -> Reply {
    reply(status, "application/json", value.to_string())
}

pub fn with(mut reply: Reply, name: &'static str, value: &str) -> Reply {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().append(name, value);
    }
    reply
}

/// HEAD has the headers of GET and no body.
pub fn for_method(method: &Method, mut reply: Reply) -> Reply {
    if *method == Method::HEAD {
        reply.body_mut().clear();
    }
    reply
}
