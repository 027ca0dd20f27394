//! What authorizers answer: nothing is allowed that is not clearly allowed.
#![no_main]

use banyan::lambda::authorize::{Answer, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (answer, path) = input;
    let Ok(Answer::Verdict(verdict)) = read(answer.as_bytes()) else { return };
    if verdict.allows(|| format!("arn:aws:execute-api:r:a:api/prod/GET/{path}")) {
        assert!(answer.contains("true") || answer.contains("Allow") || answer.contains('\\'), "{answer}");
    }
});
