//! Events of format 1.0: REST APIs.
//!
//! Source: AWS, "Set up Lambda proxy integrations in API Gateway". The single maps keep the last value; maps without a pair are
//! null. Names of headers are lower case here, where a REST API keeps the client's writing: HTTP/2 has no other, and a function
//! that depends on it breaks behind any other front.

use super::event::{EventRequest, Pairs, header_lists, or_null, query_lists};
use http::header;
use serde::Serialize;
use serde_json::Value;
use std::borrow::Cow;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event<'a> {
    version: &'static str,
    resource: &'a str,
    path: &'a str,
    http_method: &'a str,
    headers: Option<Pairs<&'a str, Cow<'a, str>>>,
    multi_value_headers: Option<Pairs<&'a str, Vec<Cow<'a, str>>>>,
    query_string_parameters: Option<Pairs<Cow<'a, str>, Cow<'a, str>>>,
    multi_value_query_string_parameters: Option<Pairs<Cow<'a, str>, Vec<Cow<'a, str>>>>,
    path_parameters: Option<Pairs<&'a str, &'a str>>,
    stage_variables: Option<()>,
    request_context: Context<'a>,
    /// Null where there is none; of an authorizer's event it is no part.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Option<Cow<'a, str>>>,
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
    extended_request_id: &'a str,
    http_method: &'a str,
    identity: Identity<'a>,
    path: &'a str,
    protocol: &'static str,
    request_id: &'a str,
    request_time: String,
    request_time_epoch: i64,
    resource_id: Option<()>,
    resource_path: &'a str,
    stage: &'static str,
}

/// All fields are there; those of caller types that Banyan does not have are null, as for any open API.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity<'a> {
    access_key: Option<()>,
    account_id: Option<()>,
    api_key: Option<()>,
    api_key_id: Option<()>,
    caller: Option<()>,
    cognito_authentication_provider: Option<()>,
    cognito_authentication_type: Option<()>,
    cognito_identity_id: Option<()>,
    cognito_identity_pool_id: Option<()>,
    principal_org_id: Option<()>,
    source_ip: String,
    user: Option<()>,
    user_agent: Cow<'a, str>,
    user_arn: Option<()>,
}

impl<'a> Event<'a> {
    /// As authorizers get it.
    pub fn without_body(request: &EventRequest<'a>) -> Event<'a> {
        Event { body: None, is_base64_encoded: None, ..Event::new(request) }
    }

    pub fn new(request: &EventRequest<'a>) -> Event<'a> {
        let last = |values: &Vec<Cow<'a, str>>| values.last().cloned().unwrap_or_default();
        let headers: Vec<_> =
            header_lists(request.headers).into_iter().map(|(name, values)| (name.as_str(), values)).collect();
        let query = query_lists(request.query, true);
        let (body, encoded) = request.body();
        Event {
            version: "1.0",
            resource: request.resource,
            path: request.path,
            http_method: request.method.as_str(),
            headers: or_null(headers.iter().map(|(name, values)| (*name, last(values))).collect()),
            multi_value_headers: or_null(headers),
            query_string_parameters: or_null(
                query.iter().map(|(key, values)| (key.clone(), last(values))).collect(),
            ),
            multi_value_query_string_parameters: or_null(query),
            path_parameters: or_null(request.parameters.to_vec()),
            stage_variables: None,
            request_context: Context {
                account_id: request.account,
                api_id: request.backend,
                authorizer: request.caller.v1(),
                domain_name: request.host,
                domain_prefix: request.domain_prefix(),
                extended_request_id: request.request_id,
                http_method: request.method.as_str(),
                identity: Identity {
                    source_ip: request.client.to_string(),
                    user_agent: request.header(header::USER_AGENT),
                    ..Identity::default()
                },
                path: request.path,
                protocol: request.protocol,
                request_id: request.request_id,
                request_time: request.request_time(),
                request_time_epoch: request.time.as_millisecond(),
                resource_id: None,
                resource_path: request.resource,
                stage: "$default",
            },
            body: Some((!body.is_empty()).then_some(body)),
            is_base64_encoded: Some(encoded),
        }
    }
}
