//! The strict reader of HTTP/1: a fault is found in the same message however the bytes are cut. Which of two faults is named may depend on what
//! has come when the first is seen.
#![no_main]

use banyan::wire::strict::Strict;
use libfuzzer_sys::fuzz_target;

fn verdict(bytes: &[u8], size: usize, preface: bool) -> Option<(u32, bool)> {
    let mut strict = Strict::new(preface);
    bytes.chunks(size.max(1)).find_map(|piece| {
        let found = strict.feed(piece).err()?;
        assert!(found.good <= piece.len());
        Some((found.message, found.in_head))
    })
}

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (size, preface, bytes) = input;
    assert_eq!(verdict(bytes, usize::from(size), preface), verdict(bytes, bytes.len(), preface));
});
