//! The web console: files that were built from `proxy/console` and are part of the binary.
//!
//! Input: a path. Output: a page, its script, its styles, with headers that let nothing else be run, framed or asked. Must not: need a network, or
//! hold anything that is secret: whoever opens it still has to have a token.

use crate::admin::Answer;
use http::{HeaderValue, Response, StatusCode, header};

const PAGE: &str = include_str!("../../console/dist/index.html");
const SCRIPT: &str = include_str!("../../console/dist/console.js");
const STYLES: &str = include_str!("../../console/dist/console.css");
const ICON: &str = include_str!("../../console/dist/icon.svg");

/// Nothing from elsewhere, nothing inline, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// `None`: no such file.
pub fn file(path: &str) -> Option<Answer> {
    let (content_type, body) = match path {
        "/" | "/console" => return Some(moved()),
        "/console/" => ("text/html; charset=utf-8", PAGE),
        "/console/console.js" => ("text/javascript; charset=utf-8", SCRIPT),
        "/console/console.css" => ("text/css; charset=utf-8", STYLES),
        "/console/icon.svg" => ("image/svg+xml", ICON),
        _ => return None,
    };
    let mut answer = Response::new(body.as_bytes().to_vec());
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // Of this binary: the next one may have another.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let same_origin = HeaderValue::from_static("same-origin");
    headers.insert("cross-origin-opener-policy", same_origin.clone());
    headers.insert("cross-origin-resource-policy", same_origin);
    Some(answer)
}

fn moved() -> Answer {
    let mut answer = Response::new(Vec::new());
    *answer.status_mut() = StatusCode::SEE_OTHER;
    answer.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/console/"));
    answer
}
