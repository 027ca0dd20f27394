//! What was found out lately about a secret that clients send again and again.
//!
//! Input: a key of any bytes, and what it stands for. Output: the same for the same bytes. Must not: lock, or grow: two keys that share a
//! place drive each other out, and nobody outside can choose which.

use arc_swap::ArcSwapOption;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64_with_seed;

struct Entry<V> {
    key: Box<[u8]>,
    value: V,
}

pub struct Recent<V> {
    places: Box<[ArcSwapOption<Entry<V>>]>,
    seed: u64,
}

impl<V: Clone> Recent<V> {
    pub fn new(places: usize) -> Recent<V> {
        let places = (0..places.max(1)).map(|_| ArcSwapOption::empty()).collect();
        Recent { places, seed: rand::random() }
    }

    fn place(&self, key: &[u8]) -> &ArcSwapOption<Entry<V>> {
        &self.places[xxh3_64_with_seed(key, self.seed) as usize % self.places.len()]
    }

    pub fn get(&self, key: &[u8]) -> Option<V> {
        let entry = self.place(key).load();
        entry.as_ref().filter(|entry| *entry.key == *key).map(|entry| entry.value.clone())
    }

    pub fn put(&self, key: &[u8], value: V) {
        self.place(key).store(Some(Arc::new(Entry { key: key.into(), value })));
    }

    pub fn forget_all(&self) {
        self.places.iter().for_each(|place| place.store(None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_own_value_or_none() {
        let recent = Recent::new(8);
        for n in 0..100_u8 {
            recent.put(&[n], n);
            assert_eq!(recent.get(&[n]), Some(n));
        }
        let left =
            (0..100_u8).filter(|n| recent.get(&[*n]).inspect(|it| assert_eq!(it, n)).is_some()).count();
        assert!((1..=8).contains(&left), "{left}");
        recent.forget_all();
        assert!((0..100_u8).all(|n| recent.get(&[n]).is_none()));
    }
}
