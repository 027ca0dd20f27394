//! Comparing answers: whatever they hold, an answer is never told to differ from itself.
#![no_main]

use banyan_routes::compare::rules::Rules;
use banyan_routes::compare::{Answer, Verdict, compare};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

const TYPES: [&str; 8] = [
    "application/json",
    "text/xml",
    "text/html; charset=utf-8",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b",
    "text/plain; charset=iso-8859-1",
    "application/soap+xml",
    "application/octet-stream",
];

fuzz_target!(|input: (u8, &[u8], &[u8])| {
    let (kind, legacy, serverless) = input;
    let media_type = TYPES[usize::from(kind) % TYPES.len()];
    let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static(media_type))]);
    let answer =
        |body| Answer { status: 200, headers: &headers, body, truncated: false, host: "shop.example" };
    let mut rules = Rules::default();
    for (path, rule) in [("$.id", "uuid"), ("$.items", "unordered"), ("$.*.at", "epoch_s(5)")] {
        let _ = rules.typed(path, rule);
    }
    compare(&answer(legacy), &answer(serverless), &rules);
    let itself = compare(&answer(legacy), &answer(legacy), &Rules::default());
    assert!(!matches!(itself, Verdict::Mismatch(_)), "{itself:?}");
});
