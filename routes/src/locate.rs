//! An index from field paths (`routes[3].match.path`) to places in the YAML text, for showing problems only.
//!
//! Input: the text of one file. Output: byte ranges, lines and columns. Must not: produce values; serde_yaml reads those,
//! and two readers of values would disagree one day. Built lazily: a good rule set never pays for it.

use saphyr_parser::{Event, Parser};
use std::collections::HashMap;
use std::ops::Range;

/// A place in a text: bytes, and the line and column of their start (1-based, columns in characters).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub bytes: Range<usize>,
    pub line: usize,
    pub column: usize,
}

impl Span {
    fn from_bytes(text: &str, bytes: Range<usize>) -> Span {
        let before = &text[..bytes.start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        Span { line, column: text[line_start..bytes.start].chars().count() + 1, bytes }
    }

    /// One character at a line and column; clamped into the text.
    pub fn at(text: &str, line: usize, column: usize) -> Span {
        let mut offset = 0;
        for (number, content) in text.split_inclusive('\n').enumerate() {
            if number + 1 == line {
                let content = content.trim_end_matches(['\n', '\r']);
                let start =
                    content.char_indices().nth(column.saturating_sub(1)).map_or(content.len(), |(at, _)| at);
                let len = content[start..].chars().next().map_or(0, char::len_utf8);
                return Span::from_bytes(text, offset + start..offset + start + len);
            }
            offset += content.len();
        }
        // Past the end: after the last thing that was written.
        let end = text.trim_end().len();
        Span::from_bytes(text, end..end)
    }
}

/// Suffix of a path that asks for the key's place, not the value's.
pub const KEY: &str = "@key";

/// The places of one file.
pub struct Index<'a> {
    text: &'a str,
    values: HashMap<String, Range<usize>>,
}

impl Index<'_> {
    /// The place of `path`, or of the closest thing around it that exists.
    pub fn nearest(&self, path: &str) -> Span {
        let mut path = path.to_owned();
        loop {
            if let Some(bytes) = self.values.get(&path) {
                return Span::from_bytes(self.text, bytes.clone());
            }
            match path.strip_suffix(KEY) {
                Some(shorter) => path.truncate(shorter.len()),
                None => match path.rfind(['.', '[']) {
                    Some(at) => path.truncate(at),
                    None => return Span::from_bytes(self.text, 0..0),
                },
            }
        }
    }
}

/// What the walk is inside of.
enum Frame {
    Map { path: String, key: Option<(String, Range<usize>)> },
    List { path: String, next: usize },
}

/// Reads `text` up to its first scanner error; what was read so far is indexed.
pub fn locate(text: &str) -> Index<'_> {
    let offsets: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let byte = |chars: usize| offsets.get(chars).copied().unwrap_or(text.len());
    let mut values = HashMap::new();
    let mut stack: Vec<Frame> = Vec::new();
    let mut parser = Parser::new_from_str(text);
    while let Some(Ok((event, span))) = parser.next_event() {
        let start = byte(span.start.index());
        let raw = &text[start..byte(span.end.index()).max(start)];
        let bytes = start..start + raw.trim_end().len();
        match event {
            Event::Scalar(value, ..) => {
                if let Some(Frame::Map { key: key @ None, .. }) = stack.last_mut() {
                    *key = Some((value.into_owned(), bytes));
                } else if let Some(path) = enter(&mut stack, &mut values, None) {
                    values.insert(path, bytes);
                }
            }
            Event::Alias(_) => {
                enter(&mut stack, &mut values, Some(bytes));
            }
            Event::MappingStart(..) | Event::SequenceStart(..) => {
                let first = start..start + text[start..].chars().next().map_or(0, char::len_utf8);
                let path = enter(&mut stack, &mut values, Some(first)).unwrap_or_default();
                stack.push(match event {
                    Event::MappingStart(..) => Frame::Map { path, key: None },
                    _ => Frame::List { path, next: 0 },
                });
            }
            Event::MappingEnd | Event::SequenceEnd => {
                stack.pop();
            }
            Event::DocumentEnd => break,
            _ => {}
        }
    }
    Index { text, values }
}

/// The path of the value that begins now. A value inside a map also places its key, and a container is shown at its key.
fn enter(
    stack: &mut [Frame],
    values: &mut HashMap<String, Range<usize>>,
    first: Option<Range<usize>>,
) -> Option<String> {
    match stack.last_mut()? {
        Frame::Map { path, key } => {
            let (name, place) = key.take()?;
            let child = if path.is_empty() { name } else { format!("{path}.{name}") };
            values.insert(format!("{child}{KEY}"), place.clone());
            if first.is_some() {
                values.insert(child.clone(), place);
            }
            Some(child)
        }
        Frame::List { path, next } => {
            let child = format!("{path}[{next}]");
            *next += 1;
            if let Some(first) = first {
                values.insert(child.clone(), first);
            }
            Some(child)
        }
    }
}
