//! API Gateway HTTP API events, payload format 2.0: what a function gets and gives.
//!
//! Input and output: their JSON. Must not: know HTTP, or cover other formats; the proxy's own Lambda target has those. Source:
//! AWS, "Working with AWS Lambda proxy integrations for HTTP APIs".

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub version: String,
    pub raw_path: String,
    pub raw_query_string: String,
    #[serde(default)]
    pub cookies: Vec<String>,
    pub headers: BTreeMap<String, String>,
    pub request_context: RequestContext,
    #[serde(default)]
    pub body: Option<String>,
    pub is_base64_encoded: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestContext {
    pub http: Http,
    pub request_id: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Http {
    pub method: String,
    pub path: String,
    pub protocol: String,
    pub source_ip: String,
    pub user_agent: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    pub status_code: u16,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    #[serde(default)]
    pub cookies: Vec<String>,
    #[serde(default)]
    pub body: String,
    #[serde(default)]
    pub is_base64_encoded: bool,
}

impl Event {
    pub fn query(&self, key: &str) -> &str {
        let pairs = self.raw_query_string.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(name, _)| *name == key).map_or("", |(_, value)| value)
    }

    pub fn json(&self) -> serde_json::Value {
        self.body
            .as_deref()
            .and_then(|body| serde_json::from_str(body).ok())
            .unwrap_or(serde_json::Value::Null)
    }
}

impl Answer {
    pub fn json(status_code: u16, value: &serde_json::Value) -> Answer {
        let headers = BTreeMap::from([("content-type".to_owned(), "application/json".to_owned())]);
        Answer { status_code, headers, body: value.to_string(), ..Answer::default() }
    }
}
