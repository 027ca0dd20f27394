//! Values that carry their unit in the text: `200ms`, `256KiB`, `5%`, `100/s`.
//!
//! Input: one YAML string. Output: an exact integer in one unit. Must not: accept a bare number, whose unit would be a
//! guess; the error says which units there are.

use crate::ids::{PPM, SharePpm};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Splits `12.5ms` into its number and its unit.
fn split(text: &str) -> (&str, &str) {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..at], text[at..].trim())
}

/// `number` x `scale` as an integer, exactly: no floating point between a file and a share.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || number.ends_with('.') || fraction.len() > 9 {
        return None;
    }
    let base = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    if fraction.is_empty() {
        return Some(base);
    }
    let part = fraction.parse::<u64>().ok()?.checked_mul(scale)?;
    let denominator = 10u64.pow(fraction.len() as u32);
    (part % denominator == 0).then(|| base.checked_add(part / denominator))?
}

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        let nanos = match unit {
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            _ => {
                return Err(format!(
                    "`{text}` is not a duration; expected a number with us, ms, s, m, h or d, such as `200ms`"
                ));
            }
        };
        let nanos = scaled(number, nanos);
        nanos.map(|n| Span(Duration::from_nanos(n))).ok_or_else(|| {
            format!("`{text}` is not a duration that can be held; expected for example `1.5s`")
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        for (unit, size) in
            [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)]
        {
            if micros >= size && micros.is_multiple_of(size) {
                return write!(f, "{}{unit}", micros / size);
            }
        }
        if micros == 0 { write!(f, "0s") } else { write!(f, "{micros}us") }
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        let scale = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            _ => {
                return Err(format!(
                    "`{text}` is not a size; expected a number with B, KiB, MiB, GiB, KB, MB or GB, such as `256KiB`"
                ));
            }
        };
        scaled(number, scale).map(ByteSize).ok_or_else(|| format!("`{text}` is not a whole number of bytes"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= size && self.0.is_multiple_of(size) {
                return write!(f, "{}{unit}", self.0 / size);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// A part of a whole, 0 % to 100 % in steps of a millionth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Percent(pub SharePpm);

impl FromStr for Percent {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        if unit != "%" {
            return Err(format!("`{text}` is not a percent; expected for example `5%` or `0.25%`"));
        }
        let ppm =
            scaled(number, u64::from(PPM / 100)).and_then(|n| u32::try_from(n).ok()).and_then(SharePpm::new);
        ppm.map(Percent).ok_or_else(|| format!("`{text}` is not between 0% and 100% in steps of 0.0001%"))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A rate of events: `100/s`, `6000/m`, `10/h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    pub count: u64,
    pub per_secs: u32,
}

impl FromStr for Rate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(count, unit)| {
            let per_secs = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                _ => return None,
            };
            count.parse().ok().filter(|count| *count > 0).map(|count| Rate { count, per_secs })
        });
        parsed.ok_or_else(|| {
            format!("`{text}` is not a rate; expected a count above 0 per s, m or h, such as `100/s`")
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per_secs {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

/// Ports, both ends among them: `20000-29999`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl FromStr for PortRange {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| text.parse().ok().filter(|port| *port > 0);
        let ends = text.split_once('-').and_then(|(first, last)| Some((port(first)?, port(last)?)));
        ends.filter(|(first, last)| first < last)
            .map(|(first, last)| PortRange { first, last })
            .ok_or_else(|| format!("`{text}` is not a range of ports; expected for example `20000-29999`"))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Serde and schema for a type that is one string in YAML, by its `FromStr` and `Display`.
macro_rules! text_form {
    ($type:ty, $name:literal, $pattern:literal, $example:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, concat!("a ", $name, " such as `", $example, "`"))
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "examples": [$example] })
            }
            fn inline_schema() -> bool {
                false
            }
        }
    };
}
pub(crate) use text_form;

text_form!(Span, "duration", r"^[0-9]+(\.[0-9]+)?(us|ms|s|m|h|d)$", "200ms");
text_form!(ByteSize, "size", r"^[0-9]+(\.[0-9]+)?(B|KiB|MiB|GiB|KB|MB|GB)$", "256KiB");
text_form!(Percent, "percent", r"^[0-9]+(\.[0-9]+)?%$", "5%");
text_form!(Rate, "rate", r"^[1-9][0-9]*/(s|m|h)$", "100/s");
text_form!(PortRange, "ports", r"^[1-9][0-9]*-[1-9][0-9]*$", "20000-29999");
