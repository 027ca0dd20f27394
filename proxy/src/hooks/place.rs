//! Where a request came in and who sent it, as AWS writes it.
//!
//! Input: the context. Output: parts of events. Must not: look at a request's body.

use crate::context::Context;
use crate::lambda::event::Caller;

/// Where a request came in, as API Gateway writes it.
pub struct Place<'a> {
    pub resource: String,
    pub parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Place<'a> {
    /// `raw_path` is the client's.
    pub fn of(ctx: &'a Context, raw_path: &'a str) -> Place<'a> {
        let pattern = ctx.route().zip(ctx.found.as_ref()).and_then(|(route, found)| {
            route.matches.get(usize::from(found.alternative)).map(|matcher| &matcher.path)
        });
        let matched = ctx.found.as_ref().and_then(|found| found.normalised.as_deref()).unwrap_or(raw_path);
        Place {
            resource: pattern.map_or_else(|| "/{proxy+}".into(), |pattern| pattern.resource()),
            parameters: pattern.map(|pattern| pattern.parameters(matched)).unwrap_or_default(),
        }
    }
}

/// The trace id in the form of a UUID.
pub fn request_id(ctx: &Context) -> String {
    let id = ctx.trace.id();
    let id = std::str::from_utf8(&id).unwrap_or_default();
    [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-")
}

/// What is known of who sent it.
pub fn caller(ctx: &Context) -> Caller<'_> {
    let verdict = ctx.verdict.as_deref();
    Caller {
        claims: ctx.claims.as_deref(),
        principal: verdict.and_then(|verdict| verdict.principal.as_deref()),
        context: verdict.map(|verdict| &verdict.context),
    }
}
