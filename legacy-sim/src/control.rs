//! The control port: faults in, ledger out.
//!
//! Input: `PUT /faults/{legacy|serverless}` with a JSON list of faults; `GET /faults/...`; `GET /ledger`. Output: JSON. Must
//! not: be reachable through the proxy.

use crate::faults::{Fault, Faults};
use crate::reply::{Reply, Request, json};
use crate::store::Store;
use async_trait::async_trait;
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use serde_json::json;
use std::sync::Arc;

pub struct Control {
    pub store: Arc<Store>,
    pub legacy: Arc<Faults>,
    pub serverless: Arc<Faults>,
}

#[async_trait]
impl ServeHttp for Control {
    async fn response(&self, session: &mut ServerSession) -> Reply {
        let request = Request::read(session).await;
        let faults = match request.path.as_str() {
            "/faults/legacy" => &self.legacy,
            "/faults/serverless" => &self.serverless,
            "/ledger" => {
                let (writes, entries) = self.store.ledger();
                return json(200, &json!({ "writes": writes, "entries": entries }));
            }
            _ => {
                return json(
                    404,
                    &json!({ "error": "expected /faults/legacy, /faults/serverless or /ledger" }),
                );
            }
        };
        match request.method.as_str() {
            "GET" => json(200, &json!(*faults.get())),
            "PUT" => match serde_json::from_slice::<Vec<Fault>>(&request.body) {
                Ok(list) => {
                    faults.set(list);
                    json(200, &json!(*faults.get()))
                }
                Err(error) => json(400, &json!({ "error": error.to_string() })),
            },
            _ => json(405, &json!({ "error": "expected GET or PUT" })),
        }
    }
}
