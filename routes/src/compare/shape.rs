//! What a value looks like: uuid, time, token, number; and digits masked out of a text.
//!
//! Input: a value's text. Output: its shape, with what two values of one shape can be measured by. Must not: guess at a value
//! that could as well be something else: a date needs its dashes, a token its length.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use std::fmt;

/// Ways of writing a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimeFormat {
    /// `2026-11-23T12:00:00Z`, with an offset. RFC 3339.
    Rfc3339,
    /// `Mon, 23 Nov 2026 12:00:00 GMT`. RFC 5322 and HTTP.
    Rfc2822,
    /// `2026-11-23 12:00:00`, without an offset.
    Local,
    /// `2026-11-23`
    Date,
    /// `12:00` or `12:00:00`
    Clock,
}

impl TimeFormat {
    pub const ALL: [TimeFormat; 5] =
        [TimeFormat::Rfc3339, TimeFormat::Rfc2822, TimeFormat::Local, TimeFormat::Date, TimeFormat::Clock];

    pub fn as_str(self) -> &'static str {
        match self {
            TimeFormat::Rfc3339 => "rfc3339",
            TimeFormat::Rfc2822 => "rfc2822",
            TimeFormat::Local => "local",
            TimeFormat::Date => "date",
            TimeFormat::Clock => "clock",
        }
    }
}

impl fmt::Display for TimeFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The format of a moment, and its milliseconds since 1970 (of a clock: since midnight).
pub fn time(text: &str) -> Option<(TimeFormat, i64)> {
    let bytes = text.as_bytes();
    if !(5..=40).contains(&bytes.len()) || !text.is_ascii() {
        return None;
    }
    let utc = |it: DateTime| it.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp().as_millisecond());
    if bytes[0].is_ascii_alphabetic() || text.contains(", ") {
        let zoned = jiff::fmt::rfc2822::parse(text).ok()?;
        return Some((TimeFormat::Rfc2822, zoned.timestamp().as_millisecond()));
    }
    if !bytes[0].is_ascii_digit() {
        return None;
    }
    if bytes[2] == b':' && bytes.len() <= 12 {
        let clock: Time = text.parse().ok()?;
        return Some((
            TimeFormat::Clock,
            i64::from(clock.hour()) * 3_600_000
                + i64::from(clock.minute()) * 60_000
                + i64::from(clock.second()) * 1_000
                + i64::from(clock.millisecond()),
        ));
    }
    if bytes.len() < 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    if bytes.len() == 10 {
        let date: Date = text.parse().ok()?;
        return Some((TimeFormat::Date, utc(date.at(0, 0, 0, 0))?));
    }
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Some((TimeFormat::Rfc3339, moment.as_millisecond()));
    }
    Some((TimeFormat::Local, utc(text.parse().ok()?)?))
}

pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Hexadecimal digits that are more than a number: their count.
pub fn hex(text: &str) -> Option<usize> {
    (text.len() >= 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(text.len())
}

/// Three parts in base64url, the first of them a JSON object. RFC 7519.
pub fn is_jwt(text: &str) -> bool {
    let plain =
        |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    let parts: Vec<&str> = text.split('.').collect();
    parts.len() == 3
        && text.starts_with("eyJ")
        && parts[1].starts_with("eyJ")
        && parts.iter().all(|part| plain(part))
}

/// What is shorter may be a word.
pub const TOKEN_MIN: usize = 8;

/// Whether two moments of one format part day and time alike. The same moment in another zone is the same.
pub fn alike(format: TimeFormat, one: &str, other: &str) -> bool {
    let parted = |text: &str| text.as_bytes().get(10).copied();
    !matches!(format, TimeFormat::Rfc3339 | TimeFormat::Local) || parted(one) == parted(other)
}

/// Letters and digits without a word in them: long, and with at least one digit.
pub fn token(text: &str) -> Option<usize> {
    let allowed = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'+' | b'/' | b'=' | b'.' | b'~')
    };
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    (text.len() >= TOKEN_MIN && digits > 0 && text.bytes().all(allowed)).then_some(text.len())
}

/// Milliseconds of a moment between 2001 and 2286, given in seconds or milliseconds since 1970.
pub fn epoch(text: &str) -> Option<(bool, i64)> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    match text.len() {
        10 => Some((false, text.parse::<i64>().ok()? * 1_000)),
        13 => Some((true, text.parse().ok()?)),
        _ => None,
    }
}

/// A whole number without a sign.
pub fn whole(text: &str) -> Option<u64> {
    (!text.is_empty() && text.len() <= 19 && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

/// A number as JSON writes it; for measuring how far two are apart, not for telling whether they are equal.
pub fn number(text: &str) -> Option<f64> {
    let plain = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
    let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_digit() || byte == b'-');
    (starts && text.len() <= 40 && text.bytes().all(plain))
        .then(|| text.parse().ok())
        .flatten()
        .filter(|it: &f64| it.is_finite())
}

/// The text with each run of digits as one `#`.
pub fn masked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if !letter.is_ascii_digit() {
            out.push(letter);
        } else if !out.ends_with('#') {
            out.push('#');
        }
    }
    out
}

/// Sign, digits without zeros at either end, and the power of ten behind them: equal for equal values, whatever was written.
pub fn decimal(text: &str) -> (bool, String, i64) {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let Ok(exponent) = exponent.parse::<i64>() else {
        // Beyond all sense: equal to what is written in the same way.
        return (text.starts_with('-'), text.to_owned(), i64::MAX);
    };
    let (negative, mantissa) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let trimmed = digits.trim_end_matches('0');
    let power =
        exponent.saturating_sub(fraction.len() as i64).saturating_add((digits.len() - trimmed.len()) as i64);
    let significant = trimmed.trim_start_matches('0');
    if significant.is_empty() { (false, "0".into(), 0) } else { (negative, significant.into(), power) }
}

pub fn is_whole(text: &str) -> bool {
    !text.contains(['.', 'e', 'E'])
}
