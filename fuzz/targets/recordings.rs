//! Recordings of others: HAR, GoReplay, access logs, curl commands.
#![no_main]

use banyan::testrun::input::{curl, gor, har, log};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut skip = |_| {};
    let _ = gor::read(bytes, &mut skip);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = har::read(text, &mut skip);
        log::read(text, &mut skip);
        let _ = curl::read(text);
    }
});
