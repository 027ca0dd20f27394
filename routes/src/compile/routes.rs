//! One raw route -> one compiled route.
//!
//! Input: the raw shape and the names known so far. Output: a `Route` in the table, or problems with their field paths.
//! Must not: look at other routes; ties between routes are found in `overlap`.

use super::Lowering;
use crate::file::{self, Effects, StageWord};
use crate::ids::{SharePpm, Side};
use crate::path::read_path;
use crate::pattern::{Conditions, HostPattern, Matcher, PathPattern, ValuePattern, full_regex, parse_path};
use crate::problem::{Place, Problem};
use crate::table::{Action, Route, Stage};
use crate::values::ValueMatch;
use http::{HeaderName, Method};
use std::fmt;

impl Lowering {
    pub(super) fn route(&mut self, file: usize, position: usize, raw: &file::Route) {
        let before = self.problems.len();
        let at = format_args!("routes[{position}]");
        let matches = self.matches(file, at, raw);
        let patterns: Vec<&PathPattern> = matches.iter().map(|matcher| &matcher.path).collect();
        let action = self.action(file, at, raw, &patterns);
        let backends = [
            self.backend_of(file, format_args!("{at}.legacy"), raw.legacy.as_deref()),
            self.backend_of(file, format_args!("{at}.serverless"), raw.serverless.as_deref()),
        ];
        let stage = self.stage(file, at, raw, &action);
        let cohort = match raw.cohort.as_deref() {
            None => self.own_cohort(&raw.id),
            Some(name) => self.cohort_ids.get(name).copied().unwrap_or_else(|| {
                self.error(
                    "cohort_unknown",
                    file,
                    format_args!("{at}.cohort"),
                    format!("no cohort is called `{name}`"),
                    "a name under `cohorts`",
                );
                0
            }),
        };
        let group = raw.group.as_deref().map(|name| self.group(file, at, name));
        self.shadow(file, at, raw);
        self.ramp(file, at, raw);
        let policy = self.policy(file, at, raw, &patterns);
        for (number, id) in raw.after.iter().enumerate() {
            if !self.route_ids.contains_key(id) || *id == raw.id {
                let text = format!("`{id}` is not another route");
                self.error(
                    "after_unknown",
                    file,
                    format_args!("{at}.after[{number}]"),
                    text,
                    "the id of a route that must go first",
                );
            }
        }
        for problem in &mut self.problems[before..] {
            problem.route.get_or_insert_with(|| raw.id.clone());
        }
        self.routes.push(Route {
            id: raw.id.as_str().into(),
            owner: raw.owner.as_deref().map(Into::into),
            group,
            matches,
            action,
            stage,
            cohort,
            backends,
            effects: raw.effects,
            policy,
            origin: (file as u32, position as u32),
        });
    }

    fn group(&mut self, file: usize, at: fmt::Arguments<'_>, name: &str) -> u16 {
        self.name("group", file, format_args!("{at}.group"), name);
        let known = self.groups.iter().position(|group| **group == *name);
        known.unwrap_or_else(|| {
            self.groups.push(name.into());
            self.groups.len() - 1
        }) as u16
    }

    fn backend_of(&mut self, file: usize, path: fmt::Arguments<'_>, name: Option<&str>) -> Option<u32> {
        let name = name?;
        let known = self.backend_ids.get(name).copied();
        if known.is_none() {
            self.error(
                "backend_unknown",
                file,
                path,
                format!("no backend is called `{name}`"),
                "a name under `backends`",
            );
        }
        known
    }

    fn matches(&mut self, file: usize, at: fmt::Arguments<'_>, raw: &file::Route) -> Vec<Matcher> {
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
        Matcher { host, path, conditions: Conditions { methods, headers, query, cookies, listener } }
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

    fn stage(&mut self, file: usize, at: fmt::Arguments<'_>, raw: &file::Route, action: &Action) -> Stage {
        let field = if raw.stage.is_some() { "stage" } else { "id" };
        let place = format_args!("{at}.{field}");
        if !matches!(action, Action::Forward) {
            if raw.stage.is_some() {
                self.error(
                    "stage_without_backend",
                    file,
                    place,
                    "a route that redirects or responds has no stage",
                    "no `stage`",
                );
            }
            return Stage::Legacy;
        }
        // Without a word the old system keeps answering.
        let word = raw.stage.unwrap_or(StageWord::Legacy);
        let needs: &[Side] = match word {
            StageWord::Legacy => &[Side::Legacy],
            StageWord::Shadow | StageWord::Canary | StageWord::Ramp => &Side::ALL,
            StageWord::Serverless | StageWord::Retired => &[Side::Serverless],
        };
        for side in needs {
            let backend = if *side == Side::Legacy { &raw.legacy } else { &raw.serverless };
            if backend.is_none() {
                self.error(
                    "stage_backend_missing",
                    file,
                    place,
                    format!("this stage needs a `{side}` backend"),
                    &format!("`{side}: <backend>`"),
                );
            }
        }
        if word == StageWord::Ramp && raw.ramp.is_none() {
            self.error(
                "ramp_missing",
                file,
                place,
                "stage ramp has no steps to take",
                "a `ramp` with `steps`",
            );
        }
        if raw.share.is_some() && word != StageWord::Canary {
            self.error(
                "share_without_canary",
                file,
                format_args!("{at}.share"),
                "a share is fixed by hand in stage canary only",
                "`stage: canary`, or no `share`",
            );
        }
        match word {
            StageWord::Legacy => Stage::Legacy,
            StageWord::Shadow => Stage::Shadow,
            StageWord::Canary => Stage::Canary(raw.share.map_or_else(
                || {
                    self.error(
                        "share_missing",
                        file,
                        place,
                        "stage canary does not say how many",
                        "`share`, such as `share: 5%`",
                    );
                    SharePpm::ZERO
                },
                |share| share.0,
            )),
            StageWord::Ramp => Stage::Ramp,
            StageWord::Serverless => Stage::Serverless,
            StageWord::Retired => Stage::Retired,
        }
    }

    /// Law 7: what is not safe is shadowed only when the route says how.
    fn shadow(&mut self, file: usize, at: fmt::Arguments<'_>, raw: &file::Route) {
        let Some(shadow) = &raw.shadow else { return };
        let safe = |item: &file::Match| {
            item.methods
                .as_ref()
                .is_some_and(|all| all.iter().all(|m| matches!(m.as_str(), "GET" | "HEAD" | "OPTIONS")))
        };
        let by_method = if raw.matches.items.iter().all(safe) { Effects::Safe } else { Effects::Unsafe };
        let effects = raw.effects.unwrap_or(by_method);
        if effects != Effects::Safe && shadow.policy.is_none() {
            let word = if effects == Effects::Unsafe { "unsafe" } else { "idempotent" };
            let text = format!("the effects of this route are {word}, and its shadow names no policy");
            self.error(
                "shadow_policy_missing",
                file,
                format_args!("{at}.shadow"),
                text,
                "`policy`: off, sandbox or verify_after_write; or `effects: safe`",
            );
        }
    }

    fn ramp(&mut self, file: usize, at: fmt::Arguments<'_>, raw: &file::Route) {
        let Some(ramp) = &raw.ramp else { return };
        if ramp.steps.is_empty() {
            self.error(
                "steps_empty",
                file,
                format_args!("{at}.ramp.steps"),
                "a ramp without steps goes nowhere",
                "rising percents, such as [1%, 10%, 100%]",
            );
        }
        for (number, pair) in ramp.steps.windows(2).enumerate() {
            if pair[1].at <= pair[0].at {
                let text = format!("step {} does not rise over {}", pair[1].at, pair[0].at);
                self.error(
                    "steps_not_rising",
                    file,
                    format_args!("{at}.ramp.steps[{}]", number + 1),
                    text,
                    "steps that rise",
                );
            }
        }
        if ramp.steps.first().is_some_and(|step| step.at.0 == SharePpm::ZERO) {
            self.error(
                "steps_not_rising",
                file,
                format_args!("{at}.ramp.steps[0]"),
                "the first step moves nobody",
                "a percent above 0",
            );
        }
        if let Some(ceiling) = &ramp.ceiling
            && (ceiling.rps == Some(0) || ceiling.failures_per_day == Some(0))
        {
            let place = Place::field(file, format!("{at}.ramp.ceiling"));
            self.problems.push(Problem::warning(
                "ceiling_zero",
                place,
                "a ceiling of 0 keeps every request on legacy",
            ));
        }
    }
}
