//! The items of a file's `routes:` list as texts, so that a reload reads only those that changed.
//!
//! Input: the text of a rule file. Output: one text per item, and the file without them. Must not: be trusted alone: the
//! caller reads the whole file whenever anything does not fit, so that a cut in the wrong place costs time and never meaning.
//!
//! Why a cut cannot change meaning: in a block sequence every item begins with `- ` at one column, and what belongs to it is
//! indented further. A line that only looks like an item can stand inside a quoted or flow value alone; then the text before
//! it is left open, does not parse, and the file is read whole. Texts with anchors or several documents are not cut.

/// A file taken apart.
pub struct Cut<'t> {
    pub items: Vec<&'t str>,
    /// Everything else, with `routes: []` in the place of the list.
    pub rest: String,
}

/// Takes a text apart, or leaves it whole.
pub fn cut(text: &str) -> Option<Cut<'_>> {
    if has_anchors(text) {
        return None;
    }
    let mut rest = String::new();
    let mut starts: Vec<usize> = Vec::new();
    let mut end = None;
    let mut indent = None;
    let mut state = State::Before;
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let start = offset;
        offset += line.len();
        let content = line.trim_end();
        let depth = content.len() - content.trim_start_matches(' ').len();
        let blank = content.trim_start().is_empty() || content.trim_start().starts_with('#');
        if content.starts_with("---")
            || content.starts_with("...")
            || content.starts_with('%')
            || content.contains('\t')
        {
            return None;
        }
        match state {
            State::Before if content == "routes:" => {
                rest.push_str("routes: []\n");
                state = State::Inside;
            }
            State::Before => rest.push_str(line),
            State::Inside if blank => {}
            State::Inside
                if content[depth..].starts_with("- ") && indent.is_none_or(|indent| indent == depth) =>
            {
                indent = Some(depth);
                starts.push(start);
            }
            State::Inside if indent.is_some_and(|indent| depth > indent) => {}
            State::Inside if depth == 0 => {
                end = Some(start);
                state = State::After;
                rest.push_str(line);
            }
            State::Inside => return None,
            State::After if content.starts_with("routes:") => return None,
            State::After => rest.push_str(line),
        }
    }
    if matches!(state, State::Before) || starts.is_empty() {
        return None;
    }
    let ends = starts[1..].iter().copied().chain([end.unwrap_or(text.len())]);
    let items = starts.iter().zip(ends).map(|(start, end)| &text[*start..end]).collect();
    Some(Cut { items, rest })
}

#[derive(Clone, Copy)]
enum State {
    Before,
    Inside,
    After,
}

/// Whether an anchor, an alias or a merge key may be in the text; errs on the side of yes.
fn has_anchors(text: &str) -> bool {
    let bytes = text.as_bytes();
    let opens = |at: usize| at == 0 || b" \t\n[{,:-".contains(&bytes[at - 1]);
    bytes.iter().enumerate().any(|(at, byte)| matches!(byte, b'&' | b'*' | b'<') && opens(at))
}
