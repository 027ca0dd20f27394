//! Rules for values that may differ, as long as they keep their shape.
//!
//! Input: `uuid`, `timestamp(rfc3339, 5s)`, `float(0.01, 1%)`, as written in the rules. Output: whether a pair of values is
//! covered. Must not: cover a value of another shape: a uuid that turned into `ERROR` stays a difference.

use super::shape::{self, TimeFormat, decimal};
use crate::units::Span;
use std::fmt;
use std::time::Duration;

/// What a value at one path may be.
#[derive(Clone, Debug, PartialEq)]
pub enum Typed {
    /// The same to the byte: for headers that are not compared otherwise.
    Exact,
    Uuid,
    /// A moment, in any or one format, apart by no more than the tolerance.
    Timestamp {
        format: Option<TimeFormat>,
        tolerance: Option<Duration>,
    },
    /// A moment as a number since 1970.
    Epoch {
        millis: bool,
        tolerance: Option<Duration>,
    },
    /// Hexadecimal digits; of this many.
    Hex(Option<usize>),
    Jwt,
    /// Letters and digits, from so many to so many.
    Token {
        min: usize,
        max: usize,
    },
    /// A whole number, apart by no more than this.
    Counter(Option<u64>),
    /// Apart by no more than `abs`, or by no more than `rel` of legacy's.
    Float {
        abs: f64,
        rel: f64,
    },
    /// A list whose order means nothing.
    Unordered,
    /// A text that is one of these; `#` stands for a run of digits.
    Like(Vec<Box<str>>),
    /// It may be there or not.
    Optional,
    /// Whatever is written here counts as the same: statuses, names of media types or character sets.
    Equivalent(Vec<Box<str>>),
}

/// How a rule sees a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    Yes,
    /// Legacy's value is of the shape and the other is not, or is too far from it.
    No,
    /// Not even legacy's value is.
    NotMeant,
}

const DAY_MS: i64 = 86_400_000;
const EXPECTED: &str = "exact, uuid, timestamp(FORMAT, TOLERANCE), epoch_ms(TOLERANCE), epoch_s(TOLERANCE), hex(N), jwt, token(MIN, MAX), counter(N), float(ABS, REL%), unordered, optional, like(\"TEXT #\", ...) or equivalent(A, B)";

impl Typed {
    pub fn parse(text: &str) -> Result<Typed, String> {
        let (name, inner) = match text.trim().split_once('(') {
            Some((name, rest)) => {
                (name, rest.strip_suffix(')').ok_or_else(|| format!("`{text}` has no closing bracket"))?)
            }
            None => (text.trim(), ""),
        };
        let args = arguments(inner)?;
        let arg = |at: usize| args.get(at).map(String::as_str);
        let span = |at: usize| arg(at).map(|it| it.parse::<Span>().map(|span| span.0)).transpose();
        let count = |at: usize| {
            arg(at)
                .map(|it| it.parse::<u64>().map_err(|_| format!("`{it}` is not a whole number")))
                .transpose()
        };
        let most = |max: usize| {
            if args.len() > max { Err(format!("`{text}` has more than {max} values")) } else { Ok(()) }
        };
        Ok(match name {
            "exact" => most(0).map(|()| Typed::Exact)?,
            "uuid" => most(0).map(|()| Typed::Uuid)?,
            "jwt" => most(0).map(|()| Typed::Jwt)?,
            "unordered" => most(0).map(|()| Typed::Unordered)?,
            "optional" => most(0).map(|()| Typed::Optional)?,
            "timestamp" => {
                most(2)?;
                let named = |it: &str| TimeFormat::ALL.into_iter().find(|format| format.as_str() == it);
                match arg(0).map(|it| (named(it), it)) {
                    None => Typed::Timestamp { format: None, tolerance: None },
                    Some((Some(format), _)) => Typed::Timestamp { format: Some(format), tolerance: span(1)? },
                    Some((None, _)) if args.len() == 1 => {
                        Typed::Timestamp { format: None, tolerance: span(0)? }
                    }
                    Some((None, it)) => {
                        return Err(format!(
                            "`{it}` is no format of time; expected rfc3339, rfc2822, local, date or clock"
                        ));
                    }
                }
            }
            "epoch_ms" | "epoch_s" => {
                most(1)?;
                Typed::Epoch { millis: name == "epoch_ms", tolerance: span(0)? }
            }
            "hex" => {
                most(1)?;
                Typed::Hex(count(0)?.map(|it| it as usize))
            }
            "counter" => {
                most(1)?;
                Typed::Counter(count(0)?)
            }
            "token" => {
                most(2)?;
                let min = count(0)?.ok_or("token needs its length, such as token(22)")? as usize;
                let max = count(1)?.map_or(min, |it| it as usize);
                if max < min {
                    return Err(format!("`{text}` holds for nothing"));
                }
                if min < shape::TOKEN_MIN {
                    return Err(format!(
                        "`{text}`: what is shorter than {} letters cannot be told from a word",
                        shape::TOKEN_MIN
                    ));
                }
                Typed::Token { min, max }
            }
            "float" => {
                most(2)?;
                let number = |at: usize| {
                    arg(at)
                        .map(|it| {
                            let (digits, scale) = it.strip_suffix('%').map_or((it, 1.0), |it| (it, 0.01));
                            let value = digits
                                .trim()
                                .parse::<f64>()
                                .ok()
                                .filter(|value| value.is_finite() && *value >= 0.0);
                            value
                                .map(|value| value * scale)
                                .ok_or_else(|| format!("`{it}` is not a tolerance"))
                        })
                        .transpose()
                };
                // A part alone is a part of the value.
                let (abs, rel) = match args.as_slice() {
                    [one] if one.ends_with('%') => (Some(0.0), number(0)?),
                    _ => (number(0)?, number(1)?),
                };
                Typed::Float {
                    abs: abs.ok_or("float needs its tolerance, such as float(0.01) or float(0, 1%)")?,
                    rel: rel.unwrap_or(0.0),
                }
            }
            "like" | "equivalent" => {
                let texts: Vec<Box<str>> = args.into_iter().map(Into::into).collect();
                match (name, texts.len()) {
                    // Digits stand for any digits, as in what is held beside them.
                    ("like", 1..) => Typed::Like(texts.iter().map(|it| shape::masked(it).into()).collect()),
                    ("equivalent", 2..) => Typed::Equivalent(texts),
                    _ => return Err(format!("`{text}` says too few texts")),
                }
            }
            _ => return Err(format!("`{name}` is no kind of rule; expected {EXPECTED}")),
        })
    }

    /// Whether the two values, both texts or both numbers, are covered.
    pub fn holds(&self, legacy: &str, serverless: &str) -> Held {
        let one = |is: &dyn Fn(&str) -> bool| match (is(legacy), is(serverless)) {
            (false, _) => Held::NotMeant,
            (true, true) => Held::Yes,
            (true, false) => Held::No,
        };
        let apart = |a: Option<i64>, b: Option<i64>, most: Option<Duration>| match (a, b) {
            (None, _) => Held::NotMeant,
            (Some(a), Some(b)) if most.is_none_or(|most| u128::from(a.abs_diff(b)) <= most.as_millis()) => {
                Held::Yes
            }
            (Some(_), _) => Held::No,
        };
        match self {
            Typed::Uuid => one(&shape::is_uuid),
            Typed::Jwt => one(&shape::is_jwt),
            // A length that is said may be shorter than what is known by itself.
            Typed::Hex(Some(length)) => {
                one(&|it| it.len() == *length && it.bytes().all(|byte| byte.is_ascii_hexdigit()))
            }
            Typed::Hex(None) => one(&|it| shape::hex(it).is_some()),
            Typed::Token { min, max } => {
                one(&|it| shape::token(it).is_some_and(|found| (*min..=*max).contains(&found)))
            }
            Typed::Timestamp { format, tolerance } => {
                let read =
                    |it| shape::time(it).filter(|(found, _)| format.is_none_or(|format| format == *found));
                match (read(legacy), read(serverless)) {
                    // Written in another way is another shape, even where any is allowed.
                    (Some((a, _)), Some((b, _))) if a != b || !shape::alike(a, legacy, serverless) => {
                        Held::No
                    }
                    // A clock begins anew at midnight.
                    (Some((TimeFormat::Clock, a)), Some((_, b))) => {
                        let between = (a - b).abs();
                        apart(Some(0), Some(between.min(DAY_MS - between)), *tolerance)
                    }
                    (a, b) => apart(a.map(|it| it.1), b.map(|it| it.1), *tolerance),
                }
            }
            Typed::Epoch { millis, tolerance } => {
                let read = |it| shape::epoch(it).filter(|(found, _)| found == millis).map(|it| it.1);
                apart(read(legacy), read(serverless), *tolerance)
            }
            Typed::Counter(most) => match (shape::whole(legacy), shape::whole(serverless)) {
                (None, _) => Held::NotMeant,
                // What is filled up with zeros keeps its width.
                _ if [legacy, serverless].iter().any(|it| it.len() > 1 && it.starts_with('0'))
                    && legacy.len() != serverless.len() =>
                {
                    Held::No
                }
                (Some(a), Some(b)) if most.is_none_or(|most| a.abs_diff(b) <= most) => Held::Yes,
                (Some(_), _) => Held::No,
            },
            Typed::Float { abs, rel } => match (shape::number(legacy), shape::number(serverless)) {
                (None, _) => Held::NotMeant,
                _ if decimal(legacy) == decimal(serverless) => Held::Yes,
                // Digits that no double holds are not within a tolerance smaller than what was lost of them.
                (Some(a), Some(b))
                    if abs.max(rel * a.abs()) < (a.abs().max(b.abs())) * f64::EPSILON
                        && legacy != serverless =>
                {
                    Held::No
                }
                // A hair's breadth over the bound is the arithmetic's own.
                (Some(a), Some(b)) if (a - b).abs() <= abs.max(rel * a.abs()) * (1.0 + 1e-9) => Held::Yes,
                (Some(_), _) => Held::No,
            },
            Typed::Like(texts) => one(&|it| {
                let masked = shape::masked(it);
                texts.iter().any(|known| **known == *masked)
            }),
            Typed::Equivalent(texts) => one(&|it| texts.iter().any(|known| **known == *it)),
            Typed::Exact if legacy != serverless => Held::No,
            Typed::Exact => Held::Yes,
            Typed::Unordered | Typed::Optional => Held::NotMeant,
        }
    }
}

/// Values between commas; those in quotes may hold anything, a quote as `\"` and a backslash as `\\`.
fn arguments(text: &str) -> Result<Vec<String>, String> {
    let (mut out, mut rest) = (Vec::new(), text.trim());
    while !rest.is_empty() {
        let (value, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (value, after) = unquoted(quoted).ok_or("a quote is not closed")?;
                (value, after.trim_start())
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].trim().to_owned(), &rest[end..])
            }
        };
        out.push(value);
        rest = match after.strip_prefix(',') {
            Some(more) => more.trim_start(),
            None if after.is_empty() => after,
            None => return Err(format!("`{after}` follows a value; expected a comma")),
        };
    }
    Ok(out)
}

/// As a person would write them: in quotes only where that is needed.
fn equivalents(texts: &[Box<str>]) -> String {
    let is_bare =
        |it: &str| !it.is_empty() && it.trim() == it && !it.starts_with('"') && !it.contains([',', ')']);
    texts
        .iter()
        .map(|it| if is_bare(it) { it.to_string() } else { quoted(it) })
        .collect::<Vec<_>>()
        .join(", ")
}

/// What stands before the quote that ends it, and what after.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut rest) = (String::new(), text.chars());
    loop {
        match rest.next()? {
            '"' => return Some((value, rest.as_str())),
            '\\' if rest.as_str().starts_with(['"', '\\']) => value.extend(rest.next()),
            other => value.push(other),
        }
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

impl fmt::Display for Typed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |texts: &[Box<str>]| texts.iter().map(|it| quoted(it)).collect::<Vec<_>>().join(", ");
        let span = |it: &Option<Duration>| it.map(|it| Span(it).to_string());
        let call = |name: &str, args: Vec<Option<String>>| {
            let args: Vec<String> = args.into_iter().flatten().collect();
            if args.is_empty() { name.to_owned() } else { format!("{name}({})", args.join(", ")) }
        };
        let text = match self {
            Typed::Exact => "exact".into(),
            Typed::Uuid => "uuid".into(),
            Typed::Jwt => "jwt".into(),
            Typed::Unordered => "unordered".into(),
            Typed::Optional => "optional".into(),
            Typed::Timestamp { format, tolerance } => {
                call("timestamp", vec![format.map(|it| it.to_string()), span(tolerance)])
            }
            Typed::Epoch { millis, tolerance } => {
                call(if *millis { "epoch_ms" } else { "epoch_s" }, vec![span(tolerance)])
            }
            Typed::Hex(length) => call("hex", vec![length.map(|it| it.to_string())]),
            Typed::Token { min, max } => {
                call("token", vec![Some(min.to_string()), (min != max).then(|| max.to_string())])
            }
            Typed::Counter(most) => call("counter", vec![most.map(|it| it.to_string())]),
            Typed::Float { abs, rel } => call(
                "float",
                vec![Some(abs.to_string()), (*rel > 0.0).then(|| format!("{}%", (rel * 1e6).round() / 1e4))],
            ),
            Typed::Like(texts) => call("like", vec![Some(list(texts))]),
            Typed::Equivalent(texts) => call("equivalent", vec![Some(equivalents(texts))]),
        };
        f.write_str(&text)
    }
}
