//! Values that may be written as one string or as a small map: what a header must be, and a step of a ramp.
//!
//! Input: YAML. Output: `ValueMatch` and `Step`. Must not: compile regexes; that is `pattern`.

use crate::forms::{TextOrMap, text_or_map};
use crate::units::Percent;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;

/// `"1"` (exact), `present`, `{regex: "image/.*"}`; `{exact: present}` for that very word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    Exact(String),
    Present,
    Regex(String),
}

impl TextOrMap for ValueMatch {
    type Map = ValueMatchMap;
    const EXPECTED: &'static str =
        "a string, `present`, or {regex: ...}; quote numbers and words such as \"true\"";
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(if text == "present" { ValueMatch::Present } else { ValueMatch::Exact(text.into()) })
    }
    fn from_map(map: ValueMatchMap) -> Result<Self, String> {
        match (map.regex, map.exact) {
            (Some(regex), None) => Ok(ValueMatch::Regex(regex)),
            (None, Some(exact)) => Ok(ValueMatch::Exact(exact)),
            _ => Err("expected exactly one of `regex` and `exact`".into()),
        }
    }
}

/// `5%` or `{at: 25%, approve: 1}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub at: Percent,
    pub approve: u8,
}

impl TextOrMap for Step {
    type Map = StepMap;
    const EXPECTED: &'static str = "a percent such as `5%`, or {at: 25%, approve: 1}";
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Step { at: text.parse()?, approve: 0 })
    }
    fn from_map(map: StepMap) -> Result<Self, String> {
        Ok(Step { at: map.at, approve: map.approve.unwrap_or(0) })
    }
}

impl Serialize for ValueMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ValueMatch::Present => serializer.serialize_str("present"),
            ValueMatch::Exact(text) if text != "present" => serializer.serialize_str(text),
            ValueMatch::Exact(text) => {
                ValueMatchMap { regex: None, exact: Some(text.clone()) }.serialize(serializer)
            }
            ValueMatch::Regex(text) => {
                ValueMatchMap { regex: Some(text.clone()), exact: None }.serialize(serializer)
            }
        }
    }
}

impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.approve {
            0 => self.at.serialize(serializer),
            approve => StepMap { at: self.at, approve: Some(approve) }.serialize(serializer),
        }
    }
}

/// `Deserialize` and schema for the two types above.
macro_rules! text_or_map_form {
    ($type:ty, $name:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                text_or_map(deserializer)
            }
        }
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let map = generator.subschema_for::<<$type as TextOrMap>::Map>();
                json_schema!({ "anyOf": [{ "type": "string" }, map] })
            }
        }
    };
}
text_or_map_form!(ValueMatch, "value_match");
text_or_map_form!(Step, "step");

/// The map form of a value match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValueMatchMap {
    pub regex: Option<String>,
    pub exact: Option<String>,
}

/// The map form of a ramp step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepMap {
    pub at: Percent,
    /// How many distinct people must approve before this step.
    pub approve: Option<u8>,
}
