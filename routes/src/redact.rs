//! Values as they may be kept: what kind of thing, and a pseudonym that is the same for the same value.
//!
//! Input: values and paths of differences. Output: `email:5b1d0c2e9a77`, `string(5):0f3a...`. Must not: let through what it does not
//! know: everything is replaced, and only shapes are told (law 8).

use crate::compare::{Difference, Value, shape};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Hexadecimal digits of a pseudonym: 48 bits tell apart what one route will ever show.
const DIGITS: usize = 12;

/// With the key of this installation.
pub struct Redactor {
    key: [u8; 32],
}

impl Redactor {
    pub fn new(key: [u8; 32]) -> Redactor {
        Redactor { key }
    }

    /// A value's class and its pseudonym; without a pseudonym where only its shape was known.
    pub fn value(&self, value: &Value) -> String {
        match &value.text {
            // A name of the protocol, not of a person: a status, a media type, a character set.
            Some(text) if **text == *value.shape => value.shape.clone(),
            Some(text) => format!("{}:{}", class(text).unwrap_or(&value.shape), self.pseudonym(text)),
            None => value.shape.clone(),
        }
    }

    pub fn pseudonym(&self, text: &str) -> String {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) else { return String::new() };
        mac.update(text.as_bytes());
        let digest = mac.finalize().into_bytes();
        digest.iter().take(DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
    }

    /// A path of a document, in which a key may be somebody's address.
    pub fn path(&self, path: &str) -> String {
        let mut out = String::with_capacity(path.len());
        for part in path.split_inclusive(['.', '/', '[', ']', '"']) {
            let bare = part.trim_end_matches(['.', '/', '[', ']', '"']);
            out.push_str(&self.name(bare));
            out.push_str(&part[bare.len()..]);
        }
        // An address has a dot in it, which parts it. (Before the name of an attribute stands a `/`.)
        let address = out.match_indices('@').any(|(at, _)| !out[..at].ends_with('/'));
        if address { self.whole_path(path) } else { out }
    }

    /// A key of a document: a name stays, an address or a number does not.
    pub fn key(&self, key: &str) -> String {
        let foreign = key.contains('@') || key.len() > 64;
        if foreign {
            format!("{}:{}", class(key).unwrap_or("text"), self.pseudonym(key))
        } else {
            self.name(key)
        }
    }

    /// A word, or its class and pseudonym.
    fn name(&self, text: &str) -> String {
        let known = class(text).or_else(|| (!is_words(text)).then_some("text"));
        known.map_or_else(|| text.to_owned(), |class| format!("{class}:{}", self.pseudonym(text)))
    }

    fn whole_path(&self, path: &str) -> String {
        // Only what kind of path it is: `$`, `form`, `part`.
        let root: String = path.chars().take_while(|it| !matches!(it, '[' | '@' | '.' | '/' | ' ')).collect();
        format!("{root}…:{}", self.pseudonym(path))
    }

    /// The path of a request: what is not a word is replaced. Its query is dropped.
    pub fn target(&self, target: &str) -> String {
        let path = target.split(['?', '#']).next().unwrap_or_default();
        let part = |part: &str| match part.contains('@') {
            true => format!("{}:{}", class(part).unwrap_or("text"), self.pseudonym(part)),
            false => self.name(part),
        };
        path.split('/').map(part).collect::<Vec<_>>().join("/")
    }

    pub fn difference(&self, it: &Difference) -> (String, String, String) {
        (self.path(&it.path), self.value(&it.legacy), self.value(&it.serverless))
    }
}

/// Digits that the name of a thing may have: `address2`, `sha256`, `v1.2`.
const DIGITS_MAX: usize = 4;

/// Whether a key or a part of a path is the name of a thing: words, and a number of few digits behind or between them. What somebody has booked, pays with or
/// is known by mixes letters and digits, or has more of them.
fn is_words(text: &str) -> bool {
    // Where something stands in a text.
    let bare = ["line ", "byte "].iter().find_map(|kind| text.strip_prefix(kind));
    if bare.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())) {
        return true;
    }
    let word = |word: &str| {
        let digits = word.chars().filter(char::is_ascii_digit).count();
        let letters = word.chars().filter(|it| it.is_alphabetic()).count();
        let at_end = word.trim_end_matches(|it: char| it.is_ascii_digit()).chars().all(char::is_alphabetic);
        let lower = word.chars().any(char::is_lowercase);
        let marks = word.chars().all(|it| it.is_alphanumeric() || !it.is_ascii());
        marks && (at_end && digits < DIGITS_MAX || lower && digits * 3 <= letters)
    };
    text.bytes().filter(u8::is_ascii_digit).count() <= DIGITS_MAX
        && text.split(['.', ':', '_', '-', ' ', '@', '{', '}', '$', '~', '+', '*', '…', '#']).all(word)
}

/// What a value that says something of somebody is; `None` for words.
pub fn class(text: &str) -> Option<&'static str> {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    if shape::is_uuid(text) {
        return Some("uuid");
    }
    if shape::is_jwt(text) {
        return Some("jwt");
    }
    if is_email(text) {
        return Some("email");
    }
    if shape::time(text).is_some() {
        return Some("time");
    }
    if digits == 0 {
        return None;
    }
    let grouped = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b' ' | b'-'));
    if grouped && (13..=19).contains(&digits) && luhn(text) {
        return Some("card");
    }
    if is_national_id(text) {
        return Some("national_id");
    }
    let dialled = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b' ' | b'-' | b'(' | b')' | b'+' | b'/'));
    if dialled && (7..=15).contains(&digits) && (text.starts_with('+') || text.starts_with('0')) {
        return Some("phone");
    }
    if shape::number(text).is_some() {
        return Some("number");
    }
    if shape::hex(text).is_some() {
        return Some("hex");
    }
    shape::token(text).map(|_| "token")
}

fn is_email(text: &str) -> bool {
    text.split_once('@').is_some_and(|(name, host)| {
        !name.is_empty()
            && host.contains('.')
            && !host.starts_with('.')
            && !text.contains(char::is_whitespace)
    })
}

/// The check digit of cards. ISO/IEC 7812-1.
fn luhn(text: &str) -> bool {
    let digits = text.bytes().rev().filter(u8::is_ascii_digit).map(|byte| u32::from(byte - b'0'));
    let sum: u32 = digits
        .enumerate()
        .map(|(at, digit)| match (at % 2, digit * 2) {
            (0, _) => digit,
            (_, twice) if twice > 9 => twice - 9,
            (_, twice) => twice,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Numbers by which states know people: `123-45-6789` (US), `900101-1234567` (KR), and account numbers by IBAN.
fn is_national_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    let dashed = |at: &[usize]| {
        bytes
            .iter()
            .enumerate()
            .all(|(place, byte)| if at.contains(&place) { *byte == b'-' } else { byte.is_ascii_digit() })
    };
    let iban = || {
        let bare: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != b' ').collect();
        (15..=34).contains(&bare.len())
            && bare[..2].iter().all(u8::is_ascii_uppercase)
            && bare[2..4].iter().all(u8::is_ascii_digit)
            && bare.iter().all(u8::is_ascii_alphanumeric)
    };
    (bytes.len() == 11 && dashed(&[3, 6])) || (bytes.len() == 14 && dashed(&[6])) || iban()
}
