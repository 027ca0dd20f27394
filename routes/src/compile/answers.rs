//! What Banyan answers itself: redirects, direct responses, and the cross-origin headers of a route.
//!
//! Input: the raw fields. Output: an `Action`, a `Cors`. Must not: leave anything to be parsed again per request.

use super::Lowering;
use crate::cors::Cors;
use crate::file;
use crate::pattern::{HostPattern, PathPattern};
use crate::table::{Action, Redirect, Respond};
use http::{HeaderValue, Method, StatusCode};
use std::fmt;

impl Lowering {
    pub(super) fn cors(&mut self, file: usize, at: fmt::Arguments<'_>, raw: &file::Cors) -> Cors {
        let at = format_args!("{at}.cors");
        let any = raw.origins.iter().any(|origin| origin == "*");
        if raw.origins.is_empty() || (any && raw.origins.len() > 1) {
            self.error(
                "cors_origins",
                file,
                format_args!("{at}.origins"),
                "origins are a list of exact origins, or `*` alone",
                "for example [\"https://shop.example.com\"]",
            );
        }
        if any && raw.credentials == Some(true) {
            self.error(
                "cors_credentials",
                file,
                format_args!("{at}.credentials"),
                "credentials for every origin would let any site act as the user",
                "exact origins",
            );
        }
        for (number, origin) in raw.origins.iter().enumerate() {
            let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            if origin != "*"
                && authority.is_none_or(|rest| rest.is_empty() || rest.contains(['/', '*', '?', '#']))
            {
                let text = format!("`{origin}` is not an origin");
                self.error(
                    "cors_origin",
                    file,
                    format_args!("{at}.origins[{number}]"),
                    text,
                    "a scheme and a host, nothing behind it",
                );
            }
        }
        for (number, method) in raw.methods.iter().enumerate() {
            if Method::from_bytes(method.as_bytes()).is_err()
                || method.bytes().any(|b| b.is_ascii_lowercase())
            {
                let path = format_args!("{at}.methods[{number}]");
                self.error(
                    "method_invalid",
                    file,
                    path,
                    format!("`{method}` is not a method"),
                    "upper case, such as `GET`",
                );
            }
        }
        let mut list = |field: &str, items: &[String]| {
            (!items.is_empty())
                .then(|| self.header_value(file, format_args!("{at}.{field}"), &items.join(", ")))
        };
        let methods = list("methods", &raw.methods);
        let headers = list("headers", &raw.headers);
        let expose = list("expose", &raw.expose);
        let origins = raw.origins.iter().enumerate();
        let origins = origins
            .map(|(number, origin)| self.header_value(file, format_args!("{at}.origins[{number}]"), origin))
            .collect();
        Cors {
            origins: if any { None } else { Some(origins) },
            methods,
            headers,
            expose,
            credentials: raw.credentials.unwrap_or(false),
            max_age: raw.max_age.map(|span| HeaderValue::from(span.0.as_secs())),
        }
    }

    pub(super) fn action(
        &mut self,
        file: usize,
        at: fmt::Arguments<'_>,
        raw: &file::Route,
        patterns: &[&PathPattern],
    ) -> Action {
        if raw.redirect.is_none() && raw.respond.is_none() {
            return Action::Forward;
        }
        if raw.redirect.is_some() && raw.respond.is_some() {
            self.error(
                "action_twice",
                file,
                format_args!("{at}.respond"),
                "a route redirects or responds, not both",
                "one of them",
            );
        }
        if raw.legacy.is_some() || raw.serverless.is_some() {
            let field = if raw.redirect.is_some() { "redirect" } else { "respond" };
            self.error(
                "action_with_backend",
                file,
                format_args!("{at}.{field}"),
                "a route that answers itself has no backends",
                "no `legacy` or `serverless`",
            );
        }
        let idle = [
            (raw.rewrite.is_some(), "rewrite"),
            (raw.request_headers.is_some(), "request_headers"),
            (raw.response_headers.is_some(), "response_headers"),
            (raw.timeouts.is_some(), "timeouts"),
            (raw.retry.is_some(), "retry"),
            (raw.fallback.is_some(), "fallback"),
        ];
        for (_, field) in idle.into_iter().filter(|(given, _)| *given) {
            self.error(
                "field_without_backend",
                file,
                format_args!("{at}.{field}@key"),
                "this has no effect on a route that answers itself",
                "it left out; headers of an own answer stand in `respond.headers`",
            );
        }
        match (raw.redirect.as_deref(), raw.respond.as_deref()) {
            (Some(redirect), _) => self.redirect(file, format_args!("{at}.redirect"), redirect, patterns),
            (None, Some(respond)) => self.respond(file, format_args!("{at}.respond"), respond),
            (None, None) => Action::Forward,
        }
    }

    fn redirect(
        &mut self,
        file: usize,
        at: fmt::Arguments<'_>,
        raw: &file::Redirect,
        patterns: &[&PathPattern],
    ) -> Action {
        let path = self.path_rewrite(file, at, raw.path.as_deref(), raw.prefix.as_deref(), patterns);
        if raw.scheme.is_none()
            && raw.host.is_none()
            && raw.port.is_none()
            && raw.path.is_none()
            && raw.prefix.is_none()
        {
            self.error(
                "redirect_nowhere",
                file,
                at,
                "the redirect changes nothing, so it would go in circles",
                "`scheme`, `host`, `port`, `path` or `prefix`",
            );
        }
        if let Some(host) = &raw.host
            && !matches!(HostPattern::parse(host), Ok(HostPattern::Exact(_)))
        {
            self.error(
                "host_invalid",
                file,
                format_args!("{at}.host"),
                format!("`{host}` is not a host name"),
                "a name; the port has a field of its own",
            );
        }
        let status = raw.status.unwrap_or(302);
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            self.error(
                "redirect_status",
                file,
                format_args!("{at}.status"),
                format!("{status} does not redirect"),
                "301, 302, 303, 307 or 308",
            );
        }
        Action::Redirect(Box::new(Redirect {
            scheme: raw.scheme,
            host: raw.host.as_deref().map(Into::into),
            port: raw.port,
            path,
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND),
        }))
    }

    fn respond(&mut self, file: usize, at: fmt::Arguments<'_>, raw: &file::Respond) -> Action {
        let status =
            StatusCode::from_u16(raw.status).ok().filter(|status| (200..=599).contains(&status.as_u16()));
        if status.is_none() {
            self.error(
                "respond_status",
                file,
                format_args!("{at}.status"),
                format!("{} is not a final status", raw.status),
                "200 to 599",
            );
        }
        let bodyless = matches!(raw.status, 204 | 205 | 304);
        if bodyless && raw.body.as_ref().is_some_and(|body| !body.is_empty()) {
            self.error(
                "respond_body",
                file,
                format_args!("{at}.body"),
                format!("a {} has no body", raw.status),
                "no `body`, or another status",
            );
        }
        let headers = self.pairs(file, format_args!("{at}.headers"), &raw.headers);
        let body = raw.body.as_deref().unwrap_or_default().into();
        Action::Respond(Box::new(Respond { status: status.unwrap_or(StatusCode::OK), headers, body }))
    }
}
