//! Function URLs on one port: the first label of the Host names the function, as `<id>.lambda-url.<region>.on.aws` does.
//!
//! Input: HTTP. Output: the function's answer as HTTP. Must not: add behaviour of its own; an unknown function is 403, as AWS
//! answers.

use crate::event::{Answer, Event, Http, RequestContext};
use crate::faults::Faults;
use crate::functions;
use crate::reply::{Reply, Request, for_method, json, reply, with};
use crate::store::Store;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub struct FunctionUrls {
    pub store: Arc<Store>,
    pub faults: Arc<Faults>,
    pub calls: AtomicU64,
}

#[async_trait]
impl ServeHttp for FunctionUrls {
    async fn response(&self, session: &mut ServerSession) -> Reply {
        let request = Request::read(session).await;
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let request_id = format!("{:08x}-{number:012x}", number.wrapping_mul(0x9e37_79b9) as u32);
        let host = request.header("host").unwrap_or_default().to_owned();
        let name = host.split(['.', ':']).next().unwrap_or_default();
        if request.method == Method::POST || request.method == Method::PUT || request.method == Method::DELETE
        {
            let key = request.header("idempotency-key").map(str::to_owned);
            self.store.record("serverless", format!("{} {}", request.method, request.path), key);
        }
        if let Some(status) = self.faults.apply(&request.path).await {
            return reply(status, "application/json", "{\"message\":\"Internal Server Error\"}");
        }
        let answer = functions::call(name, &event_of(&request, request_id.clone()), &self.store);
        let answer = answer.map_or_else(|| json(403, &json!({ "Message": "Forbidden" })), reply_of);
        for_method(&request.method, with(answer, "x-amzn-requestid", &request_id))
    }
}

/// The event of an HTTP request.
fn event_of(request: &Request, request_id: String) -> Event {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in request.head.headers.iter().filter(|(name, _)| *name != "cookie") {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers
            .entry(name.as_str().to_owned())
            .and_modify(|all| *all += &format!(",{value}"))
            .or_insert(value);
    }
    let cookies =
        request.header("cookie").unwrap_or_default().split("; ").filter(|cookie| !cookie.is_empty());
    let text = std::str::from_utf8(&request.body).ok();
    let body = text.map_or_else(|| STANDARD.encode(&request.body), str::to_owned);
    let http = Http {
        method: request.method.to_string(),
        path: request.path.clone(),
        protocol: "HTTP/1.1".into(),
        source_ip: headers.get("x-forwarded-for").cloned().unwrap_or_default(),
        user_agent: headers.get("user-agent").cloned().unwrap_or_default(),
    };
    Event {
        version: "2.0".into(),
        raw_path: request.path.clone(),
        raw_query_string: request.query.clone(),
        cookies: cookies.map(str::to_owned).collect(),
        headers,
        request_context: RequestContext { http, request_id },
        body: (!request.body.is_empty()).then_some(body),
        is_base64_encoded: text.is_none(),
    }
}

/// The HTTP answer of a function, by the rules of format 2.0.
fn reply_of(result: Answer) -> Reply {
    let body = if result.is_base64_encoded {
        STANDARD.decode(&result.body).unwrap_or_default()
    } else {
        result.body.into_bytes()
    };
    let content_type = result.headers.get("content-type").map_or("application/json", String::as_str);
    let mut answer = reply(result.status_code, content_type, body);
    for (name, value) in result.headers.iter().filter(|(name, _)| *name != "content-type") {
        if let (Ok(name), Ok(value)) = (http::HeaderName::from_bytes(name.as_bytes()), value.parse()) {
            answer.headers_mut().append(name, value);
        }
    }
    result.cookies.iter().fold(answer, |answer, cookie| with(answer, "set-cookie", cookie))
}
