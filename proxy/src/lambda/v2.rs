//! Events of format 2.0: HTTP APIs and Function URLs.
//!
//! Source: AWS, "Create AWS Lambda proxy integrations for HTTP APIs", payload format 2.0. Deviation, on purpose: `rawPath` stays as
//! it was sent, where an HTTP API gives it decoded: what was matched is what is forwarded.

use super::event::{EventRequest, Pairs, header_lists, query_lists};
use http::header;
use serde::Serialize;
use serde_json::Value;
use std::borrow::Cow;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event<'a> {
    version: &'static str,
    route_key: Cow<'a, str>,
    raw_path: &'a str,
    raw_query_string: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cookies: Vec<String>,
    headers: Pairs<&'a str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_string_parameters: Option<Pairs<Cow<'a, str>, String>>,
    request_context: Context<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_parameters: Option<Pairs<&'a str, &'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_base64_encoded: Option<bool>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Context<'a> {
    account_id: &'a str,
    api_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorizer: Option<Value>,
    domain_name: &'a str,
    domain_prefix: &'a str,
    http: Http<'a>,
    request_id: &'a str,
    route_key: Cow<'a, str>,
    stage: &'static str,
    time: String,
    time_epoch: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Http<'a> {
    method: &'a str,
    path: &'a str,
    protocol: &'static str,
    source_ip: String,
    user_agent: Cow<'a, str>,
}

impl<'a> Event<'a> {
    /// As authorizers get it.
    pub fn without_body(request: &EventRequest<'a>) -> Event<'a> {
        Event { body: None, is_base64_encoded: None, ..Event::new(request) }
    }

    pub fn new(request: &EventRequest<'a>) -> Event<'a> {
        // A path without names is what AWS calls the default route.
        let route_key = match request.parameters {
            [] => Cow::Borrowed("$default"),
            _ => Cow::Owned(format!("ANY {}", request.resource)),
        };
        let cookies = request.headers.get_all(header::COOKIE).iter();
        let cookies = cookies.flat_map(|line| {
            let line = super::event::text(line);
            let parts = line.split(';').map(|part| part.trim().to_owned());
            parts.filter(|part| !part.is_empty()).collect::<Vec<_>>()
        });
        let headers = header_lists(request.headers).into_iter().filter(|(name, _)| **name != header::COOKIE);
        let headers = headers.map(|(name, values)| (name.as_str(), values.join(",")));
        let query = query_lists(request.query, true).into_iter();
        let query = query.map(|(key, values)| (key, values.join(",")));
        let (body, encoded) = request.body();
        Event {
            version: "2.0",
            route_key: route_key.clone(),
            raw_path: request.path,
            raw_query_string: request.query.unwrap_or_default(),
            cookies: cookies.collect(),
            headers: Pairs(headers.collect()),
            query_string_parameters: super::event::or_null(query.collect()),
            request_context: Context {
                account_id: request.account,
                api_id: request.backend,
                authorizer: request.caller.v2(),
                domain_name: request.host,
                domain_prefix: request.domain_prefix(),
                http: Http {
                    method: request.method.as_str(),
                    path: request.path,
                    protocol: request.protocol,
                    source_ip: request.client.to_string(),
                    user_agent: request.header(header::USER_AGENT),
                },
                request_id: request.request_id,
                route_key,
                stage: "$default",
                time: request.request_time(),
                time_epoch: request.time.as_millisecond(),
            },
            path_parameters: super::event::or_null(request.parameters.to_vec()),
            body: (!body.is_empty()).then_some(body),
            is_base64_encoded: Some(encoded),
        }
    }
}
