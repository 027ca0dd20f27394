//! HTTP Archive 1.2. http://www.softwareishard.com/blog/har-12-spec/
//!
//! Input: the archive's text. Output: its HTTP requests with the answers it holds. Must not: take an answer for one that the browser
//! made up itself: status 0, a cache, a service worker.

use crate::testrun::record::{Recorded, Stored};
use banyan_routes::compare::charset;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

#[derive(Deserialize)]
struct Archive {
    log: Log,
}

#[derive(Deserialize)]
struct Log {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    started_date_time: String,
    #[serde(default)]
    time: f64,
    request: Request,
    response: Response,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    method: String,
    url: String,
    #[serde(default)]
    headers: Vec<Pair>,
    post_data: Option<PostData>,
}

#[derive(Deserialize)]
struct Pair {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct PostData {
    text: Option<String>,
    #[serde(default)]
    encoding: Option<String>,
    #[serde(default)]
    params: Vec<Pair>,
}

#[derive(Deserialize)]
struct Response {
    status: i64,
    #[serde(default)]
    headers: Vec<Pair>,
    #[serde(default)]
    content: Content,
}

#[derive(Default, Deserialize)]
struct Content {
    text: Option<String>,
    encoding: Option<String>,
    #[serde(default)]
    size: i64,
}

pub fn read(text: &str, skip: &mut impl FnMut(&'static str)) -> Result<Vec<Recorded>, String> {
    let archive: Archive = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut requests = Vec::new();
    for (number, entry) in archive.log.entries.into_iter().enumerate() {
        if !entry.request.url.starts_with("http://") && !entry.request.url.starts_with("https://") {
            skip("not HTTP");
            continue;
        }
        requests.push(recorded(entry).map_err(|error| format!("entry {}: {error}", number + 1))?);
    }
    Ok(requests)
}

fn recorded(entry: Entry) -> Result<Recorded, String> {
    let mut recorded = Recorded::new(&entry.request.method, &entry.request.url)?;
    for pair in entry.request.headers.iter().filter(|pair| !pair.name.starts_with(':')) {
        recorded.header(&pair.name, &pair.value);
    }
    let started: Option<jiff::Timestamp> = entry.started_date_time.parse().ok();
    recorded.at_ms = started.map(|at| at.as_millisecond().max(0) as u64);
    recorded.session = recorded.headers.get("cookie").and_then(|it| it.to_str().ok()).map(str::to_owned);
    if let Some(data) = entry.request.post_data {
        let form = || {
            let coded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let pairs =
                data.params.iter().map(|pair| format!("{}={}", coded(&pair.name), coded(&pair.value)));
            pairs.collect::<Vec<_>>().join("&")
        };
        let text = data.text.clone().unwrap_or_else(form);
        recorded.body = decoded(text, data.encoding.as_deref())?;
    }
    let response = entry.response;
    // A body that was not recorded is not an empty one.
    let unknown = response.content.text.is_none() && response.content.size > 0;
    if (200..600).contains(&response.status) && !unknown {
        let mut headers = HeaderMap::new();
        for pair in &response.headers {
            let known = HeaderName::from_bytes(pair.name.as_bytes())
                .ok()
                .zip(HeaderValue::from_bytes(pair.value.as_bytes()).ok());
            // The content is what came after decoding.
            if let Some((name, value)) =
                known.filter(|(name, _)| !matches!(name.as_str(), "content-encoding" | "content-length"))
            {
                headers.append(name, value);
            }
        }
        let text = response.content.text.unwrap_or_default();
        let kind = headers.get("content-type").and_then(|it| it.to_str().ok()).unwrap_or_default();
        // A browser writes text down in Unicode, whatever it came in.
        let body = match (response.content.encoding.as_deref(), charset::encode(kind, &text)) {
            (None, Some(bytes)) => Bytes::from(bytes),
            (encoding, _) => decoded(text, encoding)?,
        };
        let seconds = (entry.time > 0.0).then_some(entry.time / 1e3);
        recorded.legacy =
            Some(Stored { status: response.status as u16, headers, body, truncated: false, seconds });
    }
    Ok(recorded)
}

fn decoded(text: String, encoding: Option<&str>) -> Result<Bytes, String> {
    match encoding {
        Some("base64") => {
            STANDARD.decode(text.trim()).map(Bytes::from).map_err(|error| format!("base64: {error}"))
        }
        _ => Ok(Bytes::from(text)),
    }
}
