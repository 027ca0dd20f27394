//! A stable number from a cohort and a key.
//!
//! Input: the cohort's name and the user's key. Output: 0 to 999,999. Must not: depend on anything else, so that no edit of
//! rules, restart or replica ever reshuffles users. The definition is part of the interface: XXH3-64 of the key with
//! XXH3-64 of the cohort's name as its seed, modulo one million.

use crate::ids::PPM;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The seed of a cohort; computed once when rules compile.
pub fn cohort_seed(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}

/// Of a key that is no user's: which place it has in a table of limits.
pub fn key_hash(seed: u64, key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, seed)
}

/// The bucket of `key` in the cohort with this seed.
pub fn bucket(seed: u64, key: &[u8]) -> u32 {
    (xxh3_64_with_seed(key, seed) % u64::from(PPM)) as u32
}
