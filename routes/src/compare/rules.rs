//! What a route says about comparing: what to leave out, and which values may differ in which way.
//!
//! Input: `ignore` and `rules` of a route's shadow. Output: `Rules`, asked by path. Must not: match a part of a path: paths are
//! exact, and lists stand in them without positions.

use super::steps::step;
use super::typed::Typed;
use encoding_rs::Encoding;
use http::header::{self, HeaderName};
use std::collections::HashMap;
use std::fmt;

/// Compiled once, asked per value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// `$.items[].price`, `/Envelope/Body/id`, `header.vary`, `status`.
    paths: HashMap<Box<str>, Rule>,
    /// Named by a rule, whether or not they are compared of any answer.
    headers: Vec<HeaderName>,
    /// By which the two sides know themselves.
    own_hosts: Vec<Box<str>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Rule {
    Ignore,
    Typed(Typed),
}

/// How `ignore` names a path of each kind of document.
const KINDS: [(&str, &str); 6] = [
    ("json:", "$"),
    ("xml:", "/"),
    ("html:", "/"),
    ("form:", "form."),
    ("part:", "part."),
    ("text:", "line "),
];

/// Compared with the body that it describes.
const SPOKEN_FOR: HeaderName = header::CONTENT_TYPE;

/// The paths of a form's field as the form names it: those that are no words stand in brackets. `a[]` is a field of that name, or the values of `a`.
fn fields(name: &str) -> impl Iterator<Item = String> {
    let items = name.strip_suffix("[]").filter(|name| !name.is_empty());
    let items = items.map(|name| format!("form{}[]", step(name)));
    std::iter::once(format!("form{}", step(name))).chain(items)
}

/// For a digest of what was configured: one line each, sorted.
impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all: Vec<_> = self.paths.iter().collect();
        all.sort_by_key(|(path, _)| *path);
        all.into_iter().try_for_each(|(path, rule)| match rule {
            Rule::Ignore => writeln!(f, "{path}: ignore"),
            Rule::Typed(typed) => writeln!(f, "{path}: {typed}"),
        })
    }
}

impl Rules {
    /// Leaves out what `header.date`, `json:$.traceId` or `xml:/Envelope/Header` names. `Err`: what is wrong.
    pub fn ignore(&mut self, entry: &str) -> Result<(), String> {
        if let Some(name) = entry.strip_prefix("form:").filter(|name| !name.is_empty()) {
            for path in fields(name) {
                self.paths.insert(path.into(), Rule::Ignore);
            }
            return Ok(());
        }
        let path = KINDS.into_iter().find_map(|(kind, start)| {
            let rest = entry.strip_prefix(kind)?;
            match kind {
                "form:" | "part:" | "text:" => (!rest.is_empty()).then(|| format!("{start}{rest}")),
                _ => rest.starts_with(start).then(|| rest.to_owned()),
            }
        });
        let header = entry.strip_prefix("header.").filter(|name| !name.is_empty());
        let path = header.map(|name| format!("header.{}", name.to_ascii_lowercase())).or(path);
        let path = path.ok_or_else(|| format!("`{entry}` names nothing that can be ignored"))?;
        self.paths.insert(path.into(), Rule::Ignore);
        Ok(())
    }

    /// Holds what is at `path`, written as differences are shown, to a shape. `Err`: what is wrong.
    pub fn typed(&mut self, path: &str, rule: &str) -> Result<(), String> {
        let mut typed = Typed::parse(rule)?;
        if let Typed::Equivalent(names) = &mut typed
            && (path.ends_with("content-type") || path.ends_with("charset"))
        {
            // Sets and types go by any of their names.
            for name in names {
                *name = Encoding::for_label(name.as_bytes())
                    .map_or_else(|| name.to_ascii_lowercase(), |it| it.name().to_owned())
                    .into();
            }
        }
        let known = path == "status"
            || ["$", "/", "header.", "form.", "form[", "part.", "line "]
                .iter()
                .any(|start| path.starts_with(start));
        if !known {
            return Err(format!(
                "`{path}` is no path of a value; expected one as `$.items[].id`, `/Envelope/Body/id`, `header.location`, `form.token` or `status`"
            ));
        }
        if let Some(name) = path.strip_prefix("form.") {
            for path in fields(name) {
                self.add(&path, typed.clone());
            }
        } else if let Some(name) = path.strip_prefix("header.") {
            let name: HeaderName = name.parse().map_err(|_| format!("`{name}` is no name of a header"))?;
            self.add(&format!("header.{name}"), typed);
            if name != SPOKEN_FOR && !self.headers.contains(&name) {
                self.headers.push(name);
            }
        } else {
            self.add(path, typed);
        }
        Ok(())
    }

    /// What only a rule has compared is among them.
    pub fn headers(&self) -> &[HeaderName] {
        &self.headers
    }

    pub fn add(&mut self, path: &str, typed: Typed) {
        self.paths.insert(path.into(), Rule::Typed(typed));
    }

    /// A host, with its port, that either side may call itself by.
    pub fn own(&mut self, host: &str) {
        self.own_hosts.push(host.to_ascii_lowercase().into());
    }

    pub fn is_own(&self, host: &str) -> bool {
        self.own_hosts.iter().any(|own| own.eq_ignore_ascii_case(host))
    }

    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    pub fn ignores(&self, path: &str) -> bool {
        matches!(self.paths.get(path), Some(Rule::Ignore))
    }

    pub fn at(&self, path: &str) -> Option<&Typed> {
        match self.paths.get(path)? {
            Rule::Typed(typed) => Some(typed),
            Rule::Ignore => None,
        }
    }

    pub fn is_optional(&self, path: &str) -> bool {
        self.ignores(path) || matches!(self.at(path), Some(Typed::Optional))
    }

    pub fn is_unordered(&self, path: &str) -> bool {
        matches!(self.at(path), Some(Typed::Unordered))
    }
}
