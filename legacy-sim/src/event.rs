//! API Gateway HTTP API events, payload format 2.0: what a function gets and gives.
//!
//! Input: HTTP requests; a function's result. Output: the event; an HTTP answer by the rules of format 2.0. Must not: cover
//! other formats; the proxy's own Lambda target has those. Source: AWS, "Working with AWS Lambda proxy integrations for HTTP
//! APIs".

use crate::reply::{Reply, Request, reply, with};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
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
    /// The event of an HTTP request.
    pub fn from_http(request: &Request, request_id: String) -> Event {
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

    pub fn into_http(self) -> Reply {
        let body = if self.is_base64_encoded {
            STANDARD.decode(&self.body).unwrap_or_default()
        } else {
            self.body.into_bytes()
        };
        let content_type = self.headers.get("content-type").map_or("application/json", String::as_str);
        let mut answer = reply(self.status_code, content_type, body);
        for (name, value) in self.headers.iter().filter(|(name, _)| *name != "content-type") {
            if let (Ok(name), Ok(value)) = (http::HeaderName::from_bytes(name.as_bytes()), value.parse()) {
                answer.headers_mut().append(name, value);
            }
        }
        self.cookies.iter().fold(answer, |answer, cookie| with(answer, "set-cookie", cookie))
    }
}
