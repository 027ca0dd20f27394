//! One layout for rule files, with every comment kept.
//!
//! Input: the text of a file. Output: the same values, laid out. Must not: change a value; the result is read back and
//! compared, and a text it cannot lay out safely is refused and left alone.

use serde_yaml::Value;

/// Lays a text out: no trailing spaces or tabs, one blank line at most, one before each top-level section, one newline at the end.
/// Block scalars (`|`, `>`) keep their lines.
pub fn format(text: &str) -> Result<String, String> {
    let before: Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let mut out: Vec<String> = Vec::new();
    let mut block: Option<usize> = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start_matches(' ').len();
        if block.is_some_and(|parent| line.trim().is_empty() || indent > parent) {
            out.push(line.to_owned());
            continue;
        }
        block = None;
        let line = line.trim_end();
        let last_blank = out.last().is_none_or(|last| last.is_empty());
        if line.is_empty() {
            if !last_blank {
                out.push(String::new());
            }
            continue;
        }
        let top = indent == 0 && !line.starts_with(['#', '-', '}', ']']);
        if top && !out.is_empty() && line != "version: 1" {
            section_gap(&mut out);
        }
        if opens_block(line) {
            block = Some(indent);
        }
        out.push(line.to_owned());
    }
    while out.last().is_some_and(|last| last.trim().is_empty()) {
        out.pop();
    }
    let laid = out.join("\n") + "\n";
    let after: Value = serde_yaml::from_str(&laid).map_err(|error| error.to_string())?;
    if before == after {
        Ok(laid)
    } else {
        Err("its layout cannot be changed without changing a value".into())
    }
}

/// A blank line before a section, in front of the comments that belong to it.
fn section_gap(out: &mut Vec<String>) {
    let comments = out.iter().rev().take_while(|line| line.starts_with('#')).count();
    let at = out.len() - comments;
    if at > 0 && !out[at - 1].is_empty() {
        out.insert(at, String::new());
    }
}

/// A line that ends in a block scalar's mark, after which indented lines are text.
fn opens_block(line: &str) -> bool {
    let code = line.split(" #").next().unwrap_or(line).trim_end();
    let last = code.rsplit([' ', ':']).next().unwrap_or("");
    last.starts_with(['|', '>']) && last[1..].bytes().all(|b| matches!(b, b'+' | b'-' | b'0'..=b'9'))
}
