//! Function URLs on one port: the first label of the Host names the function, as `<id>.lambda-url.<region>.on.aws` does.
//!
//! Input: HTTP. Output: the function's answer as HTTP. Must not: add behaviour of its own; an unknown function is 403, as AWS
//! answers.

use crate::event::Event;
use crate::faults::Faults;
use crate::functions;
use crate::reply::{Reply, Request, for_method, json, reply, with};
use crate::store::Store;
use async_trait::async_trait;
use http::Method;
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use serde_json::json;
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
        let answer = functions::call(name, &Event::from_http(&request, request_id.clone()), &self.store);
        let answer = answer
            .map_or_else(|| json(403, &json!({ "Message": "Forbidden" })), crate::event::Answer::into_http);
        for_method(&request.method, with(answer, "x-amzn-requestid", &request_id))
    }
}
