//! The raw matches of a route -> matchers.
//!
//! Input: hosts, paths, methods and values as written. Output: `Matcher`s, or problems with their field paths. Must not: look
//! at other routes; ties between routes are found in `overlap`.

use super::Lowering;
use crate::file;
use crate::path::read_path;
use crate::pattern::{HostPattern, Matcher, Parts, PathPattern, ValuePattern, full_regex, parse_path};
use crate::values::ValueMatch;
use http::{HeaderName, Method};
use std::fmt;

impl Lowering {
    pub(super) fn matches(&mut self, file: usize, at: fmt::Arguments<'_>, raw: &file::Route) -> Vec<Matcher> {
        if raw.matches.items.is_empty() {
            self.error(
                "match_empty",
                file,
                format_args!("{at}.match"),
                "the list of matches is empty",
                "at least one match",
            );
        }
        if raw.matches.items.len() > usize::from(u16::MAX) {
            self.error(
                "match_many",
                file,
                format_args!("{at}.match"),
                "more than 65535 matches in one route",
                "several routes",
            );
            return Vec::new();
        }
        let each = raw.matches.items.iter();
        if raw.matches.listed {
            each.enumerate()
                .map(|(number, item)| self.matcher(file, format_args!("{at}.match[{number}]"), item))
                .collect()
        } else {
            each.map(|item| self.matcher(file, format_args!("{at}.match"), item)).collect()
        }
    }

    fn matcher(&mut self, file: usize, at: fmt::Arguments<'_>, raw: &file::Match) -> Matcher {
        let host = match raw.host.as_deref() {
            None | Some("*") => HostPattern::Any,
            Some(text) => HostPattern::parse(text).unwrap_or_else(|problem| {
                self.error(
                    "host_invalid",
                    file,
                    format_args!("{at}.host"),
                    problem,
                    "`shop.example.com` or `*.example.com`",
                );
                HostPattern::Any
            }),
        };
        let path = self.path_pattern(file, at, raw);
        let mut methods = Vec::new();
        if raw.methods.as_ref().is_some_and(Vec::is_empty) {
            self.error(
                "methods_empty",
                file,
                format_args!("{at}.methods"),
                "no method is listed, so nothing matches",
                "methods, or no `methods` for all of them",
            );
        }
        for (number, text) in raw.methods.iter().flatten().enumerate() {
            let path = format_args!("{at}.methods[{number}]");
            match Method::from_bytes(text.as_bytes()) {
                Ok(method) if methods.contains(&method) => {
                    self.error(
                        "method_duplicate",
                        file,
                        path,
                        format!("`{text}` stands twice"),
                        "each method once",
                    );
                }
                Ok(method) if !text.bytes().any(|b| b.is_ascii_lowercase()) => methods.push(method),
                _ => self.error(
                    "method_invalid",
                    file,
                    path,
                    format!("`{text}` is not a method"),
                    "upper case, such as `GET`",
                ),
            }
        }
        let mut headers: Vec<(HeaderName, ValuePattern)> = Vec::new();
        for (name, value) in raw.headers.iter() {
            let path = format_args!("{at}.headers.{name}");
            let Some(parsed) = self.header_name(file, format_args!("{path}@key"), name) else { continue };
            if parsed == http::header::HOST {
                self.error(
                    "match_host_header",
                    file,
                    format_args!("{path}@key"),
                    "HTTP/2 has no Host header, so this would hold over HTTP/1 only",
                    "`host`",
                );
            }
            if headers.iter().any(|(other, _)| *other == parsed) {
                self.error(
                    "header_duplicate",
                    file,
                    format_args!("{path}@key"),
                    format!("`{name}` stands twice but for its case"),
                    "each header once",
                );
            }
            headers.extend(self.value(file, path, value).map(|value| (parsed, value)));
        }
        let mut named = |field: &str, map: &crate::forms::UniqueMap<ValueMatch>| {
            let entries = map.iter().filter_map(|(name, value)| {
                self.value(file, format_args!("{at}.{field}.{name}"), value).map(|value| (name.into(), value))
            });
            entries.collect::<Vec<(Box<str>, ValuePattern)>>()
        };
        let query = named("query", &raw.query);
        let cookies = named("cookies", &raw.cookies);
        let listener = raw.listener.as_deref().map(Into::into);
        Matcher { host, path, conditions: Parts { methods, headers, query, cookies, listener }.into() }
    }

    fn value(&mut self, file: usize, path: fmt::Arguments<'_>, raw: &ValueMatch) -> Option<ValuePattern> {
        ValuePattern::compile(raw)
            .map_err(|problem| {
                self.error(
                    "regex_invalid",
                    file,
                    path,
                    problem,
                    "a regular expression without look-around or back-references",
                )
            })
            .ok()
    }

    pub(super) fn header_name(
        &mut self,
        file: usize,
        path: fmt::Arguments<'_>,
        name: &str,
    ) -> Option<HeaderName> {
        let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
        if parsed.is_none() {
            self.error(
                "header_name",
                file,
                path,
                format!("`{name}` is not a header name"),
                "letters, digits and `-`",
            );
        }
        parsed
    }

    fn path_pattern(&mut self, file: usize, at: fmt::Arguments<'_>, raw: &file::Match) -> PathPattern {
        let everything = PathPattern::Prefix("".into());
        let given = [("path", &raw.path), ("prefix", &raw.prefix), ("regex", &raw.regex)];
        let mut given =
            given.into_iter().filter_map(|(field, text)| text.as_deref().map(|text| (field, text)));
        let first = given.next();
        if let Some((field, _)) = given.next() {
            self.error(
                "path_twice",
                file,
                format_args!("{at}.{field}"),
                "a match has one of `path`, `prefix` and `regex`",
                "one of them; a list of matches is OR",
            );
            return everything;
        }
        if raw.priority.is_some() && raw.regex.is_none() {
            self.error(
                "priority_without_regex",
                file,
                format_args!("{at}.priority"),
                "a priority orders regexes only",
                "no `priority`; other paths are ordered by how specific they are",
            );
        }
        let Some((field, text)) = first else { return everything };
        let place = format_args!("{at}.{field}");
        if field == "regex" {
            return self.regex_pattern(file, at, text, raw.priority).unwrap_or(everything);
        }
        let Some(text) = self.literal_path(file, place, text) else { return everything };
        if field == "prefix" {
            if text.contains(['{', '}']) {
                self.error(
                    "prefix_template",
                    file,
                    place,
                    "a prefix cannot hold names",
                    "`path` with `{rest*}` as its last segment",
                );
            }
            return PathPattern::Prefix(text.strip_suffix('/').unwrap_or(&text).into());
        }
        parse_path(&text).unwrap_or_else(|problem| {
            self.error(
                "path_template",
                file,
                place,
                problem,
                "segments of text, `{name}`, and `{rest*}` at the end",
            );
            everything
        })
    }

    fn regex_pattern(
        &mut self,
        file: usize,
        at: fmt::Arguments<'_>,
        text: &str,
        priority: Option<i32>,
    ) -> Option<PathPattern> {
        let place = format_args!("{at}.regex");
        if priority.is_none() {
            self.error(
                "regex_priority",
                file,
                place,
                "a regex needs a `priority`",
                "a whole number; higher is tried first",
            );
        }
        match full_regex(text) {
            Ok(regex) => Some(PathPattern::Regex(regex, priority.unwrap_or(0))),
            Err(problem) => {
                self.error(
                    "regex_invalid",
                    file,
                    place,
                    problem,
                    "a regular expression without look-around or back-references",
                );
                None
            }
        }
    }

    /// A pattern's path must itself be one that every server reads alike; it is brought into matching form.
    fn literal_path(&mut self, file: usize, place: fmt::Arguments<'_>, text: &str) -> Option<String> {
        if text.is_empty() {
            self.error("path_empty", file, place, "path is empty", "\"/\" or longer");
            return None;
        }
        // Braces mark names here and are refused in requests, so they are hidden from the reader.
        let bare: String = text.chars().map(|c| if matches!(c, '{' | '}') { '~' } else { c }).collect();
        let fault = match read_path(&bare) {
            Ok(read) => read.strict_fault,
            Err(fault) => Some(fault),
        };
        if let Some(fault) = fault {
            self.error(
                "path_invalid",
                file,
                place,
                format!("`{text}` can match no request: {fault}"),
                "a path as clients send it, starting with a slash",
            );
            return None;
        }
        if text.contains(['{', '}']) {
            return Some(text.to_owned());
        }
        read_path(text).ok().map(|read| read.text.into_owned())
    }
}
