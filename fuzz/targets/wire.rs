//! The strict reader of HTTP/1: the same verdict however the bytes are cut.
#![no_main]

use banyan::wire::strict::{Fault, Strict};
use libfuzzer_sys::fuzz_target;

fn verdict(bytes: &[u8], size: usize, preface: bool) -> Option<(Fault, u32)> {
    let mut strict = Strict::new(preface);
    bytes.chunks(size.max(1)).find_map(|piece| {
        let found = strict.feed(piece).err()?;
        assert!(found.good <= piece.len());
        Some((found.fault, found.message))
    })
}

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (size, preface, bytes) = input;
    assert_eq!(verdict(bytes, usize::from(size), preface), verdict(bytes, bytes.len(), preface));
});
