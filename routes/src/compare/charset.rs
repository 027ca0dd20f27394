//! Bytes -> text: which character set, and the text in it. WHATWG Encoding.
//!
//! Input: a body and its media type. Output: text, and the name of the set. Must not: guess where something says it: a byte order
//! mark, then the header, then the document's own declaration.

use super::form::parameter;
use encoding_rs::{Encoding, UTF_8};
use std::borrow::Cow;

/// Bytes in which a document declares its own set.
const DECLARATION_MAX: usize = 1_024;

pub struct Decoded<'a> {
    pub text: Cow<'a, str>,
    /// `UTF-8`, `EUC-KR`; of pure ASCII any name would do.
    pub charset: &'static str,
    /// Some bytes mean nothing in this set.
    pub damaged: bool,
    /// Nothing says which set it is.
    pub guessed: bool,
}

/// Whether it names a character set.
pub fn is_label(name: &str) -> bool {
    Encoding::for_label(name.as_bytes()).is_some()
}

/// Whether ASCII means in it what it says.
pub fn is_ascii_compatible(name: &str) -> bool {
    Encoding::for_label(name.as_bytes()).is_none_or(Encoding::is_ascii_compatible)
}

/// Both sides; one that does not say what it is in is read as the other says, where that makes sense of it.
pub fn decode_both<'a>(
    (a_type, a): (&str, &'a [u8]),
    (b_type, b): (&str, &'a [u8]),
) -> (Decoded<'a>, Decoded<'a>) {
    let (one, other) = (decode(a_type, a), decode(b_type, b));
    let like = |guess: Decoded<'a>, body: &'a [u8], said: &'static str| {
        let known = Encoding::for_label(said.as_bytes()).map(|it| it.decode_without_bom_handling(body));
        match known {
            Some((text, false)) => Decoded { text, charset: said, damaged: false, guessed: true },
            _ => guess,
        }
    };
    // What reads as UTF-8 hardly is anything else.
    let open = |it: &Decoded<'_>| it.guessed && it.charset != UTF_8.name();
    match (open(&one), open(&other)) {
        (true, false) => (like(one, a, other.charset), other),
        (false, true) => {
            let said = one.charset;
            (one, like(other, b, said))
        }
        _ => (one, other),
    }
}

/// Text as a document of this type, that declares its set in this way, would hold it. `None`: it cannot.
pub fn encode(content_type: &str, text: &str) -> Option<Vec<u8>> {
    let encoding = Encoding::for_label(decode(content_type, text.as_bytes()).charset.as_bytes())?;
    let (bytes, _, lost) = encoding.encode(text);
    (!lost).then(|| bytes.into_owned())
}

pub fn decode<'a>(content_type: &str, body: &'a [u8]) -> Decoded<'a> {
    let said = Encoding::for_bom(body)
        .map(|(encoding, _)| encoding)
        .or_else(|| Encoding::for_label(parameter(content_type, "charset")?.as_bytes()))
        .or_else(|| declared(body));
    let (text, used, damaged) = said.unwrap_or_else(|| guessed(body)).decode(body);
    Decoded { text, charset: used.name(), damaged, guessed: said.is_none() }
}

/// `<?xml encoding="euc-kr"?>`, `<meta charset="euc-kr">`, `<meta ... content="text/html; charset=euc-kr">`.
fn declared(body: &[u8]) -> Option<&'static Encoding> {
    let start = String::from_utf8_lossy(&body[..body.len().min(DECLARATION_MAX)]).to_ascii_lowercase();
    let label = |after: &str| -> Option<String> {
        let rest = &start[start.find(after)? + after.len()..];
        let name = rest.trim_start_matches(['=', ' ', '"', '\'']);
        Some(
            name.chars()
                .take_while(|it| it.is_ascii_alphanumeric() || matches!(it, '-' | '_' | ':'))
                .collect(),
        )
    };
    let name = if start.starts_with("<?xml") { label("encoding") } else { None };
    let name = name.or_else(|| start.contains("<meta").then(|| label("charset")).flatten());
    Encoding::for_label(name?.as_bytes())
}

fn guessed(body: &[u8]) -> &'static Encoding {
    if std::str::from_utf8(body).is_ok() {
        return UTF_8;
    }
    let mut detector = chardetng::EncodingDetector::new(chardetng::Iso2022JpDetection::Allow);
    detector.feed(body, true);
    detector.guess(None, chardetng::Utf8Detection::Allow)
}
