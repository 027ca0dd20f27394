//! What is wrong with a rule set: stable code, place, route, field and text, and how it is shown.
//!
//! Input: facts found by `read`, `compile` and `overlap`. Output: `Problem`s sorted by place, drawn like a compiler's.
//! Must not: read files; sources are handed in.

use crate::locate::{KEY, Span, locate};
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

/// One file of a rule set: the name it is reported under, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub name: String,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// Where in the source a problem is: a file and a field path in it (`routes[3].match.path`), or a place the YAML scanner
/// already knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Field { file: usize, path: String },
    At { file: usize, line: usize, column: usize },
    Nowhere,
}

impl Place {
    pub fn field(file: usize, path: impl Into<String>) -> Self {
        Place::Field { file, path: path.into() }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Stable: part of the interface, never reused for another meaning.
    pub code: &'static str,
    pub severity: Severity,
    pub place: Place,
    /// The id of the route, where there is one.
    pub route: Option<String>,
    pub text: String,
    /// What would be right.
    pub expected: Option<String>,
}

impl Problem {
    pub fn error(code: &'static str, place: Place, text: impl Into<String>) -> Self {
        Problem { code, severity: Severity::Error, place, route: None, text: text.into(), expected: None }
    }

    pub fn warning(code: &'static str, place: Place, text: impl Into<String>) -> Self {
        Problem { severity: Severity::Warning, ..Problem::error(code, place, text) }
    }

    pub fn expected(mut self, text: impl Into<String>) -> Self {
        self.expected = Some(text.into());
        self
    }

    pub fn route(mut self, id: impl Into<String>) -> Self {
        self.route = Some(id.into());
        self
    }
}

/// A problem with its place resolved to lines and columns (1-based), ready to print in any format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub code: &'static str,
    pub severity: Severity,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// Bytes of the source that the caret stands under.
    #[serde(skip)]
    range: Option<(usize, std::ops::Range<usize>)>,
}

/// Resolves the places of `problems`, sorted by file and line. The position index is built only for files that have one.
pub fn report(sources: &[Source], problems: &[Problem]) -> Vec<Report> {
    let mut spans: Vec<Option<crate::locate::Index>> = sources.iter().map(|_| None).collect();
    let mut reports: Vec<Report> = problems
        .iter()
        .map(|problem| {
            let (file, span, field) = match &problem.place {
                Place::Field { file, path } => {
                    let index = spans[*file].get_or_insert_with(|| locate(&sources[*file].text));
                    (Some(*file), Some(index.nearest(path)), Some(path.trim_end_matches(KEY).to_owned()))
                }
                Place::At { file, line, column } => {
                    (Some(*file), Some(Span::at(&sources[*file].text, *line, *column)), None)
                }
                Place::Nowhere => (None, None, None),
            };
            Report {
                code: problem.code,
                severity: problem.severity,
                file: file.map(|file| sources[file].name.clone()),
                line: span.as_ref().map(|span| span.line),
                column: span.as_ref().map(|span| span.column),
                route: problem.route.clone(),
                field,
                message: problem.text.clone(),
                expected: problem.expected.clone(),
                range: file.zip(span.map(|span| span.bytes)),
            }
        })
        .collect();
    reports.sort_by(|a, b| (&a.file, a.line, a.column, a.code).cmp(&(&b.file, b.line, b.column, b.code)));
    reports.dedup();
    reports
}

impl Report {
    /// `orders.yaml:14:5: path_empty: route "orders": path is empty; expected ...` on one line, for logs.
    pub fn line(&self) -> String {
        let mut out = String::new();
        if let (Some(file), Some(line), Some(column)) = (&self.file, self.line, self.column) {
            out += &format!("{file}:{line}:{column}: ");
        }
        out += &format!("{}: {}", self.code, self.title());
        if let Some(expected) = &self.expected {
            out += &format!("; expected {expected}");
        }
        out
    }

    fn title(&self) -> String {
        match &self.route {
            Some(route) => format!("route \"{route}\": {}", self.message),
            None => self.message.clone(),
        }
    }

    /// Several lines with the source and a caret, as compilers draw them.
    pub fn draw(&self, sources: &[Source], color: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = self.title();
        let mut group =
            level.primary_title(&title).id(self.code).elements(Vec::<annotate_snippets::Element<'_>>::new());
        let label = self.expected.as_ref().map(|expected| format!("expected {expected}"));
        if let Some((file, bytes)) = &self.range {
            let mut mark = AnnotationKind::Primary.span(bytes.clone());
            if let Some(label) = &label {
                mark = mark.label(label);
            }
            group = group
                .element(Snippet::source(&sources[*file].text).path(&sources[*file].name).annotation(mark));
        } else if let Some(label) = &label {
            group = group.element(Level::NOTE.message(label));
        }
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }
}

/// Whether any of them stops a rule set from being used.
pub fn any_error(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| problem.severity == Severity::Error)
}
