//! What two answers say of each other, content codings undone.
//!
//! Input: status, headers and body of both sides. Output: a verdict. Must not: know where they came from.

use crate::decode::decoded;
use banyan_routes::compare::rules::Rules;
use banyan_routes::compare::{Answer, Difference, Kind, Unknown, Value, Verdict, compare};
use bytes::Bytes;
use http::HeaderMap;

/// One side's answer as it came.
#[derive(Clone, Copy)]
pub struct Raw<'a> {
    pub status: u16,
    pub headers: &'a HeaderMap,
    pub body: &'a Bytes,
    pub truncated: bool,
}

/// `None`: that side gave no answer.
pub fn judge(legacy: Option<Raw<'_>>, serverless: Option<Raw<'_>>, rules: &Rules) -> Verdict {
    let (legacy, serverless) = match (legacy, serverless) {
        (Some(legacy), Some(serverless)) => (legacy, serverless),
        // A serverless side that gives no answer is a difference, not a lost sample; a legacy side that gives none says nothing.
        (Some(legacy), None) => {
            return Verdict::Mismatch(vec![Difference {
                path: "status".into(),
                kind: Kind::Status,
                legacy: Value::named(&legacy.status.to_string()),
                serverless: Value::named("none"),
            }]);
        }
        (None, _) => return Verdict::Inconclusive(Unknown::NoAnswer),
    };
    let read = |it: Raw<'_>| if it.truncated { Some(it.body.clone()) } else { decoded(it.headers, it.body) };
    let Some((one, other)) = read(legacy).zip(read(serverless)) else {
        return Verdict::Inconclusive(Unknown::Undecodable);
    };
    compare(
        &Answer { status: legacy.status, headers: legacy.headers, body: &one, truncated: legacy.truncated },
        &Answer {
            status: serverless.status,
            headers: serverless.headers,
            body: &other,
            truncated: serverless.truncated,
        },
        rules,
    )
}
