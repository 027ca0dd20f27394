//! What to read after a write, to see whether both sides know of it.
//!
//! Input: `/orders/{id}`, `{location}`, `/orders/{json.order.id}`; the write's path and answer. Output: the path of a GET. Must not:
//! let a value of an answer become more than one segment of a path.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadBack(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    /// A name of the route's match.
    Name(Box<str>),
    Location,
    /// Keys into the answer's JSON.
    Json(Vec<Box<str>>),
}

impl ReadBack {
    pub fn parse(text: &str) -> Result<ReadBack, String> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) =
                after.split_once('}').ok_or_else(|| format!("`{text}` has an open bracket"))?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            pieces.push(match name.split_once('.') {
                None if name == "location" => Piece::Location,
                None if !name.is_empty() => Piece::Name(name.into()),
                Some(("json", keys)) if !keys.is_empty() => {
                    Piece::Json(keys.split('.').map(Into::into).collect())
                }
                _ => return Err(format!("`{{{name}}}` is not a value that can be read back by")),
            });
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        match pieces.first() {
            Some(Piece::Location) => Ok(ReadBack(pieces)),
            Some(Piece::Text(start)) if start.starts_with('/') => Ok(ReadBack(pieces)),
            _ => Err(format!("`{text}` is not a path")),
        }
    }

    /// Names of the route's match.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Name(name) => Some(&**name),
            Piece::Text(_) | Piece::Location | Piece::Json(_) => None,
        })
    }

    /// `None`: the answer does not say.
    pub fn fill(
        &self,
        parameters: &[(String, String)],
        location: Option<&str>,
        body: &[u8],
    ) -> Option<String> {
        let mut out = String::new();
        let mut json = None;
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Name(name) => out.push_str(&parameters.iter().find(|(key, _)| *key == **name)?.1),
                Piece::Location => {
                    let path = location?;
                    let path = path
                        .split_once("://")
                        .map_or(path, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
                    out.push_str(path);
                }
                Piece::Json(keys) => {
                    let value = json.get_or_insert_with(|| {
                        serde_json::from_slice::<serde_json::Value>(body).unwrap_or_default()
                    });
                    let found = keys.iter().try_fold(&*value, |value, key| value.get(&**key))?;
                    let text = found
                        .as_str()
                        .map(str::to_owned)
                        .or_else(|| found.is_number().then(|| found.to_string()))?;
                    out.extend(utf8_percent_encode(&text, SEGMENT));
                }
            }
        }
        (out.starts_with('/') && out.bytes().all(|byte| byte.is_ascii_graphic())).then_some(out)
    }
}
