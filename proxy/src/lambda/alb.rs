//! Events of Application Load Balancers.
//!
//! Source: AWS, "Use Lambda functions as targets of an Application Load Balancer". Query values stay encoded; with multi-value headers
//! the lists stand in place of the single maps; the body is never null.

use super::event::{EventRequest, Pairs, header_lists, query_lists};
use serde::Serialize;
use std::borrow::Cow;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event<'a> {
    request_context: Context,
    http_method: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_string_parameters: Option<Pairs<Cow<'a, str>, Cow<'a, str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multi_value_query_string_parameters: Option<Pairs<Cow<'a, str>, Vec<Cow<'a, str>>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Pairs<&'a str, Cow<'a, str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multi_value_headers: Option<Pairs<&'a str, Vec<Cow<'a, str>>>>,
    body: Cow<'a, str>,
    is_base64_encoded: bool,
}

#[derive(Serialize)]
struct Context {
    elb: Elb,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Elb {
    target_group_arn: String,
}

impl<'a> Event<'a> {
    pub fn new(request: &EventRequest<'a>, multi_value: bool) -> Event<'a> {
        let headers: Vec<_> =
            header_lists(request.headers).into_iter().map(|(name, values)| (name.as_str(), values)).collect();
        let query = query_lists(request.query, false);
        let last = |values: Vec<Cow<'a, str>>| values.into_iter().next_back().unwrap_or_default();
        let (body, is_base64_encoded) = request.body();
        // Functions behind a load balancer know they are by this field; there is no target group, so it names the backend.
        let target_group_arn = format!(
            "arn:aws:elasticloadbalancing:{}:{}:targetgroup/{}/banyan",
            request.region, request.account, request.backend
        );
        let mut event = Event {
            request_context: Context { elb: Elb { target_group_arn } },
            http_method: request.method.as_str(),
            path: request.path,
            query_string_parameters: None,
            multi_value_query_string_parameters: None,
            headers: None,
            multi_value_headers: None,
            body,
            is_base64_encoded,
        };
        if multi_value {
            event.multi_value_query_string_parameters = Some(Pairs(query));
            event.multi_value_headers = Some(Pairs(headers));
        } else {
            let query = query.into_iter().map(|(key, values)| (key, last(values)));
            let headers = headers.into_iter().map(|(name, values)| (name, last(values)));
            event.query_string_parameters = Some(Pairs(query.collect()));
            event.headers = Some(Pairs(headers.collect()));
        }
        event
    }
}
