//! What a function returned -> the response it means.
//!
//! Input: the payload, and the format of the event it answers. Output: status, headers and body; or what is malformed in it.
//! Must not: pass on framing headers: the length is counted anew, the connection is ours.
//!
//! Sources: AWS, "Create AWS Lambda proxy integrations for HTTP APIs" (2.0: a value without `statusCode` is a whole JSON body), "Output
//! format of a Lambda function for proxy integration" (1.0: both header maps are merged, a pair in both counts once), "Use Lambda
//! functions as targets of an Application Load Balancer" (`statusDescription`, one of the maps).

use banyan_routes::backend::EventFormat;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// Encoders leave the padding out as often as not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Headers of a hop, and the length, which is counted.
const NOT_OURS_TO_PASS: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// More than any client takes.
const HEADERS_MAX: usize = 500;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    pub status: u16,
    /// The words behind the status, where a load balancer's function gives them.
    pub reason: Option<String>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub head: Head,
    pub body: Bytes,
}

/// What is wrong with a payload: for the log, never for the client.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw<'a> {
    status_code: Option<Value>,
    status_description: Option<String>,
    headers: Option<Map<String, Value>>,
    multi_value_headers: Option<Map<String, Value>>,
    cookies: Option<Vec<String>>,
    #[serde(borrow)]
    body: Option<Cow<'a, str>>,
    is_base64_encoded: Option<bool>,
}

/// The response of a whole payload.
pub fn answer(format: EventFormat, payload: &Bytes) -> Result<Answer, Malformed> {
    let first = payload.iter().find(|byte| !byte.is_ascii_whitespace());
    let raw = match first {
        Some(b'{') => serde_json::from_slice::<Raw<'_>>(payload),
        _ if format == EventFormat::V2 => return inferred(payload),
        _ => return Err(Malformed("the payload is no object with a `statusCode`".into())),
    };
    let raw = match raw {
        Ok(raw) if raw.status_code.is_some() => raw,
        Ok(_) | Err(_) if format == EventFormat::V2 && !has_status(payload) => return inferred(payload),
        Ok(_) => return Err(Malformed("the payload has no `statusCode`".into())),
        Err(error) => return Err(Malformed(format!("the payload is not an answer: {error}"))),
    };
    let head = head(format, &raw)?;
    let text = raw.body.unwrap_or_default();
    let body = if raw.is_base64_encoded.unwrap_or(false) {
        let decoded = BASE64.decode(text.as_bytes());
        decoded.map_err(|error| Malformed(format!("the body is not base64: {error}")))?.into()
    } else {
        match text {
            // A body without escapes is a part of the payload, which is not copied.
            Cow::Borrowed(text) => payload.slice_ref(text.as_bytes()),
            Cow::Owned(text) => Bytes::from(text),
        }
    };
    Ok(Answer { head, body })
}

/// The head that comes before a streamed body: the same fields, without a body.
pub fn prelude(json: &[u8]) -> Result<Head, Malformed> {
    let raw: Raw<'_> =
        serde_json::from_slice(json).map_err(|error| Malformed(format!("the stream's prelude: {error}")))?;
    let raw = Raw { status_code: raw.status_code.or(Some(200.into())), ..raw };
    head(EventFormat::V2, &raw)
}

fn has_status(payload: &[u8]) -> bool {
    let value: Result<Map<String, Value>, _> = serde_json::from_slice(payload);
    value.is_ok_and(|map| map.contains_key("statusCode"))
}

/// 2.0: any JSON without a status is the body of a 200.
fn inferred(payload: &Bytes) -> Result<Answer, Malformed> {
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(payload) {
        return Err(Malformed(format!("the payload is not JSON: {error}")));
    }
    let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(Answer { head: Head { status: 200, reason: None, headers: vec![json] }, body: payload.clone() })
}

fn head(format: EventFormat, raw: &Raw<'_>) -> Result<Head, Malformed> {
    let status = match &raw.status_code {
        // Some serializers know no whole numbers.
        Some(Value::Number(number)) => {
            number.as_u64().or_else(|| number.as_f64().filter(|it| it.fract() == 0.0).map(|it| it as u64))
        }
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    let status = status.filter(|status| (200..=599).contains(status)).ok_or_else(|| {
        let given = raw.status_code.as_ref().map_or_else(|| "nothing".into(), Value::to_string);
        Malformed(format!("`statusCode` is {given}; expected 200 to 599"))
    })? as u16;
    let given = raw.headers.as_ref().map_or(0, Map::len) + raw.cookies.as_ref().map_or(0, Vec::len);
    let listed = raw.multi_value_headers.iter().flat_map(Map::values);
    let listed: usize = listed.map(|it| it.as_array().map_or(1, Vec::len)).sum();
    if given + listed > HEADERS_MAX {
        return Err(Malformed(format!("more than {HEADERS_MAX} headers")));
    }
    let mut headers = Vec::new();
    let empty = Map::new();
    let single = raw.headers.as_ref().unwrap_or(&empty);
    let lists = raw.multi_value_headers.as_ref().unwrap_or(&empty);
    let (use_single, use_lists) = match format {
        EventFormat::V2 => (true, false),
        EventFormat::V1 => (true, true),
        EventFormat::Alb { multi_value } => (!multi_value, multi_value),
    };
    if use_lists {
        for (name, values) in lists {
            let values = values
                .as_array()
                .ok_or_else(|| Malformed(format!("`multiValueHeaders.{name}` is no list")))?;
            for value in values {
                headers.extend(pair(name, value)?);
            }
        }
    }
    if use_single {
        for pair in single.iter().map(|(name, value)| pair(name, value)) {
            headers.extend(pair?.filter(|pair| !headers.contains(pair)));
        }
    }
    for cookie in raw.cookies.iter().flatten().filter(|_| format == EventFormat::V2) {
        headers.extend(pair("set-cookie", &Value::String(cookie.clone()))?);
    }
    if !headers.iter().any(|(name, _)| *name == header::CONTENT_TYPE) && status != 204 && status != 304 {
        let default = match format {
            EventFormat::V2 | EventFormat::V1 => "application/json",
            EventFormat::Alb { .. } => "application/octet-stream",
        };
        headers.push((header::CONTENT_TYPE, HeaderValue::from_static(default)));
    }
    Ok(Head { status, reason: reason(raw.status_description.as_deref(), status), headers })
}

/// `200 OK`, or the words alone; without what would end the line.
fn reason(text: Option<&str>, status: u16) -> Option<String> {
    let text = text?.trim();
    let words = text.strip_prefix(&status.to_string()).unwrap_or(text).trim();
    let fine =
        !words.is_empty() && words.len() <= 100 && words.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    fine.then(|| words.to_owned())
}

/// One header, or `None` for one that is not passed on.
fn pair(name: &str, value: &Value) -> Result<Option<(HeaderName, HeaderValue)>, Malformed> {
    let parsed = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| Malformed(format!("`{}` is not the name of a header", name.escape_debug())))?;
    if NOT_OURS_TO_PASS.contains(&parsed.as_str()) {
        return Ok(None);
    }
    let text = match value {
        Value::String(text) => Cow::Borrowed(text.as_str()),
        Value::Number(_) | Value::Bool(_) => Cow::Owned(value.to_string()),
        Value::Null => return Ok(None),
        Value::Array(_) | Value::Object(_) => {
            return Err(Malformed(format!("header `{name}` is neither text nor a number")));
        }
    };
    let value = HeaderValue::from_bytes(text.as_bytes())
        .map_err(|_| Malformed(format!("header `{name}` holds a byte that no header may hold")))?;
    Ok(Some((parsed, value)))
}
