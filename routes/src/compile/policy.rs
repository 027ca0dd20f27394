//! What a route says beyond matching and stage: timeouts, retries, rewrites, header edits.
//!
//! Input: the raw fields. Output: a `Policy`, shared by all routes that say nothing. Must not: leave anything to be parsed
//! again per request.

use super::Lowering;
use crate::file::{self, Effects, LocationMode};
use crate::ids::{SharePpm, Side};
use crate::path::read_path;
use crate::pattern::{HostPattern, PathPattern};
use crate::rewrite::{PathRewrite, Rewrite};
use crate::table::{Fallback, HeaderEdits, Policy, Retry, Timeouts, paths_normalise, slash_allow};
use http::{HeaderName, HeaderValue};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

impl Lowering {
    /// What `defaults` say; every route without a word of its own shares it.
    pub(super) fn base_policy(&mut self, defaults: Option<&(usize, file::Defaults)>) -> Policy {
        let Some((file, defaults)) = defaults else { return Policy::default() };
        Policy {
            timeouts: self.timeouts(
                *file,
                format_args!("defaults"),
                Timeouts::default(),
                defaults.timeouts.as_ref(),
            ),
            normalise: paths_normalise(defaults.paths),
            encoded_slash: slash_allow(defaults.encoded_slash),
            ..Policy::default()
        }
    }

    pub(super) fn policy(
        &mut self,
        file: usize,
        at: fmt::Arguments<'_>,
        raw: &file::Route,
        patterns: &[&PathPattern],
    ) -> Arc<Policy> {
        let base = self.base.clone();
        let says_nothing = raw.timeouts.is_none()
            && raw.retry.is_none()
            && raw.fallback.is_none()
            && raw.rewrite.is_none()
            && raw.request_headers.is_none()
            && raw.response_headers.is_none()
            && raw.cors.is_none()
            && raw.paths.is_none()
            && raw.encoded_slash.is_none();
        if says_nothing {
            return base;
        }
        Arc::new(Policy {
            timeouts: self.timeouts(file, at, base.timeouts, raw.timeouts.as_deref()),
            retry: raw.retry.as_deref().map(|retry| self.retry(file, at, raw, retry)),
            fallback: raw.fallback.as_deref().map(|fallback| self.fallback(file, at, raw, fallback)),
            rewrite: self.rewrite(file, at, raw, patterns),
            request_headers: raw
                .request_headers
                .as_deref()
                .map(|edits| self.edits(file, format_args!("{at}.request_headers"), edits)),
            response_headers: raw
                .response_headers
                .as_deref()
                .map(|edits| self.edits(file, format_args!("{at}.response_headers"), edits)),
            cors: raw.cors.as_deref().map(|cors| self.cors(file, at, cors)),
            normalise: raw.paths.map_or(base.normalise, |mode| paths_normalise(Some(mode))),
            encoded_slash: raw.encoded_slash.map_or(base.encoded_slash, |mode| slash_allow(Some(mode))),
        })
    }

    fn timeouts(
        &mut self,
        file: usize,
        at: fmt::Arguments<'_>,
        base: Timeouts,
        raw: Option<&file::Timeouts>,
    ) -> Timeouts {
        let Some(raw) = raw else { return base };
        let at = format_args!("{at}.timeouts");
        let pick = |given: Option<crate::units::Span>, base| {
            given.map_or(base, |span| Some(span.0).filter(|d| !d.is_zero()))
        };
        let timeouts = Timeouts {
            connect: pick(raw.connect, base.connect),
            first_byte: pick(raw.first_byte, base.first_byte),
            per_try: pick(raw.per_try, base.per_try),
            total: pick(raw.total, base.total),
        };
        let over =
            |part: Option<Duration>| part.zip(timeouts.total).is_some_and(|(part, total)| part > total);
        if raw.per_try.is_some() && over(timeouts.per_try) {
            self.error(
                "timeout_order",
                file,
                format_args!("{at}.per_try"),
                "one try may take longer than all tries together",
                "`per_try` at most `total`",
            );
        }
        if raw.connect.is_some() && raw.total.is_some() && over(timeouts.connect) {
            self.error(
                "timeout_order",
                file,
                format_args!("{at}.connect"),
                "connecting may take longer than the whole request",
                "`connect` at most `total`",
            );
        }
        timeouts
    }

    fn retry(
        &mut self,
        file: usize,
        at: fmt::Arguments<'_>,
        raw: &file::Route,
        retry: &file::Retry,
    ) -> Retry {
        let at = format_args!("{at}.retry");
        if !(1..=10).contains(&retry.attempts) {
            self.error(
                "retry_attempts",
                file,
                format_args!("{at}.attempts"),
                format!("{} tries after the first", retry.attempts),
                "1 to 10",
            );
        }
        if retry.on.is_empty() {
            self.error(
                "retry_on_empty",
                file,
                format_args!("{at}.on"),
                "nothing is retried",
                "`connect`, `timeout` or statuses",
            );
        }
        let replays = retry.on.iter().any(|kind| *kind != crate::terms::FailureKind::Connect);
        if replays && raw.effects == Some(Effects::Unsafe) {
            let text = "a request that may have had an effect would be sent again";
            self.error(
                "retry_unsafe",
                file,
                format_args!("{at}.on"),
                text,
                "`on: [connect]`, or `effects: safe` or `idempotent`",
            );
        }
        Retry {
            attempts: retry.attempts,
            on: retry.on.clone(),
            budget: retry.budget.map_or(SharePpm::ALL, |budget| budget.0),
        }
    }

    fn fallback(
        &mut self,
        file: usize,
        at: fmt::Arguments<'_>,
        raw: &file::Route,
        fallback: &file::Fallback,
    ) -> Fallback {
        let at = format_args!("{at}.fallback");
        if fallback.to != Side::Legacy {
            self.error(
                "fallback_to",
                file,
                format_args!("{at}.to"),
                "the way back leads to legacy",
                "`to: legacy`",
            );
        }
        if raw.legacy.is_none() || raw.stage == Some(file::StageWord::Retired) {
            self.error(
                "fallback_without_legacy",
                file,
                at,
                "there is no legacy side to fall back to",
                "a `legacy` backend and a stage before retired",
            );
        }
        if fallback.on.is_empty() {
            self.error(
                "fallback_on_empty",
                file,
                format_args!("{at}.on"),
                "nothing leads to the fallback",
                "`connect`, `timeout` or statuses",
            );
        }
        Fallback { on: fallback.on.clone(), within: fallback.within.map(|span| span.0) }
    }

    fn rewrite(
        &mut self,
        file: usize,
        at: fmt::Arguments<'_>,
        raw: &file::Route,
        patterns: &[&PathPattern],
    ) -> [Option<Rewrite>; 2] {
        let Some(rewrite) = raw.rewrite.as_deref() else { return [None, None] };
        let at = format_args!("{at}.rewrite");
        let path = self.path_rewrite(file, at, rewrite.path.as_deref(), rewrite.prefix.as_deref(), patterns);
        for (field, host) in [("host", &rewrite.host), ("cookie_domain", &rewrite.cookie_domain)] {
            let bare = host.as_deref().map(|host| host.trim_start_matches('.'));
            if bare.is_some_and(|host| !matches!(HostPattern::parse(host), Ok(HostPattern::Exact(_)))) {
                let text = format!("`{}` is not a host name", bare.unwrap_or_default());
                self.error("host_invalid", file, format_args!("{at}.{field}"), text, "a name without a port");
            }
        }
        let compiled = Rewrite {
            path,
            host: rewrite.host.as_deref().map(Into::into),
            location_public: rewrite.location == Some(LocationMode::Public),
            cookie_domain: rewrite.cookie_domain.as_deref().map(Into::into),
        };
        match rewrite.side {
            None => [Some(compiled.clone()), Some(compiled)],
            Some(Side::Legacy) => [Some(compiled), None],
            Some(Side::Serverless) => [None, Some(compiled)],
        }
    }

    pub(super) fn path_rewrite(
        &mut self,
        file: usize,
        at: fmt::Arguments<'_>,
        path: Option<&str>,
        prefix: Option<&str>,
        patterns: &[&PathPattern],
    ) -> Option<PathRewrite> {
        let (field, text) = match (path, prefix) {
            (None, None) => return None,
            (Some(_), Some(_)) => {
                self.error(
                    "rewrite_twice",
                    file,
                    format_args!("{at}.prefix"),
                    "`path` and `prefix` both say what the path becomes",
                    "one of them",
                );
                return None;
            }
            (Some(path), None) => ("path", path),
            (None, Some(prefix)) => ("prefix", prefix),
        };
        let place = format_args!("{at}.{field}");
        let bare: String = text.chars().filter(|c| !matches!(c, '{' | '}' | '*')).collect();
        if !text.starts_with('/')
            || !read_path(&bare.replace("//", "/_/")).is_ok_and(|read| read.strict_fault.is_none())
        {
            self.error(
                "rewrite_path",
                file,
                place,
                format!("`{text}` is not a path every server reads alike"),
                "a plain path starting with a slash",
            );
            return None;
        }
        if field == "prefix" {
            if patterns.iter().any(|pattern| matches!(pattern, PathPattern::Regex(..))) {
                self.error(
                    "rewrite_prefix_regex",
                    file,
                    place,
                    "a regex has no literal start that could be replaced",
                    "`path`, or a match by `prefix`",
                );
                return None;
            }
            return Some(PathRewrite::prefix(text, patterns));
        }
        PathRewrite::template(text, patterns)
            .map_err(|problem| {
                self.error("rewrite_name_unknown", file, place, problem, "names that the match gives")
            })
            .ok()
    }

    pub(super) fn header_value(&mut self, file: usize, path: fmt::Arguments<'_>, value: &str) -> HeaderValue {
        HeaderValue::from_str(value).unwrap_or_else(|_| {
            self.error(
                "header_value",
                file,
                path,
                "the value holds a byte that no header may hold",
                "visible ASCII, spaces and tabs",
            );
            HeaderValue::from_static("")
        })
    }

    pub(super) fn pairs(
        &mut self,
        file: usize,
        at: fmt::Arguments<'_>,
        map: &crate::forms::UniqueMap<String>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut pairs = Vec::new();
        for (name, value) in map.iter() {
            let path = format_args!("{at}.{name}");
            let value = self.header_value(file, path, value);
            pairs.extend(self.editable(file, format_args!("{path}@key"), name).map(|name| (name, value)));
        }
        pairs
    }

    /// Headers that frame the message or belong to the hop are the proxy's own; editing them would break the connection.
    pub(super) fn editable(
        &mut self,
        file: usize,
        path: fmt::Arguments<'_>,
        name: &str,
    ) -> Option<HeaderName> {
        const OURS: [&str; 9] = [
            "connection",
            "content-length",
            "host",
            "keep-alive",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        let parsed = self.header_name(file, path, name)?;
        if OURS.contains(&parsed.as_str()) {
            self.error(
                "header_reserved",
                file,
                path,
                format!("`{name}` is set by the proxy itself"),
                "another header; the Host is changed by `rewrite.host`",
            );
            return None;
        }
        Some(parsed)
    }

    fn edits(&mut self, file: usize, at: fmt::Arguments<'_>, raw: &file::HeaderEdits) -> HeaderEdits {
        let set = self.pairs(file, format_args!("{at}.set"), &raw.set);
        let add = self.pairs(file, format_args!("{at}.add"), &raw.add);
        let remove = raw.remove.iter().enumerate();
        let remove = remove
            .filter_map(|(number, name)| self.editable(file, format_args!("{at}.remove[{number}]"), name))
            .collect();
        HeaderEdits { remove, set, add }
    }
}
