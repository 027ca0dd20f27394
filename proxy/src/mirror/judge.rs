//! What two answers say of each other, content codings undone.
//!
//! Input: status, headers and body of both sides. Output: a verdict. Must not: know where they came from.

use crate::decode::{Undecoded, decoded};
use banyan_routes::compare::rules::Rules;
use banyan_routes::compare::{Answer, Difference, Kind, Unknown, Value, Verdict, compare, statuses};
use bytes::Bytes;
use http::{HeaderMap, header};

/// One side's answer as it came.
#[derive(Clone, Copy)]
pub struct Raw<'a> {
    pub status: u16,
    pub headers: &'a HeaderMap,
    pub body: &'a Bytes,
    pub truncated: bool,
}

/// `None`: that side gave no answer. `host` is the one that the client had asked; empty where that is not known.
pub fn judge(legacy: Option<Raw<'_>>, serverless: Option<Raw<'_>>, rules: &Rules, host: &str) -> Verdict {
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
    // Cut before its status was said: nothing is known of it.
    if [legacy, serverless].iter().any(|it| it.truncated && it.status == 0) {
        return Verdict::Inconclusive(Unknown::Truncated);
    }
    // What a status says it says without a body, and more so with one that cannot be read.
    if let Some(verdict) = statuses(legacy.status, serverless.status, rules) {
        return verdict;
    }
    let coding = |it: Raw<'_>| it.headers.get(header::CONTENT_ENCODING).cloned();
    let same = legacy.body == serverless.body && coding(legacy) == coding(serverless);
    // The same bytes in the same coding are the same, whatever they would be.
    let as_sent = |it: Raw<'_>| same.then(|| it.body.clone());
    let read = |it: Raw<'_>| match it.truncated {
        true => Ok(it.body.clone()),
        false => decoded(it.headers, it.body).or_else(|why| as_sent(it).ok_or(why)),
    };
    let (one, other) = match (read(legacy), read(serverless)) {
        (Ok(one), Ok(other)) => (one, other),
        // Clients can read the one, and not the other; of a part nobody can.
        (Ok(_), Err(Undecoded::Broken)) | (Err(Undecoded::Broken), Ok(_)) if legacy.status != 206 => {
            let said = |it: Raw<'_>| match decoded(it.headers, it.body) {
                Ok(body) => Value::shaped(&format!("bytes({})", body.len())),
                Err(_) => Value::shaped("broken coding"),
            };
            let (legacy, serverless) = (said(legacy), said(serverless));
            return Verdict::Mismatch(vec![Difference {
                path: "body".into(),
                kind: Kind::Bytes,
                legacy,
                serverless,
            }]);
        }
        _ => return Verdict::Inconclusive(Unknown::Undecodable),
    };
    compare(
        &Answer {
            status: legacy.status,
            headers: legacy.headers,
            body: &one,
            truncated: legacy.truncated,
            host,
        },
        &Answer {
            status: serverless.status,
            headers: serverless.headers,
            body: &other,
            truncated: serverless.truncated,
            host,
        },
        rules,
    )
}
