//! Phase 1, between route and side: what an external authorizer says of this request.
//!
//! Input: the route's authorizer and the request. Output: a verdict in the context, or a refusal. Must not: ask where the verdict is known.

use crate::authorizers::{Refused, Running};
use crate::context::Context;
use crate::facts::target;
use crate::hooks::place::{Place, request_id};
use crate::lambda::authorize::{Verdict, question};
use crate::lambda::event::{Caller, EventRequest};
use crate::proxy::Shared;
use banyan_routes::decide::value_of;
use banyan_routes::request::RequestFacts;
use banyan_routes::table::Route;
use http::header;
use jiff::Timestamp;
use pingora_proxy::Session;
use std::sync::Arc;
use std::time::SystemTime;

/// What must be asked, because nobody knows.
pub struct Unasked {
    authorizer: String,
    key: Vec<u8>,
    identity: Vec<String>,
    arn: String,
}

pub enum Look {
    /// The route has no authorizer, or it allows the request.
    Passed,
    Refused(Refused),
    Ask(Box<Unasked>),
}

/// `path` is as it was matched.
pub fn look(shared: &Shared, route: &Route, facts: &RequestFacts<'_>, path: &str, ctx: &mut Context) -> Look {
    let Some(name) = route.require.as_ref().and_then(|rule| rule.authorizer.as_deref()) else {
        return Look::Passed;
    };
    // A name that is not there is refused with the rules.
    let Some(authorizer) = shared.authorizers.find(name) else { return Look::Refused(Refused::Away) };
    let arn = || arn(authorizer, facts, path);
    let judged = |verdict: Arc<Verdict>, ctx: &mut Context| {
        if !verdict.allows(arn) {
            return Look::Refused(Refused::Denied);
        }
        ctx.verdict = Some(verdict);
        Look::Passed
    };
    if ctx.verdict.is_some() {
        return Look::Passed;
    }
    if let Some(asked) = ctx.asked.take() {
        return asked.map_or_else(Look::Refused, |verdict| judged(verdict, ctx));
    }
    let mut key = [name, "\0", &route.id].concat().into_bytes();
    let sources = &authorizer.settings.identity;
    for source in sources {
        let Some(value) = value_of(source, facts) else { return Look::Refused(Refused::NoIdentity) };
        key.extend_from_slice(&(value.len() as u64).to_le_bytes());
        key.extend_from_slice(&value);
    }
    if let Some(verdict) = shared.authorizers.known(&key) {
        return judged(verdict, ctx);
    }
    let identity = sources.iter().filter_map(|source| value_of(source, facts));
    let identity = identity.map(|value| String::from_utf8_lossy(&value).into_owned()).collect();
    Look::Ask(Box::new(Unasked { authorizer: name.to_owned(), key, identity, arn: arn() }))
}

fn arn(authorizer: &Running, facts: &RequestFacts<'_>, path: &str) -> String {
    [&authorizer.settings.arn, "/", facts.method.as_str(), path].concat()
}

/// Asks; what was said is in the context, for the next look.
pub async fn ask(shared: &Shared, session: &Session, ctx: &mut Context, unasked: Unasked) {
    let Some(authorizer) = shared.authorizers.find(&unasked.authorizer) else { return };
    let event = event(session, ctx, authorizer, &unasked);
    let asked = shared.authorizers.ask(authorizer, &unasked.key, event, &shared.supplies).await;
    ctx.asked = Some(asked);
}

fn event(session: &Session, ctx: &Context, authorizer: &Running, unasked: &Unasked) -> Vec<u8> {
    let request = session.req_header();
    let (path, query) = target(request).unwrap_or(("/", None));
    let place = Place::of(ctx, path);
    // arn:aws:execute-api:REGION:ACCOUNT:API/STAGE
    let parts: Vec<&str> = authorizer.settings.arn.split(':').collect();
    let part = |at: usize| parts.get(at).copied().unwrap_or_default();
    let facts = EventRequest {
        method: &request.method,
        path,
        query,
        headers: &request.headers,
        host: request.headers.get(header::HOST).and_then(|it| it.to_str().ok()).unwrap_or(&ctx.public_host),
        body: &[],
        client: ctx.client.address,
        protocol: if session.as_downstream().is_http2() { "HTTP/2.0" } else { "HTTP/1.1" },
        request_id: &request_id(ctx),
        time: Timestamp::try_from(SystemTime::now()).unwrap_or_default(),
        resource: &place.resource,
        parameters: &place.parameters,
        account: part(4),
        backend: part(5).split('/').next().unwrap_or_default(),
        region: part(3),
        caller: Caller { claims: ctx.claims.as_deref(), ..Caller::default() },
    };
    question(authorizer.settings.form, &facts, &unasked.arn, &unasked.identity)
}
